//! `lava coordinator`.

use anyhow::Result;
use lava_node::Metrics;

use crate::heap::HEAP;
use crate::process::{ConfigArgs, block_on};

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let config = args.load()?;
    let mut metrics = Metrics::new();
    metrics.heap(HEAP.bytes);
    block_on(lava_coordinator::process(config, metrics))
}
