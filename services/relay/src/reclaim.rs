//! What dead dispatchers held is offered again, seconds after their death and not when their leases end.
//!
//! Redis suggests where to look: the tickets that anybody holds, found in a moment however long the outbox
//! is. PostgreSQL decides whose their rows are. A walk over the outbox then finds what Redis did not know. A
//! dispatcher is forgotten when nothing is left that bears its number, in PostgreSQL or, as far as that can be
//! told, in Redis; until then every leader begins anew with it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use zyven_domain::lease::DispatcherNumber;
use zyven_queue::{ClaimedTicket, Lane, Next};
use zyven_runtime::pace::Rest;
use zyven_runtime::shutdown::Shutdown;
use zyven_store::{EndedLease, OutboxRow};

use crate::RelayError;
use crate::term::Term;

/// Rows that one statement looks up at most.
const BATCH_ROWS: usize = 500;
/// Rest while nobody has died; a death is an alarm. Should one be missed, this bounds how late it is seen to.
const REST: Duration = Duration::from_secs(30);
/// Rest while a node of Redis has not taken back what the dead held there.
const REST_WITHOUT_A_NODE: Duration = Duration::from_millis(500);

/// Ends the leases of the dead and gives their tickets back.
pub struct Reclaim {
    term: Arc<Term>,
    /// Whose rows are free, and which Redis does not know to be free yet.
    free: Vec<(ClaimedTicket, Next)>,
    /// Rows whose leases were ended since everything was last given back.
    ended: HashSet<i64>,
    /// For whom a walk has come to its end since Redis was away: until it answers, a further one finds nothing
    /// but what a late claim leaves, and costs as much as the outbox is long.
    walked: HashSet<DispatcherNumber>,
    /// Requested when the term is over.
    over: Shutdown,
}

impl Reclaim {
    /// For one leader's time, until `over`; it begins with what the last leader may have left undone.
    pub fn new(term: Arc<Term>, over: Shutdown) -> Self {
        Self {
            term,
            free: Vec::new(),
            ended: HashSet::new(),
            walked: HashSet::new(),
            over,
        }
    }

    /// Sees to everybody who was declared dead, to all at once.
    ///
    /// # Errors
    ///
    /// PostgreSQL or Redis did not do their part. The next step does it again.
    pub async fn step(&mut self) -> Result<Rest, RelayError> {
        let beats = self.term.store.dispatcher_beats().await?;
        let dead = beats.iter().filter(|it| it.is_dead);
        let dead: Vec<DispatcherNumber> = dead.map(|it| it.number).collect();
        if dead.is_empty() {
            self.give_back().await?;
        } else {
            self.reclaim(&dead).await?;
        }
        Ok(Rest::For(if self.is_told_to_all_of_redis() {
            REST
        } else {
            REST_WITHOUT_A_NODE
        }))
    }

    /// Whether no node of a cluster is left out that might hold tickets of the dead.
    fn is_told_to_all_of_redis(&self) -> bool {
        self.free.is_empty() && self.term.queue.away().is_none()
    }

    async fn reclaim(&mut self, dead: &[DispatcherNumber]) -> Result<(), RelayError> {
        // Redis may be away: the leases end all the same.
        let held = self.end_held(dead).await?;
        let mut unwalked = dead.to_vec();
        if held.is_err() || !self.is_told_to_all_of_redis() {
            unwalked.retain(|it| !self.walked.contains(it));
        }
        if !unwalked.is_empty() {
            // A claim that was under way when its dispatcher died may be committed behind the walk's back: the
            // last walk is one that finds nothing.
            while self.walk(&unwalked).await? > 0 {}
            if self.over.is_requested() {
                return Ok(()); // perhaps half-way: the next leader begins anew
            }
            self.walked.extend(unwalked);
        }
        let held = held?;
        self.give_back().await?;
        self.release_orphans(&held).await?;
        self.give_back().await?;
        if !self.is_told_to_all_of_redis() {
            return Ok(()); // what the dead held on a node that is away is found, and given back, once it is there
        }
        for number in dead {
            self.term.store.forget_dispatcher(*number).await?;
            tracing::warn!(dispatcher = %number, "what a dead dispatcher held is offered again");
        }
        tracing::info!(leases = self.ended.len(), "leases of the dead were ended");
        self.ended.clear();
        self.walked.clear();
        Ok(())
    }

