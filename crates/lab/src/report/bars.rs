//! Rows that layers keep.

use super::scale::Scale;
use super::summary::{Layers, Summary, setting};
use super::svg::{Anchor, Svg, colour};

const WIDTH: f64 = 500.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 10.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 46.0;
/// Between the named layers, so that names of three digits do not touch.
const NAME_WIDTH: f64 = 28.0;

/// `rows_max` is the same for all charts of a budget, so that their heights compare.
pub(super) fn chart(summary: &Summary, layers: &Layers, rows_max: f64) -> String {
    let policy = summary
        .policies
        .iter()
        .position(|name| *name == layers.policy);
    let class = format!("class=\"f{}\"", colour(policy.unwrap_or(0)));
    let y = Scale::linear([0.0, rows_max].into_iter(), BOTTOM, TOP);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    for (value, name) in &y.ticks {
        let at = y.at(*value);
        svg.line("grid", (LEFT, at), (RIGHT, at));
        svg.text((LEFT - 8.0, at + 4.0), Anchor::End, name);
    }
    let slot = (RIGHT - LEFT) / layers.rows.len().max(1) as f64;
    let named_every = (NAME_WIDTH / slot).ceil().max(1.0) as usize;
    for (index, rows) in layers.rows.iter().enumerate() {
        let x = LEFT + index as f64 * slot;
        let top = y.at(*rows);
        let place = [x + slot * 0.1, top, slot * 0.8, BOTTOM - top];
        svg.rect(&class, place, &format!("layer {index}: {rows:.1} rows"));
        if index % named_every == 0 {
            svg.text(
                (x + slot / 2.0, BOTTOM + 17.0),
                Anchor::Middle,
                &index.to_string(),
            );
        }
    }
    svg.line("frame", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    svg.text(
        ((LEFT + RIGHT) / 2.0, HEIGHT - 8.0),
        Anchor::Middle,
        "Layer",
    );
    svg.text_up((16.0, (TOP + BOTTOM) / 2.0), "Rows, all heads");
    svg.finish(&format!(
        "Rows kept per layer, {}",
        setting(&layers.policy, layers.budget.as_deref())
    ))
}
