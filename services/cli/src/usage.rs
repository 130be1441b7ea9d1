//! Arguments that are refused before a command begins, told as every other failure is.

use std::error::Error as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use zyven_domain::id::{DeliveryId, EndpointId, EventId, ParseIdError};

use crate::failure::{EXIT_USAGE, Failure};
use crate::output::{FAINT, Output, paint};

/// Says what is wrong with these arguments (the program's name first): as the parser of arguments says it, or as one document if
/// `--json` is among them.
pub fn misread(error: &clap::Error, arguments: &[String], program: clap::Command) -> ExitCode {
    let output = Output::new(arguments.iter().any(|argument| argument == "--json"));
    let better = of_another_kind(error, arguments);
    if output.is_json() {
        let next_step = better.unwrap_or_else(|| usage(program, arguments));
        let failure = Failure::Usage(sentence(error)).advised(next_step);
        return failure.report(true);
    }
    // Standard error may be gone; there is nobody else to tell.
    let _ = error.print();
    if let Some(next_step) = better {
        output.note(&format!("{} {next_step}", paint(FAINT, "next:")));
    }
    ExitCode::from(EXIT_USAGE)
}

/// What is wrong, without usage and hints.
fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .into_iter()
        .filter_map(|mark| text.find(mark))
        .min();
    text[..end.unwrap_or(text.len())].trim_end().to_owned()
}

/// How the command that was meant is written.
fn usage(mut program: clap::Command, arguments: &[String]) -> String {
    program.build();
    usage_of(&mut program, arguments.get(1..).unwrap_or_default())
}

fn usage_of(command: &mut clap::Command, names: &[String]) -> String {
    if let Some((name, rest)) = names.split_first()
        && let Some(below) = command.find_subcommand_mut(name)
    {
        return usage_of(below, rest);
    }
    let usage = command.render_usage().to_string();
    let usage: Vec<&str> = usage.split_whitespace().collect();
    let name = command.get_bin_name().unwrap_or("zyven");
    format!("{}; `{name} --help` says what each is", usage.join(" "))
}

/// The command that takes the id that was given to one for another kind of ids.
fn of_another_kind(error: &clap::Error, arguments: &[String]) -> Option<String> {
    error.source()?.downcast_ref::<ParseIdError>()?;
    let Some(ContextValue::String(id)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    let group = if id.parse::<EventId>().is_ok() {
        "events"
    } else if id.parse::<DeliveryId>().is_ok() {
        "deliveries"
    } else if id.parse::<EndpointId>().is_ok() {
        "endpoints"
    } else {
        return None;
    };
    // The one step that does no harm and that events and deliveries have in common.
    let wants_explanation = arguments.get(2).is_some_and(|action| action == "explain");
    let action = if wants_explanation && group != "endpoints" {
        "explain"
    } else {
        "get"
    };
    Some(format!("zyven {group} {action} {id}"))
}
