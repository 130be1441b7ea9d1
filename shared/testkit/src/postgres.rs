//! Private PostgreSQL servers, and a database per test.

mod copies;
mod database;

use std::fs::{File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};
use url::Url;

use crate::child::{self, Signal};
use crate::disk::SmallDisk;
use crate::environment::{Folder, free_address, machine, repository, setting, test_services};
use crate::tls::TestCa;
use crate::wait::wait_until;

pub use copies::BaseBackup;
pub use database::TestDatabase;
use database::{Afterwards, Contents};

/// Servers start within a second; a loaded machine gets the benefit of the doubt.
const START_MAX: Duration = Duration::from_secs(60);
/// Password of private servers: their port is open to everybody on this machine for as long as the test runs.
const PASSWORD: &str = "private-to-one-test";

/// A PostgreSQL server of the test's own, which may be stopped, killed and restarted. Ends when dropped.
///
/// It takes about a second to make; a test that wants nothing but a database uses [`TestDatabase::new`].
#[derive(Debug)]
pub struct Postgres {
    child: Option<Child>,
    address: SocketAddr,
    settings: Vec<String>,
    folder: Folder,
    /// What its files lie on beside its folder. After it, so that nobody uses the disk when it goes.
    _disk: Option<Arc<SmallDisk>>,
}

/// Which of a server's files lie on a [`SmallDisk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisk {
    /// Everything but the write-ahead log.
    Data,
    /// The write-ahead log.
    Log,
}

/// How a server is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions may go on; no new ones are let in. It ends with the last of them.
    Smart,
    /// Sessions are cut, everything is written.
    Fast,
    /// Everything is dropped at once; recovery runs at the next start.
    Immediate,
}

impl Postgres {
    /// A new server. `fsync` is off, which a killed server does not notice: only a dying machine loses what the
    /// operating system has taken.
    pub async fn private() -> Postgres {
        Postgres::private_with(&[]).await
    }

    /// A new server with settings of its own, such as `"max_connections=8"` or `"fsync=on"`.
    pub async fn private_with(settings: &[&str]) -> Postgres {
        let folder = Folder::new("postgres");
        initialise(&folder.path().join("data"), None, folder.path());
        Postgres::start(folder, None, settings).await
    }

    /// A new server that speaks TLS to whoever asks for it, with a certificate of this authority for these names, and looks at
    /// the certificates of clients that show one.
    pub async fn private_with_tls(authority: &TestCa, names: &[&str]) -> Postgres {
        let folder = Folder::new("postgres");
        initialise(&folder.path().join("data"), None, folder.path());
        let certificate = authority.server_certificate(names);
        let mut settings = vec!["ssl=on".to_owned()];
        for (setting, text) in [
            ("ssl_cert_file", certificate.certificate_pem),
            ("ssl_key_file", certificate.private_key_pem),
            ("ssl_ca_file", authority.certificate_pem()),
        ] {
            let path = folder.path().join(setting);
            owned_by_server(&path, &text);
            settings.push(format!("{setting}={}", path.display()));
        }
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Postgres::start(folder, None, &settings).await
    }

    /// A new server with part of its files on a disk that can be filled up.
    pub async fn private_on(disk: Arc<SmallDisk>, what: OnDisk, settings: &[&str]) -> Postgres {
        let folder = Folder::new("postgres");
        let (here, there) = (folder.path(), disk.path());
        match what {
            OnDisk::Data => {
                initialise(&there.join("data"), Some(&here.join("log-files")), here);
                std::os::unix::fs::symlink(there.join("data"), here.join("data"))
                    .expect("a link can be made in a folder of our own");
            }
            OnDisk::Log => {
                initialise(&here.join("data"), Some(&there.join("log-files")), here);
            }
        }
        Postgres::start(folder, Some(disk), settings).await
    }

    /// Starts what lies initialised in `folder`.
    async fn start(folder: Folder, disk: Option<Arc<SmallDisk>>, settings: &[&str]) -> Postgres {
        let mut settings_all = vec!["fsync=off".to_owned(), "full_page_writes=off".to_owned()];
        settings_all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let mut server = Postgres {
            child: None,
            address: free_address(),
            settings: settings_all,
            folder,
            _disk: disk,
        };
        server.restart().await;
        server
    }

