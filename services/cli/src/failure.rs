//! What can go wrong, which exit code that is, and what to do next.

use std::process::ExitCode;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zyven_runtime::config::{ConfigError, EXIT_CONFIG};
use zyven_runtime::supervisor::Chain;

use crate::output::{BAD, FAINT, Output, escaped, paint, shown};

/// The server refused, or what was asked for turned out badly.
const EXIT_REFUSED: u8 = 1;
/// Wrong arguments; clap's own code.
const EXIT_USAGE: u8 = 2;
/// Nobody answers.
const EXIT_UNREACHABLE: u8 = 3;
/// The server failed, or has too much to do.
const EXIT_SERVER_FAILED: u8 = 4;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("ZYVEN_API_KEY must be set")]
    NoKey,
    #[error("{0}")]
    Usage(String),
    #[error("{url} cannot be reached")]
    Unreachable {
        url: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("{0}")]
    Failed(String),
    /// The command has said itself what is wrong.
    #[error("")]
    Said,
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
}

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) status: StatusCode,
    /// Seconds after which the server wants to be asked again.
    pub(crate) retry_after_s: Option<u64>,
    pub(crate) problem: Option<Problem>,
    /// The whole answer.
    pub(crate) body: Value,
}

/// A problem document (RFC 9457), as far as this version knows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    rule: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { method, path, .. } = self;
        let status = self.status.as_u16();
        match &self.problem {
            Some(problem) => {
                write!(
                    f,
                    "{method} {path} was answered {status} {}: {}",
                    problem.code, problem.detail
                )?;
                for FieldError { field, rule } in &problem.errors {
                    write!(f, "\n  {field} {rule}")?;
                }
                Ok(())
            }
            None => write!(f, "{method} {path} was answered {status}"),
        }
    }
}

impl Refusal {
    /// True if the answer has this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.problem.as_ref().is_some_and(|p| p.code == code)
    }

    /// True if the answer names this field as wrong.
    pub(crate) fn names(&self, field: &str) -> bool {
        let problem = self.problem.as_ref();
        problem.is_some_and(|problem| problem.errors.iter().any(|error| error.field == field))
    }

    fn next_step(&self) -> Option<String> {
        let Some(problem) = &self.problem else {
            return Some(
                "no Zyven answers like this; ZYVEN_API_URL or --api-url must lead to its API"
                    .to_owned(),
            );
        };
        let step = match (self.status.as_u16(), problem.code.as_str()) {
            (401, _) => {
                "set ZYVEN_API_KEY to a key of this server: `make up` prints one, `zyven admin create-key TENANT` makes one"
            }
            (403, _) => {
                "use a key with that scope: `zyven keys create NAME --scope SCOPE`, called with a key that has it and \"manage\""
            }
            (404, _) => "look at the id, and whether ZYVEN_API_KEY is of the right tenant",
            (409, "being_attempted") => "run the same command again in a few seconds",
            (409, "idempotency_conflict") => "take another --idempotency-key for another event",
            (409, "endpoint_disabled") => "enable it first: zyven endpoints enable ID",
            (422, _) => "mend what is named; docs/api.md has the rules",
            (500, _) => "tell the operator; the server's log has the reason under the request's id",
            (503, _) => {
                let seconds = self.retry_after_s.unwrap_or(1);
                return Some(format!("wait {seconds} s and run the same command again"));
            }
            _ => return None,
        };
        Some(step.to_owned())
    }
}

/// What a program is told on standard error.
#[derive(Serialize)]
struct Report<'a> {
    error: &'a str,
    exit_code: u8,
    next_step: Option<&'a str>,
    /// The server's answer, whole.
    problem: Option<&'a Value>,
}

impl Failure {
    /// True if the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => refusal.status.is_server_error(),
            Self::Config(_)
            | Self::NoKey
            | Self::Usage(_)
            | Self::Failed(_)
            | Self::Said
            | Self::Output(_) => false,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoKey => EXIT_CONFIG,
            Self::Usage(_) => EXIT_USAGE,
            Self::Unreachable { .. } => EXIT_UNREACHABLE,
            Self::Refused(refusal) if refusal.status.is_server_error() => EXIT_SERVER_FAILED,
            Self::Refused(_) | Self::Failed(_) | Self::Said | Self::Output(_) => EXIT_REFUSED,
        }
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::NoKey => Some(
                "export ZYVEN_API_KEY=zyk_…; `make up` prints a key, `zyven admin create-key TENANT` makes one"
                    .to_owned(),
            ),
            Self::Unreachable { .. } => Some(
                "if no server runs there, `make up` starts one; if it is elsewhere, say where in ZYVEN_API_URL or --api-url"
                    .to_owned(),
            ),
            Self::Refused(refusal) => refusal.next_step(),
            Self::Config(_)
            | Self::Usage(_)
            | Self::Failed(_)
            | Self::Said
            | Self::Output(_) => None,
        }
    }

    /// Says on standard error what went wrong, and with which code to end.
    pub(crate) fn report(&self, output: &Output) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            // Whoever read has read enough.
            return ExitCode::SUCCESS;
        }
        let code = self.exit_code();
        if !matches!(self, Self::Said) {
            let error = Chain(self).to_string();
            let next_step = self.next_step();
            if output.is_json() {
                let report = Report {
                    error: &error,
                    exit_code: code,
                    next_step: next_step.as_deref(),
                    problem: match self {
                        Self::Refused(refusal) => Some(&refusal.body),
                        _ => None,
                    },
                };
                output.note(&escaped(&serde_json::json!(report).to_string()));
            } else {
                output.note(&format!("{} {}", paint(BAD, "error:"), shown(&error)));
                if let Some(step) = next_step {
                    output.note(&format!("{} {step}", paint(FAINT, "next:")));
                }
            }
        }
        ExitCode::from(code)
    }
}
