//! The CONNECT request: written by the dispatcher, read by the proxy.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{FIELDS_MAX, NotAHead, WITHIN_HEADER};

/// What was asked for, unjudged. A caller may have written anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `CONNECT`, if the caller knows where it is.
    pub method: String,
    /// The request target, an authority if the method is CONNECT.
    pub target: String,
    /// The value of the only `Proxy-Authorization` field; none if there are several.
    pub authorization: Option<Vec<u8>>,
    /// Within which time the caller needs the final answer.
    pub within: Option<Duration>,
}

impl Request {
    /// Reads a whole head, which ends where the bytes end.
    ///
    /// # Errors
    ///
    /// [`NotAHead`] if it is not HTTP/1.1, if bytes follow, or if the time is not a number of
    /// milliseconds: what a caller promised itself must not be guessed.
    pub fn parse(head: &[u8]) -> Result<Self, NotAHead> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let status = request.parse(head).map_err(|_| NotAHead)?;
        let (httparse::Status::Complete(head_bytes), Some(method), Some(target), Some(1)) =
            (status, request.method, request.path, request.version)
        else {
            return Err(NotAHead);
        };
        // A lenient reader ends a head at a bare line feed; what follows would go unseen.
        if head_bytes != head.len() {
            return Err(NotAHead);
        }
        let within = match values(request.headers, WITHIN_HEADER) {
            (None, _) => None,
            (Some(only), None) => Some(parse_ms(only).ok_or(NotAHead)?),
            (Some(_), Some(_)) => return Err(NotAHead),
        };
        let authorization = match values(request.headers, "proxy-authorization") {
            (Some(only), None) => Some(only.to_vec()),
            (None | Some(_), _) => None,
        };
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            authorization,
            within,
        })
    }

    /// The password the caller presents (RFC 7617: the scheme's name in any case, one or more blanks,
    /// base64 of `user:password`). Not compared yet.
    pub fn password(&self) -> Option<Vec<u8>> {
        let header = self.authorization.as_deref()?;
        let (scheme, token) = header.split_at_checked("Basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let mut decoded = STANDARD.decode(token.trim_ascii()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        Some(decoded.split_off(colon + 1))
    }

    /// The head that asks for a tunnel to `authority` (`host:port`, as
    /// [`crate::target::Authority`] prints it), with the value [`basic`] makes of the credential.
    pub fn write(authority: &str, authorization: &str, within: Duration) -> String {
        let within_ms = within.as_millis();
        format!(
            "CONNECT {authority} HTTP/1.1\r\n\
             Host: {authority}\r\n\
             Proxy-Authorization: {authorization}\r\n\
             {WITHIN_HEADER}: {within_ms}\r\n\
             \r\n"
        )
    }
}

/// The value of `Proxy-Authorization` that presents this password.
pub fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("zyven:{password}")))
}

/// The first two values of a field: one is an answer, two are an attempt to be understood in two ways.
fn values<'a>(fields: &[httparse::Header<'a>], name: &str) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    let mut values = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value);
    (values.next(), values.next())
}

/// At most seven digits: nobody waits for three hours.
fn parse_ms(value: &[u8]) -> Option<Duration> {
    let is_number = (1..=7).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number)?;
    text.parse().ok().map(Duration::from_millis)
}
