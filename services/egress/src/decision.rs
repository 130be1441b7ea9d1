//! What was decided about a CONNECT: one log line, one count.

use std::time::Instant;

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
    target: Option<Authority>,
}

impl Decision {
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            target: None,
        }
    }

    /// The target is known and well-formed. Until then nothing of what the caller sent is logged.
    pub(crate) fn about(&mut self, target: Authority) -> &Authority {
        self.target.insert(target)
    }

    pub(crate) fn opened(self, class: AddressClass, statistics: &Statistics) {
        statistics.opened.increment();
        self.log("open", "allowed", Some(class));
    }

    pub(crate) fn refused(self, refusal: &Refusal, statistics: &Statistics) {
        statistics.refused(refusal.reason).increment();
        self.log("refuse", refusal.reason.as_str(), refusal.class);
    }

    fn log(self, decision: &str, reason: &str, class: Option<AddressClass>) {
        let host = self.target.as_ref().map(|target| target.host().to_string());
        let port = self.target.as_ref().map(Authority::port);
        let duration_ms = self.began.elapsed().as_secs_f64() * 1_000.0;
        info!(
            endpoint.host = host,
            endpoint.port = port,
            decision,
            reason,
            address.class = class.map(AddressClass::as_str),
            duration_ms,
            "decided"
        );
    }
}
