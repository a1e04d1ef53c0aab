//! Keeps the snapshot of workers current, and places requests on it.
//!
//! One task follows the registry and probes every member at each interval, and at once when a call to it
//! broke. A worker that fails a probe is not used until it answers again; its running answers are left
//! alone, since a lost probe is no lost worker. Neither is a lost record: a worker that the registry has
//! lost is used for as long as it answers. Text files are fetched once per digest, and a worker is ready
//! once they are here.

mod fetch;
mod followed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use lava_cluster::{Following, Members, Registry};
use lava_node::{Health, World, supervise};
use lava_prefix::Changes;
use lava_proto::MESSAGE_BYTES_MAX;
use lava_proto::worker::worker_client::WorkerClient;
use lava_proto::worker::{DescribeRequest, Description};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::admission::Room;
use fetch::fetch;
use followed::{Followed, MemberState};

use crate::breaker::Breakers;
use crate::config::{PlacementPlan, Workers};
use crate::ledger::{Claim, Ledger};
use crate::metrics::CoordinatorMetrics;
use crate::placement::{Claimed, Needs, NoPlace, Rules, Shunned, Sight, Turn, place};
use crate::prefixes::PromptBlocks;
use crate::snapshot::{Load, Model, Role, Snapshot, TextDigest, Worker, WorkerId};
use crate::texts::{Text, TextsError};
use crate::wire;

/// Between two attempts to get text files that failed: building them keeps a core busy.
const TEXT_FILES_PAUSE: Duration = Duration::from_secs(10);

/// Workers whose calls broke and that wait to be probed.
const SUSPECTS_MAX: usize = 64;

/// The workers. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    seen: watch::Receiver<Arc<Seen>>,
    ledger: Ledger,
    breakers: Arc<Mutex<Breakers>>,
    plan: PlacementPlan,
    metrics: CoordinatorMetrics,
    suspects: mpsc::Sender<WorkerId>,
    /// Ends the task with the last clone.
    _follower: Arc<AbortOnDropHandle<()>>,
}

/// All that is known of the workers at one moment.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) snapshot: Snapshot,
    pub(crate) texts: BTreeMap<TextDigest, Arc<Text>>,
    channels: BTreeMap<WorkerId, Channel>,
    /// Tokens of the blocks that prefill workers keep.
    block_tokens: BTreeSet<u32>,
}

/// A worker that takes part in an attempt.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: WorkerId,
    /// host:port of its gRPC port.
    pub(crate) address: String,
    pub(crate) channel: Channel,
    pub(crate) claim: Claim,
}

/// The two workers of an attempt.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) prefill: Peer,
    pub(crate) decode: Peer,
    pub(crate) pages_max: u64,
    pub(crate) missing_tokens: u64,
}

impl Roster {
    /// Begins to follow a registry, in a task whose bad end makes `health` fail. It says in `room` when
    /// workers may have some.
    pub(crate) fn follow(
        registry: &Registry,
        world: &World,
        settings: Workers,
        plan: PlacementPlan,
        metrics: &CoordinatorMetrics,
        health: &Health,
        room: Room,
    ) -> Roster {
        let (published, seen) = watch::channel(Arc::default());
        let (suspects, suspected) = mpsc::channel(SUSPECTS_MAX);
        let ledger = Ledger::new(metrics.claims.clone(), room.clone());
        let breakers = Arc::new(Mutex::new(Breakers::new(plan.breaking)));
        let follower = Follower {
            world: world.clone(),
            settings,
            ledger: ledger.clone(),
            breakers: Arc::clone(&breakers),
            published,
            metrics: metrics.clone(),
            health: health.clone(),
            room,
            members: BTreeMap::new(),
            suspected,
            texts: BTreeMap::new(),
            jobs: JoinSet::new(),
            answered: Vec::new(),
        };
        let task = supervise("roster", health, follower.run(registry.follow(health)));
        Roster {
            seen,
            ledger,
            breakers,
            plan,
            metrics: metrics.clone(),
            suspects,
            _follower: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// The blocks of a prompt, as the workers of this moment cut them.
    pub(crate) fn blocks_of(&self, prompt: &[u32]) -> PromptBlocks {
        PromptBlocks::new(prompt, self.seen().block_tokens.iter().copied())
    }

    pub(crate) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.borrow())
    }

