//! The prompt: one command per line of standard input until it ends.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};

use super::command::{Command, HELP, Signal, parse};
use super::{Cluster, ask, status};

/// Ends with `quit` or with the input. A command that fails says so, and the next one is read.
pub(crate) fn run(cluster: &mut Cluster) -> Result<()> {
    let input = std::io::stdin();
    let by_hand = input.is_terminal();
    let mut line = String::new();
    loop {
        if by_hand {
            print!("> ");
            std::io::stdout().flush()?;
        }
        line.clear();
        if input.lock().read_line(&mut line).context("no input")? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        match parse(&line) {
            Ok(Command::Quit) => return Ok(()),
            Ok(command) => match obey(cluster, command) {
                Ok(Some(said)) => println!("{said}"),
                Ok(None) => {}
                Err(error) => println!("error: {error:#}"),
            },
            Err(refusal) => println!("{refusal}"),
        }
    }
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
