//! What requests to an endpoint carry besides signatures: custom headers, authorization, a client
//! certificate. At most one of each kind, each in an envelope of its own.

use std::collections::HashMap;
use std::str::FromStr;

use tokio_postgres::{Row, Transaction};
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::secret_box::Place;

use crate::error::Doing;
use crate::{Store, StoreError};

/// What a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// Headers the owner adds.
    Headers,
    /// Who Zyven says it is: basic, bearer, or OAuth 2.
    Auth,
    /// What Zyven shows in the TLS handshake.
    ClientCertificate,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Headers, Self::Auth, Self::ClientCertificate];

    /// The name used in SQL and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::Auth => "auth",
            Self::ClientCertificate => "client_certificate",
        }
    }
}

/// The text names no kind that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kind of a credential is not known to this version")]
pub struct UnknownKindError;

impl FromStr for CredentialKind {
    type Err = UnknownKindError;

    fn from_str(text: &str) -> Result<Self, UnknownKindError> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or(UnknownKindError)
    }
}

/// A credential as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCredential {
    /// The row. Each value has another one.
    pub id: Uuid,
    /// What it is, as [`CredentialKind`] has it. Text, because a newer Zyven may know more kinds: who
    /// reads one it does not know must not send without it.
    pub kind: String,
    /// An envelope of [`zyven_domain::secret_box`].
    pub envelope: Vec<u8>,
}

impl SealedCredential {
    /// The table, as [`Place`] names it.
    pub const TABLE: &'static str = "endpoint_credentials";

    /// What the envelope of credential `id` is bound to.
    pub const fn place(tenant: TenantId, id: Uuid) -> Place {
        Place {
            table: Self::TABLE,
            tenant,
            row: id,
        }
    }
}

/// A credential to be stored.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// Made by the caller, a fresh one for each value: the envelope is bound to it.
    pub id: Uuid,
    /// What it is.
    pub kind: CredentialKind,
    /// An envelope of [`zyven_domain::secret_box`].
    pub envelope: Vec<u8>,
    /// JSON of what may be shown.
    pub shown: String,
}

/// What is to be different about an endpoint's credentials; kinds not named stay.
#[derive(Debug, Clone, Default)]
pub struct CredentialChange {
    /// These replace what there is of their kind.
    pub set: Vec<NewCredential>,
    /// These are to be gone.
    pub removed: Vec<CredentialKind>,
}

/// How requests to an endpoint are authenticated, as far as that may be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Safeguards {
    /// The scheme of the current signing secret; none without a secret.
    pub signing: Option<String>,
    /// JSON of what may be shown, by the names of [`CredentialKind`].
    pub credentials: HashMap<String, String>,
}

const REMOVE: &str = "
    DELETE FROM zyven.endpoint_credentials c
     USING zyven.endpoints e
     WHERE e.id = $2
       AND e.tenant_id = $1
       AND c.endpoint_id = e.id
       AND c.kind = ANY ($3)";
const SET: &str = "
    INSERT INTO zyven.endpoint_credentials (id, endpoint_id, kind, envelope, shown)
    SELECT c.id, e.id, c.kind, c.envelope, c.shown::json
      FROM zyven.endpoints e,
           unnest($3::uuid[], $4::text[], $5::bytea[], $6::text[]) AS c (id, kind, envelope, shown)
     WHERE e.id = $2
       AND e.tenant_id = $1
       AND e.deleted_at IS NULL
        ON CONFLICT (endpoint_id, kind) DO UPDATE
       SET id = excluded.id,
           envelope = excluded.envelope,
           shown = excluded.shown,
           changed_at = now()";
const SAFEGUARDS_OF: &str = "
    SELECT e.id,
           (SELECT s.scheme
              FROM zyven.endpoint_secrets s
             WHERE s.endpoint_id = e.id
               AND s.expires_at IS NULL),
           c.kinds, c.shown
      FROM zyven.endpoints e
     CROSS JOIN LATERAL (SELECT coalesce(array_agg(kind), '{}') AS kinds,
                                coalesce(array_agg(shown::text), '{}') AS shown
                           FROM zyven.endpoint_credentials
                          WHERE endpoint_id = e.id) AS c
     WHERE e.id = ANY ($2)
       AND e.tenant_id = $1";

impl Store {
    /// How requests to these endpoints of the tenant are authenticated.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn safeguards_of(
        &self,
        tenant: TenantId,
        endpoints: &[EndpointId],
    ) -> Result<HashMap<EndpointId, Safeguards>, StoreError> {
        let ids: Vec<Uuid> = endpoints.iter().map(|id| id.uuid()).collect();
        let connection = self.reads("reading safeguards of endpoints").await?;
        let rows = connection
            .query(SAFEGUARDS_OF, &[&tenant.uuid(), &ids])
            .await?;
        Ok(rows.iter().map(safeguards).collect())
    }
}

/// Makes `change` part of a transaction that has locked, or just made, the tenant's endpoint.
pub(crate) async fn change_credentials(
    transaction: &Transaction<'_>,
    doing: &'static str,
    tenant: TenantId,
    endpoint: EndpointId,
    change: &CredentialChange,
) -> Result<(), StoreError> {
    let (tenant, endpoint) = (tenant.uuid(), endpoint.uuid());
    if !change.removed.is_empty() {
        let kinds: Vec<&str> = change.removed.iter().map(|kind| kind.as_str()).collect();
        transaction
            .execute(REMOVE, &[&tenant, &endpoint, &kinds])
            .await
            .doing(doing)?;
    }
    if !change.set.is_empty() {
        let set = &change.set;
        let ids: Vec<Uuid> = set.iter().map(|new| new.id).collect();
        let kinds: Vec<&str> = set.iter().map(|new| new.kind.as_str()).collect();
        let envelopes: Vec<&[u8]> = set.iter().map(|new| new.envelope.as_slice()).collect();
        let shown: Vec<&str> = set.iter().map(|new| new.shown.as_str()).collect();
        transaction
            .execute(SET, &[&tenant, &endpoint, &ids, &kinds, &envelopes, &shown])
            .await
            .doing(doing)?;
    }
    Ok(())
}

fn safeguards(row: &Row) -> (EndpointId, Safeguards) {
    let kinds: Vec<String> = row.get(2);
    let shown: Vec<String> = row.get(3);
    let safeguards = Safeguards {
        signing: row.get(1),
        credentials: kinds.into_iter().zip(shown).collect(),
    };
    (EndpointId::from_uuid(row.get(0)), safeguards)
}
