//! A whole stack for one test: the program as real processes, servers of its own, and a receiver.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use zyven_testkit::{Binary, Receiver, Running, TestDatabase, TestRedis, wait_until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Stack {
    pub(crate) api: String,
    pub(crate) key: String,
    pub(crate) receiver: Receiver,
    pub(crate) redis: TestRedis,
    pub(crate) binary: Binary,
    pub(crate) processes: Vec<(&'static str, Running)>,
    pub(crate) http: reqwest::Client,
    probes: Vec<(&'static str, u16)>,
    // Last: dropped when nobody is connected any more.
    pub(crate) database: TestDatabase,
}

/// How the services are spread over processes.
#[derive(Clone, Copy)]
pub(crate) enum Spread {
    OneProcess,
    ProcessEach,
}

impl Stack {
    pub(crate) async fn start(spread: Spread) -> Self {
        Self::start_with(spread, &[]).await
    }

    /// A stack with further settings.
    pub(crate) async fn start_with(spread: Spread, settings: &[(&str, &str)]) -> Self {
        Self::start_on(TestDatabase::new().await, spread, settings).await
    }

    /// A stack on a database of the test's choice; a setting may lead to another Redis as well.
    pub(crate) async fn start_on(
        database: TestDatabase,
        spread: Spread,
        settings: &[(&str, &str)],
    ) -> Self {
        let redis = TestRedis::start().await;
        let [api, doorbell, egress] = [free_port(), free_port(), free_port()];
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let mut binary = Binary::find()
            .with("ZYVEN_DATABASE_URL", database.url())
            .with("ZYVEN_REDIS_URL", redis.url())
            .with(
                "ZYVEN_MASTER_KEYS",
                "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            )
            .with("ZYVEN_EGRESS_CREDENTIAL", "correct-horse-battery-staple")
            .with("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8")
            .with("ZYVEN_INGEST_LISTEN", loopback(api))
            .with("ZYVEN_RELAY_DOORBELLS", loopback(doorbell))
            .with("ZYVEN_RELAY_DOORBELL_LISTEN", loopback(doorbell))
            .with("ZYVEN_EGRESS_LISTEN", loopback(egress))
            .with("ZYVEN_EGRESS_PROXIES", loopback(egress));
        for (name, value) in settings {
            binary = binary.with(name, value);
        }
        let key = create_tenant(&binary, "test").await;
        let services: &[&str] = match spread {
            Spread::OneProcess => &["all"],
            Spread::ProcessEach => &["egress", "dispatcher", "relay", "ingest"],
        };
        let mut stack = Self {
            api: format!("http://{}", loopback(api)),
            key,
            receiver: Receiver::start().await,
            redis,
            binary,
            processes: Vec::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(20))
                .build()
                .expect("a client"),
            probes: services.iter().map(|name| (*name, free_port())).collect(),
            database,
        };
        for name in services {
            stack.start_service(name);
        }
        for name in services {
            stack.wait_until_ready(name).await;
        }
        stack
    }

    /// Makes a further tenant and returns its key.
    pub(crate) async fn other_tenant(&self, name: &str) -> String {
        create_tenant(&self.binary, name).await
    }

    pub(crate) fn start_service(&mut self, name: &'static str) {
        let probe = format!("127.0.0.1:{}", self.probe_port(name));
        let binary = self.binary.clone().with("ZYVEN_PROBE_LISTEN", probe);
        self.processes.push((name, binary.start([name])));
    }

    /// Starts a further process of a service, with settings of its own, and waits until it is ready.
    pub(crate) async fn start_another(&mut self, name: &'static str, settings: &[(&str, &str)]) {
        self.probes.push((name, free_port()));
        let usual = self.binary.clone();
        for (setting, value) in settings {
            self.binary = self.binary.clone().with(setting, value);
        }
        self.start_service(name);
        self.binary = usual;
        self.wait_until_ready(name).await;
    }

    /// Ends a service in an orderly way and starts it again, from another program if one is given.
    pub(crate) async fn replace_service(&mut self, name: &'static str, with: Option<Binary>) {
        let mut old = self.take_process(name);
        old.terminate();
        let _ = old.ended(PATIENCE * 2).await;
        let probe = format!("127.0.0.1:{}", self.probe_port(name));
        let binary = with.unwrap_or_else(|| self.binary.clone());
        let binary = binary.with("ZYVEN_PROBE_LISTEN", probe);
        self.processes.push((name, binary.start([name])));
        self.wait_until_ready(name).await;
    }

    fn probe_port(&self, name: &str) -> u16 {
        // The latest, if there are several.
        let mut probes = self.probes.iter().rev();
        let probe = probes.find(|(service, _)| *service == name);
        probe.expect("a service of this stack").1
    }

    /// Where the process that runs `name` answers this probe.
    pub(crate) fn probe_url(&self, name: &str, probe: &str) -> String {
        format!("http://127.0.0.1:{}/{probe}", self.probe_port(name))
    }

    pub(crate) async fn wait_until_ready(&mut self, name: &'static str) {
        let url = self.probe_url(name, "readyz");
        let http = self.http.clone();
        let (_, process) = self
            .processes
            .iter_mut()
            .rfind(|(service, _)| *service == name)
            .expect("it was started");
        wait_until(&format!("{name} is ready"), PATIENCE, async || {
            assert!(process.is_running(), "{name} ended:\n{}", process.stderr());
            match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// What `/readyz` of a service says is missing; empty when it is ready.
    ///
    /// # Errors
    ///
    /// It does not answer: the process has just been started, or ended.
    pub(crate) async fn missing(&self, name: &str) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}/readyz", self.probe_port(name));
        let asked = async { self.http.get(&url).send().await?.json::<Value>().await };
        let body = asked.await.map_err(|error| error.to_string())?;
        Ok(body["missing"].clone())
    }

    /// All that a service says at /metrics.
    pub(crate) async fn metrics(&self, name: &str) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.probe_port(name));
        let answer = self.http.get(&url).send().await.expect("the probes answer");
        answer.text().await.expect("text")
    }

    /// A metric's value, named with its labels.
    pub(crate) async fn metric(&self, name: &str, metric: &str) -> f64 {
        let text = self.metrics(name).await;
        let line = (text.lines()).find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {metric} in:\n{text}"))
            .parse()
            .expect("a number")
    }

    /// The process that runs `name`.
    pub(crate) fn process(&mut self, name: &str) -> &mut Running {
        let found = self
            .processes
            .iter_mut()
            .rfind(|(service, _)| *service == name);
        &mut found.expect("a service of this stack").1
    }

    /// Takes the process out of the stack, to see it end.
    pub(crate) fn take_process(&mut self, name: &str) -> Running {
        let index = self
            .processes
            .iter()
            .rposition(|(service, _)| *service == name)
            .expect("a service of this stack");
        self.processes.remove(index).1
    }

    /// Calls the API and returns status and body.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call_as(&self.key, method, path, body).await
    }

    /// Calls the API with another key.
    pub(crate) async fn call_as(
        &self,
        key: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.api))
            .bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Makes an endpoint at the receiver's `path`; returns it, with its secret.
    pub(crate) async fn endpoint(&self, path: &str, more: Value) -> Value {
        let mut endpoint = json!({ "url": self.receiver.url(path), "event_types": ["*"] });
        for (name, value) in more.as_object().expect("members") {
            endpoint[name] = value.clone();
        }
        let (status, made) = self.call("POST", "/v1/endpoints", Some(endpoint)).await;
        assert_eq!(status, 201, "{made}");
        made
    }

    /// Publishes an event and returns its id.
    pub(crate) async fn publish(&self, event_type: &str, payload: Value) -> String {
        let event = json!({ "type": event_type, "payload": payload });
        let (status, accepted) = self.call("POST", "/v1/events", Some(event)).await;
        assert_eq!(status, 202, "{accepted}");
        accepted["id"].as_str().expect("an id").to_owned()
    }

    /// The event's only delivery as SQL shows it: state, attempts, reason.
    pub(crate) async fn delivery(&self, event: &str) -> (String, i32, Option<String>) {
        let sql = self.database.client().await;
        let row = sql
            .query_one(
                "SELECT state::text, attempts, reason FROM zyven.deliveries
                  WHERE event_id = zyven.untyped_id('evt', $1)",
                &[&event],
            )
            .await
            .expect("one delivery");
        (row.get(0), row.get(1), row.get(2))
    }

    pub(crate) async fn wait_for_state(&self, event: &str, state: &str) {
        let description = format!("{event} is {state}");
        wait_until(&description, PATIENCE, async || {
            let delivery = self.delivery(event).await;
            if delivery.0 == state {
                Ok(())
            } else {
                Err(delivery)
            }
        })
        .await;
    }

    /// Nothing is unfinished, and no row breaks an invariant.
    pub(crate) async fn assert_settled(&self) {
        let sql = self.database.client().await;
        wait_until("the outbox is empty", PATIENCE, async || {
            let row = sql
                .query_one("SELECT count(*) FROM zyven.outbox", &[])
                .await;
            let rows: i64 = row.expect("a count").get(0);
            if rows == 0 { Ok(()) } else { Err(rows) }
        })
        .await;
        let checked = self.binary.run(["admin", "check"], PATIENCE).await;
        assert!(checked.expect_success().contains("every invariant holds"));
    }
}

async fn create_tenant(binary: &Binary, name: &str) -> String {
    let tenant = binary
        .run(
            ["admin", "create-tenant", name, "--again", "--json"],
            PATIENCE,
        )
        .await
        .expect_success();
    let tenant: Value = serde_json::from_str(&tenant).expect("JSON");
    tenant["api_key"].as_str().expect("a key").to_owned()
}

/// A port nobody listens on, below the range from which outgoing connections take theirs, so that a
/// restarted service finds it free again.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let serial = std::process::id().wrapping_mul(37) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + u16::try_from(serial % 8_000).expect("below 8000");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return port;
        }
    }
}
