//! One thing that the run does, within its limit.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// How often a program is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Of a program that failed, the last lines are told.
const LAST_LINES: usize = 25;

/// How a part went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// In a few words, what was seen.
    Passed(String),
    /// Why.
    Failed(String),
    /// It cannot be done on this machine, and need not.
    Absent(String),
}

/// A part that was done.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

/// Does a part, and says how it went.
pub(super) fn part(name: &'static str, work: impl FnOnce() -> Result<Outcome>) -> Done {
    println!("== {name}");
    let began = Instant::now();
    let outcome = work().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    match &outcome {
        Outcome::Passed(what) => println!("passed: {what}"),
        Outcome::Failed(why) => println!("FAILED: {why}"),
        Outcome::Absent(why) => println!("not done: {why}"),
    }
    Done {
        name,
        outcome,
        took: began.elapsed(),
    }
}

/// Where programs leave what they say, and when all of them have to be done.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    pub(super) folder: PathBuf,
    pub(super) until: Instant,
}

impl Logs {
    /// Runs a program and returns its standard output; both outputs are kept under `name`.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes longer than it may, and is killed; or the whole run has taken too long.
    pub(super) fn output(
        &self,
        name: &str,
        limit: Duration,
        command: &mut Command,
    ) -> Result<String> {
        let (out, errors) = (self.file(name, "out"), self.file(name, "err"));
        let open = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        command.stdout(open(&out)?).stderr(open(&errors)?);
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no time was left for {name}");
        }
        let limit = limit.min(left);
        let until = Instant::now() + limit;
        let mut process = Process::start(name, command)?;
        let status = loop {
            if let Some(status) = process.ended()? {
                break status;
            }
            if Instant::now() > until {
                process.kill();
                bail!(
                    "{name} took longer than {} s{}",
                    limit.as_secs(),
                    last(&out, &errors)
                );
            }
            std::thread::sleep(LOOK_INTERVAL);
        };
        if !status.success() {
            bail!("{name} failed ({status}){}", last(&out, &errors));
        }
        Ok(std::fs::read_to_string(&out)?)
    }

    /// A file for what a process that stays says.
    pub(super) fn stream(&self, name: &str) -> Result<Stdio> {
        let path = self.file(name, "err");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(file.into())
    }

    pub(super) fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }
}

fn last(out: &Path, errors: &Path) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let said = format!("{}{}", read(out), read(errors));
    let lines: Vec<&str> = said.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    format!(":\n{}", lines[from..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs {
            folder: folder.path().to_owned(),
            until: Instant::now() + LONG,
        };
        logs.output("it", limit, Command::new("sh").args(["-c", script]))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_a_program_says_is_returned_if_it_ends_well() {
        assert_eq!(shell("echo yes; echo no >&2", LONG).unwrap(), "yes\n");
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_last_words() {
        let error = shell("echo why >&2; exit 3", LONG).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with(":\nwhy"), "{error}");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let began = Instant::now();
        let error = shell("echo begun; exec sleep 600", Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("took longer than"), "{error}");
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn an_error_is_a_failed_part() {
        let done = part("it", || bail!("broken"));
        assert_eq!(done.outcome, Outcome::Failed("broken".into()));
    }
}
