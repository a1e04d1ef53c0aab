//! Scores of needles by length and depth.

use super::palette;
use super::summary::{Heat, setting};
use super::svg::{Anchor, Svg};

const LEFT: f64 = 64.0;
const TOP: f64 = 8.0;
const CELL: (f64, f64) = (52.0, 24.0);

pub(super) fn chart(heat: &Heat) -> String {
    let columns = heat.lengths.len() as f64;
    let rows = heat.depths_percent.len() as f64;
    let bottom = TOP + rows * CELL.1;
    let width = (LEFT + columns * CELL.0 + 24.0).max(260.0);
    let mut svg = Svg::new(width, bottom + 44.0);

    for (row, depth) in heat.depths_percent.iter().enumerate() {
        let y = TOP + row as f64 * CELL.1;
        svg.text((LEFT - 8.0, y + 16.0), Anchor::End, &depth.to_string());
        for (column, length) in heat.lengths.iter().enumerate() {
            let x = LEFT + column as f64 * CELL.0;
            let place = [x + 0.5, y + 0.5, CELL.0 - 1.0, CELL.1 - 1.0];
            let cell = heat
                .cells
                .iter()
                .find(|cell| cell.length == *length && cell.depth_percent == *depth);
            let Some(cell) = cell else {
                svg.rect("class=\"grid\" fill=\"none\"", place, "no samples");
                continue;
            };
            let (fill, text) = palette::heat(cell.score);
            let percent = format!("{:.0}", cell.score * 100.0);
            let title = format!(
                "{percent} % at {length} tokens and {depth} % depth, {} samples",
                cell.samples
            );
            svg.rect(&format!("fill=\"{fill}\""), place, &title);
            svg.text_on((x + CELL.0 / 2.0, y + 16.0), text, &percent);
        }
    }
    for (column, length) in heat.lengths.iter().enumerate() {
        let x = LEFT + (column as f64 + 0.5) * CELL.0;
        svg.text((x, bottom + 16.0), Anchor::Middle, &length.to_string());
    }
    let middle = (LEFT + columns * CELL.0 / 2.0).max(130.0);
    svg.text(
        (middle, bottom + 36.0),
        Anchor::Middle,
        "Length of the prompt (tokens)",
    );
    // Along the axis if there is room for the words.
    let axis = if rows * CELL.1 >= 80.0 {
        "Depth (%)"
    } else {
        "%"
    };
    svg.text_up((16.0, (TOP + bottom) / 2.0), axis);
    svg.finish(&format!(
        "Score by length and depth, {}, {}",
        heat.task,
        setting(&heat.policy, heat.budget.as_deref())
    ))
}

/// What the colours mean.
pub(super) fn legend() -> String {
    let mut svg = Svg::new(360.0, 24.0);
    svg.text((0.0, 16.0), Anchor::Start, "Score (%)");
    for (index, percent) in [0, 25, 50, 75, 100].into_iter().enumerate() {
        let x = 80.0 + index as f64 * 54.0;
        let (fill, text) = palette::heat(f64::from(percent) / 100.0);
        svg.rect(&format!("fill=\"{fill}\""), [x, 0.0, 54.0, 24.0], "score");
        svg.text_on((x + 27.0, 16.0), text, &percent.to_string());
    }
    svg.finish("Colours from a score of 0 to 100 %")
}
