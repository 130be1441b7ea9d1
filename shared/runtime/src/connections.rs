//! Accepting connections up to a limit, where whoever comes too many may wait.
//!
//! The API and the egress proxy do not use this: theirs are told at once that there are too many.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::shutdown::Shutdown;

/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves connections until shutdown is requested, at most `connections_max` at the same time; more wait in the listener's queue.
/// Returns those that are still open. They end when they are dropped.
pub async fn serve<F>(
    listener: TcpListener,
    connections_max: usize,
    shutdown: &Shutdown,
    answer: impl Fn(TcpStream) -> F,
) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        // Every arm may be dropped: a place is given back, and nothing is awaited behind an accept.
        let (place, accepted) = tokio::select! {
            () = shutdown.requested() => return connections,
            Some(_) = connections.join_next() => continue,
            both = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => both,
        };
        match accepted {
            Ok((stream, _)) => {
                let answering = answer(stream);
                // Ends with its connection, or with the set.
                connections.spawn(async move {
                    answering.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}
