use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn policy(allow: &str, deny: &str) -> AddressPolicy {
    AddressPolicy {
        allow_cidrs: allow.parse().unwrap(),
        deny_cidrs: deny.parse().unwrap(),
    }
}

/// The class as a word, whatever the verdict.
fn class(text: &str) -> &'static str {
    match classify(ip(text), &AddressPolicy::default()) {
        Ok(vetted) => vetted.class().as_str(),
        Err(denied) => denied.class.as_str(),
    }
}

fn reason(text: &str, policy: &AddressPolicy) -> Option<DenialReason> {
    classify(ip(text), policy).err().map(|denied| denied.reason)
}

/// Last address before, first inside, last inside, first behind, each with its class. Worked out from
/// the registries by hand, not from the tables under test.
#[rustfmt::skip]
const NEIGHBOURS: &[[(&str, &str); 4]] = &[
    [("255.255.255.255", "broadcast"), ("0.0.0.0", "this_host"), ("0.255.255.255", "this_host"), ("1.0.0.0", "global")],
    [("9.255.255.255", "global"), ("10.0.0.0", "private"), ("10.255.255.255", "private"), ("11.0.0.0", "global")],
    [("100.63.255.255", "global"), ("100.64.0.0", "carrier_grade_nat"), ("100.127.255.255", "carrier_grade_nat"), ("100.128.0.0", "global")],
    [("100.100.100.199", "carrier_grade_nat"), ("100.100.100.200", "metadata"), ("100.100.100.200", "metadata"), ("100.100.100.201", "carrier_grade_nat")],
    [("126.255.255.255", "global"), ("127.0.0.0", "loopback"), ("127.255.255.255", "loopback"), ("128.0.0.0", "global")],
    [("168.63.129.15", "global"), ("168.63.129.16", "metadata"), ("168.63.129.16", "metadata"), ("168.63.129.17", "global")],
    [("169.253.255.255", "global"), ("169.254.0.0", "link_local"), ("169.254.255.255", "link_local"), ("169.255.0.0", "global")],
    [("172.15.255.255", "global"), ("172.16.0.0", "private"), ("172.31.255.255", "private"), ("172.32.0.0", "global")],
    [("191.255.255.255", "global"), ("192.0.0.0", "ietf_protocol"), ("192.0.0.255", "ietf_protocol"), ("192.0.1.0", "global")],
    [("192.0.1.255", "global"), ("192.0.2.0", "documentation"), ("192.0.2.255", "documentation"), ("192.0.3.0", "global")],
    [("192.31.195.255", "global"), ("192.31.196.0", "as112"), ("192.31.196.255", "as112"), ("192.31.197.0", "global")],
    [("192.52.192.255", "global"), ("192.52.193.0", "multicast_tunnel"), ("192.52.193.255", "multicast_tunnel"), ("192.52.194.0", "global")],
    [("192.88.98.255", "global"), ("192.88.99.0", "six_to_four"), ("192.88.99.255", "six_to_four"), ("192.88.100.0", "global")],
    [("192.167.255.255", "global"), ("192.168.0.0", "private"), ("192.168.255.255", "private"), ("192.169.0.0", "global")],
    [("192.175.47.255", "global"), ("192.175.48.0", "as112"), ("192.175.48.255", "as112"), ("192.175.49.0", "global")],
    [("198.17.255.255", "global"), ("198.18.0.0", "benchmarking"), ("198.19.255.255", "benchmarking"), ("198.20.0.0", "global")],
    [("198.51.99.255", "global"), ("198.51.100.0", "documentation"), ("198.51.100.255", "documentation"), ("198.51.101.0", "global")],
    [("203.0.112.255", "global"), ("203.0.113.0", "documentation"), ("203.0.113.255", "documentation"), ("203.0.114.0", "global")],
    [("223.255.255.255", "global"), ("224.0.0.0", "multicast"), ("239.255.255.255", "multicast"), ("240.0.0.0", "reserved")],
    [("239.255.255.255", "multicast"), ("240.0.0.0", "reserved"), ("255.255.255.254", "reserved"), ("255.255.255.255", "broadcast")],
    [("::", "this_host"), ("::1", "loopback"), ("::1", "loopback"), ("::2", "ipv4_compatible")],
    [("::1", "loopback"), ("::2", "ipv4_compatible"), ("::ffff:ffff", "ipv4_compatible"), ("::1:0:0", "reserved")],
    [("::fffe:ffff:ffff", "reserved"), ("::ffff:0.0.0.0", "this_host"), ("::ffff:255.255.255.255", "broadcast"), ("::1:0:0:0", "reserved")],
    [("::fffe:ffff:ffff:ffff", "reserved"), ("::ffff:0:0.0.0.0", "ipv4_translated"), ("::ffff:0:255.255.255.255", "ipv4_translated"), ("::ffff:1:0:0", "reserved")],
    [("64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("64:ff9b::", "nat64"), ("64:ff9b::ffff:ffff", "nat64"), ("64:ff9b::1:0:0", "reserved")],
    [("64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "reserved"), ("64:ff9b:1::", "local_nat64"), ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local_nat64"), ("64:ff9b:2::", "reserved")],
    [("ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("100::", "discard"), ("100::1:ffff:ffff:ffff:ffff", "discard"), ("100:0:0:2::", "reserved")],
    [("100::ffff:ffff:ffff:ffff", "discard"), ("100:0:0:1::", "discard"), ("100::1:ffff:ffff:ffff:ffff", "discard"), ("100:0:0:2::", "reserved")],
    [("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("2000::", "global"), ("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("2001::", "teredo")],
    [("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("2001::", "teredo"), ("2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "teredo"), ("2001:1::", "ietf_protocol")],
    [("2001:1:ffff:ffff:ffff:ffff:ffff:ffff", "ietf_protocol"), ("2001:2::", "benchmarking"), ("2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking"), ("2001:2:1::", "ietf_protocol")],
    [("2001:4:111:ffff:ffff:ffff:ffff:ffff", "ietf_protocol"), ("2001:4:112::", "as112"), ("2001:4:112:ffff:ffff:ffff:ffff:ffff", "as112"), ("2001:4:113::", "ietf_protocol")],
    [("2001:4:113::", "ietf_protocol"), ("2001:10::", "ietf_protocol"), ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "ietf_protocol"), ("2001:200::", "global")],
    [("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("2001:db8::", "documentation"), ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"), ("2001:db9::", "global")],
    [("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("2002::", "six_to_four"), ("2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "six_to_four"), ("2003::", "global")],
    [("2620:4f:7fff:ffff:ffff:ffff:ffff:ffff", "global"), ("2620:4f:8000::", "as112"), ("2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "as112"), ("2620:4f:8001::", "global")],
    [("3ffd:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("3ffe::", "reserved"), ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("3fff::", "documentation")],
    [("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("3fff::", "documentation"), ("3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"), ("3fff:1000::", "global")],
    [("3fff:1000::", "global"), ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "global"), ("4000::", "reserved"), ("4000::1", "reserved")],
    [("5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("5f00::", "segment_routing"), ("5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment_routing"), ("5f01::", "reserved")],
    [("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("fc00::", "unique_local"), ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "unique_local"), ("fe00::", "reserved")],
    [("fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff", "unique_local"), ("fd00:ec2::", "metadata"), ("fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", "metadata"), ("fd00:ec3::", "unique_local")],
    [("fd20:ce::253", "unique_local"), ("fd20:ce::254", "metadata"), ("fd20:ce::254", "metadata"), ("fd20:ce::255", "unique_local")],
    [("fd00:c1::a9fe:a9fd", "unique_local"), ("fd00:c1::a9fe:a9fe", "metadata"), ("fd00:c1::a9fe:a9fe", "metadata"), ("fd00:c1::a9fe:a9ff", "unique_local")],
    [("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"), ("fe80::", "link_local"), ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link_local"), ("fec0::", "site_local")],
    [("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link_local"), ("fec0::", "site_local"), ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site_local"), ("ff00::", "multicast")],
    [("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site_local"), ("ff00::", "multicast"), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"), ("::", "this_host")],
    [("2003::5efd:a00:1", "global"), ("2003::5efe:0:0", "isatap"), ("2003::5efe:ffff:ffff", "isatap"), ("2003::5eff:0:0", "global")],
    [("2003::200:5efd:a00:1", "global"), ("2003::200:5efe:0:0", "isatap"), ("2003::200:5efe:ffff:ffff", "isatap"), ("2003::100:5efe:a00:1", "global")],
];

#[test]
fn every_block_ends_where_the_registry_says() {
    for row in NEIGHBOURS {
        for (address, expected) in row {
            assert_eq!(class(address), *expected, "{address}");
        }
    }
}

/// A block that is added without its neighbours fails here.
#[test]
fn no_block_lacks_its_neighbours_in_the_test_above() {
    let listed: std::collections::HashSet<IpAddr> = NEIGHBOURS
        .iter()
        .flatten()
        .map(|(address, _)| canonical(ip(address)))
        .collect();
    let mut missing = Vec::new();
    let mut require = |address: IpAddr| {
        if !listed.contains(&address) {
            missing.push(address);
        }
    };
    for block in IPV4_BLOCKS {
        let (first, last) = block.ends();
        let before = first.to_bits().checked_sub(1);
        let behind = last.to_bits().checked_add(1);
        for bits in [before, Some(first.to_bits()), Some(last.to_bits()), behind] {
            bits.map(Ipv4Addr::from_bits)
                .map(IpAddr::V4)
                .map(&mut require);
        }
    }
    for block in IPV6_BLOCKS {
        let (first, last) = block.ends();
        let before = first.to_bits().checked_sub(1);
        let behind = last.to_bits().checked_add(1);
        for bits in [before, Some(first.to_bits()), Some(last.to_bits()), behind] {
            bits.map(Ipv6Addr::from_bits)
                .map(IpAddr::V6)
                .map(&mut require);
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// The IANA registries' own rows, first and last address of each.
#[test]
fn nothing_in_the_special_purpose_registries_passes() {
    let rows = "
        0.0.0.0-0.255.255.255 10.0.0.0-10.255.255.255 100.64.0.0-100.127.255.255 127.0.0.0-127.255.255.255
        169.254.0.0-169.254.255.255 172.16.0.0-172.31.255.255 192.0.0.0-192.0.0.255 192.0.0.9-192.0.0.10
        192.0.0.170-192.0.0.171 192.0.2.0-192.0.2.255 192.31.196.0-192.31.196.255
        192.52.193.0-192.52.193.255 192.88.99.0-192.88.99.255 192.88.99.2-192.88.99.2
        192.168.0.0-192.168.255.255 192.175.48.0-192.175.48.255 198.18.0.0-198.19.255.255
        198.51.100.0-198.51.100.255 203.0.113.0-203.0.113.255 240.0.0.0-255.255.255.255
        ::1-::1 ::-:: ::ffff:0.0.0.0-::ffff:0.0.0.255 64:ff9b::-64:ff9b::ffff:ffff
        64:ff9b:1::-64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100::-100::ffff:ffff:ffff:ffff
        100:0:0:1::-100::1:ffff:ffff:ffff:ffff 2001::-2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
        2001:1::1-2001:1::3 2001:2::-2001:2:0:ffff:ffff:ffff:ffff:ffff
        2001:3::-2001:3:ffff:ffff:ffff:ffff:ffff:ffff 2001:4:112::-2001:4:112:ffff:ffff:ffff:ffff:ffff
        2001:10::-2001:1f:ffff:ffff:ffff:ffff:ffff:ffff 2001:20::-2001:2f:ffff:ffff:ffff:ffff:ffff:ffff
        2001:30::-2001:3f:ffff:ffff:ffff:ffff:ffff:ffff
        2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff
        2002::-2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff
        2620:4f:8000::-2620:4f:8000:ffff:ffff:ffff:ffff:ffff
        3fff::-3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff 5f00::-5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff
        fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    ";
    for row in rows.split_whitespace() {
        let (first, last) = row.split_once('-').unwrap();
        for address in [first, last] {
            assert!(
                reason(address, &AddressPolicy::default()).is_some(),
                "{address}"
            );
        }
    }
}

#[test]
fn a_mapped_address_is_judged_and_dialled_as_ipv4() {
    assert_eq!(class("::ffff:127.0.0.1"), "loopback");
    let vetted = classify(ip("::ffff:8.8.8.8"), &AddressPolicy::default()).unwrap();
    assert_eq!(vetted.ip(), ip("8.8.8.8"));
}

#[test]
#[rustfmt::skip]
fn metadata_stays_closed_whatever_the_operator_allows() {
    let everything = policy("0.0.0.0/0, ::/0", "");
    for address in [
        "169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255", "168.63.129.16",
        "100.100.100.200", "192.0.0.0", "192.0.0.192", "192.0.0.255", "fe80::1", "febf::1",
        "fd00:ec2::254", "fd00:ec2::", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
        // The same, dressed up.
        "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::169.254.169.254",
        "::ffff:0:169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "2003::5efe:169.254.169.254",
        "fd00::5efe:169.254.169.254",
        // No unicast destination.
        "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1",
    ] {
        assert_eq!(
            reason(address, &everything),
            Some(DenialReason::ClosedForGood),
            "{address}"
        );
    }
}

#[test]
fn the_operator_opens_exactly_what_is_listed() {
    let local = policy("127.0.0.0/8,10.1.0.0/16,fd12::/16", "");
    let opened = classify(ip("127.0.0.1"), &local).unwrap();
    assert_eq!(opened.class(), AddressClass::Loopback);
    assert_eq!(reason("10.1.255.255", &local), None);
    assert_eq!(reason("::ffff:10.1.2.3", &local), None);
    assert_eq!(reason("fd12::1", &local), None);
    for address in ["10.0.255.255", "10.2.0.0", "192.168.0.1", "::1", "fd13::1"] {
        assert_eq!(
            reason(address, &local),
            Some(DenialReason::SpecialPurpose),
            "{address}"
        );
    }
    assert_eq!(reason("8.8.8.8", &local), None, "opening closes nothing");
}

#[test]
fn the_deny_list_beats_the_allow_list() {
    let policy = policy("10.0.0.0/8", "10.0.0.0/24,8.8.8.0/24,2606:4700::/32");
    assert_eq!(reason("10.0.0.1", &policy), Some(DenialReason::DenyList));
    assert_eq!(reason("10.0.1.0", &policy), None);
    assert_eq!(reason("8.8.8.8", &policy), Some(DenialReason::DenyList));
    assert_eq!(
        reason("::ffff:8.8.8.8", &policy),
        Some(DenialReason::DenyList)
    );
    assert_eq!(reason("8.8.9.0", &policy), None);
    assert_eq!(
        reason("2606:4700::1", &policy),
        Some(DenialReason::DenyList)
    );
}

#[test]
fn an_opened_nat64_leads_only_where_ipv4_may_go() {
    let policy = policy("64:ff9b::/96", "9.9.9.0/24");
    assert_eq!(reason("64:ff9b::8.8.8.8", &policy), None);
    assert_eq!(
        reason("64:ff9b::10.0.0.1", &policy),
        Some(DenialReason::SpecialPurpose)
    );
    assert_eq!(
        reason("64:ff9b::9.9.9.9", &policy),
        Some(DenialReason::DenyList)
    );
}

#[test]
fn a_list_of_one_family_never_matches_the_other() {
    assert_eq!(
        reason("10.0.0.1", &policy("::/0", "")),
        Some(DenialReason::SpecialPurpose)
    );
    assert_eq!(
        reason("fd12::1", &policy("0.0.0.0/0", "")),
        Some(DenialReason::SpecialPurpose)
    );
}

#[test]
#[rustfmt::skip]
fn blocks_are_read_strictly() {
    let good = [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("fd00::/8", "fd00::/8"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:128.0.0.0/97", "128.0.0.0/1"),
        ("::ffff:0.0.0.0/97", "0.0.0.0/1"),
    ];
    for (text, meaning) in good {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), meaning, "{text}");
    }
    let bad = [
        "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/-1", "10.0.0.0/8/8",
        "10.0.0/8", "010.0.0.0/8", "10/8", "10.0.0.1/8", "::1/127", "::/129", "fe80::%eth0/10",
        "::ffff:0:0/96", "::ffff:10.0.0.0/96", "::ffff:10.0.0.0/80", "::ffff:0:0/0", "10.0.0.0 /8", "localhost",
    ];
    for text in bad {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
}

#[test]
fn a_list_is_separated_by_commas() {
    assert!("".parse::<Cidrs>().unwrap().is_empty());
    let list: Cidrs = "10.0.0.0/8, fd00::/8".parse().unwrap();
    assert_eq!(list.to_string(), "10.0.0.0/8,fd00::/8");
    assert!("10.0.0.0/8,".parse::<Cidrs>().is_err());
    assert!("10.0.0.0/8 fd00::/8".parse::<Cidrs>().is_err());
}

#[test]
fn a_denial_does_not_tell_the_address() {
    let denied = classify(ip("10.11.12.13"), &AddressPolicy::default()).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "only public addresses are delivered to (private)"
    );
}
