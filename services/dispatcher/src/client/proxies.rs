//! The way out: a CONNECT tunnel through one of the configured egress proxies.
//!
//! The handshake is ours rather than a library's, because the proxy's refusals carry meaning: a
//! policy that denies the address for good, an endpoint that cannot be reached, or trouble of the
//! proxy itself, which is nobody's attempt.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use zyven_domain::handshake::{Answer, Request, basic};
use zyven_domain::retry::{FailureKind, Outcome, RefusalReason};
use zyven_domain::target::EgressReason;

use super::failure::Failure;

/// A proxy is a neighbour: one that does not accept within this time is down.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// One that says nothing at all for this long is down as well: it answers most requests at once, and
/// says within half a second that it works on the others.
const FIRST_WORD_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest time asking one proxy may take, whatever the endpoint's timeout is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(14);
/// What of that time the answer may take to travel; a quarter, if the time is short.
const TRAVEL_TIME_MAX: Duration = Duration::from_secs(1);
/// Proxies that failed may have cost this share of an attempt's time before another one is asked under
/// the same deadline. What is slower than that would be held against the endpoint.
const FREE_SHARE: u32 = 50;
/// How long a proxy that failed is passed over.
const REST: Duration = Duration::from_secs(1);
/// How much of a refusal's sentence is read.
const SENTENCE_BYTES_MAX: usize = 512;

/// Where an egress proxy listens: `host:port`, resolved anew for each tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    host: String,
    port: u16,
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
    epoch: Instant,
}

struct Proxy {
    address: ProxyAddress,
    is_down: AtomicBool,
    /// Milliseconds after `epoch` until which it is passed over.
    rests_until_ms: AtomicU64,
}

