//! `zyven dead-letters`: what could not be delivered, and sending it again.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use zyven_domain::lifecycle::DeliveryState;
use zyven_runtime::shutdown::{self, Shutdown};

use crate::api::{Api, PAGE_ITEMS_MAX, Page, parsed};
use crate::deliveries::{COLUMNS, Filter, ROWS_MAX, print};
use crate::failure::Failure;
use crate::output::{Column, FAINT, Output, paint};

/// How often one dead letter is tried while the server has too much to do.
const TRIES_MAX: u32 = 5;
/// How long to wait when the server does not say.
const REST_S: u64 = 1;
/// Whatever a server asks for; who wants to wait longer calls again.
const REST_S_MAX: u64 = 30;
const DEAD: [DeliveryState; 1] = [DeliveryState::DeadLettered];

const COUNTS: [Column; 5] = [
    ("DEAD LETTERS", "count"),
    ("REASON", "reason"),
    ("ENDPOINT", "endpoint"),
    ("OLDEST", "oldest_at"),
    ("NEWEST", "newest_at"),
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
    /// Send dead letters back to the start; without --yes only say which
    Replay(Replay),
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
    #[command(flatten)]
    which: Which,
    /// Why, for the audit
    #[arg(long)]
    reason: String,
    /// Do it; without this it is a dry run
    #[arg(long)]
    yes: bool,
    /// At most so many, the newest first
    #[arg(long, default_value_t = 1_000, value_name = "DELIVERIES", value_parser = clap::value_parser!(u64).range(1..=ROWS_MAX))]
    max: u64,
    /// So many a second
    #[arg(long, default_value_t = 50, value_name = "DELIVERIES", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rate: u16,
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
    }
}

/// What a program is told.
#[derive(Serialize)]
struct Report {
    dry_run: bool,
    /// How many were found.
    deliveries: usize,
    replayed: usize,
    skipped: Vec<Skipped>,
    /// Those found, of a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
}

/// Somebody was faster, or it cannot be replayed.
#[derive(Serialize)]
struct Skipped {
    delivery: String,
    code: String,
}

async fn replay(args: &Replay, api: &Api, output: &Output) -> Result<(), Failure> {
    let found = args.which.find(api, args.max).await?.rows();
    let ids = found.iter().filter_map(|row| row["id"].as_str());
    let ids: Vec<String> = ids.map(str::to_owned).collect();
    if !args.yes {
        return dry_run(&found, ids, output);
    }
    let mut report = Report {
        dry_run: false,
        deliveries: ids.len(),
        replayed: 0,
        skipped: Vec::new(),
        ids: Vec::new(),
    };
    let outcome = replay_all(&ids, args, api, &mut report).await;
    if output.is_json() {
        output.document(&report)?;
    } else {
        let (skipped, of) = (report.skipped.len(), report.deliveries);
        output.line(format!("replayed {} of {of}", report.replayed))?;
        if skipped > 0 {
            let text = format!("{skipped} could not be replayed any more: somebody was faster");
            output.note(&paint(FAINT, text));
        }
    }
    outcome
}

fn dry_run(found: &[Value], ids: Vec<String>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(&Report {
            dry_run: true,
            deliveries: ids.len(),
            replayed: 0,
            skipped: Vec::new(),
            ids,
        });
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for row in found {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let group = groups.entry((text("endpoint"), text("reason")));
        group.or_default().push(text("created_at"));
    }
    let rows = groups.iter().map(|((endpoint, reason), times)| {
        json!({
            "count": times.len(), "reason": reason, "endpoint": endpoint,
            "oldest_at": times.iter().min(), "newest_at": times.iter().max(),
        })
    });
    let rows: Vec<Value> = rows.collect();
    output.table(&rows, &COUNTS, "there is no dead letter like this")?;
    if !ids.is_empty() {
        let count = ids.len();
        let text =
            format!("a dry run: nothing was sent. next: the same with --yes replays {count}");
        output.note(&paint(FAINT, text));
    }
    Ok(())
}

/// One after the other, so that whatever ends this leaves the rest as it was; the same command goes on from there.
async fn replay_all(
    ids: &[String],
    args: &Replay,
    api: &Api,
    report: &mut Report,
) -> Result<(), Failure> {
    let (trigger, shutdown) = Shutdown::new();
    shutdown::stop_on_signals(trigger)
        .map_err(|error| Failure::Failed(format!("signals cannot be heard: {error}")))?;
    // On a terminal only; drawn on standard error.
    let bar = ProgressBar::new(u64::try_from(ids.len()).unwrap_or(u64::MAX)).with_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} ({per_sec}, {eta} to go)")
            .expect("a template of this file"),
    );
    let mut ticks = interval(Duration::from_secs(1) / u32::from(args.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in ids {
        ticks.tick().await;
        if shutdown.is_requested() {
            bar.abandon();
            return Err(Failure::Failed(
                "interrupted; the same command goes on with the rest".to_owned(),
            ));
        }
        match replay_one(id, &args.reason, api).await {
            Ok(()) => report.replayed += 1,
            Err(Failure::Refused(refusal))
                if refusal.is("not_replayable") || refusal.is("not_found") =>
            {
                let code = refusal.problem.map(|problem| problem.code);
                report.skipped.push(Skipped {
                    delivery: id.clone(),
                    code: code.unwrap_or_default(),
                });
            }
            Err(failure) => {
                bar.abandon();
                return Err(failure);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A repetition after an unknown outcome finds that it is no dead letter any more, which is harmless.
async fn replay_one(id: &str, reason: &str, api: &Api) -> Result<(), Failure> {
    let path = ["v1", "deliveries", id, "replay"];
    let mut tries = 1;
    loop {
        match api.post(&path, &json!({ "reason": reason })).await {
            Ok(_) => return Ok(()),
            Err(Failure::Refused(refusal))
                if refusal.status.is_server_error() && tries < TRIES_MAX =>
            {
                tries += 1;
                let rest_s = refusal.retry_after_s.unwrap_or(REST_S).min(REST_S_MAX);
                tokio::time::sleep(Duration::from_secs(rest_s)).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}
