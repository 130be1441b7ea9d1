//! The store and its model, side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::Client;
use uuid::Uuid;
use zyven_domain::event::OrderingKey;
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{Replay, Replayed, SettleItem, Settlement, Store};
use zyven_testkit::TestDatabase;

use super::comparison::Questions;
use super::reference::{Cancelled, Endpoint, Held, Model, Name, Row, Settled, State};
use super::{Change, Draft, ENDPOINTS, Expiry, PROCESSES, Pick, Step, TENANTS, Verdict};
use crate::fixture::{open, record};

/// Never reached while a test runs.
pub(super) const FAR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(90 * 24 * 3_600);
const FOREIGN: i64 = 1 << 40;
const MADE_UP: i64 = 1 << 50;

/// What all stories begin with. Sequence numbers go on.
const EMPTY: &str = "
    DELETE FROM zyven.outbox;
    DELETE FROM zyven.events;
    DELETE FROM zyven.finished_deliveries;
    DELETE FROM zyven.attempts;
    DELETE FROM zyven.dead_letter_records;
    DELETE FROM zyven.idempotency_keys;
    DELETE FROM zyven.replays;
    DELETE FROM zyven.cancellations;
    UPDATE zyven.relay SET watermark = 0, holder = '', holder_until = '-infinity'";

/// What all stories share: connections that are warm, and statements that are prepared.
pub(super) struct Stage {
    pub(super) sql: Client,
    /// The producer's whose transaction stays open.
    pub(super) slow: Client,
    pub(super) stores: [Store; PROCESSES],
    pub(super) questions: Questions,
}

impl Stage {
    pub(super) async fn new(database: &TestDatabase) -> Self {
        let sql = database.client().await;
        Self {
            questions: Questions::prepare(&sql).await,
            sql,
            slow: database.client().await,
            stores: [open(database), open(database)],
        }
    }

    /// A story that failed may have left anything.
    async fn clear(&self) {
        self.slow.batch_execute("ROLLBACK").await.expect("ended");
        self.sql.batch_execute(EMPTY).await.expect("emptied");
    }
}

pub(super) struct World<'a> {
    pub(super) model: Model,
    pub(super) stage: &'a Stage,
    pub(super) tenants: [TenantId; TENANTS],
    pub(super) endpoints: [EndpointId; ENDPOINTS.len()],
    /// Noon, days ago: ids of that day have partitions of their own.
    pub(super) long_ago: DateTime<Utc>,
    /// Every event that was made up, stored or not.
    pub(super) events: Vec<(EventId, Draft)>,
    pub(super) names: HashMap<Uuid, Name>,
    pub(super) batches: Vec<Vec<usize>>,
    /// Every row there has been.
    pub(super) tickets: Vec<(Name, i64)>,
    pub(super) claims: Vec<Held>,
    pub(super) calls: Vec<(i64, Vec<i64>)>,
    settled: Vec<(Held, Verdict)>,
    pub(super) slow: Slow,
}

/// A producer's transaction that stays open for some time.
#[derive(Default)]
pub(super) struct Slow {
    /// Its id, while it is open.
    pub(super) xact_id: Option<i64>,
    pub(super) published: Vec<(usize, Vec<usize>)>,
}

impl<'a> World<'a> {
    pub(super) async fn new(stage: &'a Stage) -> Self {
        stage.clear().await;
        let sql = &stage.sql;
        let tenants = [TenantId::new(), TenantId::new()];
        for tenant in tenants {
            let insert = "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'test')";
            sql.execute(insert, &[&tenant.uuid()])
                .await
                .expect("a tenant");
        }
        let endpoints = [EndpointId::new(), EndpointId::new(), EndpointId::new()];
        for (id, (tenant, takes_b)) in endpoints.iter().zip(ENDPOINTS) {
            let insert = "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
                          VALUES ($1, $2, 'http://192.0.2.1/', $3)";
            let types = if takes_b { vec!["*"] } else { vec!["a"] };
            let tenant = tenants[tenant].uuid();
            let inserted = sql.execute(insert, &[&id.uuid(), &tenant, &types]).await;
            inserted.expect("an endpoint");
        }
        let noon = Utc::now().date_naive().and_hms_opt(12, 0, 0).expect("noon");
        Self {
            model: Model::new(),
            stage,
            tenants,
            endpoints,
            long_ago: noon.and_utc() - TimeDelta::days(5),
            events: Vec::new(),
            names: HashMap::new(),
            batches: Vec::new(),
            tickets: Vec::new(),
            claims: Vec::new(),
            calls: Vec::new(),
            settled: Vec::new(),
            slow: Slow::default(),
        }
    }