/// How asking one proxy ended, if not with a tunnel.
enum Refusal {
    /// It is not there, stuck, talks nonsense, or does not know us.
    Down(&'static str),
    /// It was not even asked: the fault is here, and says nothing about the proxy.
    NotAsked(String),
    /// It answered, about the target or its own limits.
    Said { outcome: Outcome, detail: String },
}

impl Proxies {
    pub(super) fn new(addresses: Vec<ProxyAddress>, credential: &str) -> Self {
        let proxies = addresses
            .into_iter()
            .map(|address| Proxy {
                address,
                is_down: AtomicBool::new(false),
                rests_until_ms: AtomicU64::new(0),
            })
            .collect();
        Self {
            proxies,
            turn: AtomicUsize::new(0),
            authorization: basic(credential),
            epoch: Instant::now(),
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
            match self
                .ask(proxy, authority, Terms::between(Instant::now(), deadline))
                .await
            {
                Ok(tunnel) => {
                    self.mark_up(proxy);
                    return Ok(tunnel);
                }
                Err(Refusal::Down(reason)) => self.mark_down(proxy, reason),
                Err(Refusal::NotAsked(detail)) => {
                    // Another proxy would need the same that is short.
                    tracing::warn!(reason = %detail, "no connection could be opened");
                    return Err(Failure::new(Outcome::Unsent, detail));
                }
                Err(Refusal::Said { outcome, detail }) => {
                    self.mark_up(proxy);
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
        let now_ms = self.now_ms();
        let mut wait_ms = u64::MAX;
        for proxy in &self.proxies {
            if !proxy.is_down.load(Ordering::Relaxed) {
                return Reachability::Open;
            }
            let rests_until_ms = proxy.rests_until_ms.load(Ordering::Relaxed);
            wait_ms = wait_ms.min(rests_until_ms.saturating_sub(now_ms));
        }
        match wait_ms {
            0 => Reachability::Doubtful,
            _ => Reachability::Closed(Duration::from_millis(wait_ms)),
        }
    }

    /// Those worth asking, another one first each time. If all rest, all are asked: it is the caller
    /// who decides not to ask at all.
    fn in_order(&self) -> impl Iterator<Item = &Proxy> {
        let now_ms = self.now_ms();
        let rests = move |proxy: &Proxy| proxy.rests_until_ms.load(Ordering::Relaxed) > now_ms;
        let all_rest = self.proxies.iter().all(rests);
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.proxies.len().max(1);
        let (tail, head) = self.proxies.split_at(first);
        head.iter()
            .chain(tail)
            .filter(move |proxy| all_rest || !rests(proxy))
    }

    fn mark_up(&self, proxy: &Proxy) {
        if proxy.is_down.swap(false, Ordering::Relaxed) {
            proxy.rests_until_ms.store(0, Ordering::Relaxed);
            tracing::info!(proxy = %proxy.address, "the egress proxy is back");
        }
    }

    fn let_rest(&self, proxy: &Proxy, rest: Duration) {
        let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        proxy
            .rests_until_ms
            .store(self.now_ms() + rest_ms, Ordering::Relaxed);
    }

    fn mark_down(&self, proxy: &Proxy, reason: &str) {
        self.let_rest(proxy, REST);
        if !proxy.is_down.swap(true, Ordering::Relaxed) {
            tracing::error!(proxy = %proxy.address, reason, "the egress proxy is down; its share waits or goes elsewhere");
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn ask(
        &self,
        proxy: &Proxy,
        authority: &str,
        terms: Terms,
    ) -> Result<TcpStream, Refusal> {
        self.send_a_scout(proxy);
        let ProxyAddress { host, port } = &proxy.address;
        let connecting = TcpStream::connect((host.as_str(), *port));
        let until = terms.give_up_at.min(Instant::now() + CONNECT_TIME_MAX);
        let mut tunnel = match timeout_at(until, connecting).await {
            Ok(Ok(tunnel)) => tunnel,
            Ok(Err(error)) if is_exhaustion(&error) => {
                return Err(Refusal::NotAsked(format!(
                    "the dispatcher is out of resources: {error}"
                )));
            }
            Ok(Err(_)) => return Err(Refusal::Down("it refuses connections")),
            Err(_elapsed) => return Err(Refusal::Down("it does not accept connections")),
        };
        // Requests are written whole; waiting to merge them with the next would only cost time.
        let _ = tunnel.set_nodelay(true);
        self.shake_hands(&mut tunnel, authority, terms).await?;
        Ok(tunnel)
    }

    /// Of a proxy that was down, one attempt at a time finds out whether it is back: the others pass it
    /// over meanwhile, rather than lose the same time.
    fn send_a_scout(&self, proxy: &Proxy) {
        if proxy.is_down.load(Ordering::Relaxed) {
            self.let_rest(proxy, CONNECT_TIME_MAX + FIRST_WORD_TIME_MAX);
        }
    }

    async fn shake_hands(
        &self,
        tunnel: &mut TcpStream,
        authority: &str,
        terms: Terms,
    ) -> Result<(), Refusal> {
        let request = Request::write(authority, &self.authorization, terms.within);
        let lost = |_| Refusal::Down("it closed the connection");
        tunnel.write_all(request.as_bytes()).await.map_err(lost)?;

        let mut answer = Vec::with_capacity(512);
        let first_word_by = Instant::now() + FIRST_WORD_TIME_MAX;
        let mut until = terms.give_up_at.min(first_word_by);
        let (status, reason, head_bytes) = loop {
            match Answer::parse(&answer).map_err(|_| NOT_HTTP)? {
                Answer::Final {
                    status,
                    reason,
                    bytes,
                } => break (status, reason, bytes),
                Answer::Working { bytes } => {
                    answer.drain(..bytes);
                    until = terms.give_up_at;
                    continue;
                }
                Answer::Incomplete => {}
            }
            match timeout_at(until, tunnel.read_buf(&mut answer)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Err(Refusal::Down("it closed the connection")),
                Err(_elapsed) => return Err(Refusal::Down("it does not answer")),
            }
        };
        if (200..=299).contains(&status) {
            return if answer.len() == head_bytes {
                Ok(())
            } else {
                let Failure {
                    outcome, detail, ..
                } = Failure::unasked();
                Err(Refusal::Said {
                    outcome,
                    detail: detail.into_owned(),
                })
            };
        }
        answer.drain(..head_bytes);
        // The verdict is in the head; its sentence is read as far as it has come by then.
        let _ = timeout_at(terms.give_up_at, read_sentence(tunnel, &mut answer)).await;
        let sentence = String::from_utf8_lossy(&answer);
        Err(refusal(status, reason.as_deref(), sentence.trim()))
    }
}

const NOT_HTTP: Refusal = Refusal::Down("it does not speak HTTP/1.1");

/// How the time that is left is parted between a proxy and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    /// What the proxy is given. It says in this time what became of the endpoint, so that an endpoint
    /// which is slow to connect is charged on the proxy's word and never on its silence.
    within: Duration,
    /// When its silence is its own fault. Before the attempt's deadline, so that it is found out.
    give_up_at: Instant,
}

impl Terms {
    fn between(now: Instant, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(now).min(ANSWER_TIME_MAX);
        let travel = (left / 4).min(TRAVEL_TIME_MAX);
        Self {
            within: left - travel,
            give_up_at: now + left - travel / 2,
        }
    }
}

/// The proxy closes behind its refusal, so the sentence is whatever comes until then.
async fn read_sentence(tunnel: &mut TcpStream, sentence: &mut Vec<u8>) {
    while sentence.len() < SENTENCE_BYTES_MAX {
        match tunnel.read_buf(sentence).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    sentence.truncate(SENTENCE_BYTES_MAX);
}

/// An answer without the reason header is not our proxy's, so nothing about the endpoint follows from
/// it, and a customer should not read its words. A reason this version does not know is judged by its
/// status.
fn refusal(status: u16, reason: Option<&str>, sentence: &str) -> Refusal {
    let outcome = match reason.map(str::parse::<EgressReason>) {
        None => return Refusal::Down("something else answers in its place"),
        Some(Ok(EgressReason::CredentialInvalid)) => {
            return Refusal::Down("it does not accept ZYVEN_EGRESS_CREDENTIAL");
        }
        Some(Ok(reason)) => reason.outcome(),
        Some(Err(_unknown)) => match status {
            403 => Outcome::Refused(RefusalReason::EgressDenied),
            502 | 504 => Outcome::Failed(FailureKind::Connect),
            _ => Outcome::Unsent,
        },
    };
    Refusal::Said {
        outcome,
        detail: sentence.to_owned(),
    }
}

/// Ours, not the proxy's: too many open files, ports or buffers.
fn is_exhaustion(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_out_of_files_or_ports_is_not_held_against_a_proxy() {
        let is_ours = |code| is_exhaustion(&std::io::Error::from_raw_os_error(code));
        assert!(is_ours(libc::EMFILE) && is_ours(libc::EADDRNOTAVAIL));
        assert!(!is_ours(libc::ECONNREFUSED) && !is_ours(libc::EHOSTUNREACH));
    }

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

    #[test]
    fn only_a_proxy_that_gives_its_reason_is_believed() {
        let outcome = |status, reason| match refusal(status, reason, "") {
            Refusal::Said { outcome, .. } => Some(outcome),
            Refusal::Down(_) | Refusal::NotAsked(_) => None,
        };
        let denied = Some(Outcome::Refused(RefusalReason::EgressDenied));
        let failed = |kind| Some(Outcome::Failed(kind));
        assert_eq!(outcome(403, Some("denied_ip")), denied);
        assert_eq!(outcome(403, Some("denied_by_a_later_version")), denied);
        assert_eq!(outcome(403, None), None);
        assert_eq!(
            outcome(502, Some("dns_not_found")),
            failed(FailureKind::Dns)
        );
        assert_eq!(
            outcome(504, Some("unheard_of")),
            failed(FailureKind::Connect)
        );
        assert_eq!(outcome(502, None), None);
        assert_eq!(outcome(407, Some("credential_invalid")), None);
        assert_eq!(outcome(503, Some("overloaded")), Some(Outcome::Unsent));
        assert_eq!(
            outcome(400, Some("authority_invalid")),
            Some(Outcome::Refused(RefusalReason::InvalidUrl))
        );
    }

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
        proxies.mark_down(&proxies.proxies[1], "test");
        assert_eq!(asked(), [1, 3]);
        assert_eq!(proxies.reachability(), Reachability::Open);
        proxies.mark_down(&proxies.proxies[0], "test");
        proxies.mark_down(&proxies.proxies[2], "test");
        assert_eq!(asked(), [1, 2, 3]);
        assert!(matches!(proxies.reachability(), Reachability::Closed(wait) if wait <= REST));
        proxies.mark_up(&proxies.proxies[2]);
        assert_eq!(asked(), [3]);
        // Its rest is over: one attempt finds out whether it works, the others go elsewhere meanwhile.
        let first = &proxies.proxies[0];
        first.rests_until_ms.store(0, Ordering::Relaxed);
        assert_eq!(asked(), [1, 3]);
        proxies.send_a_scout(first);
        assert_eq!(asked(), [3]);
        proxies.mark_up(first);
        assert_eq!(asked(), [1, 3]);
    }

    #[test]
    fn a_proxy_is_given_less_than_what_is_left_and_found_out_before_it_is_over() {
        let now = Instant::now();
        let seconds = Duration::from_secs_f64;
        for (left, within, give_up_in) in [
            (30.0, 13.0, 13.5),
            (14.0, 13.0, 13.5),
            (4.0, 3.0, 3.5),
            (2.0, 1.5, 1.75),
            (0.1, 0.075, 0.0875),
            (0.0, 0.0, 0.0),
        ] {
            let terms = Terms::between(now, now + seconds(left));
            assert_eq!(terms.within, seconds(within), "{left}");
            assert_eq!(terms.give_up_at, now + seconds(give_up_in), "{left}");
        }
    }
}
