//! Every envelope there is, for the rotation of master keys.

use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::TenantId;
use zyven_domain::secret_box::Place;

use crate::{SealedCredential, SealedSecret, Store, StoreError};

/// Envelopes looked at, and replaced, in one statement.
pub const ENVELOPES_PAGE: u32 = 500;

/// A table with a column `envelope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeTable {
    /// Signing secrets.
    EndpointSecrets,
    /// Headers, authorization, client certificates.
    EndpointCredentials,
}

impl EnvelopeTable {
    /// Every such table of the schema.
    pub const ALL: [Self; 2] = [Self::EndpointSecrets, Self::EndpointCredentials];

    /// The table, as [`Place`] names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndpointSecrets => SealedSecret::TABLE,
            Self::EndpointCredentials => SealedCredential::TABLE,
        }
    }

    const fn page(self) -> &'static str {
        match self {
            Self::EndpointSecrets => {
                "SELECT s.id, e.tenant_id, s.envelope
                   FROM zyven.endpoint_secrets s
                   JOIN zyven.endpoints e ON e.id = s.endpoint_id
                  WHERE s.id > $1
                  ORDER BY s.id
                  LIMIT $2"
            }
            Self::EndpointCredentials => {
                "SELECT c.id, e.tenant_id, c.envelope
                   FROM zyven.endpoint_credentials c
                   JOIN zyven.endpoints e ON e.id = c.endpoint_id
                  WHERE c.id > $1
                  ORDER BY c.id
                  LIMIT $2"
            }
        }
    }

    const fn replace(self) -> &'static str {
        match self {
            Self::EndpointSecrets => {
                "UPDATE zyven.endpoint_secrets s
                    SET envelope = new.envelope
                   FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS new (id, replaces, envelope)
                  WHERE s.id = new.id
                    AND s.envelope = new.replaces"
            }
            Self::EndpointCredentials => {
                "UPDATE zyven.endpoint_credentials c
                    SET envelope = new.envelope
                   FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS new (id, replaces, envelope)
                  WHERE c.id = new.id
                    AND c.envelope = new.replaces"
            }
        }
    }
}

/// An envelope, and what it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnvelope {
    /// Where it lies.
    pub place: Place,
    /// The envelope.
    pub envelope: Vec<u8>,
}

/// An envelope that is to take another one's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResealedEnvelope {
    /// What was found. Whoever changed it meanwhile wins.
    pub found: StoredEnvelope,
    /// The same secret, sealed anew for the same place.
    pub envelope: Vec<u8>,
}

impl Store {
    /// Up to [`ENVELOPES_PAGE`] envelopes of a table in the order of their rows, after the row `after`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn envelopes_after(
        &self,
        table: EnvelopeTable,
        after: Uuid,
    ) -> Result<Vec<StoredEnvelope>, StoreError> {
        let connection = self.reads("reading envelopes").await?;
        let rows = connection
            .query(table.page(), &[&after, &i64::from(ENVELOPES_PAGE)])
            .await?;
        Ok(rows.iter().map(|row| stored(table, row)).collect())
    }

    /// Replaces envelopes of one table that are still as they were found. Returns how many were.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. Harmless to repeat.
    pub async fn replace_envelopes(
        &self,
        table: EnvelopeTable,
        resealed: &[ResealedEnvelope],
    ) -> Result<u64, StoreError> {
        let rows: Vec<Uuid> = resealed.iter().map(|new| new.found.place.row).collect();
        let found: Vec<&[u8]> = resealed
            .iter()
            .map(|new| new.found.envelope.as_slice())
            .collect();
        let new: Vec<&[u8]> = resealed.iter().map(|new| new.envelope.as_slice()).collect();
        let connection = self.durable("replacing envelopes").await?;
        connection
            .execute(table.replace(), &[&rows, &found, &new])
            .await
    }
}

fn stored(table: EnvelopeTable, row: &Row) -> StoredEnvelope {
    StoredEnvelope {
        place: Place {
            table: table.as_str(),
            tenant: TenantId::from_uuid(row.get(1)),
            row: row.get(0),
        },
        envelope: row.get(2),
    }
}
