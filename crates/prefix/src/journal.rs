//! Which blocks are kept, and what changed.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::name::BlockName;

/// The blocks that are kept now, and the last changes.
#[derive(Debug)]
pub struct Journal {
    /// How many of one name are kept.
    kept: HashMap<BlockName, u32>,
    /// Counts the changes.
    version: u64,
    /// Names that came or went, the last one at `version`.
    changed: VecDeque<BlockName>,
    changes_max: usize,
}

/// What changed between two versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The version that they begin with; at 0 nothing is kept.
    pub since: u64,
    /// The version that they lead to.
    pub version: u64,
    /// Kept now.
    pub added: Vec<BlockName>,
    /// Not kept any more.
    pub removed: Vec<BlockName>,
}

impl Journal {
    /// Nothing is kept. So many changes are remembered; whoever is further behind is told everything.
    pub fn new(changes_max: usize) -> Self {
        Self {
            kept: HashMap::new(),
            version: 0,
            changed: VecDeque::new(),
            changes_max,
        }
    }

    /// A block is kept.
    pub fn add(&mut self, name: BlockName) {
        let count = self.kept.entry(name).or_default();
        *count += 1;
        if *count == 1 {
            self.change(name);
        }
    }

    /// A block is not kept any more.
    ///
    /// # Panics
    /// It was not.
    pub fn remove(&mut self, name: BlockName) {
        let count = self.kept.get_mut(&name);
        let count = count.expect("only what was added is removed");
        *count -= 1;
        if *count == 0 {
            self.kept.remove(&name);
            self.change(name);
        }
    }

    /// How many of a prompt's blocks are kept, from the first one on.
    pub fn count(&self, names: &[BlockName]) -> usize {
        names.iter().take_while(|&&name| self.has(name)).count()
    }

    /// Whether a block is kept.
    pub fn has(&self, name: BlockName) -> bool {
        self.kept.contains_key(&name)
    }

    /// What changed since a version that this journal gave, or everything, for 0 and for what is too long ago.
    pub fn since(&self, known: u64) -> Changes {
        let behind = self.version.checked_sub(known);
        let behind = behind.and_then(|behind| usize::try_from(behind).ok());
        match behind {
            Some(behind) if known > 0 && behind <= self.changed.len() => {
                let changed = self.changed.iter().rev().take(behind);
                let changed: BTreeSet<BlockName> = changed.copied().collect();
                let (added, removed) = changed.into_iter().partition(|&name| self.has(name));
                Changes {
                    since: known,
                    version: self.version,
                    added,
                    removed,
                }
            }
            _ => {
                let all: BTreeSet<BlockName> = self.kept.keys().copied().collect();
                Changes {
                    since: 0,
                    version: self.version,
                    added: all.into_iter().collect(),
                    removed: Vec::new(),
                }
            }
        }
    }

    fn change(&mut self, name: BlockName) {
        self.version += 1;
        self.changed.push_back(name);
        if self.changed.len() > self.changes_max {
            self.changed.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever follows a journal, however seldom it looks, knows what is kept.
        #[test]
        fn followers_know_what_is_kept(
            changes_max in 0..12usize,
            steps in prop::collection::vec((0..6u64, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let mut journal = Journal::new(changes_max);
            let mut kept: Vec<u64> = Vec::new();
            let (mut version, mut known) = (0, BTreeSet::new());
            for (name, add, look) in steps {
                match kept.iter().position(|&k| k == name) {
                    Some(at) if !add => {
                        kept.swap_remove(at);
                        journal.remove(BlockName(name));
                    }
                    _ => {
                        kept.push(name);
                        journal.add(BlockName(name));
                    }
                }
                if look {
                    let changes = journal.since(version);
                    prop_assert!(changes.since == 0 || changes.since == version);
                    if changes.since == 0 {
                        known.clear();
                    }
                    known.extend(changes.added.iter().map(|name| name.0));
                    for name in &changes.removed {
                        known.remove(&name.0);
                    }
                    version = changes.version;
                    prop_assert_eq!(&known, &kept.iter().copied().collect());
                }
            }
            prop_assert!(journal.changed.len() <= changes_max);
        }
    }

    #[test]
    fn what_came_and_went_between_two_looks_is_only_said_to_be_gone() {
        let mut journal = Journal::new(8);
        journal.add(BlockName(1));
        let known = journal.since(0).version;
        journal.add(BlockName(2));
        journal.remove(BlockName(2));
        journal.add(BlockName(3));
        let changes = journal.since(known);
        assert_eq!(changes.added, [BlockName(3)]);
        assert_eq!(changes.removed, [BlockName(2)]);
        assert_eq!(
            journal.since(changes.version + 1).since,
            0,
            "from elsewhere"
        );
    }
}
