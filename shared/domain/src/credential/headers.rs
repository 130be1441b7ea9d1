//! Headers that an endpoint's owner adds to each request.

use serde_json::Value;

use super::{CredentialError, SecretText, UnreadableError};

/// Most custom headers of an endpoint.
pub const HEADERS_MAX: usize = 20;
/// Longest name.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Longest value.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;
/// All names and values together: servers commonly refuse heads of more than 8 KiB, and Zyven's own
/// headers need room, too.
pub const HEADER_BYTES_MAX: usize = 6 * 1024;

/// Names that belong to the message or to a connection rather than to the owner: hop-by-hop (RFC 9110,
/// section 7.6.1), framing, and those that Zyven sets itself.
const RESERVED: [&str; 20] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
/// `ce-` begins the attributes of a CloudEvent in binary mode. Beside one in structured mode they would contradict it, and some
/// SDKs look at them first.
const RESERVED_PREFIXES: [&str; 3] = ["ce-", "webhook-", "zyven-"];

/// Names, in lower case and each one once, with their values. The values are secrets: an owner who
/// adds a header most often adds a key.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CustomHeaders(Vec<(String, SecretText)>);

impl CustomHeaders {
    /// A field name (RFC 9110, section 5.1) that is the owner's to set, in lower case.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse_name(text: &str) -> Result<String, CredentialError> {
        if !(1..=HEADER_NAME_BYTES_MAX).contains(&text.len()) || !text.bytes().all(is_token) {
            return Err(CredentialError(
                "must be named with 1 to 128 characters of a-z, A-Z, 0-9 and !#$%&'*+-.^_`|~",
            ));
        }
        let name = text.to_ascii_lowercase();
        let is_reserved = RESERVED.contains(&name.as_str())
            || RESERVED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
        if is_reserved {
            return Err(CredentialError(
                "cannot be set: it belongs to the connection, to the body, or to Zyven",
            ));
        }
        Ok(name)
    }

    /// A field value (RFC 9110, section 5.5), in ASCII.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse_value(text: &str) -> Result<SecretText, CredentialError> {
        let is_inner = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
        let is_good = (1..=HEADER_VALUE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(is_inner)
            && text.trim_matches([' ', '\t']).len() == text.len();
        is_good
            .then(|| SecretText::new(text))
            .ok_or(CredentialError(
                "must have 1 to 4,096 visible ASCII characters and blanks, none at either end",
            ))
    }

    /// Headers that have been parsed one by one.
    ///
    /// # Errors
    /// Too many, too long together, or two of one name.
    pub fn new(headers: Vec<(String, SecretText)>) -> Result<Self, CredentialError> {
        if headers.len() > HEADERS_MAX {
            return Err(CredentialError("must have at most 20 members"));
        }
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.len() + value.expose().len())
            .sum();
        if bytes > HEADER_BYTES_MAX {
            return Err(CredentialError(
                "must have at most 6,144 bytes of names and values together",
            ));
        }
        let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(CredentialError(
                "must not name a header twice, in whatever case",
            ));
        }
        Ok(Self(headers))
    }

    /// The headers, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretText)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// What may be sealed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let pairs: Vec<Value> = self
            .iter()
            .map(|(name, value)| Value::from(vec![name, value.expose()]))
            .collect();
        Value::from(pairs).to_string().into_bytes()
    }

    /// Reads what [`CustomHeaders::to_bytes`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableError> {
        let pairs: Vec<(String, String)> =
            serde_json::from_slice(bytes).map_err(|_| UnreadableError)?;
        let headers = pairs
            .into_iter()
            .map(|(name, value)| (name, SecretText::new(value)));
        Ok(Self(headers.collect()))
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_that_are_the_owners_to_set() {
        for good in [
            "X-Tenant",
            "authorization",
            "cookie",
            "x!#$%&'*+-.^_`|~9",
            "webhook",
            "zyven",
            "ce",
        ] {
            assert_eq!(
                CustomHeaders::parse_name(good),
                Ok(good.to_lowercase()),
                "{good}"
            );
        }
        for bad in [
            "",
            "a b",
            "a:",
            "ä",
            "a\r\n",
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "TE",
            "Upgrade",
            "Webhook-Id",
            "webhook-",
            "Zyven-Attempt",
            "Traceparent",
            "Expect",
            "Content-Type",
            "CE-Id",
        ] {
            assert!(CustomHeaders::parse_name(bad).is_err(), "{bad:?}");
        }
        assert!(CustomHeaders::parse_name(&"x".repeat(128)).is_ok());
        assert!(CustomHeaders::parse_name(&"x".repeat(129)).is_err());
    }

    #[test]
    fn values_cannot_begin_another_header() {
        for good in ["a", "a b\tc", "Bearer x==", "\"q\""] {
            assert!(CustomHeaders::parse_value(good).is_ok(), "{good:?}");
        }
        for bad in ["", " a", "a ", "\ta", "a\r\nx: y", "a\0", "ä", "a\u{7f}"] {
            assert!(CustomHeaders::parse_value(bad).is_err(), "{bad:?}");
        }
        assert!(CustomHeaders::parse_value(&"x".repeat(4096)).is_ok());
        assert!(CustomHeaders::parse_value(&"x".repeat(4097)).is_err());
    }

    #[test]
    fn headers_are_bounded_together_and_named_once() {
        let named = |count: usize| -> Vec<(String, SecretText)> {
            (0..count)
                .map(|n| (format!("x-{n}"), SecretText::new("v")))
                .collect()
        };
        assert!(CustomHeaders::new(named(20)).is_ok());
        assert!(CustomHeaders::new(named(21)).is_err());
        let long = |bytes: usize| {
            let half = |bytes: usize| SecretText::new("v".repeat(bytes));
            vec![
                ("a".to_owned(), half(3000)),
                ("b".to_owned(), half(bytes - 3002)),
            ]
        };
        assert!(CustomHeaders::new(long(6144)).is_ok());
        assert!(CustomHeaders::new(long(6145)).is_err());
        let twice = vec![named(1).remove(0), named(1).remove(0)];
        assert!(CustomHeaders::new(twice).is_err());
    }

    #[test]
    fn what_is_sealed_is_read_back() {
        let headers = vec![("x-a".to_owned(), SecretText::new("\"b\" \\"))];
        let Ok(headers) = CustomHeaders::new(headers) else {
            panic!("good headers");
        };
        assert!(CustomHeaders::from_bytes(&headers.to_bytes()) == Ok(headers));
        assert!(CustomHeaders::from_bytes(b"{}").is_err());
    }
}
