//! What one request keeps of a prompt: scores, ranks, and the rows that stay.

use std::time::Instant;

use candle_core::Result as CandleResult;
use lava::{Cascade, LayerScores, ObservedRows};
use lava_kernels::HeadRows;

use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::full_kv::FullKv;
use crate::model::Model;
use crate::observer::Observer;
use crate::ops;
use crate::pool::PagePool;
use crate::prefill::{PrefillRequest, PrefillStats, Prefilled};

/// What one request keeps of the pass.
pub(crate) struct Keeping<'a> {
    pub(crate) request: &'a PrefillRequest<'a>,
    pub(crate) cascade: Cascade,
    pub(crate) cache: RaggedCache,
    pub(crate) stats: PrefillStats,
}

impl<'a> Keeping<'a> {
    pub(crate) fn new(
        model: &Model,
        request: &'a PrefillRequest<'a>,
        pool: &PagePool,
    ) -> Result<Self, EngineError> {
        request.check(model)?;
        let shape = request.shape(model);
        let cascade = Cascade::new(&request.method, shape, request.budget)?;
        let reservation = pool.reserve(request.pages_max(model, pool.page_bytes()))?;
        let cache = RaggedCache::new(request.cache_shape(model), reservation);
        Ok(Self {
            request,
            cascade,
            cache,
            stats: PrefillStats::default(),
        })
    }

    /// Queries at the end of the prompt that its scores need.
    pub(crate) fn observing_rows(&self) -> usize {
        let tokens = self.request.tokens.len();
        match self.request.method.observes().rows {
            _ if self.cascade.keeps_everything() => 0,
            ObservedRows::Last(rows) => rows.min(tokens),
            ObservedRows::All => tokens,
            ObservedRows::Nothing => 0,
        }
    }

    /// Scores the finished layer, lets the cascade cut all finished layers, and copies what stays.
    pub(crate) fn layer(
        &mut self,
        index: usize,
        observer: &mut Observer<'_>,
    ) -> Result<(), EngineError> {
        let began = Instant::now();
        let scores = match self.cascade.keeps_everything() {
            true => LayerScores::default(),
            false => observer.scores(self)?,
        };
        self.cascade.push_layer(scores)?;
        self.truncate_earlier(index);
        gather(&mut self.cache, &self.cascade, index, observer.full())?;
        self.count(began);
        Ok(())
    }

    /// A layer's work on scores and kept rows began then, and is done.
    pub(crate) fn count(&mut self, began: Instant) {
        self.stats.pages_peak = self.stats.pages_peak.max(self.cache.pages());
        self.stats.scoring += began.elapsed();
    }

    /// Frees what the cascade no longer keeps of the layers before `layer`.
    pub(crate) fn truncate_earlier(&mut self, layer: usize) {
        let window = self.cascade.window_rows();
        for earlier in 0..layer {
            for (head, kept) in self.cascade.kept(earlier).iter().enumerate() {
                self.cache.truncate(earlier, head, window + kept);
            }
        }
    }

    /// The end of the pass: `stats` has what all requests of a prompt share.
    pub(crate) fn finish(self, logits: Vec<f32>, stats: &PrefillStats) -> Prefilled {
        Prefilled {
            logits,
            stats: PrefillStats {
                scoring: self.stats.scoring,
                pages_peak: self.stats.pages_peak,
                ..stats.clone()
            },
            cache: self.cache,
            cascade: self.cascade,
        }
    }
}

/// Copies the kept rows of `layer` into pages: first the window, which always stays, then the others
/// best first, so that every later cut is a truncation.
fn gather(
    cache: &mut RaggedCache,
    cascade: &Cascade,
    layer: usize,
    full: &FullKv<'_>,
) -> CandleResult<()> {
    let (tokens, kv_heads, d) = full.key().dims3()?;
    let window = tokens - cascade.window_rows()..tokens;
    ops::with_values(full.key(), |keys| {
        ops::with_values(full.value(), |values| {
            for head in 0..kv_heads {
                let rows = |all| HeadRows {
                    all,
                    kv_heads,
                    head_dim: d,
                    head,
                };
                let kept = cascade.head_order(layer, head).iter().map(|&i| i as usize);
                let positions: Vec<usize> = window.clone().chain(kept).collect();
                cache.fill(layer, rows(keys), rows(values), &positions);
            }
        })
    })?
}
