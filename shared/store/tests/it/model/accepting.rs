//! Events on their way in, over the API's statement and over SQL.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use uuid::Uuid;
use zyven_domain::event::{
    ContentType, DeliveryOptions, EventType, IdempotencyKey, OrderingKey, body_fingerprint,
    key_fingerprint,
};
use zyven_domain::id::{DeliveryId, EventId};
use zyven_store::{Accepted, Idempotency, NewEvent};

use super::reference::{Name, Row, State};
use super::world::{World, latest, ordering_key};
use super::{Draft, Pick};

impl World<'_> {
    fn make_up(&mut self, id: EventId, draft: &Draft) -> usize {
        let number = self.events.len();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let delivery = DeliveryId::derive(id, *endpoint);
            self.names.insert(delivery.uuid(), (number, index));
        }
        self.events.push((id, draft.clone()));
        number
    }

    pub(super) fn new_event(&self, number: usize) -> NewEvent {
        let (id, draft) = &self.events[number];
        let tenant_id = self.tenants[draft.tenant];
        let kind = if draft.is_b { "b" } else { "a" };
        let event_type = EventType::parse(kind).expect("a type");
        let payload = Bytes::from(format!("{{\"body\": {}}}", draft.body));
        let ordering_key = draft.order.map(ordering_key);
        let options = DeliveryOptions {
            deliver_at: draft
                .is_later
                .then(|| DateTime::UNIX_EPOCH + TimeDelta::days(40_000)),
            ordering_key,
            ..DeliveryOptions::default()
        };
        let idempotency = draft.key.map(|key| {
            let key = IdempotencyKey::parse(&format!("key-{key}")).expect("a key");
            Idempotency {
                key: key_fingerprint(tenant_id, &key),
                body: body_fingerprint(&event_type, &[], None, &options, &payload),
            }
        });
        NewEvent {
            id: *id,
            tenant_id,
            event_type,
            payload,
            content_type: ContentType::Json,
            channels: Vec::new(),
            source: None,
            traceparent: None,
            options,
            idempotency,
        }
    }

    pub(super) async fn accept_new(&mut self, process: usize, drafts: &[Draft]) {
        let mut batch = Vec::new();
        for draft in drafts {
            let mut id = EventId::new();
            if draft.is_old {
                let mut bytes = *id.uuid().as_bytes();
                let ms = self.long_ago.timestamp_millis().to_be_bytes();
                bytes[..6].copy_from_slice(&ms[2..]);
                id = EventId::from_uuid(Uuid::from_bytes(bytes));
                let make = "SELECT zyven.ensure_partition($1)";
                let made = self.stage.sql.execute(make, &[&self.long_ago]).await;
                made.expect("a partition of that day");
            }
            batch.push(self.make_up(id, draft));
        }
        self.batches.push(batch.clone());
        self.accept(process, &batch).await;
    }

    pub(super) async fn accept_again(&mut self, process: usize, batch: Pick) {
        let Some(batch) = latest(&self.batches, batch).cloned() else {
            return;
        };
        // Nobody repeats a batch days later, when its partition may be gone.
        if !batch.iter().any(|&number| self.events[number].1.is_old) {
            self.accept(process, &batch).await;
        }
    }

    async fn accept(&mut self, process: usize, batch: &[usize]) {
        let events: Vec<NewEvent> = batch.iter().map(|&it| self.new_event(it)).collect();
        let answers = self.stage.stores[process].accept(&events).await;
        let answers = answers.expect("accepted");
        // Of a batch's events with one new key, the first has it.
        for &number in batch {
            let draft = &self.events[number].1;
            if let Some(key) = draft.key {
                let first = self.model.keys.entry((draft.tenant, key));
                first.or_insert(number);
            }
        }
        let mut stored = Vec::new();
        for (&number, &answer) in batch.iter().zip(&answers) {
            let draft = &self.events[number].1;
            let first = draft.key.map(|key| self.model.keys[&(draft.tenant, key)]);
            let expected = match first.filter(|&first| first != number) {
                Some(first) => {
                    let body = |number| self.new_event(number).idempotency.map(|it| it.body);
                    let id = self.events[first].0;
                    if body(first) == body(number) {
                        Accepted::Repeated { first: id }
                    } else {
                        Accepted::Conflict { first: id }
                    }
                }
                None => Accepted::New {
                    deliveries: match self.model.events.get(&number) {
                        Some(event) => event.deliveries,
                        None => {
                            let route = self.model.route(draft.tenant, draft.is_b);
                            let deliveries = route.len();
                            stored.push((number, route));
                            deliveries
                        }
                    },
                },
            };
            assert_eq!(answer, expected, "event {number}");
        }
        self.learn_rows(&stored).await;
    }

    /// The rows of events that are stored now, each with its route: there, and of each tenant numbered in this order.
    /// Tenants whose routes have changed meanwhile are stored a round later than others.
    async fn learn_rows(&mut self, stored: &[(usize, Vec<usize>)]) {
        let mut last_of = BTreeMap::new();
        for (number, route) in stored {
            let (id, draft) = &self.events[*number];
            let find = "SELECT delivery_id, seq FROM zyven.outbox WHERE event_id = $1 ORDER BY seq";
            let rows = self
                .stage
                .sql
                .query(find, &[&id.uuid()])
                .await
                .expect("rows");
            let mut found = BTreeMap::new();
            for row in rows {
                let (name, seq) = (self.names[&row.get::<_, Uuid>(0)], row.get::<_, i64>(1));
                let last = last_of.insert(draft.tenant, seq);
                assert!(last < Some(seq), "{name:?} is out of order");
                let row = Row {
                    seq,
                    generation: 1,
                    attempts: 0,
                    state: State::Received,
                    token: 0,
                    is_leased: false,
                    is_due: !draft.is_later,
                    order: draft.order,
                };
                found.insert(name, row);
                self.tickets.push((name, seq));
            }
            let expected: Vec<Name> = route.iter().map(|&endpoint| (*number, endpoint)).collect();
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected);
            self.model.store(*number, draft.is_old, found);
        }
    }

    pub(super) async fn publish(&mut self, draft: &Draft) {
        let draft = &Draft {
            key: None,
            is_later: false,
            is_old: false,
            ..draft.clone()
        };
        if self.slow.xact_id.is_none() {
            self.stage.slow.batch_execute("BEGIN").await.expect("begun");
            let ask = "SELECT pg_current_xact_id()::text::bigint";
            let row = self.stage.slow.query_one(ask, &[]).await.expect("an id");
            self.slow.xact_id = Some(row.get(0));
        }
        let number = self.make_up(EventId::new(), draft);
        let event = self.new_event(number);
        let publish = "SELECT zyven.publish(tenant => $1, event_type => $2,
                                            payload => convert_from($3, 'UTF8')::json, ordering_key => $4)";
        let tenant = event.tenant_id.to_string();
        let key = event.options.ordering_key.as_ref().map(OrderingKey::as_str);
        let kind = event.event_type.as_str();
        let row = (self.stage.slow)
            .query_one(publish, &[&tenant, &kind, &event.payload.as_ref(), &key])
            .await
            .expect("published");
        let id: EventId = row.get::<_, &str>(0).parse().expect("an id");
        self.events.pop();
        self.make_up(id, draft);
        let route = self.model.route(draft.tenant, draft.is_b);
        self.slow.published.push((number, route));
    }

    pub(super) async fn end(&mut self, commits: bool) {
        if self.slow.xact_id.take().is_none() {
            return;
        }
        let published = std::mem::take(&mut self.slow.published);
        let end = if commits { "COMMIT" } else { "ROLLBACK" };
        self.stage.slow.batch_execute(end).await.expect("ended");
        if commits {
            self.learn_rows(&published).await;
        }
    }
}
