//! What this coordinator has placed that the workers' loads do not show yet, or still show.
//!
//! A load is as old as the last probe. Between two probes a burst would go to one worker, and room that
//! ended requests have left would look taken. So every placement is written down: it counts from the
//! moment it is made until a probe that began after the worker took it in has been answered; and once
//! it ends, it counts negatively until a probe that began after that. The blocks of its prompt count as
//! the prefill worker's until a probe that began after its end, which says what became of them.
//!
//! Time is a counter of probes, so the same events always give the same sums.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lava_prefix::BlockName;
use prometheus_client::metrics::gauge::Gauge;

use crate::admission::Room;
use crate::placement::Claimed;
use crate::prefixes::PrefixIndex;
use crate::snapshot::WorkerId;

/// The placements of this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
    room: Room,
}

/// A placed request's share of one worker; the drop says that it has ended.
#[derive(Debug)]
pub(crate) struct Claim {
    book: Arc<Mutex<Book>>,
    worker: WorkerId,
    number: u64,
    room: Room,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Shows how many entries there are.
    claims: Gauge,
    /// Probes begun.
    probes: u64,
    next_number: u64,
    entries: BTreeMap<WorkerId, BTreeMap<u64, Entry>>,
    /// The sums over `entries`.
    totals: BTreeMap<WorkerId, Claimed>,
    prefixes: PrefixIndex,
}

#[derive(Debug)]
struct Entry {
    claimed: Claimed,
    /// Of the prompt, on a prefill worker that keeps them.
    blocks: Arc<[BlockName]>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Counts, and the worker does not know of it yet.
    Sent,
    /// Counts; the worker took it in after this many probes had begun.
    Landed { probes: u64 },
    /// The load shows it, so it does not count.
    Shown,
    /// The load shows it, but it ended after this many probes had begun: counts negatively.
    Ended { probes: u64 },
    /// The load never showed it, and it ended after this many probes had begun: what it left behind counts.
    Over { probes: u64 },
}

impl Ledger {
    /// An empty one, whose length `claims` shows, and that says in `room` when a placement ends.
    pub(crate) fn new(claims: Gauge, room: Room) -> Ledger {
        let book = Book {
            claims,
            ..Book::default()
        };
        Ledger {
            book: Arc::new(Mutex::new(book)),
            room,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing that holds the lock panics half way, so a poisoned book is whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a placement into the book, which the caller holds since it looked at the totals.
    pub(crate) fn claim(
        &self,
        book: &mut Book,
        worker: WorkerId,
        claimed: Claimed,
        blocks: Arc<[BlockName]>,
    ) -> Claim {
        Claim {
            book: Arc::clone(&self.book),
            number: book.add(&worker, claimed, blocks),
            worker,
            room: self.room.clone(),
        }
    }
}

impl Claim {
    /// The worker has taken the request in; a decode worker says how many pages it set aside.
    pub(crate) fn landed(&self, pages: Option<u64>) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.landed(&self.worker, self.number, pages);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.ended(&self.worker, self.number);
        drop(book);
        self.room.appeared();
    }
}

impl Stage {
    /// What of a claim counts.
    fn counts(self, claimed: Claimed) -> Claimed {
        let recent = Claimed {
            recent: claimed.recent,
            ..Claimed::default()
        };
        match self {
            Stage::Sent | Stage::Landed { .. } => claimed,
            Stage::Shown => Claimed::default(),
            Stage::Ended { .. } => negated(Claimed {
                recent: 0,
                ..claimed
            }),
            Stage::Over { .. } => recent,
        }
    }
}

impl Book {
    /// What counts beyond the loads, by worker.
    pub(crate) fn totals(&self) -> &BTreeMap<WorkerId, Claimed> {
        &self.totals
    }

    /// Who has which fronts of prompts.
    pub(crate) fn prefixes(&self) -> &PrefixIndex {
        &self.prefixes
    }

    /// To take in what workers say of them.
    pub(crate) fn prefixes_mut(&mut self) -> &mut PrefixIndex {
        &mut self.prefixes
    }

    /// Counts placements, each of which has two claims.
    pub(crate) fn turn(&self) -> u64 {
        self.next_number / 2
    }

    /// Probes begun so far.
    pub(crate) fn probes(&self) -> u64 {
        self.probes
    }

    /// A probe begins; its number is for [`Book::probed`].
    pub(crate) fn probe(&mut self) -> u64 {
        self.probes += 1;
        self.probes
    }

