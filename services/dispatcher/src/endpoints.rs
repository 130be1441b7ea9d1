//! The endpoints of recent deliveries, in ready form.
//!
//! What an owner changes (URL, secrets, policy, status) takes effect within [`TIME_TO_LIVE`]; what has
//! not changed is not parsed and decrypted again.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::{DeadLetterReason, RetryPolicy};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::signature::{self, SigningKey};
use zyven_domain::target::{EndpointUrl, NamePolicy, Scheme};
use zyven_store::{EndpointForDelivery, EndpointStatus, SealedSecret, Store, StoreError};

use crate::authentication::{Authentication, Opener};
use crate::client::{Client, Origin};
use crate::destination::Destination;
use crate::statistics::Statistics;

/// How old what is known of an endpoint may be.
const TIME_TO_LIVE: Duration = Duration::from_secs(1);
/// An endpoint without deliveries for this long is forgotten, and its connections with it.
const UNUSED_TIME_MAX: Duration = Duration::from_secs(60);
/// How long before its end a client certificate is warned about.
const CERTIFICATE_WARNING: TimeDelta = TimeDelta::days(14);

/// What may be done for an endpoint.
#[derive(Clone)]
pub(crate) enum Endpoint {
    /// Deliver.
    Open(Arc<Destination>),
    /// Never deliver: the same would follow every time.
    Closed(DeadLetterReason),
    /// Wait until its owner lets it go on. Its lane is closed, or about to be.
    Paused,
    /// Wait for the operator: a secret cannot be opened, so requests would go out without it.
    Sealed,
}

/// The cache. Belongs to the one task that claims, hence no lock.
pub(crate) struct Endpoints {
    store: Store,
    key_ring: KeyRing,
    names: NamePolicy,
    client: Arc<Client>,
    statistics: Arc<Statistics>,
    entries: HashMap<EndpointId, Entry>,
    longest_timeout: Duration,
    swept_at: Instant,
}

struct Entry {
    /// What `ready` was made from; none if the endpoint does not exist.
    stored: Option<EndpointForDelivery>,
    ready: Endpoint,
    loaded_at: Instant,
    used_at: Instant,
}

impl Endpoints {
    pub(crate) fn new(
        store: Store,
        key_ring: KeyRing,
        names: NamePolicy,
        client: Arc<Client>,
        statistics: Arc<Statistics>,
    ) -> Self {
        Self {
            store,
            key_ring,
            names,
            client,
            statistics,
            entries: HashMap::new(),
            longest_timeout: RetryPolicy::default().timeout,
            swept_at: Instant::now(),
        }
    }

