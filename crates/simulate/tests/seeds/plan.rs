//! What a seed decides: who takes part, what is asked, and what goes wrong when.

use std::time::Duration;

use lava_simulate::{FaultKind, FaultSection, FaultStage, Profile, Role};

use crate::numbers::Numbers;

/// Until then nothing goes wrong and nothing is asked: all coordinators come to know all workers. The plan's times begin there.
pub(crate) const SETTLED: Duration = Duration::from_millis(800);
/// When everything that goes wrong by plan is over.
pub(crate) const HEALED: Duration = Duration::from_secs(5);
/// Requests come in until then.
const ASKED_MS: u64 = 3000;
/// Of requests that are in no hurry.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Of a message; at least a tick.
    pub(crate) latency_max: Duration,
    pub(crate) coordinators: Vec<Host>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) troubles: Vec<Trouble>,
    /// One worker of each role, the coordinators and the ways between all of them are left alone, and have room for everybody.
    pub(crate) spared: bool,
    /// How far clocks jump, all together.
    pub(crate) jumps: Duration,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// How much its clock gains in a tenth of a second.
    pub(crate) drift: Duration,
    /// When its clock jumps ahead, as after a pause, and how far.
    pub(crate) jumps: Vec<(Duration, Duration)>,
    /// Until it is started again after it ended by itself: by a fault of its profile, or drained.
    pub(crate) away: Duration,
    /// Time for what runs when it is told to end.
    pub(crate) drain_timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) host: Host,
    pub(crate) role: Role,
    pub(crate) profile: Profile,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) at: Duration,
    pub(crate) coordinator: usize,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: u32,
    pub(crate) choices: u32,
    /// The answer's token of this index, from 0, ends it.
    pub(crate) stop_at: Option<usize>,
    pub(crate) time: Duration,
    pub(crate) cancel_after: Option<Duration>,
    /// Between two messages that the client reads.
    pub(crate) pause: Duration,
}

/// Something that goes wrong, and is right again later.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) at: Duration,
    pub(crate) until: Duration,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A host is gone, with all its connections, and comes back as another process.
    Crash { host: String },
    /// A host is told to end: it takes nothing new, and ends when what it has is over or its time is. Another process follows.
    Drain { host: String },
    /// All messages are lost.
    Partition { a: String, b: String },
    /// Messages of one direction are lost.
    Deaf { from: String, to: String },
    /// Messages wait until it is over.
    Hold { a: String, b: String },
    /// Messages take longer.
    Slow { a: String, b: String, by: Duration },
    /// The registry has lost the worker, as this coordinator sees it.
    Lapse { worker: String, coordinator: usize },
}

impl Plan {
    pub(crate) fn of(seed: u64, common: &Profile) -> Plan {
        // Neighbouring seeds begin far apart.
        let mut numbers = Numbers::new(seed);
        let mut numbers = Numbers::new(numbers.next());
        let numbers = &mut numbers;
        let spared = numbers.percent(75);
        let roomy = spared || numbers.percent(50);
        let mut coordinators: Vec<Host> = (0..numbers.within(1..=2))
            .map(|index| host(format!("coordinator-{index}"), numbers))
            .collect();
        let mut workers = Vec::new();
        for (role, name) in [(Role::Prefill, "prefill"), (Role::Decode, "decode")] {
            for index in 0..numbers.within(1..=3) {
                // The first ones are those that are spared.
                let faulty = !(spared && index == 0) && numbers.percent(70);
                let mut profile = times(common, roomy, numbers);
                profile.seed = seed;
                if faulty {
                    profile.faults = faults(role, numbers);
                }
                let host = host(format!("{name}-{index}"), numbers);
                profile.drain_timeout_ms = host.drain_timeout.as_millis() as u64;
                workers.push(Worker {
                    host,
                    role,
                    profile,
                });
            }
        }
        let asks = (0..numbers.within(8..=24)).map(|_| ask(coordinators.len(), numbers));
        let asks = asks.collect();
        let (mut troubles, mut jumps) = (Vec::new(), Duration::ZERO);
        let safe = |name: &str| {
            let is_safe = ["prefill-0", "decode-0"].contains(&name);
            spared && (is_safe || name.starts_with("coordinator"))
        };
        for _ in 0..numbers.within(0..=6) {
            if numbers.percent(15) {
                let mut hosts: Vec<&mut Host> = coordinators.iter_mut().collect();
                hosts.extend(workers.iter_mut().map(|worker| &mut worker.host));
                hosts.retain(|host| !safe(&host.name));
                let at = numbers.millis(0..=3500);
                let by = numbers.millis(50..=4000);
                if !hosts.is_empty() {
                    let index = numbers.within(0..=hosts.len() as u64 - 1) as usize;
                    hosts[index].jumps.push((at, by));
                    jumps += by;
                }
                continue;
            }
            troubles.extend(trouble(&coordinators, &workers, &safe, numbers));
        }
        Plan {
            seed,
            latency_max: numbers.millis(0..=15),
            coordinators,
            workers,
            asks,
            troubles: apart(troubles),
            spared,
            jumps,
        }
    }

