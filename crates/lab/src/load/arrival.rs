//! One request of a plan.

use std::time::Duration;

/// When a request starts and how large it is. A plan is a list of these, ordered by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Time after the start of the load.
    pub at: Duration,
    /// N, at least 1.
    pub prompt_tokens: u32,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u32,
    /// What the prompt shares with others, if that is known.
    pub blocks: Option<Blocks>,
}

/// A prompt as blocks of equal size, of which the last one may be cut. Blocks with equal ids have
/// equal tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// Tokens of a block, at least 1.
    pub tokens: u32,
    /// Not empty.
    pub ids: Vec<u64>,
}

/// Divides all times by `speed`, which is above 0.
pub fn compress(plan: &mut [Arrival], speed: f64) {
    for arrival in plan {
        arrival.at = arrival.at.div_f64(speed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_double_speed_a_request_comes_in_half_the_time() {
        let mut plan = [Arrival {
            at: Duration::from_secs(3),
            prompt_tokens: 1,
            output_tokens: 1,
            blocks: None,
        }];
        compress(&mut plan, 2.0);
        assert_eq!(plan[0].at, Duration::from_millis(1500));
    }
}