    /// A call to this worker did what it should.
    pub(crate) fn held(&self, worker: &WorkerId) {
        lock(&self.breakers).held(worker);
    }

    /// A call to this worker broke: it is probed now and not at the next interval, left alone until it
    /// answers, and for a while if that happens time after time. `random` spreads how long.
    pub(crate) fn broke(&self, worker: &WorkerId, random: u64) {
        let mut breakers = lock(&self.breakers);
        breakers.suspect(worker, self.ledger.lock().probes());
        if breakers.broke(worker, Instant::now(), random) {
            self.metrics.breaker_openings.inc();
            tracing::warn!(%worker, "its calls break, though it answers: it is left alone for a while");
        }
        drop(breakers);
        // More suspects than places mean that it is not long to the next interval's probes anyway.
        let _ = self.suspects.try_send(worker.clone());
    }

    /// Chooses two workers and writes down what the request takes of them, so that the next placement
    /// sees it.
    ///
    /// # Errors
    /// Nobody can take the request, now or ever.
    pub(crate) fn place(
        &self,
        model: &Model,
        needs: Needs,
        prompt: &PromptBlocks,
        shunned: &Shunned,
    ) -> Result<Peers, NoPlace> {
        let now = Instant::now();
        let mut breakers = lock(&self.breakers);
        let mut book = self.ledger.lock();
        let seen = self.seen();
        let sight = Sight {
            snapshot: &seen.snapshot,
            claims: book.totals(),
            kept_tokens: &book.prefixes().kept_tokens(prompt),
            is_open: &|worker| breakers.is_open(worker, now),
            shunned,
        };
        let rules = Rules {
            prefill: self.plan.prefill,
            decode: self.plan.decode,
            together_tokens_max: self.plan.together_tokens_max,
            turn: Turn(book.turn()),
        };
        let at = place(sight, model, needs, rules)?;
        breakers.chosen(&at.prefill, now);
        breakers.chosen(&at.decode, now);
        let signed = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
        let prefill = Claimed {
            requests: 1,
            tokens: signed(at.missing_tokens),
            pages: 0,
            recent: signed(at.missing_tokens),
        };
        let decode = Claimed {
            requests: 1,
            pages: signed(at.pages_max),
            ..Claimed::default()
        };
        let blocks = match seen.snapshot.workers[&at.prefill].load {
            Load::Prefill {
                block_tokens: Some(tokens),
                ..
            } => prompt.names(tokens),
            _ => &[],
        };
        let mut peer = |id: WorkerId, claimed, blocks: &[_]| {
            let worker = &seen.snapshot.workers[&id];
            Peer {
                address: worker.address.clone(),
                channel: seen.channels[&id].clone(),
                claim: self
                    .ledger
                    .claim(&mut book, id.clone(), claimed, blocks.into()),
                id,
            }
        };
        Ok(Peers {
            prefill: peer(at.prefill, prefill, blocks),
            decode: peer(at.decode, decode, &[]),
            pages_max: at.pages_max,
            missing_tokens: at.missing_tokens,
        })
    }
}

/// The task's own state.
struct Follower {
    world: World,
    settings: Workers,
    ledger: Ledger,
    breakers: Arc<Mutex<Breakers>>,
    published: watch::Sender<Arc<Seen>>,
    metrics: CoordinatorMetrics,
    health: Health,
    room: Room,
    /// By the registry's name for them.
    members: BTreeMap<String, Followed>,
    suspected: mpsc::Receiver<WorkerId>,
    texts: BTreeMap<TextDigest, TextState>,
    jobs: JoinSet<Job>,
    /// Probes whose answers are not published yet.
    answered: Vec<Answered>,
}

/// The answer to a probe, as far as the ledger wants to know.
struct Answered {
    worker: WorkerId,
    probe: u64,
    prefixes: Option<Changes>,
}

enum TextState {
    Fetching,
    Ready(Arc<Text>),
    /// Fetched again from this moment on. The log has it once.
    Failed {
        again: Instant,
    },
}

/// What a background job brings back.
enum Job {
    Probe {
        member: String,
        number: u64,
        result: Result<Box<Description>, String>,
    },
    Texts {
        digest: TextDigest,
        result: Result<Arc<Text>, TextsError>,
    },
}

