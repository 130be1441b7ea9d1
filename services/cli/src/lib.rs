//! Commands for developers: publish an event, see what became of it, try a receiver.
//!
//! Each command is a client of the REST API and nothing more. What a command can do, a key with the same scopes can do with
//! `curl`; what it prints with `--json` is what the API answered.
//!
//! - [`access`] says where the API is and what opens it; `api` speaks to it.
//! - `output` is the only place that writes to standard output, `failure` the only one that writes to standard error (besides
//!   the progress bar): tables and colours for people, JSON for programs.
//! - `usage` says what is wrong with arguments, `numbers`, `time` and `version` read them.
//! - One module for each command; `follow` finds what is new in a list, for `events tail` and `listen`.
//!
//! # Architecture invariants
//!
//! No database, no queue, no settings of services: these commands run on a developer's machine. Members of answers that this
//! version does not know are shown, not refused. What comes from a server is never written to a terminal with its control
//! characters.

mod access;
mod api;
mod dead_letters;
mod deliveries;
mod endpoints;
mod events;
mod explain;
mod failure;
mod follow;
mod input;
mod keys;
mod listen;
pub mod numbers;
mod output;
mod time;
mod usage;
mod verify;
mod version;

use std::process::ExitCode;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use zyven_runtime::config::Source;

pub use access::{Access, ApiUrl, Key, find as find_api, read as read_settings};
use api::Api;
pub use failure::{Failure, Refusal, RefusalHead};
use output::Output;
pub use usage::misread;

/// What the program around these commands knows and they do not.
pub struct Program {
    /// The program's whole command line, for completions.
    pub command: fn() -> clap::Command,
    /// Where the API is if `--api-url` does not say.
    pub api_url: fn(&mut Source) -> Option<String>,
}

/// Shown at the end of each command's help.
const HELP: &str = "\
The API is found through --api-url or ZYVEN_API_URL, and opened with the key in ZYVEN_API_KEY.
Exit codes: 0 done, 1 refused (or not verified), 2 wrong arguments, 3 not reachable, 4 the server failed,
64 wrong configuration. More: docs/cli.md";

/// A client of the API, as the command line asked for it. A part of the program's own subcommands.
pub struct Command(Chosen);

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Chosen::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for Command {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        Chosen::augment_subcommands(command).mut_subcommands(|command| {
            if Chosen::has_subcommand(command.get_name()) {
                explained(command)
            } else {
                command
            }
        })
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Chosen::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Chosen::has_subcommand(name)
    }
}

/// The command and all below it with the same words at the end of their help.
fn explained(command: clap::Command) -> clap::Command {
    command.after_help(HELP).mut_subcommands(explained)
}

#[derive(Subcommand)]
enum Chosen {
    /// Publish events, look at them, follow them
    Events(Group<events::Action>),
    /// See what became of deliveries, replay and cancel them
    Deliveries(Group<deliveries::Action>),
    /// Manage endpoints and their secrets
    Endpoints(Group<endpoints::Action>),
    /// See what could not be delivered, and send it again
    DeadLetters(Group<dead_letters::Action>),
    /// Manage API keys
    Keys(Group<keys::Action>),
    /// Hand events to a server on this machine, signed as a dispatcher signs them
    ///
    /// It copies what the API lists and is no endpoint: deliveries are not changed, and nothing is tried again.
    Listen {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: Box<listen::Args>,
    },
    /// Check a Standard Webhooks signature
    ///
    /// The secret comes from ZYVEN_SECRET or a file, never from the command line, which everybody on this machine can read.
    Verify {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        args: verify::Args,
    },
    /// Print completions for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
}

// What every command takes.
#[derive(Args)]
struct Common {
    /// URL of the API; by default ZYVEN_API_URL, or where ingest listens
    #[arg(long, global = true, value_name = "URL")]
    api_url: Option<ApiUrl>,
    /// Answer in JSON: one document, or one on each line from what goes on
    #[arg(long, global = true)]
    json: bool,
}

// A command with subcommands.
#[derive(Args)]
struct Group<A: Subcommand> {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    action: A,
}

/// Does what the command line says, and says what went wrong.
pub fn main(Command(command): Command, program: &Program) -> ExitCode {
    let output = Output::new(command.is_json());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(command, program, &output)),
        Err(error) => Err(Failure::Failed(format!("cannot start: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output.is_json()),
    }
}

impl Chosen {
    fn is_json(&self) -> bool {
        match self {
            Self::Events(group) => group.common.json,
            Self::Deliveries(group) => group.common.json,
            Self::Endpoints(group) => group.common.json,
            Self::DeadLetters(group) => group.common.json,
            Self::Keys(group) => group.common.json,
            Self::Listen { common, .. } => common.json,
            Self::Verify { json, .. } => *json,
            Self::Completions { .. } => false,
        }
    }
}

async fn run(command: Chosen, program: &Program, output: &Output) -> Result<(), Failure> {
    let api = |common: Common| {
        let access = access::find(common.api_url, program)?;
        Api::new(&access.url, &access.key.ok_or(Failure::NoKey)?)
    };
    match command {
        Chosen::Events(group) => events::run(group.action, &api(group.common)?, output).await,
        Chosen::Deliveries(group) => {
            deliveries::run(group.action, &api(group.common)?, output).await
        }
        Chosen::Endpoints(group) => endpoints::run(group.action, &api(group.common)?, output).await,
        Chosen::DeadLetters(group) => {
            dead_letters::run(group.action, &api(group.common)?, output).await
        }
        Chosen::Keys(group) => keys::run(group.action, &api(group.common)?, output).await,
        Chosen::Listen { common, args } => listen::run(*args, &api(common)?, output).await,
        Chosen::Verify { args, json: _ } => verify::run(&args, output),
        Chosen::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut (program.command)(), "zyven", &mut script);
            output.line(String::from_utf8_lossy(&script).trim_end())
        }
    }
}
