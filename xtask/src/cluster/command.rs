//! What can be typed at the prompt.

/// Most asks of one `load`; each is a process.
pub(crate) const LOAD_MAX: usize = 64;

/// One line of the prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Status,
    /// To one process, by its name.
    Send(Signal, String),
    Start(String),
    Wipe,
    Ask(String),
    Load(usize),
    Help,
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Kill,
    Stop,
    Cont,
    Term,
}

impl Signal {
    /// Without SIG.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
            Self::Term => "TERM",
        }
    }
}

pub(crate) const HELP: &str = "\
status       what every process does
kill NAME    SIGKILL: it is gone at once
stop NAME    SIGSTOP: it hangs, its connections stay open
cont NAME    SIGCONT: it goes on
term NAME    SIGTERM: it drains and ends; one that is stopped does so after cont
start NAME   start it again after it ended; workers get new ports
wipe         kill etcd, remove its data, start it again
ask TEXT     send a prompt to the first coordinator that is ready
load N       send N prompts at once, in the background, to all coordinators that are ready
help         this
quit         kill everything and leave, as the end of input does";

/// Reads one line. The names of processes are not known here.
///
/// # Errors
///
/// The line is no command; the text says what would be one.
pub(crate) fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim();
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let name = || match rest.is_empty() || rest.contains(char::is_whitespace) {
        true => Err(format!("{verb} takes the name of one process")),
        false => Ok(rest.to_owned()),
    };
    let alone = |command| match rest.is_empty() {
        true => Ok(command),
        false => Err(format!("{verb} takes no argument, found {rest:?}")),
    };
    match verb {
        "status" => alone(Command::Status),
        "kill" => Ok(Command::Send(Signal::Kill, name()?)),
        "stop" => Ok(Command::Send(Signal::Stop, name()?)),
        "cont" => Ok(Command::Send(Signal::Cont, name()?)),
        "term" => Ok(Command::Send(Signal::Term, name()?)),
        "start" => Ok(Command::Start(name()?)),
        "wipe" => alone(Command::Wipe),
        "ask" if rest.is_empty() => Err("ask takes a text".to_owned()),
        "ask" => Ok(Command::Ask(rest.to_owned())),
        "load" => match rest.parse() {
            Ok(count @ 1..=LOAD_MAX) => Ok(Command::Load(count)),
            _ => Err(format!("load takes a number of asks, 1 to {LOAD_MAX}")),
        },
        "help" => alone(Command::Help),
        "quit" => alone(Command::Quit),
        _ => Err(format!("{verb:?} is no command; there are {}", verbs())),
    }
}

/// The first words of the help.
fn verbs() -> String {
    let verbs = HELP.lines().filter_map(|line| line.split(' ').next());
    verbs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read() {
        let send = |signal, name: &str| Command::Send(signal, name.to_owned());
        for (line, expected) in [
            ("status", Command::Status),
            ("  status \n", Command::Status),
            ("kill decode-1", send(Signal::Kill, "decode-1")),
            ("stop\tetcd-1", send(Signal::Stop, "etcd-1")),
            ("cont  etcd-1", send(Signal::Cont, "etcd-1")),
            ("term coordinator-1", send(Signal::Term, "coordinator-1")),
            ("start prefill-2", Command::Start("prefill-2".to_owned())),
            ("wipe", Command::Wipe),
            (
                "ask  What is  a cache? ",
                Command::Ask("What is  a cache?".to_owned()),
            ),
            ("load 1", Command::Load(1)),
            ("load 64", Command::Load(64)),
            ("help", Command::Help),
            ("quit", Command::Quit),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_would_do() {
        for (line, expected) in [
            ("kill", "kill takes the name of one process"),
            ("start a b", "start takes the name of one process"),
            ("ask ", "ask takes a text"),
            ("load", "load takes a number of asks, 1 to 64"),
            ("load 0", "load takes a number of asks, 1 to 64"),
            ("load 65", "load takes a number of asks, 1 to 64"),
            ("load -1", "load takes a number of asks, 1 to 64"),
            ("wipe etcd-1", "wipe takes no argument, found \"etcd-1\""),
            (
                "halt decode-1",
                "\"halt\" is no command; there are status, kill, stop, cont, term, start, wipe, ask, load, help, quit",
            ),
        ] {
            assert_eq!(parse(line), Err(expected.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn every_verb_of_the_help_is_a_command() {
        for verb in verbs().split(", ") {
            let as_command = ["", " x", " 1"].map(|rest| parse(&format!("{verb}{rest}")));
            assert!(as_command.iter().any(Result::is_ok), "{verb}");
        }
    }
}
