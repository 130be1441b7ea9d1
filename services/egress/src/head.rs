//! Reading the head of a CONNECT request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use zyven_domain::handshake::{HEAD_BYTES_MAX, Request};
use zyven_domain::target::EgressReason;

use crate::refusal::Refusal;

const END: &[u8] = b"\r\n\r\n";

/// Reads one head. `Ok(None)` if the caller left before it had asked for anything, as port checks do.
pub(crate) async fn read(
    client: &mut (impl AsyncRead + Unpin),
    at_most: Duration,
) -> Result<Option<Request>, Refusal> {
    match timeout(at_most, read_bytes(client)).await {
        Ok(Ok(Some(bytes))) => match Request::parse(&bytes) {
            Ok(request) => Ok(Some(request)),
            Err(error) => Err(Refusal::new(EgressReason::HeadMalformed, error.to_string())),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_from(mut bytes: &[u8]) -> Result<Option<Request>, EgressReason> {
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
    async fn what_is_no_head_and_what_follows_one_is_refused() {
        for bytes in [
            &b"hello\r\n\r\n"[..],
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
