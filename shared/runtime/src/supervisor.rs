//! Services that run in one process: started together, stopped in order, and never without one.
//!
//! Each service has a thread and a Tokio runtime of its own, so that one which is busy or blocked does
//! not slow the others, and so that its tasks, sockets and connections end with it. It shares nothing
//! with the others but what it was given.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::mpsc;

use crate::shutdown::{Shutdown, Trigger};

/// What a service ends with.
pub type ServiceResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Services in the order in which they are to stop: the first one added stops first.
pub struct Supervisor {
    services: Vec<Service>,
    ended: mpsc::UnboundedReceiver<Finished>,
    ending: mpsc::UnboundedSender<Finished>,
}

struct Service {
    name: &'static str,
    trigger: Trigger,
    grace: Duration,
    running: bool,
}

/// A service's index, and how it ended; `Err` holds what a panic said.
type Finished = (usize, Result<ServiceResult, String>);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a process must not hide that a service failed"]
pub enum Ended {
    /// Everything stopped when asked, and in time.
    Orderly,
    /// A service failed, ended unasked, or did not stop within its grace time.
    Failed,
}

/// How many threads a service's runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One: no work is handed between threads, which costs least for each piece of work.
    One,
    /// This many, for a service that has more work than one core can do.
    Many(usize),
}

impl Default for Supervisor {
    fn default() -> Self {
        let (ending, ended) = mpsc::unbounded_channel();
        Self {
            services: Vec::new(),
            ended,
            ending,
        }
    }
}

impl Supervisor {
    /// Starts a service. `start` runs on the service's own thread and gets the request to stop that is
    /// meant for this service alone. `grace` is how long it may take to stop; after that nobody waits
    /// for it any longer.
    pub fn start<F>(
        &mut self,
        name: &'static str,
        threads: Threads,
        grace: Duration,
        start: impl FnOnce(Shutdown) -> F + Send + 'static,
    ) where
        F: Future<Output = ServiceResult>,
    {
        let (trigger, shutdown) = Shutdown::new();
        let index = self.services.len();
        let ending = self.ending.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        // Ends when the service does, or with the process.
        let spawned = thread.spawn(move || {
            let run = AssertUnwindSafe(|| run_service(name, threads, || start(shutdown)));
            let result = std::panic::catch_unwind(run).map_err(|panic| said(panic.as_ref()));
            // The supervisor may have stopped waiting.
            let _ = ending.send((index, result));
        });
        if let Err(error) = spawned {
            let _ = self.ending.send((index, Ok(Err(error.into()))));
        }
        self.services.push(Service {
            name,
            trigger,
            grace,
            running: true,
        });
        tracing::info!(service = name, "started");
    }

    /// Runs until `stop` returns or a service ends, then stops the services one after the other.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut ended = Ended::Orderly;
        tokio::select! {
            () = stop => {}
            Some(finished) = self.ended.recv() => {
                self.report(finished, "ended unasked");
                ended = Ended::Failed;
            }
        }
        for index in 0..self.services.len() {
            self.services[index].trigger.request();
            let deadline = tokio::time::Instant::now() + self.services[index].grace;
            while self.services[index].running {
                match tokio::time::timeout_at(deadline, self.ended.recv()).await {
                    Ok(Some(finished)) => {
                        if !self.report(finished, "stopped") {
                            ended = Ended::Failed;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        let Service { name, grace, .. } = self.services[index];
                        let grace_ms = grace.as_millis();
                        tracing::error!(service = name, grace_ms, "did not stop in time");
                        ended = Ended::Failed;
                        break;
                    }
                }
            }
        }
        ended
    }

    /// Logs how a service ended; true if that was well.
    fn report(&mut self, (index, result): Finished, how: &'static str) -> bool {
        let service = &mut self.services[index];
        service.running = false;
        match result {
            Ok(Ok(())) => {
                tracing::info!(service = service.name, "{how}");
                true
            }
            Ok(Err(error)) => {
                tracing::error!(service = service.name, error = %Chain(&*error), "{how}");
                false
            }
            Err(panic) => {
                tracing::error!(service = service.name, panic, "panicked");
                false
            }
        }
    }
}

fn run_service<F: Future<Output = ServiceResult>>(
    name: &'static str,
    threads: Threads,
    start: impl FnOnce() -> F,
) -> ServiceResult {
    let mut builder = match threads {
        Threads::One => runtime::Builder::new_current_thread(),
        Threads::Many(threads) => {
            let mut builder = runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = builder.thread_name(name).enable_all().build()?;
    let result = runtime.block_on(async { start().await });
    // What the service left behind is none of its concern any more.
    runtime.shutdown_background();
    result
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

/// An error with its causes, on one line.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const GRACE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn services_stop_in_the_order_they_were_added() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::default();
        for name in ["first", "second", "third"] {
            let order = Arc::clone(&order);
            supervisor.start(name, Threads::One, GRACE, move |shutdown| async move {
                shutdown.requested().await;
                order.lock().expect("unpoisoned").push(name);
                Ok(())
            });
        }
        assert_eq!(supervisor.run(async {}).await, Ended::Orderly);
        assert_eq!(
            *order.lock().expect("unpoisoned"),
            ["first", "second", "third"]
        );
    }

    #[tokio::test]
    async fn a_service_that_ends_unasked_stops_the_others_and_is_a_failure() {
        let mut supervisor = Supervisor::default();
        supervisor.start("patient", Threads::One, GRACE, |shutdown| async move {
            shutdown.requested().await;
            Ok(())
        });
        supervisor.start("hasty", Threads::One, GRACE, |_| async { Ok(()) });
        assert_eq!(supervisor.run(std::future::pending()).await, Ended::Failed);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let mut supervisor = Supervisor::default();
        supervisor.start("clumsy", Threads::One, GRACE, |_| async {
            panic!("on purpose")
        });
        assert_eq!(supervisor.run(std::future::pending()).await, Ended::Failed);
    }

    #[tokio::test]
    async fn a_service_that_does_not_stop_is_cut_off() {
        let mut supervisor = Supervisor::default();
        supervisor.start("stubborn", Threads::One, GRACE, |_| std::future::pending());
        assert_eq!(supervisor.run(async {}).await, Ended::Failed);
    }
}