    pub(super) async fn go(&mut self, step: &Step) {
        match step {
            Step::Accept(process, drafts) => self.accept_new(*process, drafts).await,
            Step::AcceptAgain(process, batch) => self.accept_again(*process, *batch).await,
            Step::Publish(draft) => self.publish(draft).await,
            Step::End { commits } => self.end(*commits).await,
            Step::Claim {
                process,
                tickets,
                lives,
            } => self.claim(*process, tickets, *lives).await,
            Step::ClaimAtOnce(tickets) => self.claim_at_once(tickets).await,
            Step::Unclaim(call) => self.unclaim(*call).await,
            Step::Settle(process, items) => self.settle_some(*process, items).await,
            Step::SettleAgain(process) => self.settle(*process).await,
            Step::LeasesEnd(tickets) => self.end_leases(tickets).await,
            Step::BecomeDue(tickets) => self.become_due(tickets).await,
            Step::CancelEvent(event) => self.cancel_event(*event).await,
            Step::CancelDelivery(ticket) => self.cancel_delivery(*ticket).await,
            Step::Replay(ticket) => self.replay(*ticket).await,
            Step::ReplayChosen(tickets) => self.replay_chosen(tickets).await,
            Step::Change(endpoint, change) => self.change(*endpoint, *change).await,
            Step::HandOver(ticket) => self.hand_over(*ticket).await,
            Step::Lead(process) => self.lead(*process).await,
            Step::Resign(process) => self.resign(*process).await,
            Step::Expire(expiry) => self.expire(*expiry).await,
        }
    }

    // Settling ------------------------------------------------------------------------------------

    async fn settle_some(&mut self, process: usize, items: &BTreeMap<Pick, (Verdict, bool)>) {
        let held = items.iter().filter_map(|(&claim, &(verdict, is_foreign))| {
            let mut held = *latest(&self.claims, claim)?;
            held.token += if is_foreign { FOREIGN } else { 0 };
            Some((held, verdict))
        });
        self.settled = held.collect();
        self.settle(process).await;
    }

    async fn settle(&mut self, process: usize) {
        let items: Vec<SettleItem> = self.settled.iter().map(|it| self.settling(it)).collect();
        let answers = self.stage.stores[process]
            .settle(&items)
            .await
            .expect("settled");
        let answers: Vec<Settled> = (answers.into_iter())
            .map(|answer| match answer {
                zyven_store::Settled::Done => Settled::Done,
                zyven_store::Settled::Superseded => Settled::Superseded,
                zyven_store::Settled::AlreadyFinished => Settled::AlreadyFinished,
            })
            .collect();
        assert_eq!(answers, self.model.settle(&self.settled));
    }

    fn settling(&self, (held, verdict): &(Held, Verdict)) -> SettleItem {
        let (event_id, endpoint_id) = (self.events[held.name.0].0, self.endpoints[held.name.1]);
        let wait = |is_due| if is_due { Duration::ZERO } else { FAR };
        SettleItem {
            seq: held.seq,
            lease_token: held.token,
            delivery_id: DeliveryId::derive(event_id, endpoint_id),
            event_id,
            endpoint_id,
            generation: held.generation,
            attempt: held.attempt.unsigned_abs(),
            settlement: match *verdict {
                Verdict::Delivered => Settlement::Delivered(record(200)),
                Verdict::Retry { is_due } => Settlement::Retry {
                    record: record(500),
                    retry_in: wait(is_due),
                },
                Verdict::Dead { was_sent } => Settlement::DeadLetter {
                    record: was_sent.then(|| record(404)),
                    reason: DeadLetterReason::Rejected,
                },
                Verdict::Release { is_due } => Settlement::Release {
                    due_in: wait(is_due),
                },
            },
        }
    }

    // Time ----------------------------------------------------------------------------------------

    pub(super) fn seqs_of(&self, tickets: &BTreeSet<Pick>) -> Vec<i64> {
        let seq = |&pick: &Pick| match latest(&self.tickets, pick) {
            Some((_, seq)) => *seq,
            None => MADE_UP + i64::try_from(pick).expect("small"),
        };
        tickets.iter().map(seq).collect()
    }

