//! From a name to addresses, by asking name servers and nothing else.
//!
//! `getaddrinfo` is never given a customer's text: it reads the hosts file, appends search domains, and
//! takes `2130706433` for an address. The resolver here sees fully qualified names only.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::time::{Instant, timeout_at};
use zyven_domain::target::EgressReason;

use crate::config::NameServers;
use crate::refusal::Refusal;

/// More addresses than this are not an answer but a nuisance: each is judged.
pub(crate) const ADDRESSES_MAX: usize = 32;
/// How long it is believed that there is no such name, whatever the TTL; less if answers are.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);
const CACHED_ANSWERS_MAX: u64 = 4_096;

/// Asks name servers for the addresses of a name.
pub(crate) struct Resolver {
    inner: TokioResolver,
}

impl Resolver {
    /// Uses the servers given, or those of the system's `resolv.conf` if none are. Its search domains
    /// and options are ignored. Tries fit into `budget`, and no answer is believed for longer than
    /// `ttl_max`.
    pub(crate) fn new(
        servers: &NameServers,
        budget: Duration,
        ttl_max: Duration,
    ) -> Result<Self, NetError> {
        let servers = match servers.addresses() {
            [] => system_conf::read_system_conf()?.0.name_servers,
            addresses => addresses.iter().copied().map(name_server).collect(),
        };
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(budget, ttl_max);
        let inner = builder.build()?;
        Ok(Self { inner })
    }

    /// Every address the name has now, at least one and at most [`ADDRESSES_MAX`]; what has not been
    /// answered by the deadline does not count.
    pub(crate) async fn addresses(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, Refusal> {
        // The final dot makes it fully qualified, so that nothing is ever appended to it.
        let name = Name::from_ascii(format!("{name}."))
            .map_err(|_| refused(EgressReason::DnsNotFound, "the name cannot be resolved"))?;
        let (v4, v6) = tokio::join!(
            self.look_up(name.clone(), RecordType::A, deadline),
            self.look_up(name, RecordType::AAAA, deadline),
        );
        merge(v4, v6)
    }

    async fn look_up(
        &self,
        name: Name,
        kind: RecordType,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, Failure> {
        let lookup = Box::pin(self.inner.lookup(name, kind));
        match timeout_at(deadline, lookup).await {
            Ok(Ok(lookup)) => Ok(lookup
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::A(ip) => Some(IpAddr::V4(ip.0)),
                    RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                    _ => None,
                })
                .collect()),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_elapsed) => Err(Failure::TimedOut),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .collect();
    NameServerConfig::new(address.ip(), true, connections)
}

fn options(budget: Duration, ttl_max: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Two tries fit into the budget: a lost datagram is asked for again.
    options.timeout = budget * 2 / 5;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHED_ANSWERS_MAX;
    options.positive_max_ttl = Some(ttl_max);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX.min(ttl_max));
    options
}

/// Why one family has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    NotFound,
    TimedOut,
    Failed,
}

impl Failure {
    fn of(error: &NetError) -> Self {
        // An answer without records is "not found" only if the server meant it; SERVFAIL and REFUSED
        // come as other errors.
        if error.is_nx_domain() || error.is_no_records_found() {
            Self::NotFound
        } else if matches!(error, NetError::Timeout) {
            Self::TimedOut
        } else {
            tracing::debug!(%error, "name servers gave no usable answer");
            Self::Failed
        }
    }
}

/// One family is enough: many servers mishandle the other. What could not be asked is not dialled.
fn merge(
    v4: Result<Vec<IpAddr>, Failure>,
    v6: Result<Vec<IpAddr>, Failure>,
) -> Result<Vec<IpAddr>, Refusal> {
    let failures = [v4.as_ref().err().copied(), v6.as_ref().err().copied()];
    // IPv4 first: a host whose IPv6 leads nowhere costs a time-out per address otherwise.
    let addresses: Vec<IpAddr> = [v4, v6].into_iter().flatten().flatten().collect();

    if addresses.len() > ADDRESSES_MAX {
        let limit = format!("the name has more than {ADDRESSES_MAX} addresses");
        return Err(refused(EgressReason::DnsFailed, limit));
    }
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    if failures.contains(&Some(Failure::TimedOut)) {
        return Err(refused(
            EgressReason::DnsTimeout,
            "the name servers did not answer in time",
        ));
    }
    if failures.contains(&Some(Failure::Failed)) {
        return Err(refused(
            EgressReason::DnsFailed,
            "the name servers gave no usable answer",
        ));
    }
    Err(refused(
        EgressReason::DnsNotFound,
        "the name does not exist or has no address",
    ))
}

fn refused(reason: EgressReason, detail: impl Into<String>) -> Refusal {
    Refusal::new(reason, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(count: usize) -> Vec<IpAddr> {
        vec![IpAddr::from([8, 8, 8, 8]); count]
    }

    fn reason(
        v4: Result<Vec<IpAddr>, Failure>,
        v6: Result<Vec<IpAddr>, Failure>,
    ) -> Option<EgressReason> {
        merge(v4, v6).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn one_family_is_enough() {
        for failure in [Failure::NotFound, Failure::TimedOut, Failure::Failed] {
            assert_eq!(reason(Ok(ips(1)), Err(failure)), None);
            assert_eq!(reason(Err(failure), Ok(ips(1))), None);
        }
    }

    #[test]
    fn without_addresses_the_worse_failure_is_the_reason() {
        use Failure::*;
        let rows = [
            (NotFound, NotFound, EgressReason::DnsNotFound),
            (NotFound, Failed, EgressReason::DnsFailed),
            (Failed, TimedOut, EgressReason::DnsTimeout),
            (TimedOut, NotFound, EgressReason::DnsTimeout),
        ];
        for (v4, v6, expected) in rows {
            assert_eq!(reason(Err(v4), Err(v6)), Some(expected));
        }
        assert_eq!(
            reason(Ok(vec![]), Err(NotFound)),
            Some(EgressReason::DnsNotFound)
        );
    }

    #[test]
    fn too_many_addresses_are_no_answer() {
        assert_eq!(reason(Ok(ips(16)), Ok(ips(16))), None);
        assert_eq!(
            reason(Ok(ips(16)), Ok(ips(17))),
            Some(EgressReason::DnsFailed)
        );
    }
}
