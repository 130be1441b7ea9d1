//! Composition: which services run in this process, what they are given, and in which order they stop.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use zyven_domain::secret_box::KeyRing;
use zyven_queue::{Queue, QueueConfig};
use zyven_runtime::config::Source;
use zyven_runtime::doorbell::Doorbell;
use zyven_runtime::inherited::{Inherited, InheritedError, Listening};
use zyven_runtime::metrics::{self, Metrics};
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::probes::{self, Readiness};
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::supervisor::{Ended, Supervisor, Threads};
use zyven_runtime::traces::{self, Exporter, Tracer};
use zyven_runtime::{shutdown, telemetry};
use zyven_store::{Schema, Store, StoreConfig, StoreError};

use crate::{Failure, pools, settings};

/// What can run in a process, in the order in which it stops: nothing is accepted that nobody could
/// take further, and the way out closes last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ingest,
    Relay,
    Dispatcher,
    Egress,
    /// Not among [`Service::ALL`]: what faces browsers is a process of its own, with nothing in it that others need.
    Console,
}

impl Service {
    pub(crate) const ALL: [Self; 4] = [Self::Ingest, Self::Relay, Self::Dispatcher, Self::Egress];
}

/// The relay finishes its step, which takes as long as PostgreSQL and Redis take to answer.
const RELAY_GRACE: Duration = Duration::from_secs(10);
/// Probes have nothing to finish.
const PROBES_GRACE: Duration = Duration::from_secs(1);
/// How often a schema that fits is looked at again: somebody may restore an old database.
const SCHEMA_SEEN_REST: Duration = Duration::from_secs(60);
/// How often a missing migration is looked for.
const SCHEMA_MISSING_REST: Duration = Duration::from_secs(1);
/// Open files that the default limits of all services in one process may come to.
const OPEN_FILES_WANTED: u64 = 16_384;
/// What a service may take on top of its own grace time before it is cut off.
const MARGIN: Duration = Duration::from_secs(2);

/// Everything that was configured, before anything is started.
struct Plan {
    telemetry: telemetry::Config,
    traces: traces::Config,
    probe_listen: SocketAddr,
    threads: Threads,
    store: Option<StoreConfig>,
    queue: Option<QueueConfig>,
    keys: Option<KeyRing>,
    ingest: Option<zyven_ingest::Config>,
    relay: Option<zyven_relay::Config>,
    dispatcher: Option<zyven_dispatcher::Config>,
    egress: Option<zyven_egress::Config>,
    console: Option<zyven_console::Config>,
}

impl Plan {
    /// Reads what `services` need, all of it, so that all mistakes are found; `None` if there are any.
    fn read(source: &mut Source, services: &[Service]) -> Option<Self> {
        use Service::{Console, Dispatcher, Egress, Ingest, Relay};
        let any = |wanted: &[Service]| services.iter().any(|service| wanted.contains(service));
        let telemetry = telemetry::Config::read(source);
        let traces = traces::Config::read(source);
        let probe_listen = settings::probe_listen(source);
        let threads = settings::threads(source);
        // For each: `Some(None)` where it is not needed, `None` where it is wrong.
        let store = any(&[Ingest, Relay, Dispatcher]).then(|| settings::store(source));
        // Explanations say more with it, and ingest does without.
        let has_queue =
            any(&[Relay, Dispatcher]) || any(&[Ingest]) && settings::names_redis(source);
        let queue = has_queue.then(|| settings::queue(source));
        let keys = any(&[Ingest, Dispatcher]).then(|| settings::master_keys(source));
        let ingest = any(&[Ingest]).then(|| zyven_ingest::Config::read(source));
        let relay = any(&[Relay]).then(|| zyven_relay::Config::read(source));
        let dispatcher = any(&[Dispatcher]).then(|| zyven_dispatcher::Config::read(source));
        let egress = any(&[Egress]).then(|| zyven_egress::Config::read(source));
        let console = any(&[Console]).then(|| {
            let api_url = settings::api_url(source);
            zyven_console::Config::read(source, api_url)
        });
        Some(Self {
            telemetry: telemetry?,
            traces: traces?,
            probe_listen: probe_listen?,
            threads: threads?,
            store: right(store)?,
            queue: right(queue)?,
            keys: right(keys)?,
            ingest: right(ingest)?,
            relay: right(relay)?,
            dispatcher: right(dispatcher)?,
            egress: right(egress)?,
            console: right(console)?,
        })
    }
}

