//! PostgreSQL: every statement Zyven runs.
//!
//! # Who acts
//!
//! Ingest *accepts* events, the relay *hands over* outbox rows, dispatchers *claim* and *settle*
//! them, operators *cancel* deliveries and *replay* dead letters. Each of these is one method here, named after the business
//! step it makes atomic; each is one statement or one transaction.
//!
//! # What is promised
//!
//! - [`Store::accept`] returns only after a synchronous commit of the event together with its outbox
//!   rows. Everything a `202` promises rests on that.
//! - Every change of an outbox row repeats, in its `WHERE`, the state and the lease token it expects.
//!   A lost race is a value ([`Settled::Superseded`], [`RefusedTicket`]), never an error.
//! - Any method may be called again with the same arguments after an error whose outcome is unknown.
//!
//! # Architecture invariants
//!
//! - SQL stands in this crate and in `sql/` alone; statements are constants above their function.
//! - No statement mentions Redis. Whatever the queue holds, the rules here decide.
//! - No transaction is held while the caller waits for the network.
//! - Hot statements are prepared, planned once and generically, and find rows by key: see [`pool`].

mod accept;
mod api_keys;
mod audit;
mod breakers;
mod cancellations;
mod claim;
mod connect;
mod direct;
mod endpoint_credentials;
mod endpoint_secrets;
mod endpoints;
mod endpoints_for_delivery;
mod envelopes;
mod error;
mod event_types;
mod explain;
mod horizon;
mod lanes;
mod maintenance;
mod migrate;
mod operational;
pub mod pool;
mod presence;
mod reads;
mod relay;
mod replays;
mod routing;
mod settle;
mod statistics;
mod storage;
mod tenants;
mod tls;

pub use accept::{Accepted, Idempotency, NewEvent};
pub use api_keys::{API_KEYS_PER_TENANT_MAX, ApiKeyRecord, Credential, NewApiKey};
pub use audit::{AUDIT_RETENTION_MIN, Actor, AuditFilter, AuditRecord};
pub use breakers::BreakerIs;
pub use cancellations::{CANCEL_REASON_CHARS_MAX, Cancelled};
pub use claim::{Claim, ClaimedDelivery, RefusedTicket};
pub use direct::AcceptedFor;
pub use endpoint_credentials::{
    CredentialChange, CredentialKind, NewCredential, Safeguards, SealedCredential, UnknownKindError,
};
pub use endpoint_secrets::{OwnedSecret, SECRETS_VALID_MAX};
pub use endpoints::{
    ENDPOINTS_PER_TENANT_MAX, EndpointChange, EndpointRecord, EndpointRefusal, NewEndpoint,
};
pub use endpoints_for_delivery::{
    DISABLED_AS_GONE, EndpointForDelivery, EndpointStatus, SealedSecret,
};
pub use envelopes::{ENVELOPES_PAGE, EnvelopeTable, ResealedEnvelope, StoredEnvelope};
pub use error::StoreError;
pub use event_types::{
    CheckedType, EVENT_TYPES_PER_TENANT_MAX, EventTypeChange, EventTypeRecord, EventTypeRefusal,
    SchemaInForce, SchemaMode,
};
pub use explain::{
    EXPLAINED_ATTEMPTS_MAX, EXPLAINED_BODY_BYTES_MAX, EXPLANATION_CODES, ExplainedDelivery,
    ExplainedEvent, ExplainedLease, Explanation,
};
pub use horizon::Horizon;
pub use lanes::{Flow, LaneLimits, LaneLimitsOf};
pub use maintenance::InvariantBreach;
pub use migrate::{AppliedMigration, Migration, Schema, migrations};
pub use pool::{ConnectionKind, StoreConfig};
pub use presence::{DispatcherBeat, EndedLease, LeasesPage};
pub use reads::{
    ATTEMPTS_SHOWN_MAX, Attempt, DeliveryFilter, DeliveryRecord, EventRecord, EventSummary,
};
pub use relay::{Leadership, OutboxRow, RelayLook};
pub use replays::{
    REPLAY_CHOSEN_MAX, REPLAY_DELIVERIES_MAX, REPLAY_REASON_CHARS_MAX, Replay, ReplayBegun,
    ReplayFilter, ReplayProgress, Replayed,
};
pub use settle::{AttemptRecord, SettleItem, Settled, Settlement};
pub use statistics::{
    Backlog, DEAD_LETTERS_COUNTED_MAX, ENDPOINTS_TOLD_MAX, FINISHED_COUNTED_MAX, Finished,
    KeyNames, Tally, UNFINISHED_COUNTED_MAX, Waiting, Window,
};
pub use storage::TableStorage;
pub use tenants::{
    RATE_PER_SECOND_MAX, TENANT_NAME_CHARS_MAX, TENANTS_NAMED_MAX, TenantRates, TenantRecord,
};
pub use tls::DatabaseTls;

use std::sync::Arc;

/// The database, as the rest of Zyven sees it. Cheap to clone; connects when first used, so it can be
/// made while PostgreSQL is away.
#[derive(Clone)]
pub struct Store {
    pools: Arc<pool::Pools>,
    routes: Arc<routing::Routes>,
    /// In whose name changes are made.
    actor: Option<Actor>,
}

impl Store {
    /// Prepares pools for `config`. Does not connect yet.
    ///
    /// # Errors
    /// The URL is not a PostgreSQL connection string.
    pub fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        Ok(Self {
            pools: Arc::new(pool::Pools::new(config)?),
            routes: Arc::new(routing::Routes::default()),
            actor: None,
        })
    }

    /// The same database, with every change made in the name of `actor`: that is what the audit log
    /// says. Without it, the log names the database role.
    #[must_use]
    pub fn by(&self, actor: Actor) -> Self {
        Self {
            actor: Some(actor),
            ..self.clone()
        }
    }
}
