//! Settings of the relay.

use std::net::SocketAddr;
use std::time::Duration;

use cron::Schedule;
use zyven_runtime::config::Source;
use zyven_store::AUDIT_RETENTION_MIN;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Everything an operator can say about the relay.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP address at which ingest rings. The caller of [`crate::run`] binds it.
    pub doorbell_listen: SocketAddr,
    /// How often to look for new rows if nobody rings.
    pub poll_interval: Duration,
    /// Time from the begin of one sweep to the begin of the next, if it is done by then.
    pub scrub_interval: Duration,
    /// When maintenance is due, in UTC; it also runs once at the start.
    pub maintenance: Schedule,
    /// How long finished events and their attempts are kept.
    pub event_retention: Duration,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
    /// How long entries of the audit log are kept.
    pub audit_retention: Duration,
    /// How long an idempotency key protects.
    pub idempotency_retention: Duration,
}

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded.
    pub fn read(source: &mut Source) -> Option<Self> {
        let doorbell_listen = source.value(
            "ZYVEN_RELAY_DOORBELL_LISTEN",
            "UDP address at which the relay hears of new events",
            Some("127.0.0.1:8091"),
        );
        let poll_interval = source.duration_in(
            "ZYVEN_RELAY_POLL_INTERVAL",
            "how often the relay looks for new events if nobody rings; up to ten times as long, at most 1s, where there was nothing for long",
            Some("100ms"),
            Duration::from_millis(1)..=MINUTE,
        );
        let scrub_interval = source.duration_in(
            "ZYVEN_RELAY_SCRUB_INTERVAL",
            "how often the relay walks over all unfinished deliveries to replace lost tickets",
            Some("5s"),
            Duration::from_millis(100)..=HOUR,
        );
        let maintenance = source.value(
            "ZYVEN_RELAY_MAINTENANCE_CRON",
            "when partitions and retention are cared for: second, minute, hour, day, month, weekday, in UTC",
            Some("0 7 * * * *"),
        );
        let event_retention = event_retention(source);
        let dead_letter_retention = source.duration_in(
            "ZYVEN_RELAY_DEAD_LETTER_RETENTION",
            "how long dead letters are kept",
            Some("90d"),
            MINUTE..=RETENTION_MAX,
        );
        let audit_retention = source.duration_in(
            "ZYVEN_RELAY_AUDIT_RETENTION",
            "how long the audit log is kept; the database refuses less than 30 days",
            Some("400d"),
            AUDIT_RETENTION_MIN..=RETENTION_MAX,
        );
        let idempotency_retention = source.duration_in(
            "ZYVEN_RELAY_IDEMPOTENCY_RETENTION",
            "how long an idempotency key is remembered",
            Some("24h"),
            MINUTE..=RETENTION_MAX,
        );
        Some(Self {
            doorbell_listen: doorbell_listen?,
            poll_interval: poll_interval?,
            scrub_interval: scrub_interval?,
            maintenance: maintenance?,
            event_retention: event_retention?,
            dead_letter_retention: dead_letter_retention?,
            audit_retention: audit_retention?,
            idempotency_retention: idempotency_retention?,
        })
    }
}

/// How long events and their finished deliveries are kept; `None` only after a mistake was recorded.
pub fn event_retention(source: &mut Source) -> Option<Duration> {
    source.duration_in(
        "ZYVEN_RELAY_EVENT_RETENTION",
        "how long events and their finished deliveries are kept; dropped by whole days",
        Some("30d"),
        DAY..=RETENTION_MAX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(pairs: [(&str, &str); N]) -> Result<Config, Vec<String>> {
        let mut source = Source::from_pairs(pairs);
        let config = Config::read(&mut source);
        match source.finish() {
            Ok(()) => Ok(config.expect("no mistake was recorded")),
            Err(error) => Err(error.mistakes),
        }
    }

    #[test]
    fn the_defaults_are_good() {
        let config = read([]).expect("no mistakes");
        assert_eq!(config.scrub_interval, Duration::from_secs(5));
        assert_eq!(config.poll_interval, Duration::from_millis(100));
    }

    #[test]
    fn every_mistake_is_named() {
        let mistakes = read([
            ("ZYVEN_RELAY_MAINTENANCE_CRON", "every monday"),
            ("ZYVEN_RELAY_EVENT_RETENTION", "23h"),
            ("ZYVEN_RELAY_POLL_INTERVAL", "0ms"),
        ])
        .expect_err("three mistakes");
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }
}
