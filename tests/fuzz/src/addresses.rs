//! Addresses and lists of address blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str;

use zyven_domain::address::{AddressClass, AddressPolicy, Cidrs, classify};

/// An accepted list means what it shows, and denying beats allowing for each of its blocks.
pub(crate) fn cidr_list(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(list) = text.parse::<Cidrs>() else {
        return;
    };
    let shown = list.to_string();
    assert_eq!(shown.parse::<Cidrs>().as_ref(), Ok(&list));
    assert_eq!(list.is_empty(), text.trim().is_empty());
    let both = AddressPolicy {
        allow_cidrs: list.clone(),
        deny_cidrs: list.clone(),
    };
    for block in shown.split(',').filter(|block| !block.is_empty()) {
        let (network, prefix) = block
            .split_once('/')
            .expect("a block is shown with its prefix");
        let network: IpAddr = network.parse().expect("and its address");
        assert!(list.contains(network));
        assert!(classify(network, &both).is_err(), "{block}");
        // All of a family is meant only where it is written.
        if prefix == "0" {
            assert!(
                text.split(',')
                    .any(|written| written.trim().ends_with("/0")),
                "{text:?}"
            );
        }
    }
}

/// What is opened by default is public; what is never opened stays closed; and an IPv4 address is judged alike in
/// both of its forms.
pub(crate) fn address(bytes: &[u8]) {
    let ip = match *bytes {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        _ => {
            let mut octets = [0; 16];
            let known = bytes.len().min(16);
            octets[..known].copy_from_slice(&bytes[..known]);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    };
    if let Ok(vetted) = classify(ip, &AddressPolicy::default()) {
        assert_eq!(vetted.class(), AddressClass::Global);
        assert_is_public(vetted.ip());
    }
    let everything = AddressPolicy {
        allow_cidrs: "0.0.0.0/0,::/0".parse().expect("two blocks"),
        ..AddressPolicy::default()
    };
    if let Ok(vetted) = classify(ip, &everything) {
        assert_is_no_metadata_service(vetted.ip());
        assert_eq!(
            vetted.ip().to_canonical(),
            vetted.ip(),
            "dialled in canonical form"
        );
    }
    if let IpAddr::V4(v4) = ip {
        let mapped = IpAddr::V6(v4.to_ipv6_mapped());
        for policy in [AddressPolicy::default(), everything] {
            assert_eq!(classify(ip, &policy), classify(mapped, &policy));
        }
    }
}

/// The standard library's own view, as far as it is stable: no address it calls special may be public here.
fn assert_is_public(ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => assert!(
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || ip.is_unspecified()),
            "{ip}"
        ),
        IpAddr::V6(ip) => {
            assert_eq!(ip.segments()[0] >> 13, 1, "{ip} lies in 2000::/3");
            assert!(ip.to_ipv4().is_none(), "{ip}");
        }
    }
}

fn assert_is_no_metadata_service(ip: IpAddr) {
    let closed = match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [169, 254, ..] | [192, 0, 0, _] | [0, ..] | [224..=239, ..] => true,
            octets => [[168, 63, 129, 16], [100, 100, 100, 200], [255; 4]].contains(&octets),
        },
        IpAddr::V6(ip) => matches!(
            ip.segments(),
            [0xfd00, 0xec2, ..]
                | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
                | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                | [0xfe80..=0xfebf, ..]
                | [0xff00..=0xffff, ..]
                | [0x2002, ..]
                | [0x2001, 0, ..]
                | [0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, _]
                | [0, 0, 0, 0, 0, 0, 0, 0]
                | [_, _, _, _, 0 | 0x200, 0x5efe, _, _]
        ),
    };
    assert!(!closed, "{ip}");
}
