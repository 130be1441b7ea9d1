//! How many tunnels there may be, in all and to one host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zyven_domain::target::{EgressReason, Host};

/// The places for tunnels. Nobody queues for one: a caller that finds none is told so and tries again
/// later, because a queue here would eat the deadline of the attempt that waits in it.
pub(crate) struct Slots {
    tunnels_max: usize,
    tunnels_per_host_max: usize,
    // Held for a few instructions, never across an await.
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    tunnels: usize,
    by_host: HashMap<Host, usize>,
}

impl Slots {
    pub(crate) fn new(tunnels_max: usize, tunnels_per_host_max: usize) -> Arc<Self> {
        Arc::new(Self {
            tunnels_max,
            tunnels_per_host_max,
            taken: Mutex::default(),
        })
    }

    /// Takes a place, and gives it back when the [`Slot`] is dropped.
    pub(crate) fn take(self: &Arc<Self>, host: &Host) -> Result<Slot, EgressReason> {
        let mut taken = self.lock();
        if taken.tunnels >= self.tunnels_max {
            return Err(EgressReason::Overloaded);
        }
        let of_host = taken.by_host.entry(host.clone()).or_default();
        if *of_host >= self.tunnels_per_host_max {
            return Err(EgressReason::HostBusy);
        }
        *of_host += 1;
        taken.tunnels += 1;
        Ok(Slot {
            slots: Arc::clone(self),
            host: host.clone(),
        })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().tunnels
    }

    fn give_back(&self, host: &Host) {
        let mut taken = self.lock();
        taken.tunnels = taken.tunnels.saturating_sub(1);
        if let Entry::Occupied(mut of_host) = taken.by_host.entry(host.clone()) {
            match of_host.get() - 1 {
                0 => drop(of_host.remove()),
                left => *of_host.get_mut() = left,
            }
        }
    }

    /// The counts are consistent whenever the lock is free, even if a holder panicked.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have one tunnel.
#[must_use = "dropping it gives the place away"]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    host: Host,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn places_are_limited_by_host_and_in_all_and_come_back() {
        let slots = Slots::new(3, 2);
        let (a, b, c) = (name("a.com"), name("b.com"), name("c.com"));
        let first = slots.take(&a).ok().unwrap();
        let second = slots.take(&a).ok().unwrap();
        assert_eq!(slots.take(&a).err(), Some(EgressReason::HostBusy));
        let third = slots.take(&b).ok().unwrap();
        assert_eq!(slots.take(&c).err(), Some(EgressReason::Overloaded));
        drop(first);
        let fourth = slots.take(&c).ok().unwrap();
        drop((second, third, fourth));
        assert_eq!(slots.taken(), 0);
        assert!(slots.lock().by_host.is_empty(), "no host is remembered");
    }
}
