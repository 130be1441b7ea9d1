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
mod pools;
mod probe;
mod serve;
mod settings;
mod storage;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use zyven_runtime::config::{Activation, ConfigError, EXIT_CONFIG};
use zyven_runtime::inherited::{Inherited, InheritedError};
use zyven_runtime::supervisor::Chain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Event delivery: accepts events over REST or SQL and owns their delivery from then on.
///
/// Services read their settings from ZYVEN_… environment variables; `zyven config` lists them.
/// Exit codes: 0 done, 1 failed or refused, 2 wrong arguments, 64 wrong configuration; of clients of
/// the API also 3 not reachable, 4 the server failed.
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
    /// Run the console, a page for operators and tenants
    Console,
    /// Run all services in one process, the console apart
    All,
    /// Bring the database to this version's schema
    Migrate {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make, list and limit tenants, make keys, check invariants
    #[command(subcommand)]
    Admin(admin::Command),
    /// Print every setting with its meaning and default
    Config,
    /// Print what the API says of itself (OpenAPI 3.1), with the limits that the environment sets
    Openapi,
    /// Run a receiver that shows what arrives (for trying Zyven out)
    Echo(echo::Args),
    /// Post some dozens of events to a running stack and show their way
    Demo(demo::Args),
    /// Measure a running stack
    Bench(Box<bench::Args>),
    /// Ask a URL and succeed if it answers 2xx (for health checks in containers)
    Probe(probe::Args),
    #[command(flatten)]
    Client(zyven_cli::Command),
}

/// What the clients do not know themselves.
const PROGRAM: zyven_cli::Program = zyven_cli::Program {
    command: Cli::command,
    api_url: settings::api_url,
};

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
    /// The bench fails as a client does.
    #[error("{failure}")]
    Bench {
        failure: zyven_cli::Failure,
        is_json: bool,
    },
}

impl Failure {
    fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(Cli {
            command: Command::Client(command),
        }) => return zyven_cli::main(command, &PROGRAM),
        Ok(cli) => cli.command,
        Err(error) => return misread(&error),
    };
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
        Command::Console => serve::run(&[serve::Service::Console], sockets).await,
        Command::All => serve::run(&serve::Service::ALL, sockets).await,
        Command::Migrate { json } => admin::migrate(json).await,
        Command::Admin(command) => admin::run(command).await,
        Command::Config => {
            print!("{}", settings::reference());
            Ok(())
        }
        Command::Openapi => {
            println!("{:#}", zyven_ingest::openapi(&settings::api_limits()?));
            Ok(())
        }
        Command::Echo(args) => echo::run(&args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Bench(args) => {
            let is_json = args.json;
            let outcome = bench::run(*args).await;
            outcome.map_err(|failure| Failure::Bench { failure, is_json })
        }
        Command::Probe(args) => probe::run(&args).await,
        Command::Client(_) => Err(Failure::Plain("a client runs by itself".to_owned())),
    }
}

/// Help, or arguments that are wrong: of clients and the bench they are told as their other failures are.
fn misread(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let is_client = (arguments.get(1)).is_some_and(|name| is_client(name));
    if is_client && error.use_stderr() {
        return zyven_cli::misread(error, &arguments, Cli::command());
    }
    error.exit()
}

/// True for the commands that keep the rules of docs/cli.md.
fn is_client(command: &str) -> bool {
    zyven_cli::Command::has_subcommand(command) || command == "bench"
}

fn complain(failure: &Failure) -> ExitCode {
    if let Failure::Bench { failure, is_json } = failure {
        return failure.report(*is_json);
    }
    // Standard error may be gone; there is nobody else to tell.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("zyven: {}\n", Chain(failure)),
    );
    match failure {
        Failure::Config(_) => ExitCode::from(EXIT_CONFIG),
        Failure::Plain(_) | Failure::Other(_) | Failure::Service | Failure::Bench { .. } => {
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands of clients that are run, with what stands before them, and their options.
    fn leaves(command: &clap::Command, name: &str) -> Vec<(String, Vec<String>)> {
        let below: Vec<_> = command.get_subcommands().collect();
        if below.is_empty() {
            let options = command
                .get_arguments()
                .filter_map(|option| option.get_long());
            let options = options.map(|long| format!("--{long}"));
            return vec![(name.to_owned(), options.collect())];
        }
        let below = below.iter();
        let leaves = below.flat_map(|one| leaves(one, &format!("{name} {}", one.get_name())));
        leaves.collect()
    }

    #[test]
    fn every_client_command_and_its_options_are_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let document = std::fs::read_to_string(path).expect("docs/cli.md");
        let program = Cli::command();
        let clients = program
            .get_subcommands()
            .filter(|command| is_client(command.get_name()));
        let mut found = 0;
        for client in clients {
            for (command, options) in leaves(client, &format!("zyven {}", client.get_name())) {
                found += 1;
                assert!(
                    document.contains(&format!("# `{command}`\n")),
                    "docs/cli.md has no section `{command}`"
                );
                for option in options {
                    assert!(
                        document.contains(&format!("{option}`"))
                            || document.contains(&format!("{option} ")),
                        "docs/cli.md does not say what {option} of `{command}` does"
                    );
                }
            }
        }
        assert!(found > 25, "only {found} commands were found");
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