    /// The load that the worker gave to this probe is in the snapshot from here on.
    pub(crate) fn probed(&mut self, worker: &WorkerId, probe: u64) {
        let entries = self.entries.get(worker).into_iter().flatten();
        let changed = entries.filter_map(|(&number, entry)| match entry.stage {
            Stage::Landed { probes } if probes < probe => Some((number, Some(Stage::Shown))),
            Stage::Ended { probes } | Stage::Over { probes } if probes < probe => {
                Some((number, None))
            }
            _ => None,
        });
        for (number, stage) in changed.collect::<Vec<_>>() {
            self.enter_stage(worker, number, stage);
        }
    }

    /// Forgets what has ended on workers that are silent or gone: the load of such a one is not used, and the probe
    /// that brings it back shows what became of it.
    pub(crate) fn forget_ended(&mut self, answers: impl Fn(&WorkerId) -> bool) {
        let silent = self.entries.iter().filter(|(worker, _)| !answers(worker));
        let ended = silent.flat_map(|(worker, entries)| {
            let ended = entries.iter().filter(|(_, entry)| entry.is_over());
            ended.map(|(&number, _)| (worker.clone(), number))
        });
        for (worker, number) in ended.collect::<Vec<_>>() {
            self.enter_stage(&worker, number, None);
        }
    }

    fn add(&mut self, worker: &WorkerId, claimed: Claimed, blocks: Arc<[BlockName]>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.prefixes.expect(worker, &blocks);
        let entry = Entry {
            claimed,
            blocks,
            stage: Stage::Sent,
        };
        add(&mut self.totals, worker, entry.counts());
        let entries = self.entries.entry(worker.clone()).or_default();
        entries.insert(number, entry);
        self.claims.inc();
        number
    }

    fn landed(&mut self, worker: &WorkerId, number: u64, pages: Option<u64>) {
        let probes = self.probes;
        let Some(entry) = self.entry(worker, number) else {
            return;
        };
        if entry.stage != Stage::Sent {
            return;
        }
        let before = entry.counts();
        entry.stage = Stage::Landed { probes };
        if let Some(pages) = pages {
            entry.claimed.pages = i64::try_from(pages).unwrap_or(i64::MAX);
        }
        let after = entry.counts();
        add(&mut self.totals, worker, negated(before));
        add(&mut self.totals, worker, after);
    }

    fn ended(&mut self, worker: &WorkerId, number: u64) {
        let probes = self.probes;
        let Some(entry) = self.entry(worker, number) else {
            return;
        };
        let leaves = !entry.blocks.is_empty() || entry.claimed.recent != 0;
        let stage = match entry.stage {
            Stage::Shown => Some(Stage::Ended { probes }),
            Stage::Landed { .. } if leaves => Some(Stage::Over { probes }),
            _ => None,
        };
        self.enter_stage(worker, number, stage);
    }

    fn entry(&mut self, worker: &WorkerId, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(worker)?.get_mut(&number)
    }

    /// Moves an entry to its next stage, or out of the book.
    fn enter_stage(&mut self, worker: &WorkerId, number: u64, stage: Option<Stage>) {
        let Some(entries) = self.entries.get_mut(worker) else {
            return;
        };
        let Some(entry) = entries.get_mut(&number) else {
            return;
        };
        add(&mut self.totals, worker, negated(entry.counts()));
        match stage {
            Some(stage) => {
                entry.stage = stage;
                add(&mut self.totals, worker, entry.counts());
            }
            None => {
                let blocks = Arc::clone(&entry.blocks);
                entries.remove(&number);
                self.claims.dec();
                if entries.is_empty() {
                    self.entries.remove(worker);
                }
                self.prefixes.expect_no_more(worker, &blocks);
            }
        }
    }
}

impl Entry {
    fn counts(&self) -> Claimed {
        self.stage.counts(self.claimed)
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. } | Stage::Over { .. })
    }
}

/// Zeros are taken out, so that workers that are gone leave nothing behind.
fn add(totals: &mut BTreeMap<WorkerId, Claimed>, worker: &WorkerId, claimed: Claimed) {
    let total = totals.entry(worker.clone()).or_default();
    *total = Claimed {
        requests: total.requests.saturating_add(claimed.requests),
        tokens: total.tokens.saturating_add(claimed.tokens),
        pages: total.pages.saturating_add(claimed.pages),
        recent: total.recent.saturating_add(claimed.recent),
    };
    if *total == Claimed::default() {
        totals.remove(worker);
    }
}