    /// Ends those leases that Redis knows of, within moments. Returns the tickets that were held, or why Redis
    /// could not be asked.
    async fn end_held(
        &mut self,
        dead: &[DispatcherNumber],
    ) -> Result<Result<Vec<ClaimedTicket>, RelayError>, RelayError> {
        if let Err(error) = self.give_back().await {
            return Ok(Err(error));
        }
        let held = match self.term.queue.held().await {
            Ok(held) => held,
            Err(error) => return Ok(Err(error.into())),
        };
        let seqs: Vec<i64> = held.iter().map(|ticket| ticket.seq).collect();
        for number in dead {
            self.end_leases(*number, &seqs).await?;
        }
        let given = self.give_back().await;
        Ok(given.map(|()| held))
    }

    /// Walks over the outbox once, for all of them; returns how many leases it ended. Stops between two pages
    /// when the term is over.
    async fn walk(&mut self, dead: &[DispatcherNumber]) -> Result<usize, RelayError> {
        let (mut ended, mut position) = (0, i64::MIN);
        while !self.over.is_requested() {
            let page = self.term.store.leases_page(dead, position).await?;
            for number in dead {
                ended += self.end_leases(*number, &page.leased).await?;
            }
            match page.last_seq {
                Some(last_seq) => position = last_seq,
                None => return Ok(ended),
            }
        }
        Ok(0)
    }

    async fn end_leases(
        &mut self,
        dead: DispatcherNumber,
        seqs: &[i64],
    ) -> Result<usize, RelayError> {
        let mut count = 0;
        for seqs in seqs.chunks(BATCH_ROWS) {
            let ended = self.term.store.end_leases(dead, seqs).await?;
            count += ended.len();
            self.term.statistics.leases_ended.add(ended.len() as u64);
            self.ended.extend(ended.iter().map(|row| row.seq));
            self.free
                .extend(ended.iter().map(|row| (ticket(row), Next::First)));
            // While Redis is away they wait in memory, and the other leases end nevertheless.
            if let Err(error) = self.give_back().await {
                tracing::debug!(%error, "tickets of a dead dispatcher cannot be given back yet");
            }
        }
        Ok(count)
    }

    /// Tickets held by nobody: their holder died before PostgreSQL had leased it their rows, or before Redis
    /// was told what had become of them. That cannot be told from a dispatcher that is between the two steps
    /// just now. But these were held before the walk, and the steps are milliseconds apart; and should one be in
    /// doubt, PostgreSQL refuses whoever comes second.
    async fn release_orphans(&mut self, held: &[ClaimedTicket]) -> Result<(), RelayError> {
        let held = held.iter().filter(|it| !self.ended.contains(&it.seq));
        let held: Vec<ClaimedTicket> = held.copied().collect();
        for tickets in held.chunks(BATCH_ROWS) {
            let seqs: Vec<i64> = tickets.iter().map(|ticket| ticket.seq).collect();
            let rows = self.term.store.outbox_rows(&seqs).await?;
            let rows: HashMap<i64, &OutboxRow> = rows.iter().map(|row| (row.seq, row)).collect();
            let orphans = tickets.iter().filter_map(|ticket| {
                let next = match rows.get(&ticket.seq) {
                    None => Next::Done,
                    Some(row) if row.leased => return None,
                    Some(row) if row.due_in.is_zero() => Next::First,
                    Some(row) if row.is_retry => Next::Retry(row.due_in),
                    Some(row) => Next::Later(row.due_in),
                };
                Some((*ticket, next))
            });
            self.free.extend(orphans);
        }
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), RelayError> {
        if !self.free.is_empty() {
            self.free = self.term.queue.give_back(&self.free).await?;
        }
        Ok(())
    }
}

fn ticket(row: &EndedLease) -> ClaimedTicket {
    ClaimedTicket {
        lane: Lane {
            tenant_id: row.tenant_id,
            endpoint_id: row.endpoint_id,
        },
        seq: row.seq,
        ordering_key: row.ordering_key,
    }
}
