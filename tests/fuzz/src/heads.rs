//! The two heads of the CONNECT handshake.

use std::time::Duration;

use zyven_domain::handshake::{Answer, HEAD_BYTES_MAX, Request, WITHIN_HEADER};

/// An accepted head is the whole of what was read, and its target cannot smuggle another one.
pub(crate) fn connect_head(bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    assert!(bytes.ends_with(b"\n"), "a head ends with an empty line");
    let talks_ahead = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
    assert!(
        Request::parse(&talks_ahead).is_err(),
        "nothing follows a head"
    );
    assert!(!request.method.is_empty() && !request.target.is_empty());
    let breaks_a_line = |text: &str| {
        text.bytes()
            .any(|byte| byte.is_ascii_control() || byte == b' ')
    };
    assert!(!breaks_a_line(&request.method) && !breaks_a_line(&request.target));
    if let Some(password) = request.password() {
        assert!(password.len() < request.authorization.as_ref().map_or(0, Vec::len));
    }

    // What was read can be written, and reads the same.
    let within = request.within.unwrap_or(Duration::from_millis(1));
    let written = Request::write(&request.target, "Basic Og==", within);
    let again = Request::parse(written.as_bytes()).expect("a head of our own");
    assert_eq!(again.target, request.target);
    assert_eq!(again.within, Some(within));
    assert_eq!(again.password().as_deref(), Some(&b""[..]));
    let named = String::from_utf8_lossy(bytes)
        .to_ascii_lowercase()
        .contains(WITHIN_HEADER);
    assert!(named || request.within.is_none());
}

/// An answer means the same however it arrives: no beginning of it is taken for something else.
pub(crate) fn proxy_answer(bytes: &[u8]) {
    let whole = Answer::parse(bytes);
    let head_bytes = match &whole {
        Ok(Answer::Final { status, bytes, .. }) => {
            assert!((200..=999).contains(status));
            *bytes
        }
        Ok(Answer::Working { bytes }) => *bytes,
        Ok(Answer::Incomplete) => {
            assert!(
                bytes.len() < HEAD_BYTES_MAX,
                "what does not fit is not waited for"
            );
            bytes.len() + 1
        }
        Err(_) => return,
    };
    assert!(head_bytes <= HEAD_BYTES_MAX && head_bytes > 0);
    // Some beginnings of a long one, all of a short one.
    let step = (bytes.len() / 64).max(1);
    for end in (0..=bytes.len()).step_by(step) {
        let expected = if end < head_bytes {
            Ok(Answer::Incomplete)
        } else {
            whole.clone()
        };
        assert_eq!(
            Answer::parse(&bytes[..end]),
            expected,
            "the first {end} bytes"
        );
    }
}
