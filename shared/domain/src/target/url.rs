//! The URL of an endpoint.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Position, Url};

use super::host::{self, Host, NamePolicy};
use super::{TargetError, ports};

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text, port 80 unless the URL says otherwise.
    Http,
    /// TLS, port 443 unless the URL says otherwise.
    Https,
}

impl Scheme {
    /// The name as it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An absolute `http` or `https` URL that every parser reads alike. Its serialised form is what is
/// stored, shown and delivered to; parsing that again gives an equal value.
///
/// The text is checked as it was written, then read both by the WHATWG parser and by our own host
/// parser, and refused if the two disagree: an attacker needs a difference between parsers, so there
/// must be none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    serialised: String,
    path_start: usize,
    scheme: Scheme,
    host: Host,
    port: u16,
    authority: String,
    host_header: String,
}

impl EndpointUrl {
    /// The longest URL, in bytes.
    pub const BYTES_MAX: usize = 2_048;

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
        let (scheme, authority) = split_raw(text)?;
        let (host, port) = host::split_port(authority)?;
        let host = parse_host(host, names)?;
        let port = port.unwrap_or(scheme.default_port());
        ports::check(port)?;

        let url = Url::parse(text).map_err(|_| TargetError::Ambiguous)?;
        if !reads_alike(&url, scheme, &host, port) {
            return Err(TargetError::Ambiguous);
        }
        // Percent-encoding a path can triple its length.
        if url.as_str().len() > Self::BYTES_MAX {
            return Err(TargetError::TooLong);
        }

        let host_header = if port == scheme.default_port() {
            host.to_string()
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            path_start: url[..Position::BeforePath].len(),
            serialised: url.into(),
            scheme,
            authority: format!("{host}:{port}"),
            host_header,
            host,
            port,
        })
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.serialised
    }

    /// `http` or `https`.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, the scheme's own if the URL names none.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, always with the port: what CONNECT asks for.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The value of the `Host` header: without the port if it is the scheme's own.
    pub fn host_header(&self) -> &str {
        &self.host_header
    }

    /// What a request line asks for; starts with a slash.
    pub fn path_and_query(&self) -> &str {
        &self.serialised[self.path_start..]
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.serialised)
    }
}

impl FromStr for EndpointUrl {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

/// The checks on the text as it was written, before any parser has repaired it: the WHATWG parser
/// drops tabs and newlines, turns backslashes into slashes and counts slashes generously.
fn split_raw(text: &str) -> Result<(Scheme, &str), TargetError> {
    if text.len() > EndpointUrl::BYTES_MAX {
        return Err(TargetError::TooLong);
    }
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if text.contains(forbidden) {
        return Err(TargetError::ForbiddenCharacter);
    }
    let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
    let scheme = [Scheme::Https, Scheme::Http]
        .into_iter()
        .find(|known| scheme.eq_ignore_ascii_case(known.as_str()))
        .ok_or(TargetError::Scheme)?;
    if rest.contains('#') {
        return Err(TargetError::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    Ok((scheme, authority))
}

/// The shared host parser takes ASCII. A name in another script goes through IDNA first; should a
/// look-alike turn into an address there (`１２７.0.0.1`), that is not how addresses are written.
fn parse_host(text: &str, names: &NamePolicy) -> Result<Host, TargetError> {
    if text.is_ascii() {
        return host::parse(text, names);
    }
    if text.contains('%') {
        return Err(TargetError::PercentEncoded);
    }
    if text.contains(is_default_ignorable) {
        return Err(TargetError::InvisibleCharacter);
    }
    match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) => host::parse(&name, names),
        Ok(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => Err(TargetError::Ipv4NotCanonical),
        Err(_) => Err(TargetError::LabelMalformed),
    }
}

/// Unicode's Default_Ignorable_Code_Point: shown as nothing, and dropped by IDNA.
fn is_default_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

fn reads_alike(url: &Url, scheme: Scheme, host: &Host, port: u16) -> bool {
    let same_host = match (url.host(), host) {
        (Some(url::Host::Domain(theirs)), Host::Name(ours)) => theirs == ours,
        (Some(url::Host::Ipv4(theirs)), Host::Address(IpAddr::V4(ours))) => theirs == *ours,
        (Some(url::Host::Ipv6(theirs)), Host::Address(IpAddr::V6(ours))) => theirs == *ours,
        (Some(_) | None, Host::Name(_) | Host::Address(_)) => false,
    };
    same_host
        && url.scheme() == scheme.as_str()
        && url.port_or_known_default() == Some(port)
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none()
}