    /// When the last request's time is up.
    pub(crate) fn last_deadline(&self) -> Duration {
        let deadlines = self.asks.iter().map(|ask| ask.at + ask.time);
        deadlines.max().unwrap_or_default()
    }

    /// Whether its process ends under way.
    pub(crate) fn ends_coordinator(&self, index: usize) -> bool {
        let name = &self.coordinators[index].name;
        let mut troubles = self.troubles.iter();
        troubles.any(|trouble| match &trouble.what {
            What::Crash { host } | What::Drain { host } => host == name,
            _ => false,
        })
    }

    /// All hosts, workers first.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        let workers = self.workers.iter().map(|worker| &worker.host);
        workers.chain(&self.coordinators)
    }

    pub(crate) fn count(&self, role: Role) -> usize {
        let workers = self.workers.iter();
        workers.filter(|worker| worker.role == role).count()
    }
}

fn host(name: String, numbers: &mut Numbers) -> Host {
    Host {
        name,
        drift: match numbers.percent(30) {
            true => numbers.millis(1..=3),
            false => Duration::ZERO,
        },
        jumps: Vec::new(),
        away: numbers.millis(100..=1500),
        drain_timeout: numbers.millis(0..=1500),
    }
}

fn times(common: &Profile, roomy: bool, numbers: &mut Numbers) -> Profile {
    let mut profile = common.clone();
    profile.prefill.prompt_ms = numbers.within(0..=60) as f64;
    profile.decode.step_ms = numbers.within(1..=25) as f64;
    profile.decode.tokens_per_message = numbers.within(1..=3) as usize;
    if !roomy {
        profile.prefill.queue_max = numbers.within(1..=4) as usize;
        profile.decode.slots_max = numbers.within(1..=4) as usize;
    }
    profile
}

fn faults(role: Role, numbers: &mut Numbers) -> Vec<FaultSection> {
    use FaultKind::{Break, Corrupt, Late, Refuse, Stall, Vanish};
    use FaultStage::{Accept, Decode, Finish, Prefill, Transfer};
    let stages = match role {
        Role::Prefill => [Accept, Prefill, Transfer, Transfer],
        Role::Decode => [Accept, Transfer, Decode, Finish],
    };
    let fault = |numbers: &mut Numbers| {
        let stage = numbers.one_of(&stages);
        let mut kinds = vec![Refuse, Break, Stall, Vanish, Late];
        if (role, stage) == (Role::Prefill, Transfer) {
            kinds.push(Corrupt);
        }
        FaultSection {
            role,
            stage,
            kind: numbers.one_of(&kinds),
            probability: numbers.one_of(&[0.05, 0.2, 0.5]),
            late_ms: numbers.within(10..=1500),
        }
    };
    (0..numbers.within(1..=2)).map(|_| fault(numbers)).collect()
}

