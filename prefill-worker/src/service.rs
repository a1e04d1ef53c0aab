//! The service `Prefill`.

use std::sync::Arc;

use lava_engine::{PrefillRequest as EngineRequest, PrefixCache};
use lava_node::{Health, State};
use lava_proto::worker::prefill_server::Prefill;
use lava_proto::worker::{PrefillEvent, PrefillRequest};
use lava_worker::{Attempt, Loaded, Refusal, prompt_ids};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::job::{EVENTS_MAX, Events, Job};
use crate::links::Links;
use crate::metrics::Counters;
use crate::queue::Queue;

/// Checks requests and queues them for the engine's thread.
pub(crate) struct Service {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) queue: Queue,
    pub(crate) prefixes: Option<PrefixCache>,
    pub(crate) links: Links,
    pub(crate) health: Health,
    pub(crate) counters: Counters,
}

#[tonic::async_trait]
impl Prefill for Service {
    type RunStream = ReceiverStream<Result<PrefillEvent, Status>>;

    async fn run(
        &self,
        request: Request<PrefillRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let (events, stream) = mpsc::channel(EVENTS_MAX);
        self.accept(request.into_inner(), events)
            .inspect_err(|refusal| {
                self.counters.refused.inc();
                tracing::info!(%refusal, "refused");
            })?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Service {
    fn accept(&self, request: PrefillRequest, events: Events) -> Result<(), Refusal> {
        if self.health.state() != State::Serving {
            return Err(Refusal::Draining);
        }
        let attempt = Attempt::check(request.attempt.unwrap_or_default(), &self.loaded)?;
        let tokens = attempt.shape.tokens;
        let prompt = prompt_ids(&request.prompt, attempt.prompt_digest, tokens)?;
        if attempt.answered.len() >= tokens {
            return Err(Refusal::Field {
                field: "attempt.answered",
                found: format!("{} ids", attempt.answered.len()),
                expected: format!("fewer than the prompt's {tokens}, which end with them"),
            });
        }
        engine_request(&attempt, &prompt).check(&self.loaded.model)?;
        let ticket = Attempt::ticket(&request.ticket)?;
        let link = self.links.to(&request.link_address)?;
        let prefixes = self.prefixes.as_ref();
        let expected_tokens = prefixes.map_or(0, |prefixes| prefixes.expected_tokens(&prompt));
        let place = self.queue.enter(tokens - expected_tokens)?;
        let expected = prefixes.map(|prefixes| prefixes.expect(&prompt));
        let span =
            tracing::info_span!("prefill", request = %attempt.request_id, attempt = attempt.number);
        let job = Job {
            attempt,
            prompt,
            ticket,
            link,
            events,
            queued: Instant::now(),
            place,
            _expected: expected,
            span,
        };
        self.queue.push(job)
    }
}

/// What the engine is asked for: nothing is appended on this side.
pub(crate) fn engine_request<'a>(attempt: &Attempt, prompt: &'a [u32]) -> EngineRequest<'a> {
    EngineRequest {
        tokens: prompt,
        method: attempt.method,
        budget: attempt.budget,
        format: attempt.shape.format,
        appended_max: 0,
    }
}
