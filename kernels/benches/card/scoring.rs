//! Scores of a layer, as `lava-peaks` takes them.

use lava_kernels::cuda::{
    DeviceError, Heads, Launch, Norms, Scores, Statistic, ValueNorms, Window, Work,
};

use super::memory::Memory;
use super::prefill::last_queries;
use super::stock::COMPUTE;

/// Width of the pool.
const KERNEL: usize = 41;
/// What it gives the neighbours of a peak.
const SHOULDER: f32 = 0.05;

#[derive(Clone, Copy)]
pub(crate) struct Scoring {
    pub(crate) heads: Heads,
    /// N.
    pub(crate) tokens: usize,
    /// W.
    pub(crate) window: usize,
    /// Queries that observe.
    pub(crate) observers: usize,
}

impl Scoring {
    pub(crate) fn work(&self) -> Work {
        self.heads.scores(self.tokens, self.observers)
    }

    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let Heads {
            kv_heads,
            group,
            head_dim,
        } = self.heads;
        let (q_heads, columns) = (kv_heads * group, self.tokens - self.window);
        // Prefill leaves the logarithms of sums that the observers need.
        let last = last_queries(&self.heads, self.tokens, self.observers, memory)?;
        memory.run(&last.launch())?;
        let window = Window {
            compute: COMPUTE,
            head_dim,
            kv_heads,
            group,
            tokens: self.tokens,
            rows: self.observers,
            columns,
            statistic: Statistic::Largest,
            queries: last.queries,
            keys: last.keys,
            log_sums: last.log_sums,
            seen: memory.room(size_of::<f32>() * q_heads * columns)?,
        };
        let norms = ValueNorms {
            compute: COMPUTE,
            head_dim,
            kv_heads,
            rows: columns,
            values: last.values,
            // Every run finds the same largest norms, so zeros are needed once.
            norms: memory.filled(size_of::<f32>() * kv_heads, 0)?,
        };
        let mut scores = Scores {
            kv_heads,
            group,
            columns,
            kernel: KERNEL,
            shoulder: SHOULDER,
            norms: Norms::OfHeads(norms.norms),
            of_mean: false,
            clamped: true,
            seen: window.seen,
            scores: memory.room(size_of::<f32>() * kv_heads * columns)?,
            pooled_sums: 0,
            sums: 0,
        };
        scores.pooled_sums = memory.room(scores.sum_bytes())?;
        scores.sums = memory.room(2 * scores.sum_bytes())?;
        let mut launches = vec![window.launch(), norms.launch()];
        launches.extend(scores.launches());
        Ok(launches)
    }
}
