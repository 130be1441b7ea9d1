//! Child processes that cannot outlive the test process, however that ends.
//!
//! On Linux each child asks the kernel for SIGKILL at its parent's death. The kernel takes "parent" to mean the
//! *thread* that started the child, and threads of a test harness come and go, so one thread that never ends starts
//! all children. Elsewhere `Drop` is all there is.

use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts the command as a child that dies with this process.
///
/// # Errors
///
/// The program cannot be started.
pub fn start(command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("nursery".to_owned())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    die_with_parent(&mut command);
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    nursery
        .lock()
        .expect("nobody panics while holding the nursery")
        .send((command, reply))
        .expect("the nursery thread never ends");
    answer
        .recv()
        .expect("the nursery thread answers every order")
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "asking for a signal at the parent's death is possible only between fork and exec"
)]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    // SAFETY: the closure makes two system calls that are safe after fork, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the request: nobody would then send the signal.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// Has the child inherit these sockets as its file descriptors from 3 on.
#[expect(
    unsafe_code,
    reason = "descriptors can be given other numbers only between fork and exec"
)]
pub(crate) fn pass(command: &mut Command, listeners: &[Arc<TcpListener>]) {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::CommandExt as _;
    /// Above every number that is to be given.
    const HIGH: libc::c_int = 100;
    let listeners = listeners.to_vec();
    // SAFETY: the closure makes system calls that are safe after fork, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // Two passes, for one of ours may have a number that another one is to get.
            for (index, listener) in (0..).zip(&listeners) {
                if libc::dup2(listener.as_raw_fd(), HIGH + index) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for index in 0..listeners.len() as libc::c_int {
                // What dup2 makes stays open across exec.
                if libc::dup2(HIGH + index, 3 + index) < 0 || libc::close(HIGH + index) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// What can be sent to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGINT: PostgreSQL's fast shutdown, and Ctrl-C.
    Interrupt,
    /// SIGQUIT: PostgreSQL's immediate shutdown.
    Quit,
    /// SIGKILL: gone at once.
    Kill,
    /// SIGSTOP: frozen, sockets open.
    Freeze,
    /// SIGCONT: goes on.
    Thaw,
}

/// Sends a signal to the child; one that has ended already gets none.
pub fn send(child: &mut Child, signal: Signal) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Interrupt => libc::SIGINT,
        Signal::Quit => libc::SIGQUIT,
        Signal::Kill => libc::SIGKILL,
        Signal::Freeze => libc::SIGSTOP,
        Signal::Thaw => libc::SIGCONT,
    };
    let pid = libc::pid_t::try_from(child.id()).expect("process ids fit");
    #[expect(unsafe_code, reason = "the standard library can send SIGKILL only")]
    // SAFETY: a plain system call. Nobody has reaped the child (seen above), so its id cannot mean another process.
    unsafe {
        libc::kill(pid, number);
    }
}

/// Kills the child and waits until it is gone. Harmless when it already is.
pub fn end(child: &mut Child) -> Option<ExitStatus> {
    // A frozen process does die of SIGKILL.
    let _ = child.kill();
    child.wait().ok()
}
