//! One program for every Zyven process. This file is the table of contents: what can be started, and
//! what each start comes to.
//!
//! It is a library so that two programs can be made of it: `zyven`, and `zyven-crash`, the same with crash points (ADR 0025).

#![expect(clippy::print_stdout, reason = "commands answer on standard output")]

mod admin;
mod bench;
mod demo;
mod echo;
mod master_keys;
mod probe;
mod serve;
mod settings;
mod storage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use zyven_runtime::config::{Activation, ConfigError, EXIT_CONFIG};
use zyven_runtime::inherited::{Inherited, InheritedError};
use zyven_runtime::supervisor::Chain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Event delivery: accepts events over REST or SQL and owns their delivery from then on.
///
/// Services read their settings from ZYVEN_… environment variables; `zyven config` lists them.
/// Exit codes: 0 done, 1 failed, 2 wrong arguments, 64 wrong configuration.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the API that accepts events
    Ingest,
    /// Run the relay: outbox → Redis, scrubbing, rebuilding, maintenance
    Relay,
    /// Run a dispatcher: Redis → signed requests
    Dispatcher,
    /// Run the outgoing proxy, the only process that connects to endpoints
    Egress,
    /// Run all services in one process
    All,
    /// Bring the database to this version's schema
    Migrate,
    /// Make tenants and keys, check invariants
    #[command(subcommand)]
    Admin(admin::Command),
    /// Print every setting with its meaning and default
    Config,
    /// Run a receiver that shows what arrives (for trying Zyven out)
    Echo(echo::Args),
    /// Post some dozens of events to a running stack and show their way
    Demo(demo::Args),
    /// Measure a running stack
    Bench(Box<bench::Args>),
    /// Ask a URL and succeed if it answers 2xx (for health checks in containers)
    Probe(probe::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Plain(String),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
    #[error("a service failed; see the log")]
    Service,
}

impl Failure {
    fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Before the runtime and all else opens descriptors, which must not be taken for those that were passed.
    let sockets = Inherited::take(&Activation::from_environment());
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return complain(&Failure::other(error)),
    };
    let outcome = runtime.block_on(run(command, sockets));
    // Whatever still runs has had its grace time.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure),
    }
}

async fn run(command: Command, sockets: Result<Inherited, InheritedError>) -> Result<(), Failure> {
    match command {
        Command::Ingest => serve::run(&[serve::Service::Ingest], sockets).await,
        Command::Relay => serve::run(&[serve::Service::Relay], sockets).await,
        Command::Dispatcher => serve::run(&[serve::Service::Dispatcher], sockets).await,
        Command::Egress => serve::run(&[serve::Service::Egress], sockets).await,
        Command::All => serve::run(&serve::Service::ALL, sockets).await,
        Command::Migrate => admin::migrate().await,
        Command::Admin(command) => admin::run(command).await,
        Command::Config => {
            print!("{}", settings::reference());
            Ok(())
        }
        Command::Echo(args) => echo::run(&args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Bench(args) => bench::run(*args).await.map_err(Failure::other),
        Command::Probe(args) => probe::run(&args).await,
    }
}

fn complain(failure: &Failure) -> ExitCode {
    // Standard error may be gone; there is nobody else to tell.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("zyven: {}\n", Chain(failure)),
    );
    match failure {
        Failure::Config(_) => ExitCode::from(EXIT_CONFIG),
        Failure::Plain(_) | Failure::Other(_) | Failure::Service => ExitCode::FAILURE,
    }
}
