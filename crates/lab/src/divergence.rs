//! How far one next-token distribution is from another.

/// Next-token logits of the full cache, `[V]`, with what every comparison needs of them.
#[derive(Debug, Clone)]
pub struct Reference {
    logits: Vec<f32>,
    /// `[V]`.
    probabilities: Vec<f64>,
    log_sum: f64,
    best: usize,
}

/// What logits say beside a [`Reference`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Negative log-likelihood of the true token, in nats.
    pub nll: f64,
    /// Divergence from the reference, in nats.
    pub kl: f64,
    /// Whether the most likely token is the true one.
    pub right: bool,
    /// Whether the most likely token is the reference's.
    pub agrees: bool,
}

impl Reference {
    /// `logits` is `[V]`.
    pub fn new(logits: Vec<f32>) -> Self {
        let log_sum = log_sum_exp(&logits);
        let probability = |&logit: &f32| (f64::from(logit) - log_sum).exp();
        Self {
            probabilities: logits.iter().map(probability).collect(),
            best: likeliest(&logits),
            log_sum,
            logits,
        }
    }

    /// `logits` is `[V]`, `truth` an index into it.
    ///
    /// # Panics
    /// If the vocabularies differ, or `truth` is in neither.
    pub fn compare(&self, logits: &[f32], truth: u32) -> Compared {
        let log_sum = log_sum_exp(logits);
        let best = likeliest(logits);
        Compared {
            nll: log_sum - f64::from(logits[truth as usize]),
            kl: self.divergence_with(logits, log_sum),
            right: best == truth as usize,
            agrees: best == self.best,
        }
    }

    /// KL divergence of the softmax of `logits` from the reference's, in nats.
    ///
    /// # Panics
    /// If the vocabularies differ.
    pub fn divergence(&self, logits: &[f32]) -> f64 {
        self.divergence_with(logits, log_sum_exp(logits))
    }

    fn divergence_with(&self, logits: &[f32], log_sum: f64) -> f64 {
        assert_eq!(logits.len(), self.logits.len(), "one vocabulary");
        let pairs = self.logits.iter().zip(logits).zip(&self.probabilities);
        let sum: f64 = pairs
            .map(|((&ours, &theirs), p)| p * (f64::from(ours) - f64::from(theirs)))
            .sum();
        let divergence = sum - self.log_sum + log_sum;
        // Rounding may leave a hair below zero where both are equal. `max` would turn NaN into 0.
        match divergence < 0.0 {
            true => 0.0,
            false => divergence,
        }
    }
}

/// Index of the greatest logit, the first of equal ones.
///
/// # Panics
/// If there are none.
pub fn likeliest(logits: &[f32]) -> usize {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).reduce(better).expect("a vocabulary")
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + x
        .iter()
        .map(|&v| (f64::from(v) - max).exp())
        .sum::<f64>()
        .ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_by_hand() {
        // Softmax of ln p is p.
        let ln = |p: [f64; 3]| p.map(|p| p.ln() as f32).to_vec();
        let reference = Reference::new(ln([0.5, 0.25, 0.25]));
        let found = reference.compare(&ln([0.25, 0.5, 0.25]), 0);
        assert!((found.kl - 0.25 * 2.0_f64.ln()).abs() < 1e-6, "{found:?}");
        assert!((found.nll - 4.0_f64.ln()).abs() < 1e-6, "{found:?}");
        assert!(!found.right && !found.agrees);
        let same = reference.compare(&ln([0.5, 0.25, 0.25]), 0);
        assert!(same.kl < 1e-7 && same.right && same.agrees, "{same:?}");
    }

    #[test]
    fn a_constant_on_all_logits_changes_nothing() {
        let (a, b) = ([1.0_f32, -2.0, 0.5], [0.0_f32, 1.0, 2.0]);
        let shifted = b.map(|x| x + 100.0);
        let reference = Reference::new(a.to_vec());
        let distance = reference.divergence(&b);
        assert!(distance > 0.1);
        assert!((distance - reference.divergence(&shifted)).abs() < 1e-5);
    }

    #[test]
    fn a_number_that_is_none_is_no_agreement() {
        let (broken, sound) = ([f32::NAN, 1.0], [0.0, 1.0]);
        assert!(Reference::new(broken.to_vec()).divergence(&sound).is_nan());
        assert!(Reference::new(sound.to_vec()).divergence(&broken).is_nan());
    }

    #[test]
    fn the_first_of_equal_logits_is_the_likeliest() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), 1);
    }
}
