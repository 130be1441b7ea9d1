//! Where a proxy is.

use std::fmt;
use std::str::FromStr;

/// Where an egress proxy listens: `host:port`, resolved anew for each tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The text is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be written as host:port")]
pub struct ParseProxyAddressError;

impl FromStr for ProxyAddress {
    type Err = ParseProxyAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = ParseProxyAddressError;
        let (host, port) = text.rsplit_once(':').ok_or(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(error)?;
        // An IPv6 address stands in brackets in an authority and without them everywhere else.
        let unbracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_plain = |host: &str| !host.is_empty() && !host.contains([':', '/', '@', ' ']);
        let host = match unbracketed {
            Some(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => host,
            None if is_plain(host) => host,
            Some(_) | None => return Err(error),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_address_has_a_host_and_a_port() {
        for good in [
            "127.0.0.1:8092",
            "egress:8092",
            "[::1]:8092",
            "egress.zyven.svc:1",
        ] {
            let parsed = good.parse::<ProxyAddress>();
            assert_eq!(
                parsed.map(|address| address.to_string()).as_deref(),
                Ok(good)
            );
        }
        for bad in [
            "",
            "egress",
            ":8092",
            "egress:",
            "egress:0",
            "egress:70000",
            "::1:8092",
            "[::1]",
            "http://egress:8092",
            "user@egress:8092",
            "[egress]:8092",
        ] {
            assert!(bad.parse::<ProxyAddress>().is_err(), "{bad}");
        }
    }
}
