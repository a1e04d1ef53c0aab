//! A cache of blocks, as far as their names go.

use std::collections::{BTreeMap, HashMap};

use crate::journal::{Changes, Journal};
use crate::name::BlockName;

/// Changes that are remembered for those who follow them.
const CHANGES_MAX: usize = 4096;

/// The names of the blocks of recent prompts, the least recently used of which go first: what a cache of that size
/// would have, and what an ideal one could give.
#[derive(Debug)]
pub struct KeptBlocks {
    blocks_max: usize,
    used: HashMap<BlockName, u64>,
    by_use: BTreeMap<u64, BlockName>,
    clock: u64,
    journal: Journal,
}

impl KeptBlocks {
    /// Room for so many blocks.
    pub fn new(blocks_max: usize) -> Self {
        Self {
            blocks_max,
            used: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            journal: Journal::new(CHANGES_MAX),
        }
    }

    /// How many of a prompt's blocks are kept, from the first one on.
    pub fn count(&self, names: &[BlockName]) -> usize {
        let kept = names.iter().take_while(|name| self.used.contains_key(name));
        kept.count()
    }

    /// A prompt was computed. Its front counts as used later than what is behind it, so that those go first that
    /// nothing else leads to.
    pub fn keep(&mut self, names: &[BlockName]) {
        for &name in names.iter().take(self.blocks_max).rev() {
            self.clock += 1;
            self.by_use.insert(self.clock, name);
            match self.used.insert(name, self.clock) {
                Some(before) => drop(self.by_use.remove(&before)),
                None => self.journal.add(name),
            }
        }
        while self.used.len() > self.blocks_max {
            let oldest = self.by_use.pop_first();
            let (_, oldest) = oldest.expect("each block that is kept was used");
            self.used.remove(&oldest);
            self.journal.remove(oldest);
        }
    }

    /// The same with those that will be, once the prompts that wait are computed.
    pub fn count_expected(&self, names: &[BlockName]) -> usize {
        self.journal.count(names)
    }

    /// A prompt waits to be computed: whoever follows the journal may count on its blocks already, since what
    /// is sent after it is computed after it.
    pub fn expect(&mut self, names: &[BlockName]) {
        let names = names.iter().take(self.blocks_max);
        names.for_each(|&name| self.journal.add(name));
    }

    /// It was computed and kept, or given up.
    ///
    /// # Panics
    /// It was not expected.
    pub fn expect_no_more(&mut self, names: &[BlockName]) {
        let names = names.iter().take(self.blocks_max);
        names.for_each(|&name| self.journal.remove(name));
    }

    /// What changed since a version that an earlier answer gave, or everything, for 0.
    pub fn changes(&self, known: u64) -> Changes {
        self.journal.since(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[u64]) -> Vec<BlockName> {
        ids.iter().copied().map(BlockName).collect()
    }

    #[test]
    fn the_ends_of_prompts_go_before_their_fronts_and_old_prompts_before_new_ones() {
        let mut kept = KeptBlocks::new(4);
        kept.keep(&names(&[1, 2, 3]));
        kept.keep(&names(&[1, 4, 5]));
        let count = |kept: &KeptBlocks, ids: &[u64]| kept.count(&names(ids));
        assert_eq!(count(&kept, &[1, 4, 5]), 3);
        assert_eq!(count(&kept, &[1, 2, 3]), 2);
        assert_eq!(count(&kept, &[9, 1]), 0);
        let version = kept.changes(0).version;
        kept.keep(&names(&[6, 7, 8, 9, 10]));
        assert_eq!(count(&kept, &[6, 7, 8, 9, 10]), 4);
        assert_eq!(kept.changes(version).added, names(&[6, 7, 8, 9]));
        assert_eq!(kept.changes(version).removed, names(&[1, 2, 4, 5]));
        let version = kept.changes(0).version;
        kept.expect(&names(&[6, 20]));
        assert_eq!(count(&kept, &[6, 20]), 1, "it is not there yet");
        assert_eq!(kept.count_expected(&names(&[6, 20, 21])), 2);
        assert_eq!(kept.changes(version).added, names(&[20]));
        kept.expect_no_more(&names(&[6, 20]));
        assert_eq!(kept.changes(version).added, []);
        let mut none = KeptBlocks::new(0);
        none.keep(&names(&[1]));
        assert_eq!(count(&none, &[1]), 0);
    }
}
