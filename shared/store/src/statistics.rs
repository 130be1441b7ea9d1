//! What has lately become of a tenant's deliveries, in numbers: what an overview shows.
//!
//! No number is kept; all are counted when somebody asks. So every statement is bounded twice, by time and
//! by rows, finds its rows by an index, and says where the bound on rows has cut something off.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{ApiKeyId, EndpointId, TenantId};

use crate::reads::first_id_at;
use crate::{Store, StoreError};

/// Finished deliveries that are looked at for one answer, shared out evenly among the tenant's endpoints: some 50 ms
/// of one core.
pub const FINISHED_COUNTED_MAX: u32 = 50_000;
/// Finished deliveries that are looked at of each endpoint at least, however many endpoints there are.
const FINISHED_EACH_MIN: u32 = 5;
/// Unfinished deliveries that are looked at, of all tenants, the oldest first: no index leads from a tenant to its
/// own, as each would cost every claim and every result.
pub const UNFINISHED_COUNTED_MAX: u32 = 100_000;
/// Open dead letters that are counted.
pub const DEAD_LETTERS_COUNTED_MAX: u32 = 10_000;
/// Endpoints that are told of one by one: those with most dead letters, then those with most deliveries.
pub const ENDPOINTS_TOLD_MAX: u32 = 200;

/// Which part of the past is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Where it begins. It ends now.
    pub since: DateTime<Utc>,
    /// Length of one step in seconds.
    pub step_s: u32,
    /// Steps, at most.
    pub steps: u32,
}

/// How finished deliveries ended. Those of events accepted before the window are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Delivered.
    pub delivered: i64,
    /// Given up; each generation counts.
    pub dead_lettered: i64,
    /// Requests that these took.
    pub attempts: i64,
    /// Milliseconds from being due to being delivered: quantiles 0.5, 0.95 and 0.99. `None` if nothing was delivered.
    pub latency_ms: Option<[i64; 3]>,
    /// When the last one ended.
    pub last_finished_at: Option<DateTime<Utc>>,
}

/// Everything that was counted of finished deliveries.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// All of it.
    pub total: Tally,
    /// By step of the window, from 0; steps without deliveries are absent.
    pub steps: Vec<(u32, Tally)>,
    /// By endpoint, at most [`ENDPOINTS_TOLD_MAX`].
    pub endpoints: Vec<(EndpointId, Tally)>,
    /// Set where there were more than are looked at: before this moment about, not all are counted.
    pub complete_since: Option<DateTime<Utc>>,
}

/// Deliveries that are not finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// All of them, those in hand included.
    pub deliveries: i64,
    /// Those that have failed and are tried again.
    pub retrying: i64,
    /// Those that somebody has a lease for.
    pub in_hand: i64,
    /// Since when the oldest is due that nobody works on.
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// Everything that was counted of unfinished deliveries.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// All of it.
    pub total: Waiting,
    /// By endpoint, the longest first, at most [`ENDPOINTS_TOLD_MAX`].
    pub endpoints: Vec<(EndpointId, Waiting)>,
    /// False where more wait, of all tenants, than are looked at.
    pub is_complete: bool,
}

/// An API key and its tenant by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyNames {
    /// What the key is called.
    pub key: String,
    /// What the tenant is called.
    pub tenant: String,
    /// When the key ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

