//! Which prefill workers have the front of a prompt: those that say so, and those that will have it once they
//! have run what this coordinator placed on them.

use std::collections::{BTreeMap, HashMap};

use lava_prefix::{BlockName, Changes};

use crate::snapshot::WorkerId;

/// Blocks by name, with the workers that have them.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    holders: HashMap<BlockName, Vec<Holder>>,
    /// How far each worker's journal has been followed.
    versions: BTreeMap<WorkerId, u64>,
}

#[derive(Debug)]
struct Holder {
    worker: WorkerId,
    /// It says so.
    is_said: bool,
    /// Placed prompts that will leave it there.
    expected: u32,
}

/// The names of a prompt's blocks, for each size of blocks that workers have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PromptBlocks {
    by_tokens: BTreeMap<u32, Vec<BlockName>>,
}

impl PromptBlocks {
    /// Of a prompt, for workers with blocks of these numbers of tokens.
    pub(crate) fn new(prompt: &[u32], block_tokens: impl IntoIterator<Item = u32>) -> PromptBlocks {
        let sizes = block_tokens.into_iter().filter(|&tokens| tokens > 0);
        let named = sizes.map(|tokens| (tokens, BlockName::of_prompt(prompt, tokens as usize)));
        PromptBlocks {
            by_tokens: named.collect(),
        }
    }

    /// Of blocks of so many tokens.
    pub(crate) fn names(&self, block_tokens: u32) -> &[BlockName] {
        self.by_tokens.get(&block_tokens).map_or(&[], Vec::as_slice)
    }

    /// As if a prompt had these.
    #[cfg(test)]
    pub(crate) fn of_names(block_tokens: u32, names: &[BlockName]) -> PromptBlocks {
        PromptBlocks {
            by_tokens: BTreeMap::from([(block_tokens, names.to_vec())]),
        }
    }

    fn sizes(&self) -> impl Iterator<Item = (u32, &[BlockName])> {
        let sizes = self.by_tokens.iter();
        sizes.map(|(&tokens, names)| (tokens, names.as_slice()))
    }
}

impl PrefixIndex {
    /// The version of a worker's journal up to which it is known here.
    pub(crate) fn version(&self, worker: &WorkerId) -> u64 {
        self.versions.get(worker).copied().unwrap_or_default()
    }

    /// Takes in what changed at a worker. Changes that do not begin where the last ones ended are left, and
    /// everything is asked for again.
    pub(crate) fn take(&mut self, worker: &WorkerId, changes: &Changes) {
        if changes.since == 0 {
            self.unsay_all(worker);
        } else if changes.since != self.version(worker) {
            self.unsay_all(worker);
            return;
        }
        for &name in &changes.removed {
            self.change(name, worker, |holder| holder.is_said = false);
        }
        for &name in &changes.added {
            self.change(name, worker, |holder| holder.is_said = true);
        }
        self.versions.insert(worker.clone(), changes.version);
    }

    /// A prompt with these blocks was placed on a worker.
    pub(crate) fn expect(&mut self, worker: &WorkerId, blocks: &[BlockName]) {
        for &name in blocks {
            self.change(name, worker, |holder| holder.expected += 1);
        }
    }

    /// What came of it shows in what the worker says.
    pub(crate) fn expect_no_more(&mut self, worker: &WorkerId, blocks: &[BlockName]) {
        for &name in blocks {
            self.change(name, worker, |holder| {
                holder.expected = holder.expected.saturating_sub(1);
            });
        }
    }

    /// Forgets what workers said that are gone.
    pub(crate) fn forget_gone(&mut self, is_known: impl Fn(&WorkerId) -> bool) {
        let versions = self.versions.keys();
        let gone: Vec<WorkerId> = versions.filter(|id| !is_known(id)).cloned().collect();
        for worker in gone {
            self.unsay_all(&worker);
        }
    }

    /// Tokens of a prompt that each worker has, from the first one on; those that have none are left out.
    pub(crate) fn kept_tokens(&self, prompt: &PromptBlocks) -> HashMap<&WorkerId, u64> {
        let mut tokens: HashMap<&WorkerId, u64> = HashMap::new();
        for (block_tokens, names) in prompt.sizes() {
            for (worker, blocks) in self.kept_blocks(names) {
                let kept = blocks as u64 * u64::from(block_tokens);
                let most = tokens.entry(worker).or_default();
                *most = kept.max(*most);
            }
        }
        tokens
    }

