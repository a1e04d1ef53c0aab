//! A model behind a coordinator: one request per question and variant.

use std::time::{Duration, Instant};

use lava::Budget;
use lava_proto::v1;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::inference_client::InferenceClient;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::cut::{QuestionTooLong, cut_to};
use crate::question::{Body, Question};
use crate::results::Record;
use crate::{Prompt, Sample, Variant};

/// Time to reach a coordinator.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A busy server is asked again so often, after this pause.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

/// The largest prompt that is sent; the server has its own bound.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One model of a coordinator.
#[derive(Debug)]
pub struct Served {
    runtime: Runtime,
    client: InferenceClient<Channel>,
    model: v1::Model,
    concurrency: usize,
}

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The system gives no threads or sockets.
    #[error("cannot start")]
    System(#[from] std::io::Error),
    /// Nobody answers there, or it is no address.
    #[error("cannot reach a coordinator at {address}, expected host:port")]
    Connect {
        /// As it was given.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// None is named, and there is not exactly one.
    #[error(
        "the coordinator has {}; name one of them with --model",
        if models.is_empty() { "no model that is ready".to_owned() } else { models.join(", ") }
    )]
    WhichModel {
        /// Their names.
        models: Vec<String>,
    },
    /// The server refused, or failed.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(#[from] Box<Status>),
    /// The stream ended too early.
    #[error("the answer ended without its last message")]
    Unfinished,
    /// Likelihoods need the model.
    #[error("lm compares likelihoods, which a server does not give: run it without --addr")]
    NeedsModel,
    /// The question alone does not fit.
    #[error(transparent)]
    TooLong(#[from] QuestionTooLong),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Refused(Box::new(status))
    }
}