fn negated(claimed: Claimed) -> Claimed {
    Claimed {
        requests: -claimed.requests,
        tokens: -claimed.tokens,
        pages: -claimed.pages,
        recent: -claimed.recent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::samples::id;

    const ONE: Claimed = Claimed {
        requests: 1,
        tokens: 0,
        pages: 10,
        recent: 0,
    };

    fn pages(ledger: &Ledger) -> i64 {
        let book = ledger.lock();
        book.totals().get(&id("d")).map_or(0, |total| total.pages)
    }

    fn claim(ledger: &Ledger) -> Claim {
        ledger.claim(&mut ledger.lock(), id("d"), ONE, [].into())
    }

    fn probe(ledger: &Ledger) {
        let probe = ledger.lock().probe();
        ledger.lock().probed(&id("d"), probe);
    }

    #[test]
    fn a_claim_counts_until_a_probe_that_began_after_it_landed() {
        let ledger = Ledger::default();
        let one = claim(&ledger);
        probe(&ledger);
        assert_eq!(pages(&ledger), 10);
        let early = ledger.lock().probe();
        one.landed(Some(8));
        assert_eq!(pages(&ledger), 8);
        ledger.lock().probed(&id("d"), early);
        assert_eq!(pages(&ledger), 8);
        probe(&ledger);
        assert_eq!(pages(&ledger), 0);
    }

    #[test]
    fn a_claim_that_the_load_shows_counts_negatively_once_it_ended() {
        let ledger = Ledger::default();
        let one = claim(&ledger);
        one.landed(None);
        probe(&ledger);
        let early = ledger.lock().probe();
        drop(one);
        assert_eq!(pages(&ledger), -10);
        ledger.lock().probed(&id("d"), early);
        assert_eq!(pages(&ledger), -10);
        probe(&ledger);
        assert_eq!(pages(&ledger), 0);
        assert!(ledger.lock().entries.is_empty());
    }

    #[test]
    fn a_claim_that_ended_before_the_load_showed_it_leaves_nothing() {
        let ledger = Ledger::default();
        drop(claim(&ledger));
        let one = claim(&ledger);
        one.landed(None);
        drop(one);
        assert!(ledger.lock().totals().is_empty());
        assert!(ledger.lock().entries.is_empty());
    }

    #[test]
    fn what_ended_on_a_worker_that_does_not_answer_is_forgotten() {
        let ledger = Ledger::default();
        let one = claim(&ledger);
        one.landed(None);
        probe(&ledger);
        ledger.lock().forget_ended(|_| false);
        drop(one);
        ledger.lock().forget_ended(|_| true);
        assert_eq!(pages(&ledger), -10);
        ledger.lock().forget_ended(|_| false);
        assert!(ledger.lock().totals().is_empty());
        assert!(ledger.lock().entries.is_empty());
    }

    #[test]
    fn probes_of_other_workers_change_nothing() {
        let ledger = Ledger::default();
        let one = claim(&ledger);
        one.landed(None);
        let other = ledger.lock().probe();
        ledger.lock().probed(&id("e"), other);
        assert_eq!(pages(&ledger), 10);
    }

    #[test]
    fn what_a_prompt_leaves_behind_counts_until_a_probe_that_began_after_its_end() {
        let ledger = Ledger::default();
        let blocks: Arc<[BlockName]> = [BlockName(1)].into();
        let claimed = Claimed {
            requests: 1,
            tokens: 100,
            pages: 0,
            recent: 100,
        };
        let total = || {
            let book = ledger.lock();
            let total = book.totals().get(&id("p")).copied().unwrap_or_default();
            (total.tokens, total.recent)
        };
        let place = || ledger.claim(&mut ledger.lock(), id("p"), claimed, Arc::clone(&blocks));
        let probe = || {
            let mut book = ledger.lock();
            let probe = book.probe();
            book.probed(&id("p"), probe);
        };
        let is_expected = || {
            let names = crate::prefixes::PromptBlocks::of_names(1, &blocks);
            !ledger.lock().prefixes().kept_tokens(&names).is_empty()
        };
        // Over before any probe: the queue is free again, and what it did still counts.
        let one = place();
        one.landed(None);
        assert_eq!(total(), (100, 100));
        drop(one);
        assert_eq!((total(), is_expected()), ((0, 100), true));
        probe();
        assert_eq!((total(), is_expected()), ((0, 0), false));
        // Shown, then over: the worker says itself what it did.
        let one = place();
        one.landed(None);
        probe();
        assert_eq!((total(), is_expected()), ((0, 0), true));
        drop(one);
        assert_eq!((total(), is_expected()), ((-100, 0), true));
        probe();
        assert_eq!((total(), is_expected()), ((0, 0), false));
        // Never taken in: it leaves nothing.
        drop(place());
        assert_eq!((total(), is_expected()), ((0, 0), false));
        assert!(ledger.lock().entries.is_empty());
    }
}
