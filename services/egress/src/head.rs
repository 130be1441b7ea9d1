//! Reading the head of a CONNECT request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use zyven_domain::target::EgressReason;

use crate::refusal::Refusal;

/// The largest head. A CONNECT with a credential takes some 200 bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// More fields than this are nobody's CONNECT.
const FIELDS_MAX: usize = 64;
const END: &[u8] = b"\r\n\r\n";

/// What was asked for, unjudged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// The request target, an authority if the method is CONNECT.
    pub(crate) target: String,
    /// The only `Proxy-Authorization` field; none if there are several.
    pub(crate) authorization: Option<Vec<u8>>,
}

/// Reads one head. `Ok(None)` if the caller left before it had asked for anything, as port checks do.
pub(crate) async fn read(
    client: &mut (impl AsyncRead + Unpin),
    at_most: Duration,
) -> Result<Option<Head>, Refusal> {
    match timeout(at_most, read_bytes(client)).await {
        Ok(Ok(Some(bytes))) => parse(&bytes).map(Some),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(refusal)) => Err(refusal),
        Err(_elapsed) => Err(Refusal::new(
            EgressReason::HeadTimeout,
            "the request head did not arrive in time",
        )),
    }
}

async fn read_bytes(client: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, Refusal> {
    let mut head = Vec::with_capacity(1024);
    loop {
        // The end may be split over two reads.
        let searched = head.len().saturating_sub(END.len() - 1);
        let room = HEAD_BYTES_MAX - head.len();
        match (&mut *client).take(room as u64).read_buf(&mut head).await {
            Ok(0) if room == 0 => {
                let limit = format!("the request head is larger than {HEAD_BYTES_MAX} bytes");
                return Err(Refusal::new(EgressReason::HeadTooLarge, limit));
            }
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => {
                log_lost(&error);
                return Ok(None);
            }
        }
        let end = head[searched..]
            .windows(END.len())
            .position(|window| window == END)
            .map(|position| searched + position + END.len());
        match end {
            None => {}
            Some(end) if end == head.len() => return Ok(Some(head)),
            // What follows a CONNECT belongs to the tunnel, and there is none yet. A caller that talks
            // ahead would have its bytes sent to a host it does not know to be accepted.
            Some(_) => {
                return Err(Refusal::new(
                    EgressReason::HeadMalformed,
                    "nothing may follow the request head before it is answered",
                ));
            }
        }
    }
}

fn log_lost(error: &io::Error) {
    tracing::debug!(%error, "lost a caller before its request was complete");
}

fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let malformed = || {
        Refusal::new(
            EgressReason::HeadMalformed,
            "the request head is not HTTP/1.1",
        )
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(bytes).map_err(|_| malformed())?;
    let (httparse::Status::Complete(_), Some(method), Some(target), Some(1)) =
        (status, request.method, request.path, request.version)
    else {
        return Err(malformed());
    };

    let mut authorizations = request
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("proxy-authorization"));
    let authorization = match (authorizations.next(), authorizations.next()) {
        (Some(only), None) => Some(only.value.to_vec()),
        (None | Some(_), _) => None,
    };
    Ok(Head {
        method: method.to_owned(),
        target: target.to_owned(),
        authorization,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_from(mut bytes: &[u8]) -> Result<Option<Head>, EgressReason> {
        read(&mut bytes, Duration::from_secs(5))
            .await
            .map_err(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn a_head_is_taken_apart() {
        let head = read_from(
            b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nPROXY-Authorization: Basic abc\r\n\r\n",
        )
        .await
        .unwrap()
        .unwrap();
        assert_eq!(head.method, "CONNECT");
        assert_eq!(head.target, "example.com:443");
        assert_eq!(head.authorization.as_deref(), Some(&b"Basic abc"[..]));
    }

    #[tokio::test]
    async fn two_credentials_are_none() {
        let head = read_from(
            b"CONNECT a.b:1 HTTP/1.1\r\nProxy-Authorization: a\r\nproxy-authorization: b\r\n\r\n",
        )
        .await
        .unwrap()
        .unwrap();
        assert_eq!(head.authorization, None);
    }

    #[tokio::test]
    async fn only_well_formed_http_1_1_is_read() {
        for bytes in [
            &b"CONNECT a.b:1 HTTP/1.0\r\n\r\n"[..],
            b"CONNECT a.b:1\r\n\r\n",
            b"\x16\x03\x01 a.b:1 HTTP/1.1\r\n\r\n",
            b"CONNECT a.b:1 HTTP/1.1\r\nbad field: x\r\n\r\n",
            b"CONNECT a.b:1 HTTP/1.1\r\nno-colon\r\n\r\n",
            b"CONNECT a.b:1 HTTP/1.1\r\n\r\ntoo early",
        ] {
            assert_eq!(
                read_from(bytes).await,
                Err(EgressReason::HeadMalformed),
                "{bytes:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_caller_that_leaves_early_asked_for_nothing() {
        assert_eq!(read_from(b"").await, Ok(None));
        assert_eq!(read_from(b"CONNECT a.b:1 HTTP").await, Ok(None));
    }

    #[tokio::test]
    async fn a_head_has_a_largest_size() {
        let start = "CONNECT a.b:1 HTTP/1.1\r\nx: ";
        let head = |bytes: usize| format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4));
        assert!(read_from(head(HEAD_BYTES_MAX).as_bytes()).await.is_ok());
        assert_eq!(
            read_from(head(HEAD_BYTES_MAX + 1).as_bytes()).await,
            Err(EgressReason::HeadTooLarge)
        );
    }
}
