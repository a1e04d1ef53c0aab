//! The golden file: recorded values of a reference implementation on one model.

use anyhow::{Result, bail};
use lava::{Config, Pool, Profile};
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) model: ModelShape,
    window: usize,
    kernel: usize,
    pool: String,
    alpha: f64,
    pub(crate) prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
pub(crate) struct ModelShape {
    pub(crate) source: String,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

#[derive(Deserialize)]
pub(crate) struct Prompt {
    pub(crate) token_ids: Vec<u32>,
    pub(crate) prefill_top20: Top,
    /// Per layer.
    pub(crate) entropy: Vec<f64>,
    /// Ids with the full cache; the first is the prefill's.
    pub(crate) full_greedy: Vec<u32>,
    pub(crate) configs: Vec<Eviction>,
}

#[derive(Deserialize)]
pub(crate) struct Top {
    pub(crate) ids: Vec<u32>,
    pub(crate) logits: Vec<f64>,
}

#[derive(Deserialize)]
pub(crate) struct Eviction {
    pub(crate) profile: String,
    /// b, window included.
    pub(crate) base_capacity: usize,
    /// Entries of the layer (`exact`) or per KV head, before the cap at the prompt's length.
    pub(crate) layer_budgets: Vec<u64>,
    /// `[L][Hkv]`, ascending positions, window not counted.
    pub(crate) kept: Vec<Vec<Vec<u32>>>,
    /// Ids on the compressed cache.
    pub(crate) greedy: Vec<u32>,
    /// Gap between best and second logit for ids 2...
    pub(crate) greedy_margin: Vec<f64>,
    /// Per step, teacher-forced on `full_greedy`.
    pub(crate) kl_to_full: Vec<f64>,
}

impl Golden {
    /// The method's parameters.
    pub(crate) fn config(&self) -> Result<Config> {
        let pool = match self.pool.as_str() {
            "max" => Pool::Max,
            "avg" => Pool::Avg,
            "none" => Pool::None,
            other => bail!("pool {other:?}: expected max, avg or none"),
        };
        Ok(Config {
            window: self.window,
            kernel: self.kernel,
            pool,
            alpha_milli: (self.alpha * 1000.0).round() as u32,
            ..Config::default()
        })
    }
}

impl Eviction {
    pub(crate) fn profile(&self) -> Result<Profile> {
        Ok(match self.profile.as_str() {
            "exact" => Profile::Exact,
            "paper" => Profile::Paper,
            "code" => Profile::Code,
            other => bail!("profile {other:?}: expected exact, paper or code"),
        })
    }
}
