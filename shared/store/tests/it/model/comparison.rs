//! Everything PostgreSQL holds against the model, after each step.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Row as SqlRow, Statement};
use uuid::Uuid;

use super::reference::{DeadLetter, Finished, Name, Row, State};
use super::world::{World, ordering_key};

/// All that is asked after each step, prepared: there are a lot of partitions to plan for.
pub(super) struct Questions {
    outbox: Statement,
    finished: Statement,
    dead_letters: Statement,
    attempts: Statement,
    view: Statement,
    events: Statement,
    counts: Statement,
}

const OUTBOX: &str = "
    SELECT delivery_id, seq, generation, attempts, state::text, lease_token, leased_until > clock_timestamp(),
           due_at <= clock_timestamp(), ordering_key
      FROM zyven.outbox";
const FINISHED: &str = "
    SELECT delivery_id, generation, reason, attempts, seq, state::text
      FROM zyven.finished_deliveries";
const DEAD_LETTERS: &str = "
    SELECT delivery_id, generation, reason, attempts, resolved_at IS NOT NULL, replayed_at IS NOT NULL, payload
      FROM zyven.dead_letter_records";
const ATTEMPTS: &str = "
    SELECT delivery_id, generation, number, state_after::text
      FROM zyven.attempts";
const VIEW: &str = "
    SELECT delivery_id, state::text, generation, attempts, reason
      FROM zyven.deliveries";
const EVENTS: &str = "SELECT id FROM zyven.events";
const COUNTS: &str = "
    SELECT (SELECT count(*) FROM zyven.replays),
           (SELECT coalesce(sum(deliveries), 0) FROM zyven.cancellations),
           (SELECT count(*) FROM zyven.idempotency_keys),
           (SELECT watermark FROM zyven.relay)";

impl Questions {
    pub(super) async fn prepare(sql: &Client) -> Self {
        let prepared = async |question: &str| sql.prepare(question).await.expect("prepared");
        Self {
            outbox: prepared(OUTBOX).await,
            finished: prepared(FINISHED).await,
            dead_letters: prepared(DEAD_LETTERS).await,
            attempts: prepared(ATTEMPTS).await,
            view: prepared(VIEW).await,
            events: prepared(EVENTS).await,
            counts: prepared(COUNTS).await,
        }
    }
}

impl World<'_> {
    pub(super) async fn compare(&self) {
        self.compare_outbox().await;
        self.compare_finished().await;
        self.compare_view().await;
        let (sql, questions) = (&self.stage.sql, &self.stage.questions);
        let row = sql.query_one(&questions.counts, &[]).await.expect("counts");
        let counts: [i64; 4] = std::array::from_fn(|column| row.get(column));
        let model = &self.model;
        let keys = model.keys.len() as i64;
        let expected = [model.replays, model.cancellations, keys, model.watermark];
        assert_eq!(counts, expected, "replays, cancellations, keys, watermark");
        let breaches = self.stage.stores[0]
            .invariant_breaches()
            .await
            .expect("a check");
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    async fn rows(&self, question: &Statement) -> Vec<(Name, SqlRow)> {
        let rows = self.stage.sql.query(question, &[]).await.expect("rows");
        let named = rows.into_iter();
        named
            .map(|row| (self.names[&row.get::<_, Uuid>(0)], row))
            .collect()
    }

    async fn compare_outbox(&self) {
        let mut found = BTreeMap::new();
        for (name, row) in self.rows(&self.stage.questions.outbox).await {
            let order = self.events[name.0].1.order;
            let number = order.map_or(0, |key| ordering_key(key).number());
            assert_eq!(row.get::<_, i64>(8), number);
            let read = Row {
                seq: row.get(1),
                generation: row.get(2),
                attempts: row.get(3),
                state: match row.get(4) {
                    "RECEIVED" => State::Received,
                    "DISPATCHING" => State::Dispatching,
                    "RETRY_SCHEDULED" => State::RetryScheduled,
                    other => panic!("unfinished, and {other}"),
                },
                token: row.get(5),
                is_leased: row.get(6),
                is_due: row.get(7),
                order,
            };
            assert!(found.insert(name, read).is_none(), "two rows of {name:?}");
        }
        assert_eq!(found, self.model.outbox);
    }

    async fn compare_finished(&self) {
        let mut finished = BTreeMap::new();
        for (name, row) in self.rows(&self.stage.questions.finished).await {
            let read = Finished {
                reason: reason(row.get(2)),
                attempts: row.get(3),
                seq: row.get(4),
            };
            assert_eq!(row.get::<_, &str>(5) == "DELIVERED", read.reason.is_none());
            finished.insert((name, row.get(1)), read);
        }
        assert_eq!(finished, self.model.finished);

        let mut dead_letters = BTreeMap::new();
        for (name, row) in self.rows(&self.stage.questions.dead_letters).await {
            let read = DeadLetter {
                reason: reason(row.get(2)).expect("a reason"),
                attempts: row.get(3),
                is_resolved: row.get(4),
                is_replayed: row.get(5),
            };
            assert_eq!(row.get::<_, &[u8]>(6), self.new_event(name.0).payload);
            dead_letters.insert((name, row.get(1)), read);
        }
        assert_eq!(dead_letters, self.model.dead_letters);

        let mut attempts = BTreeMap::new();
        for (name, row) in self.rows(&self.stage.questions.attempts).await {
            let after: String = row.get(3);
            attempts.insert((name, row.get(1), row.get(2)), after);
        }
        let expected = self.model.attempts.iter();
        let expected = expected.map(|(attempt, after)| (*attempt, (*after).to_owned()));
        assert_eq!(attempts, expected.collect());
    }

    /// The five states that operators and the API see, and the events.
    async fn compare_view(&self) {
        let mut seen = BTreeMap::new();
        for (name, row) in self.rows(&self.stage.questions.view).await {
            let state: String = row.get(1);
            let what = (state, row.get(2), row.get(3), reason(row.get(4)));
            assert!(seen.insert(name, what).is_none(), "{name:?} is shown twice");
        }
        let mut expected: BTreeMap<Name, (String, i32, i32, Option<&str>)> = BTreeMap::new();
        // In order of generations: the last one stays.
        for (&(name, generation), it) in &self.model.finished {
            let state = it.reason.map_or("DELIVERED", |_| "DEAD_LETTERED");
            let what = (state.to_owned(), generation, it.attempts, it.reason);
            expected.insert(name, what);
        }
        for (&name, row) in &self.model.outbox {
            let is_handed_over = row.state == State::Received && row.seq <= self.model.watermark;
            let state = if is_handed_over {
                State::Dispatching
            } else {
                row.state
            };
            let what = (
                state.as_str().to_owned(),
                row.generation,
                row.attempts,
                None,
            );
            expected.insert(name, what);
        }
        assert_eq!(seen, expected);

        let rows = self
            .stage
            .sql
            .query(&self.stage.questions.events, &[])
            .await;
        let stored: BTreeSet<Uuid> = rows.expect("events").iter().map(|row| row.get(0)).collect();
        let expected = (self.model.events.iter()).filter(|(_, event)| event.has_row);
        let expected = expected.map(|(&number, _)| self.events[number].0.uuid());
        assert_eq!(stored, expected.collect());
    }
}

fn reason(text: Option<&str>) -> Option<&'static str> {
    text.map(|text| match text {
        "rejected" => "rejected",
        "cancelled" => "cancelled",
        other => panic!("nobody gave the reason {other}"),
    })
}
