//! nvcc and NCCL, out of the wheels of PyPI: no installation, no GPU, no driver.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{shell, tools};

/// Of one release of CUDA, 13.0, which drivers from 580 on run; and NCCL for it.
const PACKAGES: [&str; 6] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-nccl-cu13==2.28.9",
];

/// Names what the environment was made of; it is written last.
const STAMP: &str = "stamp";

/// Where CUDA lies.
pub(crate) struct Toolkit {
    home: PathBuf,
}

impl Toolkit {
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The folder with `libnccl.so.2`.
    pub(crate) fn nccl(&self) -> PathBuf {
        self.home.with_file_name("nccl").join("lib")
    }

    pub(crate) fn nvcc(&self) -> Command {
        let mut nvcc = Command::new(self.home.join("bin/nvcc"));
        nvcc.current_dir(shell::root());
        nvcc
    }
}

/// Fetched if it is not there or not current.
pub(crate) fn ensure() -> Result<Toolkit> {
    let folder = std::path::absolute(shell::target().join("cuda-toolkit"))?;
    let stamp = format!("{PACKAGES:?}");
    if std::fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp) {
        return find(&folder);
    }
    println!("fetching the CUDA compiler and NCCL (470 MB)");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let made = tools::environment(&folder).and_then(|()| {
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--retries",
            "3",
            "--no-deps",
        ]);
        shell::run(pip.args(PACKAGES))
    });
    made.context(
        "the CUDA compiler could not be fetched. This needs python3 with pip (on Debian: apt install python3-pip), \
         Linux on x86-64, and access to PyPI",
    )?;
    let toolkit = find(&folder)?;
    shell::output(toolkit.nvcc().arg("--version"))?;
    std::fs::write(folder.join(STAMP), stamp)?;
    Ok(toolkit)
}

/// The wheels lie under the version of the Python that fetched them.
fn find(folder: &Path) -> Result<Toolkit> {
    for entry in std::fs::read_dir(folder.join("lib"))? {
        let home = entry?.path().join("site-packages/nvidia/cu13");
        if home.join("bin/nvcc").is_file() {
            return Ok(Toolkit { home });
        }
    }
    anyhow::bail!(
        "no nvcc in {}; remove that folder and try again",
        folder.display()
    )
}
