//! `zyven dead-letters`: what could not be delivered, and sending it again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::sleep;
use zyven_domain::id::{DeliveryId, EndpointId};
use zyven_domain::lifecycle::DeliveryState;

use crate::api::{Answer, Api};
use crate::deliveries::{COLUMNS, Filter, Part, ROWS_MAX, print};
use crate::failure::Failure;
use crate::follow::interruption;
use crate::numbers::within;
use crate::output::{Column, FAINT, Output, paint, shown};
use crate::time::ago;

const DEAD: [DeliveryState; 1] = [DeliveryState::DeadLettered];
/// Between two questions how far a replay has come: less often the longer it takes.
const REST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(10);
/// Dead letters that may be named one by one: the API's own limit.
const CHOSEN_MAX: usize = 1_000;
/// Deliveries a second that a replay may be asked for: the API's own limit.
const RATE_MAX: u16 = 10_000;
/// What narrows a replay, and means nothing where each one is named.
const NARROWING: [&str; 6] = [
    "endpoint",
    "event_type",
    "dead_reason",
    "since",
    "until",
    "max",
];
/// How often the server may be away while its answer is waited for, one after the other.
const TRANSIENT_FAILURES_MAX: u32 = 20;

const COUNTS: [Column; 3] = [
    ("DEAD LETTERS", "deliveries"),
    ("OLDEST", "oldest_at"),
    ("NEWEST", "newest_at"),
];
const PROGRESS: [&str; 9] = [
    "id",
    "reason",
    "decided_by",
    "decided_at",
    "deliveries",
    "delivered",
    "waiting",
    "dead_lettered",
    "last_due_at",
];

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List dead letters, the newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those given up for this reason, such as attempts_exhausted
        #[arg(long, value_name = "REASON")]
        dead_reason: Option<String>,
        #[command(flatten)]
        part: Part,
    },
    /// Send dead letters back to the start, the oldest first; without --yes only say how many
    Replay(Replay),
    /// Show how far a replay has come
    Progress {
        /// Its number
        #[arg(value_parser = number)]
        replay: i64,
        /// Wait until it is through
        #[arg(long)]
        wait: bool,
    },
}

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// These, each by its id, whatever they were given up for; by default all that fit the options
    #[arg(value_name = "DLV", num_args = ..=CHOSEN_MAX, conflicts_with_all = NARROWING)]
    deliveries: Vec<DeliveryId>,
    /// Only those for this endpoint
    #[arg(long, value_name = "EP")]
    endpoint: Option<EndpointId>,
    /// Only those of events of exactly this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only those given up for this reason; cancelled and expired ones only if they are named here
    #[arg(long, value_name = "REASON")]
    dead_reason: Option<String>,
    /// Only those given up since this time, or this long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = ago)]
    since: Option<DateTime<Utc>>,
    /// Only those given up before this time, or this long ago
    #[arg(long, value_name = "TIME", value_parser = ago)]
    until: Option<DateTime<Utc>>,
    /// Why, for the audit
    #[arg(long)]
    reason: String,
    /// Do it; without this it is a dry run
    #[arg(long)]
    yes: bool,
    /// At most so many
    #[arg(long, default_value_t = ROWS_MAX, value_name = "DELIVERIES", value_parser = within(1..=ROWS_MAX))]
    max: u64,
    /// So many a second
    #[arg(long, default_value_t = 50, value_name = "DELIVERIES", value_parser = within(1..=RATE_MAX))]
    rate: u16,
    /// Do not wait until they are through
    #[arg(long)]
    detach: bool,
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List {
            filter,
            dead_reason,
            part,
        } => {
            let mut query = filter.query(&DEAD);
            // Which reasons there are, the server says: a newer one may know more.
            query.extend(dead_reason.map(|reason| ("dead_reason", reason)));
            let page = part.of(api, &["v1", "deliveries"], &query).await?;
            print(&page, &COLUMNS, "there is no dead letter like this", output)
        }
        Action::Replay(args) => replay(&args, api, output).await,
        Action::Progress { replay, wait } => {
            if !wait {
                return show(&ask(replay, api).await?, output);
            }
            let told = follow(replay, api).await?;
            show(&told, output)?;
            judge(&told.value(), None)
        }
    }
}

async fn replay(args: &Replay, api: &Api, output: &Output) -> Result<(), Failure> {
    let mut wanted =
        json!({ "reason": args.reason, "dry_run": !args.yes, "rate_per_s": args.rate });
    if args.deliveries.is_empty() {
        wanted["deliveries_max"] = args.max.into();
    } else {
        wanted["deliveries"] = json!(args.deliveries);
    }
    let mut narrow = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            wanted[name] = Value::String(value);
        }
    };
    narrow("endpoint", args.endpoint.map(|id| id.to_string()));
    narrow("event_type", args.event_type.clone());
    narrow("dead_reason", args.dead_reason.clone());
    narrow("since", args.since.map(|time| time.to_rfc3339()));
    narrow("until", args.until.map(|time| time.to_rfc3339()));
    // Not repeated by itself: after an unknown outcome, what is left would go back at a rate of its own.
    let answer = api.post(&["v1", "replays"], &wanted).await?;
    let begun = answer.value();
    let Some(id) = begun["id"].as_i64() else {
        answer.print(output, |begun| {
            found(begun, output)?;
            note_refused(begun, output);
            Ok(())
        })?;
        let refused = begun["refused"].as_array().map_or(0, Vec::len);
        return match args.yes && refused > 0 {
            true => Err(Failure::Failed("none of them can be replayed".to_owned())),
            false => Ok(()),
        };
    };
    if !output.is_json() {
        note_refused(&begun, output);
    }
    if args.detach {
        return answer.print(output, |begun| {
            let count = &begun["deliveries"];
            output.line(format!("replay {id}: {count} go back to the start"))
        });
    }
    if !output.is_json() {
        output.note(&paint(FAINT, format!("replay {id}")));
    }
    let told = follow(id, api).await?;
    let outcome = judge(&told.value(), args.endpoint);
    // In JSON nothing else says which were left out.
    let told = match begun["refused"].as_array() {
        Some(refused) if !refused.is_empty() && output.is_json() => {
            told.with("refused", json!(refused))
        }
        _ => told,
    };
    show(&told, output)?;
    outcome
}

