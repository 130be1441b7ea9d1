//! Where a delivery goes, as text: the URL of an endpoint, and what the dispatcher asks the proxy for.
//!
//! Both share one host parser, so that registration, delivery and proxy cannot disagree about what a
//! host is. It accepts names and canonical addresses and nothing in between: `2130706433`, `127.1`,
//! `0x7f.1` and `017700000001` are loopback to a C library and names to a naive check, so they are
//! neither here. Whether an *address* may be reached is [`crate::address`]'s question; here it is only
//! parsed.

mod answer;
mod host;
mod ports;
mod url;

use std::fmt;

pub use answer::{EGRESS_REASON_HEADER, EgressReason};
pub use host::{Host, NamePolicy};
pub use ports::is_non_web_port;

pub use self::url::{EndpointUrl, Scheme};

/// The target of a CONNECT request: `name:port`, `a.b.c.d:port` or `[v6]:port`, in ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    host: Host,
    port: u16,
}

impl Authority {
    /// Parses with the default [`NamePolicy`].
    ///
    /// # Errors
    ///
    /// A [`TargetError`] that names the rule.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        Self::parse_with(text, &NamePolicy::default())
    }

    /// Parses; the policy decides which names are acceptable.
    ///
    /// # Errors
    ///
    /// A [`TargetError`] that names the rule.
    pub fn parse_with(text: &str, names: &NamePolicy) -> Result<Self, TargetError> {
        let (host, port) = host::split_port(text)?;
        let host = host::parse(host, names)?;
        let port = port.ok_or(TargetError::PortMissing)?;
        ports::check(port)?;
        Ok(Self { host, port })
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, 1 to 65535.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a text is no target. The message names the rule and is meant for the endpoint's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// More than [`EndpointUrl::BYTES_MAX`], as written or as serialised.
    #[error("must not be longer than {} bytes", EndpointUrl::BYTES_MAX)]
    TooLong,
    /// A control character, blank or backslash.
    #[error("must not contain control characters, blanks or backslashes")]
    ForbiddenCharacter,
    /// Not `http://` or `https://`.
    #[error("must start with \"https://\" or \"http://\"")]
    Scheme,
    /// `user:password@host`.
    #[error("must not contain a user name or password")]
    Userinfo,
    /// `#…`.
    #[error("must not contain a fragment (\"#\")")]
    Fragment,
    /// `%41.example.com`.
    #[error("the host must not be percent-encoded")]
    PercentEncoded,
    /// A character that is shown as nothing, such as a zero-width space.
    #[error("the host must not contain invisible characters")]
    InvisibleCharacter,
    /// Parsers disagree about the text, or it is no URL at all.
    #[error("is not a URL that every parser reads alike")]
    Ambiguous,
    /// Nothing where the host should be.
    #[error("the host is missing")]
    HostMissing,
    /// An IPv4 address in a form only some parsers understand.
    #[error(
        "an IPv4 address must be written as four decimal numbers without leading zeros, and a name must not end in a number"
    )]
    Ipv4NotCanonical,
    /// Brackets without an IPv6 address inside, or one with a zone.
    #[error("an IPv6 address must stand in brackets and have no zone")]
    Ipv6Malformed,
    /// More than 253 bytes.
    #[error("a host name must not be longer than 253 characters")]
    NameTooLong,
    /// Two dots in a row, or one at an end.
    #[error("a host name must not start or end with a dot or contain two in a row")]
    LabelEmpty,
    /// More than 63 bytes between two dots.
    #[error("a part of a host name must not be longer than 63 characters")]
    LabelTooLong,
    /// Something that no host name contains.
    #[error(
        "a host name consists of letters, digits, hyphens and underscores; a part neither starts nor ends with a hyphen"
    )]
    LabelMalformed,
    /// `intranet`, `db`.
    #[error("a host name must have at least two parts, as in \"example.com\"")]
    SingleLabel,
    /// A name that only means something inside somebody's network.
    #[error("names under \"{0}\" are not public")]
    SpecialUse(&'static str),
    /// CONNECT needs one.
    #[error("the port is missing")]
    PortMissing,
    /// Not a number from 1 to 65535, or written with a sign or leading zeros.
    #[error("the port must be a number from 1 to 65535")]
    PortMalformed,
    /// A port on which something other than HTTP is well known to listen.
    #[error("port {0} belongs to a service that does not speak HTTP")]
    NonWebPort(u16),
}

/// What a [`TargetError`] objects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Objection {
    /// The text is not a target.
    Malformed,
    /// It is one, but the host is not one Zyven delivers to.
    Host,
    /// It is one, but the port is not one Zyven delivers to.
    Port,
}

impl TargetError {
    /// Tells malformed text from a well-formed target that policy refuses.
    pub const fn objection(&self) -> Objection {
        match self {
            Self::SingleLabel | Self::SpecialUse(_) => Objection::Host,
            Self::NonWebPort(_) => Objection::Port,
            Self::TooLong
            | Self::ForbiddenCharacter
            | Self::Scheme
            | Self::Userinfo
            | Self::Fragment
            | Self::PercentEncoded
            | Self::InvisibleCharacter
            | Self::Ambiguous
            | Self::HostMissing
            | Self::Ipv4NotCanonical
            | Self::Ipv6Malformed
            | Self::NameTooLong
            | Self::LabelEmpty
            | Self::LabelTooLong
            | Self::LabelMalformed
            | Self::PortMissing
            | Self::PortMalformed => Objection::Malformed,
        }
    }
}

#[cfg(test)]
mod tests;
