//! Settings of the API, and the limits that are no settings.

use std::net::SocketAddr;
use std::time::Duration;

use zyven_domain::target::NamePolicy;
use zyven_runtime::config::Source;
use zyven_runtime::doorbell::Peer;
use zyven_store::{RATE_PER_SECOND_MAX, TenantRates};

/// Largest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most header lines of a request. hyper's own limit, which costs nothing as long as it is not set.
pub const HEAD_LINES_MAX: usize = 100;
/// Most events stored by one statement, unless one request brings more.
pub const FLUSH_EVENTS_MAX: usize = 128;
/// Most payload bytes stored by one statement, unless one request brings more.
pub const FLUSH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Everything an operator can say about the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens. The caller binds.
    pub listen: SocketAddr,
    /// Which relays are told of new events.
    pub doorbells: Vec<Peer>,
    /// Host names that endpoint URLs may have besides public ones: the egress proxy's own setting.
    pub names: NamePolicy,
    /// Tasks that store events. Each holds one connection to PostgreSQL at a time.
    pub writers: usize,
    /// How large and how many things may be.
    pub limits: Limits,
    /// How often a tenant may ask that has no rates of its own.
    pub rates: TenantRates,
    /// How long things may take.
    pub deadlines: Deadlines,
}

/// How large and how many things may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Body of any request but a batch, and payload of each event of a batch.
    pub body_bytes_max: usize,
    /// Body of a batch.
    pub batch_bytes_max: usize,
    /// Events of a batch.
    pub batch_events_max: usize,
    /// Events waiting to be stored.
    pub queue_events_max: usize,
    /// Bytes of all bodies that are being read or wait to be stored.
    pub bodies_bytes_max: usize,
    /// Open connections.
    pub connections_max: usize,
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Receiving a request's head; also the longest silence between two requests of a connection, and
    /// the longest time in which a client takes nothing of its answer.
    pub head: Duration,
    /// Receiving a request's body.
    pub body: Duration,
    /// Storing an event, from the moment it is queued, before its publisher is asked to come again.
    pub request: Duration,
    /// Finishing what is in flight when the service is asked to stop.
    pub grace: Duration,
    /// The part of it in which requests are taken as before, each with the last answer of its connection,
    /// while whoever sends them learns of the stop.
    pub lame_duck: Duration,
}

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded.
    pub fn read(source: &mut Source) -> Option<Self> {
        let listen = source.value(
            "ZYVEN_INGEST_LISTEN",
            "address the API listens on",
            Some("127.0.0.1:8080"),
        );
        let doorbells = source.list(
            "ZYVEN_RELAY_DOORBELLS",
            "relays to be told of new events by UDP, as host:port separated by commas",
            Some("127.0.0.1:8091"),
        );
        // Declared by the egress proxy as well, which decides in the end; here it spares an owner an
        // endpoint that could never be reached.
        let names = source.value::<NamePolicy>(
            "ZYVEN_EGRESS_ALLOW_NAMES",
            "single-label or special-use host names the egress proxy may resolve, with everything under them, separated by commas",
            Some(""),
        );
        let writers = source.number(
            "ZYVEN_INGEST_WRITERS",
            "tasks that store events, each with a connection of its own",
            Some("2"),
            1..=64,
        );
        let limits = Limits::read(source);
        let rates = rates(source);
        let deadlines = Deadlines::read(source);
        Some(Self {
            listen: listen?,
            doorbells: doorbells?,
            names: names?,
            writers: to_usize(writers?),
            limits: limits?,
            rates: rates?,
            deadlines: deadlines?,
        })
    }
}

