//! What policies want to know of a finished layer on a GPU.
//!
//! LAVa's own scores are taken and ranked on the GPU, and only the ranking comes back. What the baselines and scores
//! that weigh values want has no kernel: keys, values and queries come back for it, and the host looks at them as it
//! looks at its own.

use std::ops::Range;

use candle_core::{Device as Place, Tensor};
use lava::{Gqa, Method, Pool, RankedLayer, RankingWanted, Score, ValueNorm};
use lava_kernels::cuda::{
    Address, Buffer, CountHeads, DeviceError, Launch, Norms, Rank, RankScratch, Scores, Statistic,
    ValueNorms, Window,
};

use super::block::{NARROW, WIDE};
use super::model::{DeviceLayer, DeviceModel};
use super::upload::numbers;
use crate::error::EngineError;
use crate::full_kv::{FullKv, FullKvCount};
use crate::keeping::Keeping;
use crate::observer::Observer;

/// The queries of the last tokens of a prompt, and the sums of what they see, of the layer that is computed.
#[derive(Debug)]
pub(super) struct LastQueries {
    /// Their positions.
    positions: Range<usize>,
    /// Hq.
    heads: usize,
    head_dim: usize,
    /// `[rows, Hq, D]`.
    queries: Buffer,
    /// `f32` `[rows, Hq]`.
    log_sums: Buffer,
    device: std::sync::Arc<dyn lava_kernels::cuda::Device>,
}

impl LastQueries {
    pub(super) fn new(
        model: &DeviceModel,
        tokens: usize,
        rows: usize,
    ) -> Result<Self, DeviceError> {
        let (heads, head_dim) = (model.config.q_heads, model.config.head_dim);
        Ok(Self {
            positions: tokens - rows..tokens,
            heads,
            head_dim,
            queries: Buffer::new(model.device(), NARROW * rows * heads * head_dim)?,
            log_sums: Buffer::new(model.device(), WIDE * rows * heads)?,
            device: model.device().clone(),
        })
    }

    /// Takes those of a block that are among the last; both buffers begin with the block's first token.
    pub(super) fn take(
        &self,
        block: Range<usize>,
        queries: &Buffer,
        log_sums: &Buffer,
    ) -> Result<(), DeviceError> {
        let first = block.start.max(self.positions.start);
        let rows = block.end.saturating_sub(first);
        let copy = |to: &Buffer, from: &Buffer, row: usize| {
            let bytes = rows * row;
            let to = to.part((first - self.positions.start) * row, bytes);
            let from = from.part((first - block.start) * row, bytes);
            self.device.copy(to, from, bytes)
        };
        if rows > 0 {
            copy(&self.queries, queries, NARROW * self.heads * self.head_dim)?;
            copy(&self.log_sums, log_sums, WIDE * self.heads)?;
        }
        Ok(())
    }

    /// The last `rows` queries, and their sums.
    fn rows(&self, rows: usize) -> (Address, Address) {
        let last = |buffer: &Buffer, row: usize| {
            let bytes = rows * row;
            buffer.part(buffer.len() - bytes, bytes)
        };
        let queries = last(&self.queries, NARROW * self.heads * self.head_dim);
        (queries, last(&self.log_sums, WIDE * self.heads))
    }
}

/// Keys and values of all tokens in a finished layer.
pub(super) struct FullLayer<'a> {
    pub(super) model: &'a DeviceModel,
    pub(super) layer: &'a DeviceLayer,
    /// N.
    pub(super) tokens: usize,
    /// `[N, Hkv, D]`.
    pub(super) keys: &'a Buffer,
    /// `[N, Hkv, D]`.
    pub(super) values: &'a Buffer,
    pub(super) last: &'a LastQueries,
}

/// Scores `f32` `[Hkv, n]` that are on the GPU.
struct Scored {
    scores: Buffer,
    positions: usize,
    /// Parts of sums: see [`Scores::sums`].
    sums: Buffer,
}