/// An endpoint that was deleted meanwhile counts: its row has changed since. `$3` is an id, from which on deliveries
/// belong to events of the window; the index of finished deliveries by endpoint is read from its end.
const FINISHED: &str = "
    WITH mine AS MATERIALIZED (
        SELECT id
          FROM zyven.endpoints
         WHERE tenant_id = $1
           AND deleted_at IS NULL
           AND ($2::uuid IS NULL OR id = $2)
        UNION ALL
        SELECT id
          FROM zyven.endpoints
         WHERE tenant_id = $1
           AND deleted_at IS NOT NULL
           AND updated_at >= $4
           AND ($2::uuid IS NULL OR id = $2)
    ), share AS MATERIALIZED (
        SELECT greatest($8::bigint, $7::bigint / greatest(count(*), 1)) AS rows FROM mine
    ), page AS MATERIALIZED (
        SELECT f.*
          FROM mine m
         CROSS JOIN LATERAL (
               SELECT endpoint_id, generation, state = 'DELIVERED' AS is_delivered, attempts, enqueued_at, finished_at,
                      least(greatest(extract(epoch FROM finished_at - enqueued_at) * 1000, 0), 1e15)::bigint AS latency_ms,
                      floor(extract(epoch FROM finished_at - $4) / $5::integer)::bigint AS step
                 FROM zyven.finished_deliveries
                WHERE endpoint_id = m.id
                  AND delivery_id >= $3
                ORDER BY delivery_id DESC
                LIMIT (SELECT rows FROM share)) AS f
    ), cut AS (
        SELECT max(oldest) AS at
          FROM (SELECT min(enqueued_at) FILTER (WHERE generation = 1) AS oldest
                  FROM page
                 GROUP BY endpoint_id
                HAVING count(*) >= (SELECT rows FROM share)) AS full_share
    )
    SELECT step, endpoint_id,
           count(*) FILTER (WHERE is_delivered) AS delivered,
           count(*) FILTER (WHERE NOT is_delivered) AS dead_lettered,
           sum(attempts)::bigint,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
               FILTER (WHERE is_delivered) AS latency_ms,
           max(finished_at),
           (SELECT at FROM cut)
      FROM page
     WHERE step < $6::bigint
     GROUP BY GROUPING SETS ((), (step), (endpoint_id))
     ORDER BY grouping(endpoint_id) DESC, grouping(step) DESC, dead_lettered DESC, delivered DESC, endpoint_id
     LIMIT 1 + $6::bigint + $9::bigint";
const BACKLOG: &str = "
    WITH oldest AS MATERIALIZED (
        SELECT tenant_id, endpoint_id, state, due_at, leased_until
          FROM zyven.outbox
         ORDER BY seq
         LIMIT $3
    )
    SELECT endpoint_id,
           count(*) AS deliveries,
           count(*) FILTER (WHERE state = 'RETRY_SCHEDULED'),
           count(*) FILTER (WHERE leased_until > now()),
           min(due_at) FILTER (WHERE due_at <= now() AND leased_until <= now()),
           (SELECT count(*) FROM oldest) < $3
      FROM oldest
     WHERE tenant_id = $1
       AND ($2::uuid IS NULL OR endpoint_id = $2)
     GROUP BY GROUPING SETS ((), (endpoint_id))
     ORDER BY grouping(endpoint_id) DESC, deliveries DESC, endpoint_id
     LIMIT 1 + $4::bigint";
/// Each part has an index of its own, under a generic plan, too.
const DEAD_LETTERS: &str = "
    SELECT count(*)
      FROM ((SELECT 1
               FROM zyven.dead_letter_records
              WHERE $2::uuid IS NULL
                AND tenant_id = $1
                AND replayed_at IS NULL
                AND resolved_at IS NULL
              LIMIT $3)
             UNION ALL
            (SELECT 1
               FROM zyven.dead_letter_records
              WHERE endpoint_id = $2
                AND tenant_id = $1
                AND replayed_at IS NULL
                AND resolved_at IS NULL
              LIMIT $3)) AS open_ones";
const KEY_NAMES: &str = "
    SELECT k.name, t.name, k.expires_at
      FROM zyven.api_keys k
      JOIN zyven.tenants t ON t.id = k.tenant_id
     WHERE k.tenant_id = $1
       AND k.id = $2";

