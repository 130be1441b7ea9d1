//! Settings of the proxy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use zyven_domain::address::{AddressPolicy, Cidrs};
use zyven_domain::target::NamePolicy;
use zyven_runtime::config::Source;

use crate::credential::Credential;

/// Everything an operator can say about the proxy.
#[derive(Clone)]
pub struct Config {
    /// Where to listen. Only whoever binds the listener reads it; [`crate::run`] is given the listener.
    pub listen: SocketAddr,
    /// What callers present.
    pub credential: Credential,
    /// Which addresses are opened and closed besides the built-in policy.
    pub addresses: AddressPolicy,
    /// Which names are opened besides public ones.
    pub names: NamePolicy,
    /// Who is asked about names.
    pub name_servers: NameServers,
    /// Further sockets of this process that no tunnel may lead to, such as its probes. Not a setting:
    /// whoever binds them adds them. The proxy's own listener is always among them.
    pub own_listeners: Vec<SocketAddr>,
    /// How long things may take and how many there may be.
    pub limits: Limits,
}

/// How long things may take and how many there may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accepting a connection to the end of its request head.
    pub head_timeout: Duration,
    /// Resolving a name.
    pub dns_timeout: Duration,
    /// How long an answer of the name servers is believed, whatever its TTL.
    pub dns_ttl_max: Duration,
    /// Connecting to one address.
    pub connect_timeout: Duration,
    /// Connecting to any of a host's addresses.
    pub dial_timeout: Duration,
    /// A tunnel without a byte for this long is closed, at most half of it later.
    pub idle: Duration,
    /// A tunnel older than this is cut; from half of it on it ends between two exchanges.
    pub tunnel_lifetime: Duration,
    /// A tunnel that moved this many bytes is cut; from half of it on it ends between two exchanges.
    pub tunnel_bytes_max: u64,
    /// Open tunnels.
    pub tunnels_max: usize,
    /// Open tunnels to one host.
    pub tunnels_per_host_max: usize,
    /// How long open tunnels may go on after the process was asked to stop.
    pub grace: Duration,
}

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded.
    pub fn read(source: &mut Source) -> Option<Self> {
        let listen = source.value(
            "ZYVEN_EGRESS_LISTEN",
            "address the egress proxy listens on; callers must reach it, customers must not",
            Some("127.0.0.1:8092"),
        );
        let credential = source.secret(
            "ZYVEN_EGRESS_CREDENTIAL",
            "password that dispatchers present to the egress proxy",
            None,
        );
        let allow_cidrs = source.value::<Cidrs>(
            "ZYVEN_EGRESS_ALLOW_CIDRS",
            "special-purpose address blocks the egress proxy may deliver to, separated by commas",
            Some(""),
        );
        let deny_cidrs = source.value::<Cidrs>(
            "ZYVEN_EGRESS_DENY_CIDRS",
            "address blocks the egress proxy never delivers to, separated by commas; beats the allowed ones",
            Some(""),
        );
        let names = source.value::<NamePolicy>(
            "ZYVEN_EGRESS_ALLOW_NAMES",
            "single-label or special-use host names the egress proxy may resolve, with everything under them, separated by commas",
            Some(""),
        );
        let name_servers = source.value::<NameServers>(
            "ZYVEN_EGRESS_NAMESERVERS",
            "name servers the egress proxy asks, as addresses with optional ports, separated by commas; empty: the system's",
            Some(""),
        );
        let limits = Limits::read(source);
        Some(Self {
            listen: listen?,
            credential: credential?,
            addresses: AddressPolicy {
                allow_cidrs: allow_cidrs?,
                deny_cidrs: deny_cidrs?,
            },
            names: names?,
            name_servers: name_servers?,
            own_listeners: Vec::new(),
            limits: limits?,
        })
    }
}

