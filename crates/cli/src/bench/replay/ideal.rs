//! What an ideal cache would reuse.

use lava_lab::load::{Arrival, BLOCK_TOKENS};
use lava_prefix::{BlockName, KeptBlocks};

/// Prompt tokens that one cache of so many blocks, which every prompt goes through in the order of the trace, would have
/// had already: whole blocks from the prompt's first one on. The least recently used go first, as in the workers.
pub(super) fn reusable_tokens(plan: &[Arrival], blocks_max: usize) -> u64 {
    let mut kept = KeptBlocks::new(blocks_max);
    let mut reused = 0;
    for arrival in plan {
        let Some(blocks) = &arrival.blocks else {
            continue;
        };
        let whole = (arrival.prompt_tokens / BLOCK_TOKENS) as usize;
        let names = blocks.ids.iter().take(whole);
        // A trace's id stands for a block, whatever is in front of it; its own name has to say that too.
        let mut front = BlockName::START;
        let names: Vec<BlockName> = names
            .map(|id| {
                front = front.then(&[*id as u32, (*id >> 32) as u32]);
                front
            })
            .collect();
        reused += kept.count(&names) as u64 * u64::from(BLOCK_TOKENS);
        kept.keep(&names);
    }
    reused
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lava_lab::load::Blocks;

    use super::*;

    fn arrival(ids: &[u64], prompt_tokens: u32) -> Arrival {
        Arrival {
            at: Duration::ZERO,
            prompt_tokens,
            output_tokens: 1,
            blocks: Some(Blocks {
                tokens: BLOCK_TOKENS,
                ids: ids.to_vec(),
            }),
        }
    }

    #[test]
    fn whole_blocks_from_the_first_one_on_are_reused_while_there_is_room() {
        let b = BLOCK_TOKENS;
        let plan = [
            arrival(&[1, 2, 3], 2 * b + 9),
            arrival(&[1, 2, 3], 3 * b),
            arrival(&[7, 2, 3], 3 * b),
            arrival(&[1, 2, 3], 3 * b),
        ];
        let blocks = |most| reusable_tokens(&plan, most) / u64::from(b);
        // The first one's third block was cut, and block 2 behind 7 is another one.
        assert_eq!(blocks(usize::MAX), 2 + 3);
        assert_eq!(blocks(3), 2);
    }
}
