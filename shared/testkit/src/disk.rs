//! A disk that can be full.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{Folder, give_to_server_user};

/// A file system in memory with a limit, for the files of a server. Unmounted when dropped; what a killed test leaves
/// mounted, `scripts/test-services.sh` unmounts with the next run.
#[derive(Debug)]
pub struct SmallDisk {
    folder: Folder,
}

impl SmallDisk {
    /// An empty disk of this many MiB.
    ///
    /// # Errors
    ///
    /// This machine or this user may not mount one; the text says why. A test that cannot have its disk says so with
    /// [`SmallDisk::skip`], and continuous integration, which runs as root, does not let it.
    pub fn mount(mebibytes: u32) -> Result<SmallDisk, String> {
        let folder = Folder::new("disk");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| format!("there is no program mount: {error}"))?;
        if !mounted.status.success() {
            let said = String::from_utf8_lossy(&mounted.stderr);
            return Err(format!("mounting is refused: {}", said.trim()));
        }
        give_to_server_user(folder.path());
        Ok(SmallDisk { folder })
    }

    /// Says loudly that a test is left out for want of a disk.
    ///
    /// # Panics
    ///
    /// Where `CI` is set: there it must not be left out.
    pub fn skip(reason: &str) {
        let line = format!("SKIPPED: no disk of its own for this test: {reason}");
        assert!(
            std::env::var_os("CI").is_none(),
            "{line}; continuous integration runs it as root, where mounting is allowed"
        );
        // Past the harness, which shows nothing of tests that pass.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut ballast = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file can be made on a disk of our own");
        for piece in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; piece];
            while ballast.write_all(&zeros).is_ok() {}
        }
    }

    /// Makes the space free again that [`SmallDisk::fill`] has taken.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still holds a file keeps it for a moment longer.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.folder.path())
            .status();
    }
}
