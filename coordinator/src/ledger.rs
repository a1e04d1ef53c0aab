//! What this coordinator has placed that the workers' loads do not show yet, or still show.
//!
//! A load is as old as the last probe. Between two probes a burst would go to one worker, and room that
//! ended requests have left would look taken. So every placement is written down: it counts from the
//! moment it is made until a probe that began after the worker took it in has been answered; and once
//! it ends, it counts negatively until a probe that began after that.
//!
//! Time is a counter of probes, so the same events always give the same sums.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::placement::Claimed;
use crate::snapshot::WorkerId;

/// The placements of this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
}

/// A placed request's share of one worker; the drop says that it has ended.
#[derive(Debug)]
pub(crate) struct Claim {
    book: Arc<Mutex<Book>>,
    number: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Probes begun.
    probes: u64,
    next_number: u64,
    entries: BTreeMap<u64, Entry>,
    /// The sums over `entries`.
    totals: BTreeMap<WorkerId, Claimed>,
}

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    claimed: Claimed,
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
}

impl Ledger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing that holds the lock panics half way, so a poisoned book is whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a placement into the book, which the caller holds since it looked at the totals.
    pub(crate) fn claim(&self, book: &mut Book, worker: WorkerId, claimed: Claimed) -> Claim {
        Claim {
            book: Arc::clone(&self.book),
            number: book.add(worker, claimed),
        }
    }
}

impl Claim {
    /// The worker has taken the request in; a decode worker says how many pages it set aside.
    pub(crate) fn landed(&self, pages: Option<u64>) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.landed(self.number, pages);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.ended(self.number);
    }
}

impl Book {
    /// What counts beyond the loads, by worker.
    pub(crate) fn totals(&self) -> &BTreeMap<WorkerId, Claimed> {
        &self.totals
    }

    /// A probe begins; its number is for [`Book::probed`].
    pub(crate) fn probe(&mut self) -> u64 {
        self.probes += 1;
        self.probes
    }

    /// The load that the worker gave to this probe is in the snapshot from here on.
    pub(crate) fn probed(&mut self, worker: &WorkerId, probe: u64) {
        let Book {
            entries, totals, ..
        } = self;
        entries.retain(|_, entry| {
            if entry.worker != *worker {
                return true;
            }
            match entry.stage {
                Stage::Landed { probes } if probes < probe => {
                    add(totals, worker, negated(entry.claimed));
                    entry.stage = Stage::Shown;
                    true
                }
                Stage::Ended { probes } if probes < probe => {
                    add(totals, worker, entry.claimed);
                    false
                }
                _ => true,
            }
        });
    }

    /// Forgets what has ended on workers that are gone: no probe will ever see it.
    pub(crate) fn forget_gone(&mut self, is_known: impl Fn(&WorkerId) -> bool) {
        let Book {
            entries, totals, ..
        } = self;
        entries.retain(|_, entry| {
            let gone = matches!(entry.stage, Stage::Ended { .. }) && !is_known(&entry.worker);
            if gone {
                add(totals, &entry.worker, entry.claimed);
            }
            !gone
        });
    }

    fn add(&mut self, worker: WorkerId, claimed: Claimed) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        add(&mut self.totals, &worker, claimed);
        let stage = Stage::Sent;
        self.entries.insert(
            number,
            Entry {
                worker,
                claimed,
                stage,
            },
        );
        number
    }

    fn landed(&mut self, number: u64, pages: Option<u64>) {
        let probes = self.probes;
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        if entry.stage != Stage::Sent {
            return;
        }
        entry.stage = Stage::Landed { probes };
        let pages = pages.map_or(entry.claimed.pages, |pages| {
            i64::try_from(pages).unwrap_or(i64::MAX)
        });
        let before = std::mem::replace(&mut entry.claimed.pages, pages);
        let correction = Claimed {
            pages: pages.saturating_sub(before),
            ..Claimed::default()
        };
        add(&mut self.totals, &entry.worker, correction);
    }

    fn ended(&mut self, number: u64) {
        let probes = self.probes;
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        add(&mut self.totals, &entry.worker, negated(entry.claimed));
        match entry.stage {
            Stage::Shown => entry.stage = Stage::Ended { probes },
            _ => {
                self.entries.remove(&number);
            }
        }
    }
}

/// Zeros are taken out, so that workers that are gone leave nothing behind.
fn add(totals: &mut BTreeMap<WorkerId, Claimed>, worker: &WorkerId, claimed: Claimed) {
    let total = totals.entry(worker.clone()).or_default();
    *total = Claimed {
        requests: total.requests.saturating_add(claimed.requests),
        tokens: total.tokens.saturating_add(claimed.tokens),
        pages: total.pages.saturating_add(claimed.pages),
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
    };

    fn pages(ledger: &Ledger) -> i64 {
        let book = ledger.lock();
        book.totals().get(&id("d")).map_or(0, |total| total.pages)
    }

    fn claim(ledger: &Ledger) -> Claim {
        ledger.claim(&mut ledger.lock(), id("d"), ONE)
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
    fn what_ended_on_a_worker_that_is_gone_is_forgotten() {
        let ledger = Ledger::default();
        let one = claim(&ledger);
        one.landed(None);
        probe(&ledger);
        ledger.lock().forget_gone(|_| false);
        drop(one);
        ledger.lock().forget_gone(|_| true);
        assert_eq!(pages(&ledger), -10);
        ledger.lock().forget_gone(|_| false);
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
}
