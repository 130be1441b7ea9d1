//! Whether the process can do its work now, and why not.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::shutdown::Shutdown;

/// The checks of a process. Clones share them.
#[derive(Clone)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<Entry>>>,
    shutdown: Shutdown,
}

/// One thing the process needs. Clones are the same check.
#[derive(Clone)]
pub struct Check {
    checks: Arc<Mutex<Vec<Entry>>>,
    index: usize,
}

struct Entry {
    name: &'static str,
    /// `None` when ready.
    reason: Option<String>,
}

impl Readiness {
    /// Ready as long as there are no checks and nobody has asked for this shutdown, the whole process'.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            checks: Arc::default(),
            shutdown,
        }
    }

    /// Adds a check. It is not ready until it is told so. A name may be added only once.
    pub fn check(&self, name: &'static str) -> Check {
        let mut checks = lock(&self.checks);
        let index = checks.len();
        checks.push(Entry {
            name,
            reason: Some("starting".to_owned()),
        });
        Check {
            checks: Arc::clone(&self.checks),
            index,
        }
    }

    /// Whether there is no reason not to be.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Why the process is not ready: names of checks and what is wrong with them. Empty when it is.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let stopping = self
            .shutdown
            .is_requested()
            .then(|| ("shutdown", "stopping".to_owned()));
        let checks = lock(&self.checks);
        let failing = checks
            .iter()
            .filter_map(|check| Some((check.name, check.reason.clone()?)));
        stopping.into_iter().chain(failing).collect()
    }
}

impl Check {
    /// All is well.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Something is wrong; `reason` is shown to whoever asks, so it holds no secrets.
    pub fn not_ready(&self, reason: impl fmt::Display) {
        self.set(Some(reason.to_string()));
    }

    /// Logs changes between the two, not changes of the reason.
    fn set(&self, reason: Option<String>) {
        let (name, before) = {
            let mut checks = lock(&self.checks);
            let entry = &mut checks[self.index];
            (
                entry.name,
                std::mem::replace(&mut entry.reason, reason.clone()),
            )
        };
        match (before, reason) {
            (Some(_), None) => tracing::info!(check = name, "ready"),
            (None, Some(reason)) => tracing::warn!(check = name, reason, "not ready"),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

/// Held to copy or to replace one reason.
fn lock(checks: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    checks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("reasons", &self.reasons())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = lock(&self.checks)[self.index].name;
        f.debug_tuple("Check").field(&name).finish()
    }
}
