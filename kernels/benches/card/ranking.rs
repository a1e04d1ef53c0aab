//! Rankings of a layer: as a whole, and then head by head as far as the whole says that entries may be wanted.

use lava_kernels::cuda::{CountHeads, DeviceError, Heads, Launch, Rank, RankScratch, Work};

use super::memory::Memory;
use super::random::Random;

/// The head floor in thousandths, as it is by default.
const ALPHA_MILLI: u32 = 200;

#[derive(Clone, Copy)]
pub(crate) struct Ranking {
    pub(crate) heads: Heads,
    /// N.
    pub(crate) tokens: usize,
    /// W.
    pub(crate) window: usize,
    /// Entries of the layer that are wanted.
    pub(crate) kept: usize,
}

impl Ranking {
    pub(crate) fn work(&self) -> Work {
        self.heads.ranking(self.tokens, self.kept)
    }

    /// What counts the entries of heads between the two rankings is not timed.
    pub(crate) fn launches(&self, memory: &mut Memory<'_>) -> Result<Vec<Launch>, DeviceError> {
        let (kv_heads, positions) = (self.heads.kv_heads, self.tokens - self.window);
        let entries = kv_heads * positions;
        let best = self.kept.min(entries);
        let scores = memory.of(&distinct_scores(entries))?;
        let counts = memory.of(&[best as u32])?;
        let count = CountHeads {
            kv_heads,
            positions,
            alpha_milli: ALPHA_MILLI,
            best: 0,
            counts,
            of_heads: memory.room(size_of::<u32>() * kv_heads)?,
        };
        let rank = |segments: usize, counts| Rank {
            segments,
            entries: entries / segments,
            positions,
            sinks: 0,
            wanted_max: best,
            scores,
            counts,
            scratch: RankScratch::default(),
            best: 0,
        };
        let of_layer = with_room(rank(1, counts), memory)?;
        let of_heads = with_room(rank(kv_heads, count.of_heads), memory)?;
        // Every run of a ranking leaves its scratch as the next one needs it, since the scores are the same.
        let of_layer_launches = of_layer.launches();
        for launch in &of_layer_launches {
            memory.run(launch)?;
        }
        let count = CountHeads {
            best: of_layer.best,
            ..count
        };
        memory.run(&count.launch())?;
        Ok([of_layer_launches, of_heads.launches()].concat())
    }
}

fn with_room(rank: Rank, memory: &mut Memory<'_>) -> Result<Rank, DeviceError> {
    let bytes = rank.scratch_bytes();
    Ok(Rank {
        scratch: RankScratch {
            selections: memory.room(bytes.selections)?,
            histograms: memory.filled(bytes.histograms, 0)?,
            numbers: memory.filled(bytes.numbers, u8::MAX)?,
        },
        best: memory.room(size_of::<u32>() * rank.segments * rank.capacity())?,
        ..rank
    })
}

/// Most are small, as those of attention are.
fn distinct_scores(count: usize) -> Vec<f32> {
    let order = Random(2).shuffled(count);
    let score = |place: u32| ((place + 1) as f32 / count as f32).powi(3);
    order.into_iter().map(score).collect()
}