    /// A setting for its next start; the last word on a name counts.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// URL of the superuser and the maintenance database.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("postgres://zyven:{PASSWORD}@{}/postgres", self.address)
    }

    /// Where it listens; the same after every restart.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A database on this server, with every migration applied.
    pub async fn database(&self) -> TestDatabase {
        TestDatabase::create(
            &self.admin_url(),
            Contents::Migrated,
            Afterwards::LeaveToServer,
        )
        .await
    }

    /// Ends it as an operator would (fast shutdown): sessions are cut, everything is written.
    pub async fn stop(&mut self) {
        self.end_with(Signal::Interrupt).await;
    }

    /// Asks it to end and does not wait for that; see [`Postgres::ended`].
    pub fn ask_to_stop(&mut self, how: Stop) {
        let Some(child) = &mut self.child else {
            return;
        };
        let signal = match how {
            Stop::Smart => Signal::Terminate,
            Stop::Fast => Signal::Interrupt,
            Stop::Immediate => Signal::Quit,
        };
        child::send(child, signal);
    }

    /// Waits until it has ended: it was asked to, or it gave up by itself.
    pub async fn ended(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        wait_until("PostgreSQL has ended", START_MAX, async || {
            child
                .try_wait()
                .expect("our own child can be waited for")
                .is_some()
        })
        .await;
    }

    /// SIGKILL. Its sessions die at once, recovery runs at the next [`Postgres::restart`].
    pub async fn kill(&mut self) {
        self.end_with(Signal::Kill).await;
    }

    /// Immediate shutdown: every process of the server ends at once and writes nothing more, so that what was
    /// committed asynchronously a moment ago is forgotten. Recovery runs at the next [`Postgres::restart`].
    pub async fn stop_at_once(&mut self) {
        self.end_with(Signal::Quit).await;
    }

    /// Starts it again, same address, same data, and returns when it takes connections.
    pub async fn restart(&mut self) {
        self.stop().await;
        let url = self.admin_url();
        let log = self.folder.path().join("log");
        let deadline = std::time::Instant::now() + START_MAX;
        loop {
            let mut child = self.launch(&log);
            let came_up = wait_until("PostgreSQL answers or gives up", START_MAX, async || {
                if let Ok(Some(_status)) = child.try_wait() {
                    return Ok(false);
                }
                connect(&url).await.map(|_client| true)
            })
            .await;
            if came_up {
                self.child = Some(child);
                return;
            }
            // After SIGKILL its orphaned sessions need a moment to notice, and hold the shared memory meanwhile.
            let said = self.log();
            assert!(
                said.contains("shared memory block") && std::time::Instant::now() < deadline,
                "PostgreSQL does not start:\n{said}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn launch(&self, log: &Path) -> Child {
        let log_file = File::create(log)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", log.display()));
        let mut command = server_command("postgres");
        command.arg("-D").arg(self.folder.path().join("data"));
        command.arg("-p").arg(self.address.port().to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=32MB",
        ]
        .into_iter()
        .chain(self.settings.iter().map(String::as_str))
        {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null());
        command
            .stdout(log_file.try_clone().expect("a file can be shared"))
            .stderr(log_file);
        child::start(command).unwrap_or_else(|error| panic!("cannot start PostgreSQL: {error}"))
    }

    async fn end_with(&mut self, signal: Signal) {
        if let Some(child) = &mut self.child {
            child::send(child, signal);
        }
        self.ended().await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child::end(child);
        }
    }
}

/// Writes what nobody but the server may read, or it refuses to use it.
fn owned_by_server(path: &Path, text: &str) {
    let write = || {
        std::fs::write(path, text)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        match machine().server_user {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    };
    write().unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}

/// A program of the PostgreSQL installation, to run as the user that may.
fn server_command(program: &str) -> Command {
    let machine = machine();
    let mut command = Command::new(found(&machine.postgres_bin, program));
    if let Some((uid, gid)) = machine.server_user {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

/// Beside the server itself, or where a link to that leads; otherwise PATH may know it.
fn found(folder: &Path, program: &str) -> PathBuf {
    let server = std::fs::canonicalize(folder.join("postgres"));
    let beside = server
        .ok()
        .and_then(|path| Some(path.parent()?.join(program)));
    [Some(folder.join(program)), beside]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .unwrap_or_else(|| program.into())
}

/// Makes the files of a new server in `data`, its write-ahead log elsewhere if so wanted.
fn initialise(data: &Path, write_ahead_log: Option<&Path>, folder: &Path) {
    let password_file = folder.join("password");
    std::fs::write(&password_file, PASSWORD)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", password_file.display()));
    let mut command = server_command("initdb");
    if let Some(elsewhere) = write_ahead_log {
        command.arg("--waldir").arg(elsewhere);
    }
    let output = command
        .arg("-D")
        .arg(data)
        .arg("--pwfile")
        .arg(&password_file)
        .args([
            "--username=zyven",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ])
        .output()
        .unwrap_or_else(|error| panic!("cannot run initdb: {error}"));
    assert!(
        output.status.success(),
        "initdb failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The server all tests share: the one the run was given, or one that `test-services.sh` keeps for as long as
/// this process lives.
fn shared_admin_url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        const NAME: &str = "ZYVEN_TEST_DATABASE_URL";
        setting(NAME).unwrap_or_else(|| {
            let told = test_services(&["join", &std::process::id().to_string()]);
            told.lines()
                .find_map(|line| line.strip_prefix(NAME)?.strip_prefix('='))
                .unwrap_or_else(|| panic!("test-services.sh join does not tell {NAME}:\n{told}"))
                .to_owned()
        })
    })
}

/// The name of a database that carries all migrations; built by the first test that asks, whichever process it is in.
async fn migrated_template(admin: &Client, admin_url: &str) -> String {
    let migrations = migrations();
    let mut hasher = DefaultHasher::new();
    migrations.hash(&mut hasher);
    let hash = hasher.finish();
    let template = format!("zyven_template_{hash:016x}");
    if database_exists(admin, &template).await {
        return template;
    }

    // One builder at a time; the session lock goes with this connection, even if the process is killed.
    let lock_key = hash.cast_signed();
    execute(admin, &format!("SELECT pg_advisory_lock({lock_key})")).await;
    if !database_exists(admin, &template).await {
        let building = format!("{template}_building");
        execute(
            admin,
            &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)"),
        )
        .await;
        execute(
            admin,
            &format!("CREATE DATABASE {building} TEMPLATE template0"),
        )
        .await;
        apply(&on_database(admin_url, &building), &migrations).await;
        // Nobody may be connected to a template; the session above may take a moment to go.
        execute(
            admin,
            &format!("ALTER DATABASE {building} ALLOW_CONNECTIONS false"),
        )
        .await;
        wait_until("the template is at rest", START_MAX, async || {
            let renamed = format!("ALTER DATABASE {building} RENAME TO {template}");
            admin
                .batch_execute(&renamed)
                .await
                .map_err(|error| text_of(&error))
        })
        .await;
    }
    execute(admin, &format!("SELECT pg_advisory_unlock({lock_key})")).await;
    template
}

async fn database_exists(admin: &Client, name: &str) -> bool {
    let found = admin
        .query("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await;
    !found
        .unwrap_or_else(|error| panic!("cannot list databases: {}", text_of(&error)))
        .is_empty()
}

/// Name (without `.sql`) and text of each migration, in order.
fn migrations() -> Vec<(String, String)> {
    let folder = repository().join("sql/migrations");
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder's entries can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
            let name = path
                .file_stem()
                .expect("a file has a name")
                .to_string_lossy()
                .into_owned();
            (name, text)
        })
        .collect()
}

