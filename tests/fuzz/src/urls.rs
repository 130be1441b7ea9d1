//! An endpoint's URL and the authority of a CONNECT.

use std::str;

use zyven_domain::target::{Authority, EndpointUrl, Host, TargetError};

/// An accepted URL is stable, plain, and means the same to the proxy.
pub(crate) fn endpoint_url(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(url) = EndpointUrl::parse(text) else {
        return;
    };
    let shown = url.as_str();
    assert!(text.len() <= EndpointUrl::BYTES_MAX && shown.len() <= EndpointUrl::BYTES_MAX);
    assert!(
        shown.bytes().all(|byte| byte.is_ascii_graphic()),
        "{shown:?}"
    );
    assert!(!shown.contains(['\\', '#']), "{shown:?}");
    assert!(shown.starts_with(&format!("{}://", url.scheme().as_str())));
    assert!(url.path_and_query().starts_with('/'));
    assert!(!url.authority().contains('@'));
    assert_is_deliverable(url.host());
    assert_eq!(
        EndpointUrl::parse(shown).as_ref(),
        Ok(&url),
        "what was parsed parses to itself"
    );

    let asked =
        Authority::parse(url.authority()).expect("the proxy accepts what registration does");
    assert_eq!((asked.host(), asked.port()), (url.host(), url.port()));
}

/// An accepted authority is canonical already, and registration agrees with the proxy either way.
pub(crate) fn authority(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    // A URL may say more than an authority does, and say it in other scripts.
    let is_comparable =
        text.is_ascii() && text.len() < 1_024 && !text.contains(['/', '?', '#', '\\']);
    let url = EndpointUrl::parse(&format!("http://{text}/"));
    match Authority::parse(text) {
        Ok(authority) => {
            assert_is_deliverable(authority.host());
            assert_eq!(
                Authority::parse(&authority.to_string()).as_ref(),
                Ok(&authority)
            );
            match authority.host() {
                Host::Address(ip) if ip.is_ipv6() => {}
                Host::Address(_) => assert_eq!(authority.to_string(), text, "canonical only"),
                Host::Name(_) => assert!(text.eq_ignore_ascii_case(&authority.to_string())),
            }
            // The one thing registration adds is that IDNA must agree about `xn--` labels.
            match url {
                Ok(url) => assert_eq!(
                    (url.host(), url.port()),
                    (authority.host(), authority.port())
                ),
                Err(error) => {
                    assert_eq!(error, TargetError::Ambiguous);
                    assert!(text.to_ascii_lowercase().contains("xn--"), "{text:?}");
                }
            }
        }
        // A URL without a port has its scheme's.
        Err(TargetError::PortMissing) => {}
        Err(_) if is_comparable => assert!(url.is_err(), "registration accepts {text:?}"),
        Err(_) => {}
    }
}

fn assert_is_deliverable(host: &Host) {
    let Host::Name(name) = host else {
        return;
    };
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    assert!(name.bytes().all(is_plain), "{name:?}");
    assert!(
        name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())),
        "{name:?}"
    );
    let (rest, last) = name.rsplit_once('.').expect("two labels at least");
    assert!(!rest.is_empty());
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    let is_hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(
        !is_number && !is_hexadecimal,
        "C libraries take {name:?} for an address"
    );
    assert!(
        !["local", "localhost", "internal", "arpa", "svc"].contains(&last),
        "{name:?}"
    );
}
