//! A prompt through the model, layer by layer: full attention, then scores, then only what the
//! budget keeps. At any time one layer's full K and V exist.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use candle_core::{Result as CandleResult, Tensor};
use lava::{Cascade, LayerScores, Method, ObservedRows, Shape};
use lava_kernels::HeadRows;
use lava_kv::{CacheShape, RowFormat};

use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::full_kv::{FullKv, FullKvCount};
use crate::model::{Layer, Model, Projected};
use crate::observer::{LastQueries, Observer};
use crate::ops;
use crate::pool::PagePool;

/// Tokens of one block inside a layer: what bounds the activations of projections and MLP.
pub(crate) const BLOCK_TOKENS: usize = 512;

/// What to prefill, and how much of it to keep.
#[derive(Clone, Debug)]
pub struct PrefillRequest<'a> {
    /// The prompt, N ids.
    pub tokens: &'a [u32],
    /// Which rows are kept.
    pub method: Method,
    /// b: entries per layer and KV head, window included.
    pub budget: usize,
    /// How the rows that compete for it are stored.
    pub format: RowFormat,
    /// Tokens that will be appended at most; pages for them are reserved too.
    pub appended_max: usize,
}

/// What a caller sees after each layer, while the prefill goes on.
#[derive(Clone, Copy, Debug)]
pub struct LayerDone<'a> {
    /// Index of the layer.
    pub layer: usize,
    /// Which rows are kept and certain now.
    pub cascade: &'a Cascade,
    /// The kept rows of the finished layers: of each head first the window, then `head_order`.
    pub cache: &'a RaggedCache,
}

/// A finished prefill.
#[derive(Debug)]
pub struct Prefilled {
    /// Next-token logits after full attention, V values.
    pub logits: Vec<f32>,
    /// The kept rows of all layers.
    pub cache: RaggedCache,
    /// Entropies, budgets and ranks of all layers.
    pub cascade: Cascade,
    /// What it took.
    pub stats: PrefillStats,
}

/// Costs of one prefill.
#[derive(Clone, Debug, Default)]
pub struct PrefillStats {
    /// All of it, scoring and what the caller did after each layer included.
    pub total: Duration,
    /// Scores, ranking and gathering of kept rows.
    pub scoring: Duration,
    /// Most layers whose full K and V existed at one time.
    pub full_kv_layers_peak: usize,
    /// Most pages in use at one time.
    pub pages_peak: usize,
}

impl PrefillRequest<'_> {
    /// Checks what can be checked before any compute is spent.
    ///
    /// # Errors
    /// The prompt is empty, too long, or holds an id that the model does not know.
    pub fn check(&self, model: &Model) -> Result<(), EngineError> {
        let config = model.config();
        let tokens = self.tokens.len();
        if tokens == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if tokens >= config.context {
            let context = config.context;
            return Err(EngineError::PromptTooLong { tokens, context });
        }
        if let Some(window) = config.sliding_window.filter(|&window| tokens > window) {
            return Err(EngineError::SlidingWindow { tokens, window });
        }
        let vocabulary = config.vocabulary;
        match self.tokens.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Pages of so many bytes that the request can need at most, in prefill and while it decodes.
    pub fn pages_max(&self, model: &Model, page_bytes: usize) -> usize {
        let (shape, cache) = (self.shape(model), self.cache_shape(model));
        let kept = lava::rows_max(&self.method, shape, self.budget);
        let peak = lava::rows_peak(&self.method, shape, self.budget);
        let decoding = cache.pages_max(page_bytes, kept, self.appended_max);
        decoding.max(cache.pages_max(page_bytes, peak, 0))
    }

    fn cache_shape(&self, model: &Model) -> CacheShape {
        let tokens = self.tokens.len();
        let config = model.config();
        config.cache_shape(tokens, &self.method, self.budget, self.format)
    }

    fn shape(&self, model: &Model) -> Shape {
        Shape {
            layers: model.config().layers,
            kv_heads: model.config().kv_heads,
            tokens: self.tokens.len(),
        }
    }
}

