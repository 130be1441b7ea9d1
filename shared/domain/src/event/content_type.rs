//! What a payload is, and says it is where it arrives.

use std::fmt;
use std::str::FromStr;

/// What a payload is: the `content-type` of every request that carries it (ADR 0039). Both are JSON, which is
/// UTF-8 by itself, so neither names a charset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContentType {
    /// Any JSON value.
    #[default]
    Json,
    /// A CloudEvent in structured mode (CloudEvents 1.0.2, HTTP Protocol Binding, section 3.2).
    CloudEvent,
}

impl ContentType {
    /// Every one of them.
    pub const ALL: [Self; 2] = [Self::Json, Self::CloudEvent];

    /// The media type, as it is written in headers, in SQL and in the API. The labels of
    /// `zyven.content_type` in SQL are the same.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::CloudEvent => "application/cloudevents+json",
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be application/json or application/cloudevents+json")]
pub struct ParseContentTypeError;

impl FromStr for ContentType {
    type Err = ParseContentTypeError;

    fn from_str(text: &str) -> Result<Self, ParseContentTypeError> {
        Self::ALL
            .into_iter()
            .find(|content_type| content_type.as_str() == text)
            .ok_or(ParseContentTypeError)
    }
}
