//! What this machine offers: programs, the unprivileged user, folders, free ports.
//!
//! The knowledge of where PostgreSQL lives and as whom it may run is in `scripts/`, once, for `make` and tests alike.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Servers of single tests listen here, below the range from which systems take ports of outgoing connections:
/// a restarted server must find its port free.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// What `test-services.sh where` tells.
pub(crate) struct Machine {
    pub(crate) postgres_bin: PathBuf,
    pub(crate) redis_server: PathBuf,
    /// The user PostgreSQL runs as when we are root; `None` when we are not and need nobody else.
    pub(crate) server_user: Option<(u32, u32)>,
    /// Writable by that user.
    pub(crate) folder: PathBuf,
}

/// Asked once per process.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        // `make test` has asked already, for all test processes.
        let told = setting("ZYVEN_TEST_MACHINE").unwrap_or_else(|| test_services(&["where"]));
        let value = |name: &str| {
            told.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_else(|| panic!("test-services.sh where does not tell {name}:\n{told}"))
        };
        Machine {
            postgres_bin: value("postgres_bin").into(),
            redis_server: value("redis_server").into(),
            server_user: value("server_uid")
                .parse()
                .ok()
                .zip(value("server_gid").parse().ok()),
            folder: value("folder").into(),
        }
    })
}

/// A setting of the test run, from the environment.
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The checkout this was compiled in.
pub(crate) fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        manifest
            .ancestors()
            .nth(2)
            .expect("the kit lives in shared/testkit")
            .to_owned()
    })
}

/// Runs `scripts/test-services.sh` and returns what it printed.
pub(crate) fn test_services(arguments: &[&str]) -> String {
    let script = repository().join("scripts/test-services.sh");
    let output = Command::new(&script)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    assert!(
        output.status.success(),
        "{} {arguments:?} failed:\n{}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number no other call in this process returns.
pub(crate) fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An address on 127.0.0.1 that nobody listens on at the moment, outside of the range from which outgoing
/// connections take their ports: a restarted process finds it free again.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    // Spread over processes and calls, so that tests side by side rarely look at the same port.
    let mut seed = std::process::id()
        .wrapping_mul(2_654_435_761)
        .wrapping_add(serial().wrapping_mul(40_503));
    for _ in 0..1_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let port = PORTS.start + (seed >> 8) % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("the range is below 65,536");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port among 1,000 tried in {PORTS:?}");
}

/// Lets servers write there, if they run as another user than we do.
pub(crate) fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = machine().server_user {
        chown(path, Some(uid), Some(gid)).unwrap_or_else(|error| {
            panic!("cannot give {} to user {uid}: {error}", path.display())
        });
    }
}

/// A folder of one test's own, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// `name` tells later readers of a left-over what it was.
    pub(crate) fn new(name: &str) -> Folder {
        let machine = machine();
        let path = machine.folder.join(format!(
            "private/{name}-{}-{}",
            std::process::id(),
            serial()
        ));
        std::fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot make folder {}: {error}", path.display()));
        give_to_server_user(&path);
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A server that was killed a moment ago may still be writing; what is left goes with the shared server's data.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