/// Turns "needed and read" inside out: `None` if it was needed and wrong.
fn right<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
    }
}

/// Runs `services` in this process, on the sockets it was passed, until it is asked to stop.
pub(crate) async fn run(
    services: &[Service],
    sockets: Result<Inherited, InheritedError>,
) -> Result<(), Failure> {
    let mut source = Source::from_environment();
    let plan = Plan::read(&mut source, services);
    #[cfg(feature = "crash-points")]
    let orders = settings::crash_points(&mut source);
    source.finish_strict(&settings::known_names())?;
    let plan = plan.ok_or_else(|| Failure::Plain("the configuration is incomplete".to_owned()))?;
    telemetry::init(plan.telemetry);
    #[cfg(feature = "crash-points")]
    orders.unwrap_or_default().arm();
    let metrics = Metrics::default();
    let (tracer, exporter) = traces::start(plan.traces, &metrics);
    let parts = Parts {
        store: plan.store,
        queue: plan.queue,
        keys: plan.keys,
        threads: plan.threads,
        metrics,
        tracer,
        readiness: Readiness::default(),
    };
    metrics::observe_process(&parts.metrics);
    raise_open_files_limit();

    let (trigger, shutdown) = Shutdown::new();
    shutdown::stop_on_signals(trigger).map_err(Failure::other)?;
    let mut supervisor = Supervisor::default();
    let mut sockets = sockets.map_err(Failure::other)?;
    let probes_listener = bind(&mut sockets, "probes", plan.probe_listen)?;
    let running = parts.readiness.condition("running");
    if parts.store.is_some() {
        start_schema_watch(&mut supervisor, &parts)?;
    }
    if let Some(config) = plan.ingest {
        start_ingest(&mut supervisor, &mut sockets, config, &parts)?;
    }
    if let Some(config) = plan.relay {
        start_relay(&mut supervisor, config, &parts)?;
    }
    if let Some(config) = plan.dispatcher {
        start_dispatcher(&mut supervisor, config, &parts)?;
    }
    if let Some(mut config) = plan.egress {
        config.own_listeners.push(plan.probe_listen);
        start_egress(&mut supervisor, &mut sockets, config, &parts)?;
    }
    if let Some(config) = plan.console {
        start_console(&mut supervisor, &mut sockets, config, &parts)?;
    }
    sockets.finish().map_err(Failure::other)?;
    if let Some(exporter) = exporter {
        start_exporter(&mut supervisor, exporter);
    }
    start_probes(&mut supervisor, probes_listener, &parts);
    running.ready();
    let asked_to_stop = async {
        shutdown.requested().await;
        // At once, whatever there is to be finished: nobody is to send anything new here.
        running.not_ready("stopping");
    };
    match supervisor.run(asked_to_stop).await {
        Ended::Orderly => Ok(()),
        Ended::Failed => Err(Failure::Service),
    }
}

/// What services are made of. Each gets connections of its own, which live on its own thread.
struct Parts {
    store: Option<StoreConfig>,
    queue: Option<QueueConfig>,
    keys: Option<KeyRing>,
    threads: Threads,
    metrics: Metrics,
    tracer: Tracer,
    readiness: Readiness,
}

impl Parts {
    /// The database for `service`, as the metrics name it.
    fn store(&self, service: &'static str) -> Result<Store, Failure> {
        let config = self.store.as_ref();
        let config = config.expect("the plan reads the database for whoever needs it");
        let store = Store::connect(config).map_err(Failure::other)?;
        pools::observe_store(&store, service, &self.metrics);
        Ok(store)
    }

