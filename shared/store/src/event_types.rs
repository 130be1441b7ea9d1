//! Event types: what a tenant says its events look like.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use zyven_domain::event::EventType;
use zyven_domain::id::TenantId;

use crate::{Store, StoreError};

/// Most event types of a tenant, archived ones included.
pub const EVENT_TYPES_PER_TENANT_MAX: u32 = 1_000;

/// What happens to an event whose payload does not fit its type's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaMode {
    /// Nobody looks.
    Off,
    /// It is accepted, and its publisher is told.
    Warn,
    /// It is refused.
    Reject,
}

impl SchemaMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Warn, Self::Reject];

    /// The name used in SQL, the API and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Reject => "reject",
        }
    }

    /// The mode of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// An event type as its owner sees it.
#[derive(Debug, Clone)]
pub struct EventTypeRecord {
    /// The type of the events it speaks of.
    pub name: String,
    /// For people.
    pub description: String,
    /// What happens to events that do not fit.
    pub mode: SchemaMode,
    /// JSON Schema, as it was given.
    pub schema: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// Since when its schema is not applied.
    pub archived_at: Option<DateTime<Utc>>,
}

/// What is to be different; `None` leaves as it is. For a new type it stays at its default.
#[derive(Debug, Clone, Default)]
pub struct EventTypeChange {
    /// Nothing is changed unless [`EventTypeRecord::updated_at`] is one of these; `None` asks for nothing.
    pub only_of: Option<Vec<DateTime<Utc>>>,
    /// For people.
    pub description: Option<String>,
    /// What happens to events that do not fit.
    pub mode: Option<SchemaMode>,
    /// JSON Schema that has been checked; `Some(None)` removes it.
    pub schema: Option<Option<String>>,
    /// Whether it is archived.
    pub archived: Option<bool>,
}

/// Why an event type was not made or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypeRefusal {
    /// The tenant has no such type.
    NotFound,
    /// The tenant has one of that name, perhaps archived.
    Exists,
    /// The tenant has [`EVENT_TYPES_PER_TENANT_MAX`] already.
    TooMany,
    /// Events cannot be checked without a schema.
    NoSchema,
    /// It was last changed at another time than those of [`EventTypeChange::only_of`].
    Changed,
}

/// A type whose events are to be checked, without the schema itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedType {
    /// The events' type.
    pub name: String,
    /// Of this state of the type; of no other type or state of any tenant.
    pub version: i64,
}

/// A type's schema and what it is for, as of one version.
#[derive(Debug, Clone)]
pub struct SchemaInForce {
    /// Of this state of the type.
    pub version: i64,
    /// What happens to events that do not fit.
    pub mode: SchemaMode,
    /// JSON Schema, as it was given.
    pub schema: String,
}

/// Mapped by name to [`EventTypeRefusal::NoSchema`].
const NEEDS_SCHEMA: &str = "checking_needs_a_schema";

/// A macro because statements are constants: the columns that [`record`] reads.
macro_rules! record_columns {
    () => {
        "name, description, mode::text, schema, created_at, updated_at, archived_at"
    };
}

/// `$6` is [`EVENT_TYPES_PER_TENANT_MAX`]; requests that race past it exceed it by their number at most.
const INSERT: &str = concat!(
    "INSERT INTO zyven.event_types (tenant_id, name, description, mode, schema)
     SELECT $1, $2, coalesce($3, ''), coalesce($4::text, 'off')::zyven.schema_mode, nullif($5, '')
      WHERE $6 > (SELECT count(*) FROM zyven.event_types WHERE tenant_id = $1)
     ON CONFLICT (tenant_id, name) DO NOTHING
     RETURNING ",
    record_columns!()
);
const CHANGE: &str = concat!(
    "UPDATE zyven.event_types
        SET description = coalesce($3, description),
            mode = coalesce($4::text::zyven.schema_mode, mode),
            schema = nullif(coalesce($5, schema), ''),
            archived_at = CASE WHEN $6 THEN coalesce(archived_at, now())
                               WHEN NOT $6 THEN NULL
                               ELSE archived_at END,
            version = nextval('zyven.event_type_versions'),
            updated_at = now()
      WHERE tenant_id = $1
        AND name = $2
        AND ($7::timestamptz[] IS NULL OR updated_at = ANY ($7))
     RETURNING ",
    record_columns!()
);
const EVENT_TYPES_OF: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM zyven.event_types
      WHERE tenant_id = $1
        AND name > $2 COLLATE \"C\"
        AND (archived_at IS NOT NULL) = $3
      ORDER BY name
      LIMIT $4"
);
const EVENT_TYPE_OF: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM zyven.event_types
      WHERE tenant_id = $1
        AND name = $2"
);
const SCHEMA_IN_FORCE: &str = "
    SELECT version, mode::text, schema
      FROM zyven.event_types
     WHERE tenant_id = $1
       AND name = $2
       AND mode <> 'off'
       AND archived_at IS NULL";

