//! Tables for documents: policies down, budgets across.

use std::collections::BTreeMap;

use lava::Budget;

use super::summary::{Line, Summary, greatness};
use super::table::interval;
use crate::stats::Interval;

/// A number that lines have, and which way is better.
struct Measure {
    name: &'static str,
    factor: f64,
    digits: usize,
    less_is_better: bool,
    of: fn(&Line) -> Option<Interval>,
}

const MEASURES: [Measure; 6] = [
    Measure {
        name: "KL to the full cache (nats per token)",
        factor: 1.0,
        digits: 3,
        less_is_better: true,
        of: |line| line.kl,
    },
    Measure {
        name: "KL as a share of the baseline policy's (%)",
        factor: 100.0,
        digits: 0,
        less_is_better: true,
        of: |line| line.kl_ratio,
    },
    Measure {
        name: "accuracy on the true tokens (%)",
        factor: 100.0,
        digits: 0,
        less_is_better: false,
        of: |line| line.accuracy,
    },
    Measure {
        name: "NLL of the true tokens (nats per token)",
        factor: 1.0,
        digits: 3,
        less_is_better: true,
        of: |line| line.nll,
    },
    Measure {
        name: "top-1 agreement with the full cache (%)",
        factor: 100.0,
        digits: 0,
        less_is_better: false,
        of: |line| line.top1,
    },
    Measure {
        name: "score of the generated answer (%)",
        factor: 100.0,
        digits: 0,
        less_is_better: false,
        of: |line| line.score,
    },
];

/// One Markdown table per task and measure: a row per policy, best on average first, a column per
/// budget, means with 95 % intervals.
pub fn markdown(summary: &Summary) -> String {
    let mut tasks: Vec<&str> = summary.lines.iter().map(|l| l.task.as_str()).collect();
    tasks.dedup();
    let mut text = String::new();
    for task in tasks {
        for measure in &MEASURES {
            let lines: Vec<&Line> = summary.lines.iter().filter(|l| l.task == task).collect();
            if let Some(table) = table(&lines, measure) {
                text.push_str(&format!("**{task}: {}**\n\n{table}\n", measure.name));
            }
        }
    }
    text
}

fn table(lines: &[&Line], measure: &Measure) -> Option<String> {
    let mut rows: BTreeMap<&str, BTreeMap<Option<&str>, Interval>> = BTreeMap::new();
    for line in lines {
        if let Some(value) = (measure.of)(line) {
            let row = rows.entry(&line.policy).or_default();
            row.insert(line.budget.as_deref(), value);
        }
    }
    let mut budgets: Vec<Option<&str>> =
        rows.values().flat_map(|row| row.keys().copied()).collect();
    budgets.sort_by_key(|budget| greatness(budget.and_then(|budget| budget.parse().ok())));
    budgets.dedup();
    if rows.is_empty() {
        return None;
    }
    let mut ranked: Vec<_> = rows.into_iter().collect();
    ranked.sort_by(|(_, a), (_, b)| {
        let order = mean(a).total_cmp(&mean(b));
        match measure.less_is_better {
            true => order,
            false => order.reverse(),
        }
    });
    let head = budgets.iter().map(|budget| match budget {
        Some(budget) => match budget.parse() {
            Ok(Budget::Entries(_)) => format!("b = {budget}"),
            _ => (*budget).to_owned(),
        },
        None => "everything".to_owned(),
    });
    let head: Vec<String> = head.collect();
    let mut text = format!("| policy | {} |\n", head.join(" | "));
    text.push_str(&format!("|---|{}\n", "---:|".repeat(budgets.len())));
    for (policy, row) in ranked {
        let cells = budgets
            .iter()
            .map(|budget| interval(row.get(budget), measure.factor, measure.digits));
        let cells: Vec<String> = cells.collect();
        text.push_str(&format!("| `{policy}` | {} |\n", cells.join(" | ")));
    }
    Some(text)
}

fn mean(row: &BTreeMap<Option<&str>, Interval>) -> f64 {
    row.values().map(|value| value.mean).sum::<f64>() / row.len() as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;

    use super::*;
    use crate::report::summarize;
    use crate::results::{FORMAT, Header, Record};

    #[test]
    fn policies_down_and_budgets_across_best_first() {
        let record = |policy: &str, budget: Option<&str>, sample: &str, kl, accuracy| Record {
            task: "lm".to_owned(),
            sample: sample.to_owned(),
            policy: policy.to_owned(),
            budget: budget.map(str::to_owned),
            kl: Some(kl),
            accuracy: Some(accuracy),
            ..Record::default()
        };
        let header = Header {
            lava_eval: FORMAT,
            model: String::new(),
            model_digest: String::new(),
            commit: String::new(),
            seed: 1,
            texts: BTreeMap::new(),
            settings: BTreeMap::new(),
        };
        let records = [
            record("b", Some("64"), "x", 0.5, 0.5),
            record("b", Some("128"), "x", 0.25, 0.75),
            record("a", Some("64"), "x", 1.0, 0.25),
            record("full", None, "x", 0.0, 1.0),
        ];
        let text = markdown(&summarize(&header, &records, "a"));
        expect![[r#"
            **lm: KL to the full cache (nats per token)**

            | policy | b = 64 | b = 128 | everything |
            |---|---:|---:|---:|
            | `full` |  |  | 0.000 |
            | `b` | 0.500 | 0.250 |  |
            | `a` | 1.000 |  |  |

            **lm: KL as a share of the baseline policy's (%)**

            | policy | b = 64 |
            |---|---:|
            | `b` | 50 |

            **lm: accuracy on the true tokens (%)**

            | policy | b = 64 | b = 128 | everything |
            |---|---:|---:|---:|
            | `full` |  |  | 100 |
            | `b` | 50 | 75 |  |
            | `a` | 25 |  |  |

        "#]]
        .assert_eq(&text);
    }
}
