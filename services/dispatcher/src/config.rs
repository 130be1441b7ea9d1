//! Settings of the dispatcher.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zyven_domain::target::NamePolicy;
use zyven_runtime::config::Source;

use crate::client::ProxyAddress;

/// How long the results of the last attempts may take to be recorded once the grace time is over.
pub(crate) const LAST_FLUSH_TIME_MAX: Duration = Duration::from_secs(3);

/// Everything an operator can say about the dispatcher.
#[derive(Clone)]
pub struct Config {
    /// The egress proxies, at least one.
    pub proxies: Vec<ProxyAddress>,
    /// What the proxies want to see.
    pub credential: ProxyCredential,
    /// Which names are opened besides public ones; the same as the proxy's.
    pub names: NamePolicy,
    /// A PEM file of authorities trusted besides Mozilla's.
    pub tls_ca_file: Option<PathBuf>,
    /// Deliveries held at the same time, from claim to recorded result.
    pub in_flight_max: usize,
    /// How long requests under way may go on after the process was asked to stop.
    pub grace: Duration,
    /// Idle connections to endpoints kept in all.
    pub idle_connections_max: usize,
    /// Idle connections kept to one scheme, host and port.
    pub idle_connections_per_origin_max: usize,
    /// How long an idle connection is kept.
    pub idle_time_max: Duration,
}

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded.
    pub fn read(source: &mut Source) -> Option<Self> {
        let proxies = source.list::<ProxyAddress>(
            "ZYVEN_EGRESS_PROXIES",
            "egress proxies that dispatchers send through, as host:port, separated by commas",
            None,
        );
        if proxies.as_ref().is_some_and(Vec::is_empty) {
            source.mistake(
                "ZYVEN_EGRESS_PROXIES",
                "must name at least one proxy: a dispatcher never connects to endpoints itself",
            );
        }
        let credential = source.secret(
            "ZYVEN_EGRESS_CREDENTIAL",
            "password that dispatchers present to the egress proxy",
            None,
        );
        let names = source.value::<NamePolicy>(
            "ZYVEN_EGRESS_ALLOW_NAMES",
            "single-label or special-use host names the egress proxy may resolve, with everything under them, separated by commas",
            Some(""),
        );
        let tls_ca_file = source.optional(
            "ZYVEN_DISPATCHER_TLS_CA_FILE",
            "PEM file of certificate authorities trusted for endpoints besides the public ones",
        );
        let in_flight_max = source.number(
            "ZYVEN_DISPATCHER_IN_FLIGHT_MAX",
            "deliveries one dispatcher works on at the same time",
            Some("2048"),
            1..=100_000,
        );
        let grace = source.duration(
            "ZYVEN_DISPATCHER_GRACE",
            "how long requests under way may go on after the dispatcher was asked to stop",
            Some("25s"),
        );
        let idle_connections_max = source.number(
            "ZYVEN_DISPATCHER_IDLE_CONNECTIONS_MAX",
            "idle connections to endpoints one dispatcher keeps open in all",
            Some("1024"),
            0..=100_000,
        );
        let idle_connections_per_origin_max = source.number(
            "ZYVEN_DISPATCHER_IDLE_CONNECTIONS_PER_ORIGIN_MAX",
            "idle connections one dispatcher keeps open to one scheme, host and port; all dispatchers together within ZYVEN_EGRESS_TUNNELS_PER_HOST_MAX",
            Some("256"),
            0..=100_000,
        );
        let idle_time_max = source.duration(
            "ZYVEN_DISPATCHER_IDLE_TIME_MAX",
            "how long an idle connection to an endpoint is kept; shorter than ZYVEN_EGRESS_IDLE",
            Some("20s"),
        );
        Some(Self {
            proxies: proxies.filter(|proxies| !proxies.is_empty())?,
            credential: credential?,
            names: names?,
            tls_ca_file: tls_ca_file?,
            in_flight_max: count(in_flight_max?),
            grace: grace?,
            idle_connections_max: count(idle_connections_max?),
            idle_connections_per_origin_max: count(idle_connections_per_origin_max?),
            idle_time_max: idle_time_max?,
        })
    }

    /// The longest [`crate::run`] takes to return after it was asked to stop.
    pub fn stop_time_max(&self) -> Duration {
        // The last second is for closing what is left.
        self.grace + LAST_FLUSH_TIME_MAX + Duration::from_secs(1)
    }
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The password for the egress proxies. Neither printable nor comparable.
#[derive(Clone)]
pub struct ProxyCredential(String);

impl ProxyCredential {
    /// Fewest characters: 16 random ones cannot be guessed online.
    pub const BYTES_MIN: usize = 16;
    /// Most characters.
    pub const BYTES_MAX: usize = 255;

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// The text is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be {} to {} visible ASCII characters",
    ProxyCredential::BYTES_MIN,
    ProxyCredential::BYTES_MAX
)]
pub struct ParseProxyCredentialError;

impl FromStr for ProxyCredential {
    type Err = ParseProxyCredentialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_long_enough = (Self::BYTES_MIN..=Self::BYTES_MAX).contains(&text.len());
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        (is_long_enough && is_visible)
            .then(|| Self(text.to_owned()))
            .ok_or(ParseProxyCredentialError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_proxy_there_is_no_dispatcher() {
        for proxies in [None, Some(""), Some(" , ")] {
            let mut pairs = vec![("ZYVEN_EGRESS_CREDENTIAL", "correct-horse-battery")];
            pairs.extend(proxies.map(|text| ("ZYVEN_EGRESS_PROXIES", text)));
            let mut source = Source::from_pairs(pairs);
            assert!(Config::read(&mut source).is_none(), "{proxies:?}");
            let error = source.finish().expect_err("a mistake").to_string();
            assert!(error.contains("ZYVEN_EGRESS_PROXIES"), "{error}");
        }
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let mut source = Source::from_pairs([
            ("ZYVEN_EGRESS_PROXIES", "127.0.0.1:8092,nonsense"),
            ("ZYVEN_EGRESS_CREDENTIAL", "short"),
            ("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", "0"),
            ("ZYVEN_DISPATCHER_GRACE", "soon"),
        ]);
        assert!(Config::read(&mut source).is_none());
        let error = source.finish().expect_err("four mistakes").to_string();
        for name in [
            "ZYVEN_EGRESS_PROXIES",
            "ZYVEN_EGRESS_CREDENTIAL",
            "ZYVEN_DISPATCHER_IN_FLIGHT_MAX",
            "ZYVEN_DISPATCHER_GRACE",
        ] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("short"), "{error}");
    }

    #[test]
    fn proxies_and_credential_are_all_it_needs() {
        let mut source = Source::from_pairs([
            ("ZYVEN_EGRESS_PROXIES", "127.0.0.1:8092, egress:8092"),
            ("ZYVEN_EGRESS_CREDENTIAL", "correct-horse-battery"),
        ]);
        let config = Config::read(&mut source).expect("a configuration");
        assert_eq!(source.finish(), Ok(()));
        assert_eq!(config.proxies.len(), 2);
        assert_eq!(config.in_flight_max, 2048);
        assert!(config.stop_time_max() > config.grace);
    }
}