impl Served {
    /// Connects to the coordinator at `address` (host:port) and picks a model by name, or the only
    /// one. At most `concurrency` requests are in flight.
    ///
    /// # Errors
    /// Nobody answers, or the model is not there.
    pub fn connect(address: &str, model: Option<&str>, concurrency: usize) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (client, model) = runtime.block_on(async {
            let mut client = connect(address, None).await?;
            let model = pick(&mut client, model).await?;
            Ok::<_, Error>((client, model))
        })?;
        Ok(Self {
            runtime,
            client,
            model,
            concurrency,
        })
    }

    /// Name of the model.
    pub fn model(&self) -> &str {
        &self.model.name
    }

    /// Most tokens of a prompt and its answer together.
    pub fn context(&self) -> usize {
        self.model.context_tokens as usize
    }

    /// Ids of a plain text.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenize(v1::prompt::Form::Text(text.to_owned()))
    }

    /// Tokens that a chat template adds to a question.
    ///
    /// # Errors
    /// The server fails.
    pub fn overhead(&self) -> Result<usize, Error> {
        let prompt = Prompt {
            question: "x".to_owned(),
            ..Prompt::default()
        };
        Ok(self.tokenize(self.form(&prompt, true))?.len())
    }

    /// What each variant makes of a question, in their order.
    ///
    /// # Errors
    /// The question needs likelihoods or does not fit, or the server refuses or fails.
    pub fn answer(&self, question: &Question, variants: &[Variant]) -> Result<Vec<Record>, Error> {
        let Body::Sample { sample, chat } = &question.body else {
            return Err(Error::NeedsModel);
        };
        let max = self.context().saturating_sub(sample.max_tokens + 1);
        let encode = |prompt: &Prompt| self.tokenize(self.form(prompt, *chat));
        let fitting = cut_to(&sample.prompt, max, &encode)??;
        let form = self.form(&fitting.prompt, *chat);
        let request = |variant: &Variant| v1::GenerateRequest {
            model: self.model.name.clone(),
            prompt: Some(v1::Prompt {
                form: Some(form.clone()),
            }),
            max_tokens: Some(sample.max_tokens as u32),
            policy: variant.method.to_string(),
            budget_form: variant.budget.map(budget_form),
            row_format: variant.format.to_string(),
            ..Default::default()
        };
        let requests: Vec<_> = variants.iter().map(request).collect();
        let answers = self.runtime.block_on(self.ask_all(requests))?;
        let records = variants.iter().zip(answers).map(|(variant, answer)| {
            let key = variant.key(&question.task, &question.id);
            record(key, sample, answer)
        });
        Ok(records.collect())
    }

    /// In the order of the requests.
    async fn ask_all(&self, requests: Vec<v1::GenerateRequest>) -> Result<Vec<Answer>, Error> {
        let mut waiting = requests.into_iter().enumerate();
        let mut answers: Vec<(usize, Answer)> = Vec::new();
        let mut running: JoinSet<Result<_, Error>> = JoinSet::new();
        loop {
            while running.len() < self.concurrency
                && let Some((index, request)) = waiting.next()
            {
                let client = self.client.clone();
                running.spawn(async move { Ok((index, ask(client, request).await?)) });
            }
            match running.join_next().await {
                None => break,
                Some(Ok(answer)) => answers.push(answer?),
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
        answers.sort_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    fn form(&self, prompt: &Prompt, chat: bool) -> v1::prompt::Form {
        let content = prompt.joined();
        match chat && self.model.chat {
            false => v1::prompt::Form::Text(content),
            true => v1::prompt::Form::Chat(v1::Chat {
                messages: vec![v1::ChatMessage {
                    role: "user".to_owned(),
                    content,
                }],
            }),
        }
    }

    fn tokenize(&self, form: v1::prompt::Form) -> Result<Vec<u32>, Error> {
        let request = v1::TokenizeRequest {
            model: self.model.name.clone(),
            prompt: Some(v1::Prompt { form: Some(form) }),
        };
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.tokenize(request))?;
        Ok(answer.into_inner().ids)
    }
}

/// A connection to the coordinator at `address` (host:port), with a window of its own for the bytes of an answer
/// that are on their way.
pub(crate) async fn connect(
    address: &str,
    window_bytes: Option<u32>,
) -> Result<InferenceClient<Channel>, Error> {
    let unreachable = |source| Error::Connect {
        address: address.to_owned(),
        source,
    };
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(unreachable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(window_bytes)
        .connect()
        .await
        .map_err(unreachable)?;
    Ok(InferenceClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX))
}

pub(crate) fn budget_form(budget: Budget) -> BudgetForm {
    match budget {
        Budget::Entries(entries) => BudgetForm::Budget(entries),
        Budget::Share { milli } => BudgetForm::BudgetShareMilli(milli),
        Budget::Bytes(bytes) => BudgetForm::BudgetBytes(bytes),
    }
}

/// The model of this name, or the only one.
pub(crate) async fn pick(
    client: &mut InferenceClient<Channel>,
    name: Option<&str>,
) -> Result<v1::Model, Error> {
    if let Some(name) = name {
        let model = name.to_owned();
        let found = client.get_model(v1::GetModelRequest { model }).await?;
        return Ok(found.into_inner());
    }
    let listed = client.list_models(v1::ListModelsRequest {}).await?;
    let mut models = listed.into_inner().models;
    match models.len() {
        1 => Ok(models.remove(0)),
        _ => Err(Error::WhichModel {
            models: models.into_iter().map(|model| model.name).collect(),
        }),
    }
}

/// An answer as it came.
struct Answer {
    text: String,
    finish: v1::Finish,
    took: Duration,
}

async fn ask(
    client: InferenceClient<Channel>,
    request: v1::GenerateRequest,
) -> Result<Answer, Error> {
    let mut attempt = 1;
    loop {
        match ask_once(client.clone(), request.clone()).await {
            Err(Error::Refused(status)) if is_busy(&status) && attempt < ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

fn is_busy(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::Unavailable)
}

async fn ask_once(
    mut client: InferenceClient<Channel>,
    request: v1::GenerateRequest,
) -> Result<Answer, Error> {
    let began = Instant::now();
    let mut stream = client.generate(request).await?.into_inner();
    let mut text = String::new();
    while let Some(message) = stream.message().await? {
        text.push_str(&message.text);
        if let Some(finish) = message.finish {
            let took = began.elapsed();
            return Ok(Answer { text, finish, took });
        }
    }
    Err(Error::Unfinished)
}

fn record(key: crate::results::Key, sample: &Sample, answer: Answer) -> Record {
    let usage = answer.finish.usage.unwrap_or_default();
    let transfer = answer.finish.transfer.unwrap_or_default();
    Record {
        task: key.task,
        sample: key.sample,
        policy: key.policy,
        budget: key.budget,
        cache_bytes: transfer.stored_bytes,
        prompt_tokens: u64::from(usage.prompt_tokens),
        output_tokens: u64::from(usage.answer_tokens),
        length: Some(sample.length as u64),
        depth: sample.depth,
        score: Some(sample.score(&answer.text)),
        seconds: Some(answer.took.as_secs_f64()),
        output: Some(answer.text),
        ..Record::default()
    }
}