fn ask(coordinators: usize, numbers: &mut Numbers) -> Ask {
    let vocabulary = 50;
    Ask {
        at: numbers.millis(0..=ASKED_MS),
        coordinator: numbers.within(0..=coordinators as u64 - 1) as usize,
        prompt: (0..numbers.within(1..=80))
            .map(|_| numbers.within(0..=vocabulary - 1) as u32)
            .collect(),
        max_tokens: numbers.within(1..=24) as u32,
        choices: match numbers.percent(20) {
            true => numbers.within(2..=3) as u32,
            false => 1,
        },
        stop_at: numbers.percent(25).then(|| numbers.within(0..=12) as usize),
        time: match numbers.percent(20) {
            true => numbers.millis(30..=1500),
            false => PATIENCE,
        },
        cancel_after: numbers.percent(15).then(|| numbers.millis(0..=1200)),
        pause: match numbers.percent(10) {
            true => numbers.millis(1..=120),
            false => Duration::ZERO,
        },
    }
}

/// None where it would meet those that are spared.
fn trouble(
    coordinators: &[Host],
    workers: &[Worker],
    safe: &impl Fn(&str) -> bool,
    numbers: &mut Numbers,
) -> Option<Trouble> {
    let worker = numbers.one_of(&workers.iter().collect::<Vec<_>>());
    let worker = worker.host.name.clone();
    let mut others: Vec<&Host> = coordinators.iter().collect();
    others.extend(workers.iter().map(|worker| &worker.host));
    let other = numbers.one_of(&others).name.clone();
    let coordinator = numbers.within(0..=coordinators.len() as u64 - 1) as usize;
    let (both, kind) = ((safe(&worker), safe(&other)), numbers.within(0..=14));
    let by = numbers.millis(20..=400);
    let at = numbers.millis(0..=4000);
    let until = (at + numbers.millis(20..=2500)).min(HEALED);
    let (a, b) = (worker.clone(), other.clone());
    let what = match kind {
        0..=2 if !both.0 => What::Crash { host: worker },
        3 if !both.1 => What::Crash { host: other },
        4 | 5 if !both.0 => What::Lapse {
            worker,
            coordinator,
        },
        12 | 13 if !both.0 => What::Drain { host: worker },
        14 if !both.1 => What::Drain { host: other },
        // A way has two ends that are spared, or one that is not.
        _ if both == (true, true) || a == b => return None,
        6 => What::Hold { a, b },
        7 | 8 => What::Partition { a, b },
        9 => What::Deaf { from: a, to: b },
        10 => What::Deaf { from: b, to: a },
        11 => What::Slow { a, b, by },
        _ => return None,
    };
    Some(Trouble { at, until, what })
}

/// Leaves out what would meet something that is already going wrong at the same place: one of them could not be undone alone.
fn apart(mut troubles: Vec<Trouble>) -> Vec<Trouble> {
    troubles.sort_by_key(|trouble| trouble.at);
    let mut kept: Vec<Trouble> = Vec::new();
    for trouble in troubles {
        let place = trouble.what.place();
        let meets = |other: &Trouble| other.until >= trouble.at && other.what.place() == place;
        if !kept.iter().any(meets) {
            kept.push(trouble);
        }
    }
    kept
}

impl What {
    /// The host or the way that it takes.
    fn place(&self) -> String {
        match self {
            What::Crash { host } | What::Drain { host } => host.clone(),
            What::Lapse {
                worker,
                coordinator,
            } => format!("{worker} at {coordinator}"),
            What::Partition { a, b } | What::Hold { a, b } | What::Slow { a, b, .. } => way(a, b),
            What::Deaf { from, to } => way(from, to),
        }
    }
}

fn way(a: &str, b: &str) -> String {
    format!("{} to {}", a.min(b), a.max(b))
}
