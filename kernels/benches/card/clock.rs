//! How long a card takes.

use std::sync::Arc;
use std::time::Duration;

use lava_kernels::cuda::{CudaDevice, DeviceError, Launch, ValueNorms};

use super::memory::{Memory, Prepared};
use super::stock::{COMPUTE, Stock};

/// Runs before those that count.
const WARM_UPS: usize = 3;
/// Runs that count are as many as take so long, within these bounds.
const MEASURED: Duration = Duration::from_millis(50);
const RUNS_MIN: usize = 5;
const RUNS_MAX: usize = 200;
/// Several times the L2 cache of any card: an H100's has 50 MB.
const FLOOD_BYTES: usize = 256 << 20;
/// Hkv and D of the rows that flood it: many heads, since all rows of one are compared at one address.
const FLOOD_HEADS: usize = 1024;
const FLOOD_ROW: usize = 128;

/// Times runs of which each finds nothing of its own in the card's L2 cache, as floors have it: between two steps of a layer,
/// all other layers pass.
pub(crate) struct Clock {
    card: Arc<CudaDevice>,
    flood: Prepared,
}

impl Clock {
    pub(crate) fn new(card: &Arc<CudaDevice>, stock: &Stock) -> Result<Self, DeviceError> {
        let mut memory = Memory::new(stock);
        let flood = flood(&mut memory)?;
        Ok(Self {
            card: Arc::clone(card),
            flood: memory.prepared(vec![flood]),
        })
    }

    /// The median of single runs.
    pub(crate) fn time(&self, prepared: &Prepared) -> Result<Duration, DeviceError> {
        let mut warm = Duration::MAX;
        for _ in 0..WARM_UPS {
            warm = warm.min(self.once(prepared)?);
        }
        let runs = MEASURED.as_nanos() / warm.as_nanos().max(1);
        let runs = (runs as usize).clamp(RUNS_MIN, RUNS_MAX);
        let times: Result<Vec<_>, _> = (0..runs).map(|_| self.once(prepared)).collect();
        let mut times = times?;
        times.sort();
        Ok(times[runs / 2])
    }

    /// While the card is busy with the flood, the host can ask for the launches that are timed.
    fn once(&self, prepared: &Prepared) -> Result<Duration, DeviceError> {
        self.flood.run()?;
        self.card.timed(|| prepared.run())
    }
}

/// It only reads: what a card has to write back would be counted against the kernel that is timed.
fn flood(memory: &mut Memory<'_>) -> Result<Launch, DeviceError> {
    let numbers = FLOOD_BYTES / size_of::<u16>();
    let norms = ValueNorms {
        compute: COMPUTE,
        head_dim: FLOOD_ROW,
        kv_heads: FLOOD_HEADS,
        rows: numbers / (FLOOD_HEADS * FLOOD_ROW),
        values: memory.activations(numbers)?,
        norms: memory.filled(size_of::<f32>() * FLOOD_HEADS, 0)?,
    };
    Ok(norms.launch())
}
