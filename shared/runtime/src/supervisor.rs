//! The services of one process: started in order, stopped in reverse.
//!
//! ```no_run
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use zyven_runtime::shutdown::{self, Shutdown};
//! use zyven_runtime::supervisor::Supervisor;
//!
//! # async fn egress(shutdown: Shutdown) -> Result<(), Infallible> { Ok(shutdown.requested().await) }
//! # async fn ingest(shutdown: Shutdown) -> Result<(), Infallible> { Ok(shutdown.requested().await) }
//! # async fn main_of_the_process() -> Result<(), Box<dyn std::error::Error>> {
//! let (trigger, stop) = Shutdown::new();
//! shutdown::on_signals(trigger)?;
//! let mut supervisor = Supervisor::new();
//! supervisor.start("egress", Duration::from_secs(25), egress);
//! supervisor.start("ingest", Duration::from_secs(10), ingest);
//! supervisor.run(stop).await?; // ingest stops first
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::shutdown::{Shutdown, Trigger};
use crate::telemetry::chain;

/// How long a service that was cut may take to let go. Only one that blocks its thread takes longer, and
/// for that nobody should wait.
const CUT_TIME_MAX: Duration = Duration::from_secs(1);

/// An error of any service.
type AnyError = Box<dyn Error + Send + Sync>;

/// Runs services together: all of them, or none.
#[derive(Debug, Default)]
#[must_use = "dropping a supervisor cuts its services"]
pub struct Supervisor {
    services: Vec<Service>,
    running: JoinSet<Result<(), AnyError>>,
}

#[derive(Debug)]
struct Service {
    name: &'static str,
    grace: Duration,
    trigger: Trigger,
    task: AbortHandle,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Asked,
    Ended,
}

impl Supervisor {
    /// Nothing to run yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a service on the current runtime. It is asked to stop through the [`Shutdown`] it is given, after
    /// every service that was started later has ended, and is cut if it takes longer than `grace`.
    pub fn start<F, E>(
        &mut self,
        name: &'static str,
        grace: Duration,
        service: impl FnOnce(Shutdown) -> F,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + Send + Sync + 'static,
    {
        let (trigger, shutdown) = Shutdown::new();
        let service = service(shutdown);
        // Ends by itself, or is cut by `stop`, or with the supervisor.
        let task = self
            .running
            .spawn(async move { service.await.map_err(AnyError::from) });
        tracing::info!(service = name, "started");
        self.services.push(Service {
            name,
            grace,
            trigger,
            task,
            stage: Stage::Running,
        });
    }

    /// Waits until `stop` is requested or a service ends unasked, then stops all of them, the last
    /// started first.
    ///
    /// # Errors
    ///
    /// [`Failures`] if a service ended unasked, failed, panicked or was cut: the process should end with a
    /// code other than zero. (Where panics abort the process, that one never arrives here.)
    pub async fn run(mut self, stop: Shutdown) -> Result<(), Failures> {
        let mut failures = Vec::new();
        // Both arms may be dropped: the request stays, and a service that ended is kept in the set.
        tokio::select! {
            () = stop.requested() => {}
            Some(ended) = self.running.join_next_with_id() => {
                failures.extend(self.note(ended));
            }
        }
        for index in (0..self.services.len()).rev() {
            self.stop(index, &mut failures).await;
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Failures(failures))
        }
    }

    async fn stop(&mut self, index: usize, failures: &mut Vec<Failure>) {
        let Service { name, grace, .. } = self.services[index];
        let begin = Instant::now();
        // What ended by itself until now was not asked to.
        while let Some(ended) = self.running.try_join_next_with_id() {
            failures.extend(self.note(ended));
        }
        if self.services[index].stage == Stage::Ended {
            return;
        }
        tracing::info!(service = name, "stopping");
        self.services[index].stage = Stage::Asked;
        self.services[index].trigger.request();
        self.wait(index, begin + grace, failures).await;
        if self.services[index].stage != Stage::Ended {
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                service = name,
                grace_ms,
                "outlasted its grace time and is cut"
            );
            self.services[index].task.abort();
            failures.push(Failure {
                service: name,
                cause: Cause::Cut,
            });
            self.wait(index, Instant::now() + CUT_TIME_MAX, failures)
                .await;
        }
    }

    /// Waits until this service has ended, and takes note of every other that does meanwhile.
    async fn wait(&mut self, index: usize, deadline: Instant, failures: &mut Vec<Failure>) {
        while self.services[index].stage != Stage::Ended {
            match timeout_at(deadline, self.running.join_next_with_id()).await {
                Ok(Some(ended)) => failures.extend(self.note(ended)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn note(&mut self, ended: Result<(Id, Result<(), AnyError>), JoinError>) -> Option<Failure> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let service = self
            .services
            .iter_mut()
            .find(|service| service.task.id() == id)?;
        let stage = std::mem::replace(&mut service.stage, Stage::Ended);
        let cause = match result {
            Ok(Ok(())) if stage == Stage::Asked => {
                tracing::info!(service = service.name, "stopped");
                return None;
            }
            Ok(Ok(())) => Cause::EndedUnasked,
            Ok(Err(error)) => Cause::Failed(error),
            // Cut, which is known already.
            Err(error) if error.is_cancelled() => return None,
            Err(_) => Cause::Panicked,
        };
        let failure = Failure {
            service: service.name,
            cause,
        };
        tracing::error!(error = %chain(&failure), "service ended");
        Some(failure)
    }
}

/// Why a process fails: every service that did not end well, in the order they ended, at least one.
#[derive(Debug)]
pub struct Failures(Vec<Failure>);

/// How one service ended.
#[derive(Debug)]
pub struct Failure {
    /// Its name.
    pub service: &'static str,
    /// How.
    pub cause: Cause,
}

/// How a service can end other than well.
#[derive(Debug)]
pub enum Cause {
    /// Without an error, but nobody had asked it to.
    EndedUnasked,
    /// With this error, asked or not.
    Failed(AnyError),
    /// By a panic.
    Panicked,
    /// It outlasted its grace time.
    Cut,
}

impl Failures {
    /// All of them, the first cause first.
    pub fn failures(&self) -> &[Failure] {
        &self.0
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}", chain(failure))?;
        }
        Ok(())
    }
}

impl Error for Failures {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.cause {
            Cause::EndedUnasked => "ended unasked",
            Cause::Failed(_) => "failed",
            Cause::Panicked => "panicked",
            Cause::Cut => "outlasted its grace time",
        };
        write!(f, "{} {how}", self.service)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Failed(error) => Some(&**error),
            Cause::EndedUnasked | Cause::Panicked | Cause::Cut => None,
        }
    }
}
