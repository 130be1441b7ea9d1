//! Asking one proxy for one tunnel.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use zyven_domain::handshake::{Answer, Request};
use zyven_domain::retry::{FailureKind, Outcome, RefusalReason};
use zyven_domain::target::EgressReason;

use super::address::ProxyAddress;
use crate::client::failure::Failure;

/// A proxy is a neighbour: one that does not accept within this time is not waited for.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Nor is one that says nothing at all for this long: it answers most requests at once, and says within
/// half a second that it works on the others.
pub(super) const FIRST_WORD_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest time asking one proxy may take, whatever the endpoint's timeout is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(14);
/// What of that time the answer may take to travel; a quarter, if the time is short.
const TRAVEL_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of a refusal's sentence is read.
const SENTENCE_BYTES_MAX: usize = 512;

/// How asking ended, if not with a tunnel.
pub(super) enum Refusal {
    /// It is not there, talks nonsense, or does not know us.
    Down(&'static str),
    /// It said nothing, or not what it promised to say, for as long as it was listened to.
    Silent,
    /// It was not even asked: the fault is here, and says nothing about the proxy.
    NotAsked(String),
    /// It answered, about the target or its own limits.
    Said { outcome: Outcome, detail: String },
}

/// Asks for a tunnel to `authority`, with the value of `Proxy-Authorization`.
pub(super) async fn ask(
    address: &ProxyAddress,
    authority: &str,
    authorization: &str,
    terms: Terms,
) -> Result<TcpStream, Refusal> {
    let ProxyAddress { host, port } = address;
    let connecting = TcpStream::connect((host.as_str(), *port));
    let until = terms.give_up_at.min(Instant::now() + CONNECT_TIME_MAX);
    let mut tunnel = match timeout_at(until, connecting).await {
        Ok(Ok(tunnel)) => tunnel,
        Ok(Err(error)) if is_exhaustion(&error) => {
            return Err(Refusal::NotAsked(format!(
                "the dispatcher is out of resources: {error}"
            )));
        }
        Ok(Err(_)) => return Err(Refusal::Down("it refuses connections")),
        Err(_elapsed) => return Err(Refusal::Silent),
    };
    // Requests are written whole; waiting to merge them with the next would only cost time.
    let _ = tunnel.set_nodelay(true);
    shake_hands(&mut tunnel, authority, authorization, terms).await?;
    Ok(tunnel)
}

async fn shake_hands(
    tunnel: &mut TcpStream,
    authority: &str,
    authorization: &str,
    terms: Terms,
) -> Result<(), Refusal> {
    let request = Request::write(authority, authorization, terms.within);
    let lost = |_| Refusal::Down("it closed the connection");
    tunnel.write_all(request.as_bytes()).await.map_err(lost)?;

    let mut answer = Vec::with_capacity(512);
    let first_word_by = Instant::now() + FIRST_WORD_TIME_MAX;
    let mut until = terms.give_up_at.min(first_word_by);
    let (status, reason, head_bytes) = loop {
        match Answer::parse(&answer).map_err(|_| NOT_HTTP)? {
            Answer::Final {
                status,
                reason,
                bytes,
            } => break (status, reason, bytes),
            Answer::Working { bytes } => {
                answer.drain(..bytes);
                until = terms.give_up_at;
                continue;
            }
            Answer::Incomplete => {}
        }
        match timeout_at(until, tunnel.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Err(Refusal::Down("it closed the connection")),
            Err(_elapsed) => return Err(Refusal::Silent),
        }
    };
    if (200..=299).contains(&status) {
        return if answer.len() == head_bytes {
            Ok(())
        } else {
            let Failure {
                outcome, detail, ..
            } = Failure::unasked();
            Err(Refusal::Said {
                outcome,
                detail: detail.into_owned(),
            })
        };
    }
    answer.drain(..head_bytes);
    // The verdict is in the head; its sentence is read as far as it has come by then.
    let _ = timeout_at(terms.give_up_at, read_sentence(tunnel, &mut answer)).await;
    let sentence = String::from_utf8_lossy(&answer);
    Err(refusal(status, reason.as_deref(), sentence.trim()))
}

const NOT_HTTP: Refusal = Refusal::Down("it does not speak HTTP/1.1");

/// How the time that is left is parted between a proxy and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// What the proxy is given. It says in this time what became of the endpoint, so that an endpoint
    /// which is slow to connect is charged on the proxy's word and never on its silence.
    within: Duration,
    /// When its silence is its own fault. Before the attempt's deadline, so that it is found out.
    give_up_at: Instant,
}

