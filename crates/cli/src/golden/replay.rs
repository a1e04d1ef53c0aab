//! The same runs as in the golden file, on our engine.

use std::ops::ControlFlow;

use anyhow::Result;
use lava::{Method, Policy};
use lava_engine::{
    Model, PrefillRequest, Prefilled, RaggedCache, RowFormat, Sampler, SamplingParams, Turn,
};
use lava_lab::divergence::Reference;

use super::file::{Eviction, Golden, Prompt};

/// The full cache on one prompt.
pub(crate) struct Full {
    pub(crate) prefill: Vec<f32>,
    /// Logits after each of the golden `full_greedy` ids but the last.
    steps: Vec<Vec<f32>>,
}

/// One eviction on one prompt.
pub(crate) struct Compressed {
    /// Per layer.
    pub(crate) entropy: Vec<f64>,
    pub(crate) budgets: Vec<u64>,
    /// `[L][Hkv]`, ascending positions outside the window.
    pub(crate) kept: Vec<Vec<Vec<u32>>>,
    /// Our own greedy ids on the compressed cache.
    pub(crate) greedy: Vec<u32>,
    pub(crate) kl_to_full: Vec<f64>,
}

/// A prompt of the file and what it runs on.
pub(crate) struct Replay<'a> {
    pub(crate) model: &'a Model,
    pub(crate) golden: &'a Golden,
    pub(crate) prompt: &'a Prompt,
    /// How rows are stored.
    pub(crate) format: RowFormat,
}

impl Replay<'_> {
    pub(crate) fn full(&self) -> Result<Full> {
        let method = Method::new(Policy::Full);
        let mut run = self.prefill(method, self.prompt.token_ids.len())?;
        let steps = teacher_forced(self.model, &self.prompt.full_greedy, &mut run.cache)?;
        Ok(Full {
            prefill: run.logits,
            steps,
        })
    }

    pub(crate) fn compressed(&self, eviction: &Eviction, full: &Full) -> Result<Compressed> {
        let method = Method {
            policy: Policy::Lava(eviction.profile()?),
            config: self.golden.config()?,
        };
        let budget = eviction.base_capacity;
        let mut run = self.prefill(method, budget)?;
        let steps = teacher_forced(self.model, &self.prompt.full_greedy, &mut run.cache)?;
        let kl_to_full = full
            .steps
            .iter()
            .zip(&steps)
            .map(|(f, c)| Reference::new(f.clone()).divergence(c))
            .collect();
        let cascade = &run.cascade;
        let layers = 0..cascade.layers_done();
        let plans: Vec<_> = layers
            .clone()
            .filter_map(|layer| cascade.plan(layer))
            .collect();
        let kept = layers
            .map(|layer| {
                (0..cascade.kept(layer).len())
                    .map(|head| {
                        let mut positions = cascade.head_order(layer, head).to_vec();
                        positions.sort_unstable();
                        positions
                    })
                    .collect()
            })
            .collect();
        let mut fresh = self.prefill(method, budget)?;
        Ok(Compressed {
            entropy: plans.iter().map(|plan| plan.entropy()).collect(),
            budgets: plans.iter().map(|plan| plan.cut().budget as u64).collect(),
            kept,
            greedy: greedy(
                self.model,
                &fresh.logits,
                &mut fresh.cache,
                eviction.greedy.len(),
            )?,
            kl_to_full,
        })
    }

    fn prefill(&self, method: Method, budget: usize) -> Result<Prefilled> {
        let Self { model, prompt, .. } = self;
        let request = PrefillRequest {
            tokens: &prompt.token_ids,
            method,
            budget,
            format: self.format,
            appended_max: prompt.full_greedy.len(),
        };
        let page_bytes = model.config().page_bytes();
        let pool = model.pool(request.pages_max(model, page_bytes))?;
        Ok(model.prefill(&request, &pool, &mut |_| ControlFlow::Continue(()))?)
    }
}

/// Logits after each of `ids` but the last.
fn teacher_forced(model: &Model, ids: &[u32], cache: &mut RaggedCache) -> Result<Vec<Vec<f32>>> {
    let fed = &ids[..ids.len().saturating_sub(1)];
    fed.iter().map(|&id| step(model, id, cache)).collect()
}

fn greedy(model: &Model, first: &[f32], cache: &mut RaggedCache, count: usize) -> Result<Vec<u32>> {
    let mut sampler = Sampler::new(SamplingParams::default(), &[], first.len())?;
    let mut ids = vec![sampler.sample(first)?.token];
    while ids.len() < count {
        let logits = step(model, ids[ids.len() - 1], cache)?;
        ids.push(sampler.sample(&logits)?.token);
    }
    Ok(ids)
}

fn step(model: &Model, token: u32, cache: &mut RaggedCache) -> Result<Vec<f32>> {
    Ok(model.step(&mut [Turn { token, cache }])?.remove(0))
}
