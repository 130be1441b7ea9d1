//! `Retry-After`, in both of its forms (RFC 9110, section 10.2.3).

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The wait an answer asks for: whole seconds, or the time until a date (zero if that has passed).
/// `None` if it does not ask, or in a form the standard does not know.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit still mean "very long", and whoever decides has a cap.
        return Some(Duration::from_secs(
            text.parse().unwrap_or(u64::from(u32::MAX)),
        ));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(text: &str) -> Option<Duration> {
        // Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers, now)
    }

    #[test]
    fn both_forms_are_understood() {
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!(wait("120"), seconds(120));
        assert_eq!(wait(" 0 "), seconds(0));
        assert_eq!(wait("Sun, 06 Nov 1994 08:51:37 GMT"), seconds(120));
        assert_eq!(wait("Sunday, 06-Nov-94 08:51:37 GMT"), seconds(120));
        assert_eq!(wait("Sun Nov  6 08:51:37 1994"), seconds(120));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:36 GMT"), seconds(0));
        assert_eq!(
            wait("99999999999999999999999"),
            seconds(u64::from(u32::MAX))
        );
    }

    #[test]
    fn anything_else_is_no_wish() {
        for text in [
            "",
            "-1",
            "1.5",
            "+3",
            "soon",
            "Sun, 32 Nov 1994 08:51:37 GMT",
        ] {
            assert_eq!(wait(text), None, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::now()), None);
    }
}
