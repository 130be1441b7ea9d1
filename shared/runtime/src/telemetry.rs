//! Logs: one line per event on standard error, as JSON for machines or text for people.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Source;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// For reading at a terminal.
    Text,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("must be json or text"),
        }
    }
}

/// What is logged, and how.
#[derive(Debug)]
pub struct Config {
    filter: EnvFilter,
    format: Format,
}

impl Config {
    /// Reads `ZYVEN_LOG` and `ZYVEN_LOG_FORMAT`.
    pub fn read(source: &mut Source) -> Option<Self> {
        let filter = source.value(
            "ZYVEN_LOG",
            "what is logged: a level, or levels by module as in info,zyven_relay=debug",
            Some("info"),
        );
        let format = source.value(
            "ZYVEN_LOG_FORMAT",
            "how log lines look: json or text",
            Some("json"),
        );
        Some(Self {
            filter: filter?,
            format: format?,
        })
    }
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn init(config: Config) {
    let registry = tracing_subscriber::registry().with(config.filter);
    let outcome = match config.format {
        Format::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        Format::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr))
            .try_init(),
    };
    // Already started: whoever came first decides.
    drop(outcome);
}
