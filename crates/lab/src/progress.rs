//! How long is left. Samples differ in length by a factor of a hundred, so time is shared out by
//! tokens and not by samples.

use std::time::Duration;

/// The cost of a sample in prompt tokens. A generated token costs `per_output_token` times a
/// prompt token, because it is computed alone where prompt tokens go in blocks; measure it, or
/// take 10. A value that is not finite and positive counts as 1.
pub fn cost(prompt_tokens: usize, output_tokens: usize, per_output_token: f64) -> f64 {
    let weight = if per_output_token.is_finite() && per_output_token > 0.0 {
        per_output_token
    } else {
        1.0
    };
    prompt_tokens as f64 + output_tokens as f64 * weight
}

/// The time left, at the pace so far. `done` and `total` are sums of [`cost`], of this run only:
/// what a resumed run found done took no time now. None until something is done.
pub fn remaining(done: f64, total: f64, elapsed: Duration) -> Option<Duration> {
    let left = total - done;
    if !(done > 0.0 && left.is_finite()) {
        return None;
    }
    let seconds = elapsed.as_secs_f64() / done * left.max(0.0);
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(done: f64, total: f64, elapsed: u64, expected: Option<u64>) {
        assert_eq!(
            remaining(done, total, Duration::from_secs(elapsed)),
            expected.map(Duration::from_secs),
            "{done} of {total} in {elapsed} s"
        );
    }

    #[test]
    fn time_is_shared_out_by_cost() {
        check(1.0, 4.0, 10, Some(30));
        check(4.0, 4.0, 10, Some(0));
        check(0.0, 4.0, 10, None);
        check(5.0, 4.0, 10, Some(0));
        check(1.0, 4.0, 0, Some(0));
    }

    #[test]
    fn odd_numbers_give_nothing_instead_of_a_panic() {
        check(f64::NAN, 4.0, 10, None);
        check(1.0, f64::INFINITY, 10, None);
        check(1e-300, 1e300, 10, None);
        check(-1.0, 4.0, 10, None);
    }

    #[test]
    fn output_tokens_weigh_more() {
        assert_eq!(cost(1000, 10, 10.0), 1100.0);
        assert_eq!(cost(1000, 10, f64::NAN), 1010.0);
        assert_eq!(cost(1000, 10, -1.0), 1010.0);
    }
}
