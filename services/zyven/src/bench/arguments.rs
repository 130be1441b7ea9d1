//! What can be asked for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use zyven_cli::ApiUrl;
use zyven_cli::numbers::{positive, within};
use zyven_runtime::config::Source;

use super::plan::{SUITE, Share};
use super::processes::Member;
use super::template::PAYLOAD_BYTES_MIN;

/// Batches larger than this are refused by the API.
const BATCH_EVENTS_MAX: usize = 1_000;

/// Shown at the end of the help.
const HELP: &str = "\
Publishes events through the API and receives them itself, at endpoints made for the run and deleted
afterwards. Fails if anything acknowledged is missing or arrives altered.

The key is in ZYVEN_API_KEY, and must be one that may publish and manage. Without one it makes one, for a
tenant of its own; this takes ZYVEN_DATABASE_URL. With a key, endpoints of its tenant that subscribe to everything get the events as well. The egress proxy must be
allowed to reach the receiver (ZYVEN_EGRESS_ALLOW_CIDRS).

Examples:
  zyven bench                                     32 connections for 10 s
  zyven bench --scenario open --rate 400          400 events/s at fixed times
  zyven bench --fan-out 5 --fail-first 10%        five endpoints, each failing some first attempts
  zyven bench --suite --rounds 3 --output out.json
                                                  everything, three times in turn

Exit codes: 0 done, 1 refused (or something is missing), 2 wrong arguments, 3 not reachable, 4 the server failed,
64 wrong configuration. More: docs/cli.md";

/// See [`HELP`].
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// URL of the API; by default ZYVEN_API_URL, or where ingest listens
    #[arg(long, value_name = "URL")]
    pub(super) api_url: Option<ApiUrl>,
    /// Run a fixed list of scenarios, or those named, one after the other
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_missing_value = "all",
        value_name = "NAMES",
        value_parser = suite_names(),
        conflicts_with_all = ["scenario", "connections", "rate", "fan_out", "fail_first", "dead_endpoint", "batch"],
        hide_possible_values = true,
        long_help = suite_help(),
    )]
    pub(super) suite: Option<Vec<String>>,
    /// Run everything this often in turn, and add the results up
    #[arg(long, default_value_t = 1, value_parser = within(1..=1_000_u32))]
    pub(super) rounds: u32,

    /// How requests follow each other
    #[arg(long, value_enum, default_value_t = ScenarioKind::Closed)]
    pub(super) scenario: ScenarioKind,
    /// Closed: connections, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = within(1..=10_000_usize))]
    pub(super) connections: usize,
    /// Open: events per second
    #[arg(long, default_value_t = 400.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Endpoints that get each event
    #[arg(long, default_value_t = 1, value_parser = within(1..=1_000_usize))]
    pub(super) fan_out: usize,
    /// Events whose first attempt is answered 503, such as 10%
    #[arg(long, default_value = "0%", value_name = "SHARE")]
    pub(super) fail_first: Share,
    /// Beside it, publish events for an endpoint that accepts requests and never answers
    #[arg(long)]
    pub(super) dead_endpoint: bool,
    /// How many of these per second
    #[arg(long, default_value_t = 100.0, value_parser = rate, value_name = "RATE")]
    pub(super) dead_rate: f64,
    /// Publish in batches of this many events
    #[arg(long, value_parser = within(1..=BATCH_EVENTS_MAX), value_name = "EVENTS")]
    pub(super) batch: Option<usize>,

    /// Size of each payload
    #[arg(long, default_value = "1KiB", value_parser = payload_bytes, value_name = "BYTES")]
    pub(super) payload_bytes: usize,
    /// Whether events have idempotency keys
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(super) idempotency_keys: Switch,
    /// How long each scenario sends
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(super) duration: Duration,
    /// How many events each scenario sends, instead of a duration
    #[arg(long, conflicts_with = "duration", value_parser = positive)]
    pub(super) events: Option<u64>,
    /// How long each scenario sends before it is measured; 0s: not at all
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) warm_up: Duration,
    /// How long to wait for what has not arrived when all is sent
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(super) drain_limit: Duration,

    /// Folder in which the local stack's scripts note their processes
    #[arg(long, default_value = ".zyven", value_name = "FOLDER")]
    pub(super) stack_dir: PathBuf,
    /// A process whose CPU time and memory count as the stack's, with all its descendants (repeatable)
    #[arg(long = "pid", value_name = "NAME=PID", value_parser = member)]
    pub(super) pids: Vec<Member>,
    /// Where to receive; port 0: any free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    /// How the stack reaches that, if not by the address itself
    #[arg(long, value_name = "URL")]
    pub(super) receiver_url: Option<String>,

    /// Answer in JSON: all results as one document, instead of the table, and no progress
    #[arg(long)]
    pub(crate) json: bool,
    /// Write all results to a file, in JSON, as well
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Show CPU time and memory of each process as well
    #[arg(long, short)]
    pub(super) verbose: bool,
}

/// See [`super::plan::Load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ScenarioKind {
    /// Each connection sends when its last request was answered
    Closed,
    /// Events are sent at fixed times, whatever becomes of earlier ones
    Open,
    /// Nothing is sent; CPU time only
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

fn suite_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(std::iter::once("all").chain(SUITE))
}

fn suite_help() -> String {
    format!(
        "Run a fixed list of scenarios one after the other, or those named: --suite={},…\n\nThe list: {}",
        SUITE[1],
        SUITE.join(", ")
    )
}

fn rate(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(rate) if (0.001..=1_000_000.0).contains(&rate) => Ok(rate),
        Ok(_) | Err(_) => Err("must be a number from 0.001 to 1000000"),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    as_setting(text, |source, name| source.duration(name, "", None))
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let bytes = as_setting(text, |source, name| source.bytes(name, "", None))?;
    if bytes < PAYLOAD_BYTES_MIN {
        return Err(format!("must be at least {PAYLOAD_BYTES_MIN}"));
    }
    Ok(bytes)
}

/// Quantities are written here as they are in settings, by the same rules.
fn as_setting<T>(
    text: &str,
    read: impl FnOnce(&mut Source, &'static str) -> Option<T>,
) -> Result<T, String> {
    const NAME: &str = "value";
    let mut source = Source::from_pairs([(NAME, text)]);
    let value = read(&mut source, NAME);
    source.finish().map_err(|error| error.mistakes.join("; "))?;
    value.ok_or_else(|| "must not be empty".to_owned())
}

fn member(text: &str) -> Result<Member, &'static str> {
    let (name, pid) = text.split_once('=').ok_or("must be NAME=PID")?;
    Ok(Member {
        name: name.to_owned(),
        pid: pid.parse().map_err(|_| "must end with a process id")?,
    })
}