impl Follower {
    async fn run(mut self, mut following: Following) -> anyhow::Result<()> {
        let mut ticks = interval(self.settings.probe_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.set_members(&following.members());
        loop {
            tokio::select! {
                biased;
                () = following.changed() => {
                    self.set_members(&following.members());
                    self.probe(|_| true);
                }
                _ = ticks.tick() => self.probe(|_| true),
                Some(suspect) = self.suspected.recv() => {
                    self.probe(|followed| followed.state.worker().is_some_and(|w| w.id == suspect));
                }
                Some(job) = self.jobs.join_next() => {
                    // Answers come in bursts, and everybody is told once of each.
                    let mut next = Some(job);
                    while let Some(job) = next {
                        match job.context("a probe panicked")? {
                            Job::Probe { member, number, result } => {
                                self.probed(member, number, result);
                            }
                            Job::Texts { digest, result } => self.fetched(digest, result),
                        }
                        next = self.jobs.try_join_next();
                    }
                    self.publish();
                }
            }
        }
    }

    /// Adds new members and forgets those that are gone and do not answer either.
    fn set_members(&mut self, now: &Members) {
        for (member, followed) in &mut self.members {
            let lapsed = !now.contains_key(member);
            if lapsed && !followed.lapsed {
                tracing::info!(
                    member,
                    address = followed.record.address,
                    "a worker has left the registry; it is used while it answers"
                );
            }
            followed.lapsed = lapsed;
        }
        self.members
            .retain(|_, followed| followed.is_worth_keeping());
        for (member, record) in now {
            if let Some(followed) = self.members.get_mut(member)
                && followed.record.address == record.address
            {
                followed.record = record.clone();
                continue;
            }
            match Followed::new(record, &self.settings, &self.world) {
                Ok(followed) => {
                    self.members.insert(member.clone(), followed);
                }
                Err(error) => {
                    tracing::warn!(member, address = record.address, %error,
                        "the address cannot be called");
                }
            }
        }
        self.publish();
    }

    fn probe(&mut self, is_meant: impl Fn(&Followed) -> bool) {
        for (member, followed) in &mut self.members {
            if followed.probing || !is_meant(followed) {
                continue;
            }
            followed.probing = true;
            let (number, prefixes_known) = {
                let mut book = self.ledger.lock();
                let known = followed
                    .state
                    .worker()
                    .map(|w| book.prefixes().version(&w.id));
                (book.probe(), known.unwrap_or_default())
            };
            let limit = self.settings.probe_timeout;
            let member = member.clone();
            let mut client = WorkerClient::new(followed.control.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            self.jobs.spawn(async move {
                let request = DescribeRequest { prefixes_known };
                let call = timeout(limit, client.describe(request));
                let result = match call.await {
                    Ok(Ok(response)) => Ok(Box::new(response.into_inner())),
                    Ok(Err(status)) => Err(status.to_string()),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                Job::Probe {
                    member,
                    number,
                    result,
                }
            });
        }
    }

    fn probed(&mut self, member: String, number: u64, result: Result<Box<Description>, String>) {
        let Some(followed) = self.members.get_mut(&member) else {
            return;
        };
        followed.probing = false;
        let result = result.and_then(|description| {
            let address = &followed.record.address;
            let prefixes = description.prefixes.as_ref().map(wire::prefix_changes);
            let prefixes = prefixes.transpose().map_err(|error| error.to_string())?;
            let worker = wire::worker(*description, address).map_err(|error| error.to_string())?;
            match &followed.record.worker {
                Some(expected) if **expected != *worker.id.0 => {
                    Err(format!("worker {} is at its address now", worker.id))
                }
                _ => Ok((worker, prefixes)),
            }
        });
        let before = std::mem::replace(&mut followed.state, MemberState::New);
        match result {
            Ok((worker, prefixes)) => {
                if !matches!(&before, MemberState::Answers(known) if known.id == worker.id) {
                    tracing::info!(worker = %worker.id, address = worker.address,
                        role = %worker.load.role(), model = worker.model.name, "a worker answers");
                }
                let control = followed.control.clone();
                self.answered.push(Answered {
                    worker: worker.id.clone(),
                    probe: number,
                    prefixes,
                });
                let digest = worker.model.text_digest;
                followed.state = MemberState::Answers(worker);
                self.fetch_texts(digest, control);
            }
            Err(error) => {
                followed.state = MemberState::Silent(match before {
                    MemberState::Silent(worker) => worker,
                    MemberState::New => {
                        tracing::warn!(member, error, "a worker does not answer");
                        None
                    }
                    MemberState::Answers(worker) => {
                        tracing::warn!(worker = %worker.id, address = worker.address, error,
                            "a worker stopped answering");
                        Some(worker)
                    }
                });
                if !followed.is_worth_keeping() {
                    self.members.remove(&member);
                }
            }
        }
    }

    fn fetch_texts(&mut self, digest: TextDigest, control: Channel) {
        match self.texts.get(&digest) {
            Some(TextState::Fetching | TextState::Ready(_)) => return,
            Some(TextState::Failed { again }) if Instant::now() < *again => return,
            Some(TextState::Failed { .. }) | None => {}
        }
        let failed_before = self.texts.insert(digest, TextState::Fetching).is_some();
        let world = self.world.clone();
        self.jobs.spawn(async move {
            let result = fetch(digest, control, &world).await;
            if let (Err(error), false) = (&result, failed_before) {
                tracing::warn!(%error, "a model's text files cannot be used");
            }
            Job::Texts { digest, result }
        });
    }

    fn fetched(&mut self, digest: TextDigest, result: Result<Arc<Text>, TextsError>) {
        let state = match result {
            Ok(text) => TextState::Ready(text),
            Err(_) => TextState::Failed {
                again: Instant::now() + TEXT_FILES_PAUSE,
            },
        };
        self.texts.insert(digest, state);
    }

    /// Tells everybody what is known now.
    fn publish(&mut self) {
        let mut seen = Seen::default();
        let mut answering = BTreeSet::new();
        for followed in self.members.values() {
            let Some(worker) = followed.state.worker() else {
                continue;
            };
            let answers = followed.answers();
            if answers {
                answering.insert(worker.id.clone());
            }
            let digest = worker.model.text_digest;
            let text = match self.texts.get(&digest) {
                Some(TextState::Ready(text)) => Some(Arc::clone(text)),
                _ => None,
            };
            let worker = Worker {
                ready: worker.ready && answers && text.is_some(),
                ..worker.clone()
            };
            if let Load::Prefill { block_tokens, .. } = worker.load {
                seen.block_tokens.extend(block_tokens);
            }
            seen.texts.extend(text.map(|text| (digest, text)));
            // Two addresses of one worker count once, the one that answers first.
            let known = seen.snapshot.workers.get(&worker.id);
            if known.is_none_or(|known| !known.ready) {
                seen.channels
                    .insert(worker.id.clone(), followed.calls.clone());
                seen.snapshot.workers.insert(worker.id.clone(), worker);
            }
        }
        for role in [Role::Prefill, Role::Decode] {
            let workers = seen.snapshot.workers.values();
            let ready = workers.filter(|w| w.ready && w.load.role() == role);
            self.metrics.workers_ready(role, ready.count());
        }
        if !seen.snapshot.served_models().is_empty() {
            self.health.serving();
        }
        let used: BTreeSet<TextDigest> = {
            let workers = seen.snapshot.workers.values();
            workers.map(|w| w.model.text_digest).collect()
        };
        self.texts.retain(|digest, _| used.contains(digest));
        let is_known = |id: &WorkerId| seen.snapshot.workers.contains_key(id);
        let mut breakers = lock(&self.breakers);
        breakers.forget_gone(is_known);
        for answered in &self.answered {
            breakers.answered(&answered.worker, answered.probe);
        }
        drop(breakers);
        // Loads and claims change together: whoever places holds the book.
        let mut book = self.ledger.lock();
        for answered in std::mem::take(&mut self.answered) {
            book.probed(&answered.worker, answered.probe);
            if let Some(changes) = answered.prefixes {
                book.prefixes_mut().take(&answered.worker, &changes);
            }
        }
        book.prefixes_mut().forget_gone(is_known);
        book.forget_ended(|id| answering.contains(id));
        self.published.send_replace(Arc::new(seen));
        drop(book);
        self.room.appeared();
    }
}

fn lock(breakers: &Mutex<Breakers>) -> MutexGuard<'_, Breakers> {
    // Nothing that holds the lock panics half way.
    breakers.lock().unwrap_or_else(PoisonError::into_inner)
}
