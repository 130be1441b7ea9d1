use proptest::prelude::*;

use super::*;

fn url(text: &str) -> EndpointUrl {
    EndpointUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_url_is_taken_apart() {
    let plain = url("HTTPS://Hooks.Example.COM/a/../b?c=d%20e");
    assert_eq!(plain.as_str(), "https://hooks.example.com/b?c=d%20e");
    assert_eq!(plain.scheme(), Scheme::Https);
    assert_eq!(plain.host(), &Host::Name("hooks.example.com".to_owned()));
    assert_eq!(plain.port(), 443);
    assert_eq!(plain.authority(), "hooks.example.com:443");
    assert_eq!(plain.host_header(), "hooks.example.com");
    assert_eq!(plain.path_and_query(), "/b?c=d%20e");

    let literal = url("http://[2001:DB8:0::1]:8080?x");
    assert_eq!(literal.as_str(), "http://[2001:db8::1]:8080/?x");
    assert_eq!(literal.authority(), "[2001:db8::1]:8080");
    assert_eq!(literal.host_header(), "[2001:db8::1]:8080");
    assert_eq!(literal.path_and_query(), "/?x");

    let local = url("http://127.0.0.1:47090/hook");
    assert_eq!(local.authority(), "127.0.0.1:47090");
    assert_eq!(
        url("https://example.com:443").as_str(),
        "https://example.com/"
    );
    assert_eq!(
        url("http://example.com:443/").host_header(),
        "example.com:443"
    );
}

#[test]
fn names_that_only_look_local_are_names() {
    for name in [
        "127.0.0.1.nip.io",
        "localhost.example.com",
        "notlocalhost.com",
        "internal.example.com",
        "mylocal.net",
        "my_host.example.com",
        "a--b.example.com",
        "1.2.3.4.com",
        "x.0xg",
    ] {
        assert_eq!(
            url(&format!("https://{name}/")).host(),
            &Host::Name(name.to_owned())
        );
    }
}

#[test]
fn names_in_other_scripts_are_stored_in_ascii() {
    assert_eq!(
        url("https://bücher.example.com/ä").as_str(),
        "https://xn--bcher-kva.example.com/%C3%A4"
    );
}

#[test]
#[rustfmt::skip]
fn what_is_no_url_is_refused_by_name() {
    use TargetError::*;
    let rows = [
        ("", Scheme), ("example.com", Scheme), ("//example.com", Scheme), ("ftp://example.com", Scheme),
        ("https:example.com", Scheme), ("https:/example.com", Scheme), ("xhttps://example.com", Scheme),
        ("https:///example.com", HostMissing), ("https://", HostMissing), ("https://?x", HostMissing),
        ("https://:443/", HostMissing),
        (" https://example.com", ForbiddenCharacter), ("https://example.com/a b", ForbiddenCharacter),
        ("https://exam\tple.com", ForbiddenCharacter), ("https://example.com/\r\nHost: x", ForbiddenCharacter),
        ("https://example.com\\@evil.com/", ForbiddenCharacter), ("https://example.com/\u{0}", ForbiddenCharacter),
        ("https://example.com/\u{85}", ForbiddenCharacter), ("https://example.com/\u{2028}", ForbiddenCharacter),
        ("https://user@example.com/", Userinfo), ("https://user:pass@example.com/", Userinfo),
        ("https://@example.com/", Userinfo), ("https://a.com@b.com", Userinfo),
        ("https://example.com/#a", Fragment), ("https://example.com#@evil.com", Fragment),
        ("https://exa%6dple.com/", PercentEncoded), ("https://127.0.0.1%2f.example.com/", PercentEncoded),
        ("https://bü%63her.de/", PercentEncoded),
        ("https://exam\u{ad}ple.com/", InvisibleCharacter), ("https://example\u{200b}.com/", InvisibleCharacter),
        ("https://\u{feff}example.com/", InvisibleCharacter), ("https://example.com\u{e0041}/", InvisibleCharacter),
        ("https://2130706433/", Ipv4NotCanonical), ("https://127.1/", Ipv4NotCanonical),
        ("https://0/", Ipv4NotCanonical), ("https://0x7f000001/", Ipv4NotCanonical),
        ("https://0x7f.1/", Ipv4NotCanonical), ("https://0177.0.0.1/", Ipv4NotCanonical),
        ("https://127.0.0.01/", Ipv4NotCanonical), ("https://127.0.0.256/", Ipv4NotCanonical),
        ("https://1.2.3.4.5/", Ipv4NotCanonical), ("https://example.0x/", Ipv4NotCanonical),
        ("https://example.0X1F/", Ipv4NotCanonical), ("https://example.123/", Ipv4NotCanonical),
        ("https://127.0.0.1./", LabelEmpty),
        ("https://１２７.0.0.1/", Ipv4NotCanonical), ("https://127。0。0。1/", Ipv4NotCanonical),
        ("https://①②⑦.⓪.⓪.①/", Ipv4NotCanonical),
        ("https://[::1/", Ipv6Malformed), ("https://::1/", Ipv6Malformed), ("https://[127.0.0.1]/", Ipv6Malformed),
        ("https://[fe80::1%25eth0]/", PercentEncoded), ("https://[::1]x:80/", Ipv6Malformed),
        ("https://[]/", Ipv6Malformed), ("https://x[::1]/", Ipv6Malformed), ("https://[v1.a]/", Ipv6Malformed),
        ("https://example.com./", LabelEmpty), ("https://.example.com/", LabelEmpty),
        ("https://example..com/", LabelEmpty), ("https://./", LabelEmpty), ("https://localhost./", LabelEmpty),
        ("https://-a.example.com/", LabelMalformed), ("https://a-.example.com/", LabelMalformed),
        ("https://a*b.example.com/", LabelMalformed), ("https://a,b.com/", LabelMalformed),
        ("https://a;b.com/", LabelMalformed), ("https://a$b.com/", LabelMalformed),
        ("https://example/", SingleLabel), ("https://redis:6379/", SingleLabel),
        ("https://localhost/", SpecialUse("localhost")), ("https://LOCALHOST:8080/", SpecialUse("localhost")),
        ("https://a.localhost/", SpecialUse("localhost")), ("https://printer.local/", SpecialUse("local")),
        ("https://metadata.google.internal/", SpecialUse("internal")), ("https://nas.home.arpa/", SpecialUse("arpa")),
        ("https://a.b.svc.cluster.local/", SpecialUse("local")), ("https://db.default.svc/", SpecialUse("svc")),
        ("https://1.0.0.127.in-addr.arpa/", SpecialUse("arpa")), ("https://ｌocalhost/", SpecialUse("localhost")),
        ("https://example.com:0/", PortMalformed), ("https://example.com:65536/", PortMalformed),
        ("https://example.com:/", PortMalformed), ("https://example.com:+80/", PortMalformed),
        ("https://example.com:080/", PortMalformed), ("https://example.com:8x/", PortMalformed),
        ("https://example.com:80:80/", PortMalformed), ("https://example.com:-1/", PortMalformed),
        ("https://example.com:22/", NonWebPort(22)), ("http://10.0.0.1:6379/", NonWebPort(6379)),
        ("https://xn--a.example.com/", Ambiguous), ("https://xn--.example.com/", LabelMalformed),
    ];
    for (text, expected) in rows {
        assert_eq!(EndpointUrl::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn lengths_are_limited_on_both_sides_of_parsing() {
    let prefix = "https://example.com/";
    let fits = format!(
        "{prefix}{}",
        "a".repeat(EndpointUrl::BYTES_MAX - prefix.len())
    );
    assert_eq!(url(&fits).as_str(), fits);
    assert_eq!(
        EndpointUrl::parse(&format!("{fits}a")),
        Err(TargetError::TooLong)
    );
    let grows = format!("{prefix}{}", "ä".repeat(500));
    assert_eq!(EndpointUrl::parse(&grows), Err(TargetError::TooLong));

    let label = "a".repeat(63);
    url(&format!("https://{label}.com/"));
    assert_eq!(
        EndpointUrl::parse(&format!("https://{label}a.com/")),
        Err(TargetError::LabelTooLong)
    );
    let name_253 = format!("{label}.{label}.{label}.{}.com", "a".repeat(57));
    assert_eq!(name_253.len(), 253);
    url(&format!("https://{name_253}/"));
    assert_eq!(
        EndpointUrl::parse(&format!("https://a.{name_253}/")),
        Err(TargetError::NameTooLong)
    );
}

#[test]
fn an_authority_is_a_host_and_a_port() {
    for text in [
        "example.com:443",
        "127.0.0.1:8080",
        "[2001:db8::1]:443",
        "[::1]:8080",
    ] {
        assert_eq!(Authority::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(
        Authority::parse("EXAMPLE.com:443").unwrap().to_string(),
        "example.com:443"
    );
}

#[test]
#[rustfmt::skip]
fn what_is_no_authority_is_refused_by_name() {
    use TargetError::*;
    let rows = [
        ("", HostMissing), (":443", HostMissing), ("example.com", PortMissing), ("example.com:", PortMalformed),
        ("http://example.com:443", PortMalformed), ("example.com:443/", PortMalformed),
        ("example.com/:443", LabelMalformed), ("example.com:443#", PortMalformed), ("a@example.com:443", Userinfo),
        ("exämple.com:443", LabelMalformed), ("example.com\u{200b}:443", LabelMalformed),
        ("example.com :443", LabelMalformed), ("example.com:443 ", PortMalformed), ("exam%70le.com:443", PercentEncoded),
        ("2130706433:80", Ipv4NotCanonical), ("127.1:80", Ipv4NotCanonical), ("0x7f.0.0.1:80", Ipv4NotCanonical),
        ("::1:80", Ipv6Malformed), ("[::1]80", Ipv6Malformed), ("[::1]", PortMissing), ("[::1%eth0]:80", PercentEncoded),
        ("[fe80::1%25eth0]:80", PercentEncoded), ("[1.2.3.4]:80", Ipv6Malformed), ("example.com.:443", LabelEmpty),
        ("localhost:8080", SpecialUse("localhost")), ("backend:8080", SingleLabel), ("example.com:25", NonWebPort(25)),
    ];
    for (text, expected) in rows {
        assert_eq!(Authority::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn every_port_is_open_or_closed_alike_to_registration_and_proxy() {
    let mut closed = 0;
    for port in 0..=u16::MAX {
        let url = EndpointUrl::parse(&format!("https://example.com:{port}/"));
        let authority = Authority::parse(&format!("example.com:{port}"));
        let expected = match port {
            0 => Err(TargetError::PortMalformed),
            _ if is_non_web_port(port) => Err(TargetError::NonWebPort(port)),
            _ => Ok(port),
        };
        assert_eq!(url.map(|url| url.port()), expected, "{port}");
        assert_eq!(
            authority.map(|authority| authority.port()),
            expected,
            "{port}"
        );
        closed += usize::from(expected.is_err());
    }
    // A list of what is closed: receivers run on any other port.
    assert!((100..200).contains(&closed), "{closed}");
}

#[test]
fn malformed_text_is_told_from_policy() {
    let objection = |text| Authority::parse(text).unwrap_err().objection();
    assert_eq!(objection("127.1:80"), Objection::Malformed);
    assert_eq!(objection("db.internal:443"), Objection::Host);
    assert_eq!(objection("db:443"), Objection::Host);
    assert_eq!(objection("example.com:22"), Objection::Port);
}

#[test]
fn the_operator_can_permit_names() {
    let names: NamePolicy = "receiver, corp.internal".parse().unwrap();
    for name in [
        "receiver:8080",
        "a.receiver:8080",
        "corp.internal:443",
        "a.b.corp.internal:443",
    ] {
        Authority::parse_with(name, &names).unwrap();
    }
    for name in ["receivers:8080", "xcorp.internal:443", "internal:443"] {
        assert_eq!(
            Authority::parse_with(name, &names).unwrap_err().objection(),
            Objection::Host,
            "{name}"
        );
    }
    EndpointUrl::parse_with("http://receiver:8080/", &names).unwrap();
    for malformed in ["a,", ".internal", "127.1", "a b"] {
        assert!(malformed.parse::<NamePolicy>().is_err(), "{malformed}");
    }
}

proptest! {
    #[test]
    fn what_was_parsed_parses_to_itself(text in r"https?://[a-zA-Zü0-9._\-\[\]:@%]{1,24}(:[0-9]{1,5})?(/[^#]{0,12})?") {
        if let Ok(first) = EndpointUrl::parse(&text) {
            prop_assert_eq!(&EndpointUrl::parse(first.as_str()).unwrap(), &first);
            let authority = Authority::parse(first.authority()).unwrap();
            prop_assert_eq!(authority.host(), first.host());
            prop_assert_eq!(authority.port(), first.port());
        }
    }

    #[test]
    fn no_text_is_too_strange(text in any::<String>()) {
        let _ = EndpointUrl::parse(&text);
        let _ = EndpointUrl::parse(&format!("https://{text}"));
        let _ = Authority::parse(&text);
        let _ = Authority::parse(&format!("[{text}]:443"));
    }
}
