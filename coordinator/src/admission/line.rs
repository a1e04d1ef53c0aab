//! Those who wait for room on the workers of one model.

use std::collections::BTreeSet;
use std::time::Duration;

use super::class::{Class, Number};
use super::pace::Pace;
use super::priority::Priority;
use super::queue::Who;

/// So many requests of higher priorities may be let in while one of a lower one waits. Then it is its
/// turn, so that no priority starves: with three of them, at least every tenth that is let in is one of
/// the lowest.
pub(crate) const PASSES_MAX: u32 = 8;

/// Those who wait for room on the workers of one model, and who of them looks for it now.
#[derive(Debug)]
pub(crate) struct Line {
    /// Answers that had been let in and lost their workers: before everybody else.
    pub(crate) ahead: BTreeSet<Number>,
    classes: [Class; 3],
    /// How many of higher priorities were let in since one of this was, while some of this waited.
    passes: [u32; 3],
    /// Who has been called and has not said yet whether there was room.
    pub(crate) turn: Option<Number>,
    pub(crate) pace: Pace,
}

impl Line {
    pub(crate) fn new(now: Duration) -> Line {
        Line {
            ahead: BTreeSet::new(),
            classes: Default::default(),
            passes: [0; 3],
            turn: None,
            pace: Pace::new(now),
        }
    }

    pub(crate) fn class(&self, priority: Priority) -> &Class {
        &self.classes[priority.index()]
    }

    /// Nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.classes.iter().all(Class::is_empty)
    }

    /// Whether someone waits whom a newcomer must not overtake.
    pub(crate) fn is_before(&self, priority: Priority) -> bool {
        let waits = |of: Priority| !self.class(of).is_empty();
        !self.ahead.is_empty()
            || Priority::ALL
                .into_iter()
                .any(|of| waits(of) && (of >= priority || self.is_due(of)))
    }

    pub(crate) fn add(&mut self, number: Number, who: &Who) {
        self.classes[who.priority.index()].add(number, &who.tenant, who.weight, who.cost);
    }

    /// One leaves unserved; false if it does not wait.
    pub(crate) fn remove(&mut self, number: Number, who: &Who) -> bool {
        let did_wait = self.classes[who.priority.index()].remove(number, &who.tenant);
        self.forget_passes();
        did_wait
    }

    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<Number> {
        if let Some(first) = self.ahead.first() {
            return Some(*first);
        }
        let mut waiting = Priority::ALL.into_iter().rev();
        let due = waiting.find(|of| self.is_due(*of));
        let mut waiting = Priority::ALL.into_iter().rev();
        let highest = || waiting.find(|of| !self.class(*of).is_empty());
        self.class(due.or_else(highest)?).first()
    }

    /// A newcomer, or one who waited, found room. True for one who waited.
    pub(crate) fn let_in(&mut self, number: Number, who: &Who, now: Duration) -> bool {
        let waited = self.classes[who.priority.index()].serve(number, &who.tenant);
        self.passes[who.priority.index()] = 0;
        for passed in &mut self.passes[..who.priority.index()] {
            *passed += 1;
        }
        self.forget_passes();
        if waited {
            self.pace.let_in(now);
        }
        waited
    }

    /// How many go before one more, if nobody else comes.
    pub(crate) fn before_one_more(&self, who: &Who) -> usize {
        let higher = Priority::ALL.into_iter().filter(|of| *of > who.priority);
        let higher: usize = higher.map(|of| self.class(of).len()).sum();
        let lower = Priority::ALL.into_iter().filter(|of| *of < who.priority);
        let lower: usize = lower.map(|of| self.class(of).len()).sum();
        let own = self.class(who.priority).before_one_more(&who.tenant);
        let before = self.ahead.len() + higher + own;
        before + lower.min(before / PASSES_MAX as usize)
    }

    fn is_due(&self, of: Priority) -> bool {
        self.passes[of.index()] >= PASSES_MAX
    }

    fn forget_passes(&mut self) {
        for (class, passed) in self.classes.iter().zip(&mut self.passes) {
            if class.is_empty() {
                *passed = 0;
            }
        }
    }
}
