//! The dispatcher: takes tickets, sends signed requests, records what came of them.
//!
//! # Who acts
//!
//! The *intake* claims tickets in Redis and has PostgreSQL confirm each with a *lease*. For every
//! confirmed delivery an *attempt* sends one signed request through the egress proxy, under one
//! deadline, and turns what it saw into a verdict. *Settlement* puts verdicts on record, a batch at a
//! time, and passes them back to the intake as completions, which Redis is told with the next claim.
//!
//! ```text
//!          claim + completions             T2: lease, payload
//!   Redis <-------------------- intake <--------------------- PostgreSQL
//!                                 | spawns        ^                ^
//!                                 v               | completions    | T3, T4, T5, release
//!   endpoint <--- egress <---- attempt ------> settlement ---------+
//! ```
//!
//! # What is promised
//!
//! - No byte is sent without a lease that outlasts the attempt's deadline, on this process' own clock, nor
//!   when the relay may have taken this process for dead ([`presence`]).
//! - The payload's bytes are sent exactly as they were accepted, signed as Standard Webhooks has it.
//! - What the endpoint did not cause (an unreachable proxy, a lost lease, a stop of this process)
//!   spends no attempt. What never left is released.
//! - Every claimed delivery is settled exactly once by this process, however long PostgreSQL is away;
//!   the number of those held is bounded, so that is backpressure and not a leak.
//! - Asked to stop, it claims nothing more, finishes what is held within the grace time, and gives
//!   back the rest.
//!
//! # What is deliberately absent
//!
//! No sockets to endpoints: only the proxy opens those, and without one the dispatcher does not start.
//! No retry rules: those are `zyven_domain::retry`'s. No timers on the hot path: batches are whatever
//! gathered while the previous one was under way. No state that outlives a lease.

mod attempt;
mod authentication;
mod breakers;
mod client;
mod config;
mod destination;
mod endpoints;
mod health;
mod intake;
mod oauth;
mod presence;
mod retry_after;
mod settle;
mod statistics;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinError;
use tokio::time::timeout;
use zyven_domain::secret_box::KeyRing;
use zyven_queue::Queue;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::traces::Tracer;
use zyven_store::Store;

pub use client::{ParseProxyAddressError, ProxyAddress, TlsError};
pub use config::{Config, ParseProxyCredentialError, ProxyCredential};

use breakers::Herald;
use client::{Client, ClientConfig};
use endpoints::Endpoints;
use health::Health;
use intake::{Intake, Progress, Workshop};
use presence::Presence;
use statistics::Statistics;

/// How often idle connections are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// What the dispatcher works with.
pub struct Deps {
    /// PostgreSQL.
    pub store: Store,
    /// Redis.
    pub queue: Queue,
    /// Opens the endpoints' signing secrets.
    pub key_ring: KeyRing,
    /// Where it says whether it can work.
    pub readiness: Readiness,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it tells of attempts, if anybody wants to know.
    pub tracer: Tracer,
}

