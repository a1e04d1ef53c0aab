//! One seed, from the first connection to the last byte that is given back.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lava_cluster::Registry;
use lava_node::Planted;
use lava_proto::v1::ListModelsRequest;
use lava_proto::v1::inference_client::InferenceClient;
use lava_proto::worker::DescribeRequest;
use lava_proto::worker::worker_client::WorkerClient;
use lava_simulate::{Model, Profile, Role};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use turmoil::Sim;

use crate::ask::Asking;
use crate::fleet::{Common, Process};
use crate::network::{Connections, PORT};
use crate::plan::{HEALED, Plan, SETTLED, Trouble, What};
use crate::story::Story;
use crate::view::View;

/// How much time passes for each host before it is the next one's turn.
const TICK: Duration = Duration::from_millis(5);
/// After the last deadline and the end of all troubles, everything is given back in so much time.
const QUIET_WITHIN: Duration = Duration::from_secs(4);
/// Between two looks at a fleet.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// What all runs share.
pub(crate) struct Setting {
    pub(crate) profile: Profile,
    pub(crate) model: Arc<Model>,
}

/// Runs a seed. `is_read` keeps what happened as lines.
pub(crate) fn run(setting: &Setting, seed: u64, planted: Option<Planted>, is_read: bool) -> Story {
    let plan = Rc::new(Plan::of(seed, &setting.profile));
    let story = Rc::new(RefCell::new(Story::new(is_read)));
    story
        .borrow_mut()
        .tell(Duration::ZERO, &format!("{plan:?}"));
    let ended = Run::new(setting, &plan, planted, &story).run_to_end();
    if let Err(error) = ended {
        let at = HEALED + plan.last_deadline();
        story
            .borrow_mut()
            .violated(at, &format!("the run broke: {error}"));
    }
    let story = Rc::into_inner(story).expect("nobody else is left");
    story.into_inner()
}

struct Run<'a> {
    sim: Sim<'a>,
    plan: Rc<Plan>,
    story: Rc<RefCell<Story>>,
    processes: BTreeMap<String, Rc<Process>>,
    registry: Registry,
    views: Vec<View>,
    /// Hosts that are gone, and until when.
    down: BTreeMap<String, Duration>,
    /// Of those, the ones that run until the next tick.
    going: BTreeSet<String>,
}

