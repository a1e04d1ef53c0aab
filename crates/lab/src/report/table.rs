//! Tables of text.

use super::scale::bytes;
use super::summary::{Line, Summary};
use crate::stats::Interval;

/// Aligned columns for a terminal.
pub fn plain(summary: &Summary) -> String {
    let rows = rows(summary);
    let widths = widths(&rows);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&aligned(row, &widths, "  "));
        text.push('\n');
        if index == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&rule.join("  "));
            text.push('\n');
        }
    }
    text
}

/// Columns that hold words; the rest are numbers and stand to the right.
const NAMES: usize = 2;

/// A head and a row per line. Columns without a value anywhere are left out.
pub(super) fn rows(summary: &Summary) -> Vec<Vec<String>> {
    let baseline = summary.baseline.as_deref().unwrap_or("baseline");
    let against = format!("minus {baseline} (points)");
    let ratio = format!("KL, % of {baseline}");
    let columns: Vec<(String, Column)> = vec![
        ("task".to_owned(), |line| line.task.clone()),
        ("policy".to_owned(), |line| line.policy.clone()),
        ("budget".to_owned(), |line| {
            line.budget.clone().unwrap_or_else(|| "all".to_owned())
        }),
        ("samples".to_owned(), |line| line.samples.to_string()),
        ("cache".to_owned(), |line| bytes(line.cache_bytes)),
        ("score (%)".to_owned(), |line| {
            interval(line.score.as_ref(), 100.0, 1)
        }),
        (against, |line| {
            interval(
                line.against_baseline
                    .as_ref()
                    .map(|paired| &paired.difference),
                100.0,
                1,
            )
        }),
        ("NLL (nats)".to_owned(), |line| {
            interval(line.nll.as_ref(), 1.0, 3)
        }),
        ("KL (nats)".to_owned(), |line| {
            interval(line.kl.as_ref(), 1.0, 4)
        }),
        (ratio, |line| interval(line.kl_ratio.as_ref(), 100.0, 0)),
        ("accuracy (%)".to_owned(), |line| {
            interval(line.accuracy.as_ref(), 100.0, 1)
        }),
        ("top-1 (%)".to_owned(), |line| {
            interval(line.top1.as_ref(), 100.0, 1)
        }),
    ];
    let filled: Vec<(String, Vec<String>)> = columns
        .into_iter()
        .map(|(head, column)| (head, summary.lines.iter().map(column).collect()))
        .filter(|(_, cells): &(String, Vec<String>)| {
            cells.is_empty() || cells.iter().any(|cell| !cell.is_empty())
        })
        .collect();
    let mut rows = vec![
        filled
            .iter()
            .map(|(head, _)| head.clone())
            .collect::<Vec<_>>(),
    ];
    for index in 0..summary.lines.len() {
        rows.push(
            filled
                .iter()
                .map(|(_, cells)| cells[index].clone())
                .collect(),
        );
    }
    rows
}

type Column = fn(&Line) -> String;

/// Mean and bounds; one sample has no bounds.
pub(super) fn interval(interval: Option<&Interval>, factor: f64, digits: usize) -> String {
    let Some(Interval {
        mean,
        low,
        high,
        samples,
    }) = interval
    else {
        return String::new();
    };
    // No minus in front of a zero.
    let number = |value: f64| {
        let text = format!("{:.digits$}", value * factor);
        match text.strip_prefix('-') {
            Some(zero) if zero.bytes().all(|b| b == b'0' || b == b'.') => zero.to_owned(),
            _ => text,
        }
    };
    if *samples < 2 {
        return number(*mean);
    }
    format!("{} [{}, {}]", number(*mean), number(*low), number(*high))
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect()
}

fn aligned(row: &[String], widths: &[usize], gap: &str) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| match column {
            0..NAMES => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        })
        .collect();
    cells.join(gap).trim_end().to_owned()
}
