//! The REST API: accepting events, managing endpoints and keys, reading what became of events.
//!
//! # Who acts
//!
//! A *caller* is whoever holds an API key, or a view link that a key has made; the key names its tenant,
//! and every question to the store names that tenant, so another tenant's things are as absent as things
//! that never were. The [`server`] owns connections, the [`exchange`] one request and its answer. Published
//! events meet in the [`batcher`]: handlers put them into a bounded queue, *writers* store whatever is
//! waiting by one statement and answer everybody at once.
//!
//! # What is promised
//!
//! - `202` is sent after the event and its outbox rows are committed synchronously, never before.
//! - The payload's bytes are those that were sent: they are checked, never printed anew.
//! - Checks are made in one order: route, authentication, scope, parameters, content type, size, UTF-8, JSON,
//!   fields, schema, idempotency. A caller without a key learns of nothing but the first.
//! - Bad input is a [`problem`] of the 4xx kind that names field and rule. Everything that can pile up
//!   has a limit, and beyond it the answer is 503 with `Retry-After`, at once.
//! - A tenant that asks more often than it may is answered 429, and told when to come again ([`rates`]).
//! - A database that is away for less than the request deadline costs its publishers time, not errors.
//!
//! # Architecture invariants
//!
//! - No SQL here, and no Redis but for explanations, which do without it (ADR 0032). New events are told to relays by
//!   a bell that may get lost.
//! - `POST /v1/events` does not go through the router: see [`exchange`].
//! - Nothing a client sends is printed into a log except ids that were parsed.

mod answer;
mod api_keys;
mod app;
mod aside;
mod audit;
mod auth;
mod batcher;
mod body;
mod cancel;
mod config;
mod deliveries;
mod endpoints;
mod event_types;
mod events;
mod exchange;
mod explain;
mod fields;
mod openapi;
mod overview;
mod pages;
mod places;
mod preconditions;
mod problem;
mod rates;
mod replays;
mod router;
mod schemas;
mod server;
mod socket;
mod statistics;
mod sync;
mod trace;
mod view_links;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use zyven_domain::secret_box::KeyRing;
use zyven_queue::Queue;
use zyven_runtime::doorbell::Bell;
use zyven_runtime::inherited::Origin;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::probes::{Condition, Readiness};
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::traces::Tracer;
use zyven_store::{Store, StoreError};

pub use api_keys::new_api_key;
pub use auth::REVOCATION_MAX;
pub use config::{
    Config, Deadlines, FLUSH_BYTES_MAX, FLUSH_EVENTS_MAX, HEAD_BYTES_MAX, HEAD_LINES_MAX, Limits,
};
pub use openapi::document as openapi;
pub use rates::WINDOW as RATE_WINDOW;
pub use router::{Route, routes};

use app::App;
use aside::Aside;
use auth::Keys;
use batcher::{Batcher, Writer};
use body::Room;
use exchange::Exchange;
use rates::Rates;
use schemas::Schemas;
use server::ConnectionLimits;
use statistics::Statistics;

/// What is left of the grace time for storing the queue, at least. Part of what a supervisor must grant
/// on top of the grace time.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Connections to Redis: somebody asks for an explanation now and then.
pub const QUEUE_POOL_SIZE: u32 = 2;
/// How often the database is asked for a sign of life.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

/// What the API works with besides its settings.
pub struct Deps {
    /// Where events go.
    pub store: Store,
    /// What explanations are completed with, if anybody has said where Redis is: [`QUEUE_POOL_SIZE`] connections
    /// are plenty.
    pub queue: Option<Queue>,
    /// What signing secrets are sealed with.
    pub ring: KeyRing,
    /// What it counts.
    pub metrics: Metrics,
    /// Where it tells of requests that publish, if anybody wants to know.
    pub tracer: Tracer,
    /// Where it tells whether it can work: the condition `ingest`.
    pub readiness: Readiness,
    /// Whose the listening socket is. An inherited one is left to the next process at once when this one is
    /// asked to stop.
    pub origin: Origin,
}

