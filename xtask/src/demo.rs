//! The demo: three processes of the binary on this machine, and one long prompt.

use std::fs::File;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Places, Process};
use crate::{binary, models, shell};

/// Starts the three roles, sends the prompt and prints the answer and what it cost. `extra` are more
/// arguments for `lava generate`.
pub(crate) fn run(extra: &[String]) -> Result<()> {
    let model = binary::model(&models::smollm2()?)?;
    let lava = binary::build()?;
    let logs = shell::target().join("demo");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;

    println!("starting a prefill worker, a decode worker and a coordinator");
    let places = [Places::free()?, Places::free()?, Places::free()?];
    let workers = [places[0].address.to_string(), places[1].address.to_string()];
    let workers = format!("workers.addresses={workers:?}");
    let names = ["prefill", "decode", "coordinator"];
    let mut roles = Vec::new();
    for ((name, places), setting) in names.iter().zip(places).zip([&model, &model, &workers]) {
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = binary::role(&lava, name, places, std::slice::from_ref(setting));
        roles.push(Process::start(name, command.stderr(file))?);
    }
    let in_logs = || format!("the logs are in {}", logs.display());
    for (role, places) in roles.iter_mut().zip(places) {
        let ready = role.wait_until_ready(places.http, "/readyz");
        ready.with_context(in_logs)?;
    }
    let address = places[2].address.to_string();

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
    shell::run(generate.args(extra)).with_context(in_logs)
}
