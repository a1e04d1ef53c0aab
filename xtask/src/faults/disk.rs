//! A small file system for logs, which can be full.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cluster::guard::Guard;
use crate::shell;

const BYTES: u64 = 1 << 20;

/// A file system in memory. It is gone when this is dropped, or when xtask ends in whatever way.
pub(super) struct Disk {
    folder: PathBuf,
    _guard: Guard,
}

impl Disk {
    /// One at `folder`; what an earlier run left there is removed.
    ///
    /// # Errors
    ///
    /// We may not.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        // Processes that are about to be killed may still have files there.
        let remove = format!("umount -l '{}' 2>/dev/null; true", folder.display());
        shell::run(shell::program("sh").args(["-c", &remove]))?;
        let guard = Guard::then(&remove)?;
        let mut mount = shell::program("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={BYTES}"), "tmpfs"]);
        shell::output(mount.arg(folder)).context(
            "a small file system could not be mounted, which needs root (CAP_SYS_ADMIN)",
        )?;
        Ok(Self {
            folder: folder.to_owned(),
            _guard: guard,
        })
    }

    /// A file on it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Leaves no room.
    ///
    /// # Errors
    ///
    /// Something else than a full disk was met.
    pub(super) fn fill(&self) -> Result<()> {
        let path = self.file("ballast");
        let mut file = File::create(&path)?;
        for _ in 0..=BYTES {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("the disk could not be filled"),
            }
        }
        bail!("{} is never full", self.folder.display())
    }

    /// Whether not a byte more fits.
    pub(super) fn is_full(&self) -> bool {
        let probe = File::create(self.file("probe"));
        let written = probe.and_then(|mut file| file.write_all(&[0]));
        written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
    }
}