impl Store {
    /// How the deliveries of the window's events ended: all the tenant's, or those to one endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or needed longer than it may.
    pub async fn finished_in(
        &self,
        tenant: TenantId,
        endpoint: Option<EndpointId>,
        window: Window,
    ) -> Result<Finished, StoreError> {
        let step_s = i32::try_from(window.step_s).unwrap_or(i32::MAX);
        let connection = self.reads("counting finished deliveries").await?;
        let rows = connection
            .query(
                FINISHED,
                &[
                    &tenant.uuid(),
                    &endpoint.map(EndpointId::uuid),
                    &first_id_at(window.since),
                    &window.since,
                    &step_s,
                    &i64::from(window.steps),
                    &i64::from(FINISHED_COUNTED_MAX),
                    &i64::from(FINISHED_EACH_MIN),
                    &i64::from(ENDPOINTS_TOLD_MAX),
                ],
            )
            .await?;
        let mut finished = Finished::default();
        for row in &rows {
            let (step, endpoint): (Option<i64>, Option<Uuid>) = (row.get(0), row.get(1));
            match (step, endpoint) {
                (Some(step), _) => {
                    // A clock that was set back may have finished something before it began.
                    let step = u32::try_from(step.max(0)).unwrap_or(u32::MAX);
                    finished.steps.push((step, tally(row)));
                }
                (None, Some(endpoint)) => {
                    let endpoint = EndpointId::from_uuid(endpoint);
                    finished.endpoints.push((endpoint, tally(row)));
                }
                (None, None) => {
                    finished.total = tally(row);
                    finished.complete_since = row.get(7);
                }
            }
        }
        finished.steps.sort_by_key(|(step, _)| *step);
        Ok(finished)
    }

    /// What waits: all the tenant's, or what goes to one endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or needed longer than it may.
    pub async fn backlog_of(
        &self,
        tenant: TenantId,
        endpoint: Option<EndpointId>,
    ) -> Result<Backlog, StoreError> {
        let connection = self.reads("counting unfinished deliveries").await?;
        let rows = connection
            .query(
                BACKLOG,
                &[
                    &tenant.uuid(),
                    &endpoint.map(EndpointId::uuid),
                    &i64::from(UNFINISHED_COUNTED_MAX),
                    &i64::from(ENDPOINTS_TOLD_MAX),
                ],
            )
            .await?;
        let mut backlog = Backlog::default();
        for row in &rows {
            let waiting = Waiting {
                deliveries: row.get(1),
                retrying: row.get(2),
                in_hand: row.get(3),
                oldest_due_at: row.get(4),
            };
            match row.get::<_, Option<Uuid>>(0) {
                Some(endpoint) => backlog
                    .endpoints
                    .push((EndpointId::from_uuid(endpoint), waiting)),
                None => {
                    backlog.total = waiting;
                    backlog.is_complete = row.get(5);
                }
            }
        }
        Ok(backlog)
    }

    /// How many dead letters nobody has replayed, at most [`DEAD_LETTERS_COUNTED_MAX`].
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn dead_letters_counted(
        &self,
        tenant: TenantId,
        endpoint: Option<EndpointId>,
    ) -> Result<i64, StoreError> {
        let connection = self.reads("counting dead letters").await?;
        let row = connection
            .query_one(
                DEAD_LETTERS,
                &[
                    &tenant.uuid(),
                    &endpoint.map(EndpointId::uuid),
                    &i64::from(DEAD_LETTERS_COUNTED_MAX),
                ],
            )
            .await?;
        Ok(row.get(0))
    }

    /// What a key and its tenant are called; `None` if the tenant has no such key.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn key_names(
        &self,
        tenant: TenantId,
        key: ApiKeyId,
    ) -> Result<Option<KeyNames>, StoreError> {
        let connection = self.reads("reading an API key's name").await?;
        let row = connection
            .query_opt(KEY_NAMES, &[&tenant.uuid(), &key.uuid()])
            .await?;
        Ok(row.map(|row| KeyNames {
            key: row.get(0),
            tenant: row.get(1),
            expires_at: row.get(2),
        }))
    }
}

fn tally(row: &Row) -> Tally {
    let quantiles: Option<Vec<i64>> = row.get(5);
    Tally {
        delivered: row.get(2),
        dead_lettered: row.get(3),
        attempts: row.get::<_, Option<i64>>(4).unwrap_or(0),
        latency_ms: quantiles.and_then(|quantiles| quantiles.try_into().ok()),
        last_finished_at: row.get(6),
    }
}
