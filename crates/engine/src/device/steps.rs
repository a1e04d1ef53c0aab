//! What steps work in, and steps that are done again as they were recorded.

use lava_kernels::cuda::{Buffer, DeviceError, Recording};

use super::block::{NARROW, WIDE, Work};
use super::decode::Shape;
use super::model::DeviceModel;

/// Shapes whose steps are kept. A batch of 64 that shrinks and grows has fewer.
const RECORDED_MAX: usize = 64;

/// What is left of steps for the next one.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    room: Option<Room>,
    /// The one that was used last is last.
    recorded: Vec<(Shape, Recording)>,
    /// Of the step before.
    last: Option<Shape>,
}

/// Buffers of steps of at most so many sequences.
#[derive(Debug)]
pub(super) struct Room {
    sequences: usize,
    /// Ids, angles and places.
    pub(super) inputs: Buffer,
    /// `f32` `[B, hidden]`.
    pub(super) x: Buffer,
    /// `[B, hidden]`.
    pub(super) y: Buffer,
    /// `[B, Hkv, D]`.
    pub(super) keys: Buffer,
    /// `[B, Hkv, D]`.
    pub(super) values: Buffer,
    pub(super) work: Work,
    /// What the kernels of attention tell each other.
    pub(super) partials: Buffer,
    /// `f32` `[B, V]`.
    pub(super) logits: Buffer,
}

impl Room {
    fn new(
        model: &DeviceModel,
        sequences: usize,
        inputs: usize,
        partials: usize,
    ) -> Result<Self, DeviceError> {
        let c = &model.config;
        let buffer = |bytes: usize| Buffer::new(model.device(), bytes);
        let kv = NARROW * sequences * c.kv_heads * c.head_dim;
        Ok(Self {
            sequences,
            inputs: buffer(inputs)?,
            x: buffer(WIDE * sequences * c.hidden)?,
            y: buffer(NARROW * sequences * c.hidden)?,
            keys: buffer(kv)?,
            values: buffer(kv)?,
            work: Work::new(model, sequences)?,
            partials: buffer(partials)?,
            logits: buffer(WIDE * sequences * c.vocabulary)?,
        })
    }

    fn holds(&self, sequences: usize, inputs: usize, partials: usize) -> bool {
        sequences <= self.sequences
            && inputs <= self.inputs.len()
            && partials <= self.partials.len()
    }
}

impl Steps {
    /// Does a step with `inputs`; `ask` asks for its launches. What comes of it is in the room that this returns.
    ///
    /// # Errors
    /// There is no memory for it, and nothing was done; or the GPU's.
    pub(super) fn run(
        &mut self,
        model: &DeviceModel,
        shape: Shape,
        inputs: &[u8],
        ask: impl Fn(&Room) -> Result<(), DeviceError>,
    ) -> Result<&Room, DeviceError> {
        self.make_room(model, &shape, inputs.len())?;
        let room = self.room.as_ref().expect("it was just made");
        room.inputs.write(0, inputs)?;
        let again = self.last.as_ref() == Some(&shape);
        let known = self.recorded.iter().position(|(known, _)| *known == shape);
        match known {
            Some(known) => {
                let (shape, recording) = self.recorded.remove(known);
                model.device().replay(&recording)?;
                self.recorded.push((shape, recording));
            }
            // The first time runs as it is asked for, which also loads what is needed.
            None if !(model.on.graphs && again) => ask(room)?,
            None => {
                model.device().begin_recording()?;
                let asked = ask(room);
                let recording = model.device().end_recording();
                asked?;
                let recording = recording?;
                model.device().replay(&recording)?;
                if self.recorded.len() == RECORDED_MAX {
                    self.recorded.remove(0);
                }
                self.recorded.push((shape.clone(), recording));
            }
        }
        self.last = Some(shape);
        Ok(room)
    }

    /// Other buffers have other addresses, so what was recorded with those before is of no use then.
    fn make_room(
        &mut self,
        model: &DeviceModel,
        shape: &Shape,
        inputs: usize,
    ) -> Result<(), DeviceError> {
        let (sequences, partials) = (shape.sequences(), shape.partial_bytes(model));
        let room = self.room.as_ref();
        if room.is_some_and(|room| room.holds(sequences, inputs, partials)) {
            return Ok(());
        }
        let at_least = |wanted: usize, have: fn(&Room) -> usize| {
            wanted.max(room.map_or(0, have)).next_power_of_two()
        };
        let sizes = [
            at_least(sequences, |room| room.sequences),
            at_least(inputs, |room| room.inputs.len()),
            at_least(partials, |room| room.partials.len()),
        ];
        // Freed first: both together may not fit.
        *self = Self::default();
        self.room = Some(Room::new(model, sizes[0], sizes[1], sizes[2])?);
        Ok(())
    }
}
