//! A whole stack of real processes, with something that can break between every two of them.

mod asking;
mod disturbing;
mod process;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;
use zyven_testkit::{
    Binary, ChaosProxy, Postgres, Receiver, TestDatabase, TestRedis, free_address, wait_until,
};

use crate::history::{History, Trouble};
use crate::service::{Link, Service};
use process::Process;

/// How long anything may take that a healthy machine does within a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// Given to every process that asks for it; worth nothing beyond loopback.
const MASTER_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const CREDENTIAL: &str = "correct-horse-battery-staple";

/// Whether Redis comes back with what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisKind {
    /// A killed Redis comes back empty.
    InMemory,
    /// With an append-only file, synced at every write.
    AppendOnly,
}

/// What a fleet consists of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many of each service, in the order of [`Service::ALL`].
    pub processes: [usize; 4],
    /// How Redis keeps things.
    pub redis: RedisKind,
    /// Further settings of PostgreSQL, such as `"wal_writer_delay=10s"`. `fsync` is on already.
    pub postgres: Vec<String>,
    /// Further settings of every process, by name.
    pub settings: Vec<(String, String)>,
    /// Whether the API's listening sockets outlive its processes, as with a socket unit of systemd: who connects while
    /// one process has gone and the next has not come waits.
    pub keeps_sockets: bool,
    /// The program, if it is not the one built beside this one.
    pub binary: Option<Binary>,
}

impl Default for Shape {
    /// One of each, on a Redis that comes back empty.
    fn default() -> Self {
        Self {
            processes: [1; 4],
            redis: RedisKind::InMemory,
            postgres: Vec::new(),
            settings: Vec::new(),
            keeps_sockets: false,
            binary: None,
        }
    }
}

impl Shape {
    /// So many of one service.
    #[must_use]
    pub fn with_many(mut self, service: Service, count: usize) -> Self {
        self.processes[service as usize] = count;
        self
    }

    /// A setting for every process.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// An endpoint at the fleet's receiver.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `ep_…`
    pub id: String,
    /// The path at the receiver.
    pub path: String,
    /// `whsec_…`
    pub secret: String,
    /// `*` or exact types.
    pub event_types: Vec<String>,
}

/// Processes, servers, links and a receiver. Everything ends when it is dropped.
///
/// Processes are named by service and index; the index says which of several.
pub struct Fleet {
    processes: Vec<Process>,
    links: BTreeMap<Link, Vec<ChaosProxy>>,
    /// Where deliveries go, through [`Link::EgressReceiver`].
    pub receiver: Receiver,
    /// Redis. Disturb it through the fleet, so that the history knows.
    pub redis: TestRedis,
    history: History,
    binary: Binary,
    key: String,
    http: reqwest::Client,
    // Last: dropped when nobody is connected any more.
    database: TestDatabase,
    postgres: Postgres,
}

impl Fleet {
    /// Starts everything and returns when every process is ready.
    ///
    /// # Panics
    ///
    /// When something does not start.
    pub async fn start(shape: &Shape) -> Self {
        let mut settings = vec!["fsync=on", "full_page_writes=on"];
        settings.extend(shape.postgres.iter().map(String::as_str));
        let postgres = Postgres::private_with(&settings).await;
        let database = postgres.database().await;
        let redis = match shape.redis {
            RedisKind::InMemory => TestRedis::start().await,
            RedisKind::AppendOnly => TestRedis::start_append_only().await,
        };
        let receiver = Receiver::start().await;
        let mut binary = shape.binary.clone().unwrap_or_else(Binary::find);
        binary = binary
            .with("ZYVEN_DATABASE_URL", database.url())
            .with("ZYVEN_MASTER_KEYS", MASTER_KEYS)
            .with("ZYVEN_EGRESS_CREDENTIAL", CREDENTIAL)
            .with("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8")
            // Lines about single requests would fill the memory of an hour's run.
            .with("ZYVEN_LOG", "warn");
        let key = create_tenant(&binary).await;
        let mut fleet = Self {
            processes: Vec::new(),
            links: BTreeMap::new(),
            receiver,
            redis,
            history: History::default(),
            binary,
            key,
            http: client(),
            database,
            postgres,
        };
        fleet.lay_out(shape).await;
        for (service, index) in fleet.names() {
            fleet.restart(service, index);
        }
        for (service, index) in fleet.names() {
            fleet.wait_until_ready(service, index).await;
        }
        fleet
    }

