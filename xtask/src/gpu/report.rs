//! What a run leaves: a table at its end, and a file of JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::part::{Done, Outcome};

/// Everything that was found out.
#[derive(Default)]
pub(super) struct Report {
    /// What ran where, in words.
    pub(super) facts: Map<String, Value>,
    pub(super) parts: Vec<Done>,
    /// Figures by their part.
    pub(super) figures: Map<String, Value>,
}

impl Report {
    /// Prints the table, writes the file, and fails if a part did.
    pub(super) fn close(&self, file: &Path) -> Result<()> {
        println!("\n{}", self.table());
        let parts: Vec<Value> = self.parts.iter().map(json_of).collect();
        let document = json!({
            "facts": self.facts,
            "parts": parts,
            "figures": self.figures,
        });
        std::fs::write(file, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("all of it is in {}", file.display());
        let failed: Vec<&str> = self
            .parts
            .iter()
            .filter(|done| matches!(done.outcome, Outcome::Failed(_)))
            .map(|done| done.name)
            .collect();
        match failed.is_empty() {
            true => Ok(()),
            false => bail!("failed: {}", failed.join(", ")),
        }
    }

    fn table(&self) -> String {
        let mut out = String::new();
        for (name, fact) in &self.facts {
            let fact = fact
                .as_str()
                .map_or_else(|| fact.to_string(), str::to_owned);
            let _ = writeln!(
                out,
                "{name:<10} {}",
                fact.trim().replace('\n', "\n           ")
            );
        }
        let _ = writeln!(out, "\n{:<16} {:<8} {:>7}  what", "part", "", "seconds");
        for done in &self.parts {
            let (how, what) = words(&done.outcome);
            // All of it was told when it happened.
            let what = what.lines().next().unwrap_or_default();
            let seconds = done.took.as_secs_f64();
            let _ = writeln!(out, "{:<16} {how:<8} {seconds:>7.1}  {what}", done.name);
        }
        out
    }
}

fn words(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Passed(what) => ("passed", what),
        Outcome::Failed(why) => ("FAILED", why),
        Outcome::Absent(why) => ("not done", why),
    }
}

fn json_of(done: &Done) -> Value {
    let (how, what) = words(&done.outcome);
    json!({
        "name": done.name,
        "outcome": how.to_lowercase(),
        "what": what,
        "seconds": done.took.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let done = |outcome: &Outcome| Done {
            name: "twins",
            outcome: outcome.clone(),
            took: Duration::from_millis(1500),
        };
        let mut report = Report {
            parts: outcomes.iter().map(done).collect(),
            ..Report::default()
        };
        report.facts.insert("commit".into(), "abc".into());
        report
    }

    #[test]
    fn the_table_has_a_line_for_each_part() {
        let report = report(&[
            Outcome::Passed("39 tests".into()),
            Outcome::Failed("two\nlines".into()),
            Outcome::Absent("no PyTorch".into()),
        ]);
        expect_test::expect![[r#"
            commit     abc

            part                      seconds  what
            twins            passed       1.5  39 tests
            twins            FAILED       1.5  two
            twins            not done     1.5  no PyTorch
        "#]]
        .assert_eq(&report.table());
    }

    #[test]
    fn one_part_that_failed_fails_the_run_and_the_file_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let passed = Outcome::Passed(String::new());
        let absent = Outcome::Absent(String::new());
        assert!(report(&[passed.clone(), absent]).close(&file).is_ok());
        let error = report(&[passed, Outcome::Failed("why".into())]).close(&file);
        assert_eq!(error.unwrap_err().to_string(), "failed: twins");
        let written: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(written["parts"][1]["outcome"], "failed");
        assert_eq!(written["parts"][1]["what"], "why");
    }
}
