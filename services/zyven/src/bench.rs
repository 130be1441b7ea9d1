//! Measures a running stack from outside: publishes through the API, and is the receiver.
//!
//! A *plan* is one scenario with its numbers. It runs in *phases* (a warm-up, then what is measured),
//! each with payloads of its own; a phase ends when everything the API acknowledged has arrived, or
//! when patience is at its end. CPU time is counted from rest to rest, so that every event's whole
//! cost is in it: its storing, delivery, settlement, and whatever is done about it in the background.
//!
//! What is promised: latencies count from the moment a request *should* be sent, so a slow stack
//! cannot hide behind a generator that waits for it. Every body is compared byte for byte, every
//! `webhook-id` with the acknowledged one, and what is missing makes the command fail.
//!
//! Generator and receiver live on one thread of this process. That costs little (a stack on two cores
//! needs them itself) and needs no locks; what it does cost is measured as well.
//!
//! Deliberately absent: signature checks (other tests do that), a connection to PostgreSQL or Redis
//! while measuring, and any knowledge of what a good figure is.

mod api;
mod arguments;
mod error;
mod latency;
mod ledger;
mod machine;
mod outcome;
mod pace;
mod phase;
mod plan;
mod processes;
mod receiver;
mod report;
mod scenario;
mod template;

use std::io::Write as _;
use std::rc::Rc;

use chrono::Utc;
use url::Url;
use zyven_cli::{Failure, Key};
use zyven_runtime::shutdown::{self, Shutdown};
use zyven_runtime::supervisor::Chain;

use crate::{PROGRAM, admin};
use api::Api;
pub(crate) use arguments::Args;
use error::Error;
use machine::Machine;
use outcome::Outcome;
use processes::Stack;
use report::Report;
use scenario::Bench;

/// The tenant that measures when no key is given.
const TENANT: &str = "bench";
/// Longer than any run.
const KEY_LIFETIME: chrono::TimeDelta = chrono::TimeDelta::days(1);

/// Measures, and prints what came out.
///
/// # Errors
///
/// Nothing could be measured, or something that was acknowledged is missing or was altered.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let zyven_cli::Access { url, key } = zyven_cli::find_api(args.api_url.clone(), &PROGRAM)?;
    let key = match key {
        Some(key) => key,
        None => make_key().await.map_err(no_key)?,
    };
    // Generator and receiver share state without locks, so they need a thread of their own.
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, measure(&args, &url, &key))
    });
    Ok(measuring.await.map_err(Error::Sender)??)
}

/// Why there is no key, in the words of the clients.
fn no_key(failure: crate::Failure) -> Failure {
    let failure = match failure {
        crate::Failure::Config(mistakes) => Failure::Config(mistakes),
        other => Failure::Failed(format!("making an API key failed: {}", Chain(&other))),
    };
    failure.advised(
        "set ZYVEN_API_KEY to a key that may publish and manage, or ZYVEN_DATABASE_URL, so that a key can be made",
    )
}

/// A key of a tenant whose only endpoints are the bench's, for a day.
async fn make_key() -> Result<Key, crate::Failure> {
    let store = admin::open_store()?;
    let tenant = admin::own_tenant(&store, TENANT).await?;
    let ends = Utc::now() + KEY_LIFETIME;
    let key = admin::add_key(&store, tenant, "bench", Some(ends)).await?;
    Ok(Key::of(&key))
}

async fn measure(args: &Args, url: &Url, key: &Key) -> Result<(), Error> {
    let started_at = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let stack = Stack::find(&args.stack_dir, &args.pids);
    let machine = Machine::look(&stack);
    tell(args, &machine.sentence());
    if stack.members.is_empty() {
        tell(
            args,
            "no process of the stack is known (--stack-dir, --pid), so neither is its CPU time",
        );
    }
    let api = Rc::new(Api::new(url, key).await?);
    let bench = Bench::start(args, api, stack).await?;
    let (trigger, interrupted) = Shutdown::new();
    shutdown::stop_on_signals(trigger).map_err(Error::Runtime)?;
    let rounds = tokio::select! {
        rounds = run_all(args, &bench) => rounds,
        // Endpoints must not outlive an interrupted run, or the stack goes on trying them.
        () = interrupted.requested() => Err(Error::Interrupted),
    };
    let cleaned = bench.delete_endpoints().await;
    let rounds = rounds?;
    cleaned?;
    show(args, started_at, &machine, rounds)
}

/// Every round of every scenario, in order.
async fn run_all(args: &Args, bench: &Bench) -> Result<Vec<Outcome>, Error> {
    let plans = plan::plans(args);
    let mut outcomes = Vec::new();
    for round in 1..=args.rounds {
        for plan in &plans {
            tell(
                args,
                &format!("{} (round {round} of {})", plan.name, args.rounds),
            );
            outcomes.push(bench.run(plan).await?);
        }
    }
    Ok(outcomes)
}

fn show(
    args: &Args,
    started_at: String,
    machine: &Machine,
    outcomes: Vec<Outcome>,
) -> Result<(), Error> {
    let (results, rounds) = added_up(args.rounds, outcomes);
    let report = Report::new(started_at, machine, &results, &rounds);
    let mut json = serde_json::to_string_pretty(&report).expect("keys are text, numbers finite");
    json.push('\n');
    if let Some(file) = &args.output {
        std::fs::write(file, &json).map_err(|source| Error::Write {
            file: file.display().to_string(),
            source,
        })?;
    }
    let text = if args.json {
        json
    } else if args.verbose {
        format!("{}\n{}", report.table(), report.process_table())
    } else {
        report.table()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::Output)?;
    let counts = || results.iter().map(|outcome| outcome.passed.accounts.counts);
    let (missing, altered) = (
        counts().map(|counts| counts.missing).sum(),
        counts().map(|counts| counts.altered).sum(),
    );
    if missing == 0 && altered == 0 {
        Ok(())
    } else {
        Err(Error::Lost { missing, altered })
    }
}

/// All rounds of each scenario together; and each on its own, if there are several.
fn added_up(rounds: u32, outcomes: Vec<Outcome>) -> (Vec<Outcome>, Vec<Outcome>) {
    if rounds == 1 {
        return (outcomes, Vec::new());
    }
    let mut results: Vec<Outcome> = Vec::new();
    for outcome in &outcomes {
        match results
            .iter_mut()
            .find(|known| known.plan.name == outcome.plan.name)
        {
            Some(known) => known.add(outcome),
            None => results.push(outcome.clone()),
        }
    }
    (results, outcomes)
}

/// Progress goes where it does not mix with results; in JSON there is one document and nothing else. A closed standard error is
/// no reason to stop.
fn tell(args: &Args, line: &str) {
    if !args.json {
        let _ = writeln!(std::io::stderr(), "bench: {line}");
    }
}
