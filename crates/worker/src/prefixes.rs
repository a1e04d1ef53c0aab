//! What a prefill worker says of the fronts of prompts that it keeps.

use lava_prefix::{BlockName, Changes};
use lava_proto::worker::Prefixes;

/// Changes as they travel.
pub fn prefixes_to_wire(changes: &Changes, block_tokens: usize) -> Prefixes {
    let bytes = |names: &[BlockName]| -> Vec<u8> {
        let bytes = names.iter().flat_map(|name| name.0.to_le_bytes());
        bytes.collect()
    };
    Prefixes {
        block_tokens: block_tokens as u32,
        since: changes.since,
        version: changes.version,
        added: bytes(&changes.added).into(),
        removed: bytes(&changes.removed).into(),
    }
}
