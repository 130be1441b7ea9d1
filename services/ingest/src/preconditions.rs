//! Changes that two people may make at the same time: `ETag` says which version an answer shows, `If-Match` which one a change
//! is meant for (RFC 9110, sections 8.8.3 and 13.1.1).
//!
//! The condition is part of the statement that changes: whoever is second finds that it does not hold.

use chrono::{DateTime, Utc};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue};

use crate::answer::Answer;
use crate::problem::{Code, Problem};

/// Tells which version of a thing an answer shows: that of the moment it was last changed.
pub(crate) fn with_version(mut answer: Answer, changed_at: DateTime<Utc>) -> Answer {
    let tag = format!("\"{:x}\"", changed_at.timestamp_micros());
    let tag = HeaderValue::try_from(tag).expect("hexadecimal digits are a header value");
    answer.headers_mut().insert(ETAG, tag);
    answer
}

/// The versions that a change is meant for; `None`: whichever there is. What is no version of ours is that of nothing, and so are
/// weak tags, which say no more than "much the same".
pub(crate) fn versions_meant(headers: &HeaderMap) -> Option<Vec<DateTime<Utc>>> {
    let mut versions = None;
    for value in headers.get_all(IF_MATCH) {
        let versions = versions.get_or_insert_with(Vec::new);
        for tag in value.to_str().unwrap_or_default().split(',') {
            let tag = tag.trim();
            if tag == "*" {
                return None;
            }
            let inside = tag
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            let micros = inside.and_then(|digits| i64::from_str_radix(digits, 16).ok());
            versions.extend(micros.and_then(DateTime::from_timestamp_micros));
        }
    }
    versions
}

/// 412: it has another version than the change was meant for.
pub(crate) fn changed_meanwhile(what: &str) -> Problem {
    Problem::new(
        Code::PreconditionFailed,
        format!(
            "The {what} has changed since it was read: its ETag is none of If-Match. Nothing was done; read it again and decide anew."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(values: &[&'static str]) -> Option<Vec<i64>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, HeaderValue::from_static(value));
        }
        let versions = versions_meant(&headers)?;
        let micros = versions.iter().map(DateTime::timestamp_micros);
        Some(micros.collect())
    }

    #[test]
    fn a_version_is_read_as_it_was_told() {
        let moment = DateTime::from_timestamp_micros(0x5f3a).expect("a moment");
        let answer = with_version(Answer::default(), moment);
        assert_eq!(answer.headers()[ETAG], "\"5f3a\"");
        assert_eq!(meant(&["\"5f3a\""]), Some(vec![0x5f3a]));
        assert_eq!(meant(&["\"1\" , \"a\"", "\"2\""]), Some(vec![1, 10, 2]));
    }

    #[test]
    fn without_a_condition_any_version_is_meant_and_with_a_strange_one_none() {
        assert_eq!(meant(&[]), None);
        assert_eq!(meant(&["*"]), None);
        for strange in ["", "1", "\"\"", "\"x\"", "W/\"1\"", "\"1"] {
            assert_eq!(meant(&[strange]), Some(Vec::new()), "{strange}");
        }
    }
}