    /// How many of these blocks, from the first one on, each worker has.
    fn kept_blocks(&self, names: &[BlockName]) -> HashMap<&WorkerId, usize> {
        let mut kept: HashMap<&WorkerId, usize> = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            let mut is_longer = false;
            for holder in self.holders.get(name).into_iter().flatten() {
                if index == 0 {
                    kept.insert(&holder.worker, 1);
                    is_longer = true;
                } else if let Some(blocks) = kept.get_mut(&holder.worker)
                    && *blocks == index
                {
                    *blocks += 1;
                    is_longer = true;
                }
            }
            if !is_longer {
                break;
            }
        }
        kept
    }

    fn change(&mut self, name: BlockName, worker: &WorkerId, change: impl FnOnce(&mut Holder)) {
        let holders = self.holders.entry(name).or_default();
        let known = holders.iter().position(|holder| holder.worker == *worker);
        let index = known.unwrap_or_else(|| {
            holders.push(Holder {
                worker: worker.clone(),
                is_said: false,
                expected: 0,
            });
            holders.len() - 1
        });
        change(&mut holders[index]);
        if holders[index].is_idle() {
            holders.swap_remove(index);
            if holders.is_empty() {
                self.holders.remove(&name);
            }
        }
    }

    /// Looks at all blocks, since few workers leave.
    fn unsay_all(&mut self, worker: &WorkerId) {
        if self.versions.remove(worker).is_none() {
            return;
        }
        self.holders.retain(|_, holders| {
            for holder in holders.iter_mut() {
                holder.is_said &= holder.worker != *worker;
            }
            holders.retain(|holder| !holder.is_idle());
            !holders.is_empty()
        });
    }
}

impl Holder {
    fn is_idle(&self) -> bool {
        !self.is_said && self.expected == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::samples::id;

    fn changes(since: u64, version: u64, added: &[u64], removed: &[u64]) -> Changes {
        let names = |names: &[u64]| names.iter().copied().map(BlockName).collect();
        Changes {
            since,
            version,
            added: names(added),
            removed: names(removed),
        }
    }

    fn kept(index: &PrefixIndex, names: &[u64]) -> Vec<(String, usize)> {
        let names: Vec<BlockName> = names.iter().copied().map(BlockName).collect();
        let kept = index.kept_blocks(&names);
        let sorted: BTreeMap<String, usize> = kept
            .into_iter()
            .map(|(worker, blocks)| (worker.to_string(), blocks))
            .collect();
        sorted.into_iter().collect()
    }

    #[test]
    fn what_counts_is_the_front_without_a_gap() {
        let mut index = PrefixIndex::default();
        index.take(&id("a"), &changes(0, 3, &[1, 2, 3], &[]));
        index.take(&id("b"), &changes(0, 3, &[1, 3], &[]));
        index.take(&id("c"), &changes(0, 3, &[2, 3], &[]));
        let expected = [("a".to_owned(), 3), ("b".to_owned(), 1)];
        assert_eq!(kept(&index, &[1, 2, 3, 4]), expected);
        assert_eq!(kept(&index, &[9]), []);
    }

    #[test]
    fn changes_are_followed_and_those_from_elsewhere_begin_anew() {
        let mut index = PrefixIndex::default();
        let a = id("a");
        index.take(&a, &changes(0, 2, &[1, 2], &[]));
        index.take(&a, &changes(2, 4, &[3], &[2]));
        assert_eq!(
            (kept(&index, &[1, 2]), index.version(&a)),
            (vec![("a".into(), 1)], 4)
        );
        index.take(&a, &changes(3, 5, &[4], &[]));
        assert_eq!((kept(&index, &[1]), index.version(&a)), (vec![], 0));
        index.take(&a, &changes(0, 5, &[7], &[]));
        assert_eq!(kept(&index, &[7]), [("a".to_owned(), 1)]);
        index.forget_gone(|_| false);
        assert!(index.holders.is_empty() && index.versions.is_empty());
    }

    #[test]
    fn what_was_placed_counts_until_it_shows() {
        let mut index = PrefixIndex::default();
        let (a, blocks) = (id("a"), [BlockName(1), BlockName(2)]);
        index.expect(&a, &blocks);
        index.expect(&a, &blocks[..1]);
        assert_eq!(kept(&index, &[1, 2]), [("a".to_owned(), 2)]);
        index.take(&a, &changes(0, 1, &[1], &[]));
        index.expect_no_more(&a, &blocks);
        assert_eq!(kept(&index, &[1, 2]), [("a".to_owned(), 1)]);
        index.expect_no_more(&a, &blocks[..1]);
        assert_eq!(kept(&index, &[1]), [("a".to_owned(), 1)]);
        index.take(&a, &changes(1, 2, &[], &[1]));
        assert!(index.holders.is_empty());
    }

    #[test]
    fn tokens_follow_from_the_size_of_each_workers_blocks() {
        let prompt: Vec<u32> = (0..10).collect();
        let blocks = PromptBlocks::new(&prompt, [4, 3, 0]);
        let mut index = PrefixIndex::default();
        index.expect(&id("a"), blocks.names(4));
        index.expect(&id("b"), blocks.names(3));
        let kept = index.kept_tokens(&blocks);
        assert_eq!((kept[&id("a")], kept[&id("b")]), (8, 9));
    }
}
