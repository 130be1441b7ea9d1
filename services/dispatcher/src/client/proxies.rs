//! The way out: a CONNECT tunnel through one of the configured egress proxies.
//!
//! The handshake is ours rather than a library's, because the proxy's refusals carry meaning: a
//! policy that denies the address for good, an endpoint that cannot be reached, or trouble of the
//! proxy itself, which is nobody's attempt.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use zyven_domain::retry::{FailureKind, Outcome, RefusalReason};
use zyven_domain::target::{EGRESS_REASON_HEADER, EgressReason};

use super::Stage;
use super::failure::Failure;

/// A proxy is a neighbour: one that does not accept within this time is down.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// A proxy resolves for up to 3 s and dials for up to 10 s. One that has said nothing by now is
/// stuck, and that is not the endpoint's fault.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(14);
/// How long a proxy that did not accept a connection is passed over.
const REST: Duration = Duration::from_secs(1);
/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// More fields than this are no answer of our proxy.
const FIELDS_MAX: usize = 64;
/// How much of a refusal's sentence is read.
const SENTENCE_BYTES_MAX: usize = 512;
const END: &[u8] = b"\r\n\r\n";

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
            authorization: format!("Basic {}", STANDARD.encode(format!("zyven:{credential}"))),
            epoch: Instant::now(),
        }
    }

    /// Opens a tunnel to `authority` (`host:port`). `stage` moves on once a proxy has been asked.
    pub(super) async fn open(
        &self,
        authority: &str,
        stage: &mut Stage,
    ) -> Result<TcpStream, Failure> {
        let mut last = Failure::unsent("no egress proxy could be reached");
        for proxy in self.in_order() {
            match self.ask(proxy, authority, stage).await {
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
        Err(last)
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

    fn mark_down(&self, proxy: &Proxy, reason: &str) {
        let rest_ms = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
        proxy
            .rests_until_ms
            .store(self.now_ms() + rest_ms, Ordering::Relaxed);
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
        stage: &mut Stage,
    ) -> Result<TcpStream, Refusal> {
        let ProxyAddress { host, port } = &proxy.address;
        let connecting = TcpStream::connect((host.as_str(), *port));
        let mut tunnel = match timeout(CONNECT_TIME_MAX, connecting).await {
            Ok(Ok(tunnel)) => tunnel,
            Ok(Err(error)) if is_exhaustion(&error) => {
                return Err(Refusal::NotAsked(format!(
                    "the dispatcher is out of resources: {error}"
                )));
            }
            Ok(Err(_)) => return Err(Refusal::Down("it refuses connections")),
            Err(_elapsed) => return Err(Refusal::Down("it does not accept connections")),
        };
        *stage = Stage::Connecting;
        // Requests are written whole; waiting to merge them with the next would only cost time.
        let _ = tunnel.set_nodelay(true);
        match timeout(ANSWER_TIME_MAX, self.shake_hands(&mut tunnel, authority)).await {
            Ok(Ok(())) => Ok(tunnel),
            Ok(Err(refusal)) => Err(refusal),
            Err(_elapsed) => Err(Refusal::Down("it does not answer")),
        }
    }

    async fn shake_hands(&self, tunnel: &mut TcpStream, authority: &str) -> Result<(), Refusal> {
        let authorization = &self.authorization;
        let request = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {authorization}\r\n\r\n"
        );
        let lost = |_| Refusal::Down("it closed the connection");
        tunnel.write_all(request.as_bytes()).await.map_err(lost)?;

        let mut answer = Vec::with_capacity(512);
        let head_bytes = loop {
            let searched = answer.len().saturating_sub(END.len() - 1);
            if tunnel.read_buf(&mut answer).await.map_err(lost)? == 0 {
                return Err(Refusal::Down("it closed the connection"));
            }
            let end = answer[searched..]
                .windows(END.len())
                .position(|window| window == END);
            match end {
                Some(position) => break searched + position + END.len(),
                None if answer.len() >= HEAD_BYTES_MAX => {
                    return Err(Refusal::Down("it does not speak HTTP/1.1"));
                }
                None => {}
            }
        };
        let (status, reason) = parse(&answer[..head_bytes])?;
        if (200..=299).contains(&status) {
            return if answer.len() == head_bytes {
                Ok(())
            } else {
                // Neither an HTTP nor a TLS server speaks first.
                Err(Refusal::Said {
                    outcome: Outcome::Failed(FailureKind::Protocol),
                    detail: "the endpoint spoke before it was asked".to_owned(),
                })
            };
        }
        read_sentence(tunnel, &mut answer, head_bytes).await;
        let sentence = String::from_utf8_lossy(&answer[head_bytes..]);
        Err(refusal(status, reason.as_deref(), sentence.trim()))
    }
}

/// Status and reason header of the answer's head.
fn parse(head: &[u8]) -> Result<(u16, Option<String>), Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let parsed = answer.parse(head);
    let (Ok(httparse::Status::Complete(_)), Some(status)) = (parsed, answer.code) else {
        return Err(Refusal::Down("it does not speak HTTP/1.1"));
    };
    let reason = answer
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(EGRESS_REASON_HEADER))
        .map(|field| String::from_utf8_lossy(field.value).into_owned());
    Ok((status, reason))
}

/// The proxy closes behind its refusal, so the sentence is whatever comes until then.
async fn read_sentence(tunnel: &mut TcpStream, answer: &mut Vec<u8>, head_bytes: usize) {
    let bytes_max = head_bytes + SENTENCE_BYTES_MAX;
    while answer.len() < bytes_max {
        match tunnel.read_buf(answer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    answer.truncate(bytes_max);
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
    #[test]
    fn being_out_of_files_or_ports_is_not_held_against_a_proxy() {
        let is_ours = |code| super::is_exhaustion(&std::io::Error::from_raw_os_error(code));
        assert!(is_ours(libc::EMFILE) && is_ours(libc::EADDRNOTAVAIL));
        assert!(!is_ours(libc::ECONNREFUSED) && !is_ours(libc::EHOSTUNREACH));
    }

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
    }
}
