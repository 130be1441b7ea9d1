//! What a dispatcher and the egress proxy say to each other until there is a tunnel: one CONNECT head,
//! and the heads that answer it. Both sides and both directions, as bytes; sockets are the caller's.
//!
//! ```text
//! dispatcher → proxy   CONNECT hooks.example.com:443 HTTP/1.1
//!                      Host: hooks.example.com:443
//!                      Proxy-Authorization: Basic …
//!                      x-zyven-egress-within-ms: 13000
//!
//! proxy → dispatcher   HTTP/1.1 102 Processing               if the decision takes a while
//!
//!                      HTTP/1.1 200 Connection established   or a refusal with its reason
//! ```
//!
//! The last field of the request is what lets a dispatcher tell a slow endpoint from a broken proxy
//! (ADR 0021): the proxy promises to say what came of it *within* that time, and to say that it is
//! alive before that. So silence is never the endpoint's. A caller that does not ask, such as curl,
//! gets no interim answer and the proxy's own limits.
//!
//! The refusals' reasons are in [`crate::target::EgressReason`].

mod answer;
mod request;

pub use answer::{Answer, WORKING};
pub use request::{Request, basic};

/// The largest head either side reads. A CONNECT with a credential takes some 250 bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The header by which a caller says within how many milliseconds it needs the final answer.
pub const WITHIN_HEADER: &str = "x-zyven-egress-within-ms";

/// More fields than this are nobody's head here.
const FIELDS_MAX: usize = 64;

/// The bytes are no HTTP/1.1 head as the two sides write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the head is not HTTP/1.1")]
pub struct NotAHead;

#[cfg(test)]
mod tests;
