//! What a part measured, and where: one JSON file a part.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::figures::{list, number, text};

/// A part as it was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) commit: String,
    /// Year, month, day.
    pub(super) date: String,
    pub(super) machine: String,
    /// Share of the machine that others used just before.
    pub(super) busy: f64,
    /// What was run, without the paths of this machine.
    pub(super) commands: Vec<String>,
    /// Name and figures of each run.
    runs: Vec<(String, Value)>,
}

impl Record {
    pub(super) fn new(commit: &str, date: &str, machine: &str) -> Self {
        Self {
            commit: commit.to_owned(),
            date: date.to_owned(),
            machine: machine.to_owned(),
            busy: 0.0,
            commands: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, name: &str, figures: Value) {
        self.runs.push((name.to_owned(), figures));
    }

    /// Names and figures, in the order of the runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.runs
            .iter()
            .map(|(name, figures)| (name.as_str(), figures))
    }

    /// The figures of a run.
    pub(super) fn run(&self, name: &str) -> Result<&Value> {
        let found = self.runs().find(|(found, _)| *found == name);
        let (_, figures) = found.with_context(|| format!("there is no run {name:?}"))?;
        Ok(figures)
    }

    /// `None` if there is no such file.
    pub(super) fn read(file: &Path) -> Result<Option<Self>> {
        if !file.exists() {
            return Ok(None);
        }
        let of_file = || {
            format!(
                "cannot read {}; measure it with --again, or remove it",
                file.display()
            )
        };
        let content = std::fs::read_to_string(file).with_context(of_file)?;
        let value = serde_json::from_str(&content).with_context(of_file)?;
        Ok(Some(Self::from_json(&value).with_context(of_file)?))
    }

    /// Only a whole record ever has the file's name.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let partial = file.with_extension("part");
        let content = serde_json::to_string_pretty(&self.to_json())?;
        std::fs::write(&partial, content)
            .and_then(|()| std::fs::rename(&partial, file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn to_json(&self) -> Value {
        let run = |(name, figures): &(String, Value)| json!({"name": name, "figures": figures});
        json!({
            "commit": self.commit,
            "date": self.date,
            "machine": self.machine,
            "busy": self.busy,
            "commands": self.commands,
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let mut record = Self::new(
            text(value, "commit")?,
            text(value, "date")?,
            text(value, "machine")?,
        );
        record.busy = number(value, "busy")?;
        for command in list(value, "commands")? {
            record
                .commands
                .push(command.as_str().context("a command is no text")?.to_owned());
        }
        for run in list(value, "runs")? {
            record.push(text(run, "name")?, run["figures"].clone());
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decode.json");
        assert_eq!(Record::read(&file).unwrap(), None);
        let mut record = Record::new("abc", "2026-01-02", "a machine");
        record.busy = 0.25;
        record.commands.push("lava bench engine".to_owned());
        record.push("main", json!({"decode": [{"batch": 8}]}));
        record.write(&file).unwrap();
        let read = Record::read(&file).unwrap().unwrap();
        assert_eq!(read, record);
        assert_eq!(read.run("main").unwrap()["decode"][0]["batch"], 8);
        assert!(
            read.run("other")
                .unwrap_err()
                .to_string()
                .contains("\"other\"")
        );
        std::fs::write(&file, "{}").unwrap();
        let error = format!("{:#}", Record::read(&file).unwrap_err());
        assert!(
            error.contains("--again") && error.contains("\"commit\""),
            "{error}"
        );
    }
}
