//! One token more for each sequence of a batch, on a GPU.

use std::ops::Range;

use lava_kernels::cuda::{Append, Buffer, DecodeStep, DeviceError};
use lava_kv::RowFormat;

use super::block::{Block, NARROW, WIDE, Work};
use super::model::DeviceModel;
use super::upload::Upload;
use crate::decode::Turn;
use crate::error::EngineError;

/// Sequences whose caches have one format, and how far their rows reach.
struct Group {
    format: RowFormat,
    turns: Range<usize>,
    pieces: usize,
}

impl DeviceModel {
    /// Appends one token to every sequence and returns the logits of the next, `[V]` per turn.
    pub(crate) fn step(
        &self,
        batch: &mut [Turn<'_>],
        tokens: &[u32],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        // A kernel serves one format, so those of a format stand together.
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|&turn| batch[turn].cache.shape().format);
        let positions = order.iter().map(|&turn| batch[turn].cache.next_position());
        let (cosines, sines) = self.rope.angles(positions);
        let ids: Vec<u32> = order.iter().map(|&turn| tokens[turn]).collect();
        let places: Result<Vec<_>, _> = order
            .iter()
            .map(|&turn| batch[turn].cache.sequence_place())
            .collect();
        let groups = groups(batch, &order);

        let mut upload = Upload::default();
        let (ids, cosines, sines) = (upload.add(&ids), upload.add(&cosines), upload.add(&sines));
        let places = upload.add(&places?);
        let sent = upload.send(self.device())?;
        let sequences = places.within(&sent);
        let (c, tokens) = (&self.config, batch.len());
        let x = Buffer::new(self.device(), WIDE * tokens * c.hidden)?;
        let y = Buffer::new(self.device(), NARROW * tokens * c.hidden)?;
        let new = Buffer::new(self.device(), 2 * NARROW * tokens * c.kv_heads * c.head_dim)?;
        let work = Work::new(self, tokens)?;
        let block = Block {
            model: self,
            work: &work,
            tokens,
            x: x.address(),
            y: y.address(),
            cosines: cosines.within(&sent),
            sines: sines.within(&sent),
        };
        let partials: Result<Vec<Buffer>, DeviceError> = groups
            .iter()
            .map(|group| {
                let step = self.attention(batch, &order, group, 0);
                Buffer::new(self.device(), step.partial_bytes())
            })
            .collect();
        let partials = partials?;

        block.embed(ids.within(&sent))?;
        for (index, layer) in self.layers.iter().enumerate() {
            let keys = new.address();
            let values = new.part(new.len() / 2, new.len() / 2);
            block.project(layer, index == 0, keys, values)?;
            for (group, partials) in groups.iter().zip(&partials) {
                let first = group.turns.start;
                let of = |address: u64, row: usize| address + (first * row) as u64;
                let kv_row = NARROW * c.kv_heads * c.head_dim;
                let step = self.attention(batch, &order, group, index);
                let append = Append {
                    format: step.format,
                    compute: step.compute,
                    head_dim: step.head_dim,
                    kv_heads: step.kv_heads,
                    batch: step.batch,
                    layer: index,
                    pool: step.pool,
                    sequences: of(sequences, size_of::<lava_kernels::cuda::SequencePlace>()),
                    keys: of(keys, kv_row),
                    values: of(values, kv_row),
                };
                self.device().run(&append.launch())?;
                let query_row = NARROW * c.q_heads * c.head_dim;
                let step = DecodeStep {
                    sequences: append.sequences,
                    queries: of(work.queries.address(), query_row),
                    out: of(work.attended.address(), query_row),
                    partials: partials.address(),
                    ..step
                };
                for launch in step.launches() {
                    self.device().run(&launch)?;
                }
            }
            block.finish(layer)?;
        }
        let mut logits = vec![Vec::new(); tokens];
        for (&turn, of_turn) in order.iter().zip(block.logits()?) {
            logits[turn] = of_turn;
            batch[turn].cache.appended();
        }
        Ok(logits)
    }

    /// A group's attention in a layer, without addresses.
    fn attention(
        &self,
        batch: &[Turn<'_>],
        order: &[usize],
        group: &Group,
        layer: usize,
    ) -> DecodeStep {
        let c = &self.config;
        DecodeStep {
            format: group.format,
            compute: self.compute(),
            head_dim: c.head_dim,
            kv_heads: c.kv_heads,
            group: c.q_heads / c.kv_heads,
            batch: group.turns.len(),
            layer,
            pool: batch[order[group.turns.start]].cache.pool(),
            sequences: 0,
            queries: 0,
            out: 0,
            partials: 0,
            pieces: group.pieces,
        }
    }
}

/// Of a batch in an order in which formats stand together.
fn groups(batch: &[Turn<'_>], order: &[usize]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, &turn) in order.iter().enumerate() {
        let cache = &batch[turn].cache;
        let (format, pieces) = (cache.shape().format, cache.pieces());
        match groups.last_mut().filter(|group| group.format == format) {
            Some(group) => {
                group.turns.end = at + 1;
                group.pieces = group.pieces.max(pieces);
            }
            None => groups.push(Group {
                format,
                turns: at..at + 1,
                pieces,
            }),
        }
    }
    groups
}
