//! Prompts as token ids, made up.

use std::ops::Range;

use super::arrival::Arrival;
use crate::dice::Dice;

/// Special tokens lie among the first ids or the last ones. What a server lists does not tell which, so
/// this many are left out at either end, and less where the vocabulary is small.
const FIRST_LEFT_OUT: u32 = 100;
const LAST_LEFT_OUT: u32 = 512;

/// Makes the prompts of a plan. The text that they spell makes no sense, which costs a server as much
/// as one that does.
#[derive(Debug, Clone)]
pub(super) struct Prompts {
    seed: u64,
    ids: Range<u32>,
}

impl Prompts {
    pub(super) fn new(seed: u64, vocabulary: u32) -> Prompts {
        let first = FIRST_LEFT_OUT.min(vocabulary / 4);
        let last = vocabulary - LAST_LEFT_OUT.min(vocabulary / 4);
        Prompts {
            seed,
            ids: first..last,
        }
    }

    /// The prompt of request `index`. Blocks are the same in every plan; all else depends on the seed
    /// and on `index` only.
    pub(super) fn ids(&self, index: usize, arrival: &Arrival) -> Vec<u32> {
        let count = arrival.prompt_tokens as usize;
        let Some(blocks) = &arrival.blocks else {
            let mut dice = Dice::new(self.seed, &format!("prompt {index}"));
            return self.some(&mut dice).take(count).collect();
        };
        let mut prompt = Vec::with_capacity(count);
        for (place, block) in blocks.ids.iter().enumerate() {
            let left = count - prompt.len();
            // Rounding of scaled lengths may leave a few tokens more than there are blocks.
            let is_last = place + 1 == blocks.ids.len();
            let taken = match is_last {
                true => left,
                false => left.min(blocks.tokens as usize),
            };
            prompt.extend(self.some(&mut Dice::new(*block, "block")).take(taken));
        }
        prompt
    }

    fn some(&self, dice: &mut Dice) -> impl Iterator<Item = u32> {
        let Range { start, end } = self.ids;
        std::iter::repeat_with(move || start + dice.below((end - start) as usize) as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::load::arrival::Blocks;

    fn arrival(prompt_tokens: u32, blocks: Option<&[u64]>) -> Arrival {
        Arrival {
            at: Duration::ZERO,
            prompt_tokens,
            output_tokens: 1,
            blocks: blocks.map(|ids| Blocks {
                tokens: 8,
                ids: ids.to_vec(),
            }),
        }
    }

    #[test]
    fn equal_blocks_have_equal_tokens_and_others_differ() {
        let prompts = Prompts::new(1, 50_000);
        let one = prompts.ids(0, &arrival(24, Some(&[3, 4, 5])));
        let two = prompts.ids(1, &arrival(20, Some(&[3, 4, 6])));
        assert_eq!((one.len(), two.len()), (24, 20));
        assert_eq!(one[..16], two[..16]);
        assert!(one[16..20].iter().zip(&two[16..]).all(|(a, b)| a != b));
        // Another seed and a block that is cut change no token of a block.
        let cut = Prompts::new(2, 50_000).ids(7, &arrival(21, Some(&[3, 4, 5])));
        assert_eq!(cut, one[..21]);
    }

    #[test]
    fn prompts_without_blocks_differ_and_the_seed_decides_them() {
        let prompts = Prompts::new(1, 50_000);
        let plain = arrival(20, None);
        let one = prompts.ids(0, &plain);
        assert_eq!(one, prompts.ids(0, &plain));
        assert_ne!(one, prompts.ids(1, &plain));
        assert_ne!(one, Prompts::new(2, 50_000).ids(0, &plain));
    }

    proptest! {
        #[test]
        fn a_prompt_has_its_length_and_ids_of_the_vocabulary(
            tokens in 1_u32..200, vocabulary in 1_u32..60_000, has_blocks: bool, seed: u64,
        ) {
            let blocks: &[u64] = &[1, 2, 1];
            let prompts = Prompts::new(seed, vocabulary);
            let ids = prompts.ids(0, &arrival(tokens, has_blocks.then_some(blocks)));
            prop_assert_eq!(ids.len(), tokens as usize);
            prop_assert!(ids.iter().all(|id| *id < vocabulary));
            if vocabulary >= 4 * LAST_LEFT_OUT {
                let usual = FIRST_LEFT_OUT..vocabulary - LAST_LEFT_OUT;
                prop_assert!(ids.iter().all(|id| usual.contains(id)));
            }
        }
    }
}