    /// Makes sure that all of `ids` are known and fresh; returns the longest timeout among them.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub(crate) async fn refresh(
        &mut self,
        ids: impl Iterator<Item = EndpointId> + Clone,
    ) -> Result<Duration, StoreError> {
        let now = Instant::now();
        let mut stale: Vec<EndpointId> = Vec::new();
        for id in ids.clone() {
            match self.entries.get_mut(&id) {
                Some(entry) if now.duration_since(entry.loaded_at) < TIME_TO_LIVE => {
                    entry.used_at = now;
                }
                Some(_) | None => stale.push(id),
            }
        }
        if !stale.is_empty() {
            stale.sort_unstable();
            stale.dedup();
            self.load(&stale, now).await?;
        }
        Ok(ids
            .filter_map(|id| self.timeout_of(id))
            .max()
            .unwrap_or(RetryPolicy::default().timeout))
    }

    /// What may be done for an endpoint; `None` if it was not asked about. That happens when a ticket
    /// named another endpoint than the row it led to, which says nothing about this one.
    pub(crate) fn get(&self, id: EndpointId) -> Option<Endpoint> {
        self.entries.get(&id).map(|entry| entry.ready.clone())
    }

    /// The longest timeout met recently: a guess at what the next tickets will need, before it is
    /// known whose they are.
    pub(crate) fn longest_timeout(&self) -> Duration {
        self.longest_timeout
    }

    fn timeout_of(&self, id: EndpointId) -> Option<Duration> {
        match &self.entries.get(&id)?.ready {
            Endpoint::Open(destination) => Some(destination.policy.timeout),
            Endpoint::Closed(_) | Endpoint::Paused | Endpoint::Sealed => None,
        }
    }

    async fn load(&mut self, stale: &[EndpointId], now: Instant) -> Result<(), StoreError> {
        let mut found: HashMap<EndpointId, EndpointForDelivery> = self
            .store
            .endpoints(stale)
            .await?
            .into_iter()
            .map(|endpoint| (endpoint.id, endpoint))
            .collect();
        let mut shows_certificates = false;
        for id in stale {
            let stored = found.remove(id);
            let known = self.entries.remove(id);
            let ready = match known {
                Some(entry) if entry.stored == stored => entry.ready,
                other => {
                    let shows = EndpointForDelivery::shows_certificate;
                    shows_certificates |= stored.as_ref().is_some_and(shows);
                    self.prepare(stored.as_ref(), other.as_ref().map(|entry| &entry.ready))
                }
            };
            let entry = Entry {
                stored,
                ready,
                loaded_at: now,
                used_at: now,
            };
            self.entries.insert(*id, entry);
            let timeout = self.timeout_of(*id).unwrap_or_default();
            self.longest_timeout = self.longest_timeout.max(timeout);
        }
        if now.duration_since(self.swept_at) > UNUSED_TIME_MAX {
            self.swept_at = now;
            self.entries
                .retain(|_, entry| now.duration_since(entry.used_at) < UNUSED_TIME_MAX);
            let timeouts = self.entries.keys().filter_map(|id| self.timeout_of(*id));
            self.longest_timeout = timeouts.max().unwrap_or(RetryPolicy::default().timeout);
            shows_certificates = true;
        }
        if shows_certificates {
            self.count_ending_certificates();
        }
        Ok(())
    }

    fn count_ending_certificates(&self) {
        let soon = Utc::now() + CERTIFICATE_WARNING;
        let ends_soon = |entry: &&Entry| match &entry.ready {
            Endpoint::Open(destination) => destination.authentication.certificate_ends() < soon,
            Endpoint::Closed(_) | Endpoint::Paused | Endpoint::Sealed => false,
        };
        let ending = self.entries.values().filter(ends_soon).count();
        self.statistics.certificates_ending.set(ending as i64);
    }

    /// `known` is what it was before.
    fn prepare(&self, stored: Option<&EndpointForDelivery>, known: Option<&Endpoint>) -> Endpoint {
        let Some(stored) = stored else {
            return Endpoint::Closed(DeadLetterReason::EndpointDeleted);
        };
        match stored.status {
            EndpointStatus::Enabled => {}
            EndpointStatus::Paused => return Endpoint::Paused,
            EndpointStatus::Disabled => {
                return Endpoint::Closed(DeadLetterReason::EndpointDisabled);
            }
            EndpointStatus::Deleted => return Endpoint::Closed(DeadLetterReason::EndpointDeleted),
        }
        let url = match EndpointUrl::parse_with(&stored.url, &self.names) {
            Ok(url) => url,
            Err(error) => {
                tracing::warn!(endpoint.id = %stored.id, %error, "the stored URL is not one Zyven delivers to");
                return Endpoint::Closed(DeadLetterReason::InvalidUrl);
            }
        };
        let Some(keys) = self.open_secrets(stored) else {
            return Endpoint::Sealed;
        };
        let policy = RetryPolicy {
            timeout: stored.policy.timeout.min(RetryPolicy::TIMEOUT_MAX),
            ..stored.policy.clone()
        };
        let Some((origin, authentication)) = self.open_credentials(stored, &url, known) else {
            return Endpoint::Sealed;
        };
        let updated_at = stored.updated_at;
        match Destination::new(&url, origin, policy, updated_at, keys, authentication) {
            Some(destination) => Endpoint::Open(Arc::new(destination)),
            None => Endpoint::Closed(DeadLetterReason::InvalidUrl),
        }
    }

    /// All keys to sign with, or none: a receiver that has only the new secret must not get requests
    /// signed with the old one alone.
    fn open_secrets(&self, stored: &EndpointForDelivery) -> Option<Vec<SigningKey>> {
        let mut keys = Vec::with_capacity(stored.secrets.len());
        for secret in &stored.secrets {
            match self.open_secret(stored.tenant_id, secret) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    tracing::error!(endpoint.id = %stored.id, %error, "cannot sign for this endpoint; its deliveries wait");
                    return None;
                }
            }
        }
        if keys.is_empty() {
            tracing::error!(endpoint.id = %stored.id, "this endpoint has no secret; its deliveries wait");
            return None;
        }
        Some(keys)
    }

    fn open_secret(&self, tenant: TenantId, secret: &SealedSecret) -> Result<SigningKey, String> {
        let scheme: signature::Scheme = secret
            .scheme
            .parse()
            .map_err(|_| format!("signing scheme {:?} is unknown", secret.scheme))?;
        let place = SealedSecret::place(tenant, secret.id);
        let bytes = self
            .key_ring
            .open(&secret.envelope, &place)
            .map_err(|error| error.to_string())?;
        SigningKey::from_bytes(scheme, bytes).map_err(|error| error.to_string())
    }

    /// What requests carry, and the connections they go over, or nothing: a request must not go out
    /// without what its owner asked for.
    fn open_credentials(
        &self,
        stored: &EndpointForDelivery,
        url: &EndpointUrl,
        known: Option<&Endpoint>,
    ) -> Option<(Arc<Origin>, Authentication)> {
        let sealed = |error: &dyn Display| {
            tracing::error!(endpoint.id = %stored.id, %error, "cannot authenticate to this endpoint; its deliveries wait");
        };
        let known = known.and_then(|known| match known {
            Endpoint::Open(destination) => Some(&destination.authentication),
            Endpoint::Closed(_) | Endpoint::Paused | Endpoint::Sealed => None,
        });
        let opener = Opener {
            key_ring: &self.key_ring,
            names: &self.names,
            client: &self.client,
            known,
        };
        let opened = opener
            .open(stored.tenant_id, &stored.credentials)
            .inspect_err(|error| sealed(error))
            .ok()?;
        let Some((id, certificate)) = &opened.certificate else {
            return Some((self.client.origin(url, None), opened.authentication));
        };
        if url.scheme() == Scheme::Http {
            sealed(&"over http its client certificate would not be shown");
            return None;
        }
        let left = opened.authentication.certificate_ends() - Utc::now();
        if left < CERTIFICATE_WARNING {
            tracing::warn!(endpoint.id = %stored.id, days_left = left.num_days(), "the client certificate of this endpoint ends soon, or has ended");
        }
        let identity = self
            .client
            .identity(*id, certificate)
            .inspect_err(|error| sealed(error))
            .ok()?;
        let origin = self.client.origin(url, Some(&identity));
        Some((origin, opened.authentication))
    }
}