    async fn end_leases(&mut self, tickets: &BTreeSet<Pick>) {
        let seqs = self.seqs_of(tickets);
        let end = "UPDATE zyven.outbox SET leased_until = now() - interval '1 second'
                    WHERE seq = ANY ($1) AND lease_token <> 0";
        self.stage.sql.execute(end, &[&seqs]).await.expect("ended");
        let rows = self.model.outbox.values_mut();
        rows.filter(|row| seqs.contains(&row.seq))
            .for_each(|row| row.is_leased = false);
    }

    async fn become_due(&mut self, tickets: &BTreeSet<Pick>) {
        let seqs = self.seqs_of(tickets);
        let hurry =
            "UPDATE zyven.outbox SET due_at = now() - interval '1 second' WHERE seq = ANY ($1)";
        self.stage
            .sql
            .execute(hurry, &[&seqs])
            .await
            .expect("hurried");
        let rows = self.model.outbox.values_mut();
        rows.filter(|row| seqs.contains(&row.seq))
            .for_each(|row| row.is_due = true);
    }

    async fn expire(&mut self, expiry: Expiry) {
        let store = self.stage.stores[0].clone();
        match expiry {
            Expiry::IdempotencyKeys => {
                let age =
                    "UPDATE zyven.idempotency_keys SET created_at = created_at - interval '2 days'";
                self.stage.sql.execute(age, &[]).await.expect("aged");
                let expired = store.expire_idempotency_keys(DAY).await.expect("expired");
                assert_eq!(expired, self.model.keys.len() as u64);
                self.model.keys.clear();
            }
            Expiry::DeadLetters => {
                let age = "UPDATE zyven.dead_letter_records SET dead_at = dead_at - interval '100 days';
                           UPDATE zyven.finished_deliveries SET finished_at = finished_at - interval '100 days'";
                self.stage.sql.batch_execute(age).await.expect("aged");
                let expired = store.expire_dead_letters(DEAD_LETTER_RETENTION).await;
                let expired = expired.expect("expired");
                assert_eq!(expired, self.model.dead_letters.len() as u64);
                self.model.dead_letters.clear();
            }
            // It would wait for the open transaction.
            Expiry::Partitions if self.slow.xact_id.is_some() => {}
            Expiry::Partitions => {
                while !(store.drop_expired_partitions(DAY).await.expect("dropped")).is_empty() {}
                self.model.drop_partitions();
            }
        }
    }

    // Deciding ------------------------------------------------------------------------------------

    async fn cancel_event(&mut self, event: Pick) {
        let Some((id, draft)) = latest(&self.events, event) else {
            return;
        };
        let number = self.events.len() - 1 - event;
        let tenant = self.tenants[draft.tenant];
        let answer = self.stage.stores[0]
            .cancel_event(tenant, *id, "why", "who")
            .await;
        let is_known = self.model.events.get(&number).is_some_and(|it| it.has_row);
        let names = (0..ENDPOINTS.len())
            .map(|endpoint| (number, endpoint))
            .collect();
        let expected = is_known.then(|| self.model.cancel(&names));
        assert_eq!(answer.expect("an answer").map(cancelled), expected);
    }

    async fn cancel_delivery(&mut self, ticket: Pick) {
        let Some(&(name, _)) = latest(&self.tickets, ticket) else {
            return;
        };
        let delivery = self.delivery(name);
        for tenant in 0..TENANTS {
            let of = self.tenants[tenant];
            let answer = self.stage.stores[1]
                .cancel_delivery(of, delivery, "why", "who")
                .await;
            let is_mine = self.events[name.0].1.tenant == tenant
                && (self.model.outbox.contains_key(&name) || self.model.latest(name).is_some());
            let expected = is_mine.then(|| self.model.cancel(&BTreeSet::from([name])));
            assert_eq!(answer.expect("an answer").map(cancelled), expected);
        }
    }

    fn delivery(&self, (event, endpoint): Name) -> DeliveryId {
        DeliveryId::derive(self.events[event].0, self.endpoints[endpoint])
    }

    async fn replay(&mut self, ticket: Pick) {
        let Some(&(name, _)) = latest(&self.tickets, ticket) else {
            return;
        };
        let tenant = self.tenants[self.events[name.0].1.tenant];
        let answer = self.stage.stores[0]
            .replay(tenant, self.delivery(name), "fixed")
            .await;
        let expected = match self.model.replay(name) {
            None => Replayed::NotFound,
            Some(Err(reason)) => Replayed::Refused(reason.to_owned()),
            Some(Ok(generation)) => {
                self.begin_again(name, generation).await;
                Replayed::Queued
            }
        };
        assert_eq!(answer.expect("an answer"), expected);
    }

