//! The way that requests and workers' messages take through this crate, without sockets and tasks: a door for the fuzz
//! targets of `crates/fuzz`, since the service and the roster that go this way can only be reached over the network.
//! Nothing is decided here, and no program uses it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lava_proto::{content_digest, v1, worker};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::answer::Answer;
use crate::config::{Config, Plan};
use crate::convert::{Asked, Invalid, Order, prompt_form};
use crate::deadline::time_allowed;
use crate::flight::{self, Action, Event, Flight};
use crate::placement::{Needs, Rules, Shunned, Sight, place};
use crate::prefixes::{PrefixIndex, PromptBlocks};
use crate::request_id::{HEADER, RequestId};
use crate::snapshot::{Load, Model, Role, Snapshot, TextDigest, Worker};
use crate::status::{Refusal, WorkerFailure, clipped};
use crate::texts::Text;
use crate::wire::{self, AttemptParts};

/// The date that templates see.
const TODAY: &str = "26 Nov 2026";

/// What a coordinator knows that serves one model.
#[derive(Debug)]
pub struct Door {
    plan: Plan,
    model: Arc<Model>,
    text: Arc<Text>,
}

/// A request that is let in.
#[derive(Debug)]
pub struct Taken {
    id: RequestId,
    order: Arc<Order>,
    /// Until its deadline.
    pub time_left: Duration,
}

/// What the calls of a flight bring, one after another; it is always for the attempt that runs.
#[derive(Clone, Debug)]
pub enum Said {
    /// By the decode worker.
    Decode(worker::DecodeEvent),
    /// By the prefill worker, which took the prompt in before.
    Prefill(worker::PrefillEvent),
    /// The decode worker's call ended so.
    DecodeEnded(Status),
    /// The prefill worker's call ended so.
    PrefillEnded(Status),
    /// Nothing, for as long as the stage may take.
    Silence,
    /// No statistics, for as long as they may take.
    StatsLate,
}

/// What a client gets of them.
#[derive(Debug)]
pub struct Outcome {
    /// Its messages.
    pub messages: Vec<v1::GenerateResponse>,
    /// How the flight ended, each time that it did.
    pub ends: Vec<Result<(), Code>>,
    /// Ids that the flight has as its answer.
    pub emitted: Vec<u32>,
    /// Attempts that were begun.
    pub attempts: u32,
}

impl Door {
    /// A coordinator with default settings and a worker that describes itself so.
    ///
    /// # Errors
    /// The description or the text files cannot be used.
    pub fn new(description: worker::Description, text_files: &[u8]) -> Result<Door, String> {
        let described = wire::worker(description, "worker:1").map_err(|e| e.to_string())?;
        let digest = TextDigest(content_digest(text_files));
        let text = Text::new(text_files, digest).map_err(|e| e.to_string())?;
        Ok(Door {
            plan: Config::default().into_plan().map_err(|e| e.to_string())?,
            model: described.model,
            text: Arc::new(text),
        })
    }

    /// As `Inference.Generate` takes a request in, with the values of the headers `grpc-timeout` and `x-request-id`, where
    /// they are not empty.
    ///
    /// # Errors
    /// What the client would get.
    pub fn generate(
        &self,
        headers: [&[u8]; 2],
        request: v1::GenerateRequest,
    ) -> Result<Taken, Status> {
        let taken = || {
            let mut metadata = MetadataMap::new();
            for (name, value) in ["grpc-timeout", HEADER].into_iter().zip(headers) {
                let value = MetadataValue::try_from(value).ok();
                let value = value.filter(|value| !value.is_empty());
                value.map(|value| metadata.insert(name, value));
            }
            let time_left = time_allowed(&metadata, &self.plan.deadlines)?;
            let (prompt, asked) = Asked::new(request, &self.plan.limits, &self.plan.defaults)?;
            let prompt = self.text.ids(prompt, TODAY)?;
            let order = asked.of_model(Arc::clone(&self.model), prompt, 1)?;
            Ok(Taken {
                id: RequestId::of(&metadata, 1),
                order: Arc::new(order),
                time_left,
            })
        };
        taken().map_err(|invalid: Invalid| Refusal::from(invalid).status())
    }

    /// As `Inference.Tokenize` answers.
    ///
    /// # Errors
    /// What the client would get.
    pub fn tokenize(&self, request: v1::TokenizeRequest) -> Result<Vec<u32>, Status> {
        let ids = || Ok(self.text.ids(prompt_form(request.prompt)?, TODAY)?);
        ids().map_err(|invalid: Invalid| Refusal::from(invalid).status())
    }

