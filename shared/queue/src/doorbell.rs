//! Sleeping until there is something to do.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::OPERATION_TIME_MAX;
use crate::site::Site;

/// How long Redis keeps one `BLPOP` waiting. Longer than anybody sleeps at a time, so that a quiet
/// night costs few commands; short enough that a dead connection is noticed.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long not to try again after a failure, twice as long after each that follows.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(2);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The bell rang: something is due, or was a moment ago.
    Rung,
    /// The time is up. Redis may also be away.
    Quiet,
}

/// One sleeper's ears, one at each server. Each has a connection of its own, because waiting blocks it.
///
/// The bell carries no work: it is a list of ones, and a bell that is lost costs its sleeper the rest of
/// its wait. Every ring wakes one sleeper among all dispatchers.
pub struct Doorbell {
    ears: Vec<Ear>,
}

struct Ear {
    site: Arc<Site>,
    bells: Vec<String>,
    listening: Option<Listening>,
    deaf_until: Option<Instant>,
    rest: Duration,
}

/// A `BLPOP` under way. It is kept when a wait ends or is dropped: its answer belongs to the next wait.
/// (A second `BLPOP` on the same connection would queue behind it, and the bell would go unheard.)
type Listening = Pin<Box<dyn Future<Output = RedisResult<(Line, Value)>> + Send>>;

/// A connection to listen on.
struct Line {
    connection: MultiplexedConnection,
    opened: Instant,
}

impl Doorbell {
    pub(crate) fn new(sites: impl Iterator<Item = (Arc<Site>, Vec<String>)>) -> Self {
        let ears = sites.map(|(site, bells)| Ear {
            site,
            bells,
            listening: None,
            deaf_until: None,
            rest: REST_MIN,
        });
        Self {
            ears: ears.collect(),
        }
    }

    /// Returns when the bell rings, or after `at_most`. Never fails: while Redis is away it just takes
    /// the whole time, and tries to hear again. Cancel-safe: a bell that rings for a wait that was
    /// dropped ends the next wait at once.
    pub async fn wait(&mut self, at_most: Duration) -> Wake {
        let deadline = Instant::now() + at_most;
        let heard = match self.ears.as_mut_slice() {
            [ear] => timeout_at(deadline, ear.hear()).await,
            ears => {
                // Dropping an ear's wait loses nothing: what it heard meanwhile it has kept.
                let any = select_all(ears.iter_mut().map(|ear| Box::pin(ear.hear())));
                timeout_at(deadline, any).await.map(|_| ())
            }
        };
        match heard {
            Ok(()) => Wake::Rung,
            Err(_) => Wake::Quiet,
        }
    }
}

impl Ear {
    /// Returns when one of the bells rings. Cancel-safe.
    async fn hear(&mut self) {
        loop {
            if let Some(until) = self.deaf_until {
                sleep_until(until).await;
                self.deaf_until = None;
            }
            let (site, bells) = (&self.site, &self.bells);
            let listening = self
                .listening
                .get_or_insert_with(|| listen(Arc::clone(site), None, bells.clone()));
            match listening.await {
                Ok((line, answer)) => {
                    self.rest = REST_MIN;
                    // Prepared, not begun: a bell is for a dispatcher that sleeps.
                    let site = Arc::clone(&self.site);
                    self.listening = Some(listen(site, Some(line), self.bells.clone()));
                    if answer != Value::Nil {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the doorbell's connection failed");
                    self.site.learn(&error);
                    self.listening = None;
                    self.deaf_until = Some(Instant::now() + self.rest);
                    self.rest = (2 * self.rest).min(REST_MAX);
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

/// Nothing is sent before the future is first polled.
fn listen(site: Arc<Site>, line: Option<Line>, bells: Vec<String>) -> Listening {
    Box::pin(async move {
        let mut line = match line {
            Some(line) if !site.is_too_old(line.opened.elapsed()) => line,
            _ => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(OPERATION_TIME_MAX))
                    .set_response_timeout(Some(LISTEN_TIME_MAX + OPERATION_TIME_MAX));
                let opened = site.open(async |server| {
                    let client = Client::open(server)?;
                    client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await
                });
                Line {
                    connection: opened.await?,
                    opened: Instant::now(),
                }
            }
        };
        let heard = redis::cmd("BLPOP")
            .arg(&bells)
            .arg(LISTEN_TIME_MAX.as_secs())
            .query_async(&mut line.connection)
            .await?;
        Ok((line, heard))
    })
}
