//! Where something was measured: without it, no figure means anything.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde::Serialize;

use super::processes::{Member, Stack};

/// Facts about the machine and the program.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) processor: Option<String>,
    pub(super) memory_mib: Option<u64>,
    pub(super) kernel: Option<String>,
    pub(super) zyven: String,
    /// Short, with `-dirty` if files differ from it.
    pub(super) commit: Option<String>,
    /// What the servers say about themselves.
    pub(super) servers: Vec<String>,
}

impl Machine {
    /// Of the machine this runs on. What cannot be found out is left out.
    pub(super) fn look(stack: &Stack) -> Self {
        let text = |path| fs::read_to_string(path).ok();
        let build = if cfg!(debug_assertions) {
            " (debug build!)"
        } else {
            ""
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: text("/proc/cpuinfo").and_then(|info| value_of(&info, "model name")),
            memory_mib: text("/proc/meminfo").and_then(|info| {
                let total = value_of(&info, "MemTotal")?;
                Some(total.trim_end_matches(" kB").parse::<u64>().ok()? / 1_024)
            }),
            kernel: text("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned()),
            zyven: format!("{}{build}", env!("CARGO_PKG_VERSION")),
            commit: commit(),
            servers: stack.members.iter().filter_map(server_version).collect(),
        }
    }

    /// One line for people.
    pub(super) fn sentence(&self) -> String {
        let mut parts = vec![
            format!("zyven {}", self.zyven),
            format!("{} cores", self.cores),
        ];
        if let Some(commit) = &self.commit {
            parts.insert(1, format!("commit {commit}"));
        }
        parts.extend(self.processor.clone());
        parts.extend(self.memory_mib.map(|mib| format!("{mib} MiB")));
        parts.extend(
            self.kernel
                .as_ref()
                .map(|release| format!("kernel {release}")),
        );
        parts.extend(self.servers.iter().cloned());
        parts.join(", ")
    }
}

/// The value of the first line "NAME : value".
fn value_of(info: &str, name: &str) -> Option<String> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn commit() -> Option<String> {
    let describe = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ];
    first_line(Command::new("git").args(describe))
}

fn server_version(member: &Member) -> Option<String> {
    // Redis is one program under several names, and behaves by the name it is called.
    let called = match member.name.as_str() {
        "postgres" => "postgres",
        "redis" => "redis-server",
        _ => return None,
    };
    let program = fs::read_link(format!("/proc/{}/exe", member.pid)).ok()?;
    let line = first_line(Command::new(program).arg0(called).arg("--version"))?;
    // Redis goes on about how it was built.
    Some(line.split(" sha=").next()?.to_owned())
}

/// The first line a program prints, if it succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name() {
        let info = "MemFree:  1 kB\nMemTotal:       24000 kB\nmodel name\t: Some CPU: fast\n";
        assert_eq!(value_of(info, "MemTotal").as_deref(), Some("24000 kB"));
        assert_eq!(
            value_of(info, "model name").as_deref(),
            Some("Some CPU: fast")
        );
        assert_eq!(value_of(info, "Mem"), None);
    }
}