/// A replay that is through has failed if something was given up again.
fn judge(told: &Value, endpoint: Option<EndpointId>) -> Result<(), Failure> {
    let count = |name: &str| told[name].as_u64().unwrap_or(0);
    let again = count("dead_lettered");
    if again == 0 {
        return Ok(());
    }
    let narrowed = endpoint.map(|id| format!(" --endpoint {id}"));
    let narrowed = narrowed.unwrap_or_default();
    let what = format!("{again} of {} were given up again", count("deliveries"));
    Err(Failure::Failed(what).advised(format!(
        "`zyven dead-letters list{narrowed}` shows why, `zyven deliveries attempts dlv_…` what the endpoint answered"
    )))
}

/// What a dry run has found, or why nothing is sent.
fn found(begun: &Value, output: &Output) -> Result<(), Failure> {
    const NONE: &str = "there is no dead letter like this";
    let count = begun["deliveries"].as_u64().unwrap_or(0);
    let rows: Vec<Value> = (count > 0).then(|| begun.clone()).into_iter().collect();
    output.table(&rows, &COUNTS, NONE)?;
    if count > 0 {
        let text =
            format!("a dry run: nothing was sent. next: the same with --yes replays {count}");
        output.note(&paint(FAINT, text));
    }
    Ok(())
}

/// Says of each one that was named and is left out why.
fn note_refused(begun: &Value, output: &Output) {
    for one in begun["refused"].as_array().into_iter().flatten() {
        let text = |name: &str| shown(one[name].as_str().unwrap_or_default());
        let text = format!("left out: {}: {}", text("delivery"), text("reason"));
        output.note(&paint(FAINT, text));
    }
}

/// A replay's number.
fn number(text: &str) -> Result<i64, &'static str> {
    text.parse()
        .map_err(|_| "must be a replay's number, as zyven dead-letters replay tells it")
}

async fn ask(replay: i64, api: &Api) -> Result<Answer, Failure> {
    api.get(&["v1", "replays", &replay.to_string()]).await
}

fn show(told: &Answer, output: &Output) -> Result<(), Failure> {
    told.print(output, |told| output.members(told, &PROGRESS))
}

/// Asks until nothing waits any more, with a bar on a terminal. The replay needs nobody who looks at it.
async fn follow(replay: i64, api: &Api) -> Result<Answer, Failure> {
    let shutdown = interruption()?;
    let bar = ProgressBar::no_length();
    let next_step = format!("the replay goes on; `zyven dead-letters progress {replay} --wait`");
    let (mut failures, mut rest) = (0, REST);
    loop {
        match ask(replay, api).await {
            Ok(answer) => {
                failures = 0;
                let told = answer.value();
                let count = |name: &str| told[name].as_u64().unwrap_or(0);
                let done = count("deliveries").saturating_sub(count("waiting"));
                let style = ProgressStyle::with_template(bar_template(done));
                bar.set_style(style.expect("a template of this file"));
                bar.set_length(count("deliveries"));
                bar.set_position(done);
                if count("waiting") == 0 {
                    bar.finish_and_clear();
                    return Ok(answer);
                }
            }
            Err(failure) if failure.is_transient() && failures < TRANSIENT_FAILURES_MAX => {
                failures += 1;
            }
            Err(failure) => {
                bar.abandon();
                // A number that nobody knows again refuses by itself.
                return Err(if failure.is_transient() {
                    failure.advised(next_step)
                } else {
                    failure
                });
            }
        }
        // Either may be dropped at any time: neither has done anything.
        tokio::select! {
            () = sleep(rest) => rest = rest.mul_f64(1.5).min(REST_MAX),
            () = shutdown.requested() => {
                bar.abandon();
                return Err(Failure::Failed("interrupted".to_owned()).advised(next_step));
            }
        }
    }
}

/// What the bar shows: no rate before there is one.
fn bar_template(done: u64) -> &'static str {
    if done == 0 {
        "{wide_bar} {pos}/{len}"
    } else {
        "{wide_bar} {pos}/{len} ({per_sec}, {eta} to go)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_a_rate_once_there_is_one_and_both_templates_are_right() {
        for (done, has_rate) in [(0, false), (1, true)] {
            let template = bar_template(done);
            assert_eq!(template.contains("{per_sec}"), has_rate, "{done} done");
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
