//! Who may look for room, and who waits: a plain data structure, without clock and tasks.
//!
//! A newcomer looks at once if nobody waits whom it must not overtake. Who finds no room waits, in the
//! line of its model: by priority, then by the tenants' turns, then by arrival ([`Line`], `Class`).
//! When room may have appeared, the first of each line is called to look; if it finds room the next one
//! is called, if it does not it stays the first. So no more look than find room, and one.
//!
//! Places to wait are bounded. Where they are all taken, a newcomer gets the place of the last that came
//! of whoever holds more than his share, or is refused: a flood fills only places that nobody else asks
//! for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::class::{Longest, Number};
use super::crowd::{Crowd, Crowded};
use super::line::{Line, PASSES_MAX};
use super::priority::Priority;
use super::tenant::Tenant;
use crate::snapshot::Fingerprint;

/// Shortest and longest time to come back that a refusal names, and the one where nothing is known.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// An answer that is to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// Whose workers it needs.
    pub(crate) model: Fingerprint,
    pub(crate) priority: Priority,
    pub(crate) tenant: Tenant,
    /// At least 1.
    pub(crate) weight: u32,
    /// In tokens.
    pub(crate) cost: u64,
}

/// The queue's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Most that wait.
    pub(crate) waiting_max: usize,
    /// Most that look or have been let in, at least 1.
    pub(crate) running_max: usize,
}

/// All answers of a process, from their first look for room to their end.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    seats: BTreeMap<Number, Seat>,
    lines: BTreeMap<Fingerprint, Line>,
    next: u64,
    /// Whose line was called last: where all models share a bound, their lines take turns.
    called: Option<Fingerprint>,
    waiting: usize,
    running: usize,
    /// How often room may have appeared.
    rooms: u64,
    calls: Vec<(Number, Call)>,
}

/// What happens to one who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// It may look.
    Turn,
    /// Its place is somebody else's.
    PushedOut(Crowded),
}

#[derive(Debug)]
struct Seat {
    who: Arc<Who>,
    standing: Standing,
    /// How often room had appeared before its last look, if it has looked: looking again before it does
    /// once more is no help.
    looked: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A newcomer that looks.
    Looking,
    Waiting,
    /// It waited, and looks.
    Called,
    /// It was let in.
    Running,
    /// It was let in, lost its workers and waits for others. It keeps its place among those who run.
    Ahead,
    /// It lost its place to wait and does not know yet.
    Out,
}

impl Queue {
    pub(crate) fn new(bounds: Bounds) -> Queue {
        assert!(bounds.running_max > 0);
        Queue {
            bounds,
            seats: BTreeMap::new(),
            lines: BTreeMap::new(),
            next: 0,
            called: None,
            waiting: 0,
            running: 0,
            rooms: 0,
            calls: Vec::new(),
        }
    }

    /// A newcomer: it may look, or it waits for [`Call::Turn`] (then true), for at most `wait_max`.
    ///
    /// # Errors
    /// It would have to wait and there is no place for it, or it would wait for too long.
    pub(crate) fn join(
        &mut self,
        who: Arc<Who>,
        wait_max: Duration,
        now: Duration,
    ) -> Result<(Number, bool), Crowded> {
        let line = self.lines.get(&who.model);
        let is_full = self.running >= self.bounds.running_max;
        let waits = is_full || line.is_some_and(|line| line.is_before(who.priority));
        let number = Number(self.next);
        self.next += 1;
        if waits {
            self.take_place(number, &who, wait_max, now)?;
        } else {
            self.running += 1;
        }
        let (standing, looked) = match waits {
            true => (Standing::Waiting, None),
            false => (Standing::Looking, Some(self.rooms)),
        };
        let model = who.model;
        let seat = Seat {
            who,
            standing,
            looked,
        };
        self.seats.insert(number, seat);
        self.call(model);
        Ok((number, waits))
    }

    /// It looked and found no room: it waits, where it stood if it waited before.
    ///
    /// # Errors
    /// There is no place for it, or it would wait for too long. It counts until it leaves.
    pub(crate) fn wait(
        &mut self,
        number: Number,
        wait_max: Duration,
        now: Duration,
    ) -> Result<(), Crowded> {
        let seat = &self.seats[&number];
        let who = Arc::clone(&seat.who);
        match seat.standing {
            Standing::Waiting | Standing::Ahead | Standing::Out => return Ok(()),
            Standing::Called => {}
            Standing::Looking | Standing::Running => {
                self.take_place(number, &who, wait_max, now)?;
            }
        }
        self.set_standing(number, Standing::Waiting);
        self.turn_over(number, who.model);
        self.runs_no_more(who.model);
        Ok(())
    }

