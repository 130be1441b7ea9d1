//! A Redis server of the test's own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::child::{self, Signal};
use crate::environment::{Folder, free_address, machine};
use crate::postgres::through;
use crate::tls::TestCa;
use crate::wait::wait_until;

/// Servers start within some 10 ms; a loaded machine gets the benefit of the doubt.
const START_MAX: Duration = Duration::from_secs(30);
/// For a link between servers, or a change of roles, on a loaded machine.
const INFO_PATIENCE: Duration = Duration::from_secs(90);
/// How often another port is tried when somebody was faster.
const PORTS_TRIED_MAX: u32 = 20;

/// A Redis server that belongs to one test. Ends when dropped.
#[derive(Debug)]
pub struct TestRedis {
    child: Option<Child>,
    address: SocketAddr,
    /// What it is started with besides where it listens and what it keeps.
    options: Vec<String>,
    tls: Option<SocketAddr>,
    folder: Folder,
}

impl TestRedis {
    /// A server that keeps everything in memory: it comes back empty from [`TestRedis::restart`].
    pub async fn start() -> TestRedis {
        TestRedis::start_with(&[]).await
    }

    /// A server with an append-only file, synced at every write: it comes back with what it had.
    pub async fn start_append_only() -> TestRedis {
        TestRedis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// A server with options of the test's choice, as on its command line.
    pub async fn start_with(options: &[&str]) -> TestRedis {
        TestRedis::launch(Folder::new("redis"), options, None).await
    }

    /// A server that speaks TLS at [`TestRedis::tls_url`], with a certificate of this authority, and wants one of it
    /// from its clients. The test itself arranges and looks without TLS.
    pub async fn start_tls(authority: &TestCa) -> TestRedis {
        let folder = Folder::new("redis");
        let certificate = authority.server_certificate(&["localhost", "127.0.0.1"]);
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the test's own folder can be written");
            path.to_string_lossy().into_owned()
        };
        let address = free_address();
        let options = [
            ("--tls-port", address.port().to_string()),
            ("--tls-cert-file", file("cert", certificate.certificate_pem)),
            ("--tls-key-file", file("key", certificate.private_key_pem)),
            (
                "--tls-ca-cert-file",
                file("ca", authority.certificate_pem()),
            ),
        ];
        let options: Vec<&str> = (options.iter())
            .flat_map(|(name, value)| [*name, value])
            .collect();
        TestRedis::launch(folder, &options, Some(address)).await
    }

    async fn launch(folder: Folder, options: &[&str], tls: Option<SocketAddr>) -> TestRedis {
        let mut server = TestRedis {
            child: None,
            address: free_address(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            tls,
            folder,
        };
        for _ in 0..PORTS_TRIED_MAX {
            if server.try_start().await {
                return server;
            }
            server.address = free_address();
        }
        panic!("Redis does not start:\n{}", server.log());
    }

    /// URL for clients; the same after every restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// URL of a server that was started with [`TestRedis::start_tls`].
    ///
    /// # Panics
    ///
    /// When it was not.
    #[must_use]
    pub fn tls_url(&self) -> String {
        let address = self.tls.expect("it was started with TLS");
        format!("rediss://localhost:{}/", address.port())
    }

    /// The same server by way of another address: a [`crate::ChaosProxy`] in front of [`TestRedis::address`].
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        through(&self.url(), address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder it keeps its files in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection of its own, to arrange and to look.
    pub async fn connection(&self) -> MultiplexedConnection {
        connect(&self.url())
            .await
            .unwrap_or_else(|error| panic!("cannot connect to the test's Redis: {error}"))
    }

    /// FLUSHALL: the server forgets everything, scripts stay loaded.
    pub async fn flush(&self) {
        self.command(&["FLUSHALL"]).await;
    }

    /// Any command, which must succeed.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        let answer = self.try_command(words).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Any command.
    ///
    /// # Errors
    ///
    /// The server is away, or refuses.
    pub async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = connect(&self.url()).await?;
        // Emptying a server of a million keys takes its time.
        connection.set_response_timeout(START_MAX);
        redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut connection)
            .await
    }

    /// Returns when INFO has this text in that section. A server whose role changes drops its connections, so a
    /// failure is looked over.
    pub async fn wait_for_info(&self, section: &str, text: &str) {
        wait_until(&format!("INFO has {text}"), INFO_PATIENCE, async || {
            let info = self.info(section).await?;
            if info.contains(text) {
                Ok(())
            } else {
                Err(info)
            }
        })
        .await;
    }

    /// A section of INFO.
    ///
    /// # Errors
    ///
    /// The server is away.
    pub async fn info(&self, section: &str) -> Result<String, String> {
        let answer = self.try_command(&["INFO", section]).await;
        let text = answer.and_then(|answer| Ok(redis::from_redis_value::<String>(answer)?));
        text.map_err(|error| error.to_string())
    }
    /// Whether it was started and not killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL, as the out-of-memory killer does it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child::end(&mut child);
        }
    }

    /// Kills it if it runs, and starts it again at the same address; empty unless append-only.
    pub async fn restart(&mut self) {
        self.kill();
        assert!(
            self.try_start().await,
            "Redis does not start again:\n{}",
            self.log()
        );
    }

    /// SIGSTOP: connections stay open and nothing is answered until [`TestRedis::thaw`].
    pub fn freeze(&mut self) {
        self.signal(Signal::Freeze);
    }

    /// Goes on after [`TestRedis::freeze`].
    pub fn thaw(&mut self) {
        self.signal(Signal::Thaw);
    }

    fn signal(&mut self, signal: Signal) {
        child::send(self.child.as_mut().expect("the test's Redis runs"), signal);
    }

    /// Returns whether it came up; it does not when somebody took the port.
    async fn try_start(&mut self) -> bool {
        let log = File::create(self.folder.path().join("log"))
            .expect("the test's own folder can be written");
        let mut command = Command::new(&machine().redis_server);
        command.args([
            "--port",
            &self.address.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]);
        command.arg("--dir").arg(self.folder.path());
        command.args(&self.options);
        command.stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let mut child =
            child::start(command).unwrap_or_else(|error| panic!("cannot start Redis: {error}"));

        let url = self.url();
        let pid = child.id();
        let came_up = wait_until("Redis answers or gives up", START_MAX, async || {
            if let Ok(Some(_status)) = child.try_wait() {
                return Ok(false);
            }
            process_id(&url).await.map(|answering| answering == pid)
        })
        .await;
        if came_up {
            self.child = Some(child);
        } else {
            child::end(&mut child);
        }
        came_up
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The library's own patience is half a second, in which a busy machine may not have emptied an append-only Redis.
pub(crate) async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(START_MAX))
        .set_response_timeout(Some(START_MAX));
    redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&patient)
        .await
}

/// Who serves at that address: another test's server may have been faster to take the port. A server that still
/// loads its file answers INFO but not PING.
pub(crate) async fn process_id(url: &str) -> Result<u32, String> {
    let asked = async {
        let mut connection = connect(url).await?;
        let () = redis::cmd("PING").query_async(&mut connection).await?;
        redis::cmd("INFO")
            .arg("server")
            .query_async::<String>(&mut connection)
            .await
    };
    let info = asked.await.map_err(|error| error.to_string())?;
    info.lines()
        .find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok())
        .ok_or_else(|| format!("no process id in {info}"))
}
