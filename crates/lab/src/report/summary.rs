//! The arithmetic of a report.

use std::collections::{BTreeMap, BTreeSet};

use lava::Budget;
use serde::Serialize;

use crate::results::{Header, Record};
use crate::stats::{self, Interval, Paired};

/// The task of lines that average over all tasks.
pub(super) const ALL_TASKS: &str = "all tasks";

/// Everything that a report shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Settings of the run, by name.
    pub facts: BTreeMap<String, String>,
    /// What scores are compared with, if there is such a policy among the records.
    pub baseline: Option<String>,
    /// Names of all policies, sorted; a policy's place is its colour.
    pub policies: Vec<String>,
    /// By task, policy and budget. With several tasks, the mean over them comes first.
    pub lines: Vec<Line>,
    /// By task, policy and budget, where samples have a length and a depth.
    pub heats: Vec<Heat>,
    /// By policy and budget, where records have the rows of layers.
    pub layers: Vec<Layers>,
}

/// What one policy with one budget made of one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The task's name.
    pub task: String,
    /// The policy's name.
    pub policy: String,
    /// As it was asked for; None where nothing is evicted.
    pub budget: Option<String>,
    /// Records behind the line.
    pub samples: usize,
    /// Mean bytes of the cache after prefill.
    pub cache_bytes: f64,
    /// 0 to 1.
    pub score: Option<Interval>,
    /// Nats per token.
    pub nll: Option<Interval>,
    /// Nats per token.
    pub kl: Option<Interval>,
    /// 0 to 1.
    pub accuracy: Option<Interval>,
    /// 0 to 1.
    pub top1: Option<Interval>,
    /// Score against the baseline's on the same samples.
    pub against_baseline: Option<Paired>,
    /// Mean divergence over the baseline's at the same budget, on the same samples.
    pub kl_ratio: Option<Interval>,
}

/// Scores by length and depth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Heat {
    /// The task's name.
    pub task: String,
    /// The policy's name.
    pub policy: String,
    /// As it was asked for; None where nothing is evicted.
    pub budget: Option<String>,
    /// Tokens, ascending: the columns.
    pub lengths: Vec<u64>,
    /// Hundredths of the text, ascending: the rows.
    pub depths_percent: Vec<u64>,
    /// Those that have samples, by depth and length.
    pub cells: Vec<Cell>,
}

/// One cell of a [`Heat`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    /// Tokens.
    pub length: u64,
    /// Hundredths of the text.
    pub depth_percent: u64,
    /// Mean, 0 to 1.
    pub score: f64,
    /// Samples behind it.
    pub samples: usize,
}

/// Rows that each layer kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layers {
    /// The policy's name.
    pub policy: String,
    /// As it was asked for; None where nothing is evicted.
    pub budget: Option<String>,
    /// `[L]`: mean over all records, of all KV heads together.
    pub rows: Vec<f64>,
}

/// Task, policy, budget.
type Setting<'a> = (&'a str, &'a str, Option<Budget>);
/// A policy at a budget.
type Point<'a> = (&'a str, Option<Budget>);
type Group<'a> = Vec<&'a Record>;

/// Summarises the records of one run. `baseline` is the policy that the others are compared with,
/// at its greatest budget. The order of the records does not matter.
pub fn summarize(header: &Header, records: &[Record], baseline: &str) -> Summary {
    let mut sorted: Group = records.iter().collect();
    sorted.sort_by_cached_key(|record| record.key());
    let mut groups: BTreeMap<Setting, Group> = BTreeMap::new();
    for &record in &sorted {
        let setting = (
            record.task.as_str(),
            record.policy.as_str(),
            budget_of(record),
        );
        groups.entry(setting).or_default().push(record);
    }
    let reference = baseline_scores(&sorted, baseline);
    let of_group = |(setting, group): (&Setting, &Group)| {
        let same = groups.get(&(setting.0, baseline, setting.2));
        let same = same.map_or(&[][..], Vec::as_slice);
        line(*setting, group, header.seed, baseline, &reference, same)
    };
    let mut lines = over_tasks(&groups, header.seed);
    lines.extend(groups.iter().map(of_group));
    let policies: BTreeSet<&str> = sorted.iter().map(|record| record.policy.as_str()).collect();
    Summary {
        facts: header.entries(),
        baseline: policies.contains(baseline).then(|| baseline.to_owned()),
        policies: policies.into_iter().map(str::to_owned).collect(),
        lines,
        heats: groups.iter().filter_map(|(s, g)| heat(*s, g)).collect(),
        layers: layers(&sorted),
    }
}