    /// Addresses, links and settings; nothing runs yet.
    async fn lay_out(&mut self, shape: &Shape) {
        let listening = |service| -> Vec<SocketAddr> {
            let count = shape.processes[service as usize];
            (0..count).map(|_| free_address()).collect()
        };
        let [ingests, relays, egresses] =
            [Service::Ingest, Service::Relay, Service::Egress].map(listening);
        for (link, targets) in [
            (Link::ClientIngest, ingests.clone()),
            (Link::IngestPostgres, vec![self.postgres.address()]),
            (Link::RelayPostgres, vec![self.postgres.address()]),
            (Link::DispatcherPostgres, vec![self.postgres.address()]),
            (Link::RelayRedis, vec![self.redis.address()]),
            (Link::DispatcherRedis, vec![self.redis.address()]),
            (Link::DispatcherEgress, egresses.clone()),
            (Link::EgressReceiver, vec![self.receiver.address()]),
        ] {
            let mut proxies = Vec::new();
            for target in targets {
                proxies.push(ChaosProxy::start(target).await);
            }
            self.links.insert(link, proxies);
        }
        let sockets: Vec<TcpListener> = if shape.keeps_sockets {
            let bound = ingests.iter().map(TcpListener::bind);
            bound.map(|bound| bound.expect("a free port")).collect()
        } else {
            Vec::new()
        };
        let mut sockets = sockets.into_iter();
        let doorbells = joined(relays.iter().copied());
        let proxies = joined(self.addresses(Link::DispatcherEgress));
        for service in Service::ALL {
            for index in 0..shape.processes[service as usize] {
                let mut binary = self.binary.clone();
                for (link, name) in [
                    (postgres_link(service), "ZYVEN_DATABASE_URL"),
                    (redis_link(service), "ZYVEN_REDIS_URL"),
                ] {
                    let Some(address) = link.and_then(|link| self.addresses(link).next()) else {
                        continue;
                    };
                    let url = match name {
                        "ZYVEN_REDIS_URL" => self.redis.url_through(address),
                        _ => self.database.url_through(address),
                    };
                    binary = binary.with(name, url);
                }
                let own = match service {
                    Service::Ingest => vec![
                        ("ZYVEN_INGEST_LISTEN", ingests[index].to_string()),
                        ("ZYVEN_RELAY_DOORBELLS", doorbells.clone()),
                    ],
                    Service::Relay => {
                        vec![("ZYVEN_RELAY_DOORBELL_LISTEN", relays[index].to_string())]
                    }
                    Service::Dispatcher => vec![("ZYVEN_EGRESS_PROXIES", proxies.clone())],
                    Service::Egress => vec![("ZYVEN_EGRESS_LISTEN", egresses[index].to_string())],
                };
                for (name, value) in own {
                    binary = binary.with(name, value);
                }
                if service == Service::Ingest
                    && let Some(socket) = sockets.next()
                {
                    binary = binary.listening_on(socket);
                }
                for (name, value) in &shape.settings {
                    binary = binary.with(name, value);
                }
                self.processes.push(Process::new(service, index, binary));
            }
        }
    }

    fn names(&self) -> Vec<(Service, usize)> {
        let names = self.processes.iter().map(|one| (one.service, one.index));
        names.collect()
    }

    /// How many processes of a service there are.
    #[must_use]
    pub fn count(&self, service: Service) -> usize {
        let processes = self.processes.iter();
        processes.filter(|one| one.service == service).count()
    }

