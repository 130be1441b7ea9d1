//! Why a measurement came to nothing, told as the client commands tell their failures.

use std::net::SocketAddr;

use zyven_cli::{Failure, Refusal};
use zyven_runtime::supervisor::Chain;

use super::api::Unanswered;

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Only plain HTTP is spoken here.
    #[error("the API's URL must be written as http://host:port, not \"{0}\"")]
    ApiUrl(String),
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
    #[error("{0}")]
    Refused(Box<Refusal>),
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
    /// Nobody can be shown the results.
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failed = |error: &Error| Self::Failed(Chain(error).to_string());
        match error {
            Error::ApiUrl(_) => Self::Usage(error.to_string()),
            Error::ApiHost { host, source } => Self::Unreachable {
                url: host,
                source: source.into(),
            },
            Error::Unreachable { url, source } => Self::Unreachable {
                url,
                source: source.into(),
            },
            Error::Refused(refusal) => Self::Refused(refusal),
            Error::Output(source) => Self::Output(source),
            Error::Listen { .. } => failed(&error).advised("--listen names another address"),
            Error::Lost { .. } => failed(&error).advised(
                "`zyven deliveries list` shows where they stand; if they are only late, --drain-limit waits longer",
            ),
            Error::Sender(_) | Error::Write { .. } | Error::Runtime(_) | Error::Interrupted => {
                failed(&error)
            }
        }
    }
}