/// Scores of the baseline by task and sample; the greatest budget wins, and none at all is the
/// greatest.
fn baseline_scores<'a>(sorted: &[&'a Record], baseline: &str) -> BTreeMap<(&'a str, &'a str), f64> {
    let mut found: BTreeMap<(&str, &str), (Greatness, f64)> = BTreeMap::new();
    for record in sorted.iter().filter(|record| record.policy == baseline) {
        let Some(score) = record.score else { continue };
        let budget = greatness(budget_of(record));
        let entry = found
            .entry((&record.task, &record.sample))
            .or_insert((budget, score));
        if budget > entry.0 {
            *entry = (budget, score);
        }
    }
    found
        .into_iter()
        .map(|(key, (_, score))| (key, score))
        .collect()
}

fn line(
    (task, policy, budget): Setting,
    group: &[&Record],
    seed: u64,
    baseline: &str,
    reference: &BTreeMap<(&str, &str), f64>,
    baseline_group: &[&Record],
) -> Line {
    let interval = |of: fn(&Record) -> Option<f64>| {
        let values: Vec<f64> = group.iter().filter_map(|record| of(record)).collect();
        stats::mean(&values, seed)
    };
    let pairs: Vec<(f64, f64)> = group
        .iter()
        .filter(|record| record.policy != baseline)
        .filter_map(|record| {
            let reference = reference.get(&(record.task.as_str(), record.sample.as_str()))?;
            Some((record.score?, *reference))
        })
        .collect();
    let of_baseline: BTreeMap<&str, f64> = baseline_group
        .iter()
        .filter_map(|record| Some((record.sample.as_str(), record.kl?)))
        .collect();
    let divergences: Vec<(f64, f64)> = group
        .iter()
        .filter(|record| record.policy != baseline)
        .filter_map(|record| Some((record.kl?, *of_baseline.get(record.sample.as_str())?)))
        .collect();
    Line {
        task: task.to_owned(),
        policy: policy.to_owned(),
        budget: budget.map(|budget| budget.to_string()),
        samples: group.len(),
        cache_bytes: mean_bytes(group),
        score: interval(|record| record.score),
        nll: interval(|record| record.nll),
        kl: interval(|record| record.kl),
        accuracy: interval(|record| record.accuracy),
        top1: interval(|record| record.top1),
        against_baseline: stats::paired(&pairs, seed),
        kl_ratio: stats::ratio(&divergences, seed),
    }
}

fn mean_bytes(group: &[&Record]) -> f64 {
    let sum: f64 = group.iter().map(|record| record.cache_bytes as f64).sum();
    sum / group.len().max(1) as f64
}

