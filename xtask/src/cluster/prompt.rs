//! The prompt: one command per line of input until it ends.

use std::io::{BufRead, Write};

use anyhow::{Context, Error, Result};

use super::command::{Command, HELP, Signal, parse};
use super::{Cluster, ask, status};

/// Somebody at a terminal. Ends with `quit` or with the input. A command that fails says so, and the next one is read.
pub(crate) fn by_hand(cluster: &mut Cluster) -> Result<()> {
    let input = std::io::stdin();
    let mut line = String::new();
    loop {
        print!("> ");
        std::io::stdout().flush()?;
        line.clear();
        if input.lock().read_line(&mut line).context("no input")? == 0 {
            return Ok(());
        }
        match take(cluster, &line) {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => return Ok(()),
            Err(error) => println!("error: {error:#}"),
        }
    }
}

/// A script. Ends with `quit`, with the input, or with the first command that fails.
pub(crate) fn script(cluster: &mut Cluster, input: impl BufRead) -> Result<()> {
    for line in input.lines() {
        let line = line.context("no input")?;
        match take(cluster, &line).with_context(|| format!("{line:?} failed"))? {
            Next::Go => {}
            Next::Quit => break,
        }
    }
    Ok(())
}

enum Next {
    Go,
    Quit,
}

/// Obeys one line and prints what there is to say.
fn take(cluster: &mut Cluster, line: &str) -> Result<Next> {
    if line.trim().is_empty() {
        return Ok(Next::Go);
    }
    match parse(line).map_err(Error::msg)? {
        Command::Quit => return Ok(Next::Quit),
        command => {
            if let Some(said) = obey(cluster, command)? {
                println!("{said}");
            }
        }
    }
    Ok(Next::Go)
}

/// Returns what is left to say.
fn obey(cluster: &mut Cluster, command: Command) -> Result<Option<String>> {
    let lava = cluster.launch.lava.clone();
    let said = match command {
        Command::Status => status::status(&mut cluster.members)?.trim_end().to_owned(),
        Command::Send(signal, name) => {
            cluster.member(&name)?.send(signal)?;
            match signal {
                Signal::Kill => format!("{name} is dead"),
                Signal::Stop => format!("{name} is stopped"),
                Signal::Cont => format!("{name} goes on"),
                Signal::Term => format!("{name} was told to end"),
            }
        }
        Command::Start(name) => {
            let address = cluster.restart(&name)?;
            format!("{name} starts at {address}")
        }
        Command::Wipe => {
            cluster.wipe()?;
            "etcd is back and knows nothing".to_owned()
        }
        Command::Ask(text) => {
            let coordinators = cluster.ready_coordinators()?;
            ask::ask(&lava, coordinators[0], &text)?;
            return Ok(None);
        }
        Command::Load(count) => {
            let coordinators = cluster.ready_coordinators()?;
            ask::load(&lava, &coordinators, count, &cluster.launch.guard)?;
            format!("{count} prompts are under way")
        }
        Command::Help => HELP.to_owned(),
        Command::Quit => return Ok(None),
    };
    Ok(Some(said))
}
