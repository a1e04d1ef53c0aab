//! The queue among workers that are a number of free places, in scripts and in all orders.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const AT: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(1000);

fn who(tenant: &str, priority: Priority) -> Arc<Who> {
    Arc::new(Who {
        model: Fingerprint([1; 16]),
        priority,
        tenant: Tenant::named(tenant).unwrap(),
        weight: 1,
        cost: 100,
    })
}

fn normal(tenant: &str) -> Arc<Who> {
    who(tenant, Priority::Normal)
}

fn queue(waiting_max: usize) -> Queue {
    Queue::new(Bounds {
        waiting_max,
        running_max: 1000,
    })
}

impl Queue {
    fn comes(&mut self, who: &Arc<Who>) -> Result<(Number, bool), Crowd> {
        let joined = self.join(Arc::clone(who), LONG, AT);
        joined.map_err(|crowded| crowded.why)
    }

    /// One that looks in vain and waits, or waits at once because others do.
    fn waits(&mut self, who: &Arc<Who>) -> Result<Number, Crowd> {
        let (number, waits) = self.comes(who)?;
        if !waits {
            let waits = self.wait(number, LONG, AT);
            waits.map_err(|crowded| crowded.why)?;
        }
        Ok(number)
    }

    /// One is called and finds room; who it was.
    fn serves(&mut self) -> Option<Number> {
        self.room_appeared();
        let called = self.turns();
        let [number] = called[..] else {
            assert!(called.is_empty(), "one at a time");
            return None;
        };
        self.let_in(number, AT);
        // The next one finds none.
        for next in self.turns() {
            self.wait(next, LONG, AT).unwrap();
        }
        Some(number)
    }

    fn turns(&mut self) -> Vec<Number> {
        let calls = self.calls().into_iter();
        let turns = calls.map(|(number, call)| {
            assert_eq!(call, Call::Turn);
            number
        });
        turns.collect()
    }
}

#[test]
fn while_nobody_waits_everybody_looks_at_once() {
    let mut queue = queue(4);
    for tenant in ["a", "b"] {
        let (number, waits) = queue.comes(&normal(tenant)).unwrap();
        assert!(!waits);
        queue.let_in(number, AT);
    }
    assert!(queue.calls().is_empty() && queue.lines.is_empty());
}

#[test]
fn a_newcomer_does_not_overtake_those_of_its_priority_or_a_higher_one() {
    let mut queue = queue(8);
    queue.waits(&normal("a")).unwrap();
    let comes = |queue: &mut Queue, priority| queue.comes(&who("b", priority)).unwrap().1;
    assert!(comes(&mut queue, Priority::Normal));
    assert!(comes(&mut queue, Priority::Low));
    assert!(!comes(&mut queue, Priority::High));
    // Another model's workers are another matter.
    let other = Who {
        model: Fingerprint([2; 16]),
        ..(*normal("b")).clone()
    };
    assert!(!queue.comes(&Arc::new(other)).unwrap().1);
}

#[test]
fn as_many_are_called_as_find_room_and_one() {
    let mut queue = queue(8);
    let numbers: Vec<Number> = (0..4).map(|_| queue.waits(&normal("a")).unwrap()).collect();
    assert!(queue.calls().is_empty());
    queue.room_appeared();
    assert_eq!(queue.turns(), numbers[..1]);
    // More room while it looks calls nobody else yet.
    queue.room_appeared();
    assert!(queue.turns().is_empty());
    queue.let_in(numbers[0], AT);
    assert_eq!(queue.turns(), numbers[1..2]);
    queue.wait(numbers[1], LONG, AT).unwrap();
    assert!(queue.turns().is_empty());
    queue.room_appeared();
    assert_eq!(queue.turns(), numbers[1..2]);
}

#[test]
fn room_that_appears_while_one_looks_is_not_missed() {
    let mut queue = queue(8);
    let (looks, _) = queue.comes(&normal("a")).unwrap();
    // It has looked already and says so only now.
    queue.room_appeared();
    queue.wait(looks, LONG, AT).unwrap();
    assert_eq!(queue.turns(), [looks]);
    queue.room_appeared();
    queue.wait(looks, LONG, AT).unwrap();
    assert_eq!(queue.turns(), [looks]);
    queue.wait(looks, LONG, AT).unwrap();
    assert!(queue.turns().is_empty());
}

