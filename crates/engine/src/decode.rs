//! One token for each sequence of a batch, over their ragged caches.

use candle_core::{Device, Result as CandleResult, Tensor};
use lava_kernels::{DecodeHead, decode_attention};

use crate::cache::RaggedCache;
use crate::error::EngineError;
use crate::host::{HostModel, Projected};
use crate::model::{Model, Place};
use crate::ops;

/// A sequence's turn in a step.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The token to append.
    pub token: u32,
    /// The sequence's rows; one entry per layer and head is added.
    pub cache: &'a mut RaggedCache,
}

impl Model {
    /// Appends one token to every sequence and returns the logits of the next, one `Vec` of V values
    /// per turn. Matrix products run over the whole batch, attention over each head's own rows.
    ///
    /// # Errors
    /// A token id outside the vocabulary, or a GPU without memory for the step; nothing was appended then. A GPU that
    /// failed; it is of no more use then.
    ///
    /// # Panics
    /// If a cache's reservation is used up: it was made for fewer appended tokens.
    pub fn step(&self, batch: &mut [Turn<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let vocabulary = self.config().vocabulary;
        let tokens: Vec<u32> = batch.iter().map(|turn| turn.token).collect();
        if let Some(&token) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        match &self.place {
            Place::Host(model) => lava_kernels::in_pool(|| model.step(batch, &tokens)),
            Place::Device(model) => model.step(batch, &tokens),
        }
    }
}

impl HostModel {
    fn step(&self, batch: &mut [Turn<'_>], tokens: &[u32]) -> Result<Vec<Vec<f32>>, EngineError> {
        let positions: Vec<usize> = batch
            .iter()
            .map(|turn| turn.cache.next_position())
            .collect();
        let angles = self.angles(&positions)?;
        let mut x = self.embed(tokens)?;
        for (index, layer) in self.layers().iter().enumerate() {
            let projected = layer.project(&x, &angles)?;
            append(batch, index, &projected)?;
            let attended = attend(batch, index, &projected.query)?;
            x = layer.finish(&x, attended)?;
        }
        for turn in batch {
            turn.cache.advance();
        }
        Ok(self.logits(&x)?.to_vec2::<f32>()?)
    }
}

/// Adds each sequence's new row to its cache.
fn append(batch: &mut [Turn<'_>], layer: usize, projected: &Projected) -> CandleResult<()> {
    let (_b, kv_heads, d) = projected.key.dims3()?;
    ops::with_values(&projected.key, |keys| {
        ops::with_values(&projected.value, |values| {
            let rows = keys.chunks_exact(d).zip(values.chunks_exact(d));
            for (index, (key, value)) in rows.enumerate() {
                let (turn, head) = (index / kv_heads, index % kv_heads);
                batch[turn].cache.append(layer, head, key, value);
            }
        })
    })?
}

/// Attention of each sequence's query over its own rows: `[B, Hq, D]`.
fn attend(batch: &[Turn<'_>], layer: usize, query: &Tensor) -> CandleResult<Tensor> {
    let (b, q_heads, d) = query.dims3()?;
    let mut out = vec![0.0; b * q_heads * d];
    ops::with_values(query, |queries| {
        let caches = batch.iter().map(|turn| &*turn.cache);
        let tables: Vec<_> = caches.flat_map(|cache| cache.layer(layer)).collect();
        let group = queries.len() / tables.len();
        let heads: Vec<DecodeHead<'_>> = tables
            .iter()
            .zip(queries.chunks_exact(group))
            .map(|(table, queries)| DecodeHead {
                queries,
                runs: table.runs().collect(),
                mean_key: table.mean_key(),
            })
            .collect();
        decode_attention(&mut out, &heads, d);
    })?;
    Tensor::from_vec(out, (b, q_heads, d), &Device::Cpu)
}
