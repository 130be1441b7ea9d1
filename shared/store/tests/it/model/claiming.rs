//! Claims against the model, and what the relay reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zyven_store::{Claim, ClaimedDelivery, Leadership, OutboxRow, RefusedTicket};

use super::Pick;
use super::reference::{Held, Name, Row};
use super::world::{FAR, World, latest, ordering_key};

/// Whatever is longer is [`FAR`]; whatever is shorter has passed, or passes at once.
const SOON: Duration = Duration::from_secs(60);

impl World<'_> {
    // Claiming ------------------------------------------------------------------------------------

    fn fresh_token(&self) -> i64 {
        1 + i64::try_from(self.calls.len()).expect("small")
    }

    fn unfinished(&self, seqs: &[i64]) -> BTreeSet<Name> {
        let rows = self.model.outbox.iter();
        rows.filter(|(_, row)| seqs.contains(&row.seq))
            .map(|(name, _)| *name)
            .collect()
    }

    pub(super) async fn claim(&mut self, process: usize, tickets: &BTreeSet<Pick>, lives: bool) {
        let (seqs, token) = (self.seqs_of(tickets), self.fresh_token());
        let lease = if lives { FAR } else { Duration::ZERO };
        let answer = self.stage.stores[process].claim(&seqs, token, lease).await;
        let answer = answer.expect("claimed");
        let held = self.model.claim(&self.unfinished(&seqs), token, lives);
        self.check_claimed(&answer, &held);
        self.check_refused(&answer, &seqs);
        self.claims.extend(held);
        self.calls.push((token, seqs));
    }

    /// Nobody knows who gets what; each that may be claimed goes to one of the two.
    pub(super) async fn claim_at_once(&mut self, tickets: &BTreeSet<Pick>) {
        let seqs = self.seqs_of(tickets);
        let free: BTreeSet<i64> = (self.unfinished(&seqs).into_iter())
            .filter(|name| self.model.may_be_claimed(*name))
            .map(|name| self.model.outbox[&name].seq)
            .collect();
        let token = self.fresh_token();
        let (one, other) = tokio::join!(
            self.stage.stores[0].claim(&seqs, token, FAR),
            self.stage.stores[1].claim(&seqs, token + 1, FAR)
        );
        let mut claimed = Vec::new();
        for (token, answer) in [(token, one), (token + 1, other)] {
            let answer = answer.expect("claimed");
            let own: Vec<i64> = answer.claimed.iter().map(|it| it.seq).collect();
            let held = self.model.claim(&self.unfinished(&own), token, true);
            self.check_claimed(&answer, &held);
            self.claims.extend(held);
            self.calls.push((token, seqs.clone()));
            claimed.extend(own);
        }
        claimed.sort_unstable();
        assert_eq!(claimed, free.into_iter().collect::<Vec<_>>());
    }

    fn check_claimed(&self, answer: &Claim, expected: &[Held]) {
        let mut claimed: Vec<&ClaimedDelivery> = answer.claimed.iter().collect();
        claimed.sort_by_key(|it| it.seq);
        let mut expected = expected.to_vec();
        expected.sort_by_key(|it| it.seq);
        let seqs = |of: Vec<i64>| of;
        assert_eq!(
            seqs(claimed.iter().map(|it| it.seq).collect()),
            seqs(expected.iter().map(|it| it.seq).collect())
        );
        for (claimed, held) in claimed.into_iter().zip(expected) {
            let event = self.new_event(held.name.0);
            assert_eq!(self.names[&claimed.delivery_id.uuid()], held.name);
            assert_eq!(claimed.event_id, event.id);
            assert_eq!(claimed.endpoint_id, self.endpoints[held.name.1]);
            assert_eq!(claimed.tenant_id, event.tenant_id);
            assert_eq!(claimed.event_type, event.event_type.as_str());
            assert_eq!(claimed.payload, Some(event.payload));
            let order = event.options.ordering_key.map_or(0, |key| key.number());
            assert_eq!(claimed.ordering_key, order);
            assert_eq!(claimed.generation, held.generation);
            assert_eq!(claimed.attempt, held.attempt.unsigned_abs());
        }
    }

    /// Each ticket that confers nothing comes with the reason, and with how long it is worth waiting.
    fn check_refused(&self, answer: &Claim, seqs: &[i64]) {
        let taken: BTreeSet<i64> = answer.claimed.iter().map(|it| it.seq).collect();
        let mut refused = BTreeMap::new();
        for ticket in &answer.refused {
            let (seq, said) = match *ticket {
                RefusedTicket::Finished { seq } => (seq, Refused::Finished),
                RefusedTicket::Later {
                    seq,
                    due_in,
                    is_retry,
                } => (seq, Refused::Later(due_in > SOON, is_retry)),
                RefusedTicket::Blocked { seq, due_in } => (seq, Refused::Blocked(due_in > SOON)),
            };
            assert!(refused.insert(seq, said).is_none(), "told twice");
        }
        let mut expected = BTreeMap::new();
        for &seq in seqs.iter().filter(|seq| !taken.contains(seq)) {
            let found = self.model.outbox.iter().find(|(_, row)| row.seq == seq);
            let is_far = |row: &Row| row.is_leased || !row.is_due;
            let reason = match found {
                None => Refused::Finished,
                Some((&name, row)) => match self.model.blocked_by(name) {
                    Some(earlier) => Refused::Blocked(is_far(earlier)),
                    None => Refused::Later(is_far(row), row.attempts > 0),
                },
            };
            expected.insert(seq, reason);
        }
        assert_eq!(refused, expected);
    }

    pub(super) async fn unclaim(&mut self, call: Pick) {
        let Some((token, seqs)) = latest(&self.calls, call).cloned() else {
            return;
        };
        let concerned = self.stage.stores[1]
            .unclaim(&seqs, token)
            .await
            .expect("undone");
        assert_eq!(concerned, self.model.unclaim(&seqs, token));
    }

    // The relay -----------------------------------------------------------------------------------

    pub(super) async fn hand_over(&mut self, ticket: Pick) {
        let store = self.stage.stores[1].clone();
        let after = latest(&self.tickets, ticket).map_or(0, |(_, seq)| *seq);
        let oldest = store.snapshot_xmin().await.expect("asked");
        let page = store.outbox_page(after).await.expect("a page");
        self.check_rows(&page, |row| row.seq > after);
        let mine = store.current_xact_id().await.expect("asked");
        if let Some(writer) = self.slow.xact_id {
            // What the ledger of gaps stands on.
            let writer = writer.unsigned_abs();
            assert!(
                oldest <= writer && writer < mine,
                "{oldest} {writer} {mine}"
            );
        }
        let seqs: Vec<i64> = self.tickets.iter().map(|(_, seq)| *seq).collect();
        let rows = store.outbox_rows(&seqs).await.expect("rows");
        self.check_rows(&rows, |_| true);
        let reached = page.last().map_or(after, |row| row.seq);
        store.record_watermark(reached).await.expect("recorded");
        self.model.watermark = self.model.watermark.max(reached);
        assert_eq!(
            store.watermark().await.expect("asked"),
            self.model.watermark
        );
    }

    pub(super) async fn lead(&mut self, process: usize) {
        let holder = format!("relay {process}");
        let look = self.stage.stores[process]
            .relay_look(&holder, FAR, FAR, None)
            .await;
        let leader = *self.model.leader.get_or_insert(process);
        let is_leader = look.expect("asked").leadership == Leadership::Leader;
        assert_eq!(is_leader, leader == process);
    }

    pub(super) async fn resign(&mut self, process: usize) {
        let holder = format!("relay {process}");
        let resigned = self.stage.stores[process].resign_relay_lease(&holder).await;
        resigned.expect("resigned");
        self.model.leader = self.model.leader.filter(|&leader| leader != process);
    }

    fn check_rows(&self, rows: &[OutboxRow], is_wanted: impl Fn(&Row) -> bool) {
        let mut expected: Vec<(&Name, &Row)> = self.model.outbox.iter().collect();
        expected.retain(|(_, row)| is_wanted(row));
        expected.sort_by_key(|(_, row)| row.seq);
        assert_eq!(rows.len(), expected.len());
        for (read, (&name, row)) in rows.iter().zip(expected) {
            assert_eq!(read.seq, row.seq);
            assert_eq!(read.endpoint_id, self.endpoints[name.1]);
            assert_eq!(read.tenant_id, self.new_event(name.0).tenant_id);
            let order = row.order.map_or(0, |key| ordering_key(key).number());
            assert_eq!(read.ordering_key, order);
            let is_first = row.order.is_some() && self.model.blocked_by(name).is_none();
            assert_eq!(read.is_first, is_first);
            assert_eq!(read.is_retry, row.attempts > 0);
            assert_eq!(read.leased, row.is_leased);
            assert_eq!(read.due_in > SOON, !row.is_due);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Finished,
    /// Whether that is far away, and whether it was attempted.
    Later(bool, bool),
    Blocked(bool),
}
