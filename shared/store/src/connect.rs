//! Finding the server that takes writes, of one host or of several.
//!
//! With several hosts in the URL a failover is followed without a restart: a new connection goes to the host that
//! worked last, and to the next one if it does not answer, or takes no writes. tokio-postgres would always begin with
//! the first host, and wait for it as long as the pool waits in all, should it be dead without saying so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Connection, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;

/// Longest wait for a connection to the only host.
const HOST_WAIT: Duration = Duration::from_secs(5);
/// And to each of several: publishers are told after 10 s that their event is not stored.
const HOST_OF_SEVERAL_WAIT: Duration = Duration::from_secs(2);

/// A peer that acknowledges nothing for this long is gone.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(10);
/// A peer that owes an answer owes no acknowledgement, so a host that vanished is found by asking it:
/// within eleven seconds instead of the system's two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// The way to each of the URL's hosts.
pub(crate) struct Connector {
    hosts: Vec<Config>,
    tls: Option<MakeRustlsConnect>,
    /// Where a new connection is tried first.
    first: AtomicUsize,
}

impl Connector {
    /// The hosts of `base`, whose sessions start with `options` besides the URL's own, encrypted by `tls` if it is there.
    ///
    /// # Errors
    /// The URL names no host, or more ports than hosts.
    pub(crate) fn new(
        base: &Config,
        options: &str,
        tls: Option<MakeRustlsConnect>,
    ) -> Result<Self, StoreError> {
        let count = base.get_hosts().len().max(base.get_hostaddrs().len());
        let are_paired = [base.get_hosts().len(), base.get_hostaddrs().len()]
            .iter()
            .all(|&n| n == 0 || n == count);
        let ports = base.get_ports().len();
        if count == 0 || !are_paired || (ports > 1 && ports != count) {
            return Err(StoreError::Hosts);
        }
        Ok(Self {
            hosts: (0..count).map(|i| of_host(base, i, options)).collect(),
            tls,
            first: AtomicUsize::new(0),
        })
    }

    /// Longest time that [`Connect::connect`] can take.
    pub(crate) fn wait_max(&self) -> Duration {
        let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.wait_of_each().saturating_mul(hosts)
    }

    fn wait_of_each(&self) -> Duration {
        match self.hosts.len() {
            1 => HOST_WAIT,
            _ => HOST_OF_SEVERAL_WAIT,
        }
    }

    async fn connect_to_any(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let first = self.first.load(Ordering::Relaxed);
        let mut refusal = None;
        for step in 0..self.hosts.len() {
            let index = (first + step) % self.hosts.len();
            match timeout(self.wait_of_each(), self.connect_to(&self.hosts[index])).await {
                Ok(Ok(connected)) => {
                    if step > 0 {
                        self.first.store(index, Ordering::Relaxed);
                        tracing::info!(
                            host = index + 1,
                            "PostgreSQL is reached by another host of the URL"
                        );
                    }
                    return Ok(connected);
                }
                Ok(Err(error)) => refusal = Some(error),
                Err(_) => {}
            }
        }
        match refusal {
            Some(error) => Err(error),
            // Nobody said anything, so there is no error to give; the pool's own limit is reached in this moment.
            None => std::future::pending().await,
        }
    }
}

impl Connector {
    async fn connect_to(&self, host: &Config) -> Result<(Client, JoinHandle<()>), Error> {
        Ok(match &self.tls {
            None => {
                let (client, connection) = host.connect(NoTls).await?;
                (client, drive(connection))
            }
            Some(tls) => {
                let (client, connection) = host.connect(tls.clone()).await?;
                (client, drive(connection))
            }
        })
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        _config: &Config,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>>
    {
        Box::pin(self.connect_to_any())
    }
}

/// Serves a connection. Ends with it, or is aborted when the pool drops it.
fn drive<S, T>(connection: Connection<S, T>) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to PostgreSQL ended");
        }
    })
}

/// The configuration for one host alone.
fn of_host(base: &Config, index: usize, options: &str) -> Config {
    let mut config = Config::new();
    match base.get_hosts().get(index) {
        Some(Host::Tcp(name)) => {
            config.host(name);
        }
        #[cfg(unix)]
        Some(Host::Unix(path)) => {
            config.host_path(path);
        }
        None => {}
    }
    if let Some(&address) = base.get_hostaddrs().get(index) {
        config.hostaddr(address);
    }
    let ports = base.get_ports();
    if let Some(&port) = ports.get(index).or(ports.first()) {
        config.port(port);
    }
    if let Some(user) = base.get_user() {
        config.user(user);
    }
    if let Some(password) = base.get_password() {
        config.password(password);
    }
    if let Some(database) = base.get_dbname() {
        config.dbname(database);
    }
    // Of several hosts one takes writes. Of a single one that is asked with the first statement, and reading goes on
    // from a standby.
    let is_one_of_several = base.get_hosts().len().max(base.get_hostaddrs().len()) > 1;
    let wanted = match base.get_target_session_attrs() {
        TargetSessionAttrs::Any if is_one_of_several => TargetSessionAttrs::ReadWrite,
        asked_for => asked_for,
    };
    let own_options = base.get_options().unwrap_or_default();
    config
        .options(format!("{own_options} {options}"))
        .application_name(base.get_application_name().unwrap_or("zyven"))
        .ssl_mode(base.get_ssl_mode())
        .ssl_negotiation(base.get_ssl_negotiation())
        .channel_binding(base.get_channel_binding())
        .load_balance_hosts(base.get_load_balance_hosts())
        .target_session_attrs(wanted)
        .connect_timeout(HOST_WAIT)
        .tcp_user_timeout(PEER_SILENCE_MAX)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str) -> Result<Connector, StoreError> {
        Connector::new(&url.parse().expect("a URL"), "-c jit=off", None)
    }

    #[test]
    fn each_host_has_its_port_and_everything_else() {
        let url = "postgres://u:p@one:1,two:2/d?application_name=mine&options=-c%20a%3Db";
        let connector = connector(url).expect("two hosts");
        assert_eq!(connector.wait_max(), HOST_OF_SEVERAL_WAIT * 2);
        for (index, (host, port)) in [("one", 1), ("two", 2)].into_iter().enumerate() {
            let config = &connector.hosts[index];
            assert_eq!(config.get_hosts(), [Host::Tcp(host.to_owned())]);
            assert_eq!(config.get_ports(), [port]);
            assert_eq!(config.get_user(), Some("u"));
            assert_eq!(config.get_password(), Some(&b"p"[..]));
            assert_eq!(config.get_dbname(), Some("d"));
            assert_eq!(config.get_application_name(), Some("mine"));
            assert_eq!(config.get_options(), Some("-c a=b -c jit=off"));
            assert_eq!(
                config.get_target_session_attrs(),
                TargetSessionAttrs::ReadWrite
            );
        }
    }

    #[test]
    fn a_single_host_may_be_one_that_only_reads() {
        let connector = connector("postgres://u@one/d").expect("one host");
        assert_eq!(connector.wait_max(), HOST_WAIT);
        let attributes = connector.hosts[0].get_target_session_attrs();
        assert_eq!(attributes, TargetSessionAttrs::Any);
    }

    #[test]
    fn a_url_without_a_host_is_refused() {
        assert!(connector("postgres:///d").is_err());
    }
}
