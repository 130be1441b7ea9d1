//! `make chaos` and `make faults`.

#![expect(clippy::print_stdout, reason = "it answers on standard output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::Parser;
use zyven_chaos::{Counted, Dice, Faults, Plan, Row, Run, Table};
use zyven_testkit::Binary;

/// Faults under load, with a ledger of what they have cost.
///
/// Starts real processes of the program, a PostgreSQL and a Redis of its own, and ends them. Exit codes: 0 all is
/// well, 1 something was lost, altered or broken, 2 wrong arguments.
#[derive(Parser)]
#[command(max_term_width = 100)]
enum Command {
    /// A seeded run: faults of all kinds, overlapping
    Run {
        /// Determines plan and events; made up if it is not given
        #[arg(long)]
        seed: Option<u64>,
        /// How long faults begin, such as 150s, 10m or 1h
        #[arg(long, default_value = "150s")]
        duration: Length,
        /// Events per second
        #[arg(long, default_value_t = 40.0)]
        rate: f64,
        /// Only print the plan
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
    /// The table of single faults, as Markdown
    Faults {
        /// Rows, by their numbers; all of them if there are none
        rows: Vec<RowNumber>,
        /// Determines the events; by default made up
        #[arg(long)]
        seed: Option<u64>,
        /// Events of each row
        #[arg(long, default_value_t = 6_000)]
        events: u64,
        /// Events per second
        #[arg(long, default_value_t = 300.0)]
        rate: f64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
struct Common {
    /// The program; by default the one beside this one
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Write the results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write what the processes have said into files of this folder
    #[arg(long)]
    logs: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct Length(Duration);

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a whole number and s, m or h");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            _ => return Err(wrong()),
        };
        Ok(Self(Duration::from_secs(number * seconds)))
    }
}

#[derive(Clone, Copy)]
struct RowNumber(Row);

impl FromStr for RowNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let row = Row::ALL.into_iter().find(|row| row.number() == text);
        row.map(Self).ok_or_else(|| {
            let numbers = Row::ALL.map(Row::number).join(", ");
            format!("there is no row {text:?}, but {numbers}")
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match Command::parse() {
        Command::Run {
            seed,
            duration,
            rate,
            dry_run,
            common,
        } => {
            let seed = seed.unwrap_or_else(made_up);
            println!("seed {seed}");
            println!("{}", Plan::new(seed, duration.0));
            if dry_run {
                return ExitCode::SUCCESS;
            }
            let run = Run {
                length: duration.0,
                events_per_s: rate,
                binary: common.binary.map(Binary::at),
                logs: common.logs,
                ..Run::short(seed)
            };
            chaos(&run, common.json.as_deref()).await
        }
        Command::Faults {
            rows,
            seed,
            events,
            rate,
            common,
        } => {
            let seed = seed.unwrap_or_else(made_up);
            println!("seed {seed}");
            let faults = Faults {
                seed,
                events,
                events_per_s: rate,
                binary: common.binary.map(Binary::at),
                logs: common.logs,
            };
            let rows: Vec<Row> = match rows.is_empty() {
                true => Row::ALL.to_vec(),
                false => rows.into_iter().map(|row| row.0).collect(),
            };
            table(&faults, &rows, common.json.as_deref()).await
        }
    }
}

async fn chaos(run: &Run, json: Option<&Path>) -> ExitCode {
    let outcome = run.go(|line| println!("{line}")).await;
    println!("\n{outcome}");
    println!("what the processes have said:");
    for (line, count) in &outcome.said {
        println!("{count:>8} × {line}");
    }
    write(json, &outcome);
    match outcome.verdict() {
        Ok(()) => {
            println!("\nnothing is missing, nothing is altered, every invariant holds");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            println!("\nWRONG, with seed {}:\n  {wrong}", run.seed);
            ExitCode::FAILURE
        }
    }
}

async fn table(faults: &Faults, rows: &[Row], json: Option<&Path>) -> ExitCode {
    let mut counted: Vec<Counted> = Vec::new();
    for row in rows {
        let row = faults.row(*row).await;
        println!("row {}: {}\n{}", row.number, row.fault, row.account);
        counted.push(row);
    }
    println!("{}", Table(&counted));
    write(json, &counted);
    let mut code = ExitCode::SUCCESS;
    for row in &counted {
        for missed in &row.missed {
            println!("row {}: {missed}", row.number);
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// A seed nobody has chosen. It is printed, and gives the same plan again.
fn made_up() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |now| now.as_nanos() as u64);
    Dice::new(nanoseconds ^ u64::from(std::process::id())).next() % 1_000_000_000
}

fn write(file: Option<&Path>, results: &impl serde::Serialize) {
    let Some(file) = file else {
        return;
    };
    let text = serde_json::to_string_pretty(results).expect("results can be written as JSON");
    std::fs::write(file, text + "\n")
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}