#[test]
fn who_leaves_with_the_turn_passes_it_on() {
    let mut queue = queue(8);
    let numbers: Vec<Number> = (0..3).map(|_| queue.waits(&normal("a")).unwrap()).collect();
    queue.room_appeared();
    assert_eq!(queue.turns(), numbers[..1]);
    queue.leave(numbers[0]);
    assert_eq!(queue.turns(), numbers[1..2]);
    queue.leave(numbers[2]);
    queue.leave(numbers[1]);
    assert!(queue.turns().is_empty() && queue.lines.is_empty() && queue.seats.is_empty());
    assert_eq!((queue.waiting, queue.running), (0, 0));
}

#[test]
fn a_flood_of_high_priority_leaves_every_tenth_turn_to_the_lowest() {
    let mut queue = queue(1000);
    let mut of = BTreeMap::new();
    for priority in Priority::ALL {
        for _ in 0..200 {
            of.insert(queue.waits(&who("a", priority)).unwrap(), priority);
        }
    }
    let mut since = [0; 3];
    for _ in 0..200 {
        let served = of[&queue.serves().unwrap()];
        for priority in Priority::ALL {
            let since = &mut since[priority.index()];
            *since = if served == priority { 0 } else { *since + 1 };
            assert!(*since <= 9, "{priority:?} waits for {since} others");
        }
    }
}

#[test]
fn newcomers_of_high_priority_do_not_starve_the_low_one_that_waits() {
    let mut queue = queue(10);
    let low = queue.waits(&who("a", Priority::Low)).unwrap();
    let mut overtook = 0;
    loop {
        let (number, waits) = queue.comes(&who("b", Priority::High)).unwrap();
        if waits {
            break;
        }
        queue.let_in(number, AT);
        overtook += 1;
        assert!(overtook <= PASSES_MAX);
    }
    assert_eq!(queue.serves(), Some(low));
}

#[test]
fn places_to_wait_are_bounded_and_a_quiet_tenant_gets_one_of_a_flood() {
    let mut queue = queue(8);
    let flood: Vec<Number> = (0..8)
        .map(|_| queue.waits(&normal("flood")).unwrap())
        .collect();
    let full = Crowd::Full { waiting_max: 8 };
    assert_eq!(queue.waits(&normal("flood")), Err(full));
    let quiet: Vec<Number> = (0..4)
        .map(|_| queue.waits(&normal("quiet")).unwrap())
        .collect();
    // The last that came of the flood are told.
    let out: Vec<Number> = queue
        .calls()
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(out, flood[4..].iter().rev().copied().collect::<Vec<_>>());
    // It has its half, and neither gets more.
    assert_eq!(queue.waits(&normal("quiet")), Err(full));
    assert_eq!(queue.waits(&normal("flood")), Err(full));
    assert_eq!(queue.waiting, 8);
    let turns: Vec<bool> = (0..8)
        .map(|_| quiet.contains(&queue.serves().unwrap()))
        .collect();
    assert_eq!(turns.iter().filter(|quiet| **quiet).count(), 4);
    assert!(turns[..2].contains(&true), "it does not wait for the flood");
}

#[test]
fn an_urgent_request_gets_a_place_and_the_low_ones_keep_theirs_that_are_set_aside() {
    let mut queue = queue(16);
    for _ in 0..16 {
        queue.waits(&who("a", Priority::Low)).unwrap();
    }
    for _ in 0..14 {
        queue.waits(&who("b", Priority::High)).unwrap();
    }
    let full = Crowd::Full { waiting_max: 16 };
    assert_eq!(queue.waits(&who("b", Priority::High)), Err(full));
    let held = |queue: &Queue, of| {
        queue
            .lines
            .values()
            .map(|l| l.class(of).len())
            .sum::<usize>()
    };
    assert_eq!(held(&queue, Priority::Low), 2);
    // What is set aside for a priority is there for it even if another one had taken all.
    queue.waits(&normal("c")).unwrap();
    queue.waits(&normal("c")).unwrap();
    assert_eq!(queue.waits(&normal("c")), Err(full));
    assert_eq!(held(&queue, Priority::High), 12);
}

#[test]
fn who_would_wait_for_too_long_is_refused_with_the_time_that_is_missing() {
    let mut queue = queue(100);
    let seconds = Duration::from_secs;
    for _ in 0..20 {
        queue.waits(&normal("a")).unwrap();
    }
    // One every two seconds.
    for index in 1..=10 {
        queue.room_appeared();
        let [number] = queue.turns()[..] else {
            panic!("one is called")
        };
        queue.let_in(number, seconds(2 * index));
        let next = queue.turns();
        queue.wait(next[0], LONG, seconds(2 * index)).unwrap();
    }
    let now = seconds(20);
    // Ten wait, and it would be the eleventh.
    let crowded = queue.join(normal("a"), seconds(15), now).unwrap_err();
    let (wait, wait_max) = (seconds(22), seconds(15));
    assert_eq!(crowded.why, Crowd::TooSlow { wait, wait_max });
    assert_eq!(crowded.retry_after, seconds(7));
    assert!(queue.join(normal("a"), seconds(22), now).is_ok());
    // Another tenant's turn comes sooner.
    assert!(queue.join(normal("b"), seconds(15), now).is_ok());
    // However slow it is, the time to come back is bounded.
    let crowded = queue.join(normal("a"), seconds(1), seconds(9999));
    assert_eq!(crowded.unwrap_err().retry_after, RETRY_AFTER_MAX);
}