/// Means over tasks, for each policy and budget that has scores of every task that has any.
fn over_tasks(groups: &BTreeMap<Setting, Group>, seed: u64) -> Vec<Line> {
    let mut by_policy: BTreeMap<Point, Vec<Vec<f64>>> = BTreeMap::new();
    let mut bytes: BTreeMap<Point, Vec<f64>> = BTreeMap::new();
    let mut tasks = BTreeSet::new();
    for ((task, policy, budget), group) in groups {
        let scores: Vec<f64> = group.iter().filter_map(|record| record.score).collect();
        if scores.is_empty() {
            continue;
        }
        tasks.insert(task);
        by_policy.entry((policy, *budget)).or_default().push(scores);
        bytes
            .entry((policy, *budget))
            .or_default()
            .push(mean_bytes(group));
    }
    if tasks.len() < 2 {
        return Vec::new();
    }
    let complete = by_policy
        .iter()
        .filter(|(_, scores)| scores.len() == tasks.len());
    complete
        .map(|(key, scores)| {
            let scores: Vec<&[f64]> = scores.iter().map(Vec::as_slice).collect();
            let sizes = &bytes[key];
            Line {
                task: ALL_TASKS.to_owned(),
                policy: key.0.to_owned(),
                budget: key.1.map(|budget| budget.to_string()),
                samples: scores.iter().map(|group| group.len()).sum(),
                cache_bytes: sizes.iter().sum::<f64>() / sizes.len() as f64,
                score: stats::mean_of_means(&scores, seed),
                nll: None,
                kl: None,
                accuracy: None,
                top1: None,
                against_baseline: None,
                kl_ratio: None,
            }
        })
        .collect()
}

fn heat((task, policy, budget): Setting, group: &[&Record]) -> Option<Heat> {
    let mut sums: BTreeMap<(u64, u64), (f64, usize)> = BTreeMap::new();
    for record in group {
        if let (Some(length), Some(depth), Some(score)) =
            (record.length, record.depth, record.score)
        {
            let percent = (depth.clamp(0.0, 1.0) * 100.0).round() as u64;
            let sum = sums.entry((percent, length)).or_default();
            *sum = (sum.0 + score, sum.1 + 1);
        }
    }
    if sums.is_empty() {
        return None;
    }
    let lengths: BTreeSet<u64> = sums.keys().map(|(_, length)| *length).collect();
    let depths: BTreeSet<u64> = sums.keys().map(|(depth, _)| *depth).collect();
    let cell = |((depth_percent, length), (sum, samples)): ((u64, u64), (f64, usize))| Cell {
        length,
        depth_percent,
        score: sum / samples as f64,
        samples,
    };
    Some(Heat {
        task: task.to_owned(),
        policy: policy.to_owned(),
        budget: budget.map(|budget| budget.to_string()),
        lengths: lengths.into_iter().collect(),
        depths_percent: depths.into_iter().collect(),
        cells: sums.into_iter().map(cell).collect(),
    })
}

/// Records with another number of layers than the first of their group are left out; one run has
/// one model.
fn layers(sorted: &[&Record]) -> Vec<Layers> {
    let mut sums: BTreeMap<Point, (Vec<f64>, usize)> = BTreeMap::new();
    for record in sorted.iter().filter(|record| !record.layer_rows.is_empty()) {
        let count = record.layer_rows.len();
        let key = (record.policy.as_str(), budget_of(record));
        let (sum, records) = sums.entry(key).or_insert_with(|| (vec![0.0; count], 0));
        if sum.len() != count {
            continue;
        }
        for (total, rows) in sum.iter_mut().zip(&record.layer_rows) {
            *total += *rows as f64;
        }
        *records += 1;
    }
    sums.into_iter()
        .map(|((policy, budget), (sum, records))| Layers {
            policy: policy.to_owned(),
            budget: budget.map(|budget| budget.to_string()),
            rows: sum.iter().map(|total| total / records as f64).collect(),
        })
        .collect()
}

/// A record's budget, if it has one that can be read.
fn budget_of(record: &Record) -> Option<Budget> {
    record.budget.as_ref()?.parse().ok()
}

/// Sorts budgets: entries, shares, bytes, and then none at all.
type Greatness = (bool, Option<Budget>);

/// See [`Greatness`].
pub(super) fn greatness(budget: Option<Budget>) -> Greatness {
    (budget.is_none(), budget)
}

/// A policy with its budget, as reports write it.
pub(super) fn setting(policy: &str, budget: Option<&str>) -> String {
    match budget.map(|budget| (budget, budget.parse())) {
        Some((budget, Ok(Budget::Entries(_)))) => format!("{policy}, {budget} rows"),
        Some((budget, _)) => format!("{policy}, {budget}"),
        None => policy.to_owned(),
    }
}