/// The store's own record of what was applied, so that a `zyven` started on a clone finds nothing pending.
/// Twin of the statements in the store's `migrate.rs`, which this kit must not depend on.
const RECORDS: &str = "
    CREATE SCHEMA IF NOT EXISTS zyven;
    CREATE TABLE IF NOT EXISTS zyven.migrations (
        name       text PRIMARY KEY,
        checksum   bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";
const RECORD: &str = "INSERT INTO zyven.migrations (name, checksum) VALUES ($1, sha256($2))";
/// Not in every server; likewise a twin.
const LZ4: &str = " COMPRESSION lz4";
const HAS_LZ4: &str = "
    SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";

async fn apply(url: &str, migrations: &[(String, String)]) {
    let client = connect_or_panic(url).await;
    execute(&client, RECORDS).await;
    let answer = client.query_one(HAS_LZ4, &[]).await;
    let has_lz4: bool = answer
        .unwrap_or_else(|error| panic!("cannot ask for lz4: {}", text_of(&error)))
        .get(0);
    for (name, text) in migrations {
        let applied = match has_lz4 {
            true => client.batch_execute(text).await,
            false => client.batch_execute(&text.replace(LZ4, "")).await,
        };
        let recorded = match applied {
            Ok(()) => client.execute(RECORD, &[name, &text.as_bytes()]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            panic!(
                "sql/migrations/{name}.sql cannot be applied: {}",
                text_of(&error)
            );
        }
    }
}

async fn execute(client: &Client, statement: &str) {
    if let Err(error) = client.batch_execute(statement).await {
        panic!("{statement}: {}", text_of(&error));
    }
}

/// tokio-postgres says no more than "db error"; the server's words are in the source.
fn text_of(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{said} {}", said.detail().unwrap_or_default()),
        None => format!("{error:?}"),
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends when the client is dropped or the server goes; the client's callers get the error.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

async fn connect_or_panic(url: &str) -> Client {
    connect(url).await.unwrap_or_else(|error| {
        panic!("cannot connect to {}: {}", address_of(url), text_of(&error))
    })
}

fn parsed(url: &str) -> Url {
    Url::parse(url).unwrap_or_else(|error| panic!("not a URL ({error}): {url}"))
}

fn on_database(url: &str, database: &str) -> String {
    let mut url = parsed(url);
    url.set_path(database);
    url.into()
}

pub(crate) fn address_of(url: &str) -> SocketAddr {
    let url = parsed(url);
    let addresses = url.socket_addrs(|| match url.scheme() {
        "postgres" | "postgresql" => Some(5432),
        _ => None,
    });
    addresses
        .ok()
        .and_then(|addresses| addresses.first().copied())
        .unwrap_or_else(|| panic!("the tests' server needs a host and a port in its URL"))
}

pub(crate) fn through(url: &str, address: SocketAddr) -> String {
    let mut url = parsed(url);
    url.set_ip_host(address.ip())
        .expect("a server's URL has a host");
    url.set_port(Some(address.port()))
        .expect("a server's URL has a port");
    url.into()
}
