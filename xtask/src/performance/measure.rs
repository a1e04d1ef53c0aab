//! Running a part.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::parts::{Part, Run, runs};
use super::record::Record;
use super::{llama, machine};
use crate::shell;

/// Share of the machine that others may use before figures are in doubt.
const BUSY_MAX: f64 = 0.05;

/// How everything is measured.
pub(super) struct Bench {
    /// The binary.
    pub(super) lava: PathBuf,
    /// Where records are.
    pub(super) folder: PathBuf,
    /// Of each engine.
    pub(super) threads: u16,
    /// With tiny sizes.
    pub(super) quick: bool,
    pub(super) trace: Option<PathBuf>,
    /// In words, with the build.
    pub(super) machine: String,
    pub(super) commit: String,
}

impl Bench {
    /// What was measured of a part, now or earlier.
    pub(super) fn recorded(&self, part: Part) -> Result<Option<Record>> {
        Record::read(&self.file(part))
    }

    /// Whether measuring would run the same again.
    pub(super) fn is_current(&self, part: Part, record: &Record) -> bool {
        record.commit == self.commit
            && record.machine == self.machine
            && record.commands == self.commands(part)
    }

    /// Runs a part and keeps its record.
    pub(super) fn measure(&self, part: Part) -> Result<Record> {
        let mut date = shell::program("date");
        let date = shell::output(date.args(["-u", "+%Y-%m-%d"]))?;
        let mut record = Record::new(&self.commit, date.trim(), &self.machine);
        record.commands = self.commands(part);
        record.busy = machine::busy()?;
        if record.busy > BUSY_MAX {
            let percent = 100.0 * record.busy;
            eprintln!(
                "warning: others use {percent:.0} % of this machine; the figures will say so"
            );
        }
        if part == Part::Llama {
            let python = llama::python()?;
            for comparison in llama::comparisons(self.quick) {
                record.push(comparison.name, comparison.measure(self, &python)?);
            }
        }
        for run in runs(part, self.quick, self.trace.as_deref()) {
            record.push(run.name, self.run(&run)?);
        }
        record.write(&self.file(part))?;
        Ok(record)
    }

    /// Runs `lava bench` to its end and returns its JSON.
    pub(super) fn run(&self, run: &Run) -> Result<Value> {
        let json = self.folder.join("last-run.json");
        let mut lava = Command::new(&self.lava);
        lava.env("RAYON_NUM_THREADS", self.threads.to_string());
        lava.arg("bench").args(&run.arguments);
        lava.arg("--model").arg(run.model.path()?);
        if let Some(trace) = &run.trace {
            lava.arg("--trace").arg(trace);
        }
        shell::run(lava.arg("--json").arg(&json))?;
        read(&json)
    }

    fn commands(&self, part: Part) -> Vec<String> {
        if part == Part::Llama {
            let of = |one: &llama::Comparison| one.commands(self.threads);
            return llama::comparisons(self.quick).iter().flat_map(of).collect();
        }
        let runs = runs(part, self.quick, self.trace.as_deref());
        runs.iter().map(|run| run.shown(self.threads)).collect()
    }

    fn file(&self, part: Part) -> PathBuf {
        self.folder.join(part.name()).with_extension("json")
    }
}

fn read(json: &Path) -> Result<Value> {
    let content = std::fs::read_to_string(json);
    let content = content.with_context(|| format!("cannot read {}", json.display()))?;
    serde_json::from_str(&content).with_context(|| format!("{} is not JSON", json.display()))
}