#[test]
fn without_places_to_wait_nobody_waits() {
    let mut queue = queue(0);
    let (number, waits) = queue.comes(&normal("a")).unwrap();
    assert!(!waits);
    let crowded = queue.wait(number, LONG, AT).unwrap_err();
    assert_eq!(crowded.why, Crowd::NobodyMayWait);
    assert_eq!(crowded.retry_after, RETRY_AFTER_UNKNOWN);
    queue.leave(number);
    assert_eq!((queue.waiting, queue.running), (0, 0));
}

#[test]
fn who_lost_its_workers_goes_before_all_who_were_not_let_in() {
    let mut queue = queue(8);
    let (ran, _) = queue.comes(&normal("a")).unwrap();
    queue.let_in(ran, AT);
    let first = queue.waits(&who("b", Priority::High)).unwrap();
    queue.looks(ran);
    queue.wait_ahead(ran, AT);
    assert!(queue.comes(&who("c", Priority::High)).unwrap().1);
    queue.room_appeared();
    assert_eq!(queue.turns(), [ran]);
    queue.wait_ahead(ran, AT);
    assert!(queue.turns().is_empty());
    // It finds other workers by itself.
    queue.let_in(ran, AT);
    assert_eq!(queue.turns(), [first]);
}

#[test]
fn who_may_run_is_bounded_over_all_models() {
    let mut queue = Queue::new(Bounds {
        waiting_max: 8,
        running_max: 1,
    });
    let (runs, _) = queue.comes(&normal("a")).unwrap();
    queue.let_in(runs, AT);
    let other = Arc::new(Who {
        model: Fingerprint([2; 16]),
        ..(*normal("b")).clone()
    });
    let (waits, must) = queue.comes(&other).unwrap();
    assert!(must);
    queue.room_appeared();
    assert!(queue.turns().is_empty());
    queue.leave(runs);
    assert_eq!(queue.turns(), [waits]);
}

#[test]
fn where_models_share_a_bound_their_lines_take_turns() {
    let mut queue = Queue::new(Bounds {
        waiting_max: 100,
        running_max: 1,
    });
    let (mut runs, _) = queue.comes(&normal("a")).unwrap();
    queue.let_in(runs, AT);
    let mut models = BTreeMap::new();
    for index in 0..30 {
        let model = index % 3;
        let who = Who {
            model: Fingerprint([model; 16]),
            ..(*normal("a")).clone()
        };
        models.insert(queue.comes(&Arc::new(who)).unwrap().0, model);
    }
    let mut order = Vec::new();
    for _ in 0..30 {
        queue.leave(runs);
        runs = queue.turns()[0];
        queue.let_in(runs, AT);
        order.push(models[&runs]);
    }
    assert!(
        order.windows(3).all(|of| of[0] != of[1] && of[1] != of[2]),
        "{order:?}"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Comes {
        tenant: u8,
        priority: u8,
        model: u8,
    },
    /// The answer at this index, of those who run, ends.
    Ends(usize),
    /// The client at this index, of all, leaves.
    Leaves(usize),
    /// A worker of this model gets or loses places.
    Room {
        model: u8,
        places: i8,
    },
    /// The answer at this index, of those who run, loses its worker and looks for another.
    Loses(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 0..3u8, 0..2u8).prop_map(|(tenant, priority, model)| Step::Comes {
            tenant, priority, model
        }),
        3 => any::<usize>().prop_map(Step::Ends),
        1 => any::<usize>().prop_map(Step::Leaves),
        1 => (0..2u8, -2..3i8).prop_map(|(model, places)| Step::Room { model, places }),
        1 => any::<usize>().prop_map(Step::Loses),
    ]
}

/// Workers of two models with so many free places, and a client for each that is in the queue.
struct World {
    queue: Queue,
    free: [i32; 2],
    runs: Vec<(Number, usize)>,
    waits: Vec<(Number, usize)>,
    ahead: Vec<(Number, usize)>,
}

