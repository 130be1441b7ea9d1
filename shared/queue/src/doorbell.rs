//! Sleeping until there is something to do.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::OPERATION_TIME_MAX;

/// How long Redis keeps one `BLPOP` waiting. Longer than anybody sleeps at a time, so that a quiet
/// night costs few commands; short enough that a dead connection is noticed.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long not to try again after a failure.
const REST: Duration = Duration::from_millis(250);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The bell rang: something is due, or was a moment ago.
    Rung,
    /// The time is up. Redis may also be away.
    Quiet,
}

/// One sleeper's ear. It has a connection of its own, because waiting blocks it.
///
/// The bell carries no work: it is a list of ones, and a bell that is lost costs its sleeper the rest of
/// its wait. Every ring wakes one sleeper among all dispatchers.
pub struct Doorbell {
    client: Client,
    bells: Vec<String>,
    listening: Option<Listening>,
    deaf_until: Option<Instant>,
}

/// A `BLPOP` under way. It is kept when a wait ends or is dropped: its answer belongs to the next wait.
/// (A second `BLPOP` on the same connection would queue behind it, and the bell would go unheard.)
type Listening = Pin<Box<dyn Future<Output = RedisResult<(MultiplexedConnection, Value)>> + Send>>;

impl Doorbell {
    pub(crate) fn new(client: Client, bells: Vec<String>) -> Self {
        Self {
            client,
            bells,
            listening: None,
            deaf_until: None,
        }
    }

    /// Returns when the bell rings, or after `at_most`. Never fails: while Redis is away it just takes
    /// the whole time, and tries to hear again. Cancel-safe: a bell that rings for a wait that was
    /// dropped ends the next wait at once.
    pub async fn wait(&mut self, at_most: Duration) -> Wake {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(until) = self.deaf_until {
                sleep_until(until.min(deadline)).await;
                if until > deadline {
                    return Wake::Quiet;
                }
                self.deaf_until = None;
            }
            let (client, bells) = (&self.client, &self.bells);
            let listening = self
                .listening
                .get_or_insert_with(|| listen(Ear::New(client.clone()), bells.clone()));
            let Ok(heard) = timeout_at(deadline, listening).await else {
                return Wake::Quiet;
            };
            match heard {
                Ok((connection, answer)) => {
                    // Prepared, not begun: a bell is for a dispatcher that sleeps.
                    self.listening = Some(listen(Ear::Open(connection), self.bells.clone()));
                    if answer != Value::Nil {
                        return Wake::Rung;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the doorbell's connection failed");
                    self.listening = None;
                    self.deaf_until = Some(Instant::now() + REST);
                }
            }
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

enum Ear {
    New(Client),
    Open(MultiplexedConnection),
}

/// Nothing is sent before the future is first polled.
fn listen(ear: Ear, bells: Vec<String>) -> Listening {
    Box::pin(async move {
        let mut connection = match ear {
            Ear::Open(connection) => connection,
            Ear::New(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(OPERATION_TIME_MAX))
                    .set_response_timeout(Some(LISTEN_TIME_MAX + OPERATION_TIME_MAX));
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?
            }
        };
        let heard = redis::cmd("BLPOP")
            .arg(&bells)
            .arg(LISTEN_TIME_MAX.as_secs())
            .query_async(&mut connection)
            .await?;
        Ok((connection, heard))
    })
}
