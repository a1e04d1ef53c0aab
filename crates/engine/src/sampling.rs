//! The next token from its logits.
//!
//! Order: repetition, frequency and presence penalties; temperature; top-k; top-p; min-p; one draw.
//! Each cut works on what the earlier ones left. Logprobs are of the model's own distribution, before
//! all of these.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::EngineError;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep the smallest set of likeliest tokens with at least this probability together.
    pub top_p: f32,
    /// Keep tokens with at least this share of the likeliest one's probability.
    pub min_p: f32,
    /// Divides positive logits (and multiplies negative ones) of tokens seen in prompt or answer.
    pub repetition_penalty: f32,
    /// Taken off per occurrence in the answer.
    pub frequency_penalty: f32,
    /// Taken off once for tokens in the answer.
    pub presence_penalty: f32,
    /// Key of the random generator.
    pub seed: u64,
    /// How many of the likeliest tokens to report with their logprobs.
    pub top_logprobs: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
            top_logprobs: 0,
        }
    }
}

/// Most tokens that may be reported with their logprobs.
const TOP_LOGPROBS_MAX: usize = 20;

impl SamplingParams {
    /// Refuses values out of range, NaN among them.
    ///
    /// # Errors
    /// Names the parameter, its value and the valid range.
    pub fn check(&self) -> Result<(), EngineError> {
        let fail = |name, found: &dyn ToString, expected| EngineError::Sampling {
            name,
            found: found.to_string(),
            expected,
        };
        let ranges = [
            (
                "temperature",
                self.temperature,
                0.0..=100.0,
                "0 (greedy) to 100",
            ),
            (
                "top_p",
                self.top_p,
                f32::MIN_POSITIVE..=1.0,
                "above 0, at most 1",
            ),
            ("min_p", self.min_p, 0.0..=1.0, "0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0.01..=100.0,
                "0.01 to 100",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                -2.0..=2.0,
                "-2 to 2",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                -2.0..=2.0,
                "-2 to 2",
            ),
        ];
        for (name, value, range, expected) in ranges {
            // A range holds no NaN.
            if !range.contains(&value) {
                return Err(fail(name, &value, expected));
            }
        }
        if self.top_k == Some(0) {
            return Err(fail("top_k", &0, "at least 1, or none"));
        }
        if self.top_logprobs > TOP_LOGPROBS_MAX {
            return Err(fail("top_logprobs", &self.top_logprobs, "0 to 20"));
        }
        Ok(())
    }
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its natural log probability under the model.
    pub logprob: f32,
    /// The likeliest tokens and their logprobs, best first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence. The draw for its i-th token depends on seed and i only, so a
/// sequence that is continued elsewhere goes on as it would have.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// Ids of the prompt.
    prompt: Vec<bool>,
    /// Occurrences in the answer.
    counts: BTreeMap<u32, u32>,
    /// Index of the next token of the answer.
    index: u64,
}

impl Sampler {
    /// A sampler for an answer to `prompt`, over a vocabulary of `vocabulary` tokens.
    ///
    /// # Errors
    /// See [`SamplingParams::check`].
    pub fn new(
        params: SamplingParams,
        prompt: &[u32],
        vocabulary: usize,
    ) -> Result<Self, EngineError> {
        params.check()?;
        let mut seen = vec![false; vocabulary];
        for &id in prompt {
            if let Some(slot) = seen.get_mut(id as usize) {
                *slot = true;
            }
        }
        Ok(Self {
            params,
            prompt: seen,
            counts: BTreeMap::new(),
            index: 0,
        })
    }

    /// As [`Sampler::new`], with the prompt as a bitmap: bit `i % 8` of byte `i / 8` says that id `i` is
    /// in it. Bits that are not there are 0.
    ///
    /// # Errors
    /// See [`SamplingParams::check`].
    pub fn with_prompt_bitmap(
        params: SamplingParams,
        bitmap: &[u8],
        vocabulary: usize,
    ) -> Result<Self, EngineError> {
        let mut sampler = Self::new(params, &[], vocabulary)?;
        for (id, seen) in sampler.prompt.iter_mut().enumerate() {
            *seen = bitmap
                .get(id / 8)
                .is_some_and(|byte| byte >> (id % 8) & 1 == 1);
        }
        Ok(sampler)
    }

    /// Goes on after an answer's first tokens, wherever they were chosen.
    pub fn resume(mut self, answered: &[u32]) -> Self {
        for &token in answered {
            self.push(token);
        }
        self
    }