impl Store {
    /// Makes an event type.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn add_event_type(
        &self,
        tenant: TenantId,
        name: &EventType,
        said: &EventTypeChange,
    ) -> Result<Result<EventTypeRecord, EventTypeRefusal>, StoreError> {
        let connection = self.durable("adding an event type").await?;
        let added = connection
            .query_opt(
                INSERT,
                &[
                    &tenant.uuid(),
                    &name.as_str(),
                    &said.description,
                    &said.mode.map(SchemaMode::as_str),
                    &schema_text(said),
                    &i64::from(EVENT_TYPES_PER_TENANT_MAX),
                ],
            )
            .await;
        if lacks_schema(&added) {
            return Ok(Err(EventTypeRefusal::NoSchema));
        }
        if let Some(row) = added? {
            return record(&row).map(Ok);
        }
        let existing = self.event_type_of(tenant, name).await?;
        Ok(Err(match existing {
            Some(_) => EventTypeRefusal::Exists,
            None => EventTypeRefusal::TooMany,
        }))
    }

    /// Changes what `change` names and returns the type as it is then. It counts for events from the
    /// moment their publishers' keys are looked up again.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn change_event_type(
        &self,
        tenant: TenantId,
        name: &EventType,
        change: &EventTypeChange,
    ) -> Result<Result<EventTypeRecord, EventTypeRefusal>, StoreError> {
        let connection = self.durable("changing an event type").await?;
        let changed = connection
            .query_opt(
                CHANGE,
                &[
                    &tenant.uuid(),
                    &name.as_str(),
                    &change.description,
                    &change.mode.map(SchemaMode::as_str),
                    &schema_text(change),
                    &change.archived,
                    &change.only_of,
                ],
            )
            .await;
        if lacks_schema(&changed) {
            return Ok(Err(EventTypeRefusal::NoSchema));
        }
        if let Some(row) = changed? {
            return record(&row).map(Ok);
        }
        if change.only_of.is_none() {
            return Ok(Err(EventTypeRefusal::NotFound));
        }
        let there = connection
            .query_opt(EVENT_TYPE_OF, &[&tenant.uuid(), &name.as_str()])
            .await?;
        let refusal = there.map_or(EventTypeRefusal::NotFound, |_| EventTypeRefusal::Changed);
        Ok(Err(refusal))
    }

    /// The tenant's event types in the order of their names, after the name `after`: those in use, or
    /// those archived.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn event_types_of(
        &self,
        tenant: TenantId,
        archived: bool,
        after: Option<&EventType>,
        limit: u32,
    ) -> Result<Vec<EventTypeRecord>, StoreError> {
        let after = after.map_or("", EventType::as_str);
        let connection = self.reads("listing event types").await?;
        let rows = connection
            .query(
                EVENT_TYPES_OF,
                &[&tenant.uuid(), &after, &archived, &i64::from(limit)],
            )
            .await?;
        rows.iter().map(record).collect()
    }

    /// One of the tenant's event types.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn event_type_of(
        &self,
        tenant: TenantId,
        name: &EventType,
    ) -> Result<Option<EventTypeRecord>, StoreError> {
        let connection = self.reads("reading an event type").await?;
        let row = connection
            .query_opt(EVENT_TYPE_OF, &[&tenant.uuid(), &name.as_str()])
            .await?;
        row.as_ref().map(record).transpose()
    }

    /// The schema that events of this type are checked against at present; `None` if they are not.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn schema_in_force(
        &self,
        tenant: TenantId,
        name: &EventType,
    ) -> Result<Option<SchemaInForce>, StoreError> {
        let connection = self.reads("reading a schema").await?;
        let row = connection
            .query_opt(SCHEMA_IN_FORCE, &[&tenant.uuid(), &name.as_str()])
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SchemaInForce {
            version: row.get(0),
            mode: mode(row.get(1))?,
            schema: row.get(2),
        }))
    }
}

/// As it travels to SQL: empty for "none", NULL for "as it is".
fn schema_text(change: &EventTypeChange) -> Option<&str> {
    let schema = change.schema.as_ref()?;
    Some(schema.as_deref().unwrap_or(""))
}

fn lacks_schema<T>(outcome: &Result<T, StoreError>) -> bool {
    match outcome {
        Err(StoreError::Statement { source, .. }) => source
            .as_db_error()
            .is_some_and(|error| error.constraint() == Some(NEEDS_SCHEMA)),
        Ok(_) | Err(_) => false,
    }
}

fn mode(name: &str) -> Result<SchemaMode, StoreError> {
    SchemaMode::named(name).ok_or_else(|| StoreError::Unreadable {
        doing: "reading an event type",
        what: "a mode that this version does not know".to_owned(),
    })
}

fn record(row: &Row) -> Result<EventTypeRecord, StoreError> {
    Ok(EventTypeRecord {
        name: row.get(0),
        description: row.get(1),
        mode: mode(row.get(2))?,
        schema: row.get(3),
        created_at: row.get(4),
        updated_at: row.get(5),
        archived_at: row.get(6),
    })
}
