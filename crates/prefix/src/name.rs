//! Names of blocks.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A block of a prompt's tokens and all blocks in front of it, as 64 bits of a hash. Two of them may have one
/// name, however seldom: a name says where a prompt had better go, never what its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockName(pub u64);

impl BlockName {
    /// What is in front of a prompt's first block.
    pub const START: BlockName = BlockName(0);

    /// Of a block of `ids` behind this one: XXH3 (64 bits) of the ids, each as four little-endian bytes, with
    /// this name as the seed.
    pub fn then(self, ids: &[u32]) -> BlockName {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        BlockName(xxh3_64_with_seed(&bytes, self.0))
    }

    /// Of the whole blocks of a prompt, in order.
    ///
    /// # Panics
    /// A block of no tokens is none.
    pub fn of_prompt(ids: &[u32], block_tokens: usize) -> Vec<BlockName> {
        let blocks = ids.chunks_exact(block_tokens);
        let mut front = BlockName::START;
        let names = blocks.map(|block| {
            front = front.then(block);
            front
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_all_that_is_in_front_of_it() {
        let names = |ids: &[u32]| BlockName::of_prompt(ids, 2);
        let first = names(&[1, 2, 3, 4, 5]);
        assert_eq!(first.len(), 2, "a block that is not whole has no name");
        assert_eq!(first, names(&[1, 2, 3, 4]));
        assert_eq!(first[0], names(&[1, 2, 9, 9])[0]);
        assert_ne!(first[1], names(&[1, 2, 9, 9])[1]);
        let other = names(&[2, 1, 3, 4]);
        assert!(first[0] != other[0] && first[1] != other[1]);
        assert_eq!(names(&[1]), []);
    }

    #[test]
    fn names_stay_the_same_from_release_to_release() {
        // A worker and a coordinator of two releases must agree. Python's xxhash gave these numbers.
        let names = BlockName::of_prompt(&[1, 2, 3, 4], 2);
        assert_eq!(
            names,
            [
                BlockName(254_984_204_845_929_552),
                BlockName(26_901_709_818_789_599)
            ]
        );
    }
}
