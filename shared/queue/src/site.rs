//! One server's place in this client: how it is reached, and how it has been of late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, RedisError, RedisResult};

use crate::QueueError;
use crate::locate::Locator;

/// Where Sentinels or a cluster decide which server it is, a connection is asked for anew after this long: a
/// primary that was deposed and cut off from everybody but us does not say so.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10);

/// The server that has the keys of one slot, whichever that is.
pub(crate) struct Site {
    locator: Arc<Locator>,
    slot: u16,
    /// Goes up with every failure; a connection of an earlier generation is not used again.
    generation: AtomicU64,
    notes: Mutex<Notes>,
}

/// Held for a copy only; each of them is whole at any time.
#[derive(Default)]
struct Notes {
    /// Where the slot is, as an error has told.
    hint: Option<(String, u16)>,
    /// Why the last attempt to connect failed: the pool itself only says that time is up.
    last_failure: Option<RedisError>,
    /// Why nobody asks it for the moment, or for claims only.
    left_out: Option<QueueError>,
}

impl Site {
    pub(crate) fn new(locator: Arc<Locator>, slot: u16) -> Self {
        Self {
            locator,
            slot,
            generation: AtomicU64::default(),
            notes: Mutex::default(),
        }
    }

    /// A connection to the server that has the slot now, made by `connect`.
    pub(crate) async fn open<C: Future<Output = RedisResult<MultiplexedConnection>>>(
        &self,
        connect: impl FnOnce(ConnectionInfo) -> C,
    ) -> RedisResult<MultiplexedConnection> {
        let opened = async {
            let mut connection = connect(self.find().await?).await?;
            self.locator.check(&mut connection).await?;
            Ok(connection)
        };
        let opened = opened.await;
        self.notes().last_failure = opened.as_ref().err().cloned();
        opened
    }

    async fn find(&self) -> RedisResult<ConnectionInfo> {
        // Followed once: should it be wrong, the map is asked again.
        let hint = self.notes().hint.take();
        match hint {
            Some((host, port)) => Ok(self.locator.at(&host, port)),
            None => self.locator.find(self.slot).await,
        }
    }

    /// Takes note of where an error says that the slot is.
    pub(crate) fn learn(&self, error: &RedisError) {
        // ASK is about a slot that is on its way; it says MOVED when it has arrived.
        let is_moved = error.code() == Some("MOVED") && self.locator.is_cluster();
        let node = error.redirect_node().filter(|_| is_moved);
        let address = node.and_then(|(node, _)| {
            let (host, port) = node.rsplit_once(':')?;
            let port = port.parse().ok()?;
            // Without a host it is the one that was asked, whose address the map will tell.
            (!host.is_empty()).then(|| (host.to_owned(), port))
        });
        if address.is_some() {
            self.notes().hint = address;
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn condemn_older_connections(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a connection of that age is to be opened anew.
    pub(crate) fn is_too_old(&self, age: Duration) -> bool {
        self.locator.is_asked() && age > CONNECTION_AGE_MAX
    }

    pub(crate) fn last_failure(&self) -> Option<RedisError> {
        self.notes().last_failure.clone()
    }

    /// Why nothing but claims is sent to it.
    pub(crate) fn left_out(&self) -> Option<QueueError> {
        self.notes().left_out.clone()
    }

    /// Why nothing at all is sent to it.
    pub(crate) fn away(&self) -> Option<QueueError> {
        self.left_out().filter(QueueError::is_about_the_server)
    }

    /// Returns whether it was left out before.
    pub(crate) fn leave_out(&self, why: Option<QueueError>) -> bool {
        let mut notes = self.notes();
        let was_left_out = notes.left_out.is_some();
        notes.left_out = why;
        was_left_out
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
