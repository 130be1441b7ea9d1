//! Tenants: who owns everything else.

use uuid::Uuid;
use zyven_domain::id::TenantId;

use crate::api_keys::{API_KEYS_PER_TENANT_MAX, INSERT_KEY, key_columns};
use crate::error::Doing;
use crate::{NewApiKey, Store, StoreError};

/// Longest name of a tenant, in characters.
pub const TENANT_NAME_CHARS_MAX: usize = 200;

const INSERT_TENANT: &str = "
    INSERT INTO zyven.tenants (id, name)
    VALUES ($1, $2)
    ON CONFLICT (id) DO NOTHING";
/// Names need not be unique; the oldest tenant has the better claim.
const TENANT_NAMED: &str = "
    SELECT id
      FROM zyven.tenants
     WHERE name = $1
     ORDER BY created_at, id
     LIMIT 1";

impl Store {
    /// Makes a tenant together with its first key, whose `tenant_id` is the new tenant's id. A
    /// repetition with the same ids changes nothing.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or refuses the name: 1 to [`TENANT_NAME_CHARS_MAX`] characters.
    pub async fn create_tenant(&self, name: &str, first_key: &NewApiKey) -> Result<(), StoreError> {
        const DOING: &str = "creating a tenant";
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        transaction
            .execute(INSERT_TENANT, &[&first_key.tenant_id.uuid(), &name])
            .await
            .doing(DOING)?;
        let (public_id, hash, scopes) = key_columns(first_key);
        transaction
            .execute(
                INSERT_KEY,
                &[
                    &first_key.id.uuid(),
                    &first_key.tenant_id.uuid(),
                    &public_id,
                    &hash,
                    &first_key.name,
                    &scopes,
                    &first_key.expires_at,
                    &i64::from(API_KEYS_PER_TENANT_MAX),
                ],
            )
            .await
            .doing(DOING)?;
        transaction.commit().await.doing(DOING)
    }

    /// The oldest tenant of that name, so that a script can be run twice.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn tenant_named(&self, name: &str) -> Result<Option<TenantId>, StoreError> {
        let connection = self.reads("looking for a tenant").await?;
        let row = connection.query_opt(TENANT_NAMED, &[&name]).await?;
        Ok(row.map(|row| TenantId::from_uuid(row.get::<_, Uuid>(0))))
    }
}
