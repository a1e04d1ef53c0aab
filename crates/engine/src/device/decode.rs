//! One token more for each sequence of a batch, on a GPU.

use std::ops::Range;
use std::sync::PoisonError;

use lava_kernels::cuda::{Address, Append, DecodeStep, DeviceError, PoolPlace, SequencePlace};
use lava_kv::RowFormat;

use super::block::{Block, NARROW, WIDE};
use super::model::DeviceModel;
use super::steps::Room;
use super::upload::{Place, Upload, numbers};
use crate::decode::Turn;
use crate::error::EngineError;

/// What the launches of a step depend on, besides what their buffers hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    groups: Vec<Group>,
}

/// Sequences whose caches have one format, and how far their rows reach.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    format: RowFormat,
    turns: Range<usize>,
    /// A power of two: so shapes come again while rows are appended.
    pieces: usize,
    pool: PoolPlace,
}

/// Where a step's inputs are in their buffer.
struct Inputs {
    ids: Place,
    cosines: Place,
    sines: Place,
    places: Place,
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
        let places = order.iter().map(|&turn| batch[turn].cache.sequence_place());
        let places: Vec<SequencePlace> = places.collect::<Result<_, _>>()?;
        let shape = Shape::new(batch, &order);
        let mut upload = Upload::default();
        let inputs = Inputs {
            ids: upload.add(&ids),
            cosines: upload.add(&cosines),
            sines: upload.add(&sines),
            places: upload.add(&places),
        };
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |room: &Room| self.ask_step(room, &shape, &inputs);
        let room = steps.run(self, shape.clone(), upload.bytes(), ask)?;
        let row = WIDE * self.config.vocabulary;
        let all = room.logits.read(0, batch.len() * row)?;
        let mut logits = vec![Vec::new(); batch.len()];
        for (&turn, of_turn) in order.iter().zip(all.chunks_exact(row)) {
            logits[turn] = numbers(of_turn);
            batch[turn].cache.appended();
        }
        Ok(logits)
    }

    /// Asks for all launches of a step.
    fn ask_step(&self, room: &Room, shape: &Shape, inputs: &Inputs) -> Result<(), DeviceError> {
        let c = &self.config;
        let (keys, values) = (room.keys.address(), room.values.address());
        let block = Block {
            model: self,
            work: &room.work,
            tokens: shape.sequences(),
            x: room.x.address(),
            y: room.y.address(),
            cosines: inputs.cosines.within(&room.inputs),
            sines: inputs.sines.within(&room.inputs),
        };
        block.embed(inputs.ids.within(&room.inputs))?;
        for (index, layer) in self.layers.iter().enumerate() {
            block.project(layer, index == 0, keys, values)?;
            for group in &shape.groups {
                let first = group.turns.start;
                let of = |address: Address, row: usize| address + (first * row) as u64;
                let kv_row = NARROW * c.kv_heads * c.head_dim;
                let query_row = NARROW * c.q_heads * c.head_dim;
                let places = inputs.places.within(&room.inputs);
                let step = DecodeStep {
                    layer: index,
                    sequences: of(places, size_of::<SequencePlace>()),
                    queries: of(room.work.queries.address(), query_row),
                    out: of(room.work.attended.address(), query_row),
                    partials: room.partials.address(),
                    ..group.attention(self)
                };
                let append = Append {
                    format: step.format,
                    compute: step.compute,
                    head_dim: step.head_dim,
                    kv_heads: step.kv_heads,
                    batch: step.batch,
                    layer: index,
                    pool: step.pool,
                    sequences: step.sequences,
                    keys: of(keys, kv_row),
                    values: of(values, kv_row),
                };
                self.device().run(&append.launch())?;
                for launch in step.launches() {
                    self.device().run(&launch)?;
                }
            }
            block.finish(layer)?;
        }
        block.logits(&room.logits)
    }
}

impl Shape {
    /// Of a batch in an order in which formats stand together.
    fn new(batch: &[Turn<'_>], order: &[usize]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (at, &turn) in order.iter().enumerate() {
            let cache = &batch[turn].cache;
            let (format, pieces) = (cache.shape().format, cache.pieces().next_power_of_two());
            match groups.last_mut().filter(|group| group.format == format) {
                Some(group) => {
                    group.turns.end = at + 1;
                    group.pieces = group.pieces.max(pieces);
                }
                None => groups.push(Group {
                    format,
                    turns: at..at + 1,
                    pieces,
                    pool: cache.pool_place(),
                }),
            }
        }
        Self { groups }
    }

    /// B.
    pub(super) fn sequences(&self) -> usize {
        self.groups.last().map_or(0, |group| group.turns.end)
    }

    /// Of the group that needs most; they take turns.
    pub(super) fn partial_bytes(&self, model: &DeviceModel) -> usize {
        let groups = self.groups.iter();
        let bytes = groups.map(|group| group.attention(model).partial_bytes());
        bytes.max().unwrap_or(0)
    }
}

impl Group {
    /// Its attention in a layer, without addresses.
    fn attention(&self, model: &DeviceModel) -> DecodeStep {
        let c = &model.config;
        DecodeStep {
            format: self.format,
            compute: model.compute(),
            head_dim: c.head_dim,
            kv_heads: c.kv_heads,
            group: c.q_heads / c.kv_heads,
            batch: self.turns.len(),
            layer: 0,
            pool: self.pool,
            sequences: 0,
            queries: 0,
            out: 0,
            partials: 0,
            pieces: self.pieces,
        }
    }
}
