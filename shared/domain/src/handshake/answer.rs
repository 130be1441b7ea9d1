//! The proxy's answer: written by the proxy, read by the dispatcher.

use super::{FIELDS_MAX, HEAD_BYTES_MAX, NotAHead};
use crate::target::EGRESS_REASON_HEADER;

/// The interim answer of a proxy that is looking for the endpoint (RFC 2518, section 10.1).
pub const WORKING: &str = "HTTP/1.1 102 Processing\r\n\r\n";

/// What stands at the beginning of the bytes a proxy has sent so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The beginning of a head. Read more.
    Incomplete,
    /// An interim answer of this many bytes: the proxy is alive, and the final answer follows.
    Working {
        /// Its length.
        bytes: usize,
    },
    /// The final answer's head.
    Final {
        /// The HTTP status, 200 or higher.
        status: u16,
        /// The value of the reason header, which every refusal of our proxy has.
        reason: Option<String>,
        /// The head's length; what follows is a refusal's sentence.
        bytes: usize,
    },
}

impl Answer {
    /// Reads the first head of `bytes`.
    ///
    /// # Errors
    ///
    /// [`NotAHead`] if it is not HTTP/1.x, or larger than [`HEAD_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAHead> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let bytes = match answer.parse(bytes).map_err(|_| NotAHead)? {
            httparse::Status::Complete(head_bytes) if head_bytes <= HEAD_BYTES_MAX => head_bytes,
            httparse::Status::Partial if bytes.len() < HEAD_BYTES_MAX => {
                return Ok(Self::Incomplete);
            }
            httparse::Status::Complete(_) | httparse::Status::Partial => return Err(NotAHead),
        };
        match answer.code.ok_or(NotAHead)? {
            // Switching protocols is final, and nothing that was asked for.
            100 | 102..=199 => Ok(Self::Working { bytes }),
            status @ 200.. => Ok(Self::Final {
                status,
                reason: answer
                    .headers
                    .iter()
                    .find(|field| field.name.eq_ignore_ascii_case(EGRESS_REASON_HEADER))
                    .map(|field| String::from_utf8_lossy(field.value).into_owned()),
                bytes,
            }),
            0..=99 | 101 => Err(NotAHead),
        }
    }
}