impl<'a> Run<'a> {
    fn new(
        setting: &Setting,
        plan: &Rc<Plan>,
        planted: Option<Planted>,
        story: &Rc<RefCell<Story>>,
    ) -> Run<'a> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(120))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(plan.latency_max)
            .build();
        let common = Common {
            plan: Rc::clone(plan),
            model: Arc::clone(&setting.model),
            planted,
        };
        let registry = Registry::memory();
        let workers: Vec<_> = (0..plan.workers.len())
            .map(|index| common.worker(&mut sim, index, &registry))
            .collect();
        let views: Vec<_> = (0..plan.coordinators.len() as u64)
            .map(|index| View::new(Duration::from_millis((plan.seed ^ index) % 120)))
            .collect();
        let coordinators: Vec<_> = views
            .iter()
            .enumerate()
            .map(|(index, view)| common.coordinator(&mut sim, index, &view.registry))
            .collect();
        let names = plan.hosts().map(|host| host.name.clone());
        let processes = names.zip(workers.iter().chain(&coordinators).cloned());
        let processes = processes.collect();
        let clients = Clients {
            plan: Rc::clone(plan),
            story: Rc::clone(story),
            model: Arc::clone(&setting.model),
            coordinators: coordinators.clone(),
        };
        sim.client("clients", clients.run());
        Run {
            sim,
            plan: Rc::clone(plan),
            story: Rc::clone(story),
            processes,
            registry,
            views,
            down: BTreeMap::new(),
            going: BTreeSet::new(),
        }
    }

    fn run_to_end(mut self) -> turmoil::Result {
        let plan = Rc::clone(&self.plan);
        let mut begin = plan.troubles.iter().peekable();
        let mut end: Vec<&Trouble> = Vec::new();
        let mut truth = self.registry.follow(&lava_node::Health::new());
        while !self.sim.step()? {
            let elapsed = self.sim.elapsed();
            let members = truth.members();
            for view in &mut self.views {
                view.follow(elapsed, &members);
            }
            // First: what is killed below closes its connections in the next tick.
            self.look_after_hosts();
            let now = elapsed.saturating_sub(SETTLED);
            end.retain(|trouble| {
                let is_over = trouble.until <= now;
                if is_over {
                    self.undo(&trouble.what);
                }
                !is_over
            });
            while let Some(trouble) = begin.next_if(|trouble| trouble.at <= now && !now.is_zero()) {
                self.begin(trouble);
                end.push(trouble);
            }
        }
        for (name, process) in &self.processes {
            if !process.is_whole() {
                let at = self.sim.elapsed();
                let what = format!("a part of {name} failed");
                self.story.borrow_mut().violated(at, &what);
            }
        }
        Ok(())
    }

    fn begin(&mut self, trouble: &Trouble) {
        self.tell(&format!("begins: {:?}", trouble.what));
        match &trouble.what {
            What::Crash { host } => self.crash(host, trouble.until + SETTLED),
            What::Drain { host } => self.processes[host].shutdown.borrow().trigger(),
            What::Partition { a, b } => self.sim.partition(a.as_str(), b.as_str()),
            What::Deaf { from, to } => self.sim.partition_oneway(from.as_str(), to.as_str()),
            What::Hold { a, b } => self.sim.hold(a.as_str(), b.as_str()),
            What::Slow { a, b, by } => {
                self.sim.set_link_latency(a.as_str(), b.as_str(), *by);
            }
            What::Lapse {
                worker,
                coordinator,
            } => {
                self.views[*coordinator].lapsed.insert(worker.clone());
            }
        }
    }

    fn undo(&mut self, what: &What) {
        self.tell(&format!("is over: {what:?}"));
        match what {
            // They start again by themselves.
            What::Crash { .. } | What::Drain { .. } => {}
            What::Partition { a, b } => self.sim.repair(a.as_str(), b.as_str()),
            What::Deaf { from, to } => self.sim.repair_oneway(from.as_str(), to.as_str()),
            What::Hold { a, b } => self.sim.release(a.as_str(), b.as_str()),
            What::Slow { a, b, .. } => {
                let usual = self.plan.latency_max;
                self.sim.set_link_latency(a.as_str(), b.as_str(), usual);
            }
            What::Lapse {
                worker,
                coordinator,
            } => {
                self.views[*coordinator].lapsed.remove(worker);
            }
        }
    }

    /// Kills the process of a host; the host is down from the next tick on.
    fn crash(&mut self, host: &str, until: Duration) {
        self.processes[host].killed.borrow().cancel();
        let down = self.down.entry(host.to_owned()).or_default();
        *down = until.max(*down);
        self.going.insert(host.to_owned());
    }

    /// Takes hosts down whose processes were killed, and starts those again whose time has come.
    fn look_after_hosts(&mut self) {
        let now = self.sim.elapsed();
        for host in std::mem::take(&mut self.going) {
            self.sim.crash(host.as_str());
        }
        let plan = Rc::clone(&self.plan);
        for host in plan.hosts() {
            let (name, process) = (&host.name, Rc::clone(&self.processes[&host.name]));
            let is_gone = process.killed.borrow().is_cancelled();
            if is_gone && !self.down.contains_key(name) {
                let was_told = process.shutdown.borrow().is_triggered();
                self.story.borrow_mut().counts.drained += u64::from(was_told);
                let how = if was_told { "ended" } else { "vanished" };
                self.tell(&format!("{name} has {how}"));
                self.crash(name, now + host.away);
            }
        }
        let over: Vec<String> = self
            .down
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(host, _)| host.clone())
            .collect();
        for host in over {
            self.down.remove(&host);
            self.tell(&format!("{host} is back"));
            self.sim.bounce(host.as_str());
        }
    }

    fn tell(&self, what: &str) {
        self.story.borrow_mut().tell(self.sim.elapsed(), what);
    }
}

/// All clients; they share a host that nothing happens to.
struct Clients {
    plan: Rc<Plan>,
    story: Rc<RefCell<Story>>,
    model: Arc<Model>,
    coordinators: Vec<Rc<Process>>,
}

