//! This test binary again, as another process, playing one part.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Longer than anything here takes, shorter than a test's patience.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Set for a part, so that running the ignored tests by themselves does nothing.
const PART_VARIABLE: &str = "PLAYS_A_PART";

/// Whether this process was started as a part.
pub(crate) fn plays() -> bool {
    std::env::var_os(PART_VARIABLE).is_some()
}

/// A process that runs one ignored test of this binary.
pub(crate) struct Part {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Part {
    pub(crate) fn start(test: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                test,
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(PART_VARIABLE, "yes")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits until it prints this line.
    pub(crate) async fn says(&mut self, expected: &str) {
        let read = async {
            loop {
                let mut line = String::new();
                let bytes = self.stdout.read_line(&mut line).await.unwrap();
                assert_ne!(bytes, 0, "ended without saying {expected}");
                if line.trim_end() == expected {
                    return;
                }
            }
        };
        timeout(SOON, read).await.expect(expected);
    }

    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("still running").to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.await.unwrap().success());
    }

    /// Waits for its end; gives the exit code and what it wrote on standard error.
    pub(crate) async fn ends(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        let end = async {
            let mut pipe = self.child.stderr.take().unwrap();
            pipe.read_to_string(&mut stderr).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(SOON, end).await.expect("ends soon");
        (status.code(), stderr)
    }
}
