//! `lava coordinator`.

use anyhow::Result;

use crate::process::{ConfigArgs, block_on};

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let config = args.load()?;
    block_on(lava_coordinator::process(config))
}
