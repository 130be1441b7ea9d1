//! API keys: made, found, listed, revoked. The secrets themselves never come here.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::api_key::{PublicId, Scope, Scopes, SecretHash};
use zyven_domain::id::{ApiKeyId, TenantId};

use crate::{CheckedType, Store, StoreError, TenantRates};

/// Most keys of a tenant that are neither revoked nor expired: more than a tenant has programs, and a
/// bound on what somebody with one stolen key can leave behind.
pub const API_KEYS_PER_TENANT_MAX: u32 = 1_000;

/// A key ready to be stored.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Made by the caller, so that the same call can be repeated.
    pub id: ApiKeyId,
    /// The owner.
    pub tenant_id: TenantId,
    /// What it will be found by.
    pub public_id: PublicId,
    /// What its secret is compared with.
    pub secret_hash: SecretHash,
    /// What its owner calls it.
    pub name: String,
    /// What it may do; at least one thing.
    pub scopes: Scopes,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as its tenant may see it.
#[derive(Debug, Clone)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: ApiKeyId,
    /// The part of the key that is no secret.
    pub public_id: PublicId,
    /// What its owner calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was taken back.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What authentication needs to know of a key that has not been revoked.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The key.
    pub key_id: ApiKeyId,
    /// Whom it speaks for.
    pub tenant_id: TenantId,
    /// What the shown secret must hash to.
    pub secret_hash: SecretHash,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// How often the tenant may ask, if that is its own affair.
    pub rates: TenantRates,
    /// The tenant's types whose events are checked, in the order of their names. They come along with
    /// the key so that publishing asks nothing more than it did.
    pub checked_types: Arc<[CheckedType]>,
}

const CREDENTIAL: &str = "
    SELECT k.id, k.tenant_id, k.secret_hash, k.scopes, k.expires_at, t.names, t.versions,
           o.events_per_second, o.requests_per_second
      FROM zyven.api_keys k
      JOIN zyven.tenants o ON o.id = k.tenant_id
     CROSS JOIN LATERAL (
           SELECT coalesce(array_agg(name ORDER BY name), '{}'),
                  coalesce(array_agg(version ORDER BY name), '{}')
             FROM zyven.event_types
            WHERE tenant_id = k.tenant_id
              AND mode <> 'off'
              AND archived_at IS NULL
           ) AS t (names, versions)
     WHERE k.public_id = $1
       AND k.revoked_at IS NULL";
/// `$8` is [`API_KEYS_PER_TENANT_MAX`]; requests that race past it exceed it by their number at most.
pub(crate) const INSERT_KEY: &str = "
    INSERT INTO zyven.api_keys (id, tenant_id, public_id, secret_hash, name, scopes, expires_at)
    SELECT $1, $2, $3, $4, $5, $6, $7
     WHERE $8 > (SELECT count(*)
                   FROM zyven.api_keys
                  WHERE tenant_id = $2
                    AND revoked_at IS NULL
                    AND (expires_at IS NULL OR expires_at > now()))
    ON CONFLICT (id) DO NOTHING";
const KEYS_OF: &str = "
    SELECT id, public_id, name, scopes, created_at, expires_at, revoked_at
      FROM zyven.api_keys
     WHERE tenant_id = $1
       AND id > $2
     ORDER BY id
     LIMIT $3";
const KEY_OF: &str = "
    SELECT id, public_id, name, scopes, created_at, expires_at, revoked_at
      FROM zyven.api_keys
     WHERE tenant_id = $1
       AND id = $2";
const REVOKE: &str = "
    UPDATE zyven.api_keys
       SET revoked_at = coalesce(revoked_at, now())
     WHERE tenant_id = $1
       AND id = $2";

