//! The tunnel: bytes in both directions until somebody is done.
//!
//! Every delivered request passes through here, so this is the hot path of the process. One task moves
//! both directions. Bytes go through a buffer the thread's tunnels share, because a chunk is nearly
//! always written at once; only what a slow reader leaves over is kept by the tunnel itself, so an idle
//! tunnel owns no buffer at all. Time is looked at once per tick, not once per chunk.
//!
//! # How a tunnel ends
//!
//! - One side closes or fails: what it sent is still passed on, then both are closed (RFC 9110,
//!   section 9.3.6). An endpoint may well answer and reset amid a request it does not want to read; that
//!   answer is the reason why a failed write ends nothing by itself.
//! - It was *idle*: no byte for the idle limit (and at most half of it longer).
//! - It is *retired*, and between two exchanges. A tunnel retires when the process stops, or at half of
//!   its lifetime or of its bytes. Callers keep connections open between requests, and cutting one amid
//!   an answer costs an attempt. So a retired tunnel ends when the endpoint spoke last and nothing moved
//!   for a tick; and where one request follows another, it ends in front of the next: not a byte of that
//!   one is passed on, so its caller may send it elsewhere and nobody gets it twice.
//! - It reached the whole of its lifetime or of its bytes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Most bytes moved by one pair of system calls.
const CHUNK_BYTES: usize = 16 * 1024;
/// How long a retired tunnel must be quiet behind an answer before it ends, and how often that is
/// looked at.
const RETIRED_TICK: Duration = Duration::from_millis(100);
/// How often a caller speaks until its first request is under way, at most: a TLS handshake takes three
/// turns at worst (RFC 8446, section 4.1.4; RFC 5246, section 7.3), the last of which may carry the request. What a
/// caller says in these turns and right behind them (a body after the server's session tickets) has to pass, because on a
/// fresh connection nothing is sent again.
const HANDSHAKE_TURNS_MAX: u32 = 3;

thread_local! {
    /// Borrowed within one poll, never across one.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// When a tunnel ends whatever its two sides think.
#[derive(Debug, Clone)]
pub(crate) struct TunnelLimits {
    pub(crate) idle: Duration,
    pub(crate) lifetime: Duration,
    /// Both directions together.
    pub(crate) bytes_max: u64,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// One side closed.
    Finished,
    /// One side was reset.
    Broken,
    Idle,
    /// Retired, and between two exchanges.
    Retired,
    LifetimeOver,
    BytesSpent,
}

impl End {
    pub(crate) const ALL: [Self; 6] = [
        Self::Finished,
        Self::Broken,
        Self::Idle,
        Self::Retired,
        Self::LifetimeOver,
        Self::BytesSpent,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Retired => "retired",
            Self::LifetimeOver => "lifetime_over",
            Self::BytesSpent => "bytes_spent",
        }
    }
}

/// What passed through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relayed {
    pub(crate) end: End,
    pub(crate) to_endpoint_bytes: u64,
    pub(crate) to_caller_bytes: u64,
}

/// Relays until the tunnel ends; `stop` retires it. Dropping the future cuts it.
pub(crate) async fn relay(
    caller: TcpStream,
    endpoint: TcpStream,
    limits: &TunnelLimits,
    stop: impl Future<Output = ()>,
) -> Relayed {
    let mut tunnel = Tunnel::new(caller, endpoint, limits);
    let mut tick = pin!(sleep(tunnel.tick_every()));
    let mut stop = pin!(stop);
    let end = poll_fn(|cx| tunnel.poll(cx, tick.as_mut(), stop.as_mut())).await;
    Relayed {
        end,
        to_endpoint_bytes: tunnel.to_endpoint.bytes,
        to_caller_bytes: tunnel.to_caller.bytes,
    }
}

