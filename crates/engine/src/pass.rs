//! Prompts on their way through the layers, in blocks of tokens.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use candle_core::{Result as CandleResult, Tensor};

use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::full_kv::{FullKv, FullKvCount};
use crate::host::{HostModel, Layer, Projected};
use crate::keeping::Keeping;
use crate::observer::{LastQueries, Observer};
use crate::ops;
use crate::prefill::{BLOCK_TOKENS, LayerDone, PrefillStats, Prefilled};
use crate::prefix::{Growing, PrefixCache, Reused};

/// One prompt, and what requests keep of it.
pub(crate) struct Pass<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) keepings: Vec<Keeping<'a>>,
    /// Blocks at the front whose keys and values are there.
    reused: Reused,
    /// Those of the other whole blocks, for later prompts.
    growing: Option<Growing<'a>>,
    ended: Option<EngineError>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(
        config: &ModelConfig,
        tokens: &'a [u32],
        keepings: Vec<Keeping<'a>>,
        prefixes: Option<&'a PrefixCache>,
    ) -> Result<Self, EngineError> {
        // Queries that scores need are computed, and so is the last token, whose logits are the answer.
        let own = keepings.iter().map(Keeping::observing_rows).max();
        let own = own.unwrap_or(0).max(1);
        let reused = match prefixes {
            Some(prefixes) => prefixes.find(&tokens[..tokens.len() - own]),
            None => Reused::default(),
        };
        let growing = prefixes.map(|prefixes| prefixes.grow(config, tokens, &reused));
        Ok(Self {
            tokens,
            keepings,
            reused,
            growing,
            ended: None,
        })
    }

    /// Tokens that are computed.
    fn own(&self) -> Range<usize> {
        self.reused.tokens()..self.tokens.len()
    }

    /// Queries at the end of the prompt that scores need.
    pub(crate) fn observing_rows(&self) -> usize {
        let rows = self.keepings.iter().map(Keeping::observing_rows);
        rows.max().unwrap_or(0)
    }
}

/// What is called after each layer of a pass.
pub(crate) type AfterLayer<'a> = dyn FnMut(usize, LayerDone<'_>) -> ControlFlow<()> + 'a;

