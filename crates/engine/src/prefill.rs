//! A prompt through the model, layer by layer: full attention, then scores, then only what the
//! budget keeps. At any time one layer's full K and V of a prompt exist.

use std::ops::ControlFlow;
use std::time::Duration;

use lava::{Cascade, Method, Shape};
use lava_kv::{CacheShape, RowFormat};

use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::keeping::Keeping;
use crate::model::{Model, Place};
use crate::pass::{self, Pass};
use crate::pool::PagePool;
use crate::prefix::PrefixCache;

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
    /// Tokens at the front of the prompt whose keys and values were there already.
    pub reused_tokens: usize,
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
            None if self.format == RowFormat::F32 && matches!(model.place, Place::Device(_)) => {
                Err(EngineError::WideRowsOnDevice)
            }
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

    pub(crate) fn cache_shape(&self, model: &Model) -> CacheShape {
        let tokens = self.tokens.len();
        let config = model.config();
        config.cache_shape(tokens, &self.method, self.budget, self.format)
    }

    pub(crate) fn shape(&self, model: &Model) -> Shape {
        Shape {
            layers: model.config().layers,
            kv_heads: model.config().kv_heads,
            tokens: self.tokens.len(),
        }
    }
}

/// What is called after each layer; it may stop the prefill.
pub type AfterLayer<'a> = dyn FnMut(LayerDone<'_>) -> ControlFlow<()> + 'a;

/// One of several prompts that are computed together.
pub struct PrefillJob<'a> {
    /// What to prefill.
    pub request: PrefillRequest<'a>,
    /// What is called after each of its layers.
    pub after_layer: &'a mut AfterLayer<'a>,
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
        after_layer: &mut AfterLayer<'_>,
    ) -> Result<Prefilled, EngineError> {
        let keeping = Keeping::new(self, request, pool)?;
        let pass = Pass::new(self.config(), request.tokens, vec![keeping], None)?;
        let mut after = |_pass: usize, done: LayerDone<'_>| after_layer(done);
        let mut results = self.run(vec![pass], &mut after);
        let mut prefilled = results.remove(0)?;
        Ok(prefilled.remove(0))
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
        let tokens = requests[0].tokens;
        assert!(
            requests.iter().all(|request| request.tokens == tokens),
            "requests of one pass have the same tokens"
        );
        let keepings: Result<Vec<_>, _> = requests
            .iter()
            .map(|request| Keeping::new(self, request, pool))
            .collect();
        let pass = Pass::new(self.config(), tokens, keepings?, None)?;
        let mut never = |_: usize, _: LayerDone<'_>| ControlFlow::Continue(());
        self.run(vec![pass], &mut never).remove(0)
    }

    /// Runs several prompts together, each as it would run alone, to the bit: their matrix products are
    /// joined, as far as they fit into one block, and what `prefixes` holds of a prompt's front is not computed
    /// again. The answers are in the order of the jobs. A GPU takes one after the other, and all of each.
    ///
    /// # Errors
    /// Each job has its own, as for [`prefill`](Self::prefill).
    pub fn prefill_together(
        &self,
        jobs: &mut [PrefillJob<'_>],
        pool: &PagePool,
        prefixes: Option<&PrefixCache>,
    ) -> Vec<Result<Prefilled, EngineError>> {
        let mut results: Vec<Option<Result<Prefilled, EngineError>>> = Vec::new();
        let (mut passes, mut owners) = (Vec::new(), Vec::new());
        for (index, job) in jobs.iter_mut().enumerate() {
            let PrefillJob {
                request,
                after_layer,
            } = job;
            let started = Keeping::new(self, request, pool).and_then(|keeping| {
                Pass::new(self.config(), request.tokens, vec![keeping], prefixes)
            });
            results.push(match started {
                Ok(pass) => {
                    passes.push(pass);
                    owners.push((index, after_layer));
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let mut after = |pass: usize, done: LayerDone<'_>| owners[pass].1(done);
        let ended = self.run(passes, &mut after);
        for ((owner, _), ended) in owners.into_iter().zip(ended) {
            results[owner] = Some(ended.map(|mut prefilled| prefilled.remove(0)));
        }
        let all = results.into_iter();
        all.map(|result| result.expect("every job failed at once or ran"))
            .collect()
    }

    fn run(
        &self,
        passes: Vec<Pass<'_>>,
        after_layer: &mut pass::AfterLayer<'_>,
    ) -> Vec<Result<Vec<Prefilled>, EngineError>> {
        match &self.place {
            Place::Host(model) => pass::run(model, passes, after_layer),
            Place::Device(model) => {
                let passes = passes.into_iter().enumerate();
                let one = |(index, pass): (usize, Pass<'_>)| {
                    model.prefill(pass, &mut |done| after_layer(index, done))
                };
                passes.map(one).collect()
            }
        }
    }
}
