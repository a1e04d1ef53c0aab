//! The table of all rows, for a terminal, a document and programs.

use serde_json::{Value, json};

use super::outcome::{Limits, Outcome};
use super::row::Row;

/// What the figures are from.
pub(super) struct Source {
    pub(super) machine: String,
    /// Share of its processors that others used when the command began.
    pub(super) busy: f64,
    pub(super) commit: String,
    pub(super) workers: &'static str,
    pub(super) command: &'static str,
}

/// A row that was tried.
pub(super) struct Tried {
    pub(super) row: &'static Row,
    /// Or why it could not be played.
    pub(super) result: Result<Outcome, String>,
    pub(super) wrong: Vec<String>,
}

impl Tried {
    pub(super) fn new(row: &'static Row, result: Result<Outcome, String>, limits: Limits) -> Self {
        let wrong = match &result {
            Ok(outcome) => outcome.wrong(row, limits),
            Err(error) => vec![error.clone()],
        };
        Self { row, result, wrong }
    }

    fn cells(&self, limits: Limits) -> [String; 9] {
        let verdict = match self.wrong.is_empty() {
            true => "good",
            false => "BAD",
        };
        let limit = limits.of(self.row.limit).as_secs_f64();
        let name = self.row.name.to_owned();
        let Ok(outcome) = &self.result else {
            let none = || "-".to_owned();
            let limit = format!("< {limit} s");
            return [
                name,
                none(),
                none(),
                none(),
                none(),
                none(),
                limit,
                none(),
                verdict.to_owned(),
            ];
        };
        let again = match outcome.asked_again {
            0 => String::new(),
            count => format!(" ({count} asked again)"),
        };
        [
            name,
            outcome.requests.to_string(),
            outcome.succeeded.to_string(),
            outcome.failures.len().to_string(),
            format!("{}{again}", outcome.recovered),
            format!("{:.2} s", outcome.delay_ms_max / 1e3),
            format!("< {limit} s"),
            outcome.held.len().to_string(),
            verdict.to_owned(),
        ]
    }
}

const HEADER: [&str; 9] = [
    "fault",
    "requests",
    "succeeded",
    "failed",
    "recovered",
    "time to recover",
    "limit",
    "held afterwards",
    "verdict",
];

/// Widths of the columns on a terminal.
const WIDTHS: [usize; 9] = [30, 8, 9, 6, 19, 15, 7, 15, 7];

fn line(cells: &[String; 9]) -> String {
    let padded = cells.iter().zip(WIDTHS).enumerate();
    let padded = padded.map(|(column, (cell, width))| match column {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    padded.collect::<Vec<_>>().join("  ")
}

/// Of the table on a terminal.
pub(super) fn header() -> String {
    line(&HEADER.map(str::to_owned))
}

/// A line under [`header`], and more lines about what is wrong.
pub(super) fn row(tried: &Tried, limits: Limits) -> String {
    let mut lines = vec![line(&tried.cells(limits))];
    lines.extend(tried.wrong.iter().map(|wrong| format!("    {wrong}")));
    lines.join("\n")
}

/// The same for a document.
pub(super) fn markdown(source: &Source, tried: &[Tried], limits: Limits) -> String {
    let mut lines = vec![
        format!(
            "{}, {:.0} % busy with other things when it began; commit {}; {}; `{}`.",
            source.machine,
            100.0 * source.busy,
            source.commit,
            source.workers,
            source.command
        ),
        String::new(),
        format!("| {} |", HEADER.join(" | ")),
        format!("|{}", "---|".repeat(HEADER.len())),
    ];
    let rows = tried.iter();
    lines.extend(rows.map(|tried| format!("| {} |", tried.cells(limits).join(" | "))));
    let wrong = tried.iter().filter(|tried| !tried.wrong.is_empty());
    let wrong = wrong.map(|tried| format!("- {}: {}", tried.row.name, tried.wrong.join("; ")));
    let wrong: Vec<String> = wrong.collect();
    if !wrong.is_empty() {
        lines.push(String::new());
        lines.extend(wrong);
    }
    lines.join("\n") + "\n"
}

/// The same for programs.
pub(super) fn json(source: &Source, tried: &[Tried], limits: Limits) -> Value {
    let rows = tried.iter().map(|tried| {
        json!({
            "name": tried.row.name,
            "limit_ms": limits.of(tried.row.limit).as_millis() as u64,
            "outcome": tried.result.as_ref().ok().map(Outcome::json),
            "wrong": tried.wrong,
        })
    });
    json!({
        "machine": source.machine,
        "busy": source.busy,
        "commit": source.commit,
        "workers": source.workers,
        "rows": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::faults::row::ROWS;

    const LIMITS: Limits = Limits {
        kill: Duration::from_millis(2000),
        stop: Duration::from_secs(10),
    };

    #[test]
    fn a_row_stands_under_its_header_in_both_tables() {
        let outcome = Outcome {
            requests: 5,
            succeeded: 5,
            recovered: 2,
            asked_again: 1,
            delay_ms_max: 1234.0,
            ..Outcome::default()
        };
        let good = Tried::new(&ROWS[1], Ok(outcome), LIMITS);
        let bad = Tried::new(&ROWS[4], Err("no root".to_owned()), LIMITS);
        assert_eq!(row(&good, LIMITS).len(), header().len());
        assert!(row(&bad, LIMITS).ends_with("BAD\n    no root"));
        let source = Source {
            machine: "A machine".to_owned(),
            busy: 0.1,
            commit: "abc".to_owned(),
            workers: "simulated workers",
            command: "cargo xtask faults",
        };
        expect_test::expect![[r#"
            A machine, 10 % busy with other things when it began; commit abc; simulated workers; `cargo xtask faults`.

            | fault | requests | succeeded | failed | recovered | time to recover | limit | held afterwards | verdict |
            |---|---|---|---|---|---|---|---|---|
            | kill-prefill-waiting | 5 | 5 | 0 | 2 (1 asked again) | 1.23 s | < 2 s | 0 | good |
            | stop-prefill-idle | - | - | - | - | - | < 10 s | - | BAD |

            - stop-prefill-idle: no root
        "#]]
        .assert_eq(&markdown(&source, &[good, bad], LIMITS));
    }
}