    // Processes ---------------------------------------------------------------------------------

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self, service: Service, index: usize) {
        self.history.began(Trouble::Killed(service, index));
        self.process(service, index).kill().await;
    }

    /// SIGTERM; it goes on until it has finished its business.
    pub fn ask_to_end(&mut self, service: Service, index: usize) {
        self.history.began(Trouble::Terminated(service, index));
        self.process(service, index).ask_to_end();
    }

    /// SIGTERM, and waits until it has ended. Returns its exit code and the time it took.
    ///
    /// # Panics
    ///
    /// When it does not end within `deadline`.
    pub async fn terminate(
        &mut self,
        service: Service,
        index: usize,
        deadline: Duration,
    ) -> (Option<i32>, Duration) {
        let asked_at = Instant::now();
        self.ask_to_end(service, index);
        let status = self.process(service, index).ended(deadline).await;
        let status = status.unwrap_or_else(|| panic!("{service} {index} does not end"));
        (status.code(), asked_at.elapsed())
    }

    /// Starts it, and kills it before that if it runs. Does not wait until it is ready.
    pub fn restart(&mut self, service: Service, index: usize) {
        self.restart_with(service, index, &[]);
    }

    /// The same, with settings for this time only.
    pub fn restart_with(&mut self, service: Service, index: usize, settings: &[(&str, &str)]) {
        self.process(service, index).start(settings);
        self.history.ended(Trouble::Killed(service, index));
        self.history.ended(Trouble::Terminated(service, index));
        self.history.ended(Trouble::Frozen(service, index));
    }

    /// SIGSTOP: stopped amid whatever it does, sockets open.
    pub fn freeze(&mut self, service: Service, index: usize) {
        self.history.began(Trouble::Frozen(service, index));
        self.process(service, index).freeze();
    }

    /// SIGCONT; harmless when it runs.
    pub fn thaw(&mut self, service: Service, index: usize) {
        self.process(service, index).thaw();
        self.history.ended(Trouble::Frozen(service, index));
    }

    /// Waits until it ends by itself, and returns its exit status: for a process that is to abort, or was asked to
    /// end. `None` if it does not within `deadline`.
    pub async fn ended(
        &mut self,
        service: Service,
        index: usize,
        deadline: Duration,
    ) -> Option<ExitStatus> {
        let status = self.process(service, index).ended(deadline).await?;
        self.history.began(Trouble::Killed(service, index));
        Some(status)
    }

    /// Waits until its readiness probe says yes.
    ///
    /// # Panics
    ///
    /// When it ends instead, or takes longer than a minute.
    pub async fn wait_until_ready(&mut self, service: Service, index: usize) {
        let http = self.http.clone();
        let process = self.process(service, index);
        let url = format!("http://{}/readyz", process.probe);
        wait_until(
            &format!("{service} {index} is ready"),
            PATIENCE,
            async || {
                assert!(
                    process.is_running(),
                    "{service} {index} ended:\n{}",
                    process.said()
                );
                match http.get(&url).send().await {
                    Ok(answer) if answer.status().is_success() => Ok(()),
                    Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            },
        )
        .await;
    }

    /// The memory of each running process that is resident, by service.
    #[must_use]
    pub fn memory_kib(&self) -> Vec<(Service, u64)> {
        let processes = self.processes.iter();
        processes
            .filter_map(|one| Some((one.service, one.memory_kib()?)))
            .collect()
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self, service: Service, index: usize) -> Option<u32> {
        let mut processes = self.processes.iter();
        processes
            .find(|one| one.service == service && one.index == index)
            .and_then(Process::id)
    }

    /// What a process has said on standard error, in all its lives.
    #[must_use]
    pub fn said(&self, service: Service, index: usize) -> String {
        let mut processes = self.processes.iter();
        processes
            .find(|one| one.service == service && one.index == index)
            .map(Process::said)
            .unwrap_or_default()
    }

    /// Writes what everybody has said into files of this folder, for a reader who has to find out what happened.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn write_logs(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for process in &self.processes {
            let name = format!("{}-{}.log", process.service, process.index);
            std::fs::write(folder.join(name), process.said())?;
        }
        std::fs::write(folder.join("postgres.log"), self.postgres.log())
    }

    /// Waits until a process that was started listens for signals; one that ends meanwhile is left alone.
    pub async fn wait_until_begun(&mut self, service: Service, index: usize) {
        let process = self.process(service, index);
        let began = Instant::now();
        while process.is_running() && began.elapsed() < PATIENCE {
            if TcpStream::connect(process.probe).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Processes that should run and do not, with what they said last. Each is told once.
    pub fn ended_unasked(&mut self) -> Vec<String> {
        let ended = self.processes.iter_mut().filter_map(|process| {
            let is_well = process.is_running() || process.was_ended;
            process.was_ended |= !is_well;
            let (service, index) = (process.service, process.index);
            (!is_well).then(|| format!("{service} {index} has ended unasked:\n{}", process.said()))
        });
        ended.collect()
    }

    fn process(&mut self, service: Service, index: usize) -> &mut Process {
        let mut processes = self.processes.iter_mut();
        processes
            .find(|one| one.service == service && one.index == index)
            .unwrap_or_else(|| panic!("there is no {service} {index}"))
    }
}

fn postgres_link(service: Service) -> Option<Link> {
    match service {
        Service::Ingest => Some(Link::IngestPostgres),
        Service::Relay => Some(Link::RelayPostgres),
        Service::Dispatcher => Some(Link::DispatcherPostgres),
        Service::Egress => None,
    }
}

fn redis_link(service: Service) -> Option<Link> {
    match service {
        Service::Relay => Some(Link::RelayRedis),
        Service::Dispatcher => Some(Link::DispatcherRedis),
        Service::Ingest | Service::Egress => None,
    }
}

fn joined(addresses: impl Iterator<Item = SocketAddr>) -> String {
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    addresses.join(",")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client without special wishes can be made")
}

async fn create_tenant(binary: &Binary) -> String {
    let tenant = binary
        .run(["admin", "create-tenant", "chaos", "--json"], PATIENCE)
        .await
        .expect_success();
    let tenant: Value = serde_json::from_str(&tenant).expect("JSON");
    tenant["api_key"].as_str().expect("a key").to_owned()
}
