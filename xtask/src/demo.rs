//! The demo: three processes of the binary on this machine, and one long prompt.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{models, shell};

/// Time for a role to become ready; loading the model takes most of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts the three roles, sends the prompt and prints the answer and what it cost. `extra` are more
/// arguments for `lava generate`.
pub(crate) fn run(extra: &[String]) -> Result<()> {
    let model = models::smollm2()?;
    let lava = build()?;
    let logs = shell::target().join("demo");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;

    println!("starting a prefill worker, a decode worker and a coordinator");
    let model = format!(
        "model.path={:?}",
        std::path::absolute(model)?.display().to_string()
    );
    let prefill = Role::start(&lava, &logs, "prefill", &[&model])?;
    let decode = Role::start(&lava, &logs, "decode", &[&model])?;
    let workers = [prefill.address.to_string(), decode.address.to_string()];
    let workers = format!("workers.addresses={workers:?}");
    let coordinator = Role::start(&lava, &logs, "coordinator", &[&workers])?;
    let mut roles = [prefill, decode, coordinator];
    for role in &mut roles {
        role.wait()?;
    }
    let address = roles[2].address.to_string();

    let mut generate = Command::new(&lava);
    generate.current_dir(shell::root());
    generate.args(["generate", "--addr", &address]);
    // Arguments of the caller come instead of ours where they repeat one.
    for pair in [
        ["--prompt-file", "crates/cli/demo/prompt.txt"],
        ["--budget", "128"],
        ["--max-tokens", "96"],
    ] {
        let theirs =
            |arg: &String| arg == pair[0] || pair[0] == "--prompt-file" && arg == "--prompt";
        if !extra.iter().any(theirs) {
            generate.args(pair);
        }
    }
    shell::run(generate.args(extra)).with_context(|| format!("the logs are in {}", logs.display()))
}

/// The binary. It is built with the whole workspace, so that features, and with them the built
/// dependencies, are the same for every verb.
fn build() -> Result<PathBuf> {
    shell::run(shell::cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--bin",
        "lava",
    ]))?;
    Ok(shell::target().join("debug/lava"))
}

/// One process; it is killed when dropped.
struct Role {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    http: SocketAddr,
    log: PathBuf,
}

impl Role {
    fn start(lava: &Path, logs: &Path, name: &'static str, settings: &[&str]) -> Result<Self> {
        let (address, http) = (free_address()?, free_address()?);
        let log = logs.join(format!("{name}.log"));
        let file = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let own = [
            format!("listen.address=\"{address}\""),
            format!("http.listen=\"{http}\""),
        ];
        let mut command = Command::new(lava);
        command.arg(name).stdout(Stdio::null()).stderr(file);
        for setting in own
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied())
        {
            command.args(["--set", setting]);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", lava.display()))?;
        Ok(Self {
            name,
            child,
            address,
            http,
            log,
        })
    }

    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        while !ready(self.http) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}); see {}", self.name, self.log.display());
            }
            if began.elapsed() > READY_TIMEOUT {
                bail!("{} is not ready; see {}", self.name, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// Whether a process says that it is.
fn ready(http: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&http, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