    fn push(&mut self, token: u32) {
        if (token as usize) < self.prompt.len() {
            *self.counts.entry(token).or_default() += 1;
        }
        self.index += 1;
    }

    /// Chooses the next token. NaN logits never win.
    ///
    /// # Errors
    /// No logit is finite.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled, EngineError> {
        let log_norm = log_sum_exp(logits).ok_or(EngineError::NoFiniteLogit)?;
        let adjusted = self.penalised(logits);
        let token = if self.params.temperature == 0.0 {
            best(&adjusted)
        } else {
            self.draw(&adjusted)
        };
        self.push(token);
        let logprob = |id: u32| (logits[id as usize] as f64 - log_norm) as f32;
        let top = likeliest(logits, self.params.top_logprobs);
        Ok(Sampled {
            token,
            logprob: logprob(token),
            top: top.into_iter().map(|id| (id, logprob(id))).collect(),
        })
    }

    fn penalised(&self, logits: &[f32]) -> Vec<f32> {
        let p = &self.params;
        let mut out: Vec<f32> = logits
            .iter()
            .map(|&x| if x.is_nan() { f32::NEG_INFINITY } else { x })
            .collect();
        if p.repetition_penalty != 1.0 {
            for (id, x) in out.iter_mut().enumerate() {
                let seen = self.prompt.get(id) == Some(&true);
                if seen || self.counts.contains_key(&(id as u32)) {
                    *x = if *x > 0.0 {
                        *x / p.repetition_penalty
                    } else {
                        *x * p.repetition_penalty
                    };
                }
            }
        }
        for (&id, &count) in &self.counts {
            out[id as usize] -= p.frequency_penalty * count as f32 + p.presence_penalty;
        }
        out
    }

    fn draw(&self, logits: &[f32]) -> u32 {
        let p = &self.params;
        let mut order: Vec<u32> = match p.top_k {
            Some(k) => likeliest(logits, k),
            None => likeliest(logits, logits.len()),
        };
        let max = logits[order[0] as usize];
        let mut weights: Vec<f64> = order
            .iter()
            .map(|&id| (((logits[id as usize] - max) / p.temperature) as f64).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        let mut mass = 0.0;
        let keep = weights
            .iter()
            .position(|weight| {
                mass += weight / sum;
                mass >= p.top_p as f64
            })
            .map_or(weights.len(), |last| last + 1);
        // The likeliest weight is 1, so its share is the weight itself.
        let keep = weights[..keep].partition_point(|&weight| weight >= p.min_p as f64);
        let keep = keep.max(1);
        order.truncate(keep);
        weights.truncate(keep);
        let mut target = self.uniform() * weights.iter().sum::<f64>();
        for (&id, weight) in order.iter().zip(&weights) {
            target -= weight;
            if target < 0.0 {
                return id;
            }
        }
        order[keep - 1]
    }

    /// A number in [0, 1) for the token that is being chosen.
    fn uniform(&self) -> f64 {
        let mut generator = ChaCha8Rng::seed_from_u64(self.params.seed);
        generator.set_stream(self.index);
        (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Id of the largest logit, the lowest id among equals.
fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The `count` likeliest ids, best first, lower ids first among equals.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let by_logit = |a: &u32, b: &u32| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.partial_cmp(&x)
            .unwrap_or(x.is_nan().cmp(&y.is_nan()))
            .then(a.cmp(b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < ids.len() {
        ids.select_nth_unstable_by(count - 1, by_logit);
        ids.truncate(count);
    }
    ids.sort_unstable_by(by_logit);
    ids
}

/// ln of the sum of exponentials over finite logits; `None` if there is none.
fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    let finite = || logits.iter().copied().filter(|x| x.is_finite());
    let max = finite().reduce(f32::max)? as f64;
    let sum: f64 = finite().map(|x| (x as f64 - max).exp()).sum();
    Some(max + sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(params: SamplingParams, prompt: &[u32]) -> Sampler {
        Sampler::new(params, prompt, 4).unwrap()
    }

    fn draws(params: SamplingParams, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = sampler(params, &[]);
        (0..count)
            .map(|_| sampler.sample(logits).unwrap().token)
            .collect()
    }

    const HOT: f32 = 1.0;

    #[test]
    fn a_resumed_sampler_goes_on_as_the_one_that_began() {
        let params = SamplingParams {
            temperature: HOT,
            repetition_penalty: 1.5,
            frequency_penalty: 0.5,
            seed: 9,
            ..Default::default()
        };
        let logits = [0.5, 1.0, 0.25, 0.75];
        let mut whole = sampler(params.clone(), &[2]);
        let tokens: Vec<u32> = (0..20)
            .map(|_| whole.sample(&logits).unwrap().token)
            .collect();
        for cut in 0..20 {
            let resumed = Sampler::with_prompt_bitmap(params.clone(), &[0b100], 4);
            let mut resumed = resumed.unwrap().resume(&tokens[..cut]);
            let rest: Vec<u32> = (cut..20)
                .map(|_| resumed.sample(&logits).unwrap().token)
                .collect();
            assert_eq!(rest, tokens[cut..], "after {cut}");
        }
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_id_among_equals() {
        assert_eq!(
            draws(SamplingParams::default(), &[0.0, 2.0, 2.0, f32::NAN], 3),
            [1, 1, 1]
        );
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let params = SamplingParams {
            temperature: HOT,
            ..Default::default()
        };
        let ids = draws(params, &[0.0, 3f32.ln(), f32::NEG_INFINITY, f32::NAN], 4000);
        let share = ids.iter().filter(|&&id| id == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(ids.iter().all(|&id| id < 2));
    }

    #[test]
    fn the_draw_depends_on_seed_and_index_only() {
        let params = SamplingParams {
            temperature: HOT,
            seed: 9,
            ..Default::default()
        };
        let logits = [0.0; 4];
        let all = draws(params.clone(), &logits, 20);
        let mut late = sampler(params.clone(), &[]);
        late.index = 10;
        assert_eq!(late.sample(&logits).unwrap().token, all[10]);
        assert_ne!(
            all,
            draws(SamplingParams { seed: 10, ..params }, &logits, 20)
        );
    }

    #[test]
    fn cuts_leave_only_the_likeliest() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let largest = |params| draws(params, &logits, 500).into_iter().max().unwrap();
        let hot = || SamplingParams {
            temperature: HOT,
            ..Default::default()
        };
        assert_eq!(largest(hot()), 3);
        assert_eq!(
            largest(SamplingParams {
                top_k: Some(2),
                ..hot()
            }),
            1
        );
        assert_eq!(
            largest(SamplingParams {
                top_p: 0.79,
                ..hot()
            }),
            1
        );
        assert_eq!(
            largest(SamplingParams {
                top_p: 0.81,
                ..hot()
            }),
            2
        );
        assert_eq!(
            largest(SamplingParams {
                min_p: 0.25,
                ..hot()
            }),
            2
        );
        assert_eq!(
            largest(SamplingParams {
                min_p: 1.0,
                ..hot()
            }),
            0
        );
    }

    #[test]
    fn penalties_count_prompt_and_answer_as_documented() {
        let logits = [1.0, 0.9, -1.0, -1.0];
        let next = |params, prompt: &[u32]| sampler(params, prompt).sample(&logits).unwrap().token;
        let base = SamplingParams::default;
        assert_eq!(
            next(
                SamplingParams {
                    repetition_penalty: 1.2,
                    ..base()
                },
                &[0]
            ),
            1
        );
        assert_eq!(
            next(
                SamplingParams {
                    presence_penalty: 1.0,
                    ..base()
                },
                &[0]
            ),
            0
        );
        let answer = |params| draws(params, &logits, 4);
        assert_eq!(
            answer(SamplingParams {
                presence_penalty: 0.5,
                ..base()
            }),
            [0, 1, 0, 0]
        );
        assert_eq!(
            answer(SamplingParams {
                frequency_penalty: 0.2,
                ..base()
            }),
            [0, 1, 0, 1]
        );
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let params = SamplingParams {
            top_logprobs: 2,
            temperature: 5.0,
            ..Default::default()
        };
        let logits = [
            0.5f32.ln() + 7.0,
            0.25f32.ln() + 7.0,
            0.25f32.ln() + 7.0,
            f32::NEG_INFINITY,
        ];
        let sampled = sampler(params, &[]).sample(&logits).unwrap();
        let expected = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        assert!((sampled.logprob - expected[sampled.token as usize]).abs() < 1e-6);
        assert_eq!(
            sampled.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [0, 1]
        );
    }

    #[test]
    fn logits_without_a_number_are_refused() {
        let error = sampler(SamplingParams::default(), &[]).sample(&[f32::NAN; 4]);
        assert!(matches!(error, Err(EngineError::NoFiniteLogit)));
    }
}