/// Serves the API on `listener` until shutdown is requested. Then it is a lame duck for a moment
/// ([`Deadlines::lame_duck`]), takes no more connections, finishes the requests that have begun, and stores
/// what is queued, all within [`Deadlines::grace`] and at most a second more.
///
/// # Errors
/// There is no socket to be had for the relays' doorbells. Once it serves, nothing ends it but the
/// shutdown.
pub async fn run(
    listener: TcpListener,
    config: Config,
    deps: Deps,
    shutdown: Shutdown,
) -> io::Result<()> {
    let limits = ConnectionLimits {
        connections_max: config.limits.connections_max,
        head: config.deadlines.head,
        grace: config.deadlines.grace,
        lame_duck: config.deadlines.lame_duck,
        origin: deps.origin,
    };
    let writers_max = config.writers;
    let condition = deps.readiness.condition("ingest");
    let store = deps.store.clone();
    let app = Arc::new(assemble(config, deps)?);
    let writer = Writer {
        store: store.clone(),
        bell: app.bell.clone(),
        statistics: Arc::clone(&app.statistics),
        aside: app.aside.clone(),
    };
    let mut writers = JoinSet::new();
    for _ in 0..writers_max {
        // Ends when the batcher is closed and empty, or is aborted with the set.
        writers.spawn(writer.clone().run(app.batcher.clone()));
    }
    // Likewise, with the line aside.
    let mut writers_aside = JoinSet::new();
    writers_aside.spawn(app.aside.clone().run(writer));

    let exchange = Arc::new(Exchange::new(Arc::clone(&app)));
    let serving = server::serve(listener, exchange, limits, &app.statistics, &shutdown);
    let statistics = Arc::clone(&app.statistics);
    let watching = watch(store, statistics, condition, shutdown.clone());
    let (deadline, ()) = tokio::join!(serving, watching);

    // Nobody can add to the queue any more. What is in it belongs to clients that have been cut off
    // or have gone; it is stored all the same, if it can be soon.
    app.batcher.close();
    let deadline = deadline.max(Instant::now() + LAST_FLUSH_MAX);
    let emptied = async {
        while writers.join_next().await.is_some() {}
        app.aside.close();
        while writers_aside.join_next().await.is_some() {}
    };
    if timeout_at(deadline, emptied).await.is_err() {
        tracing::warn!(
            events = app.batcher.waiting() + app.aside.waiting(),
            "ending with events that could not be stored; they were not acknowledged"
        );
    }
    Ok(())
}

fn assemble(config: Config, deps: Deps) -> io::Result<App> {
    let batcher = Batcher::new(config.limits.queue_events_max, config.deadlines.request);
    let aside = Aside::new(config.limits.queue_events_max);
    let room = Room::new(config.limits.bodies_bytes_max);
    let rates = Rates::new(config.rates);
    Ok(App {
        description: openapi::Description::of(&config.limits),
        overviews: overview::places(config.deadlines.request),
        replays: replays::places(config.deadlines.request),
        keys: Arc::new(Keys::new(
            deps.store.clone(),
            deps.ring.clone(),
            config.deadlines.request,
        )),
        schemas: Schemas::new(deps.store.clone()),
        statistics: Statistics::new(&deps.metrics, &batcher, &aside, &room),
        bell: Bell::to(config.doorbells.iter().cloned())?,
        store: deps.store,
        queue: deps.queue,
        ring: deps.ring,
        tracer: deps.tracer,
        batcher,
        aside,
        room,
        rates,
        config,
    })
}

/// Keeps the condition equal to whether events can be stored, as far as that is known: the database takes writes, and
/// no batch was given up since the last look. A full disk lets it answer and store nothing; and as long as nobody
/// publishes, nobody knows whether it is still full.
async fn watch(
    store: Store,
    statistics: Arc<Statistics>,
    condition: Condition,
    shutdown: Shutdown,
) {
    let backoff = Backoff {
        min: Duration::from_millis(250),
        max: HEALTH_EVERY,
    };
    let shown = condition.clone();
    let mut seen = 0;
    pace::run("ingest health", shutdown, backoff, async move || {
        let health = store.health().await;
        let failed = statistics.storing_failed();
        match &health {
            Ok(()) if failed == seen => shown.ready(),
            Ok(()) => {
                shown.not_ready("PostgreSQL answers, but could not store events a moment ago");
            }
            Err(StoreError::ReadOnly) => shown.not_ready("PostgreSQL takes no writes"),
            Err(_) => shown.not_ready("PostgreSQL does not answer"),
        }
        seen = failed;
        health.map(|()| Rest::For(HEALTH_EVERY))
    })
    .await;
    condition.not_ready("stopping");
}
