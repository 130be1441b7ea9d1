//! Which dispatchers are at work, and what one that died had in its hands (ADR 0029).
//!
//! A dispatcher registers under a number and counts up its row's beat while it lives. Who watches the beats
//! may declare it dead, by one UPDATE that the dispatcher's next beat runs into. Only after that its leases
//! are ended, each by an UPDATE that asks for that declaration again. So of the two, "it lives on" and "its
//! leases end early", never both happen without the dispatcher learning of it with its next beat.

use tokio_postgres::Row;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::lease::DispatcherNumber;

use crate::{Store, StoreError};

/// A registered dispatcher, as somebody sees it who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherBeat {
    /// Who.
    pub number: DispatcherNumber,
    /// Changes while it lives.
    pub beat: i64,
    /// Whether it was declared dead.
    pub is_dead: bool,
}

/// An outbox row whose lease was ended, as much of it as a ticket needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedLease {
    /// The outbox row.
    pub seq: i64,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// See [`crate::ClaimedDelivery::ordering_key`].
    pub ordering_key: i64,
}

/// A page of the outbox, looked through for some dispatchers' leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeasesPage {
    /// The last row of the page; `None` behind the last page.
    pub last_seq: Option<i64>,
    /// Rows of the page that one of them has leased.
    pub leased: Vec<i64>,
}

const REGISTER: &str = "
    INSERT INTO zyven.dispatchers (number)
    VALUES ($1)
    ON CONFLICT (number) DO NOTHING";
const BEAT: &str = "
    UPDATE zyven.dispatchers
       SET beat = beat + 1
     WHERE number = $1
       AND dead_at IS NULL";
const LEAVE: &str = "
    DELETE FROM zyven.dispatchers
     WHERE number = $1
       AND dead_at IS NULL";
const BEATS: &str =
    "SELECT number, beat, dead_at IS NOT NULL FROM zyven.dispatchers ORDER BY number";
const DECLARE_DEAD: &str = "
    UPDATE zyven.dispatchers
       SET dead_at = clock_timestamp()
     WHERE number = $1
       AND beat = $2
       AND dead_at IS NULL";
const FORGET: &str = "
    DELETE FROM zyven.dispatchers
     WHERE number = $1
       AND dead_at IS NOT NULL";

/// The limit is a literal: under a generic plan a parameter would be taken for a tenth of the table.
const LEASES_PAGE: &str = "
    SELECT max(seq),
           array_agg(seq) FILTER (WHERE EXISTS (SELECT FROM unnest($2::bigint[], $3::bigint[]) AS r (low, high)
                                                 WHERE lease_token BETWEEN r.low AND r.high))
      FROM (SELECT seq, lease_token
              FROM zyven.outbox
             WHERE seq > $1
             ORDER BY seq
             LIMIT 10000) AS page";

/// As if the lease had run out: the attempt counts, for nobody knows how far it came.
const END_LEASES: &str = "
    UPDATE zyven.outbox
       SET lease_token = 0,
           leased_until = '-infinity'
     WHERE seq = ANY ($1)
       AND state = 'DISPATCHING'
       AND lease_token BETWEEN $2 AND $3
       AND EXISTS (SELECT FROM zyven.dispatchers
                    WHERE number = $4
                      AND dead_at IS NOT NULL)
    RETURNING seq, tenant_id, endpoint_id, ordering_key";

impl Store {
    /// Registers a dispatcher. False if somebody else has this number: draw another one. Committed
    /// synchronously, for a registration that PostgreSQL forgot would leave its leases to their end.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. Draw another number: a row that nobody beats for goes away.
    pub async fn register_dispatcher(&self, number: DispatcherNumber) -> Result<bool, StoreError> {
        let connection = self.durable("registering a dispatcher").await?;
        let rows = connection.execute(REGISTER, &[&number.as_i64()]).await?;
        Ok(rows == 1)
    }

