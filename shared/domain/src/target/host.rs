//! The one host parser.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::TargetError;

/// A host as it is resolved or dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A host name in lower-case ASCII without a final dot; other scripts in their `xn--` form.
    Name(String),
    /// An address literal. Not judged yet.
    Address(IpAddr),
}

impl fmt::Display for Host {
    /// As an authority has it: an IPv6 address stands in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Names under these mean something different in every network, or nothing in any: RFC 6761 and 6762,
/// RFC 8375, RFC 9476, ICANN's `internal`, and what home routers and Kubernetes answer for.
/// `example` is not among them: it is harmless, and documentation uses it.
const SPECIAL_USE: &[&str] = &[
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "svc",
    "onion",
    "alt",
    "invalid",
    "test",
    "arpa",
];

/// The operator's say over names.
///
/// By default a name needs two labels and must not be a special-use one. A self-hoster who delivers to
/// `hooks.corp.internal` lists that name or a suffix of it. The addresses it resolves to are judged all
/// the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamePolicy {
    allow_names: Vec<String>,
}

impl NamePolicy {
    /// Whether the name is listed, or lies under a listed one.
    fn permits(&self, name: &str) -> bool {
        self.allow_names
            .iter()
            .any(|allowed| is_or_is_under(name, allowed))
    }
}

impl FromStr for NamePolicy {
    type Err = TargetError;

    /// Names with commas between them. The empty text lists none.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let allow_names = text
            .split(',')
            .map(|name| {
                let name = name.trim().to_ascii_lowercase();
                check_labels(&name).map(|()| name)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { allow_names })
    }
}

/// Splits an authority at its port. What stands before is the host, with brackets if it has any.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<u16>), TargetError> {
    if text.contains('@') {
        return Err(TargetError::Userinfo);
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(TargetError::Ipv6Malformed);
    }
    // Inside brackets a colon belongs to the address.
    let host_end = match text.find(']') {
        Some(bracket) => bracket + 1,
        None if text.contains('[') => return Err(TargetError::Ipv6Malformed),
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(parse_port(port)?))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(TargetError::Ipv6Malformed),
    }
}

/// Decimal digits without sign or leading zero, as every parser reads them.
fn parse_port(text: &str) -> Result<u16, TargetError> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|_| canonical)
        .ok_or(TargetError::PortMalformed)
}

/// Parses a host in ASCII: a name, a canonical IPv4 address, or an IPv6 address in brackets.
pub(super) fn parse(text: &str, names: &NamePolicy) -> Result<Host, TargetError> {
    if text.is_empty() {
        return Err(TargetError::HostMissing);
    }
    if text.contains('%') {
        return Err(TargetError::PercentEncoded);
    }
    if text.contains(['[', ']']) {
        return text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|ip| ip.parse::<Ipv6Addr>().ok())
            .map(|ip| Host::Address(IpAddr::V6(ip)))
            .ok_or(TargetError::Ipv6Malformed);
    }
    // The standard library accepts exactly the canonical form: four decimals, no leading zeros.
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(IpAddr::V4(ip)));
    }
    let name = text.to_ascii_lowercase();
    check_labels(&name)?;
    if !names.permits(&name) {
        check_public(&name)?;
    }
    Ok(Host::Name(name))
}

/// RFC 1123 with underscores, which DNS allows and real hosts have.
fn check_labels(name: &str) -> Result<(), TargetError> {
    if name.len() > 253 {
        return Err(TargetError::NameTooLong);
    }
    for label in name.split('.') {
        let bytes = label.as_bytes();
        if bytes.is_empty() {
            return Err(TargetError::LabelEmpty);
        }
        if bytes.len() > 63 {
            return Err(TargetError::LabelTooLong);
        }
        let letters = bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !letters || bytes.starts_with(b"-") || bytes.ends_with(b"-") {
            return Err(TargetError::LabelMalformed);
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_numeric(last) {
        return Err(TargetError::Ipv4NotCanonical);
    }
    Ok(())
}

/// Whether a parser may take a host with this last label for an IPv4 address (WHATWG URL, "ends in a
/// number checker"): decimal or octal digits, or `0x` and hexadecimal ones.
fn is_numeric(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn check_public(name: &str) -> Result<(), TargetError> {
    let special = SPECIAL_USE
        .iter()
        .find(|suffix| is_or_is_under(name, suffix));
    if let Some(suffix) = special {
        return Err(TargetError::SpecialUse(suffix));
    }
    if !name.contains('.') {
        return Err(TargetError::SingleLabel);
    }
    Ok(())
}

fn is_or_is_under(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