impl Limits {
    fn read(source: &mut Source) -> Option<Self> {
        let head_timeout = wait(
            source,
            "ZYVEN_EGRESS_HEAD_TIMEOUT",
            "how long a caller of the egress proxy may take to send its request head",
            Some("5s"),
        );
        let dns_timeout = wait(
            source,
            "ZYVEN_EGRESS_DNS_TIMEOUT",
            "how long the egress proxy waits for name servers",
            Some("3s"),
        );
        let dns_ttl_max = source.duration(
            "ZYVEN_EGRESS_DNS_TTL_MAX",
            "how long the egress proxy believes an answer of the name servers, whatever its TTL; a receiver that moved is found again after that",
            Some("60s"),
        );
        let connect_timeout = wait(
            source,
            "ZYVEN_EGRESS_CONNECT_TIMEOUT",
            "how long the egress proxy tries one address",
            Some("5s"),
        );
        let dial_timeout = wait(
            source,
            "ZYVEN_EGRESS_DIAL_TIMEOUT",
            "how long the egress proxy tries all addresses of a host",
            Some("10s"),
        );
        let idle = wait(
            source,
            "ZYVEN_EGRESS_IDLE",
            "how long a tunnel may carry nothing; longer than an endpoint may take to answer",
            Some("30s"),
        );
        let tunnel_lifetime = wait(
            source,
            "ZYVEN_EGRESS_TUNNEL_LIFETIME",
            "age at which a tunnel is cut; from half of it on it ends between two exchanges",
            Some("2h"),
        );
        let tunnel_bytes_max = source.bytes(
            "ZYVEN_EGRESS_TUNNEL_BYTES_MAX",
            "bytes after which a tunnel is cut; from half of them on it ends between two exchanges",
            Some("8GiB"),
        );
        let tunnels_max = source.number(
            "ZYVEN_EGRESS_TUNNELS_MAX",
            "tunnels the egress proxy keeps open at once; each takes two file descriptors",
            Some("4096"),
            1..=1_000_000,
        );
        let tunnels_per_host_max = source.number(
            "ZYVEN_EGRESS_TUNNELS_PER_HOST_MAX",
            "tunnels the egress proxy keeps open to one host",
            Some("512"),
            1..=1_000_000,
        );
        let grace = source.duration(
            "ZYVEN_EGRESS_GRACE",
            "how long open tunnels may go on after the egress proxy was asked to stop",
            Some("32s"),
        );
        Some(Self {
            head_timeout: head_timeout?,
            dns_timeout: dns_timeout?,
            dns_ttl_max: dns_ttl_max?,
            connect_timeout: connect_timeout?,
            dial_timeout: dial_timeout?,
            idle: idle?,
            tunnel_lifetime: tunnel_lifetime?,
            tunnel_bytes_max: tunnel_bytes_max? as u64,
            tunnels_max: tunnels_max? as usize,
            tunnels_per_host_max: tunnels_per_host_max? as usize,
            grace: grace?,
        })
    }
}

/// A length of time that must not be nothing.
fn wait(
    source: &mut Source,
    name: &'static str,
    meaning: &'static str,
    default: Option<&'static str>,
) -> Option<Duration> {
    let wait = source.duration(name, meaning, default)?;
    if wait.is_zero() {
        source.mistake(name, "must be longer than nothing");
        return None;
    }
    Some(wait)
}

/// The name servers to ask; none given means those of the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameServers(Vec<SocketAddr>);

impl NameServers {
    /// The addresses, in the order given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

/// The text is no list of name servers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an address such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53")]
pub struct ParseNameServersError(String);

impl FromStr for NameServers {
    type Err = ParseNameServersError;

    fn from_str(text: &str) -> Result<Self, ParseNameServersError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let server = |text: &str| {
            let text = text.trim();
            let with_port = text.parse::<SocketAddr>().ok();
            let without = || {
                text.parse::<IpAddr>()
                    .ok()
                    .map(|ip| SocketAddr::new(ip, 53))
            };
            with_port
                .or_else(without)
                .ok_or_else(|| ParseNameServersError(text.to_owned()))
        };
        text.split(',')
            .map(server)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{server}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_all_that_must_be_set() {
        let mut source = Source::from_pairs([("ZYVEN_EGRESS_CREDENTIAL", "x".repeat(16))]);
        let config = Config::read(&mut source).unwrap();
        assert_eq!(source.finish(), Ok(()));
        assert!(config.listen.ip().is_loopback());
        assert!(config.addresses.allow_cidrs.is_empty());
        assert_eq!(config.name_servers.addresses(), []);
    }

    #[test]
    fn all_mistakes_are_reported_and_the_credential_is_not_repeated() {
        let mut source = Source::from_pairs([
            ("ZYVEN_EGRESS_CREDENTIAL", "hunter2"),
            ("ZYVEN_EGRESS_ALLOW_CIDRS", "10.0.0.1/8"),
            ("ZYVEN_EGRESS_NAMESERVERS", "dns.example.com"),
            ("ZYVEN_EGRESS_IDLE", "0s"),
            ("ZYVEN_EGRESS_TUNNELS_MAX", "0"),
        ]);
        assert!(Config::read(&mut source).is_none());
        let error = source.finish().unwrap_err();
        assert_eq!(error.mistakes.len(), 5, "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn name_servers_have_a_port_of_their_own_or_53() {
        let servers: NameServers = "192.0.2.53, 192.0.2.54:5353,2001:db8::53,[2001:db8::54]:5353"
            .parse()
            .unwrap();
        assert_eq!(
            servers.to_string(),
            "192.0.2.53:53,192.0.2.54:5353,[2001:db8::53]:53,[2001:db8::54]:5353"
        );
    }
}
