//! Quality against bytes.

use super::scale::{Scale, bytes};
use super::summary::{Line, Summary, setting};
use super::svg::{Anchor, Svg, colour, dash};
use super::table;
use crate::stats::Interval;

/// A quality that lines have.
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) factor: f64,
    pub(super) of: fn(&Line) -> Option<Interval>,
}

pub(super) const MEASURES: [Measure; 5] = [
    Measure {
        name: "Score",
        unit: "%, more is better",
        factor: 100.0,
        of: |line| line.score,
    },
    Measure {
        name: "Negative log-likelihood",
        unit: "nats per token, less is better",
        factor: 1.0,
        of: |line| line.nll,
    },
    Measure {
        name: "KL divergence from the full cache",
        unit: "nats per token, less is better",
        factor: 1.0,
        of: |line| line.kl,
    },
    Measure {
        name: "Accuracy on the true tokens",
        unit: "%, more is better",
        factor: 100.0,
        of: |line| line.accuracy,
    },
    Measure {
        name: "Top-1 agreement with the full cache",
        unit: "%, more is better",
        factor: 100.0,
        of: |line| line.top1,
    },
];

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 30.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 46.0;

/// One chart of one task; None if no line has the measure and a size.
pub(super) fn chart(summary: &Summary, task: &str, measure: &Measure) -> Option<String> {
    let points: Vec<(usize, &Line, Interval)> = summary
        .lines
        .iter()
        .filter(|line| line.task == task && line.cache_bytes > 0.0)
        .filter_map(|line| {
            let policy = summary
                .policies
                .iter()
                .position(|name| *name == line.policy)?;
            Some((policy, line, (measure.of)(line)?))
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let x = Scale::bytes(
        points.iter().map(|(_, line, _)| line.cache_bytes),
        LEFT,
        RIGHT,
    );
    let bounds = points
        .iter()
        .flat_map(|(_, _, value)| [value.low, value.high, value.mean]);
    let y = Scale::linear(bounds.map(|value| value * measure.factor), BOTTOM, TOP);

    let mut svg = Svg::new(WIDTH, HEIGHT);
    for (value, name) in &y.ticks {
        let at = y.at(*value);
        svg.line("grid", (LEFT, at), (RIGHT, at));
        svg.text((LEFT - 8.0, at + 4.0), Anchor::End, name);
    }
    for (value, name) in &x.ticks {
        let at = x.at(*value);
        svg.line("grid", (at, TOP), (at, BOTTOM));
        svg.text((at, BOTTOM + 17.0), Anchor::Middle, name);
    }
    svg.line("frame", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    svg.line("frame", (LEFT, TOP), (LEFT, BOTTOM));
    svg.text(
        ((LEFT + RIGHT) / 2.0, HEIGHT - 8.0),
        Anchor::Middle,
        "Cache after prefill (bytes, logarithmic)",
    );
    let unit = measure.unit.split(',').next().unwrap_or(measure.unit);
    svg.text_up(
        (16.0, (TOP + BOTTOM) / 2.0),
        &format!("{} ({unit})", short(measure.name)),
    );

    for policy in 0..summary.policies.len() {
        let mut own: Vec<(&Line, Interval)> = points
            .iter()
            .filter(|(of, _, _)| *of == policy)
            .map(|(_, line, value)| (*line, *value))
            .collect();
        own.sort_by(|a, b| a.0.cache_bytes.total_cmp(&b.0.cache_bytes));
        let class = format!("c{}", colour(policy));
        let aside = aside(policy, summary.policies.len());
        let path: Vec<(f64, f64)> = own
            .iter()
            .map(|(line, value)| {
                (
                    x.at(line.cache_bytes) + aside,
                    y.at(value.mean * measure.factor),
                )
            })
            .collect();
        if path.len() > 1 {
            svg.path(&class, dash(policy), &path);
        }
        for ((line, value), at) in own.iter().zip(&path) {
            let (low, high) = (
                y.at(value.low * measure.factor),
                y.at(value.high * measure.factor),
            );
            if high < low {
                svg.line(&class, (at.0, low), (at.0, high));
                for end in [low, high] {
                    svg.line(&class, (at.0 - 4.0, end), (at.0 + 4.0, end));
                }
            }
            let title = format!(
                "{}: {} in {}",
                setting(&line.policy, line.budget.as_deref()),
                table::interval(Some(value), measure.factor, 3),
                bytes(line.cache_bytes)
            );
            svg.mark(policy, *at, &title);
        }
    }
    Some(svg.finish(&format!("{} against cache bytes, {task}", measure.name)))
}

/// Pixels to the side, so that the bars of policies with equal bytes do not cover each other.
fn aside(policy: usize, policies: usize) -> f64 {
    let step = (20.0 / policies as f64).min(6.0);
    (policy as f64 - (policies as f64 - 1.0) / 2.0) * step
}

/// What fits along the axis.
fn short(name: &str) -> &str {
    let cut = |name: &'_ str, word| name.find(word).unwrap_or(name.len());
    let end = [" from ", " with ", " on "].map(|word| cut(name, word));
    &name[..end.into_iter().min().unwrap_or(name.len())]
}