impl FullLayer<'_> {
    /// Scores the layer for a request and tells its cascade.
    pub(super) fn score(&self, keeping: &mut Keeping<'_>) -> Result<(), EngineError> {
        let rows = keeping.observing_rows();
        if rows == 0 {
            // Nothing is evicted, or the policy looks at nothing.
            return Ok(keeping.cascade.push_layer(Default::default())?);
        }
        let method = &keeping.request.method;
        let columns = self.tokens - keeping.cascade.window_rows();
        if !has_kernels(method) {
            let scores = self.score_here(keeping)?;
            return Ok(keeping.cascade.push_layer(scores)?);
        }
        let scored = self.score_there(method, rows, columns)?;
        match keeping.cascade.ranking_wanted() {
            Some(wanted) => {
                let ranked = self.rank(&scored, wanted)?;
                Ok(keeping.cascade.push_ranked(&ranked)?)
            }
            None => {
                let scores = scored.scores.read(0, scored.scores.len())?;
                let scores: Vec<f32> = numbers(&scores);
                Ok(keeping.cascade.push_layer(scores.into())?)
            }
        }
    }

    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.model.device().run(launch)
    }

    fn run_all(&self, launches: &[Launch]) -> Result<(), DeviceError> {
        launches.iter().try_for_each(|launch| self.run(launch))
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        Buffer::new(self.model.device(), bytes)
    }

    /// Of the last `rows` queries on the first `columns` keys.
    fn score_there(
        &self,
        method: &Method,
        rows: usize,
        columns: usize,
    ) -> Result<Scored, DeviceError> {
        let (c, config) = (&self.model.config, &method.config);
        let group = c.q_heads / c.kv_heads;
        let is_largest = config.score == Score::MaxClamp;
        let (queries, log_sums) = self.last.rows(rows);
        let seen = self.buffer(WIDE * c.q_heads * columns)?;
        let window = Window {
            compute: self.model.compute(),
            head_dim: c.head_dim,
            kv_heads: c.kv_heads,
            group,
            tokens: self.tokens,
            rows,
            columns,
            statistic: match is_largest {
                true => Statistic::Largest,
                false => Statistic::Mean,
            },
            queries,
            keys: self.keys.address(),
            log_sums,
            seen: seen.address(),
        };
        self.run(&window.launch())?;
        let norms = self.value_norms(config.value_norm, columns)?;
        let scores = self.buffer(WIDE * c.kv_heads * columns)?;
        let mut chain = Scores {
            kv_heads: c.kv_heads,
            group,
            columns,
            kernel: match config.pool {
                Pool::None => 1,
                Pool::Max | Pool::Avg => config.kernel,
            },
            shoulder: config.shoulder_milli as f32 / 1000.0,
            norms: match &norms {
                Some(norms) => Norms::OfHeads(norms.address()),
                None => Norms::None,
            },
            of_mean: config.gqa == Gqa::Mean && !is_largest,
            clamped: is_largest,
            seen: seen.address(),
            scores: scores.address(),
            pooled_sums: 0,
            sums: 0,
        };
        let pooled_sums = self.buffer(chain.sum_bytes())?;
        let sums = self.buffer(2 * chain.sum_bytes())?;
        (chain.pooled_sums, chain.sums) = (pooled_sums.address(), sums.address());
        self.run_all(&chain.launches())?;
        Ok(Scored {
            scores,
            positions: columns,
            sums,
        })
    }

    /// `f32` `[Hkv]`.
    fn value_norms(&self, of: ValueNorm, columns: usize) -> Result<Option<Buffer>, DeviceError> {
        let c = &self.model.config;
        let rows = match of {
            ValueNorm::Off => return Ok(None),
            ValueNorm::All => self.tokens,
            ValueNorm::NonWindow => columns,
        };
        let norms = self.buffer(WIDE * c.kv_heads)?;
        norms.fill(0)?;
        let launch = ValueNorms {
            compute: self.model.compute(),
            head_dim: c.head_dim,
            kv_heads: c.kv_heads,
            rows,
            values: self.values.address(),
            norms: norms.address(),
        };
        self.run(&launch.launch())?;
        Ok(Some(norms))
    }

    /// The best of the layer, and the best of each head as far as the layer's say that they may be wanted.
    fn rank(&self, scored: &Scored, wanted: RankingWanted) -> Result<RankedLayer, DeviceError> {
        let (heads, n) = (self.model.config.kv_heads, scored.positions);
        let best = wanted.best.min(heads * n);
        let counts = Buffer::of(self.model.device(), &(best as u32).to_le_bytes())?;
        let ranking = |segments: usize, counts: Address| Rank {
            segments,
            entries: heads * n / segments,
            positions: n,
            sinks: wanted.sinks,
            wanted_max: best,
            scores: scored.scores.address(),
            counts,
            scratch: RankScratch::default(),
            best: 0,
        };
        // What comes back lies together: how many of each head, the best of the layer, the best of each head. Behind
        // those that are wanted nothing is written.
        let mut layer = ranking(1, counts.address());
        let room = ranking(heads, 0).capacity();
        let sizes = [heads, layer.capacity(), heads * room];
        let found = self.buffer(WIDE * sizes.iter().sum::<usize>())?;
        found.fill(0)?;
        let of_heads = found.part(0, WIDE * heads);
        layer.best = found.part(WIDE * heads, WIDE * layer.capacity());
        let mut each = ranking(heads, of_heads);
        each.best = layer.best + (WIDE * layer.capacity()) as u64;
        let count = CountHeads {
            kv_heads: heads,
            positions: n,
            alpha_milli: wanted.alpha_milli,
            best: layer.best,
            counts: counts.address(),
            of_heads,
        };
        self.run_ranking(layer)?;
        self.run(&count.launch())?;
        self.run_ranking(each)?;

        // Here the host waits.
        let found: Vec<u32> = numbers(&found.read(0, found.len())?);
        let (of_heads, found) = found.split_at(heads);
        let (layer, each) = found.split_at(layer.capacity());
        let of_head = |(best, &count): (&[u32], &u32)| best[..(count as usize).min(n)].to_vec();
        Ok(RankedLayer {
            entropy: entropy(&scored.sums, heads * n)?,
            heads: layer[..best]
                .iter()
                .map(|index| (*index as usize / n) as u16)
                .collect(),
            positions: each.chunks_exact(room).zip(of_heads).map(of_head).collect(),
        })
    }

    fn run_ranking(&self, mut rank: Rank) -> Result<(), DeviceError> {
        let bytes = rank.scratch_bytes();
        let selections = self.buffer(bytes.selections)?;
        let histograms = self.buffer(bytes.histograms)?;
        histograms.fill(0)?;
        let numbers = self.buffer(bytes.numbers)?;
        numbers.fill(255)?;
        rank.scratch = RankScratch {
            selections: selections.address(),
            histograms: histograms.address(),
            numbers: numbers.address(),
        };
        self.run_all(&rank.launches())
    }

    /// Scores for a policy that no kernel serves.
    fn score_here(&self, keeping: &Keeping<'_>) -> Result<lava::LayerScores, EngineError> {
        let c = &self.model.config;
        let tensor = |buffer: &Buffer, heads: usize| -> Result<Tensor, EngineError> {
            let numbers = self.model.compute().widen(&buffer.read(0, buffer.len())?);
            let shape = (numbers.len() / heads / c.head_dim, heads, c.head_dim);
            Ok(Tensor::from_vec(numbers, shape, &Place::Cpu)?)
        };
        let count = FullKvCount::default();
        let full = FullKv::new((self.tokens, c.kv_heads, c.head_dim), &count)?;
        let (keys, values) = (
            tensor(self.keys, c.kv_heads)?,
            tensor(self.values, c.kv_heads)?,
        );
        full.write(0, &keys, &values)?;
        let rows = keeping.observing_rows();
        let mut queries = crate::observer::LastQueries::new(rows);
        queries.push(&tensor(&self.last.queries, c.q_heads)?)?;
        let grams = match keeping.request.method.observes().value_outputs {
            true => self.layer.output_grams(self.model)?,
            false => &[],
        };
        let grams = || grams;
        let mut observer = Observer::new(c.q_heads, &grams, &full, queries);
        observer.expect(keeping);
        observer.scores(keeping)
    }
}

/// Whether a method's scores are those that kernels take.
fn has_kernels(method: &Method) -> bool {
    let config = &method.config;
    method.scores_as_configured()
        && matches!(config.score, Score::Lava | Score::MaxClamp)
        && config.pool != Pool::Avg
}

/// Of scores with these sums, divided by the logarithm of their number, as [`lava::entropy::entropy`] is.
fn entropy(sums: &Buffer, entries: usize) -> Result<f64, DeviceError> {
    let sums: Vec<[f64; 2]> = numbers(&sums.read(0, sums.len())?);
    let total = |at: usize| sums.iter().map(|pair| pair[at]).sum::<f64>();
    let (sum, information) = (total(0), total(1));
    Ok(match sum {
        // Scores that are no numbers stay none.
        _ if entries < 2 || sum == 0.0 => sum * 0.0,
        _ => ((sum.ln() - information / sum) / (entries as f64).ln()).clamp(0.0, 1.0),
    })
}
