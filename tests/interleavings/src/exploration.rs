//! Publishers, writers and a stop, in any order.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use shuttle::future::{block_on, spawn};
use shuttle::rand::{Rng, thread_rng};
use zyven_domain::event::{ContentType, DeliveryOptions, EventType};
use zyven_domain::id::{EventId, TenantId};

use crate::aside::Aside;
use crate::batcher::{Batcher, Refusal, Writer};
use crate::body::Room;
use crate::doorbell::Bell;
use crate::statistics::Statistics;
use crate::store::{BAD, COSTLY};
use crate::{Accepted, NewEvent, Store, clock};

const PUBLISHERS: usize = 4;
const WRITERS: usize = 2;
/// Events that may wait, fewer than publishers can send.
const EVENTS_MAX: usize = 6;
const DEADLINE: Duration = Duration::from_secs(10);
/// Statements that fail in a run. As many waits between tries end long before the deadline.
const FAILURES: usize = 2;
/// Statements that hang in a run: fewer than there are writers.
const HANGS: usize = WRITERS - 1;

/// How far the clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Not to anybody's deadline: whoever is not answered then would wait for ever.
    BeforeDeadlines,
    /// Deadlines pass at any moment.
    PastDeadlines,
}

/// What a publisher was told.
#[derive(Debug)]
enum Told {
    Accepted(Vec<Accepted>),
    Refused(Refusal),
    /// It hung up, after its events were in the queue if that is true.
    Nothing {
        has_asked: bool,
    },
}

struct Publisher {
    events: Vec<NewEvent>,
    is_bad: bool,
    /// It hangs up after it was looked after so many times.
    patience: Option<usize>,
}

impl Publisher {
    fn new() -> Self {
        let mut random = thread_rng();
        let is_bad = random.gen_bool(0.1);
        let payload = match is_bad {
            true => BAD,
            false if random.gen_bool(0.2) => COSTLY,
            false => b"{}",
        };
        // One request in ten has more events than a batch.
        let number = if random.gen_bool(0.1) {
            5
        } else {
            random.gen_range(1..=3)
        };
        let tenant_id = TenantId::new();
        let event = |_| NewEvent {
            id: EventId::new(),
            tenant_id,
            event_type: EventType::parse("a").expect("a type"),
            payload: Bytes::from_static(payload),
            content_type: ContentType::Json,
            channels: Vec::new(),
            source: None,
            traceparent: None,
            options: DeliveryOptions::default(),
            idempotency: None,
        };
        Self {
            events: (0..number).map(event).collect(),
            is_bad,
            patience: random.gen_bool(0.3).then(|| random.gen_range(0..6)),
        }
    }

    async fn publish(self, batcher: Batcher, room: Room, store: Store) -> (Self, Told) {
        let mut storing = pin!(batcher.store(self.events.clone(), room.share()));
        let mut looks = 0;
        let told = poll_fn(|context| {
            if self.patience == Some(looks) {
                return Poll::Ready(Told::Nothing {
                    has_asked: looks > 0,
                });
            }
            looks += 1;
            if self.patience.is_some() {
                context.waker().wake_by_ref();
            }
            storing.as_mut().poll(context).map(|verdict| match verdict {
                Ok(accepted) => Told::Accepted(accepted),
                Err(refusal) => Told::Refused(refusal),
            })
        })
        .await;
        store.note_gone(self.events[0].tenant_id);
        (self, told)
    }

    /// What must be true of what it was told, once everything is over.
    fn judge(&self, told: &Told, store: &Store, time: Time) {
        let ids = self.events.iter().map(|event| event.id);
        let committed: Vec<Option<usize>> = store.look(|database| {
            ids.clone()
                .map(|id| database.committed.get(&id).copied())
                .collect()
        });
        let is_committed = committed.iter().all(Option::is_some);
        match told {
            Told::Accepted(answers) => {
                let own = committed.iter().map(|number| Accepted::New {
                    deliveries: number.expect("an answered event that is not committed"),
                });
                assert_eq!(*answers, own.collect::<Vec<_>>(), "somebody else's answer");
            }
            Told::Refused(Refusal::Overloaded) => {
                let is_seen =
                    store.look(|database| ids.clone().any(|id| database.seen.contains(&id)));
                assert!(!is_seen, "refused, and stored all the same");
            }
            Told::Refused(Refusal::TooCostly) => panic!("nothing here is that costly"),
            Told::Refused(Refusal::Internal) => assert!(self.is_bad, "for another one's sake"),
            Told::Refused(Refusal::Unavailable) => {
                assert_eq!(time, Time::PastDeadlines, "given up before the deadline");
            }
            // Had there been no place for it, it would have been told at once.
            Told::Nothing { has_asked } => {
                let may_be_refused = time == Time::PastDeadlines || self.is_bad;
                assert!(
                    *has_asked || !is_committed,
                    "stored without having been sent"
                );
                assert!(
                    is_committed || !has_asked || may_be_refused,
                    "dropped silently"
                );
            }
        }
        assert!(!(self.is_bad && is_committed), "the bad one is stored");
    }
}

/// One run: publishers of all kinds, writers, failures, and a stop, which may come first. To be called under a scheduler.
pub fn publish_and_stop(time: Time) {
    clock::reset();
    let (store, room) = (Store::new(PUBLISHERS, FAILURES, HANGS), Room::default());
    let batcher = Batcher::new(EVENTS_MAX, DEADLINE);
    let writer = Writer {
        store: store.clone(),
        bell: Bell,
        statistics: Arc::new(Statistics::new()),
        aside: Aside::new(EVENTS_MAX),
    };
    let aside = writer.aside.clone();
    let writer_aside = spawn(aside.clone().run(writer.clone()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| spawn(writer.clone().run(batcher.clone())))
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| spawn(Publisher::new().publish(batcher.clone(), room.clone(), store.clone())))
        .collect();
    let clock = spawn(clock::run(match time {
        Time::BeforeDeadlines => DEADLINE / 2,
        Time::PastDeadlines => DEADLINE * 10,
    }));
    let is_stopped_early = thread_rng().gen_bool(0.3);
    let closing = batcher.clone();
    let closer = spawn(async move {
        if is_stopped_early {
            closing.close();
        }
    });
    block_on(async {
        let mut told = Vec::new();
        for publisher in publishers {
            told.push(publisher.await.expect("no panic"));
            assert!(batcher.waiting() <= EVENTS_MAX, "more wait than may");
        }
        closer.await.expect("no panic");
        batcher.close();
        for writer in writers {
            writer.await.expect("no panic");
        }
        aside.close();
        writer_aside.await.expect("no panic");
        clock::stop();
        clock.await.expect("no panic");
        assert_eq!(batcher.waiting(), 0, "the stop has left something behind");
        assert_eq!(aside.waiting(), 0, "the stop has left something aside");
        assert_eq!(room.used(), 0, "a body's share is not given back");
        assert!(store.look(|database| database.busy_max) <= WRITERS + 1);
        for (publisher, told) in &told {
            publisher.judge(told, &store, time);
        }
    });
}