    /// Follows one choice of a request through what its workers say.
    ///
    /// # Errors
    /// What the client would get instead of an answer.
    pub fn follow(&self, taken: &Taken, said: Vec<Said>) -> Result<Outcome, Status> {
        let order = &taken.order;
        let answer = Answer::new(order, 0, taken.id.clone(), Arc::clone(&self.text));
        let answer = answer.map_err(|error| Refusal::from(Invalid::from(error)).status())?;
        let (flight, actions) = Flight::new(flight::Plan {
            retry: self.plan.retry,
            seed: 1,
            max_tokens: order.size.max_tokens,
            capped: order.capped,
            end_of_text: Arc::clone(&order.end_of_text),
            stop_token_ids: Arc::clone(&order.stop_token_ids),
            begins_whole_again: false,
        });
        let mut follower = Follower {
            flight,
            answer,
            attempt: 0,
            pending: VecDeque::new(),
            outcome: Outcome {
                messages: Vec::new(),
                ends: Vec::new(),
                emitted: Vec::new(),
                attempts: 0,
            },
        };
        follower.perform(actions);
        for said in said {
            let attempt = follower.attempt;
            let event = match said {
                Said::Decode(event) => match wire::decode_event(event, "worker:1") {
                    Ok(event) => Event::Decode { attempt, event },
                    Err(failure) => decode_failed(attempt, failure),
                },
                Said::Prefill(event) => {
                    let accepted = flight::PrefillEvent::Accepted;
                    follower.hear(Event::Prefill {
                        attempt,
                        event: accepted,
                    });
                    match wire::prefill_event(event) {
                        Ok(event) => Event::Prefill { attempt, event },
                        Err(failure) => prefill_failed(attempt, failure),
                    }
                }
                Said::DecodeEnded(status) => {
                    decode_failed(attempt, WorkerFailure::of_status(Role::Decode, &status))
                }
                Said::PrefillEnded(status) => {
                    prefill_failed(attempt, WorkerFailure::of_status(Role::Prefill, &status))
                }
                Said::Silence => Event::Silence { attempt },
                Said::StatsLate => Event::StatsLate { attempt },
            };
            follower.hear(event);
        }
        follower.outcome.emitted = follower.flight.emitted().to_vec();
        Ok(follower.outcome)
    }
}

fn decode_failed(attempt: u32, failure: WorkerFailure) -> Event {
    let event = flight::DecodeEvent::Failed(failure);
    Event::Decode { attempt, event }
}

fn prefill_failed(attempt: u32, failure: WorkerFailure) -> Event {
    let event = flight::PrefillEvent::Failed(failure);
    Event::Prefill { attempt, event }
}

impl Taken {
    /// The messages of an attempt that goes on after some tokens of the first choice.
    pub fn calls(&self, emitted: &[u32]) -> (worker::DecodeRequest, worker::PrefillRequest) {
        let parts = AttemptParts {
            order: &self.order,
            request_id: &self.id,
            choice: 0,
            number: u32::from(!emitted.is_empty()),
            emitted,
            time_left: self.time_left,
        };
        let ticket = flight::Ticket([7; 16]);
        let prefill = parts.prefill_request(ticket, "127.0.0.1:1".to_owned());
        (parts.decode_request(), prefill)
    }

    /// The ids of its prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.order.prompt
    }

    /// Most tokens of an answer.
    pub fn max_tokens(&self) -> u32 {
        self.order.size.max_tokens
    }

    /// Ids that have no text.
    pub fn silent_ids(&self) -> Vec<u32> {
        [&self.order.end_of_text[..], &self.order.stop_token_ids[..]].concat()
    }
}

/// Does what a driver does, at once.
struct Follower {
    flight: Flight,
    answer: Answer,
    attempt: u32,
    pending: VecDeque<Event>,
    outcome: Outcome,
}

impl Follower {
    fn hear(&mut self, event: Event) {
        self.pending.push_back(event);
        while let Some(event) = self.pending.pop_front() {
            let actions = self.flight.step(event);
            self.perform(actions);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                // Nobody else is there.
                Action::Wait { attempt } => self.pending.push_back(Event::Turn { attempt }),
                Action::Place { attempt } => {
                    self.attempt = attempt;
                    self.outcome.attempts += 1;
                    let at = crate::placement::Placement {
                        prefill: crate::snapshot::WorkerId("p".into()),
                        decode: crate::snapshot::WorkerId("d".into()),
                        pages_max: 1,
                        missing_tokens: 1,
                    };
                    self.pending.push_back(Event::Placed { attempt, at });
                }
                Action::Pause { attempt, .. } => {
                    self.attempt = attempt;
                    self.pending.push_back(Event::PauseOver { attempt });
                }
                Action::Emit(tokens) => {
                    let message = self.answer.push(tokens);
                    self.outcome.messages.push(message);
                    if self.answer.is_stopped() {
                        self.pending.push_back(Event::StopStringMet);
                    }
                }
                Action::End(Ok(answered)) => {
                    self.outcome.messages.push(self.answer.finish(answered));
                    self.outcome.ends.push(Ok(()));
                }
                Action::End(Err(error)) => {
                    let status = Refusal::from(error).status();
                    self.outcome.ends.push(Err(status.code()));
                }
                Action::OpenDecode { .. }
                | Action::OpenPrefill { .. }
                | Action::DropAttempt
                | Action::AwaitStats { .. } => {}
            }
        }
        while let Some(event) = self.pending.pop_front() {
            let actions = self.flight.step(event);
            self.perform(actions);
        }
    }
}

