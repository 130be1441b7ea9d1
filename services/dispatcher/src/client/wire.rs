//! The stream an exchange runs over: the tunnel itself, or TLS inside it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use zyven_crash_points::CrashPoint;

/// What has been noticed about a connection's two directions.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Noticed>);

#[derive(Default)]
struct Noticed {
    something: AtomicBool,
    writes_fail: AtomicBool,
}

impl Heard {
    pub(super) fn forget(&self) {
        self.0.something.store(false, Ordering::Relaxed);
    }

    /// Whether anything of an answer has arrived since the last request went out. That decides whether
    /// a request on a reused connection may be sent again on a fresh one.
    ///
    /// Relaxed is enough: the error that makes somebody ask came through a channel, after the byte.
    pub(super) fn anything(&self) -> bool {
        self.0.something.load(Ordering::Relaxed)
    }

    /// Whether the other side has stopped listening.
    pub(super) fn writes_fail(&self) -> bool {
        self.0.writes_fail.load(Ordering::Relaxed)
    }
}

/// A connected stream that remembers whether the other side has said something, and that goes on being
/// read when it can no longer be written: a server that does not want a request answers and closes
/// while the request is still being sent, and that answer counts (RFC 9112, section 9.5). So a write
/// to somebody who has gone succeeds, and how the connection ended is what reading says.
pub(super) struct Wire {
    stream: Stream,
    heard: Heard,
}

pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed: a TLS session is a kilobyte that plain connections need not carry.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(super) fn new(stream: Stream) -> (Self, Heard) {
        let heard = Heard::default();
        let wire = Self {
            stream,
            heard: heard.clone(),
        };
        (wire, heard)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.heard.0.something.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl Wire {
    /// What became of a piece of a request.
    fn written(&self, polled: Poll<io::Result<usize>>, bytes: usize) -> Poll<io::Result<usize>> {
        let polled = self.sent(polled, bytes);
        if let Poll::Ready(Ok(_)) = &polled {
            CrashPoint::DispatcherAmidRequest.reached();
        }
        polled
    }

    /// What became of a write, or of `otherwise` where nobody is there to take it.
    fn sent<T>(&self, polled: Poll<io::Result<T>>, otherwise: T) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.heard.0.writes_fail.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(otherwise))
            }
            polled => polled,
        }
    }
}

/// The other side has closed or reset the connection, so that reading comes to an end as well.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.heard.writes_fail() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.written(polled, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if self.heard.writes_fail() {
            return Poll::Ready(Ok(bytes));
        }
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.written(polled, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.heard.writes_fail() {
            return Poll::Ready(Ok(()));
        }
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.sent(polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn who_answers_and_goes_is_still_heard() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let (mut wire, heard) = Wire::new(Stream::Plain(ours));
        // Unread bytes turn closing into a reset.
        let sent = poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"request")).await;
        assert_eq!(sent.unwrap(), 7);
        other.write_all(b"no").unwrap();
        drop(other);
        // However often: the first write after a reset fails otherwise than those after it.
        for _ in 0..3 {
            let sent = poll_fn(|cx| Pin::new(&mut wire).poll_write(cx, b"more")).await;
            assert_eq!(sent.unwrap(), 4);
            let slices = [IoSlice::new(b"mo"), IoSlice::new(b"re")];
            let sent = poll_fn(|cx| Pin::new(&mut wire).poll_write_vectored(cx, &slices)).await;
            assert_eq!(sent.unwrap(), 4);
            let flushed = poll_fn(|cx| Pin::new(&mut wire).poll_flush(cx)).await;
            assert!(flushed.is_ok());
        }
        assert!(heard.writes_fail());
        let mut answer = [0; 2];
        wire.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no");
        assert!(heard.anything());
        let end = wire.read(&mut answer).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