    fn queue(&self, service: &'static str) -> Result<Queue, Failure> {
        let config = self.queue.as_ref();
        let config = config.expect("the plan reads the queue for whoever needs it");
        self.connect_queue(config, service)
    }

    fn queue_for_explanations(&self) -> Result<Option<Queue>, Failure> {
        let connect = |config: &QueueConfig| {
            let config = QueueConfig {
                pool_size: zyven_ingest::QUEUE_POOL_SIZE.min(config.pool_size),
                ..config.clone()
            };
            self.connect_queue(&config, "ingest")
        };
        self.queue.as_ref().map(connect).transpose()
    }

    fn connect_queue(&self, config: &QueueConfig, service: &'static str) -> Result<Queue, Failure> {
        let queue = Queue::connect(config).map_err(Failure::other)?;
        pools::observe_queue(&queue, service, &self.metrics);
        Ok(queue)
    }

    fn keys(&self) -> KeyRing {
        let keys = self.keys.clone();
        keys.expect("the plan reads the keys for whoever needs them")
    }
}

fn start_ingest(
    supervisor: &mut Supervisor,
    sockets: &mut Inherited,
    config: zyven_ingest::Config,
    parts: &Parts,
) -> Result<(), Failure> {
    let Listening { listener, origin } = bind(sockets, "the API", config.listen)?;
    let deps = zyven_ingest::Deps {
        store: parts.store("ingest")?,
        queue: parts.queue_for_explanations()?,
        ring: parts.keys(),
        metrics: parts.metrics.clone(),
        tracer: parts.tracer.clone(),
        readiness: parts.readiness.clone(),
        origin,
    };
    let grace = config.deadlines.grace + MARGIN;
    supervisor.start("ingest", parts.threads, grace, |shutdown| async move {
        let listener = TcpListener::from_std(listener)?;
        zyven_ingest::run(listener, config, deps, shutdown).await?;
        Ok(())
    });
    Ok(())
}

fn start_relay(
    supervisor: &mut Supervisor,
    config: zyven_relay::Config,
    parts: &Parts,
) -> Result<(), Failure> {
    let (store, queue) = (parts.store("relay")?, parts.queue("relay")?);
    let (metrics, readiness) = (parts.metrics.clone(), parts.readiness.clone());
    let run = |shutdown| async move {
        let doorbell = Doorbell::bind(config.doorbell_listen).await?;
        let dependencies = zyven_relay::Dependencies {
            store,
            queue,
            doorbell,
            metrics,
            readiness,
        };
        Box::pin(zyven_relay::run(config, dependencies, shutdown)).await;
        Ok(())
    };
    // There is one relay at work and its steps follow each other.
    supervisor.start("relay", Threads::One, RELAY_GRACE, run);
    Ok(())
}

fn start_dispatcher(
    supervisor: &mut Supervisor,
    config: zyven_dispatcher::Config,
    parts: &Parts,
) -> Result<(), Failure> {
    let deps = zyven_dispatcher::Deps {
        store: parts.store("dispatcher")?,
        queue: parts.queue("dispatcher")?,
        key_ring: parts.keys(),
        metrics: parts.metrics.clone(),
        tracer: parts.tracer.clone(),
        readiness: parts.readiness.clone(),
    };
    let grace = config.stop_time_max() + MARGIN;
    supervisor.start("dispatcher", parts.threads, grace, |shutdown| async move {
        zyven_dispatcher::run(config, deps, shutdown).await?;
        Ok(())
    });
    Ok(())
}

fn start_egress(
    supervisor: &mut Supervisor,
    sockets: &mut Inherited,
    config: zyven_egress::Config,
    parts: &Parts,
) -> Result<(), Failure> {
    let Listening { listener, .. } = bind(sockets, "the egress proxy", config.listen)?;
    let grace = config.limits.grace + MARGIN;
    let metrics = parts.metrics.clone();
    supervisor.start("egress", parts.threads, grace, |shutdown| async move {
        let listener = TcpListener::from_std(listener)?;
        zyven_egress::run(listener, config, metrics, shutdown).await?;
        Ok(())
    });
    Ok(())
}

