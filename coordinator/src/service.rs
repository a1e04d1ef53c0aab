//! The public service: takes requests in, and follows them to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lava_node::{Held, Shutdown, World};
use lava_proto::v1::inference_server::Inference;
use lava_proto::v1::{self, GenerateResponse};
use lava_text::date;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};
use tracing::Instrument;

use crate::admission::{Admission, Charge, Tenant, Who};
use crate::answer::Answer;
use crate::config::Plan;
use crate::convert::{Asked, Invalid, Order, PromptForm, prompt_form};
use crate::deadline::time_allowed;
use crate::drive::{Request, drive};
use crate::flight::FlightError;
use crate::metrics::CoordinatorMetrics;
use crate::request_id::{HEADER, RequestId};
use crate::retry_budget::RetryBudget;
use crate::roster::{Roster, Seen};
use crate::snapshot::Served;
use crate::status::{Refusal, clipped};
use crate::texts::Text;

/// How late an answer may end before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// The public service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) world: World,
    pub(crate) plan: Plan,
    pub(crate) roster: Roster,
    pub(crate) retry_budget: RetryBudget,
    pub(crate) admission: Admission,
    /// One permit per answer that was taken in, to run or to wait.
    pub(crate) flights: Arc<Semaphore>,
    /// All of them.
    pub(crate) flights_max: u32,
    pub(crate) metrics: CoordinatorMetrics,
    /// Nothing new is taken in.
    pub(crate) closing: Shutdown,
    /// The drain's time is up.
    pub(crate) drained: CancellationToken,
}

/// A request's messages. If its tasks die, the client gets an error and not a silent end.
#[derive(Debug)]
pub(crate) struct Answers {
    messages: mpsc::Receiver<Result<GenerateResponse, Status>>,
    /// Choices whose last message has not come.
    open: u32,
}

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = Answers;

    async fn generate(
        &self,
        request: tonic::Request<v1::GenerateRequest>,
    ) -> Result<Response<Answers>, Status> {
        let (metadata, _, message) = request.into_parts();
        match self.take_in(&metadata, message).await {
            Ok(response) => Ok(response),
            Err(refusal) => {
                self.metrics.refused(refusal.reason());
                Err(refusal.status())
            }
        }
    }

    async fn list_models(
        &self,
        _: tonic::Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let seen = self.roster.seen();
        let served = seen.snapshot.served_models();
        let models = served.iter().map(|served| model_message(served, &seen));
        Ok(Response::new(v1::ListModelsResponse {
            models: models.collect(),
        }))
    }

    async fn get_model(
        &self,
        request: tonic::Request<v1::GetModelRequest>,
    ) -> Result<Response<v1::Model>, Status> {
        let seen = self.roster.seen();
        let name = clipped(&request.get_ref().model);
        match seen.snapshot.served(name) {
            Ok(served) => Ok(Response::new(model_message(&served, &seen))),
            Err(why) => Err(Refusal::from(why).status()),
        }
    }

    async fn tokenize(
        &self,
        request: tonic::Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        let request = request.into_inner();
        let ids = async {
            // Counts like an answer: a large text keeps a thread busy.
            let permit = self.permits(1)?;
            let (_, text) = self.model(&request.model)?;
            ids(&self.world, text, prompt_form(request.prompt)?, permit).await
        };
        match ids.await {
            Ok((ids, _permit)) => Ok(Response::new(v1::TokenizeResponse { ids })),
            Err(refusal) => Err(refusal.status()),
        }
    }
}

impl Service {
    async fn take_in(
        &self,
        metadata: &MetadataMap,
        message: v1::GenerateRequest,
    ) -> Result<Response<Answers>, Refusal> {
        let began = Instant::now();
        if self.closing.is_triggered() {
            return Err(Refusal::Draining);
        }
        let id = RequestId::of(metadata, self.random()?);
        let deadline = began + time_allowed(metadata, &self.plan.deadlines)?;
        let tenant = Tenant::of(metadata)?;
        let name = message.model.clone();
        let (prompt, asked) = Asked::new(message, &self.plan.limits, &self.plan.defaults)?;
        let entered = self.admission.enter(tenant, asked.choices)?;
        let permit = self.permits(asked.choices)?;
        let (served, text) = self.model(&name)?;
        let (prompt, permit) = ids(&self.world, Arc::clone(&text), prompt, permit).await?;
        let order = asked.of_model(served.model, prompt, self.random()?)?;
        // What each choice may need at most.
        let cost = u64::from(order.size.tokens) + u64::from(order.size.max_tokens);
        let charges = entered.charge(cost)?;
        let who = Who {
            model: order.model.fingerprint,
            priority: order.priority,
            tenant: entered.tenant().clone(),
            weight: entered.weight(),
            cost,
        };
        let messages_max = self.plan.limits.answer_messages_max;
        // One place is kept for the status of a request that ends without an answer.
        let (client, messages) = mpsc::channel(messages_max + 1);
        let last_word = client.clone().try_reserve_owned();
        let last_word = last_word.map_err(|_| Refusal::Bug("a new channel is full"))?;
        let open = order.choices;
        let request = Request {
            id: id.clone(),
            order: Arc::new(order),
            began,
            deadline,
            retry: self.plan.retry,
            retry_budget: self.retry_budget.clone(),
            seed: self.random()?,
            world: self.world.clone(),
            roster: self.roster.clone(),
            admission: self.admission.clone(),
            who: Arc::new(who),
            metrics: self.metrics.clone(),
            closing: self.closing.clone(),
            drained: self.drained.clone(),
            client,
        };
        let flights = begin(request, &text, charges)?;
        self.retry_budget.deposit();
        let metrics = self.metrics.clone();
        let held = Held::new(metrics.flights.clone(), i64::from(open));
        tokio::spawn(async move {
            let _taken = (permit, held, entered);
            match follow(flights, deadline, &metrics).await {
                Ok(()) => metrics.answered(began.elapsed().as_secs_f64()),
                Err(refusal) => {
                    metrics.refused(refusal.reason());
                    last_word.send(Err(refusal.status()));
                }
            }
        });
        let mut response = Response::new(Answers { messages, open });
        let value = id.as_str().parse();
        let value = value.map_err(|_| Refusal::Bug("a request id is no header value"))?;
        response.metadata_mut().insert(HEADER, value);
        Ok(response)
    }

