//! Requests that know nothing of each other.

use std::time::Duration;

use super::arrival::Arrival;
use super::lengths::Lengths;
use crate::dice::Dice;

/// Thirty years: as good as never, and a time that can be added to any clock.
const SECONDS_MAX: f64 = 1e9;

/// A Poisson process: the times between requests are independent and exponential.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Poisson {
    /// Requests per second, above 0.
    pub rate: f64,
    /// How many requests.
    pub requests: usize,
    /// Lengths of prompts.
    pub prompt_tokens: Lengths,
    /// Lengths of answers.
    pub output_tokens: Lengths,
    /// The same seed gives the same plan.
    pub seed: u64,
}

impl Poisson {
    /// All requests. A higher rate moves them closer and changes nothing else.
    pub fn plan(&self) -> Vec<Arrival> {
        let mut times = Dice::new(self.seed, "arrivals");
        let mut lengths = Dice::new(self.seed, "lengths");
        let mut at = 0.0;
        let mut one = || {
            at -= (1.0 - times.unit()).ln() / self.rate;
            Arrival {
                at: Duration::from_secs_f64(at.min(SECONDS_MAX)),
                prompt_tokens: self.prompt_tokens.draw(&mut lengths),
                output_tokens: self.output_tokens.draw(&mut lengths),
                blocks: None,
            }
        };
        (0..self.requests).map(|_| one()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Poisson = Poisson {
        rate: 5.0,
        requests: 4000,
        prompt_tokens: Lengths::Uniform { min: 10, max: 90 },
        output_tokens: Lengths::Fixed(7),
        seed: 1,
    };

    #[test]
    fn the_seed_decides_everything_and_the_rate_only_the_times() {
        let plan = PLAN.plan();
        assert_eq!(plan, PLAN.plan());
        assert_ne!(plan, Poisson { seed: 2, ..PLAN }.plan());
        let faster = Poisson { rate: 10.0, ..PLAN }.plan();
        for (slow, fast) in plan.iter().zip(&faster) {
            assert_eq!(slow.prompt_tokens, fast.prompt_tokens);
            let double = fast.at.as_secs_f64() * 2.0;
            assert!((slow.at.as_secs_f64() - double).abs() < 1e-6);
        }
        assert!(plan.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_an_exponential_distribution() {
        let plan = PLAN.plan();
        let last = plan.last().unwrap().at.as_secs_f64();
        let gaps: Vec<f64> = plan
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let squares = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>();
        let deviation = (squares / gaps.len() as f64).sqrt();
        // Both are 1/rate; standard errors over 4000 gaps are 1.6 % and about 2.2 %.
        assert!((mean * 5.0 - 1.0).abs() < 0.05, "{mean}");
        assert!((deviation * 5.0 - 1.0).abs() < 0.08, "{deviation}");
        assert!((last - 800.0).abs() < 40.0, "{last}");
    }
}
