//! The ways in which a receiver can answer, decently or not.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

/// What a [`crate::Receiver`] does with one request, once it has read all of it.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) delay: Duration,
    pub(super) manner: Manner,
}

#[derive(Debug, Clone)]
pub(super) enum Manner {
    Http {
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Body,
    },
    /// These bytes as they are, then the connection is closed.
    Raw(Bytes),
    Hang,
    Reset,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Whole(Bytes),
    /// Announces a length, sends this much of it, and closes.
    CutShort {
        announced_bytes: u64,
        sent: Bytes,
    },
    /// One piece after each pause; for ever when `pieces` is `None`.
    Trickle {
        piece: Bytes,
        pause: Duration,
        pieces: Option<u64>,
    },
}

impl Default for Answer {
    fn default() -> Answer {
        Answer::status(200)
    }
}

impl Answer {
    /// This status and an empty body.
    ///
    /// # Panics
    ///
    /// When it is not between 100 and 999.
    #[must_use]
    pub fn status(status: u16) -> Answer {
        let status = StatusCode::from_u16(status)
            .unwrap_or_else(|_| panic!("{status} is not an HTTP status"));
        Answer::with(Manner::Http {
            status,
            headers: Vec::new(),
            body: Body::Whole(Bytes::new()),
        })
    }

    /// Reads the request and then keeps the connection open in silence.
    #[must_use]
    pub fn hang() -> Answer {
        Answer::with(Manner::Hang)
    }

    /// Reads the request and then resets the connection (RST).
    #[must_use]
    pub fn reset() -> Answer {
        Answer::with(Manner::Reset)
    }

    /// Reads the request and then closes the connection without a word (FIN).
    #[must_use]
    pub fn close() -> Answer {
        Answer::raw("")
    }

    /// Sends exactly these bytes and closes: for answers that are not HTTP.
    #[must_use]
    pub fn raw(bytes: impl Into<Bytes>) -> Answer {
        Answer::with(Manner::Raw(bytes.into()))
    }

    /// 200 with a body of `announced_bytes` of which only `sent` comes before the connection is closed.
    #[must_use]
    pub fn cut_short(announced_bytes: u64, sent: impl Into<Bytes>) -> Answer {
        Answer::status(200).with_body(Body::CutShort {
            announced_bytes,
            sent: sent.into(),
        })
    }

    /// 200 with a body that comes as one piece after every pause, `pieces` times.
    #[must_use]
    pub fn trickle(piece: impl Into<Bytes>, pause: Duration, pieces: u64) -> Answer {
        Answer::status(200).with_body(Body::Trickle {
            piece: piece.into(),
            pause,
            pieces: Some(pieces),
        })
    }

    /// 200 with a body that never ends, as fast as it is read.
    #[must_use]
    pub fn endless() -> Answer {
        let piece = Bytes::from(vec![b'z'; 16 * 1024]);
        Answer::status(200).with_body(Body::Trickle {
            piece,
            pause: Duration::ZERO,
            pieces: None,
        })
    }

    /// Adds a header.
    ///
    /// # Panics
    ///
    /// When name or value cannot be in a header, or the answer has no head.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        let name = name
            .parse()
            .unwrap_or_else(|_| panic!("{name:?} cannot be a header's name"));
        let value = value
            .parse()
            .unwrap_or_else(|_| panic!("{value:?} cannot be a header's value"));
        match &mut self.manner {
            Manner::Http { headers, .. } => headers.push((name, value)),
            Manner::Raw(_) | Manner::Hang | Manner::Reset => {
                panic!("this answer has no headers: {self:?}")
            }
        }
        self
    }

    /// Sets the body.
    ///
    /// # Panics
    ///
    /// When the answer has no head.
    #[must_use]
    pub fn body(self, bytes: impl Into<Bytes>) -> Answer {
        self.with_body(Body::Whole(bytes.into()))
    }

    /// Waits this long between the request's last byte and the answer's first.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Answer {
        self.delay = delay;
        self
    }

    fn with(manner: Manner) -> Answer {
        Answer {
            delay: Duration::ZERO,
            manner,
        }
    }

    fn with_body(mut self, new: Body) -> Answer {
        match &mut self.manner {
            Manner::Http { body, .. } => *body = new,
            Manner::Raw(_) | Manner::Hang | Manner::Reset => {
                panic!("this answer has no body: {self:?}")
            }
        }
        self
    }
}
