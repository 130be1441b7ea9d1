//! One request to stop, heard everywhere.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Asks everything that holds the matching [`Shutdown`] to stop. Dropping it asks as well: whoever
/// was in charge is gone.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears the request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A request that has not been made yet.
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// Returns when stopping was requested, at once if it was before. Cancel safe.
    pub async fn requested(&self) {
        // An error means that the trigger is gone, which asks for the same.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }

    /// True if stopping was requested.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Trigger {
    /// Makes the request. Repeating it changes nothing.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

/// From now on SIGTERM and SIGINT ask `trigger`'s listeners to stop; a second signal ends the process at
/// once, with the code a shell shows for it.
///
/// # Errors
/// The handlers could not be installed.
pub fn stop_on_signals(trigger: Trigger) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Ends with the process: an operator may become impatient at any time.
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "stopping");
        trigger.request();
        let code = tokio::select! {
            _ = terminate.recv() => 143,
            _ = interrupt.recv() => 130,
        };
        tracing::warn!("asked to stop a second time: ending at once");
        std::process::exit(code);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_heard_before_and_after_it_is_made() {
        let (trigger, shutdown) = Shutdown::new();
        assert!(!shutdown.is_requested());
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        trigger.request();
        early.await.expect("heard");
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_lost_trigger_is_a_request() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
