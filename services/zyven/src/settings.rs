//! Settings that more than one service reads, and the reference of all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zyven_domain::secret_box::{KeyRing, KeyRingError};
use zyven_queue::{QueueConfig, Tls};
use zyven_runtime::config::{Setting, Source};
use zyven_runtime::supervisor::Threads;
use zyven_runtime::{telemetry, traces};
use zyven_store::{DatabaseTls, Store, StoreConfig, StoreError};

use crate::Failure;

/// The database.
pub(crate) fn store(source: &mut Source) -> Option<StoreConfig> {
    let url = source.secret::<PostgresUrl>(
        "ZYVEN_DATABASE_URL",
        "PostgreSQL, as postgres://user:password@host:port/database; of several hosts, separated by commas, the one that takes writes",
        None,
    );
    let tls = tls_files(source, &DATABASE_TLS);
    let pool_size = source.number(
        "ZYVEN_DATABASE_POOL_SIZE",
        "connections per process of each of three kinds (durable, relaxed, reads)",
        Some("8"),
        1..=100,
    );
    let (authorities_pem, identity_pem) = tls?;
    let config = StoreConfig {
        url: url?.0,
        tls: DatabaseTls {
            authorities_pem,
            identity_pem,
        },
        pool_size: usize::try_from(pool_size?).ok()?,
    };
    // Nothing is connected, and the URL by itself is in order.
    if let Err(StoreError::Tls(rule)) = Store::connect(&config) {
        source.mistake(
            DATABASE_TLS.authorities.0,
            &format!("and the other files for TLS: {rule}"),
        );
        return None;
    }
    Some(config)
}

/// Settings that name files for TLS, with their meanings.
struct TlsFiles {
    authorities: (&'static str, &'static str),
    certificate: (&'static str, &'static str),
    key: (&'static str, &'static str),
}

const DATABASE_TLS: TlsFiles = TlsFiles {
    authorities: (
        "ZYVEN_DATABASE_TLS_CA_FILE",
        "PEM file of the certificate authorities that PostgreSQL's certificate is checked with, instead of the system's",
    ),
    certificate: (
        "ZYVEN_DATABASE_TLS_CERTIFICATE_FILE",
        "PEM file of the certificate shown to PostgreSQL, if it wants one",
    ),
    key: (
        "ZYVEN_DATABASE_TLS_KEY_FILE",
        "PEM file of that certificate's private key",
    ),
};

const REDIS_TLS: TlsFiles = TlsFiles {
    authorities: (
        "ZYVEN_REDIS_TLS_CA_FILE",
        "PEM file of the certificate authorities that Redis' certificate is checked with, instead of the system's",
    ),
    certificate: (
        "ZYVEN_REDIS_TLS_CERTIFICATE_FILE",
        "PEM file of the certificate shown to Redis, if it wants one",
    ),
    key: (
        "ZYVEN_REDIS_TLS_KEY_FILE",
        "PEM file of that certificate's private key",
    ),
};

/// Authorities, and a certificate with its key; each as PEM, if there is any.
type Pems = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

fn tls_files(source: &mut Source, files: &TlsFiles) -> Option<Pems> {
    let authorities = pem_file(source, files.authorities);
    let certificate = pem_file(source, files.certificate);
    let key = pem_file(source, files.key);
    let identity = match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            source.mistake(
                files.key.0,
                "must be set together with the certificate's file",
            );
            return None;
        }
        (None, Some(_)) => {
            source.mistake(
                files.certificate.0,
                "must be set together with the key's file",
            );
            return None;
        }
    };
    Some((authorities?, identity))
}

