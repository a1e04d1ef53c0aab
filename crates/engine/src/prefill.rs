//! A prompt through the model, layer by layer: full attention, then scores, then only what the
//! budget keeps. At any time one layer's full K and V exist.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use candle_core::{Result as CandleResult, Tensor};
use lava::scores::{Observation, layer_scores};
use lava::{Cascade, Config, Policy, Shape, ValueNorm};

use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::full_kv::{FullKv, FullKvCount};
use crate::model::{Layer, Model};
use crate::ops;
use crate::pool::{PagePool, PageShape};

/// Tokens of one block inside a layer: what bounds the activations of projections and MLP.
const BLOCK_TOKENS: usize = 512;

/// What to prefill, and how much of it to keep.
#[derive(Clone, Debug)]
pub struct PrefillRequest<'a> {
    /// The prompt, N ids.
    pub tokens: &'a [u32],
    /// Which rows are kept.
    pub policy: Policy,
    /// Parameters of the scores.
    pub config: Config,
    /// b: entries per layer and KV head, window included.
    pub budget: usize,
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
    /// All of it, scoring included.
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

    /// Pages that the request can need at most, now and while it decodes.
    pub fn pages_max(&self, model: &Model, pages: PageShape) -> usize {
        let shape = self.shape(model);
        let tables = shape.layers * shape.kv_heads;
        let kept = lava::rows_max(self.policy, &self.config, shape, self.budget);
        pages.pages_max(kept + tables * self.appended_max, tables)
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
        let began = Instant::now();
        request.check(self)?;
        let shape = request.shape(self);
        let mut cascade = Cascade::new(request.policy, &request.config, shape, request.budget)?;
        let reservation = pool.reserve(request.pages_max(self, pool.shape()))?;
        let mut cache = RaggedCache::new(shape.layers, shape.kv_heads, shape.tokens, reservation);
        let mut stats = PrefillStats::default();
        let count = FullKvCount::default();

        let mut blocks = self.blocks(request.tokens)?;
        let full_shape = (shape.tokens, shape.kv_heads, self.config().head_dim);
        for (index, layer) in self.layers().iter().enumerate() {
            let full = FullKv::new(full_shape, &count)?;
            let mut window = QueryWindow::new(cascade.window_rows());
            for block in &mut blocks {
                block.advance(layer, &full, &mut window)?;
            }
            let scored = Instant::now();
            push_scores(&mut cascade, request, &full, window)?;
            truncate_earlier(&mut cache, &cascade, index);
            gather(&mut cache, &cascade, index, &full)?;
            stats.pages_peak = stats.pages_peak.max(cache.pages());
            stats.scoring += scored.elapsed();
            let done = LayerDone {
                layer: index,
                cascade: &cascade,
                cache: &cache,
            };
            if after_layer(done).is_break() {
                return Err(EngineError::Cancelled { layer: index });
            }
        }
        let last = blocks.pop().expect("a prompt has at least one block");
        let (rows, _hidden) = last.x.dims2()?;
        let logits = self.logits(&last.x.narrow(0, rows - 1, 1)?)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        stats.full_kv_layers_peak = count.peak();
        stats.total = began.elapsed();
        Ok(Prefilled {
            logits,
            cache,
            cascade,
            stats,
        })
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
        window: &mut QueryWindow,
    ) -> CandleResult<()> {
        let projected = layer.project(&self.x, &self.angles)?;
        full.write(self.start, &projected)?;
        let end = self.start + self.x.dims2()?.0;
        let (key, value) = full.first(end)?;
        let attended = ops::causal_attention(&projected.query, &key, &value)?;
        self.x = layer.finish(&self.x, &attended)?;
        window.push(projected.query)
    }
}

/// The queries of the last W tokens, collected over blocks.
struct QueryWindow {
    rows: usize,
    query: Option<Tensor>,
}

impl QueryWindow {
    fn new(rows: usize) -> Self {
        Self { rows, query: None }
    }

    /// `query` is `[T, Hq, D]` of the next tokens.
    fn push(&mut self, query: Tensor) -> CandleResult<()> {
        let all = match self.query.take() {
            Some(before) => Tensor::cat(&[&before, &query], 0)?,
            None => query,
        };
        let (tokens, _hq, _d) = all.dims3()?;
        let rows = self.rows.min(tokens);
        self.query = Some(all.narrow(0, tokens - rows, rows)?.contiguous()?);
        Ok(())
    }
}

/// Scores the finished layer and lets the cascade cut all finished layers.
fn push_scores(
    cascade: &mut Cascade,
    request: &PrefillRequest<'_>,
    full: &FullKv<'_>,
    window: QueryWindow,
) -> Result<(), EngineError> {
    if cascade.keeps_everything() {
        return Ok(cascade.push_layer(&[])?);
    }
    let query = window.query.expect("every block pushed its queries");
    let means = ops::window_mean_attention(&query, full.key())?;
    let (tokens, kv_heads, head_dim) = full.key().dims3()?;
    let rows = match request.config.value_norm {
        ValueNorm::All => tokens,
        ValueNorm::NonWindow | ValueNorm::Off => tokens - cascade.window_rows(),
    };
    let value_norms = ops::with_values(full.value(), |v| {
        lava_kernels::value_norms(v, rows, kv_heads, head_dim)
    })?;
    let scores = ops::with_values(&means, |means| {
        layer_scores(
            &request.config,
            &Observation {
                query_heads: means.len() / (tokens - cascade.window_rows()),
                mean_attention: means,
                value_norms: &value_norms,
            },
        )
    })?;
    Ok(cascade.push_layer(&scores)?)
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
                let kept = cascade.head_order(layer, head).iter().map(|&i| i as usize);
                for position in window.clone().chain(kept) {
                    let row =
                        (position * kv_heads + head) * d..(position * kv_heads + head + 1) * d;
                    cache.push(layer, head, &keys[row.clone()], &values[row]);
                }
            }
        })
    })?
}
