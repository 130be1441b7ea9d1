//! Why an exchange brought no usable answer, in the domain's words.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use zyven_domain::retry::{FailureKind, Outcome, RefusalReason};

/// Longest sentence kept about a failure.
const DETAIL_BYTES_MAX: usize = 300;

/// An outcome other than an answer, and a sentence about it for the endpoint's owner.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    /// Never contains an address of Zyven's own network.
    pub(crate) detail: Cow<'static, str>,
    /// Nothing was sent, and time was lost that belongs to the endpoint: the attempt has to begin anew.
    pub(crate) cost_time: bool,
}

impl Failure {
    pub(crate) fn new(outcome: Outcome, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            outcome,
            detail: tidy(detail.into()),
            cost_time: false,
        }
    }

    pub(super) fn that_cost_time(self) -> Self {
        Self {
            cost_time: true,
            ..self
        }
    }

    pub(super) fn failed(kind: FailureKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Outcome::Failed(kind), detail)
    }

    pub(super) fn unsent(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Outcome::Unsent, detail)
    }

    pub(super) fn late(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Outcome::TimedOut, detail)
    }

    /// Neither an HTTP nor a TLS server speaks first.
    pub(super) fn unasked() -> Self {
        Self::failed(
            FailureKind::Protocol,
            "the endpoint spoke before it was asked",
        )
    }

    /// What hyper reports, once the tunnel was open.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        let io_error = source_of::<io::Error>(error);
        let tls_error = source_of::<rustls::Error>(error)
            .or_else(|| io_error.and_then(|error| error.get_ref()?.downcast_ref()));
        if let Some(error) = tls_error {
            return Self::failed(FailureKind::Tls, error.to_string());
        }
        if error.is_parse_too_large() {
            // hyper's own limit on the number, and [`super::HEAD_BYTES_MAX`].
            return Self::failed(
                FailureKind::Protocol,
                "the head of the answer is larger than 64 KiB or has more than 100 headers",
            );
        }
        if error.is_parse() {
            return Self::failed(
                FailureKind::Protocol,
                format!("the answer is not HTTP/1.1: {error}"),
            );
        }
        match io_error.map(io::Error::kind) {
            // What hyper's chunk decoder says about a malformed chunk.
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Self::failed(
                FailureKind::Protocol,
                "the body of the answer is not framed as HTTP/1.1 has it",
            ),
            Some(_) => Self::reset(),
            None if is_cut(error) => Self::reset(),
            None => Self::failed(FailureKind::Protocol, error.to_string()),
        }
    }

    fn reset() -> Self {
        Self::failed(
            FailureKind::Reset,
            "the connection ended before the answer was complete",
        )
    }
}

/// The class under which an outcome is recorded, logged and counted; none for an answer.
pub(crate) const fn error_class(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Answered { .. } => None,
        Outcome::TimedOut => Some("timeout"),
        Outcome::Failed(kind) => Some(kind.as_str()),
        Outcome::Refused(RefusalReason::EgressDenied) => Some("egress_denied"),
        Outcome::Refused(RefusalReason::InvalidUrl) => Some("invalid_url"),
        Outcome::Unsent => Some("unsent"),
    }
}

fn is_cut(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

fn source_of<T: Error + 'static>(error: &hyper::Error) -> Option<&T> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// One bounded line without control characters: it goes into a text column, a log and a console, and
/// parts of it may be the other side's words.
fn tidy(detail: Cow<'static, str>) -> Cow<'static, str> {
    if detail.len() <= DETAIL_BYTES_MAX && !detail.contains(char::is_control) {
        return detail;
    }
    let mut tidied = String::with_capacity(DETAIL_BYTES_MAX);
    for character in detail.trim().chars() {
        let character = if character.is_control() {
            ' '
        } else {
            character
        };
        if tidied.len() + character.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        tidied.push(character);
    }
    Cow::Owned(tidied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_bounded_line() {
        let detail = |text: String| Failure::unsent(text).detail.into_owned();
        assert_eq!(detail("a\0b\r\nc".into()), "a b  c");
        assert_eq!(detail("ä".repeat(1_000)).len(), DETAIL_BYTES_MAX);
        assert_eq!(detail("plain".into()), "plain");
    }
}
