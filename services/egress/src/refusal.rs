//! A refusal: why no tunnel was opened, and the answer that says so.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zyven_domain::address::{AddressClass, Denied};
use zyven_domain::target::{EGRESS_REASON_HEADER, EgressReason, Objection, TargetError};

/// How long a refused caller may take to fetch its answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// How much of what a refused caller still sends is read away.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;

/// Why no tunnel was opened.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: EgressReason,
    /// A sentence for the attempt's record, which its customer can read: it may say what kind of
    /// address was found, never which.
    pub(crate) detail: String,
    /// What kind of address was denied, if that was the reason.
    pub(crate) class: Option<AddressClass>,
}

impl Refusal {
    pub(crate) fn new(reason: EgressReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            class: None,
        }
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        let reason = match error.objection() {
            Objection::Malformed => EgressReason::AuthorityInvalid,
            Objection::Host => EgressReason::DeniedHost,
            Objection::Port => EgressReason::DeniedPort,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self {
            reason: EgressReason::DeniedIp,
            detail: denied.to_string(),
            class: Some(denied.class),
        }
    }
}

/// The whole answer.
pub(crate) fn answer(refusal: &Refusal) -> String {
    let Refusal { reason, detail, .. } = refusal;
    let status = reason.status();
    let phrase = phrase(*reason);
    let challenge = match reason {
        EgressReason::CredentialInvalid => "proxy-authenticate: Basic realm=\"zyven-egress\"\r\n",
        EgressReason::MethodNotAllowed => "allow: CONNECT\r\n",
        _ => "",
    };
    let body = format!("{detail}\n");
    let body_bytes = body.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\n\
         {EGRESS_REASON_HEADER}: {reason}\r\n\
         {challenge}\
         content-type: text/plain; charset=utf-8\r\n\
         content-length: {body_bytes}\r\n\
         connection: close\r\n\
         \r\n\
         {body}"
    )
}

fn phrase(reason: EgressReason) -> &'static str {
    match reason.status() {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    }
}

/// Sends the answer and closes. A socket closed with unread bytes is reset, and a reset can overtake
/// the answer; so what the caller still sends is read away first, within limits.
pub(crate) async fn send(refusal: &Refusal, client: &mut TcpStream) {
    let farewell = async {
        client.write_all(answer(refusal).as_bytes()).await?;
        client.shutdown().await?;
        let mut leftover = [0; 1024];
        let mut read_bytes = 0;
        while read_bytes < LEFTOVER_BYTES_MAX {
            match client.read(&mut leftover).await? {
                0 => break,
                bytes => read_bytes += bytes,
            }
        }
        std::io::Result::Ok(())
    };
    // The caller may be gone already; then nobody misses the answer.
    if let Ok(Err(error)) = timeout(FAREWELL, farewell).await {
        tracing::debug!(%error, "could not deliver a refusal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_its_reason_and_a_framed_body() {
        let refusal = Refusal::new(EgressReason::CredentialInvalid, "who are you?");
        assert_eq!(
            answer(&refusal),
            "HTTP/1.1 407 Proxy Authentication Required\r\n\
             x-zyven-egress-reason: credential_invalid\r\n\
             proxy-authenticate: Basic realm=\"zyven-egress\"\r\n\
             content-type: text/plain; charset=utf-8\r\n\
             content-length: 13\r\n\
             connection: close\r\n\r\n\
             who are you?\n"
        );
    }

    #[test]
    fn every_status_has_its_phrase() {
        for reason in EgressReason::ALL {
            assert_ne!(phrase(reason), "Refused", "{reason}");
        }
    }
}