/// A cluster as its workers describe it.
#[derive(Debug)]
pub struct Fleet {
    snapshot: Snapshot,
    prefixes: PrefixIndex,
}

/// Where a request would go.
#[derive(Debug)]
pub struct Placed {
    /// Id of the prefill worker.
    pub prefill: String,
    /// Id of the decode worker.
    pub decode: String,
    /// Pages that are counted on.
    pub pages_max: u64,
    /// Tokens that the prefill worker is thought to have to compute.
    pub missing_tokens: u64,
    /// The call to the decode worker.
    pub request: worker::DecodeRequest,
}

impl Fleet {
    /// All workers whose descriptions can be used; and of the others, why not.
    pub fn new(descriptions: Vec<worker::Description>) -> (Fleet, Vec<String>) {
        let mut refused = Vec::new();
        let mut workers = BTreeMap::new();
        let mut prefixes = PrefixIndex::default();
        for (index, description) in descriptions.into_iter().enumerate() {
            let changes = description.prefixes.as_ref().map(wire::prefix_changes);
            let described = changes.transpose().and_then(|changes| {
                let worker = wire::worker(description, &format!("worker:{index}"))?;
                Ok((worker, changes))
            });
            match described {
                Ok((worker, changes)) => {
                    if let Some(changes) = changes {
                        prefixes.take(&worker.id, &changes);
                    }
                    workers.insert(worker.id.clone(), worker);
                }
                Err(error) => refused.push(error.to_string()),
            }
        }
        let snapshot = Snapshot { workers };
        (Fleet { snapshot, prefixes }, refused)
    }

    /// Ids and readiness of its workers.
    pub fn workers(&self) -> impl Iterator<Item = (&str, bool)> {
        let workers = self.snapshot.workers.values();
        workers.map(|Worker { id, ready, .. }| (&*id.0, *ready))
    }

    /// Models with a ready pair: name, prefill workers, decode workers.
    pub fn models(&self) -> Vec<(String, u32, u32)> {
        let served = self.snapshot.served_models().into_iter();
        served
            .map(|one| {
                (
                    one.model.name.clone(),
                    one.prefill_workers,
                    one.decode_workers,
                )
            })
            .collect()
    }

    /// Places a request as a flight does, with the default settings.
    ///
    /// # Errors
    /// What the client would get.
    pub fn place(&self, request: v1::GenerateRequest) -> Result<Placed, Status> {
        let plan = Config::default().into_plan();
        let plan = plan.map_err(|error| Status::internal(error.to_string()))?;
        let placed = || -> Result<Placed, Refusal> {
            let name = request.model.clone();
            let (prompt, asked) = Asked::new(request, &plan.limits, &plan.defaults)?;
            let served = self.snapshot.served(clipped(&name))?;
            let crate::convert::PromptForm::Ids(ids) = prompt else {
                return Err(Refusal::Bug("only ids can be placed without a tokenizer"));
            };
            let order = asked.of_model(served.model, ids, 1)?;
            let needs = Needs::new(&order.model, order.size);
            let sizes = self
                .snapshot
                .workers
                .values()
                .filter_map(|one| match one.load {
                    Load::Prefill { block_tokens, .. } => block_tokens,
                    Load::Decode { .. } => None,
                });
            let blocks = PromptBlocks::new(&order.prompt, sizes);
            let sight = Sight {
                snapshot: &self.snapshot,
                claims: &BTreeMap::new(),
                kept_tokens: &self.prefixes.kept_tokens(&blocks),
                is_open: &|_| false,
                shunned: &Shunned::default(),
            };
            let at = place(sight, &order.model, needs, Rules::default())?;
            let taken = Taken {
                id: RequestId::of(&MetadataMap::new(), 1),
                order: Arc::new(order),
                time_left: Duration::from_secs(1),
            };
            let (request, _) = taken.calls(&[]);
            Ok(Placed {
                prefill: at.prefill.0.to_string(),
                decode: at.decode.0.to_string(),
                pages_max: at.pages_max,
                missing_tokens: at.missing_tokens,
                request,
            })
        };
        placed().map_err(|refusal| refusal.status())
    }
}
