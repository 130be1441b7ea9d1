//! The real `zyven` program as child processes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::child::{self, Signal};
use crate::environment::setting;
use crate::wait::wait_until;

/// A program and the environment its processes get: these settings and nothing of ours but PATH and HOME.
#[derive(Debug, Clone)]
pub struct Binary {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    listeners: Vec<Arc<TcpListener>>,
    input: Option<PathBuf>,
}

impl Binary {
    /// The `zyven` program built beside this test, or the one that `ZYVEN_TEST_BINARY` names. Only the tests of
    /// the crate `zyven` itself have it built by Cargo: they pass `env!("CARGO_BIN_EXE_zyven")` to [`Binary::at`].
    ///
    /// # Panics
    ///
    /// When it has not been built.
    #[must_use]
    pub fn find() -> Binary {
        Binary::beside_test("zyven", "ZYVEN_TEST_BINARY", "cargo build --bin zyven")
    }

    /// The same program with crash points (ADR 0025), built beside this test or named by `ZYVEN_TEST_CRASH_BINARY`:
    /// `ZYVEN_CRASH_POINT=relay.after_push:3` ends its process there, `ZYVEN_FREEZE_POINT` stops it.
    ///
    /// # Panics
    ///
    /// When it has not been built.
    #[must_use]
    pub fn find_with_crash_points() -> Binary {
        Binary::beside_test(
            "zyven-crash",
            "ZYVEN_TEST_CRASH_BINARY",
            "cargo build --bin zyven-crash --features crash-points",
        )
    }

    fn beside_test(name: &str, told_by: &str, how_to_build: &str) -> Binary {
        if let Some(program) = setting(told_by) {
            return Binary::at(program);
        }
        // Tests run as target/<profile>/deps/<test>.
        let test = std::env::current_exe().expect("a running test knows its own path");
        let found = test
            .ancestors()
            .skip(1)
            .take(3)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file());
        Binary::at(found.unwrap_or_else(|| {
            panic!(
                "there is no {name} program near {}: run `{how_to_build}` first",
                test.display()
            )
        }))
    }

    /// The program at this path.
    pub fn at(program: impl Into<PathBuf>) -> Binary {
        Binary {
            program: program.into(),
            environment: Vec::new(),
            listeners: Vec::new(),
            input: None,
        }
    }

    /// Another program with the same settings.
    #[must_use]
    pub fn as_program(&self, program: impl Into<PathBuf>) -> Binary {
        Binary {
            program: program.into(),
            ..self.clone()
        }
    }

    /// The program's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.program
    }

    /// A setting for every process started from here on.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Binary {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A listening socket for every process started from here on, passed as systemd does: it stays open from one
    /// process to the next.
    #[must_use]
    pub fn listening_on(mut self, listener: TcpListener) -> Binary {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// A file as the standard input of every process started from here on; without one there is nothing to read.
    #[must_use]
    pub fn reading(mut self, file: impl Into<PathBuf>) -> Binary {
        self.input = Some(file.into());
        self
    }

    /// Starts a process that goes on running. It is killed when the handle is dropped or the test process dies.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        let mut command = self.command(arguments);
        let name = format!("{:?}", command.get_args().collect::<Vec<_>>());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child::start(command)
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        let stdout = Transcript::of(child.stdout.take().expect("standard output is piped"));
        let stderr = Transcript::of(child.stderr.take().expect("standard error is piped"));
        Running {
            name,
            child,
            stdout,
            stderr,
        }
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or is still running after `deadline`.
    pub async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        deadline: Duration,
    ) -> Finished {
        self.start(arguments).ended(deadline).await
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = if self.listeners.is_empty() {
            Command::new(&self.program)
        } else {
            let mut shell = Command::new("/bin/sh");
            // Only the process itself knows its id.
            shell.args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""]);
            shell.arg(&self.program);
            shell
        };
        command.args(arguments).env_clear();
        if !self.listeners.is_empty() {
            command.env("LISTEN_FDS", self.listeners.len().to_string());
            child::pass(&mut command, &self.listeners);
        }
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(match &self.input {
            Some(path) => Stdio::from(File::open(path).expect("a readable file")),
            None => Stdio::null(),
        });
        command
    }
}

