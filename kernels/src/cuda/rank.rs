//! The best entries of a layer, or of each of its heads, in their strict order.

use bytemuck::{Pod, Zeroable, bytes_of};

use super::{Address, Launch};

const THREADS: u32 = 256;
const WARP: u32 = 32;
/// Values of a digit.
const DIGITS: usize = 2048;
const DIGIT_BITS: u32 = 11;
/// Numbers that a block sorts by itself.
const TILE: usize = 2048;
/// Blocks that look through a segment.
const LOOKING_MAX: usize = 264;
/// Bytes of what is known of a segment's last number.
const SELECTION_BYTES: usize = 24;

/// The best of each of some segments of scores that are not negative: score descending, then index ascending, the
/// first positions of every head before all others. Costs a few looks at the scores, and a sort of what is taken.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    /// Segments: 1 for a layer as a whole, Hkv for its heads.
    pub segments: usize,
    /// Scores of a segment: `Hkv · n`, or `n`.
    pub entries: usize,
    /// n: positions of a head.
    pub positions: usize,
    /// The first positions of each head, which come before all others.
    pub sinks: usize,
    /// At least what is wanted of any segment.
    pub wanted_max: usize,
    /// `f32` `[segments, entries]`.
    pub scores: Address,
    /// `u32` `[segments]`: how many are wanted; if more than there are, all.
    pub counts: Address,
    /// Room for [`scratch_bytes`](Rank::scratch_bytes).
    pub scratch: RankScratch,
    /// `u32` `[segments, capacity]`: indices in the segment, best first. [`capacity`](Rank::capacity) is a segment's
    /// room.
    pub best: Address,
}

/// What the kernels tell each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct RankScratch {
    /// Anything before.
    pub selections: Address,
    /// Zeros before, and after.
    pub histograms: Address,
    /// All bits set before.
    pub numbers: Address,
}

/// Bytes of [`RankScratch`]'s parts.
#[derive(Clone, Copy, Debug)]
pub struct RankScratchBytes {
    /// Of selections.
    pub selections: usize,
    /// Of histograms.
    pub histograms: usize,
    /// Of numbers.
    pub numbers: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RankParameters {
    scores: Address,
    counts: Address,
    selections: Address,
    histograms: Address,
    numbers: Address,
    best: Address,
    entries: u32,
    positions: u32,
    sinks: u32,
    capacity: u32,
    shift: u32,
    bits: u32,
    distance: u32,
    run: u32,
}

impl Rank {
    /// Entries that there is room for in each segment: a power of two.
    pub fn capacity(&self) -> usize {
        self.wanted_max.min(self.entries).max(1).next_power_of_two()
    }

    /// How much scratch is needed.
    pub fn scratch_bytes(&self) -> RankScratchBytes {
        RankScratchBytes {
            selections: self.segments * SELECTION_BYTES,
            histograms: 4 * self.segments * DIGITS,
            numbers: 8 * self.segments * self.capacity(),
        }
    }

    /// To be run one after the other.
    ///
    /// # Panics
    /// If there are more than 2^32 entries.
    pub fn launches(&self) -> Vec<Launch> {
        assert!(self.entries < 1 << 32, "indices have 32 bits");
        let capacity = self.capacity();
        let parameters = RankParameters {
            scores: self.scores,
            counts: self.counts,
            selections: self.scratch.selections,
            histograms: self.scratch.histograms,
            numbers: self.scratch.numbers,
            best: self.best,
            entries: self.entries as u32,
            positions: self.positions as u32,
            sinks: self.sinks as u32,
            capacity: capacity as u32,
            shift: 0,
            bits: 0,
            distance: 0,
            run: 0,
        };
        let segments = self.segments as u32;
        let launch = |kernel: &str, blocks: usize, parameters: RankParameters| {
            let for_segments = ["rank_begin", "rank_choose_digit"].contains(&kernel);
            Launch {
                kernel: kernel.to_owned(),
                grid: match for_segments {
                    true => [segments, 1, 1],
                    false => [blocks as u32, segments, 1],
                },
                threads: if for_segments { WARP } else { THREADS },
                parameters: bytes_of(&parameters).to_vec(),
            }
        };
        let looking = self.entries.div_ceil(THREADS as usize).min(LOOKING_MAX);
        let mut launches = vec![launch("rank_begin", 1, parameters)];
        for (shift, bits) in digits(self.entries) {
            let digit = RankParameters {
                shift,
                bits,
                ..parameters
            };
            launches.push(launch("rank_count_digits", looking, digit));
            launches.push(launch("rank_choose_digit", 1, digit));
        }
        launches.push(launch("rank_take", looking, parameters));
        let tiles = capacity.div_ceil(TILE);
        launches.push(launch("rank_sort_tiles", tiles, parameters));
        let mut run = 2 * TILE;
        while run <= capacity {
            let mut distance = run / 2;
            while distance >= TILE {
                let step = RankParameters {
                    distance: distance as u32,
                    run: run as u32,
                    ..parameters
                };
                launches.push(launch(
                    "rank_sort_far",
                    (capacity / 2).div_ceil(THREADS as usize),
                    step,
                ));
                distance /= 2;
            }
            let step = RankParameters {
                run: run as u32,
                ..parameters
            };
            launches.push(launch("rank_merge_tiles", tiles, step));
            run *= 2;
        }
        launches.push(launch(
            "rank_unpack",
            capacity.div_ceil(THREADS as usize),
            parameters,
        ));
        launches
    }
}

/// The digits of a number of 64 bits, from above: 32 bits of score, and those that an index can have.
fn digits(entries: usize) -> Vec<(u32, u32)> {
    let index_bits = usize::BITS - (entries - 1).leading_zeros();
    let mut digits = Vec::new();
    for (top, bottom) in [(64, 32), (index_bits, 0)] {
        let mut above = top;
        while above > bottom {
            let bits = DIGIT_BITS.min(above - bottom);
            digits.push((above - bits, bits));
            above -= bits;
        }
    }
    digits
}

/// How many of its best each head may have to give to the mixed order of a layer, after `counts[0]` of the layer were
/// ranked.
#[derive(Clone, Copy, Debug)]
pub struct CountHeads {
    /// Hkv, at most 1,024.
    pub kv_heads: usize,
    /// n.
    pub positions: usize,
    /// The head floor in thousandths.
    pub alpha_milli: u32,
    /// Indices of the best of the layer, as [`Rank`] leaves them.
    pub best: Address,
    /// `u32` `[1]`: how many, and no more than there are.
    pub counts: Address,
    /// `u32` `[Hkv]`.
    pub of_heads: Address,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CountParameters {
    best: Address,
    counts: Address,
    of_heads: Address,
    kv_heads: u32,
    positions: u32,
    alpha_milli: u32,
    unused: u32,
}

impl CountHeads {
    /// One block.
    ///
    /// # Panics
    /// If there are too many heads.
    pub fn launch(&self) -> Launch {
        assert!(self.kv_heads <= 1024, "{} KV heads", self.kv_heads);
        let parameters = CountParameters {
            best: self.best,
            counts: self.counts,
            of_heads: self.of_heads,
            kv_heads: self.kv_heads as u32,
            positions: self.positions as u32,
            alpha_milli: self.alpha_milli,
            unused: 0,
        };
        Launch {
            kernel: "rank_count_heads".to_owned(),
            grid: [1; 3],
            threads: THREADS,
            parameters: bytes_of(&parameters).to_vec(),
        }
    }
}
