//! Receiving a body: what kind it is, that it is small enough, that it comes in time, that it is text.
//!
//! The checks stand in the order in which they are made. What nobody has read of a body when the answer
//! is clear, is still read up to [`DRAIN_BYTES_MAX`]: a server that closes a connection with unread bytes
//! resets it, and the client never sees the answer that says why.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use crate::openapi::{CLOUD_EVENT, CLOUD_EVENTS, JSON, LINES};
use crate::problem::{Code, Problem};

/// Bytes of a refused body that are read and thrown away before the answer is sent.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest time spent on that.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// First allocation for a body that comes in pieces.
const FIRST_PIECE_BYTES: usize = 8 * 1024;

/// How a body may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: one JSON value per line.
    Lines,
    /// `application/cloudevents+json`: one CloudEvent.
    CloudEvent,
    /// `application/cloudevents-batch+json`: an array of them.
    CloudEvents,
    /// Bytes of any type: what the headers of the request are about.
    Data,
}

/// Which formats somebody understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Json,
    /// One event, or one CloudEvent.
    Event,
    /// Several.
    Batch,
    /// Whatever it says it is.
    Data,
}

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) takes: Takes,
    pub(crate) bytes_max: usize,
    pub(crate) deadline: Duration,
}

/// The bytes of all bodies in memory, with a limit.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// A body's share of the [`Room`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            used: Arc::default(),
            bytes_max,
        }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn empty_share(&self) -> Share {
        self.share(0).expect("there is always room for nothing")
    }

    /// `None` where there is no room for so many.
    pub(crate) fn share(&self, bytes: usize) -> Option<Share> {
        // Taken first and given back if it was too much: two at the limit may both be refused, but
        // never both be let in.
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let share = Share {
            room: self.clone(),
            bytes,
        };
        (before + bytes <= self.bytes_max).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body that was received completely and is text.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) format: Format,
    pub(crate) share: Share,
}

impl Received {
    /// The text, of which slices can be turned back into [`Bytes`] without a copy.
    pub(crate) fn text(&self) -> Result<&str, Problem> {
        std::str::from_utf8(&self.bytes).map_err(|error| {
            Problem::new(
                Code::BodyNotUtf8,
                format!("The body is not UTF-8 at byte {}.", error.valid_up_to()),
            )
        })
    }
}

/// Receives a body, or refuses it for the first reason there is. What is left of it is the exchange's to
/// [`drain`].
pub(crate) async fn receive<B>(
    headers: &HeaderMap,
    mut body: B,
    allowed: Allowed,
    room: &Room,
) -> Result<Received, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (format, share) = admit(headers, &body, allowed, room)?;
    let bytes = timeout(allowed.deadline, collect(&mut body, allowed.bytes_max))
        .await
        .unwrap_or_else(|_| Err(too_late(allowed.deadline)))?;
    Ok(Received {
        bytes,
        format,
        share,
    })
}

/// Receives a body that need not be there. An empty one may be of any type: it has none.
pub(crate) async fn receive_perhaps<B>(
    headers: &HeaderMap,
    body: B,
    allowed: Allowed,
    room: &Room,
) -> Result<Option<Received>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(None);
    }
    let of_any_type = Allowed {
        takes: Takes::Data,
        ..allowed
    };
    let received = receive(headers, body, of_any_type, room).await?;
    if received.bytes.is_empty() {
        return Ok(None);
    }
    let format = format_of(only(headers, &CONTENT_TYPE), allowed.takes)?;
    Ok(Some(Received { format, ..received }))
}

/// Everything that can be told before the first byte.
fn admit<B: Body>(
    headers: &HeaderMap,
    body: &B,
    allowed: Allowed,
    room: &Room,
) -> Result<(Format, Share), Problem> {
    let format = format_of(only(headers, &CONTENT_TYPE), allowed.takes)?;
    let is_identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        return Err(Problem::new(
            Code::ContentEncodingUnsupported,
            "Send the body as it is, without Content-Encoding.",
        ));
    }
    let expected = body.size_hint();
    if expected.lower() > allowed.bytes_max as u64 {
        return Err(too_large(allowed.bytes_max));
    }
    // Without a length, room for the largest one.
    let bytes = expected
        .upper()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .map_or(allowed.bytes_max, |bytes| bytes.min(allowed.bytes_max));
    let share = room.share(bytes).ok_or_else(no_room)?;
    Ok((format, share))
}