impl Limits {
    fn read(source: &mut Source) -> Option<Self> {
        let body_bytes_max = bytes(
            source,
            "ZYVEN_INGEST_BODY_BYTES_MAX",
            "largest body of a request, and largest payload of each event of a batch",
            "256KiB",
        );
        let batch_bytes_max = bytes(
            source,
            "ZYVEN_INGEST_BATCH_BYTES_MAX",
            "largest body of a batch of events",
            "5MiB",
        );
        let batch_events_max = source.number(
            "ZYVEN_INGEST_BATCH_EVENTS_MAX",
            "most events of a batch",
            Some("1000"),
            1..=10_000,
        );
        let queue_events_max = source.number(
            "ZYVEN_INGEST_QUEUE_EVENTS_MAX",
            "most events waiting to be stored; one more is answered 503",
            Some("4096"),
            1..=1_000_000,
        );
        let bodies_bytes_max = bytes(
            source,
            "ZYVEN_INGEST_BODIES_BYTES_MAX",
            "most bytes of all bodies that are being read or wait to be stored; one more is answered 503",
            "64MiB",
        );
        let connections_max = source.number(
            "ZYVEN_INGEST_CONNECTIONS_MAX",
            "most open connections; one more is answered 503",
            Some("4096"),
            1..=1_000_000,
        );
        let limits = Self {
            body_bytes_max: body_bytes_max?,
            batch_bytes_max: batch_bytes_max?,
            batch_events_max: to_usize(batch_events_max?),
            queue_events_max: to_usize(queue_events_max?),
            bodies_bytes_max: bodies_bytes_max?,
            connections_max: to_usize(connections_max?),
        };
        if limits.queue_events_max < limits.batch_events_max {
            source.mistake(
                "ZYVEN_INGEST_QUEUE_EVENTS_MAX",
                "must not be less than ZYVEN_INGEST_BATCH_EVENTS_MAX, or a full batch could never be accepted",
            );
            return None;
        }
        if limits.bodies_bytes_max < limits.batch_bytes_max.max(limits.body_bytes_max) {
            source.mistake(
                "ZYVEN_INGEST_BODIES_BYTES_MAX",
                "must not be less than ZYVEN_INGEST_BATCH_BYTES_MAX and ZYVEN_INGEST_BODY_BYTES_MAX, or the largest body could never be read",
            );
            return None;
        }
        Some(limits)
    }
}

impl Deadlines {
    fn read(source: &mut Source) -> Option<Self> {
        let head = source.duration(
            "ZYVEN_INGEST_HEAD_DEADLINE",
            "how long a client may take to send a request's head, silence between two requests included; and how long it may take nothing of an answer",
            Some("30s"),
        );
        let body = source.duration(
            "ZYVEN_INGEST_BODY_DEADLINE",
            "how long a client may take to send a request's body",
            Some("10s"),
        );
        let request = source.duration(
            "ZYVEN_INGEST_REQUEST_DEADLINE",
            "how long storing an event is tried before its publisher is answered 503",
            Some("10s"),
        );
        let grace = source.duration(
            "ZYVEN_INGEST_GRACE",
            "how long requests in flight may go on after the API was asked to stop",
            Some("15s"),
        );
        let lame_duck = source.duration(
            "ZYVEN_INGEST_LAME_DUCK",
            "how long the API, asked to stop, still takes connections and requests, telling each client to come back on another connection; part of ZYVEN_INGEST_GRACE",
            Some("1s"),
        );
        Some(Self {
            head: head?,
            body: body?,
            request: request?,
            grace: grace?,
            lame_duck: lame_duck?,
        })
    }
}

/// A tenant's own rates are kept in columns with the same bounds.
fn rates(source: &mut Source) -> Option<TenantRates> {
    let events = source.number(
        "ZYVEN_INGEST_TENANT_EVENTS_PER_SECOND",
        "events that a tenant may publish per second at each process of the API, ten times as many at once; 0: no limit. A tenant may have a rate of its own",
        Some("0"),
        0..=u64::from(RATE_PER_SECOND_MAX),
    );
    let requests = source.number(
        "ZYVEN_INGEST_TENANT_REQUESTS_PER_SECOND",
        "the same for requests that do not publish",
        Some("0"),
        0..=u64::from(RATE_PER_SECOND_MAX),
    );
    Some(TenantRates {
        events_per_second: u32::try_from(events?).ok(),
        requests_per_second: u32::try_from(requests?).ok(),
    })
}

fn bytes(
    source: &mut Source,
    name: &'static str,
    meaning: &'static str,
    default: &'static str,
) -> Option<usize> {
    /// Lengths are counted in memory and kept in columns of at most this.
    const BYTES_MAX: usize = 1 << 30;
    let bytes = source.bytes(name, meaning, Some(default))?;
    if (1..=BYTES_MAX).contains(&bytes) {
        return Some(bytes);
    }
    source.mistake(name, "must be from 1 to 1GiB");
    None
}

/// Bounds keep every number far below what any platform can count.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_setting_there_is_a_usable_configuration() {
        let mut source = Source::from_pairs::<String, String>([]);
        let config = Config::read(&mut source).expect("defaults are valid");
        assert!(source.finish().is_ok());
        assert_eq!(config.limits.body_bytes_max, 262_144);
        assert_eq!(config.writers, 2);
    }

    #[test]
    fn limits_that_contradict_each_other_are_a_mistake() {
        let mut source = Source::from_pairs([
            ("ZYVEN_INGEST_QUEUE_EVENTS_MAX", "10"),
            ("ZYVEN_INGEST_WRITERS", "0"),
        ]);
        assert!(Config::read(&mut source).is_none());
        let mistakes = source.finish().expect_err("two mistakes").mistakes;
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    }
}
