//! The way out: a CONNECT tunnel through one of the configured egress proxies.
//!
//! The handshake is ours rather than a library's, because the proxy's refusals carry meaning: a
//! policy that denies the address for good, an endpoint that cannot be reached, or trouble of the
//! proxy itself, which is nobody's attempt. So is silence: a proxy says within the time it is given what
//! became of the endpoint (ADR 0021).

mod address;
mod asking;
mod proxy;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use zyven_domain::handshake::basic;
use zyven_domain::retry::Outcome;

pub use address::{ParseProxyAddressError, ProxyAddress};

use super::failure::Failure;
use asking::{Refusal, Terms, ask};
use proxy::Proxy;

/// Proxies that failed may have cost this share of an attempt's time before another one is asked under
/// the same deadline. What is slower than that would be held against the endpoint.
const FREE_SHARE: u32 = 50;

/// What may be asked of the proxies at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reachability {
    /// At least one is believed to work.
    Open,
    /// None is, and one may be tried again.
    Doubtful,
    /// None is; trying again is worth it after this wait.
    Closed(Duration),
}

/// All configured proxies. Tunnels go through them in turn; one that is down is passed over.
pub(super) struct Proxies {
    proxies: Vec<Proxy>,
    turn: AtomicUsize,
    /// The value of `Proxy-Authorization`.
    authorization: String,
}

impl Proxies {
    pub(super) fn new(addresses: Vec<ProxyAddress>, credential: &str) -> Self {
        Self {
            proxies: addresses.into_iter().map(Proxy::new).collect(),
            turn: AtomicUsize::new(0),
            authorization: basic(credential),
        }
    }

    /// Opens a tunnel to `authority` (`host:port`) before the deadline, and returns before it. A failure
    /// that is charged to the endpoint is always a proxy's own word about it.
    pub(super) async fn open(
        &self,
        authority: &str,
        deadline: Instant,
    ) -> Result<TcpStream, Failure> {
        let began = Instant::now();
        let free = deadline.saturating_duration_since(began) / FREE_SHARE;
        let mut last = Failure::unsent("no egress proxy could be reached");
        for proxy in self.in_order() {
            if began.elapsed() > free {
                return Err(last.that_cost_time());
            }
            let asked_ms = proxy.begin();
            let terms = Terms::between(Instant::now(), deadline);
            match ask(&proxy.address, authority, &self.authorization, terms).await {
                Ok(tunnel) => {
                    proxy.mark_up();
                    return Ok(tunnel);
                }
                Err(Refusal::Down(reason)) => proxy.mark_down(reason),
                Err(Refusal::Silent) => proxy.mark_silent(asked_ms),
                Err(Refusal::NotAsked(detail)) => {
                    // Another proxy would need the same that is short.
                    tracing::warn!(reason = %detail, "no connection could be opened");
                    return Err(Failure::new(Outcome::Unsent, detail));
                }
                Err(Refusal::Said { outcome, detail }) => {
                    proxy.mark_up();
                    let failure = Failure::new(outcome, detail);
                    if failure.outcome != Outcome::Unsent {
                        return Err(failure);
                    }
                    // It has no place for another tunnel; the next one may.
                    tracing::debug!(proxy = %proxy.address, reason = %failure.detail, "the egress proxy refused");
                    last = failure;
                }
            }
        }
        Err(if began.elapsed() > free {
            last.that_cost_time()
        } else {
            last
        })
    }

    pub(super) fn reachability(&self) -> Reachability {
        if self.proxies.iter().any(|proxy| !proxy.is_down()) {
            return Reachability::Open;
        }
        match self.proxies.iter().map(Proxy::rests_for).min() {
            Some(wait) if !wait.is_zero() => Reachability::Closed(wait),
            Some(_) | None => Reachability::Doubtful,
        }
    }

    /// Those worth asking, another one first each time. If all rest, all are asked: it is the caller
    /// who decides not to ask at all.
    fn in_order(&self) -> impl Iterator<Item = &Proxy> {
        let rests = |proxy: &Proxy| !proxy.rests_for().is_zero();
        let all_rest = self.proxies.iter().all(rests);
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.proxies.len().max(1);
        let (tail, head) = self.proxies.split_at(first);
        head.iter()
            .chain(tail)
            .filter(move |proxy| all_rest || !rests(proxy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn resting_proxies_are_passed_over_unless_all_rest() {
        let addresses = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        let proxies = Proxies::new(
            addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            "credential",
        );
        let asked = || {
            let mut ports: Vec<u16> = proxies.in_order().map(|p| p.address.port).collect();
            ports.sort_unstable();
            ports
        };
        assert_eq!(asked(), [1, 2, 3]);
        proxies.proxies[1].mark_down("test");
        assert_eq!(asked(), [1, 3]);
        assert_eq!(proxies.reachability(), Reachability::Open);
        proxies.proxies[0].mark_down("test");
        proxies.proxies[2].mark_down("test");
        assert_eq!(asked(), [1, 2, 3]);
        assert!(
            matches!(proxies.reachability(), Reachability::Closed(wait) if wait <= proxy::REST)
        );
        proxies.proxies[2].mark_up();
        assert_eq!(asked(), [3]);
    }
}