impl World {
    /// Does what clients do, until all wait or run.
    fn settle(&mut self) {
        loop {
            let calls = self.queue.calls();
            if calls.is_empty() {
                return;
            }
            for (number, call) in calls {
                let is_ahead = self.ahead.iter().any(|(of, _)| *of == number);
                let list = if is_ahead {
                    &mut self.ahead
                } else {
                    &mut self.waits
                };
                let at = list.iter().position(|(of, _)| *of == number).unwrap();
                let model = list[at].1;
                match call {
                    Call::PushedOut(_) => {
                        list.remove(at);
                        self.queue.leave(number);
                    }
                    Call::Turn if self.free[model] > 0 => {
                        list.remove(at);
                        self.free[model] -= 1;
                        self.runs.push((number, model));
                        self.queue.let_in(number, AT);
                    }
                    Call::Turn if is_ahead => self.queue.wait_ahead(number, AT),
                    Call::Turn => self.queue.wait(number, LONG, AT).unwrap(),
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Comes {
                tenant,
                priority,
                model,
            } => {
                let who = Arc::new(Who {
                    model: Fingerprint([model; 16]),
                    priority: Priority::ALL[usize::from(priority)],
                    tenant: Tenant::named(&format!("t{tenant}")).unwrap(),
                    weight: u32::from(tenant) + 1,
                    cost: 100,
                });
                let model = usize::from(model);
                let Ok((number, waits)) = self.queue.join(who, LONG, AT) else {
                    return;
                };
                if !waits && self.free[model] > 0 {
                    self.free[model] -= 1;
                    self.runs.push((number, model));
                    self.queue.let_in(number, AT);
                } else if waits || self.queue.wait(number, LONG, AT).is_ok() {
                    self.waits.push((number, model));
                } else {
                    self.queue.leave(number);
                }
            }
            Step::Ends(index) if !self.runs.is_empty() => {
                let (number, model) = self.runs.remove(index % self.runs.len());
                self.free[model] += 1;
                self.queue.room_appeared();
                self.queue.leave(number);
            }
            Step::Leaves(index) if !self.waits.is_empty() => {
                let (number, _) = self.waits.remove(index % self.waits.len());
                self.queue.leave(number);
            }
            Step::Leaves(index) if !self.ahead.is_empty() => {
                let (number, _) = self.ahead.remove(index % self.ahead.len());
                self.queue.leave(number);
            }
            Step::Room { model, places } => {
                self.free[usize::from(model)] += i32::from(places);
                self.queue.room_appeared();
            }
            Step::Loses(index) if !self.runs.is_empty() => {
                let (number, model) = self.runs.remove(index % self.runs.len());
                self.queue.looks(number);
                if self.free[model] > 0 {
                    self.free[model] -= 1;
                    self.runs.push((number, model));
                    self.queue.let_in(number, AT);
                } else {
                    self.queue.wait_ahead(number, AT);
                    self.ahead.push((number, model));
                }
            }
            _ => {}
        }
        self.settle();
    }
}

proptest! {
    /// Whatever happens: the bounds hold, nobody waits while there is room for the first of his line, and
    /// once all have left nothing is left of them.
    #[test]
    fn nobody_is_forgotten_and_nothing_is_left(steps in vec(step(), 0..200)) {
        let bounds = Bounds { waiting_max: 5, running_max: 6 };
        let mut world = World {
            queue: Queue::new(bounds),
            free: [2, 2],
            runs: Vec::new(),
            waits: Vec::new(),
            ahead: Vec::new(),
        };
        for step in &steps {
            world.step(step);
            let queue = &world.queue;
            prop_assert!(queue.waiting <= bounds.waiting_max);
            prop_assert!(queue.running <= bounds.running_max);
            prop_assert_eq!(queue.waiting, world.waits.len());
            prop_assert_eq!(queue.running, world.runs.len() + world.ahead.len());
            for model in 0..2 {
                let is_of = |(_, of): &&(Number, usize)| *of == model;
                let room = world.free[model] > 0;
                prop_assert!(!room || !world.ahead.iter().any(|one| is_of(&one)));
                let may_run = queue.running < bounds.running_max;
                let waits = world.waits.iter().any(|one| is_of(&one));
                prop_assert!(!(room && may_run && waits), "{model} has room that nobody is called for");
            }
        }
        let all = [world.runs, world.waits, world.ahead].concat();
        for (number, _) in all {
            world.queue.leave(number);
            world.queue.calls();
        }
        prop_assert!(world.queue.seats.is_empty() && world.queue.lines.is_empty());
        prop_assert_eq!((world.queue.waiting, world.queue.running), (0, 0));
    }
}
