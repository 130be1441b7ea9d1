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
use std::net::SocketAddr;
use std::rc::Rc;

use chrono::Utc;
use http::StatusCode;
use zyven_runtime::config::{ConfigError, Source};
use zyven_runtime::shutdown::{self, Shutdown};

use crate::{admin, settings};
use api::{Api, Unanswered};
pub(crate) use arguments::Args;
use machine::Machine;
use outcome::Outcome;
use processes::Stack;
use report::Report;
use scenario::Bench;

/// The tenant that measures when no key is given.
const TENANT: &str = "bench";
/// Longer than any run.
const KEY_LIFETIME: chrono::TimeDelta = chrono::TimeDelta::days(1);

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Only plain HTTP is spoken here.
    #[error("the API's URL must be written as http://host:port, not \"{0}\"")]
    ApiUrl(String),
    /// A key that cannot stand in a header.
    #[error("the API key must be ASCII text")]
    ApiKey,
    /// Making one failed.
    #[error(
        "making an API key failed (give one in ZYVEN_API_KEY, or the database in ZYVEN_DATABASE_URL)"
    )]
    MakeApiKey(#[source] Box<crate::Failure>),
    /// The API's host has no address.
    #[error("the address of {host} is unknown")]
    ApiHost {
        /// As in the URL.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("the API at {url} cannot be used")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why not.
        source: Unanswered,
    },
    /// The API does not want what it was sent.
    #[error("{what} was answered {status}: {body}")]
    Refused {
        /// What was asked.
        what: String,
        /// The answer's status.
        status: StatusCode,
        /// The answer's text.
        body: String,
    },
    /// There is no receiving.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A task of the generator did not end by itself.
    #[error("a sender ended unexpectedly")]
    Sender(#[source] tokio::task::JoinError),
    /// The results have no place.
    #[error("cannot write the results to {file}")]
    Write {
        /// Where to.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The runtime of the generator could not be made.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// The stack broke its promise.
    #[error("{missing} acknowledged deliveries are missing, {altered} requests were altered")]
    Lost {
        /// Acknowledged and never taken.
        missing: u64,
        /// Not what was sent.
        altered: u64,
    },
}

/// Measures, and prints what came out.
///
/// # Errors
///
/// Nothing could be measured, or something that was acknowledged is missing or was altered.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let (url, key) = access(&args).await?;
    // Generator and receiver share state without locks, so they need a thread of their own.
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, measure(&args, &url, &key))
    });
    measuring.await.map_err(Error::Sender)?
}

/// The API's URL and a key for it.
async fn access(args: &Args) -> Result<(String, String), Error> {
    let url = match &args.api_url {
        Some(url) => url.clone(),
        None => {
            let mut source = Source::from_environment();
            let url = settings::api_url(&mut source);
            source.finish()?;
            url.unwrap_or_default()
        }
    };
    let key = match &args.api_key {
        Some(key) => key.clone(),
        None => make_key()
            .await
            .map_err(|failure| Error::MakeApiKey(Box::new(failure)))?,
    };
    Ok((url, key))
}

/// A key of a tenant whose only endpoints are the bench's, for a day.
async fn make_key() -> Result<String, crate::Failure> {
    let store = admin::open_store()?;
    let known = store
        .tenant_named(TENANT)
        .await
        .map_err(crate::Failure::other)?;
    let tenant = match known {
        Some(tenant) => tenant,
        None => admin::new_tenant(&store, TENANT).await?.0,
    };
    let ends = Utc::now() + KEY_LIFETIME;
    let key = admin::add_key(&store, tenant, "bench", Some(ends)).await?;
    Ok(key.expose())
}

async fn measure(args: &Args, url: &str, key: &str) -> Result<(), Error> {
    let started_at = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let stack = Stack::find(&args.stack_dir, &args.pids);
    let machine = Machine::look(&stack);
    tell(&machine.sentence());
    if stack.members.is_empty() {
        tell("no process of the stack is known (--stack-dir, --pid), so neither is its CPU time");
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
            tell(&format!("{} (round {round} of {})", plan.name, args.rounds));
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
    let mut text = String::new();
    if let Some(file) = &args.json {
        let mut json =
            serde_json::to_string_pretty(&report).expect("keys are text, numbers finite");
        json.push('\n');
        if file.as_os_str() == "-" {
            text = json;
        } else {
            std::fs::write(file, json).map_err(|source| Error::Write {
                file: file.display().to_string(),
                source,
            })?;
        }
    }
    if text.is_empty() {
        text = report.table();
        if args.verbose {
            text.push('\n');
            text.push_str(&report.process_table());
        }
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| Error::Write {
            file: "standard output".to_owned(),
            source,
        })?;
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

/// Progress goes where it does not mix with results. A closed standard error is no reason to stop.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}