    /// Says that the dispatcher lives. False if it has been declared dead: nothing may be sent under
    /// this number any more. Dropped before it is answered, it closes the connection it used.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn beat(&self, number: DispatcherNumber) -> Result<bool, StoreError> {
        let connection = self.relaxed("saying that this dispatcher lives").await?;
        let rows = connection
            .execute_or_close(BEAT, &[&number.as_i64()])
            .await?;
        Ok(rows == 1)
    }

    /// Ends a registration whose owner holds no lease any more.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. The row goes away when its beat has not been heard for a while.
    pub async fn leave(&self, number: DispatcherNumber) -> Result<(), StoreError> {
        let connection = self.relaxed("ending a dispatcher's registration").await?;
        connection
            .execute_or_close(LEAVE, &[&number.as_i64()])
            .await
            .map(|_| ())
    }

    /// Every registered dispatcher.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn dispatcher_beats(&self) -> Result<Vec<DispatcherBeat>, StoreError> {
        let connection = self.relaxed("reading dispatchers' beats").await?;
        let rows = connection.query(BEATS, &[]).await?;
        Ok(rows.iter().filter_map(|row| beat(row, 0)).collect())
    }

    /// Declares a dispatcher dead whose last beat was `beat`. False if it has beaten since, has left, or
    /// is dead already.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn declare_dead(
        &self,
        number: DispatcherNumber,
        beat: i64,
    ) -> Result<bool, StoreError> {
        let connection = self.relaxed("declaring a dispatcher dead").await?;
        let rows = connection
            .execute(DECLARE_DEAD, &[&number.as_i64(), &beat])
            .await?;
        Ok(rows == 1)
    }

    /// Looks through the outbox behind `after_seq`, at most 10,000 rows, for leases of any of these dispatchers.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn leases_page(
        &self,
        numbers: &[DispatcherNumber],
        after_seq: i64,
    ) -> Result<LeasesPage, StoreError> {
        let connection = self.relaxed("looking for dispatchers' leases").await?;
        let ranges = numbers.iter().map(|it| it.tokens().into_inner());
        let (firsts, lasts): (Vec<i64>, Vec<i64>) = ranges.unzip();
        let row = connection
            .query_one(LEASES_PAGE, &[&after_seq, &firsts, &lasts])
            .await?;
        Ok(LeasesPage {
            last_seq: row.get(0),
            leased: row.get::<_, Option<Vec<i64>>>(1).unwrap_or_default(),
        })
    }

    /// Ends those leases on `seqs` that a dispatcher has which was declared dead. Returns the rows that
    /// are free now.
    ///
    /// Commits asynchronously: a lease that is back after a crash of PostgreSQL ends at its deadline, or
    /// with the next walk.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. Rows may have been freed.
    pub async fn end_leases(
        &self,
        number: DispatcherNumber,
        seqs: &[i64],
    ) -> Result<Vec<EndedLease>, StoreError> {
        let connection = self.relaxed("ending a dead dispatcher's leases").await?;
        let (first, last) = number.tokens().into_inner();
        let rows = connection
            .query(END_LEASES, &[&seqs, &first, &last, &number.as_i64()])
            .await?;
        let ended = rows.iter().map(|row| EndedLease {
            seq: row.get(0),
            tenant_id: TenantId::from_uuid(row.get(1)),
            endpoint_id: EndpointId::from_uuid(row.get(2)),
            ordering_key: row.get(3),
        });
        Ok(ended.collect())
    }

    /// Removes the row of a dead dispatcher that holds nothing any more.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn forget_dispatcher(&self, number: DispatcherNumber) -> Result<(), StoreError> {
        let connection = self.relaxed("forgetting a dead dispatcher").await?;
        connection
            .execute(FORGET, &[&number.as_i64()])
            .await
            .map(|_| ())
    }
}

/// Number, beat and whether it is dead, in the columns from `first` on; `None` where an outer join found nobody.
pub(crate) fn beat(row: &Row, first: usize) -> Option<DispatcherBeat> {
    Some(DispatcherBeat {
        number: DispatcherNumber::from_i64(row.get::<_, Option<i64>>(first)?)?,
        beat: row.get(first + 1),
        is_dead: row.get(first + 2),
    })
}