impl Store {
    /// The key that is found by `public_id`, unless it was revoked. Expiry is the caller's to check:
    /// an answer may be kept for a while.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn credential(&self, public_id: PublicId) -> Result<Option<Credential>, StoreError> {
        let connection = self.reads("looking up an API key").await?;
        let row = connection
            .query_opt(CREDENTIAL, &[&public_id.to_string()])
            .await?;
        row.as_ref().map(credential).transpose()
    }

    /// Stores a key. A repetition with the same id changes nothing. `None`: the tenant has
    /// [`API_KEYS_PER_TENANT_MAX`] already.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn add_api_key(&self, key: &NewApiKey) -> Result<Option<ApiKeyRecord>, StoreError> {
        const DOING: &str = "adding an API key";
        let connection = self.durable(DOING).await?;
        let (public_id, hash, scopes) = key_columns(key);
        connection
            .execute(
                INSERT_KEY,
                &[
                    &key.id.uuid(),
                    &key.tenant_id.uuid(),
                    &public_id,
                    &hash,
                    &key.name,
                    &scopes,
                    &key.expires_at,
                    &i64::from(API_KEYS_PER_TENANT_MAX),
                ],
            )
            .await?;
        // Only the limit leaves nothing behind; an id that existed is found like a new one.
        let row = connection
            .query_opt(KEY_OF, &[&key.tenant_id.uuid(), &key.id.uuid()])
            .await?;
        row.as_ref().map(record).transpose()
    }

    /// The tenant's keys in the order they were made, revoked ones included, after the key `after`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn api_keys_of(
        &self,
        tenant: TenantId,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKeyRecord>, StoreError> {
        let after = after.map_or(Uuid::nil(), ApiKeyId::uuid);
        let connection = self.reads("listing API keys").await?;
        let rows = connection
            .query(KEYS_OF, &[&tenant.uuid(), &after, &i64::from(limit)])
            .await?;
        rows.iter().map(record).collect()
    }

    /// Takes a key back, for good. False if the tenant has no such key; a key that was revoked before
    /// stays so.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn revoke_api_key(&self, tenant: TenantId, id: ApiKeyId) -> Result<bool, StoreError> {
        let connection = self.durable("revoking an API key").await?;
        let touched = connection
            .execute(REVOKE, &[&tenant.uuid(), &id.uuid()])
            .await?;
        Ok(touched > 0)
    }
}

/// The columns of a key that need another type in SQL: public id, hash, scopes.
pub(crate) fn key_columns(key: &NewApiKey) -> (String, Vec<u8>, Vec<&'static str>) {
    (
        key.public_id.to_string(),
        key.secret_hash.0.to_vec(),
        key.scopes.iter().map(Scope::as_str).collect(),
    )
}

fn credential(row: &Row) -> Result<Credential, StoreError> {
    let hash: Vec<u8> = row.get(2);
    let (names, versions): (Vec<String>, Vec<i64>) = (row.get(5), row.get(6));
    Ok(Credential {
        key_id: ApiKeyId::from_uuid(row.get(0)),
        tenant_id: TenantId::from_uuid(row.get(1)),
        secret_hash: SecretHash(hash.try_into().map_err(|_| unreadable("a hash's length"))?),
        scopes: scopes(row.get(3))?,
        expires_at: row.get(4),
        rates: TenantRates::of(row, 7, 8),
        checked_types: names
            .into_iter()
            .zip(versions)
            .map(|(name, version)| CheckedType { name, version })
            .collect(),
    })
}

fn record(row: &Row) -> Result<ApiKeyRecord, StoreError> {
    let public_id: String = row.get(1);
    Ok(ApiKeyRecord {
        id: ApiKeyId::from_uuid(row.get(0)),
        public_id: public_id.parse().map_err(|_| unreadable("a public id"))?,
        name: row.get(2),
        scopes: scopes(row.get(3))?,
        created_at: row.get(4),
        expires_at: row.get(5),
        revoked_at: row.get(6),
    })
}

fn scopes(names: Vec<&str>) -> Result<Scopes, StoreError> {
    names
        .into_iter()
        .map(|name| name.parse::<Scope>())
        .collect::<Result<Scopes, _>>()
        .map_err(|_| unreadable("a scope"))
}

fn unreadable(what: &str) -> StoreError {
    StoreError::Unreadable {
        doing: "reading an API key",
        what: format!("{what} that this version does not know"),
    }
}
