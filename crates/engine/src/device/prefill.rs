//! A prompt through the layers on a GPU, in blocks of tokens.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use lava_kernels::cuda::{Buffer, DeviceError, PrefillAttention};

use super::block::{Block, NARROW, WIDE, Work};
use super::model::DeviceModel;
use super::observer::{FullLayer, LastQueries};
use super::upload::{Place, Upload, numbers};
use crate::error::EngineError;
use crate::keeping::Keeping;
use crate::pass::Pass;
use crate::prefill::{LayerDone, PrefillStats, Prefilled};

/// A prompt on the GPU.
struct Prompt<'a> {
    model: &'a DeviceModel,
    tokens: usize,
    angles: Angles,
    /// `f32` `[N, hidden]`.
    x: Buffer,
    /// `[N, hidden]`.
    y: Buffer,
    /// `[N, Hkv, D]` of the layer that is computed.
    keys: Buffer,
    /// `[N, Hkv, D]`.
    values: Buffer,
    work: Work,
    /// `f32` `[T, Hq]`.
    log_sums: Buffer,
    last: LastQueries,
}

/// Of all tokens, `f32` `[N, D / 2]` each.
struct Angles {
    buffer: Buffer,
    cosines: Place,
    sines: Place,
}

impl DeviceModel {
    /// Runs one prompt.
    ///
    /// # Errors
    /// The caller stopped it, the weights produce values that are not numbers, or the GPU failed.
    pub(crate) fn prefill(
        &self,
        pass: Pass<'_>,
        after_layer: &mut dyn FnMut(LayerDone<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Prefilled>, EngineError> {
        let began = Instant::now();
        let rows = pass.observing_rows();
        let prompt = Prompt::new(self, pass.tokens, rows)?;
        let mut keepings = pass.keepings;
        prompt.layer(0)?;
        for layer in 0..self.layers.len() {
            let full = prompt.full(layer);
            // What scores take is measured without the layer before them.
            self.device().wait()?;
            for keeping in &mut keepings {
                keep(layer, &full, keeping)?;
            }
            // The GPU goes on while the caller ships what became certain.
            if layer + 1 < self.layers.len() {
                prompt.layer(layer + 1)?;
            }
            let done = LayerDone {
                layer,
                cascade: &keepings[0].cascade,
                cache: &keepings[0].cache,
            };
            if after_layer(done).is_break() {
                return Err(EngineError::Cancelled { layer });
            }
        }
        let logits = prompt.logits()?;
        let stats = PrefillStats {
            total: began.elapsed(),
            // All layers have the same buffers, one after the other.
            full_kv_layers_peak: 1,
            ..PrefillStats::default()
        };
        let finished = keepings.into_iter();
        Ok(finished
            .map(|keeping| keeping.finish(logits.clone(), &stats))
            .collect())
    }
}

/// Scores a finished layer, lets the cascade cut all finished layers, and copies what stays.
fn keep(layer: usize, full: &FullLayer<'_>, keeping: &mut Keeping<'_>) -> Result<(), EngineError> {
    let began = Instant::now();
    full.score(keeping)?;
    keeping.truncate_earlier(layer);
    keeping.cache.gather(&keeping.cascade, layer, full)?;
    keeping.count(began);
    Ok(())
}

impl<'a> Prompt<'a> {
    /// `rows` last queries observe.
    fn new(model: &'a DeviceModel, ids: &[u32], rows: usize) -> Result<Self, DeviceError> {
        let c = &model.config;
        let tokens = ids.len();
        let block = tokens.min(model.on.block_tokens);
        let buffer = |bytes: usize| Buffer::new(model.device(), bytes);
        let kv = NARROW * tokens * c.kv_heads * c.head_dim;
        let (cosines, sines) = model.rope.angles(0..tokens);
        let mut upload = Upload::default();
        let (ids, cosines, sines) = (upload.add(ids), upload.add(&cosines), upload.add(&sines));
        let prompt = Self {
            angles: Angles {
                buffer: upload.send(model.device())?,
                cosines,
                sines,
            },
            x: buffer(WIDE * tokens * c.hidden)?,
            y: buffer(NARROW * tokens * c.hidden)?,
            keys: buffer(kv)?,
            values: buffer(kv)?,
            work: Work::new(model, block)?,
            log_sums: buffer(WIDE * block * c.q_heads)?,
            last: LastQueries::new(model, tokens, rows)?,
            model,
            tokens,
        };
        prompt
            .block(0..tokens)
            .embed(ids.within(&prompt.angles.buffer))?;
        Ok(prompt)
    }

    /// Tokens that pass a layer together.
    fn block(&self, positions: Range<usize>) -> Block<'_> {
        let c = &self.model.config;
        let tokens = positions.len();
        let of = |width: usize| (positions.start * width, tokens * width);
        let part = |buffer: &Buffer, (offset, bytes)| buffer.part(offset, bytes);
        let angles =
            |place: Place| place.within(&self.angles.buffer) + of(WIDE * c.head_dim / 2).0 as u64;
        Block {
            model: self.model,
            work: &self.work,
            tokens,
            x: part(&self.x, of(WIDE * c.hidden)),
            y: part(&self.y, of(NARROW * c.hidden)),
            cosines: angles(self.angles.cosines),
            sines: angles(self.angles.sines),
        }
    }

    /// All tokens through one layer.
    fn layer(&self, index: usize) -> Result<(), DeviceError> {
        let c = &self.model.config;
        let layer = &self.model.layers[index];
        let step = self.model.on.block_tokens;
        for start in (0..self.tokens).step_by(step) {
            let positions = start..(start + step).min(self.tokens);
            let block = self.block(positions.clone());
            let row = NARROW * c.kv_heads * c.head_dim;
            let (offset, bytes) = (start * row, positions.len() * row);
            let keys = self.keys.part(offset, bytes);
            let values = self.values.part(offset, bytes);
            block.project(layer, index == 0, keys, values)?;
            let attention = PrefillAttention {
                compute: self.model.compute(),
                head_dim: c.head_dim,
                kv_heads: c.kv_heads,
                group: c.q_heads / c.kv_heads,
                rows: positions.len(),
                first_position: start,
                queries: self.work.queries.address(),
                keys: self.keys.address(),
                values: self.values.address(),
                out: self.work.attended.address(),
                log_sums: self.log_sums.address(),
            };
            self.model.device().run(&attention.launch())?;
            self.last
                .take(positions, &self.work.queries, &self.log_sums)?;
            block.finish(layer)?;
        }
        Ok(())
    }

    fn full(&self, index: usize) -> FullLayer<'_> {
        FullLayer {
            model: self.model,
            layer: &self.model.layers[index],
            tokens: self.tokens,
            keys: &self.keys,
            values: &self.values,
            last: &self.last,
        }
    }

    /// Of the last token, `[V]`.
    fn logits(&self) -> Result<Vec<f32>, DeviceError> {
        let last = self.block(self.tokens - 1..self.tokens);
        let logits = Buffer::new(self.model.device(), WIDE * self.model.config.vocabulary)?;
        last.logits(&logits)?;
        Ok(numbers(&logits.read(0, logits.len())?))
    }
}
