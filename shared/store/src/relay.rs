//! T1 and what surrounds it: reading the outbox in order, and remembering how far one has come.
//!
//! Sequence order is not commit order, so a reader that only remembers a position loses the rows of
//! slow transactions. The relay therefore keeps a ledger of gaps, for which [`Store::snapshot_xmin`]
//! and [`Store::current_xact_id`] give the evidence; the rule is in the relay's `gaps` module.

use std::time::Duration;

use tokio_postgres::Row;
use zyven_domain::id::{EndpointId, TenantId};

use crate::presence::{DispatcherBeat, beat};
use crate::{Store, StoreError};

/// What the relay needs to know of an outbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxRow {
    /// The ticket.
    pub seq: i64,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where it goes: with the tenant, the lane.
    pub endpoint_id: EndpointId,
    /// See [`crate::ClaimedDelivery::ordering_key`].
    pub ordering_key: i64,
    /// Whether it has an ordering key and nothing before it in its order is unfinished.
    pub is_first: bool,
    /// Whether it was attempted before.
    pub is_retry: bool,
    /// Wait until it is due, on PostgreSQL's clock; zero if it is.
    pub due_in: Duration,
    /// How long it has been due; zero if it is not.
    pub overdue: Duration,
    /// True while a dispatcher holds it: it has no need of a ticket then.
    pub leased: bool,
    /// Whether it is `RETRY_SCHEDULED`.
    pub waits_for_retry: bool,
}

/// Whether this relay is the one that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It is, until the asked time from now.
    Leader,
    /// Another one is.
    Follower,
}

/// What one look of a relay has found: everything that may have changed while there was nothing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLook {
    /// Whether it leads now.
    pub leadership: Leadership,
    /// Every registered dispatcher, as of the begin of the look.
    pub beats: Vec<DispatcherBeat>,
    /// Whether an endpoint was made or changed of late: [`Store::lane_limits_changed`] has something to say then.
    pub have_endpoints_changed: bool,
    /// Whether there are rows behind the cursor: [`Store::outbox_page`] has something to say then.
    pub has_rows: bool,
}

/// A macro because statements are constants: the columns that [`outbox_row`] reads.
macro_rules! rows_where {
    ($condition:literal) => {
        concat!(
            "SELECT o.seq, o.endpoint_id,
                    (extract(epoch FROM o.due_at - clock_timestamp()) * 1000)::bigint,
                    o.leased_until > clock_timestamp(), o.tenant_id, o.ordering_key, o.attempts > 0,
                    o.state = 'RETRY_SCHEDULED',
                    o.ordering_key <> 0
                    AND NOT EXISTS (SELECT FROM zyven.outbox earlier
                                     WHERE earlier.endpoint_id = o.endpoint_id
                                       AND earlier.ordering_key = o.ordering_key
                                       AND earlier.ordering_key <> 0
                                       AND earlier.seq < o.seq)
               FROM zyven.outbox o
              WHERE ",
            $condition
        )
    };
}

/// The limit is a literal: under a generic plan a parameter would be taken for a tenth of the table.
const PAGE: &str = rows_where!("o.seq > $1 ORDER BY o.seq LIMIT 1000");
const ROWS: &str = rows_where!("o.seq = ANY ($1) ORDER BY o.seq");
const SNAPSHOT_XMIN: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
const CURRENT_XACT_ID: &str = "SELECT pg_current_xact_id()::text::bigint";
const WATERMARK: &str = "SELECT watermark FROM zyven.relay";
const RECORD_WATERMARK: &str = "
    UPDATE zyven.relay
       SET watermark = $1
     WHERE watermark < $1";
/// One statement, because an idle relay does little else (ADR 0041). Beats are as the statement's snapshot has them, so
/// none is younger than its begin, and they are told only if the write beside them succeeds. The moment that changes are
/// compared with must be one for the whole statement, or every endpoint's would be read.
const LOOK: &str = "
    WITH lead AS (
        UPDATE zyven.relay
           SET holder = $1,
               holder_until = clock_timestamp() + $2::bigint * interval '1 millisecond'
         WHERE holder = $1
            OR holder_until < clock_timestamp()
        RETURNING 1
    )
    SELECT found.leads, found.has_changed, found.has_rows, d.number, d.beat, d.dead_at IS NOT NULL
      FROM (SELECT EXISTS (SELECT FROM lead) AS leads,
                   EXISTS (SELECT FROM zyven.endpoints
                            WHERE updated_at > statement_timestamp() - $3::bigint * interval '1 millisecond')
                       AS has_changed,
                   EXISTS (SELECT FROM zyven.outbox WHERE seq > $4) AS has_rows) AS found
      LEFT JOIN zyven.dispatchers d ON true
     ORDER BY d.number";
