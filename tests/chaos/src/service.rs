//! The parts of a fleet, and what lies between them.

use std::fmt;

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The API.
    Ingest,
    /// Outbox to Redis.
    Relay,
    /// Redis to requests.
    Dispatcher,
    /// The outgoing proxy.
    Egress,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Relay, Self::Dispatcher, Self::Egress];

    /// The subcommand.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Relay => "relay",
            Self::Dispatcher => "dispatcher",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pair of parts that talk with each other over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Publishers and the API.
    ClientIngest,
    /// The API and PostgreSQL.
    IngestPostgres,
    /// The relay and PostgreSQL.
    RelayPostgres,
    /// Dispatchers and PostgreSQL.
    DispatcherPostgres,
    /// The relay and Redis.
    RelayRedis,
    /// Dispatchers and Redis.
    DispatcherRedis,
    /// Dispatchers and the outgoing proxy.
    DispatcherEgress,
    /// The outgoing proxy and the receiver.
    EgressReceiver,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ClientIngest,
        Self::IngestPostgres,
        Self::RelayPostgres,
        Self::DispatcherPostgres,
        Self::RelayRedis,
        Self::DispatcherRedis,
        Self::DispatcherEgress,
        Self::EgressReceiver,
    ];
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientIngest => "client–ingest",
            Self::IngestPostgres => "ingest–PostgreSQL",
            Self::RelayPostgres => "relay–PostgreSQL",
            Self::DispatcherPostgres => "dispatcher–PostgreSQL",
            Self::RelayRedis => "relay–Redis",
            Self::DispatcherRedis => "dispatcher–Redis",
            Self::DispatcherEgress => "dispatcher–egress",
            Self::EgressReceiver => "egress–receiver",
        })
    }
}
