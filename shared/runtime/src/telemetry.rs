//! The log: one line per event on standard error, as JSON or as text.
//!
//! Fields are named alike everywhere: `tenant.id`, `event.id`, `delivery.id`, `attempt.number`,
//! `endpoint.host`, `duration_ms`. Payloads, secrets and full URLs are never logged.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::Source;

/// How and what to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How a line looks.
    pub format: Format,
    /// Which lines there are.
    pub filter: Filter,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for machines.
    Json,
    /// Text, for people; coloured on a terminal.
    Text,
}

/// Which lines there are: `info`, or `warn,zyven_relay=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

/// The log cannot be turned on, for instance because it is on.
#[derive(Debug, thiserror::Error)]
#[error("could not turn on the log")]
pub struct TelemetryError(#[from] TryInitError);

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded.
    pub fn read(source: &mut Source) -> Option<Self> {
        let filter = source.value(
            "ZYVEN_LOG",
            "which lines are logged: a level (error, warn, info, debug, trace), or levels by module such as warn,zyven_relay=debug",
            Some("info"),
        );
        let format = source.value(
            "ZYVEN_LOG_FORMAT",
            "how a line of the log looks: json or text",
            Some("json"),
        );
        Some(Self {
            format: format?,
            filter: filter?,
        })
    }
}

/// Turns on the log of this process, panics included.
///
/// # Errors
///
/// [`TelemetryError`] if it is on already.
pub fn init(config: &Config) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter.0))
        .with_writer(io::stderr);
    match config.format {
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init()?,
        Format::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init()?,
    }
    log_panics();
    Ok(())
}

/// A panic is a line of the log like any other; what the process does about it does not change.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("not a text");
        let location = panic.location().map(ToString::to_string);
        tracing::error!(
            panic.message = message,
            panic.location = location,
            "panicked"
        );
    }));
}

/// An error with its causes, as "what failed: why: why that".
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The text is no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be json or text")]
pub struct ParseFormatError;

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(ParseFormatError),
        }
    }
}

/// The text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a level or levels by module, such as warn,zyven_relay=debug ({0})")]
pub struct ParseFilterError(String);

impl FromStr for Filter {
    type Err = ParseFilterError;

    fn from_str(text: &str) -> Result<Self, ParseFilterError> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(ParseFilterError(error.to_string())),
        }
    }
}
