//! One HTTP/1.1 connection, moved along by whoever uses it.
//!
//! hyper wants its side of a connection polled while anything is under way, usually by a task per
//! connection. Here the attempt itself polls it: an answer then wakes one task instead of two, dropping
//! the attempt closes the socket at once, and an idle connection is no task at all. What happens to it
//! meanwhile is seen when it is taken up again, or swept.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection as Driver, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::wire::{Heard, Stream, Wire};

type Sent = Request<Full<Bytes>>;

/// A connection with at most one exchange under way. Closes when dropped.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// None once it has ended: dropping hyper's side tells everything that waits for it.
    driver: Option<Box<Driver<TokioIo<Wire>, Full<Bytes>>>>,
    heard: Heard,
    idle_since: Instant,
}

impl Connection {
    pub(super) async fn open(http: &Builder, stream: Stream) -> Result<Self, hyper::Error> {
        let (wire, heard) = Wire::new(stream);
        let (sender, driver) = http.handshake(TokioIo::new(wire)).await?;
        Ok(Self {
            sender,
            driver: Some(Box::new(driver)),
            heard,
            idle_since: Instant::now(),
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn ask(
        &mut self,
        request: Sent,
    ) -> Result<Response<Incoming>, TrySendError<Sent>> {
        self.heard.forget();
        let answer = self.sender.try_send_request(request);
        self.drive(answer).await
    }

    /// Whether anything at all came back since the last request.
    pub(super) fn has_heard_anything(&self) -> bool {
        self.heard.anything()
    }

    /// Sees `future` through, which waits for something on this connection.
    pub(super) async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.advance(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Whether another request may be sent. Not so if the other side has closed, if there are bytes
    /// that belong to no answer, or if the last request was never read to its end.
    pub(super) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| {
            self.advance(cx);
            Poll::Ready(self.is_ready())
        })
        .await
    }

    /// Like [`Connection::is_reusable`], for a connection that is idle and stays so.
    pub(super) fn look_alive(&mut self) -> bool {
        self.advance(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && !self.heard.writes_fail()
    }

    /// Marks the beginning of an idle time.
    pub(super) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    pub(super) fn idle_time(&self) -> Duration {
        self.idle_since.elapsed()
    }

    fn advance(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else {
            return;
        };
        if let Poll::Ready(ended) = Pin::new(driver).poll(cx) {
            if let Err(error) = ended {
                tracing::trace!(%error, "a connection ended");
            }
            self.driver = None;
        }
    }
}
