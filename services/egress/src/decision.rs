//! What was decided about a CONNECT: one log line, one count.

use std::time::{Duration, Instant};

use tracing::info;
use zyven_domain::address::AddressClass;
use zyven_domain::target::Authority;

use crate::refusal::Refusal;
use crate::statistics::Statistics;

/// The decision about one request, from its first byte to the answer. Exactly one of
/// [`Decision::opened`] and [`Decision::refused`] ends it, and writes the one line an operator looks
/// for. The line holds the kind of address, never the address.
pub(crate) struct Decision {
    began: Instant,
    /// As it was asked for, once it is known to be well-formed.
    host: Option<String>,
    port: Option<u16>,
}

impl Decision {
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            host: None,
            port: None,
        }
    }

    /// The target is known and well-formed. Until then nothing of what the caller sent is logged.
    pub(crate) fn about(&mut self, target: &Authority) {
        self.host = Some(target.host().to_string());
        self.port = Some(target.port());
    }

    /// The target was well-formed, but policy refuses its name or port.
    pub(crate) fn about_denied(&mut self, target: &str) {
        let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
        self.host = Some(host.to_ascii_lowercase());
        self.port = port.parse().ok();
    }

    pub(crate) fn opened(self, class: AddressClass, statistics: &Statistics) {
        let decided_in = self.began.elapsed();
        statistics.opened(decided_in);
        self.log("open", "allowed", Some(class), decided_in);
    }

    pub(crate) fn refused(self, refusal: &Refusal, statistics: &Statistics) {
        let decided_in = self.began.elapsed();
        statistics.refused(refusal.reason, decided_in);
        self.log("refuse", refusal.reason.as_str(), refusal.class, decided_in);
    }

    fn log(self, decision: &str, reason: &str, class: Option<AddressClass>, decided_in: Duration) {
        info!(
            endpoint.host = self.host,
            endpoint.port = self.port,
            decision,
            reason,
            address.class = class.map(AddressClass::as_str),
            duration_ms = decided_in.as_secs_f64() * 1_000.0,
            "decided"
        );
    }
}
