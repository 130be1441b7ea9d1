//! A connection's socket, which does not wait for ever for a client that does not read.
//!
//! Head and body of a request have deadlines of their own. Without this one, a client that asks and
//! never takes the answer would hold its place among the connections until it goes.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

pub(crate) struct Socket {
    stream: TcpStream,
    stall_max: Duration,
    /// Running while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    hearing: Hearing,
}

/// Who was heard last on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// Nobody has said anything yet.
    Nobody,
    /// The client has said something, be it a part of a head, that nothing was answered to yet.
    Client,
    /// We have answered, or are answering.
    Server,
}

/// Shows who was heard last, from outside the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hearing(Arc<AtomicU8>);

impl Hearing {
    const CLIENT: u8 = 1;
    const SERVER: u8 = 2;

    /// Relaxed is enough: whoever asks is the task that reads and writes.
    pub(crate) fn last_speaker(&self) -> Speaker {
        match self.0.load(Ordering::Relaxed) {
            Self::CLIENT => Speaker::Client,
            Self::SERVER => Speaker::Server,
            _ => Speaker::Nobody,
        }
    }

    fn note(&self, speaker: u8) {
        self.0.store(speaker, Ordering::Relaxed);
    }
}

impl Socket {
    /// Writing fails once the client has taken nothing for `stall_max`.
    pub(crate) fn new(stream: TcpStream, stall_max: Duration) -> Self {
        Self {
            stream,
            stall_max,
            stalled: None,
            hearing: Hearing::default(),
        }
    }

    /// Tells who was heard last, from now on.
    pub(crate) fn hearing(&self) -> Hearing {
        self.hearing.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.hearing.note(Hearing::CLIENT);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            self.hearing.note(Hearing::SERVER);
            return Poll::Ready(written);
        }
        let stall_max = self.stall_max;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(stall_max)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    // A TCP socket keeps nothing back: what was written has been handed to the system.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