/// Why the dispatcher could not start, or ended unasked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way out: a dispatcher never connects to endpoints itself.
    #[error("ZYVEN_EGRESS_PROXIES must name at least one proxy")]
    NoProxy,
    /// The file of further authorities cannot be used.
    #[error("ZYVEN_DISPATCHER_TLS_CA_FILE cannot be used")]
    Tls(#[from] TlsError),
    /// The task that records results panicked.
    #[error("recording results ended unasked")]
    Settlement(#[source] JoinError),
}

/// Delivers until shutdown is requested, then finishes what is held. Redis, PostgreSQL and the proxies
/// may be away at any time, also at the start.
///
/// # Errors
///
/// [`Error`] if it cannot start. Once it delivers, nothing but a defect ends it unasked.
pub async fn run(config: Config, deps: Deps, shutdown: Shutdown) -> Result<(), Error> {
    let client = Arc::new(client(&config)?);
    let statistics = Arc::new(Statistics::new(&deps.metrics, &client));
    Statistics::count_failures_of(&deps.queue, &deps.metrics);
    let (give_up, given_up) = watch::channel(false);
    let (finished, results) = mpsc::unbounded_channel();
    let (completions, settled) = mpsc::unbounded_channel();
    // Ends when the intake and the last attempt have dropped their senders.
    let mut settling = tokio::spawn(settle::run(
        deps.store.clone(),
        Arc::clone(&statistics),
        results,
        completions,
    ));
    let grace = config.grace;
    let store = deps.store.clone();
    let presence = Presence::new();
    let (leave, leaving) = Shutdown::new();
    // Beats until everything held is settled: ends by `leave`, or with the runtime.
    let beating = tokio::spawn(presence.clone().keep(store.clone(), leaving));
    let (herald, telling) = Herald::new(store.clone());
    // Ends when the intake has dropped the herald, or is aborted below: what it has not told then is not waited for.
    let telling = tokio::spawn(telling);
    let intake = Intake {
        endpoints: Endpoints::new(
            deps.store.clone(),
            deps.key_ring,
            config.names,
            Arc::clone(&client),
            Arc::clone(&statistics),
        ),
        store: deps.store,
        doorbell: deps.queue.doorbell(),
        queue: deps.queue,
        workshop: Arc::new(Workshop {
            client: Arc::clone(&client),
            statistics,
            presence: presence.clone(),
            tracer: deps.tracer,
            give_up: given_up,
        }),
        health: Health::new(&deps.readiness),
        herald,
        in_flight_max: config.in_flight_max,
        shutdown: shutdown.clone(),
        finished,
        settled,
        progress: Progress::default(),
    };

    let intake = tokio::select! {
        intake = work(intake, client, shutdown) => intake,
        // Only a panic ends it while the intake has a sender. Its results are lost to this process,
        // and their leases run out.
        ended = &mut settling => return Err(Error::Settlement(
            ended.expect_err("settlement outlives the intake"),
        )),
    };
    let left = intake.drain(grace, give_up).await;
    let last_moment = Duration::from_secs(1);
    if timeout(last_moment, &mut settling).await.is_err() {
        settling.abort();
    }
    telling.abort();
    leave.request();
    beating.abort();
    // Aborted or not, it beats no more.
    let _ = beating.await;
    if left == 0 {
        presence.leave(&store).await;
    }
    Ok(())
}

/// Takes work in until shutdown is requested, and closes idle connections meanwhile.
async fn work(intake: Intake, client: Arc<Client>, shutdown: Shutdown) -> Intake {
    // Nobody else ever holds the lock: it lends the intake to the loop, and gets it back for draining.
    let intake = Arc::new(Mutex::new(intake));
    let lent = Arc::clone(&intake);
    let claiming = pace::run(
        "dispatcher intake",
        shutdown.clone(),
        intake::BACKOFF,
        async move || lent.lock().await.step().await,
    );
    let sweeping = pace::run(
        "dispatcher sweep",
        shutdown,
        Backoff::default(),
        async move || {
            client.sweep();
            Ok::<_, Error>(Rest::For(SWEEP_EVERY))
        },
    );
    tokio::join!(claiming, sweeping);
    Arc::into_inner(intake)
        .expect("the loop has given the intake back")
        .into_inner()
}

fn client(config: &Config) -> Result<Client, Error> {
    if config.proxies.is_empty() {
        return Err(Error::NoProxy);
    }
    let client = Client::new(ClientConfig {
        proxies: config.proxies.clone(),
        credential: config.credential.expose(),
        tls_ca_file: config.tls_ca_file.as_deref(),
        idle_max: config.idle_connections_max,
        idle_per_origin_max: config.idle_connections_per_origin_max,
        idle_time_max: config.idle_time_max,
    })?;
    Ok(client)
}