    /// It looked and found room.
    pub(crate) fn let_in(&mut self, number: Number, now: Duration) {
        let seat = &self.seats[&number];
        let who = Arc::clone(&seat.who);
        let is_new = matches!(seat.standing, Standing::Looking | Standing::Called);
        let line = self.lines.get_mut(&who.model);
        if is_new && line.is_some_and(|line| line.let_in(number, &who, now)) {
            self.waiting -= 1;
        }
        self.step_back(number);
    }

    /// It was let in, lost its workers and found no others: it is called before all who were not let in.
    pub(crate) fn wait_ahead(&mut self, number: Number, now: Duration) {
        let model = self.seats[&number].who.model;
        self.set_standing(number, Standing::Ahead);
        let line = self.lines.entry(model);
        let line = line.or_insert_with(|| Line::new(now));
        line.ahead.insert(number);
        self.turn_over(number, model);
        self.call(model);
    }

    /// It was let in, and looks for other workers by itself if it does.
    pub(crate) fn step_back(&mut self, number: Number) {
        let model = self.seats[&number].who.model;
        self.set_standing(number, Standing::Running);
        if let Some(line) = self.lines.get_mut(&model) {
            line.ahead.remove(&number);
        }
        self.turn_over(number, model);
        self.call(model);
    }