impl Clients {
    async fn run(self) -> turmoil::Result {
        let channels: Vec<Channel> = self
            .plan
            .coordinators
            .iter()
            .map(|host| channel(&host.name))
            .collect();
        for channel in &channels {
            self.until_served(channel).await;
        }
        // What goes wrong goes by this time.
        sleep(SETTLED.saturating_sub(turmoil::elapsed())).await;
        let mut asking = Vec::new();
        for number in 0..self.plan.asks.len() {
            let ask = &self.plan.asks[number];
            let client = InferenceClient::new(channels[ask.coordinator].clone());
            let asked = Asking::new(number, &self.plan, &self.story, &self.model);
            let (at, name) = (ask.at, self.model.name().to_owned());
            asking.push(tokio::task::spawn_local(async move {
                sleep(at).await;
                asked.ask(client, &name).await;
            }));
        }
        for asked in asking {
            asked.await?;
        }
        self.until_quiet().await;
        Ok(())
    }

    /// Nothing goes wrong until every coordinator knows every worker.
    async fn until_served(&self, channel: &Channel) {
        let mut client = InferenceClient::new(channel.clone());
        loop {
            if self.knows_all(&mut client).await {
                return;
            }
            if turmoil::elapsed() > SETTLED {
                return self.violated("a coordinator does not know all workers from the beginning");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether requests to this coordinator can be placed on every worker.
    async fn knows_all(&self, client: &mut InferenceClient<Channel>) -> bool {
        let listed = timeout(LOOK_MAX, client.list_models(ListModelsRequest {})).await;
        let Ok(Ok(listed)) = listed else { return false };
        listed.get_ref().models.first().is_some_and(|model| {
            model.prefill_workers as usize == self.plan.count(Role::Prefill)
                && model.decode_workers as usize == self.plan.count(Role::Decode)
        })
    }

    /// Waits until nothing is held anywhere, and everybody is there.
    async fn until_quiet(&self) {
        let over = SETTLED + self.plan.last_deadline().max(HEALED);
        let until = over + QUIET_WITHIN;
        loop {
            let held = self.held().await;
            let now = turmoil::sim_elapsed().unwrap_or_default();
            if held.is_empty() && now >= SETTLED + HEALED {
                let quiet = format!("quiet: {:?}", self.story.borrow().counts);
                return self.story.borrow_mut().tell(now, &quiet);
            }
            if now > until {
                return self.violated(&format!("at the end there is {}", held.join(", ")));
            }
            sleep(LOOK).await;
        }
    }

    /// What is held, by whom.
    async fn held(&self) -> Vec<String> {
        let mut held = Vec::new();
        for (host, process) in self.plan.coordinators.iter().zip(&self.coordinators) {
            if !self
                .knows_all(&mut InferenceClient::new(channel(&host.name)))
                .await
            {
                held.push(format!("a worker that {} does not know", host.name));
            }
            for gauge in ["flights", "flights_stuck", "claims"] {
                match process.gauge(&format!("lava_coordinator_{gauge} ")) {
                    Some(0) => {}
                    found => held.push(format!("{gauge} {found:?} at {}", host.name)),
                }
            }
        }
        let mut looks = JoinSet::new();
        for worker in &self.plan.workers {
            let name = worker.host.name.clone();
            looks.spawn(async move {
                let mut client = WorkerClient::new(channel(&name));
                let described =
                    timeout(LOOK_MAX, client.describe(DescribeRequest::default())).await;
                let Ok(Ok(described)) = described else {
                    return Some(format!("no answer of {name}"));
                };
                let load = described.into_inner().load.unwrap_or_default();
                let held = (
                    load.slots,
                    load.pages_reserved,
                    load.queue,
                    load.queue_tokens,
                );
                (held != (0, 0, 0, 0))
                    .then(|| format!("slots, pages, prompts and their tokens {held:?} at {name}"))
            });
        }
        while let Some(look) = looks.join_next().await {
            held.extend(look.expect("a look does not panic"));
        }
        held.sort();
        held
    }

    fn violated(&self, what: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.story.borrow_mut().violated(at, what);
    }
}

/// A connection of its own.
fn channel(host: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}"));
    let endpoint = endpoint.expect("a host's name and port are an address");
    Connections::default().world(0, None).channel(&endpoint)
}