fn start_console(
    supervisor: &mut Supervisor,
    sockets: &mut Inherited,
    config: zyven_console::Config,
    parts: &Parts,
) -> Result<(), Failure> {
    let Listening { listener, .. } = bind(sockets, "the console", config.listen)?;
    let deps = zyven_console::Deps {
        metrics: parts.metrics.clone(),
        readiness: parts.readiness.clone(),
    };
    let grace = zyven_console::GRACE + MARGIN;
    supervisor.start("console", Threads::One, grace, |shutdown| async move {
        let listener = TcpListener::from_std(listener)?;
        zyven_console::run(listener, config, deps, shutdown).await?;
        Ok(())
    });
    Ok(())
}

/// The process is ready only on the schema it was built for, and waits for it. A newer one is well, as migrations add
/// before they take away; where they have taken away what this version uses, the process ends.
fn start_schema_watch(supervisor: &mut Supervisor, parts: &Parts) -> Result<(), Failure> {
    let store = parts.store("schema_watch")?;
    let condition = parts.readiness.condition("schema");
    let run = |shutdown: Shutdown| async move {
        let (found, mut too_new) = watch::channel(None);
        let watching = pace::run("schema watch", shutdown, Backoff::default(), async || {
            match store.schema().await? {
                Schema::Fits => {
                    condition.ready();
                    return Ok::<_, StoreError>(Rest::For(SCHEMA_SEEN_REST));
                }
                Schema::Lacks(missing) => condition.not_ready(format!(
                    "run zyven migrate; missing: {}",
                    missing.join(", ")
                )),
                Schema::TooNew { needed } => {
                    condition.not_ready("the database is too new for this version");
                    found.send_replace(Some(needed));
                }
            }
            Ok(Rest::For(SCHEMA_MISSING_REST))
        });
        tokio::select! {
            () = watching => Ok(()),
            needed = too_new.wait_for(Option::is_some) => {
                let needed = needed.ok().and_then(|needed| needed.clone()).unwrap_or_default();
                Err(format!(
                    "the database is too new for this version: it needs one that knows migration {needed}; see docs/operations/upgrading.md"
                )
                .into())
            }
        }
    };
    supervisor.start("schema watch", Threads::One, PROBES_GRACE, run);
    Ok(())
}

/// Every delivery in hand takes a socket, and every tunnel two; the usual soft limit is 1,024.
fn raise_open_files_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if files < OPEN_FILES_WANTED => tracing::warn!(
            files,
            wanted = OPEN_FILES_WANTED,
            "the limit of open files is low: connections beyond it wait"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Started behind all that makes spans, so it stops when no more come.
fn start_exporter(supervisor: &mut Supervisor, exporter: Exporter) {
    let run = |shutdown| async move {
        exporter.run(shutdown).await;
        Ok(())
    };
    let grace = traces::FLUSH_TIME_MAX + MARGIN;
    supervisor.start("traces", Threads::One, grace, run);
}

fn start_probes(supervisor: &mut Supervisor, socket: Listening, parts: &Parts) {
    let listener = socket.listener;
    let (readiness, metrics) = (parts.readiness.clone(), parts.metrics.clone());
    let run = |shutdown| async move {
        let listener = TcpListener::from_std(listener)?;
        probes::run(listener, readiness, metrics, shutdown).await?;
        Ok(())
    };
    supervisor.start("probes", Threads::One, PROBES_GRACE, run);
}

/// Listens already, so that a taken port is reported before anything is started.
fn bind(sockets: &mut Inherited, what: &str, address: SocketAddr) -> Result<Listening, Failure> {
    sockets
        .listen(address)
        .map_err(|error| Failure::Plain(format!("cannot listen for {what} on {address}: {error}")))
}
