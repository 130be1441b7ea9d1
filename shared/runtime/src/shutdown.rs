//! Being asked to stop.
//!
//! A [`Trigger`] asks, every clone of its [`Shutdown`] is asked: once, and for good. Whoever holds a
//! `Shutdown` decides when it has finished what it holds; the [`Supervisor`](crate::supervisor::Supervisor)
//! decides how long that may take.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Asks for the shutdown. Clones ask for the same one.
#[derive(Clone)]
#[must_use = "dropping the last trigger asks for the shutdown"]
pub struct Trigger(Arc<watch::Sender<bool>>);

/// Tells when the shutdown is asked for. Clones are told together.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Trigger {
    /// Asks. Asking again changes nothing.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// A shutdown that nobody has asked for, and what asks for it.
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(Arc::new(sender)), Self(receiver))
    }

    /// Returns when the shutdown is asked for, at once if it already was. It is also asked for when
    /// the last [`Trigger`] is gone: nobody could ask any more, and nobody waits for the answer.
    /// Cancel-safe.
    pub async fn requested(&self) {
        // The error says that the sender is gone.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }

    /// Whether it has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Asks for the shutdown at the first SIGTERM or SIGINT, and ends the process at once at the second, with
/// the exit code a shell gives for that signal. Must be called inside a runtime; the task it starts
/// ends with the runtime.
///
/// # Errors
///
/// If the handlers cannot be installed.
pub fn on_signals(trigger: Trigger) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let first = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = %first, "asked to stop; a second signal ends the process at once");
        trigger.request();
        let second = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = %second, "ending at once");
        std::process::exit(second.exit_code());
    });
    Ok(())
}

#[derive(Clone, Copy)]
enum Received {
    Terminate,
    Interrupt,
}

impl Received {
    fn exit_code(self) -> i32 {
        let number = match self {
            Self::Terminate => SignalKind::terminate().as_raw_value(),
            Self::Interrupt => SignalKind::interrupt().as_raw_value(),
        };
        128 + number
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> Received {
    // Either arm may be dropped: a signal that arrives meanwhile is kept for the next call.
    tokio::select! {
        _ = terminate.recv() => Received::Terminate,
        _ = interrupt.recv() => Received::Interrupt,
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requested = *self.0.borrow();
        f.debug_struct("Trigger")
            .field("requested", &requested)
            .finish()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requested = self.is_requested();
        f.debug_struct("Shutdown")
            .field("requested", &requested)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn every_clone_is_told_before_and_after() {
        let (trigger, shutdown) = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        yield_now().await;
        assert!(!shutdown.is_requested() && !waiting.is_finished());
        trigger.clone().request();
        waiting.await.unwrap();
        assert!(shutdown.is_requested());
        shutdown.requested().await;
    }

    #[tokio::test]
    async fn losing_the_last_trigger_asks_for_the_shutdown() {
        let (trigger, shutdown) = Shutdown::new();
        let other = trigger.clone();
        drop(trigger);
        assert!(!shutdown.is_requested());
        drop(other);
        assert!(shutdown.is_requested());
        shutdown.requested().await;
    }
}
