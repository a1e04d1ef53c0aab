//! Prompts for the coordinators: one on the terminal, or many in the background.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use super::guard::Guard;
use crate::process::Process;
use crate::shell;

/// One prompt; the answer is shown as it comes.
pub(crate) fn ask(lava: &Path, coordinator: SocketAddr, prompt: &str) -> Result<()> {
    shell::run(generate(lava, coordinator, prompt).stdin(Stdio::null()))
}

/// `count` prompts at once, to the coordinators in turn. How they ended is printed when all have.
pub(crate) fn load(
    lava: &Path,
    coordinators: &[SocketAddr],
    count: usize,
    guard: &Guard,
) -> Result<()> {
    let mut asks = Vec::new();
    for (number, coordinator) in (1..=count).zip(coordinators.iter().cycle()) {
        let prompt = format!("Tell a story in which the number {number} matters.");
        let mut command = generate(lava, *coordinator, &prompt);
        guard.adopt(&mut command);
        // What went wrong is in the log of the coordinator.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        asks.push(Process::start("ask", &mut command)?);
    }
    std::thread::spawn(move || {
        let ended = asks.iter_mut().map(Process::wait);
        let good = |end: &Result<_>| end.as_ref().is_ok_and(std::process::ExitStatus::success);
        let completed = ended.filter(good).count();
        let failed = count - completed;
        println!("load {count}: {completed} completed, {failed} failed");
    });
    Ok(())
}

fn generate(lava: &Path, coordinator: SocketAddr, prompt: &str) -> Command {
    let mut command = Command::new(lava);
    command.args(["generate", "--addr", &coordinator.to_string()]);
    // A prompt may begin with a dash.
    command.arg(format!("--prompt={prompt}"));
    command.args(["--budget", "128", "--max-tokens", "64"]);
    command
}
