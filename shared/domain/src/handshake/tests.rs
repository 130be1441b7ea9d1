use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const HEAD: &str = "CONNECT a.b:1 HTTP/1.1\r\n";

fn request(fields: &str) -> Result<Request, NotAHead> {
    Request::parse(format!("{HEAD}{fields}\r\n").as_bytes())
}

#[test]
fn what_a_dispatcher_writes_is_what_a_proxy_reads() {
    let within = Duration::from_millis(12_345);
    let head = Request::write("hooks.example.com:443", &basic("a secret"), within);
    let read = Request::parse(head.as_bytes()).unwrap();
    assert_eq!(read.method, "CONNECT");
    assert_eq!(read.target, "hooks.example.com:443");
    assert_eq!(read.password().as_deref(), Some(&b"a secret"[..]));
    assert_eq!(read.within, Some(within));
}

#[test]
fn a_caller_need_not_say_more_than_where_to() {
    let read = request("").unwrap();
    assert_eq!(read.target, "a.b:1");
    assert_eq!((read.authorization, read.within), (None, None));
}

#[test]
fn two_credentials_are_none() {
    let read = request("Proxy-Authorization: a\r\nproxy-authorization: b\r\n").unwrap();
    assert_eq!(read.authorization, None);
    let read = request("PROXY-Authorization: Basic abc\r\n").unwrap();
    assert_eq!(read.authorization.as_deref(), Some(&b"Basic abc"[..]));
}

#[test]
fn a_password_stands_behind_the_first_colon_of_basic_credentials() {
    let password = |value: &str| {
        let read = request(&format!("Proxy-Authorization: {value}\r\n")).unwrap();
        read.password()
            .map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let encoded = |text: &str| STANDARD.encode(text);
    assert_eq!(password(&basic("x:y")).as_deref(), Some("x:y"));
    assert_eq!(
        password(&format!("Basic {}", encoded(":p"))).as_deref(),
        Some("p")
    );
    assert_eq!(
        password(&format!("bAsIc   {} ", encoded("u:p"))).as_deref(),
        Some("p")
    );
    for other in [
        "",
        "Basic",
        "Basic %%%",
        &format!("Basic {}", encoded("no colon")),
        &format!("Bearer {}", encoded("u:p")),
        &encoded("u:p"),
    ] {
        assert_eq!(password(other), None, "{other}");
    }
}

#[test]
fn a_time_is_a_number_of_milliseconds_and_nothing_else() {
    let within =
        |value: &str| request(&format!("{WITHIN_HEADER}: {value}\r\n")).map(|read| read.within);
    assert_eq!(within("0"), Ok(Some(Duration::ZERO)));
    assert_eq!(
        within("9999999"),
        Ok(Some(Duration::from_millis(9_999_999)))
    );
    for bad in [
        "",
        "10000000",
        "-1",
        "+1",
        "1.5",
        "1s",
        "0x1",
        "1 2",
        "99999999999999999999",
    ] {
        assert_eq!(within(bad), Err(NotAHead), "{bad}");
    }
    let twice = format!("{WITHIN_HEADER}: 1\r\n{WITHIN_HEADER}: 1\r\n");
    assert_eq!(request(&twice), Err(NotAHead));
}

#[test]
fn only_well_formed_http_1_1_is_a_head() {
    for bytes in [
        &b""[..],
        b"CONNECT a.b:1 HTTP/1.1\r\n",
        b"CONNECT a.b:1 HTTP/1.0\r\n\r\n",
        b"CONNECT a.b:1 HTTP/2\r\n\r\n",
        b"CONNECT a.b:1\r\n\r\n",
        b"\x16\x03\x01 a.b:1 HTTP/1.1\r\n\r\n",
        b"CONNECT a.b:1 HTTP/1.1\r\nbad field: x\r\n\r\n",
        b"CONNECT a.b:1 HTTP/1.1\r\nno-colon\r\n\r\n",
        b"CONNECT a.b:1 HTTP/1.1\r\n folded: x\r\n\r\n",
        b"CONNECT a.b:1 HTTP/1.1\r\n\r\ntoo early",
        // A reader that takes bare line feeds for line ends would see two heads.
        b"CONNECT a.b:1 HTTP/1.1\n\nCONNECT c.d:2 HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(Request::parse(bytes), Err(NotAHead), "{bytes:?}");
    }
    let fields = |count| request(&"x: y\r\n".repeat(count));
    assert!(fields(FIELDS_MAX).is_ok());
    assert_eq!(fields(FIELDS_MAX + 1), Err(NotAHead));
}

#[test]
fn an_answer_is_interim_final_or_not_here_yet() {
    assert_eq!(Answer::parse(b""), Ok(Answer::Incomplete));
    assert_eq!(
        Answer::parse(b"HTTP/1.1 200 OK\r\n"),
        Ok(Answer::Incomplete)
    );
    assert_eq!(
        Answer::parse(format!("{WORKING}HTTP/1.1 2").as_bytes()),
        Ok(Answer::Working {
            bytes: WORKING.len()
        })
    );
    assert_eq!(
        Answer::parse(b"HTTP/1.1 200 OK\r\n\r\nbytes of the endpoint"),
        Ok(Answer::Final {
            status: 200,
            reason: None,
            bytes: 19
        })
    );
    let refusal = b"HTTP/1.1 403 Forbidden\r\nX-Zyven-Egress-Reason: denied_ip\r\n\r\nwhy";
    assert_eq!(
        Answer::parse(refusal),
        Ok(Answer::Final {
            status: 403,
            reason: Some("denied_ip".to_owned()),
            bytes: refusal.len() - 3
        })
    );
}

#[test]
fn every_interim_answer_but_a_switch_of_protocols_is_waited_out() {
    for (status, is_interim) in [
        (100, true),
        (101, false),
        (102, true),
        (103, true),
        (199, true),
    ] {
        let parsed = Answer::parse(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes());
        assert_eq!(
            matches!(parsed, Ok(Answer::Working { .. })),
            is_interim,
            "{status}"
        );
        assert_eq!(parsed.is_ok(), is_interim, "{status}");
    }
    assert_eq!(Answer::parse(b"HTTP/1.1 099 X\r\n\r\n"), Err(NotAHead));
}

#[test]
fn what_is_no_answer_is_not_waited_for() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x15\x03\x01",
    ] {
        assert_eq!(Answer::parse(bytes), Err(NotAHead), "{bytes:?}");
    }
}

#[test]
fn an_answers_head_has_a_largest_size() {
    let head = |bytes: usize| {
        let start = "HTTP/1.1 200 OK\r\nx: ";
        format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4))
    };
    assert!(matches!(
        Answer::parse(head(HEAD_BYTES_MAX).as_bytes()),
        Ok(Answer::Final { .. })
    ));
    assert_eq!(
        Answer::parse(head(HEAD_BYTES_MAX + 1).as_bytes()),
        Err(NotAHead)
    );
    let endless = head(2 * HEAD_BYTES_MAX);
    assert_eq!(
        Answer::parse(&endless.as_bytes()[..HEAD_BYTES_MAX - 1]),
        Ok(Answer::Incomplete)
    );
    assert_eq!(
        Answer::parse(&endless.as_bytes()[..HEAD_BYTES_MAX]),
        Err(NotAHead)
    );
}