impl Terms {
    pub(super) fn between(now: Instant, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(now).min(ANSWER_TIME_MAX);
        let travel = (left / 4).min(TRAVEL_TIME_MAX);
        Self {
            within: left - travel,
            give_up_at: now + left - travel / 2,
        }
    }
}

/// The proxy closes behind its refusal, so the sentence is whatever comes until then.
async fn read_sentence(tunnel: &mut TcpStream, sentence: &mut Vec<u8>) {
    while sentence.len() < SENTENCE_BYTES_MAX {
        match tunnel.read_buf(sentence).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    sentence.truncate(SENTENCE_BYTES_MAX);
}

/// An answer without the reason header is not our proxy's, so nothing about the endpoint follows from
/// it, and a customer should not read its words. A reason this version does not know is judged by its
/// status.
fn refusal(status: u16, reason: Option<&str>, sentence: &str) -> Refusal {
    let outcome = match reason.map(str::parse::<EgressReason>) {
        None => return Refusal::Down("something else answers in its place"),
        Some(Ok(EgressReason::CredentialInvalid)) => {
            return Refusal::Down("it does not accept ZYVEN_EGRESS_CREDENTIAL");
        }
        Some(Ok(reason)) => reason.outcome(),
        Some(Err(_unknown)) => match status {
            403 => Outcome::Refused(RefusalReason::EgressDenied),
            502 | 504 => Outcome::Failed(FailureKind::Connect),
            _ => Outcome::Unsent,
        },
    };
    Refusal::Said {
        outcome,
        detail: sentence.to_owned(),
    }
}

/// Ours, not the proxy's: too many open files, ports or buffers.
fn is_exhaustion(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_out_of_files_or_ports_is_not_held_against_a_proxy() {
        let is_ours = |code| is_exhaustion(&std::io::Error::from_raw_os_error(code));
        assert!(is_ours(libc::EMFILE) && is_ours(libc::EADDRNOTAVAIL));
        assert!(!is_ours(libc::ECONNREFUSED) && !is_ours(libc::EHOSTUNREACH));
    }

    #[test]
    fn only_a_proxy_that_gives_its_reason_is_believed() {
        let outcome = |status, reason| match refusal(status, reason, "") {
            Refusal::Said { outcome, .. } => Some(outcome),
            Refusal::Down(_) | Refusal::Silent | Refusal::NotAsked(_) => None,
        };
        let denied = Some(Outcome::Refused(RefusalReason::EgressDenied));
        let failed = |kind| Some(Outcome::Failed(kind));
        assert_eq!(outcome(403, Some("denied_ip")), denied);
        assert_eq!(outcome(403, Some("denied_by_a_later_version")), denied);
        assert_eq!(outcome(403, None), None);
        assert_eq!(
            outcome(502, Some("dns_not_found")),
            failed(FailureKind::Dns)
        );
        assert_eq!(
            outcome(504, Some("unheard_of")),
            failed(FailureKind::Connect)
        );
        assert_eq!(outcome(502, None), None);
        assert_eq!(outcome(407, Some("credential_invalid")), None);
        assert_eq!(outcome(503, Some("overloaded")), Some(Outcome::Unsent));
        assert_eq!(
            outcome(400, Some("authority_invalid")),
            Some(Outcome::Refused(RefusalReason::InvalidUrl))
        );
    }

    #[test]
    fn a_proxy_is_given_less_than_what_is_left_and_found_out_before_it_is_over() {
        let now = Instant::now();
        let seconds = Duration::from_secs_f64;
        for (left, within, give_up_in) in [
            (30.0, 13.0, 13.5),
            (14.0, 13.0, 13.5),
            (4.0, 3.0, 3.5),
            (2.0, 1.5, 1.75),
            (0.1, 0.075, 0.0875),
            (0.0, 0.0, 0.0),
        ] {
            let terms = Terms::between(now, now + seconds(left));
            assert_eq!(terms.within, seconds(within), "{left}");
            assert_eq!(terms.give_up_at, now + seconds(give_up_in), "{left}");
        }
    }
}
