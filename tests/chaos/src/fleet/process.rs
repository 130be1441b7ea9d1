//! One process of a fleet, through all its lives.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use zyven_testkit::{Binary, Running, free_address};

use crate::service::Service;

/// The kernel needs no longer to take a killed process away.
const BURIAL: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Process {
    pub(super) service: Service,
    pub(super) index: usize,
    /// Where its probes answer.
    pub(super) probe: SocketAddr,
    /// Whether it was told to end, and may not run.
    pub(super) was_ended: bool,
    binary: Binary,
    running: Option<Running>,
    /// What its earlier lives have said.
    said_before: String,
}

impl Process {
    pub(super) fn new(service: Service, index: usize, binary: Binary) -> Self {
        let probe = free_address();
        Self {
            service,
            index,
            probe,
            was_ended: true,
            binary: binary.with("ZYVEN_PROBE_LISTEN", probe.to_string()),
            running: None,
            said_before: String::new(),
        }
    }

    /// Another life, with settings for this one only.
    pub(super) fn start(&mut self, settings: &[(&str, &str)]) {
        if let Some(mut running) = self.running.take() {
            running.kill();
            self.said_before += &running.stderr();
        }
        let mut binary = self.binary.clone();
        for (name, value) in settings {
            binary = binary.with(name, value);
        }
        self.running = Some(binary.start([self.service.name()]));
        self.was_ended = false;
    }

    pub(super) async fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill();
            self.ended(BURIAL).await;
        }
    }

    pub(super) fn ask_to_end(&mut self) {
        if let Some(running) = &mut self.running {
            running.terminate();
            self.was_ended = true;
        }
    }

    /// `None` if it has not ended within `deadline`.
    pub(super) async fn ended(&mut self, deadline: Duration) -> Option<ExitStatus> {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() > deadline {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.was_ended = true;
        let finished = self.running.take()?.ended(BURIAL).await;
        self.said_before += &finished.stderr;
        Some(finished.status)
    }

    pub(super) fn freeze(&mut self) {
        if let Some(running) = &mut self.running {
            running.freeze();
        }
    }

    pub(super) fn thaw(&mut self) {
        if let Some(running) = &mut self.running {
            running.thaw();
        }
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_running)
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// Linux tells; elsewhere nobody is asked.
    pub(super) fn memory_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    pub(super) fn said(&self) -> String {
        let now = self.running.as_ref().map(Running::stderr);
        self.said_before.clone() + &now.unwrap_or_default()
    }
}