/// The program of the previous version, if the run was given one (`ZYVEN_TEST_PREVIOUS_BINARY`): see
/// `scripts/previous-release.sh`.
#[must_use]
pub fn previous_program() -> Option<PathBuf> {
    setting("ZYVEN_TEST_PREVIOUS_BINARY").map(PathBuf::from)
}

/// How a process ended, and all it said.
#[derive(Debug)]
pub struct Finished {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a process that must have succeeded.
    ///
    /// # Panics
    ///
    /// When its exit code is not 0; with what it said.
    #[must_use]
    pub fn expect_success(self) -> String {
        assert!(
            self.status.success(),
            "{}\n{}\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    stdout: Transcript,
    stderr: Transcript,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until standard output or standard error contains this text.
    ///
    /// # Panics
    ///
    /// When `deadline` has passed, or the process ends without saying it.
    pub async fn says(&mut self, text: &str, deadline: Duration) {
        let description = format!("{} says {text:?}", self.name);
        wait_until(&description, deadline, async || {
            let ended = !self.is_running();
            let said = self.stdout() + &self.stderr();
            if said.contains(text) {
                return Ok(());
            }
            assert!(
                !ended,
                "{} has ended without saying {text:?}:\n{said}",
                self.name
            );
            Err(said)
        })
        .await;
    }

    /// SIGTERM; goes on until it has finished its business.
    pub fn terminate(&mut self) {
        child::send(&mut self.child, Signal::Terminate);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        child::end(&mut self.child);
    }

    /// SIGSTOP: frozen amid whatever it does, sockets open.
    pub fn freeze(&mut self) {
        child::send(&mut self.child, Signal::Freeze);
    }

    /// Goes on after [`Running::freeze`].
    pub fn thaw(&mut self) {
        child::send(&mut self.child, Signal::Thaw);
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// When `deadline` has passed; with what it said.
    pub async fn ended(mut self, deadline: Duration) -> Finished {
        let status = wait_until(
            &format!("{} ends", self.name),
            deadline,
            async || match self
                .child
                .try_wait()
                .expect("our own child can be waited for")
            {
                Some(status) => Ok(status),
                None => Err(self.stdout() + &self.stderr()),
            },
        )
        .await;
        Finished {
            status,
            stdout: self.stdout.all().await,
            stderr: self.stderr.all().await,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        child::end(&mut self.child);
    }
}

/// A pipe read to its end by a thread of its own, so that no process ever blocks on us.
#[derive(Debug, Clone)]
struct Transcript(Arc<Mutex<(String, Complete)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Complete {
    Yes,
    NotYet,
}

impl Transcript {
    fn of(pipe: impl Into<std::os::fd::OwnedFd>) -> Transcript {
        let transcript = Transcript(Arc::new(Mutex::new((String::new(), Complete::NotYet))));
        let writer = transcript.clone();
        let mut lines = BufReader::new(File::from(pipe.into()));
        // Ends with the pipe's last writer, which is the child.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while let Ok(1..) = lines.read_until(b'\n', &mut line) {
                writer.guard().0.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
            writer.guard().1 = Complete::Yes;
        });
        transcript
    }

    fn text(&self) -> String {
        self.guard().0.clone()
    }

    /// What was in the pipe when the child ended may take a moment to be read.
    async fn all(&self) -> String {
        wait_until(
            "a child's output is read to its end",
            Duration::from_secs(10),
            async || self.guard().1 == Complete::Yes,
        )
        .await;
        self.text()
    }

    fn guard(&self) -> std::sync::MutexGuard<'_, (String, Complete)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