/// The same while somebody has locked one of the other tables: who leads and who lives is not theirs to hold up. What could not be
/// seen is taken for news.
const LOOK_PAST_LOCKS: &str = "
    WITH lead AS (
        UPDATE zyven.relay
           SET holder = $1,
               holder_until = clock_timestamp() + $2::bigint * interval '1 millisecond'
         WHERE holder = $1
            OR holder_until < clock_timestamp()
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM lead), true, true, d.number, d.beat, d.dead_at IS NOT NULL
      FROM (VALUES (1)) AS once
      LEFT JOIN zyven.dispatchers d ON true
     ORDER BY d.number";
const RESIGN: &str = "
    UPDATE zyven.relay
       SET holder_until = '-infinity'
     WHERE holder = $1";

impl Store {
    /// Rows of [`Store::outbox_page`] at most.
    pub const OUTBOX_PAGE_ROWS_MAX: usize = 1000;

    /// The first outbox rows after `after_seq`, in sequence order.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn outbox_page(&self, after_seq: i64) -> Result<Vec<OutboxRow>, StoreError> {
        let connection = self.relaxed("reading the outbox").await?;
        let rows = connection.query(PAGE, &[&after_seq]).await?;
        Ok(rows.iter().map(outbox_row).collect())
    }

    /// Those of `seqs` that exist, in sequence order.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn outbox_rows(&self, seqs: &[i64]) -> Result<Vec<OutboxRow>, StoreError> {
        let connection = self.relaxed("looking up outbox rows").await?;
        let rows = connection.query(ROWS, &[&seqs]).await?;
        Ok(rows.iter().map(outbox_row).collect())
    }

    /// Every transaction with a smaller id has ended.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn snapshot_xmin(&self) -> Result<u64, StoreError> {
        self.xact_number(SNAPSHOT_XMIN).await
    }

    /// Takes a transaction id: every transaction that already has one has a smaller one.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn current_xact_id(&self) -> Result<u64, StoreError> {
        self.xact_number(CURRENT_XACT_ID).await
    }

    async fn xact_number(&self, sql: &str) -> Result<u64, StoreError> {
        let connection = self.relaxed("reading transaction ids").await?;
        let row = connection.query_one(sql, &[]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Up to where the outbox has been handed over.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn watermark(&self) -> Result<i64, StoreError> {
        let connection = self.relaxed("reading the watermark").await?;
        Ok(connection.query_one(WATERMARK, &[]).await?.get(0))
    }

    /// Records how far the outbox has been handed over. Never moves back. Commits asynchronously: a
    /// watermark that PostgreSQL forgets is one from which rows are handed over again, harmlessly.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn record_watermark(&self, seq: i64) -> Result<(), StoreError> {
        let connection = self.relaxed("recording the watermark").await?;
        connection
            .execute(RECORD_WATERMARK, &[&seq])
            .await
            .map(|_| ())
    }

    /// Takes or keeps the relay's leadership for `term` from now, on PostgreSQL's clock, and looks who beats, whether
    /// endpoints have changed within `changed_within`, and whether there are outbox rows after `after_seq`, if somebody
    /// wants to know that.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or takes no writes. Then nobody's silence is evidence of anything.
    pub async fn relay_look(
        &self,
        holder: &str,
        term: Duration,
        changed_within: Duration,
        after_seq: Option<i64>,
    ) -> Result<RelayLook, StoreError> {
        let connection = self.relaxed("taking the relay's lead").await?;
        let (term_ms, within_ms) = (whole_ms(term), whole_ms(changed_within));
        let seen = connection
            .query(LOOK, &[&holder, &term_ms, &within_ms, &after_seq])
            .await;
        let rows = match seen {
            Err(error) if error.is_of_the_traffic() => {
                connection
                    .query(LOOK_PAST_LOCKS, &[&holder, &term_ms])
                    .await?
            }
            seen => seen?,
        };
        let is_true = |column| rows.first().is_some_and(|row| row.get(column));
        Ok(RelayLook {
            leadership: match is_true(0) {
                true => Leadership::Leader,
                false => Leadership::Follower,
            },
            have_endpoints_changed: is_true(1),
            has_rows: is_true(2),
            beats: rows.iter().filter_map(|row| beat(row, 3)).collect(),
        })
    }

    /// Gives the leadership up, so that another relay need not wait for its end.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn resign_relay_lease(&self, holder: &str) -> Result<(), StoreError> {
        let connection = self.relaxed("giving up the relay's lead").await?;
        connection.execute(RESIGN, &[&holder]).await.map(|_| ())
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn outbox_row(row: &Row) -> OutboxRow {
    let due_in_ms: i64 = row.get(2);
    OutboxRow {
        seq: row.get(0),
        endpoint_id: EndpointId::from_uuid(row.get(1)),
        due_in: Duration::from_millis(due_in_ms.max(0).unsigned_abs()),
        overdue: Duration::from_millis(due_in_ms.min(0).unsigned_abs()),
        leased: row.get(3),
        tenant_id: TenantId::from_uuid(row.get(4)),
        ordering_key: row.get(5),
        is_retry: row.get(6),
        waits_for_retry: row.get(7),
        is_first: row.get(8),
    }
}