    fn random(&self) -> Result<u64, Refusal> {
        let number = self.world.random();
        number.map_err(|_| Refusal::Bug("the system gives no random numbers"))
    }

    fn permits(&self, count: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        let permits = Arc::clone(&self.flights).try_acquire_many_owned(count);
        permits.map_err(|_| Refusal::TooManyFlights {
            flights_max: self.flights_max,
        })
    }

    fn model(&self, name: &str) -> Result<(Served, Arc<Text>), Refusal> {
        let seen = self.roster.seen();
        let served = seen.snapshot.served(clipped(name))?;
        let text = seen.texts.get(&served.model.text_digest).map(Arc::clone);
        let text = text.ok_or(Refusal::Bug("a ready worker's text files are missing"))?;
        Ok((served, text))
    }
}

/// Starts a task per choice. Dropping the set ends all of them.
fn begin(
    request: Request,
    text: &Arc<Text>,
    charges: Vec<Charge>,
) -> Result<JoinSet<Result<(), FlightError>>, Refusal> {
    let order: &Order = &request.order;
    let answers: Result<Vec<Answer>, _> = (0..order.choices)
        .map(|choice| Answer::new(order, choice, request.id.clone(), Arc::clone(text)))
        .collect();
    let answers = answers.map_err(Invalid::from)?;
    let mut flights = JoinSet::new();
    for ((choice, answer), charge) in (0..).zip(answers).zip(charges) {
        let span = tracing::info_span!("request", request = %request.id, choice);
        let flight = drive(request.clone(), choice, answer, charge);
        flights.spawn(flight.instrument(span));
    }
    Ok(flights)
}

/// Waits for the end of all choices, or of the first one that has no whole answer.
async fn follow(
    mut flights: JoinSet<Result<(), FlightError>>,
    deadline: Instant,
    metrics: &CoordinatorMetrics,
) -> Result<(), Refusal> {
    let mut stuck = None;
    loop {
        tokio::select! {
            biased;
            ended = flights.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                // The panic itself is in the log of the process.
                Some(Err(_)) => return Err(Refusal::Bug("the answer's task panicked")),
            },
            () = sleep_until(deadline + STUCK_AFTER), if stuck.is_none() => {
                stuck = Some(Held::new(metrics.flights_stuck.clone(), 1));
            }
        }
    }
}

/// The ids of a prompt, on a thread that may block: a large text takes a while. The permit goes there
/// too, so that clients that leave at once cannot pile up work.
async fn ids(
    world: &World,
    text: Arc<Text>,
    form: PromptForm,
    permit: OwnedSemaphorePermit,
) -> Result<(Vec<u32>, OwnedSemaphorePermit), Refusal> {
    if let PromptForm::Ids(ids) = form {
        return Ok((ids, permit));
    }
    let today = date(SystemTime::now());
    let work = move || (text.ids(form, &today), permit);
    let (ids, permit) = world
        .blocking(work)
        .await
        .map_err(|_| Refusal::Bug("the tokenizer panicked"))?;
    Ok((ids.map_err(Invalid::from)?, permit))
}

fn model_message(served: &Served, seen: &Seen) -> v1::Model {
    let model = &served.model;
    let text = seen.texts.get(&model.text_digest);
    v1::Model {
        name: model.name.clone(),
        context_tokens: model.positions_max,
        vocabulary: model.vocabulary,
        chat: text.is_some_and(|text| text.has_template()),
        prefill_workers: served.prefill_workers,
        decode_workers: served.decode_workers,
        head_dim: model.head_dim,
        layers: model.layers,
        kv_heads: model.kv_heads,
        row_formats: served
            .row_formats
            .iter()
            .map(|format| format.to_string())
            .collect(),
    }
}

impl Stream for Answers {
    type Item = Result<GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.messages.poll_recv(context));
        Poll::Ready(match next {
            Some(Ok(message)) => {
                self.open -= u32::from(message.finish.is_some());
                Some(Ok(message))
            }
            Some(Err(status)) => {
                self.open = 0;
                Some(Err(status))
            }
            None if self.open > 0 => {
                self.open = 0;
                Some(Err(Refusal::Bug("the answer's task ended early").status()))
            }
            None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn an_answer_whose_task_dies_ends_with_an_error() {
        let (client, messages) = mpsc::channel(4);
        let mut answers = Answers { messages, open: 2 };
        let finished = GenerateResponse {
            finish: Some(v1::Finish::default()),
            ..GenerateResponse::default()
        };
        client.send(Ok(finished.clone())).await.unwrap();
        assert!(answers.next().await.unwrap().is_ok());
        drop(client);
        let status = answers.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(answers.next().await.is_none());

        let (client, messages) = mpsc::channel(4);
        let mut answers = Answers { messages, open: 1 };
        client.send(Ok(finished)).await.unwrap();
        drop(client);
        assert!(answers.next().await.unwrap().is_ok());
        assert!(answers.next().await.is_none());
    }
}