    async fn replay_chosen(&mut self, tickets: &BTreeSet<Pick>) {
        let picked = tickets.iter().filter_map(|&it| latest(&self.tickets, it));
        let names: BTreeSet<Name> = picked.map(|&(name, _)| name).collect();
        if names.is_empty() {
            return;
        }
        let chosen: Vec<DeliveryId> = names.iter().map(|&name| self.delivery(name)).collect();
        for tenant in 0..TENANTS {
            let at_once = Replay::Do { rate_per_s: None };
            let answer = self.stage.stores[0]
                .replay_chosen(self.tenants[tenant], &chosen, "fixed", at_once)
                .await
                .expect("an answer");
            let (mut queued, mut refused) = (0, BTreeMap::new());
            for &name in &names {
                let is_mine = self.events[name.0].1.tenant == tenant;
                match is_mine.then(|| self.model.replay(name)).flatten() {
                    Some(Ok(generation)) => {
                        queued += 1;
                        self.begin_again(name, generation).await;
                    }
                    Some(Err(reason)) => {
                        refused.insert(self.delivery(name), reason.to_owned());
                    }
                    None => {
                        let reason = "there is no such dead letter";
                        refused.insert(self.delivery(name), reason.to_owned());
                    }
                }
            }
            // They are one decision.
            self.model.replays -= i64::from(queued).saturating_sub(1).max(0);
            assert_eq!((answer.deliveries, answer.refused), (queued, refused));
            assert_eq!(answer.id.is_some(), queued > 0);
        }
    }

    /// The next generation of a delivery that was replayed, as the store has numbered it.
    async fn begin_again(&mut self, name: Name, generation: i32) {
        let find = "SELECT seq FROM zyven.outbox WHERE delivery_id = $1";
        let delivery = self.delivery(name).uuid();
        let row = self.stage.sql.query_one(find, &[&delivery]).await;
        let seq = row.expect("the new row").get(0);
        let row = Row {
            seq,
            generation,
            attempts: 0,
            state: State::Received,
            token: 0,
            is_leased: false,
            is_due: true,
            order: self.events[name.0].1.order,
        };
        self.tickets.push((name, seq));
        assert_eq!(self.model.outbox.insert(name, row), None);
    }

    async fn change(&mut self, endpoint: usize, change: Change) {
        let (tenant, id) = (
            self.tenants[ENDPOINTS[endpoint].0],
            self.endpoints[endpoint],
        );
        let store = &self.stage.stores[endpoint % PROCESSES];
        let is_there = self.model.endpoints[endpoint] != Endpoint::Removed;
        let (done, becomes) = match change {
            Change::Enable => {
                let enabled = store.enable_endpoint_of(tenant, id).await;
                (enabled.expect("asked").is_some(), Endpoint::Enabled)
            }
            Change::Disable => {
                let disabled = store.disable_endpoint_of(tenant, id, "why").await;
                (disabled.expect("asked").is_some(), Endpoint::Disabled)
            }
            Change::Remove => {
                let removed = store.remove_endpoint(tenant, id, None).await;
                (removed.expect("asked").is_ok(), Endpoint::Removed)
            }
            // A pause keeps nothing from being accepted, nor claimed: that is the lane's affair.
            Change::Pause | Change::Resume => {
                let verb = if matches!(change, Change::Pause) {
                    "pause"
                } else {
                    "resume"
                };
                let call = format!("SELECT zyven.{verb}($1)");
                let done = self.stage.sql.execute(&call, &[&id.to_string()]).await;
                (done.is_ok(), self.model.endpoints[endpoint])
            }
        };
        assert_eq!(done, is_there);
        if is_there {
            self.model.endpoints[endpoint] = becomes;
        }
    }
}

/// Counted from the latest.
pub(super) fn latest<T>(all: &[T], pick: Pick) -> Option<&T> {
    all.iter().rev().nth(pick)
}

pub(super) fn ordering_key(number: u8) -> OrderingKey {
    OrderingKey::parse(&format!("order-{number}")).expect("a key")
}

fn cancelled(answer: zyven_store::Cancelled) -> Cancelled {
    Cancelled {
        cancelled: answer.cancelled,
        cancelled_before: answer.cancelled_before,
        being_attempted: answer.being_attempted,
        finished: answer.finished,
    }
}
