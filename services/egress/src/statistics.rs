//! What the proxy counts.

use crate::tunnel::{End, Relayed};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zyven_domain::target::EgressReason;

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);
impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

pub(crate) struct Statistics {
    pub(crate) opened: Counter,
    refused: [Counter; EgressReason::ALL.len()],
}
impl Statistics {
    pub(crate) fn new() -> Self {
        Self {
            opened: Counter::default(),
            refused: Default::default(),
        }
    }
    pub(crate) fn refused(&self, reason: EgressReason) -> &Counter {
        &self.refused[reason as usize]
    }
    pub(crate) fn tunnel_opened(&self) {}
    pub(crate) fn tunnel_ended(&self, _: &Relayed) {
        let _ = End::ALL;
    }
}
