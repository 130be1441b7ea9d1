//! What the operating system says about this process, as metrics. Linux' `/proc` only; elsewhere a fact that
//! cannot be read is no line.
//!
//! Names are those that every Prometheus client library uses.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::metrics::Metrics;

/// Clock ticks per second in `/proc/self/stat`: `USER_HZ`, 100 in the interface of every Linux
/// architecture there is, whatever the kernel's own clock (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers the facts; they are read when the metrics are rendered.
pub fn register(metrics: &Metrics) {
    metrics.read_counter(
        "process_cpu_seconds_total",
        "Processor time used, user and system.",
        || cpu_time().map(|time| time.as_secs_f64()),
    );
    metrics.read_gauge("process_resident_memory_bytes", "Resident memory.", || {
        status_bytes("VmRSS:")
    });
    metrics.read_gauge(
        "zyven_process_resident_memory_peak_bytes",
        "Largest resident memory so far.",
        || status_bytes("VmHWM:"),
    );
    metrics.read_gauge("process_threads", "Threads.", || status_number("Threads:"));
    metrics.read_gauge("process_open_fds", "Open file descriptors.", || {
        fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| count(entries.count()))
    });
    metrics.read_gauge(
        "process_max_fds",
        "File descriptors that may be open.",
        max_open_files,
    );
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    metrics.read_gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
        move || started.as_ref().ok().map(Duration::as_secs_f64),
    );
}

/// Processor time this process has used, user and system, all threads; to 10 ms.
pub fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = cpu_ticks(&stat)?;
    Some(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

/// Resident memory of this process.
pub fn resident_memory_bytes() -> Option<u64> {
    // Far from where f64 is inexact.
    status_bytes("VmRSS:").map(|bytes| bytes as u64)
}

/// Fields 14 and 15, counted behind the command name: that one may contain blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(14 - 3);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_number(name: &str) -> Option<f64> {
    number_behind(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// Sizes stand there in KiB, which it calls kB.
fn status_bytes(name: &str) -> Option<f64> {
    status_number(name).map(|kibibytes| kibibytes * 1024.0)
}

fn max_open_files() -> Option<f64> {
    number_behind(
        &fs::read_to_string("/proc/self/limits").ok()?,
        "Max open files",
    )
}

/// The first number on the line that begins with the name.
fn number_behind(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_does_not_shift_the_fields() {
        let behind = "S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 100 1 1";
        for name in ["zyven", "a b", "a) b", "(x) (y"] {
            assert_eq!(
                cpu_ticks(&format!("42 ({name}) {behind}")),
                Some(200.0),
                "{name}"
            );
        }
        assert_eq!(cpu_ticks("42 (zyven) S 1"), None);
    }

    #[test]
    fn this_process_has_facts() {
        assert!(resident_memory_bytes().unwrap() > 500 * 1024);
        assert!(cpu_time().is_some());
        assert!(status_number("Threads:").unwrap() >= 1.0);
        assert!(max_open_files().unwrap() > 1.0);
    }
}
