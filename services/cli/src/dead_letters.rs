//! `zyven dead-letters`: what could not be delivered, and sending it again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::sleep;
use zyven_domain::id::EndpointId;
use zyven_domain::lifecycle::DeliveryState;

use crate::api::{Answer, Api, PAGE_ITEMS_MAX, Page, parsed};
use crate::deliveries::{COLUMNS, Filter, ROWS_MAX, print};
use crate::failure::Failure;
use crate::follow::interruption;
use crate::output::{Column, FAINT, Output, paint};
use crate::time::ago;

const DEAD: [DeliveryState; 1] = [DeliveryState::DeadLettered];
/// Between two questions how far a replay has come: less often the longer it takes.
const REST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(10);
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
        which: Which,
        /// How many to show
        #[arg(long, default_value_t = 50, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
        limit: u64,
    },
    /// Send dead letters back to the start, the oldest first; without --yes only say how many
    Replay(Replay),
    /// Show how far a replay has come
    Progress {
        /// Its number
        replay: i64,
        /// Wait until it is through
        #[arg(long)]
        wait: bool,
    },
}

// Which dead letters.
#[derive(clap::Args)]
pub(crate) struct Which {
    #[command(flatten)]
    filter: Filter,
    /// Only those given up for this reason, such as attempts_exhausted
    #[arg(long, value_name = "REASON")]
    dead_reason: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Replay {
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
    #[arg(long, default_value_t = ROWS_MAX, value_name = "DELIVERIES", value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    max: u64,
    /// So many a second
    #[arg(long, default_value_t = 50, value_name = "DELIVERIES", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rate: u16,
    /// Do not wait until they are through
    #[arg(long)]
    detach: bool,
}

impl Which {
    /// At most `rows` of them. The reason is looked at here, because the API does not.
    async fn find(&self, api: &Api, rows: u64) -> Result<Page, Failure> {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let path = ["v1", "deliveries"];
        let query = self.filter.query(&DEAD);
        let Some(wanted) = &self.dead_reason else {
            return api.list(&path, &query, rows, None).await;
        };
        let mut found = Page::default();
        let mut cursor = None;
        loop {
            let page = api.list(&path, &query, PAGE_ITEMS_MAX, cursor).await?;
            let fitting = page.data.into_iter();
            let fitting = fitting.filter(|item| parsed(item)["reason"] == wanted.as_str());
            found.data.extend(fitting);
            cursor = page.next_cursor;
            if cursor.is_none() || found.data.len() >= rows {
                found.data.truncate(rows);
                return Ok(found);
            }
        }
    }
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List { which, limit } => {
            let mut page = which.find(api, limit).await?;
            // A cursor is of no use without an option that takes it; --limit shows more.
            page.next_cursor = None;
            print(&page, &COLUMNS, "there is no dead letter like this", output)
        }
        Action::Replay(args) => replay(&args, api, output).await,
        Action::Progress { replay, wait } => {
            let told = if wait {
                follow(replay, api).await?
            } else {
                ask(replay, api).await?
            };
            show(&told, output)
        }
    }
}

async fn replay(args: &Replay, api: &Api, output: &Output) -> Result<(), Failure> {
    let mut wanted = json!({
        "reason": args.reason, "dry_run": !args.yes, "deliveries_max": args.max, "rate_per_s": args.rate,
    });
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
        return answer.print(output, |begun| found(begun, output));
    };
    if args.detach {
        return answer.print(output, |begun| {
            let count = &begun["deliveries"];
            output.line(format!("replay {id}: {count} go back to the start"))
        });
    }
    output.note(&paint(FAINT, format!("replay {id}")));
    show(&follow(id, api).await?, output)
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

async fn ask(replay: i64, api: &Api) -> Result<Answer, Failure> {
    api.get(&["v1", "replays", &replay.to_string()]).await
}

fn show(told: &Answer, output: &Output) -> Result<(), Failure> {
    told.print(output, |told| output.members(told, &PROGRESS))
}

/// Asks until nothing waits any more, with a bar on a terminal. The replay needs nobody who looks at it.
async fn follow(replay: i64, api: &Api) -> Result<Answer, Failure> {
    let shutdown = interruption()?;
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} ({per_sec}, {eta} to go)")
            .expect("a template of this file"),
    );
    let (mut failures, mut rest) = (0, REST);
    loop {
        match ask(replay, api).await {
            Ok(answer) => {
                failures = 0;
                let told = answer.value();
                let count = |name: &str| told[name].as_u64().unwrap_or(0);
                bar.set_length(count("deliveries"));
                bar.set_position(count("deliveries").saturating_sub(count("waiting")));
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
                return Err(failure);
            }
        }
        // Either may be dropped at any time: neither has done anything.
        tokio::select! {
            () = sleep(rest) => rest = rest.mul_f64(1.5).min(REST_MAX),
            () = shutdown.requested() => {
                bar.abandon();
                return Err(Failure::Failed(format!(
                    "interrupted; the replay goes on. next: zyven dead-letters progress {replay}"
                )));
            }
        }
    }
}
