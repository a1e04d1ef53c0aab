//! One picture of a load.

use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::record::{Answer, Outcome, Record, in_millis};
use crate::BoxError;

const SIZE: (u32, u32) = (1000, 720);
const ANSWERED: RGBColor = RGBColor(0, 114, 178);
const LOST: RGBColor = RGBColor(196, 78, 0);
const TITLE: (&str, u32) = ("sans-serif", 22);
const LABEL: (&str, u32) = ("sans-serif", 16);

/// Names along an axis of times; more of them meet on a logarithmic one.
const TIME_LABELS_MAX: usize = 5;

/// Most points of a curve; more cannot be told apart.
const CURVE_POINTS_MAX: usize = 1000;

/// Shortest time on a logarithmic axis, milliseconds.
const MS_MIN: f64 = 0.01;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// An SVG document: times to the first token over the time of the load, with a cross for every request
/// that has no answer though its client stayed, and the distributions of times to the first token and between tokens.
///
/// # Errors
/// The drawing cannot be made, which is a bug.
pub fn plot(records: &[Record]) -> Result<String, BoxError> {
    let answers: Vec<(&Record, &Answer)> = records
        .iter()
        .filter_map(|record| match &record.outcome {
            Outcome::Answered(answer) => Some((record, answer)),
            _ => None,
        })
        .collect();
    let first_tokens = answers.iter().map(|(_, answer)| answer.first_token);
    let gaps = answers.iter().flat_map(|(_, answer)| &answer.gaps).copied();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(SIZE.1 / 2);
        let (left, right) = lower.split_horizontally(SIZE.0 / 2);
        over_time(&upper, records, &answers)?;
        distribution(&left, "Time to first token", first_tokens.collect())?;
        distribution(&right, "Time between tokens", gaps.collect())?;
        root.present()?;
    }
    Ok(svg)
}

fn over_time(
    area: &Area<'_>,
    records: &[Record],
    answers: &[(&Record, &Answer)],
) -> Result<(), BoxError> {
    let seconds_max = largest(records.iter().map(|record| record.planned.as_secs_f64()));
    let ms_max = largest(
        answers
            .iter()
            .map(|(_, answer)| in_millis(answer.first_token)),
    );
    let mut chart = ChartBuilder::on(area)
        .caption("Time to first token by planned start", TITLE)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..seconds_max * 1.02, 0.0..ms_max * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(LABEL)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .x_desc("planned start, s (orange: no answer)")
        .y_desc("ms")
        .draw()?;
    chart.draw_series(answers.iter().map(|(record, answer)| {
        let place = (record.planned.as_secs_f64(), in_millis(answer.first_token));
        Circle::new(place, 3, ANSWERED.filled())
    }))?;
    let lost = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Answered(_) | Outcome::Left(_)));
    chart
        .draw_series(lost.map(|record| Cross::new((record.planned.as_secs_f64(), 0.0), 4, LOST)))?;
    Ok(())
}

/// The share of values up to each.
fn distribution(area: &Area<'_>, title: &str, times: Vec<Duration>) -> Result<(), BoxError> {
    let curve = curve(times);
    let first = curve.first().map_or(1.0, |(ms, _)| *ms);
    let last = curve.last().map_or(10.0, |(ms, _)| *ms);
    let mut chart = ChartBuilder::on(area)
        .caption(title, TITLE)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((first / 1.2..last * 1.2).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(LABEL)
        .x_labels(TIME_LABELS_MAX)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .x_desc("ms, logarithmic")
        .y_desc("share")
        .draw()?;
    chart.draw_series(LineSeries::new(curve, ANSWERED.stroke_width(2)))?;
    Ok(())
}

/// Points of a distribution: milliseconds, and the share of values that are at most so large.
fn curve(mut times: Vec<Duration>) -> Vec<(f64, f64)> {
    times.sort_unstable();
    let count = times.len();
    let step = count.div_ceil(CURVE_POINTS_MAX).max(1);
    // The last value is always there.
    let ranks = (1..=count).filter(|rank| (count - rank).is_multiple_of(step));
    ranks
        .map(|rank| {
            let ms = in_millis(times[rank - 1]).max(MS_MIN);
            (ms, rank as f64 / count as f64)
        })
        .collect()
}

/// A round number without the digits that its binary form adds.
fn number(value: &f64) -> String {
    ((value * 1e3).round() / 1e3).to_string()
}

/// Above zero, so that an axis can end there.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    match values.fold(0.0, f64::max) {
        0.0 => 1.0,
        largest => largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::reader::Reader;

    fn record(planned: u64, outcome: Outcome) -> Record {
        Record {
            index: 0,
            planned: Duration::from_millis(planned),
            late: Duration::ZERO,
            prompt_tokens: 1,
            output_tokens_asked: 2,
            reader: Reader::Steady,
            outcome,
        }
    }

    fn answer(first_token: u64) -> Outcome {
        Outcome::Answered(Answer {
            first_token: Duration::from_millis(first_token),
            gaps: vec![Duration::ZERO, Duration::from_millis(4)],
            took: Duration::from_secs(1),
            output_tokens: 3,
            budget: 48,
            row_format: "int4".into(),
            full_bytes: 1,
            shipped_bytes: 1,
            reused_tokens: 0,
            recomputes: 0,
        })
    }

    #[test]
    fn a_curve_ends_at_the_largest_value_and_has_a_bound() {
        let times = |count: u64| (0..count).rev().map(Duration::from_millis).collect();
        assert_eq!(curve(Vec::new()), []);
        assert_eq!(curve(times(2)), [(MS_MIN, 0.5), (1.0, 1.0)]);
        let long = curve(times(12_345));
        assert!(long.len() <= CURVE_POINTS_MAX, "{}", long.len());
        assert_eq!(long.last(), Some(&(12_344.0, 1.0)));
    }

    #[test]
    fn every_answer_is_a_point_and_the_picture_exists_without_any() {
        let records = [
            record(0, answer(20)),
            record(900, answer(35)),
            record(950, Outcome::NotSent),
        ];
        let svg = plot(&records).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 2);
        for text in ["Time to first token", "Time between tokens", "ms"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(plot(&[]).unwrap().contains("<svg"));
    }
}
