//! Axes: where a value lies, which values are named, and how.

/// Maps values of one axis to pixels.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
    /// Values to name, with their names.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Names along a linear axis.
const TICKS_MAX: usize = 7;
/// Names along an axis of bytes, which are at most seven letters.
const TICKS_BYTES_MAX: usize = 9;

impl Scale {
    /// Bytes by powers of two that enclose all of `values`, which are positive; pixels `from` at
    /// the lowest `to` the highest.
    pub(super) fn bytes(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (low, high) = range(values.map(f64::log2), 20.0);
        let (low, mut high) = (low.floor(), high.ceil());
        if high <= low {
            high = low + 1.0;
        }
        let step = ((high - low) / (TICKS_BYTES_MAX - 1) as f64)
            .ceil()
            .max(1.0);
        let ticks = steps(low, high, step).map(|exponent| {
            let value = exponent.exp2();
            (value, bytes(value))
        });
        Scale {
            low,
            high,
            from,
            to,
            log: true,
            ticks: ticks.collect(),
        }
    }

    /// Round numbers that enclose all of `values`.
    pub(super) fn linear(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (low, mut high) = range(values, 0.0);
        if high - low < 1e-9 * low.abs().max(1e-6) {
            high = low + low.abs().max(1.0) * 0.1;
        }
        let raw = (high - low) / (TICKS_MAX - 2) as f64;
        let magnitude = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * magnitude)
            .find(|step| *step >= raw * 0.999_999)
            .unwrap_or(10.0 * magnitude);
        let low = (low / step + 1e-9).floor() * step;
        let high = (high / step - 1e-9).ceil() * step;
        let most = low.abs().max(high.abs());
        let ticks = steps(low, high, step).map(|value| (value, round(value, step, most)));
        Scale {
            low,
            high,
            from,
            to,
            log: false,
            ticks: ticks.collect(),
        }
    }

    /// The pixel of a value, inside the axis for every value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.log2() } else { value };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        // A value that is not a number is drawn at the beginning.
        let share = if share.is_nan() { 0.0 } else { share };
        self.from + share * (self.to - self.from)
    }
}

fn range(values: impl Iterator<Item = f64>, fallback: f64) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold(start, |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (fallback, fallback);
    }
    (low, high)
}

/// From `low` to `high`, both included as far as the step allows.
fn steps(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let count = ((high - low) / step + 1e-6).floor().clamp(0.0, 50.0) as usize;
    (0..=count).map(move |index| {
        let value = low + index as f64 * step;
        // No minus in front of a zero.
        if value.abs() < step * 1e-6 {
            0.0
        } else {
            value
        }
    })
}

/// A multiple of `step` among values up to `most`, short enough to stand beside an axis.
fn round(value: f64, step: f64, most: f64) -> String {
    if step < 1e-4 && value != 0.0 {
        return format!("{value:.1e}");
    }
    let (unit, sign) = match most {
        1e10.. => (1e9, "G"),
        1e7.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    if value == 0.0 && (step < 1e-4 || !sign.is_empty()) {
        return "0".to_owned();
    }
    let digits = (-(step / unit * 1.000_001).log10().floor()).clamp(0.0, 4.0) as usize;
    format!("{:.digits$}{sign}", value / unit)
}

/// Three digits at most and a unit.
pub(super) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count.max(0.0);
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 99.95 || value.fract() == 0.0 {
        0
    } else {
        1
    };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_have_the_right_unit() {
        let written: Vec<String> = [
            0.0,
            1.0,
            1000.0,
            1024.0,
            1536.0,
            1_048_575.0,
            3.3e9,
            f64::NAN,
        ]
        .into_iter()
        .map(bytes)
        .collect();
        assert_eq!(
            written,
            [
                "0 B", "1 B", "1000 B", "1 KiB", "1.5 KiB", "1.0 MiB", "3.1 GiB", "0 B"
            ]
        );
    }

    fn names(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        let scale = Scale::linear([0.312, 0.876].into_iter(), 0.0, 100.0);
        assert_eq!(names(&scale), ["0.2", "0.4", "0.6", "0.8", "1.0"]);
        let scale = Scale::linear([0.0, 100.0].into_iter(), 0.0, 100.0);
        assert_eq!(names(&scale), ["0", "20", "40", "60", "80", "100"]);
        let scale = Scale::linear([0.0, 28e6].into_iter(), 0.0, 100.0);
        assert_eq!(names(&scale), ["0", "10M", "20M", "30M"]);
        let scale = Scale::linear([0.0, 3e-7].into_iter(), 0.0, 100.0);
        assert_eq!(names(&scale), ["0", "1.0e-7", "2.0e-7", "3.0e-7"]);
        let scale = Scale::bytes([3e6, 40e6].into_iter(), 0.0, 100.0);
        assert_eq!(
            names(&scale),
            ["2 MiB", "4 MiB", "8 MiB", "16 MiB", "32 MiB", "64 MiB"]
        );
        let scale = Scale::bytes([1e3, 1e12].into_iter(), 0.0, 100.0);
        assert_eq!(
            names(&scale),
            [
                "512 B", "8 KiB", "128 KiB", "2 MiB", "32 MiB", "512 MiB", "8 GiB", "128 GiB"
            ]
        );
    }

    proptest! {
        #[test]
        fn values_lie_inside_and_ticks_are_few(
            values in proptest::collection::vec(-1e6_f64..1e6, 0..6),
        ) {
            for scale in [
                Scale::linear(values.iter().copied(), 10.0, 90.0),
                Scale::bytes(values.iter().map(|v| v.abs() + 1.0), 90.0, 10.0),
            ] {
                prop_assert!((2..=TICKS_BYTES_MAX).contains(&scale.ticks.len()), "{:?}", scale.ticks);
                for value in values.iter().chain([&f64::NAN, &f64::INFINITY]) {
                    prop_assert!((10.0..=90.0).contains(&scale.at(*value)));
                }
            }
        }
    }
}