impl Model {
    /// Runs a prompt. `after_layer` is called after each layer and may stop the prefill.
    ///
    /// # Errors
    /// The request is invalid ([`PrefillRequest::check`], or a budget not above the window), the pool
    /// has no room, the caller stopped it, or the weights produce values that are not numbers.
    pub fn prefill(
        &self,
        request: &PrefillRequest<'_>,
        pool: &PagePool,
        after_layer: &mut dyn FnMut(LayerDone<'_>) -> ControlFlow<()>,
    ) -> Result<Prefilled, EngineError> {
        let mut after = |layer: usize, keepings: &[Keeping<'_>]| {
            after_layer(LayerDone {
                layer,
                cascade: &keepings[0].cascade,
                cache: &keepings[0].cache,
            })
        };
        let mut all = self.run(std::slice::from_ref(request), pool, &mut after)?;
        Ok(all.pop().expect("one request gives one answer"))
    }

    /// Runs a prompt once and keeps a cache for each of `requests`, which differ in everything but their
    /// tokens. What several of them want to know of a layer is computed once.
    ///
    /// # Errors
    /// As for [`prefill`](Self::prefill).
    ///
    /// # Panics
    /// If there are no requests, or two have different tokens.
    pub fn prefill_each(
        &self,
        requests: &[PrefillRequest<'_>],
        pool: &PagePool,
    ) -> Result<Vec<Prefilled>, EngineError> {
        self.run(requests, pool, &mut |_, _| ControlFlow::Continue(()))
    }

    fn run(
        &self,
        requests: &[PrefillRequest<'_>],
        pool: &PagePool,
        after_layer: &mut dyn FnMut(usize, &[Keeping<'_>]) -> ControlFlow<()>,
    ) -> Result<Vec<Prefilled>, EngineError> {
        let began = Instant::now();
        let tokens = requests[0].tokens;
        assert!(
            requests.iter().all(|request| request.tokens == tokens),
            "requests of one pass have the same tokens"
        );
        let mut keepings = Vec::with_capacity(requests.len());
        for request in requests {
            request.check(self)?;
            keepings.push(Keeping::new(self, request, pool)?);
        }
        let count = FullKvCount::default();

        let mut blocks = self.blocks(tokens)?;
        let full_shape = (tokens.len(), self.config().kv_heads, self.config().head_dim);
        let rows = keepings.iter().map(Keeping::observing_rows).max();
        for (index, layer) in self.layers().iter().enumerate() {
            let full = FullKv::new(full_shape, &count)?;
            let mut queries = LastQueries::new(rows.unwrap_or(0));
            for block in &mut blocks {
                block.advance(layer, &full, &mut queries)?;
            }
            let mut observer = Observer::new(layer, &full, queries);
            for keeping in &mut keepings {
                observer.expect(keeping);
            }
            for keeping in &mut keepings {
                keeping.layer(index, &mut observer)?;
            }
            if after_layer(index, &keepings).is_break() {
                return Err(EngineError::Cancelled { layer: index });
            }
        }
        let last = blocks.pop().expect("a prompt has at least one block");
        let (rows, _hidden) = last.x.dims2()?;
        let logits = self.logits(&last.x.narrow(0, rows - 1, 1)?)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let total = began.elapsed();
        let prefilled = |keeping: Keeping<'_>| Prefilled {
            logits: logits.clone(),
            stats: PrefillStats {
                total,
                full_kv_layers_peak: count.peak(),
                ..keeping.stats
            },
            cache: keeping.cache,
            cascade: keeping.cascade,
        };
        Ok(keepings.into_iter().map(prefilled).collect())
    }

    fn blocks(&self, tokens: &[u32]) -> CandleResult<Vec<Block>> {
        let mut start = 0;
        tokens
            .chunks(BLOCK_TOKENS)
            .map(|ids| {
                let positions: Vec<usize> = (start..start + ids.len()).collect();
                let block = Block {
                    x: self.embed(ids)?,
                    angles: self.angles(&positions)?,
                    start,
                };
                start += ids.len();
                Ok(block)
            })
            .collect()
    }
}

/// What one request keeps of the pass.
pub(crate) struct Keeping<'a> {
    pub(crate) request: &'a PrefillRequest<'a>,
    pub(crate) cascade: Cascade,
    cache: RaggedCache,
    stats: PrefillStats,
}

impl<'a> Keeping<'a> {
    fn new(
        model: &Model,
        request: &'a PrefillRequest<'a>,
        pool: &PagePool,
    ) -> Result<Self, EngineError> {
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
    fn layer(&mut self, index: usize, observer: &mut Observer<'_>) -> Result<(), EngineError> {
        let began = Instant::now();
        let scores = match self.cascade.keeps_everything() {
            true => LayerScores::default(),
            false => observer.scores(self)?,
        };
        self.cascade.push_layer(scores)?;
        truncate_earlier(&mut self.cache, &self.cascade, index);
        gather(&mut self.cache, &self.cascade, index, observer.full())?;
        self.stats.pages_peak = self.stats.pages_peak.max(self.cache.pages());
        self.stats.scoring += began.elapsed();
        Ok(())
    }
}

/// Consecutive prompt tokens and their residual stream.
struct Block {
    /// `[T, hidden]`.
    x: Tensor,
    angles: Tensor,
    /// Position of the first token.
    start: usize,
}

impl Block {
    /// Through one layer. Earlier blocks have written their keys and values already.
    fn advance(
        &mut self,
        layer: &Layer,
        full: &FullKv<'_>,
        queries: &mut LastQueries,
    ) -> CandleResult<()> {
        let projected = layer.project(&self.x, &self.angles)?;
        full.write(self.start, &projected)?;
        queries.push(&projected.query)?;
        let end = self.start + self.x.dims2()?.0;
        let (key, value) = full.first(end)?;
        // What is not needed any more makes room for what comes: the MLP is the largest part of a block.
        let attended = {
            let Projected { query, .. } = projected;
            ops::causal_attention(&query, &key, &value)?
        };
        self.x = layer.finish(&self.x, attended)?;
        Ok(())
    }
}

/// Frees what the cascade no longer keeps of the layers before `layer`.
fn truncate_earlier(cache: &mut RaggedCache, cascade: &Cascade, layer: usize) {
    for earlier in 0..layer {
        for (head, kept) in cascade.kept(earlier).iter().enumerate() {
            cache.truncate(earlier, head, cascade.window_rows() + kept);
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