/// The queue.
pub(crate) fn queue(source: &mut Source) -> Option<QueueConfig> {
    let place = redis(source);
    let pool_size = source.number(
        "ZYVEN_REDIS_POOL_SIZE",
        "Redis connections per process; with a cluster, per process and shard",
        Some("4"),
        1..=100,
    );
    let shards = source.number(
        "ZYVEN_QUEUE_SHARDS",
        "key spaces of the queue; the same for every process",
        Some("1"),
        1..=u64::from(zyven_queue::SHARDS_MAX),
    );
    let lane_in_flight_max = source.number(
        "ZYVEN_LANE_IN_FLIGHT_MAX",
        "deliveries to one endpoint in hand at the same time, from claim to record, over all dispatchers; the same for every process",
        Some("256"),
        1..=10_000,
    );
    let tenant_in_flight_max = source.number(
        "ZYVEN_TENANT_IN_FLIGHT_MAX",
        "the same for all endpoints of one tenant: what one tenant may keep others waiting for; the same for every process",
        Some("1024"),
        1..=1_000_000,
    );
    let breaker_open_min = source.duration_in(
        "ZYVEN_BREAKER_OPEN_MIN",
        "how long an endpoint's breaker stays open at first; doubles each time a probe fails",
        Some("30s"),
        Duration::from_millis(1)..=Duration::from_secs(3_600),
    );
    let breaker_open_max = source.duration_in(
        "ZYVEN_BREAKER_OPEN_MAX",
        "how long an endpoint's breaker stays open at most",
        Some("10m"),
        Duration::from_millis(1)..=Duration::from_secs(86_400),
    );
    let (breaker_open_min, breaker_open_max) = (breaker_open_min?, breaker_open_max?);
    if breaker_open_max < breaker_open_min {
        source.mistake(
            "ZYVEN_BREAKER_OPEN_MAX",
            "must not be less than ZYVEN_BREAKER_OPEN_MIN",
        );
        return None;
    }
    let (url, tls) = place?;
    Some(QueueConfig {
        url,
        tls,
        pool_size: u32::try_from(pool_size?).ok()?,
        shards: u16::try_from(shards?).ok()?,
        lane_in_flight_max: u32::try_from(lane_in_flight_max?).ok()?,
        tenant_in_flight_max: u32::try_from(tenant_in_flight_max?).ok()?,
        breaker_open_min,
        breaker_open_max,
    })
}

const REDIS_URL: &str = "ZYVEN_REDIS_URL";

/// Whether anybody has said where Redis is.
pub(crate) fn names_redis(source: &Source) -> bool {
    source.is_set(REDIS_URL)
}

/// Where Redis is, and how to know it.
fn redis(source: &mut Source) -> Option<(String, Tls)> {
    let url = source.secret::<RedisUrl>(
        REDIS_URL,
        "Redis, as redis://:password@host:port/; Sentinels as redis+sentinel://:password@host:port,host:port/service; a cluster as redis+cluster://:password@host:port,host:port; each with rediss for TLS",
        None,
    );
    let files = tls_files(source, &REDIS_TLS);
    let (url, (authorities_pem, identity_pem)) = (url?.0, files?);
    let tls = Tls {
        authorities_pem,
        identity_pem,
    };
    let is_encrypted = url.starts_with("rediss");
    if !is_encrypted && (tls.authorities_pem.is_some() || tls.identity_pem.is_some()) {
        source.mistake(
            REDIS_URL,
            "must begin with rediss, as there are files for TLS",
        );
        return None;
    }
    if let Some(rule) = zyven_queue::mistake_in(&url, &tls) {
        source.mistake(
            REDIS_TLS.authorities.0,
            &format!("and the other files for TLS: {rule}"),
        );
        return None;
    }
    Some((url, tls))
}

/// The content of a file that may not be named: the outer `None` is a mistake.
fn pem_file(
    source: &mut Source,
    (name, meaning): (&'static str, &'static str),
) -> Option<Option<Vec<u8>>> {
    let Some(path) = source.optional::<PathBuf>(name, meaning)? else {
        return Some(None);
    };
    match std::fs::read(&path) {
        Ok(pem) => Some(Some(pem)),
        Err(error) => {
            source.mistake(
                name,
                &format!("cannot be read: {}: {error}", path.display()),
            );
            None
        }
    }
}

/// The master keys that secrets are sealed with.
pub(crate) fn master_keys(source: &mut Source) -> Option<KeyRing> {
    source
        .secret::<MasterKeys>(
            "ZYVEN_MASTER_KEYS",
            "keys that secrets at rest are sealed with, as id:base64[,id:base64…], the sealing one first; make one with: openssl rand -base64 32",
            None,
        )
        .map(|keys| keys.0)
}

/// Where a process shows its health and metrics.
pub(crate) fn probe_listen(source: &mut Source) -> Option<SocketAddr> {
    source.value(
        "ZYVEN_PROBE_LISTEN",
        "address of /healthz, /readyz and /metrics of this process",
        Some("127.0.0.1:8099"),
    )
}

/// How many threads the services with the most work have each.
pub(crate) fn threads(source: &mut Source) -> Option<Threads> {
    let threads = source.number(
        "ZYVEN_THREADS",
        "threads each of ingest, dispatcher and egress runs on; one is the most economical",
        Some("1"),
        1..=1024,
    );
    Some(match usize::try_from(threads?).ok()? {
        1 => Threads::One,
        many => Threads::Many(many),
    })
}

/// Where the API is, for the console and commands that use it.
pub(crate) fn api_url(source: &mut Source) -> Option<String> {
    let listen = zyven_ingest::Config::read(source).map(|ingest| ingest.listen);
    let url = source.optional::<String>(
        "ZYVEN_API_URL",
        "URL of the API for the console and commands that use it; by default where ingest listens",
    );
    match url? {
        Some(url) => Some(url.trim_end_matches('/').to_owned()),
        None => Some(format!("http://{}", listen?)),
    }
}