    /// It is about to look.
    pub(crate) fn looks(&mut self, number: Number) {
        let rooms = self.rooms;
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.looked = Some(rooms);
        }
    }

    /// It ends, wherever it stands.
    pub(crate) fn leave(&mut self, number: Number) {
        let Some(seat) = self.seats.remove(&number) else {
            return;
        };
        let model = seat.who.model;
        if let Some(line) = self.lines.get_mut(&model) {
            line.ahead.remove(&number);
            if line.remove(number, &seat.who) {
                self.waiting -= 1;
            }
        }
        self.turn_over(number, model);
        match seat.standing {
            Standing::Waiting | Standing::Out => self.call(model),
            _ => self.runs_no_more(model),
        }
    }

    /// A worker may have room that it had not.
    pub(crate) fn room_appeared(&mut self) {
        self.rooms += 1;
        self.call_all();
    }

    /// Whom to tell what, since the last time.
    pub(crate) fn calls(&mut self) -> Vec<(Number, Call)> {
        std::mem::take(&mut self.calls)
    }

    /// When it pays for one who waits in vain to come back.
    pub(crate) fn waited_out(&self, number: Number, now: Duration) -> Duration {
        let seat = self.seats.get(&number);
        let line = seat.and_then(|seat| self.lines.get(&seat.who.model));
        // Whoever comes then stands where it stood, or further behind.
        bounded(line.and_then(|line| line.pace.time_for(1, now)))
    }

    /// Takes a place in the line, somebody else's if there is none left.
    fn take_place(
        &mut self,
        number: Number,
        who: &Who,
        wait_max: Duration,
        now: Duration,
    ) -> Result<(), Crowded> {
        let waiting_max = self.bounds.waiting_max;
        if waiting_max == 0 {
            return Err(Crowded {
                why: Crowd::NobodyMayWait,
                retry_after: RETRY_AFTER_UNKNOWN,
            });
        }
        let line = self.lines.get(&who.model);
        let time_for = |more: usize| {
            let line = line?;
            line.pace.time_for(line.before_one_more(who) + more, now)
        };
        let expected = time_for(1);
        let too_late = expected.map(|expected| expected.saturating_sub(wait_max));
        if let Some(wait) = expected.filter(|wait| *wait > wait_max) {
            return Err(Crowded {
                why: Crowd::TooSlow { wait, wait_max },
                retry_after: bounded(too_late),
            });
        }
        if self.waiting >= waiting_max {
            let one = line.and_then(|line| line.pace.time_for(1, now));
            let Some(out) = self.whose_place(who) else {
                return Err(Crowded {
                    why: Crowd::Full { waiting_max },
                    retry_after: bounded(one),
                });
            };
            self.push_out(out, now);
        }
        let line = self.lines.entry(who.model);
        let line = line.or_insert_with(|| Line::new(now));
        line.add(number, who);
        self.waiting += 1;
        Ok(())
    }

    /// Who has to make room for `who`, if anybody: of a priority that holds more than is set aside for
    /// it, the lowest first; or of the same priority the tenant with more places than `who`'s.
    fn whose_place(&self, who: &Who) -> Option<Number> {
        // Below so many places nothing can be set aside, and a higher priority takes all.
        let set_aside = self.bounds.waiting_max / PASSES_MAX as usize;
        let held = |of: Priority| -> usize {
            let lines = self.lines.values();
            lines.map(|line| line.class(of).len()).sum()
        };
        let own_is_short = held(who.priority) < set_aside;
        let gives = |of: &Priority| {
            let ranks = *of < who.priority || (own_is_short && *of > who.priority);
            ranks && held(*of) > set_aside
        };
        let mut giving = Priority::ALL.into_iter().filter(gives);
        if let Some(out) = giving.find_map(|of| self.longest(of)) {
            return Some(out.last);
        }
        let longest = self.longest(who.priority)?;
        let lines = self.lines.values();
        let own: usize = lines
            .map(|line| line.class(who.priority).waiting_of(&who.tenant))
            .sum();
        let with_one_more = (own as u64 + 1) * u64::from(longest.weight);
        (with_one_more < longest.times(who.weight)).then_some(longest.last)
    }

    /// The tenant with the most that wait of a priority, for its weight, over all lines.
    fn longest(&self, of: Priority) -> Option<Longest> {
        let mut tenants: BTreeMap<Tenant, Longest> = BTreeMap::new();
        for line in self.lines.values() {
            for one in line.class(of).tenants(line.turn) {
                match tenants.get_mut(&one.tenant) {
                    Some(sum) => {
                        sum.waiting += one.waiting;
                        sum.last = sum.last.max(one.last);
                    }
                    None => {
                        tenants.insert(one.tenant.clone(), one);
                    }
                }
            }
        }
        tenants.into_values().max_by(Longest::order)
    }

    fn push_out(&mut self, number: Number, now: Duration) {
        let Some(seat) = self.seats.get(&number) else {
            return;
        };
        let who = Arc::clone(&seat.who);
        let line = self.lines.get_mut(&who.model);
        if line.is_some_and(|line| line.remove(number, &who)) {
            self.waiting -= 1;
        }
        let crowded = Crowded {
            why: Crowd::PushedOut,
            retry_after: self.waited_out(number, now),
        };
        self.set_standing(number, Standing::Out);
        self.forget_if_empty(who.model);
        self.calls.push((number, Call::PushedOut(crowded)));
    }

    /// One of this model's does not count as running any longer.
    fn runs_no_more(&mut self, model: Fingerprint) {
        self.running -= 1;
        // The place may be what those of other models waited for.
        match self.running + 1 == self.bounds.running_max {
            true => self.call_all(),
            false => self.call(model),
        }
    }

    /// Calls the first of a line, unless somebody of it looks already, or it has looked since room last
    /// appeared.
    fn call(&mut self, model: Fingerprint) {
        let Some(line) = self.lines.get_mut(&model) else {
            return;
        };
        let Some(first) = line.first().filter(|_| line.turn.is_none()) else {
            return;
        };
        let looked = self.seats.get(&first).and_then(|seat| seat.looked);
        if looked == Some(self.rooms) {
            return;
        }
        let is_ahead = line.ahead.contains(&first);
        if !is_ahead && self.running >= self.bounds.running_max {
            return;
        }
        line.turn = Some(first);
        self.called = Some(model);
        if !is_ahead {
            self.running += 1;
            self.set_standing(first, Standing::Called);
        }
        self.looks(first);
        self.calls.push((first, Call::Turn));
    }

    fn call_all(&mut self) {
        let mut models: Vec<Fingerprint> = self.lines.keys().copied().collect();
        // From the one after the last that was called, and around.
        models.sort_by_key(|model| (Some(*model) <= self.called, *model));
        for model in models {
            self.call(model);
        }
    }

    /// If it had the turn, it has it no longer.
    fn turn_over(&mut self, number: Number, model: Fingerprint) {
        if let Some(line) = self.lines.get_mut(&model) {
            line.turn.take_if(|turn| *turn == number);
            self.forget_if_empty(model);
        }
    }

    fn forget_if_empty(&mut self, model: Fingerprint) {
        if self.lines.get(&model).is_some_and(Line::is_empty) {
            self.lines.remove(&model);
        }
    }

    fn set_standing(&mut self, number: Number, standing: Standing) {
        let seat = self.seats.get_mut(&number);
        seat.expect("who acts has a seat").standing = standing;
    }
}

fn bounded(time: Option<Duration>) -> Duration {
    time.map_or(RETRY_AFTER_UNKNOWN, |time| {
        time.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    })
}

#[cfg(test)]
mod tests;