struct Tunnel<'a> {
    caller: TcpStream,
    endpoint: TcpStream,
    to_endpoint: Direction,
    to_caller: Direction,
    limits: &'a TunnelLimits,
    began: Instant,
    retired: bool,
    /// Nothing more can be written to the endpoint; what it has said is still to be read.
    endpoint_is_deaf: bool,
    stop_seen: bool,
    /// Who was heard last; the endpoint if both were at once.
    endpoint_spoke_last: bool,
    /// The last that was heard is the endpoint, and it alone.
    is_answered: bool,
    /// How often the caller began to speak, at first and after the endpoint.
    turns: u32,
    bytes_at_tick: u64,
    /// The tick that last noticed bytes.
    quiet_since: Instant,
}

impl<'a> Tunnel<'a> {
    fn new(caller: TcpStream, endpoint: TcpStream, limits: &'a TunnelLimits) -> Self {
        let began = Instant::now();
        Self {
            caller,
            endpoint,
            to_endpoint: Direction::default(),
            to_caller: Direction::default(),
            limits,
            began,
            retired: false,
            endpoint_is_deaf: false,
            stop_seen: false,
            endpoint_spoke_last: false,
            is_answered: false,
            turns: 0,
            bytes_at_tick: 0,
            quiet_since: began,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut tick: Pin<&mut Sleep>,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<End> {
        let bytes_before = self.bytes();
        if let Some(end) = self.pump(cx) {
            return Poll::Ready(end);
        }

        let mut ticked = false;
        while tick.as_mut().poll(cx).is_ready() {
            ticked = true;
            if let Some(end) = self.on_tick() {
                return Poll::Ready(end);
            }
            tick.as_mut().reset(Instant::now() + self.tick_every());
        }

        // The same task polls each time, so the first poll leaves the waker that `stop` calls. Polling
        // it takes a lock all tunnels share; so a poll that moved bytes does without, and a wake-up
        // that coincides with bytes is made up for by the next tick.
        let moved = self.bytes() != bytes_before;
        let due = ticked || !moved || bytes_before == 0;
        if due && !self.stop_seen && stop.poll(cx).is_ready() {
            self.stop_seen = true;
            self.retire(tick, cx);
        }
        Poll::Pending
    }

    /// Moves what can be moved in both directions.
    fn pump(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if self.retired && self.is_between_exchanges() && self.caller_speaks(cx) {
            return Some(End::Retired);
        }
        let Self {
            caller, endpoint, ..
        } = self;
        let (request_before, answer_before) = (self.to_endpoint.bytes, self.to_caller.bytes);
        let bytes_max = self.limits.bytes_max;
        let (request, answer) = CHUNK.with_borrow_mut(|chunk| {
            let stop_at = bytes_max.saturating_sub(answer_before);
            let request = if self.endpoint_is_deaf {
                Poll::Pending
            } else {
                self.to_endpoint.pump(caller, endpoint, chunk, stop_at, cx)
            };
            let stop_at = bytes_max.saturating_sub(self.to_endpoint.bytes);
            let answer = self.to_caller.pump(endpoint, caller, chunk, stop_at, cx);
            (request, answer)
        });
        let (asks, answers) = (
            self.to_endpoint.bytes != request_before,
            self.to_caller.bytes != answer_before,
        );
        if asks {
            self.turns += u32::from(self.endpoint_spoke_last || self.turns == 0);
        }
        if asks || answers {
            self.endpoint_spoke_last = answers;
            self.is_answered = answers && !asks;
        }

        match (request, answer) {
            (Poll::Ready(Err(Broken::Reader)), _) | (_, Poll::Ready(Err(_))) => Some(End::Broken),
            (Poll::Ready(Err(Broken::Writer)), Poll::Ready(Ok(()))) => Some(End::Broken),
            // Its socket may hold an answer that this thread has not been woken for.
            (Poll::Ready(Err(Broken::Writer)), Poll::Pending) => {
                self.endpoint_is_deaf = true;
                None
            }
            (Poll::Pending, Poll::Ready(Ok(()))) if self.endpoint_is_deaf => Some(End::Broken),
            (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) => Some(End::Finished),
            (Poll::Pending, Poll::Pending) => {
                (self.bytes() >= self.limits.bytes_max).then_some(End::BytesSpent)
            }
        }
    }

    /// As far as can be told from outside: an endpoint that answers amid a request looks as if it had ended.
    fn is_between_exchanges(&self) -> bool {
        let is_passed_on =
            self.to_endpoint.leftover.is_empty() && self.to_caller.leftover.is_empty();
        self.is_answered && is_passed_on && self.turns > HANDSHAKE_TURNS_MAX
    }

    /// Whether the caller has sent something that was not read yet; its end is none of that.
    fn caller_speaks(&self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let peeked = self.caller.poll_peek(cx, &mut ReadBuf::new(&mut byte));
        matches!(peeked, Poll::Ready(Ok(1..)))
    }

    fn on_tick(&mut self) -> Option<End> {
        let now = Instant::now();
        let bytes = self.bytes();
        let quiet = bytes == self.bytes_at_tick;
        if !quiet {
            self.bytes_at_tick = bytes;
            self.quiet_since = now;
        }
        let age = now.duration_since(self.began);
        if age >= self.limits.lifetime {
            return Some(End::LifetimeOver);
        }
        if self.retired && quiet && self.endpoint_spoke_last {
            return Some(End::Retired);
        }
        if now.duration_since(self.quiet_since) >= self.limits.idle {
            return Some(End::Idle);
        }
        self.retired |= age >= self.limits.lifetime / 2 || bytes >= self.limits.bytes_max / 2;
        None
    }

    /// Retires ahead of the next tick, and makes that tick come soon.
    fn retire(&mut self, mut tick: Pin<&mut Sleep>, cx: &mut Context<'_>) {
        self.retired = true;
        tick.as_mut().reset(Instant::now() + RETIRED_TICK);
        // A timer that was reset has to be polled to call its waker.
        if tick.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// How late a limit may be noticed.
    fn tick_every(&self) -> Duration {
        if self.retired {
            RETIRED_TICK
        } else {
            (self.limits.idle / 2).min(self.limits.lifetime / 2)
        }
    }

    fn bytes(&self) -> u64 {
        self.to_endpoint.bytes + self.to_caller.bytes
    }
}

/// Whose socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Reader,
    Writer,
}

/// One way through the tunnel.
#[derive(Default)]
struct Direction {
    /// Bytes handed to the writer's socket.
    bytes: u64,
    /// What was read and not yet written. Keeps its allocation once a slow reader has caused one.
    leftover: Vec<u8>,
    /// How much of it has been written.
    written: usize,
    ended: bool,
}

impl Direction {
    /// Reads and writes until one of the sockets cannot go on, or until `stop_at` bytes went this way
    /// since the tunnel was opened; whoever sets that limit looks whether it was reached. Ready when
    /// the reader has ended and all of it was passed on. Tokio's cooperative budget keeps one busy
    /// tunnel from starving the others.
    fn pump(
        &mut self,
        reader: &mut TcpStream,
        writer: &mut TcpStream,
        chunk: &mut [u8],
        stop_at: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_leftover(writer, cx)).map_err(|_| Broken::Writer)?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let room = usize::try_from(stop_at.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
            if room == 0 {
                return Poll::Pending;
            }
            let end = room.min(chunk.len());
            let mut chunk = ReadBuf::new(&mut chunk[..end]);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut chunk)).map_err(|_| Broken::Reader)?;
            let read = chunk.filled();
            if read.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let written = match Pin::new(&mut *writer).poll_write(cx, read) {
                Poll::Ready(written) => written.map_err(|_| Broken::Writer)?,
                Poll::Pending => 0,
            };
            self.bytes += written as u64;
            self.leftover.extend_from_slice(&read[written..]);
        }
    }

    fn poll_leftover(
        &mut self,
        writer: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.leftover.len() {
            let rest = &self.leftover[self.written..];
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.bytes += written as u64;
        }
        self.leftover.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