/// The limits of the API, by themselves.
pub(crate) fn api_limits() -> Result<zyven_ingest::Limits, Failure> {
    let mut source = Source::from_environment();
    let config = zyven_ingest::Config::read(&mut source);
    source.finish()?;
    config
        .map(|config| config.limits)
        .ok_or_else(|| Failure::Plain("the configuration is incomplete".to_owned()))
}

#[cfg(feature = "crash-points")]
const CRASH_POINT: &str = "ZYVEN_CRASH_POINT";
#[cfg(feature = "crash-points")]
const FREEZE_POINT: &str = "ZYVEN_FREEZE_POINT";

/// Where this process is to end or to stop. No part of the reference: the program that is run has no such settings.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_points(source: &mut Source) -> Option<zyven_crash_points::Orders> {
    let abort = source.optional(CRASH_POINT, "where this process ends, as point:passage");
    let freeze = source.optional(
        FREEZE_POINT,
        "where this process stops until it is sent SIGCONT, as point:passage",
    );
    Some(zyven_crash_points::Orders {
        abort: abort?,
        freeze: freeze?,
    })
}

/// Every setting that any part of Zyven reads.
fn declared() -> Source {
    let mut source = Source::from_pairs::<&str, &str>([]);
    // Values do not matter here, only that each reader names what it reads.
    let _ = (
        store(&mut source),
        queue(&mut source),
        master_keys(&mut source).is_some(),
        probe_listen(&mut source),
        threads(&mut source),
        api_url(&mut source),
    );
    let _ = zyven_cli::read_settings(&mut source);
    let _ = telemetry::Config::read(&mut source);
    let _ = traces::Config::read(&mut source);
    let _ = zyven_ingest::Config::read(&mut source);
    let _ = zyven_relay::Config::read(&mut source);
    let _ = zyven_dispatcher::Config::read(&mut source);
    let _ = zyven_egress::Config::read(&mut source);
    let _ = zyven_console::Config::read(&mut source, None);
    source
}

/// The names of all settings, so that a misspelt one is noticed.
pub(crate) fn known_names() -> BTreeSet<&'static str> {
    let source = declared();
    let names = source.settings().map(|setting| setting.name);
    #[cfg(feature = "crash-points")]
    let names = names.chain([CRASH_POINT, FREEZE_POINT]);
    names.collect()
}

/// Every setting as a Markdown table: what docs/operations/configuration.md holds.
pub(crate) fn reference() -> String {
    let mut text = String::from("| Setting | Default | Meaning |\n|---|---|---|\n");
    for Setting {
        name,
        meaning,
        default,
        secret,
    } in declared().settings()
    {
        let default = match default {
            None => "*required*".to_owned(),
            Some("") => "*empty*".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let secret = if *secret { " (secret)" } else { "" };
        let meaning = meaning.replace('|', "\\|");
        let _ = writeln!(text, "| `{name}` | {default} | {meaning}{secret} |");
    }
    text
}

struct PostgresUrl(String);

impl FromStr for PostgresUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let config = StoreConfig {
            url: text.to_owned(),
            // The files are looked at when all of them are known.
            tls: DatabaseTls::default(),
            pool_size: 1,
        };
        // Nothing is connected; whatever is wrong is wrong with the text.
        match Store::connect(&config) {
            Ok(_) => Ok(Self(config.url)),
            Err(StoreError::Tls(_)) => Ok(Self(config.url)),
            Err(_) => Err(
                "must be written as postgres://user:password@host:port/database; sslmode, if it is there, as disable, require or verify-full",
            ),
        }
    }
}

struct RedisUrl(String);

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Files for TLS are looked at when all of them are known.
        match zyven_queue::mistake_in(text, &Tls::default()) {
            None => Ok(Self(text.to_owned())),
            Some(rule) => Err(rule),
        }
    }
}

struct MasterKeys(KeyRing);

impl FromStr for MasterKeys {
    type Err = KeyRingError;

    fn from_str(text: &str) -> Result<Self, KeyRingError> {
        KeyRing::parse(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference in the documentation is what `zyven config` prints.
    #[test]
    fn the_documented_settings_are_the_real_ones() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/operations/configuration.md"
        );
        let document = std::fs::read_to_string(path).expect("docs/operations/configuration.md");
        assert!(
            document.contains(&reference()),
            "docs/operations/configuration.md must contain what `zyven config` prints:\n{}",
            reference()
        );
    }
}