/// A header that says one thing. Sent twice, it says nothing: whoever else reads the request may have
/// believed the other line.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn format_of(content_type: Option<&HeaderValue>, takes: Takes) -> Result<Format, Problem> {
    let given = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (essence, parameters) = given.split_once(';').unwrap_or((given, ""));
    let utf8 = match parameters.trim().split_once('=') {
        None => parameters.trim().is_empty(),
        Some((name, value)) => {
            name.eq_ignore_ascii_case("charset")
                && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
    };
    let formats: &[(&str, Format)] = match takes {
        Takes::Data => return Ok(Format::Data),
        Takes::Json => &[(JSON, Format::Json)],
        Takes::Event => &[(JSON, Format::Json), (CLOUD_EVENT, Format::CloudEvent)],
        Takes::Batch => &[
            (JSON, Format::Json),
            (LINES, Format::Lines),
            (CLOUD_EVENTS, Format::CloudEvents),
        ],
    };
    let essence = essence.trim();
    let found = formats
        .iter()
        .find(|(name, _)| utf8 && essence.eq_ignore_ascii_case(name));
    found.map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = formats.iter().map(|(name, _)| *name).collect();
        Problem::new(
            Code::ContentTypeUnsupported,
            format!(
                "Send \"Content-Type: {}\", in UTF-8.",
                names.join("\" or \"")
            ),
        )
    })
}

/// A small body mostly is one piece, which then is used as it is.
async fn collect<B>(body: &mut B, bytes_max: usize) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(first) = next_piece(body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let capacity = (first.len() + expected.max(FIRST_PIECE_BYTES)).min(bytes_max);
    let mut whole = BytesMut::with_capacity(capacity);
    whole.extend_from_slice(&first);
    while let Some(piece) = next_piece(body).await? {
        if whole.len() + piece.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The next bytes; trailers are skipped. A body that breaks off has nobody left to read the answer.
async fn next_piece<B>(body: &mut B) -> Result<Option<Bytes>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Problem::new(Code::BodyNotJson, "The body broke off before its end."))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads what is left of a body that nobody wants.
pub(crate) async fn drain<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return;
    }
    let mut left = DRAIN_BYTES_MAX;
    let draining = async {
        while let Ok(Some(piece)) = next_piece(&mut body).await {
            match left.checked_sub(piece.len()) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Late or endless: the connection is reset, as it would have been without all this.
    let _ = timeout(DRAIN_MAX, draining).await;
}

/// A body that comes back if whoever was to read it leaves something of it.
pub(crate) struct OnLoan {
    body: Option<Incoming>,
    returned: Returned,
}

/// Where a body comes back to.
#[derive(Clone, Default)]
pub(crate) struct Returned(Arc<Mutex<Option<Incoming>>>);

impl Returned {
    pub(crate) fn lend(&self, body: Incoming) -> OnLoan {
        OnLoan {
            body: Some(body),
            returned: self.clone(),
        }
    }

    pub(crate) fn take(&self) -> Option<Incoming> {
        // Held for a move, never across an await.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for OnLoan {
    fn drop(&mut self) {
        let mut place = self
            .returned
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = self.body.take();
    }
}

impl Body for OnLoan {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let empty = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(empty, Body::size_hint)
    }
}

pub(crate) fn no_room() -> Problem {
    Problem::overloaded("Too many bytes are being received; come again in a moment.")
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("The body must not be larger than {bytes_max} bytes."),
    )
}

fn too_late(deadline: Duration) -> Problem {
    Problem::new(
        Code::BodyTimeout,
        format!(
            "The body must arrive within {} ms of the head.",
            deadline.as_millis()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_taken_in_utf8_and_other_formats_where_they_make_sense() {
        let format = |text: &str, takes| {
            let value = HeaderValue::from_str(text).expect("a header value");
            format_of(Some(&value), takes).ok()
        };
        for takes in [Takes::Json, Takes::Event, Takes::Batch] {
            for json in ["application/json", "Application/JSON; charset=\"UTF-8\""] {
                assert_eq!(format(json, takes), Some(Format::Json));
            }
            for bad in [
                "application/json; charset=latin1",
                "application/json; x",
                "application/jsonx",
                "application/cloudevents",
                "text/plain",
                "",
            ] {
                assert_eq!(format(bad, takes), None, "{bad}");
            }
            assert!(format_of(None, takes).is_err());
        }
        for (text, only, meant) in [
            ("application/x-ndjson", Takes::Batch, Format::Lines),
            (
                "application/cloudevents+json",
                Takes::Event,
                Format::CloudEvent,
            ),
            (
                "application/cloudevents-batch+json",
                Takes::Batch,
                Format::CloudEvents,
            ),
        ] {
            for takes in [Takes::Json, Takes::Event, Takes::Batch] {
                let expected = (takes == only).then_some(meant);
                assert_eq!(format(text, takes), expected, "{text}, {takes:?}");
            }
        }
        assert_eq!(format("image/png", Takes::Data), Some(Format::Data));
        assert_eq!(format_of(None, Takes::Data).ok(), Some(Format::Data));
    }

    #[test]
    fn room_is_given_up_to_its_limit_and_comes_back() {
        let room = Room::new(10);
        let six = room.share(6).expect("there is room");
        assert!(room.share(5).is_none(), "refused, and not counted");
        let four = room.share(4);
        assert!(four.is_some());
        drop(six);
        assert_eq!(room.used_bytes(), 4);
        assert!(room.share(6).is_some());
    }
}
