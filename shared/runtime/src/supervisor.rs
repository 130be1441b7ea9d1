//! Services that run in one process: started together, stopped in order, and never without one.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::shutdown::{Shutdown, Trigger};

/// What a service ends with.
pub type ServiceResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Services in the order in which they are to stop: the first one added stops first.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<(usize, ServiceResult)>,
    services: Vec<Service>,
}

struct Service {
    name: &'static str,
    trigger: Trigger,
    grace: Duration,
    running: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a process must not hide that a service failed"]
pub enum Ended {
    /// Everything stopped when asked, and in time.
    Orderly,
    /// A service failed, ended unasked, or did not stop within its grace time.
    Failed,
}

impl Supervisor {
    /// Starts a service. `start` gets the request to stop that is meant for this service alone.
    /// `grace` is how long it may take to stop; after that it is cut off.
    pub fn start<F>(
        &mut self,
        name: &'static str,
        grace: Duration,
        start: impl FnOnce(Shutdown) -> F,
    ) where
        F: Future<Output = ServiceResult> + Send + 'static,
    {
        let (trigger, shutdown) = Shutdown::new();
        let service = start(shutdown);
        let index = self.services.len();
        self.services.push(Service {
            name,
            trigger,
            grace,
            running: true,
        });
        // Ends when the service does; `run` waits for it or aborts it.
        self.tasks.spawn(async move { (index, service.await) });
        tracing::info!(service = name, "started");
    }

    /// Runs until `stop` returns or a service ends, then stops the services one after the other.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut ended = Ended::Orderly;
        tokio::select! {
            () = stop => {}
            Some(finished) = self.tasks.join_next() => {
                self.report(finished, "ended unasked");
                ended = Ended::Failed;
            }
        }
        for index in 0..self.services.len() {
            self.services[index].trigger.request();
            let deadline = tokio::time::Instant::now() + self.services[index].grace;
            while self.services[index].running {
                match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                    Ok(Some(finished)) => {
                        if !self.report(finished, "stopped") {
                            ended = Ended::Failed;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        tracing::error!(
                            service = self.services[index].name,
                            grace_ms = self.services[index].grace.as_millis(),
                            "did not stop within its grace time"
                        );
                        ended = Ended::Failed;
                        break;
                    }
                }
            }
        }
        self.tasks.shutdown().await;
        ended
    }

    /// Logs how a service ended; true if that was well.
    fn report(
        &mut self,
        finished: Result<(usize, ServiceResult), tokio::task::JoinError>,
        how: &'static str,
    ) -> bool {
        match finished {
            Ok((index, Ok(()))) => {
                self.services[index].running = false;
                tracing::info!(service = self.services[index].name, "{how}");
                true
            }
            Ok((index, Err(error))) => {
                self.services[index].running = false;
                let name = self.services[index].name;
                tracing::error!(service = name, error = %Chain(&*error), "{how}");
                false
            }
            Err(error) => {
                // A panic does not say whose it was. Whoever it was, nobody must wait for it.
                tracing::error!(%error, "a service panicked");
                self.services.iter_mut().for_each(|s| s.running = false);
                false
            }
        }
    }
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
            supervisor.start(name, GRACE, |shutdown| async move {
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
        supervisor.start("patient", GRACE, |shutdown| async move {
            shutdown.requested().await;
            Ok(())
        });
        supervisor.start("hasty", GRACE, |_| async { Ok(()) });
        assert_eq!(supervisor.run(std::future::pending()).await, Ended::Failed);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let mut supervisor = Supervisor::default();
        supervisor.start("clumsy", GRACE, |_| async { panic!("on purpose") });
        assert_eq!(supervisor.run(std::future::pending()).await, Ended::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_stop_is_cut_off() {
        let mut supervisor = Supervisor::default();
        supervisor.start("stubborn", GRACE, |_| std::future::pending());
        assert_eq!(supervisor.run(async {}).await, Ended::Failed);
    }
}