/// Runs prompts through all layers. `after_layer` gets the index of a pass and sees its first request.
pub(crate) fn run(
    model: &HostModel,
    mut passes: Vec<Pass<'_>>,
    after_layer: &mut AfterLayer<'_>,
) -> Vec<Result<Vec<Prefilled>, EngineError>> {
    let began = Instant::now();
    let counts: Vec<FullKvCount> = passes.iter().map(|_| FullKvCount::default()).collect();
    let logits = match layers(model, &mut passes, &counts, after_layer) {
        Ok(logits) => logits,
        // What one pass suffers from is kept with it; this is the tensor library's.
        Err(error) => {
            let reason = error.to_string();
            let failed = |_| Err(EngineError::Candle(candle_core::Error::Msg(reason.clone())));
            return passes.into_iter().map(failed).collect();
        }
    };
    let total = began.elapsed();
    let finish = |((pass, logits), count): ((Pass<'_>, Vec<f32>), &FullKvCount)| {
        if let Some(error) = pass.ended {
            return Err(error);
        }
        if let Some(growing) = pass.growing {
            growing.keep();
        }
        let stats = PrefillStats {
            total,
            full_kv_layers_peak: count.peak(),
            reused_tokens: pass.reused.tokens(),
            ..PrefillStats::default()
        };
        let keepings = pass.keepings.into_iter();
        Ok(keepings
            .map(|keeping| keeping.finish(logits.clone(), &stats))
            .collect())
    };
    let ended = passes.into_iter().zip(logits).zip(&counts);
    ended.map(finish).collect()
}

/// The logits of each pass's last token, or nothing where a pass has ended.
fn layers(
    model: &HostModel,
    passes: &mut [Pass<'_>],
    counts: &[FullKvCount],
    after_layer: &mut AfterLayer<'_>,
) -> CandleResult<Vec<Vec<f32>>> {
    let mut blocks = blocks(model, passes)?;
    let config = model.config();
    for (index, layer) in model.layers().iter().enumerate() {
        let mut states: Vec<Option<State<'_>>> = Vec::new();
        states.resize_with(passes.len(), || None);
        for block in &mut blocks {
            for segment in &block.segments {
                let pass = &passes[segment.pass];
                if states[segment.pass].is_none() {
                    let shape = (pass.tokens.len(), config.kv_heads, config.head_dim);
                    let full = FullKv::new(shape, &counts[segment.pass])?;
                    pass.reused.write(index, &full)?;
                    let queries = LastQueries::new(pass.observing_rows());
                    states[segment.pass] = Some(State { full, queries });
                }
            }
            block.advance(layer, &mut states, passes)?;
            for segment in &block.segments {
                let pass = &mut passes[segment.pass];
                if segment.positions.end < pass.tokens.len() {
                    continue;
                }
                let state = states[segment.pass].take().expect("it was made above");
                if pass.ended.is_some() {
                    continue;
                }
                pass.ended = end_layer(index, layer, pass, state).err();
                let done = LayerDone {
                    layer: index,
                    cascade: &pass.keepings[0].cascade,
                    cache: &pass.keepings[0].cache,
                };
                if pass.ended.is_none() && after_layer(segment.pass, done).is_break() {
                    pass.ended = Some(EngineError::Cancelled { layer: index });
                }
            }
        }
        if passes.iter().all(|pass| pass.ended.is_some()) {
            return Ok(vec![Vec::new(); passes.len()]);
        }
    }
    let mut logits = vec![Vec::new(); passes.len()];
    for block in &blocks {
        for segment in &block.segments {
            let pass = &passes[segment.pass];
            if segment.positions.end == pass.tokens.len() && pass.ended.is_none() {
                let last = block.x.narrow(0, segment.rows.end - 1, 1)?;
                logits[segment.pass] = model.logits(&last)?.flatten_all()?.to_vec1::<f32>()?;
            }
        }
    }
    Ok(logits)
}

/// A pass within one layer.
struct State<'a> {
    full: FullKv<'a>,
    queries: LastQueries,
}

/// Scores a finished layer for all requests of a pass, and keeps its rows.
fn end_layer(
    index: usize,
    layer: &Layer,
    pass: &mut Pass<'_>,
    state: State<'_>,
) -> Result<(), EngineError> {
    let grams = || layer.output_grams();
    let mut observer = Observer::new(layer.query_heads(), &grams, &state.full, state.queries);
    for keeping in &pass.keepings {
        observer.expect(keeping);
    }
    for keeping in &mut pass.keepings {
        keeping.layer(index, &mut observer)?;
    }
    Ok(())
}

/// Tokens that pass a layer together, and their residual stream.
struct Block {
    /// `[T, hidden]`.
    x: Tensor,
    angles: Tensor,
    segments: Vec<Segment>,
}

/// Consecutive tokens of one prompt in a block.
struct Segment {
    /// Index of the pass.
    pass: usize,
    positions: Range<usize>,
    /// Rows of the block.
    rows: Range<usize>,
}

/// The tokens of all passes in blocks of at most [`BLOCK_TOKENS`]; those of a pass in their order. A block of a
/// prompt begins at a multiple of that, and is never split, so that it is the same whatever else runs.
fn blocks(model: &HostModel, passes: &[Pass<'_>]) -> CandleResult<Vec<Block>> {
    let mut plan: Vec<Vec<Segment>> = Vec::new();
    for (index, pass) in passes.iter().enumerate() {
        let own = pass.own();
        for start in own.clone().step_by(BLOCK_TOKENS) {
            let positions = start..(start + BLOCK_TOKENS).min(own.end);
            let before = plan.last().and_then(|block| block.last());
            let before = before.map_or(BLOCK_TOKENS, |segment| segment.rows.end);
            let joins = before + positions.len() <= BLOCK_TOKENS;
            let first = if joins { before } else { 0 };
            let segment = Segment {
                pass: index,
                rows: first..first + positions.len(),
                positions,
            };
            match plan.last_mut().filter(|_| joins) {
                Some(block) => block.push(segment),
                None => plan.push(vec![segment]),
            }
        }
    }
    let block = |segments: Vec<Segment>| {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for segment in &segments {
            ids.extend_from_slice(&passes[segment.pass].tokens[segment.positions.clone()]);
            positions.extend(segment.positions.clone());
        }
        Ok(Block {
            x: model.embed(&ids)?,
            angles: model.angles(&positions)?,
            segments,
        })
    };
    plan.into_iter().map(block).collect()
}

impl Block {
    /// Through one layer. Earlier blocks have written their keys and values already.
    fn advance(
        &mut self,
        layer: &Layer,
        states: &mut [Option<State<'_>>],
        passes: &mut [Pass<'_>],
    ) -> CandleResult<()> {
        let projected = layer.project(&self.x, &self.angles)?;
        for segment in &self.segments {
            let state = states[segment.pass]
                .as_mut()
                .expect("made for its first block");
            let part = projected.rows(segment.rows.clone())?;
            state
                .full
                .write(segment.positions.start, &part.key, &part.value)?;
            state.queries.push(&part.query)?;
            if let Some(growing) = &mut passes[segment.pass].growing {
                growing.push(segment.positions.clone(), &part)?;
            }
        }
        // What is not needed any more makes room for what comes: the MLP is the largest part of a block.
        let Projected { query, .. } = projected;
        let mut attended = Vec::new();
        for segment in &self.segments {
            let state = states[segment.pass]
                .as_ref()
                .expect("made for its first block");
            let (key, value) = state.full.first(segment.positions.end)?;
            let query = query.narrow(0, segment.rows.start, segment.rows.len())?;
            attended.push(ops::causal_attention(&query, &key, &value)?);
        }
        drop(query);
        let attended = match attended.len() {
            1 => attended.remove(0),
            _ => Tensor::cat(&attended, 0)?,
        };
        self.x = layer.finish(&self.x, attended)?;
        Ok(())
    }
}
