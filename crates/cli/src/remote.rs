//! `lava generate --addr`: one prompt, one answer, from a coordinator.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lava::Budget;
use lava_proto::v1;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::inference_client::InferenceClient;
use serde_json::json;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::generate::prompt_text;
use crate::options::Generate;
use crate::process::block_on;
use crate::report::{budget, bytes, per_second};

/// Time to reach a coordinator.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where another one may be asked.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(2);
/// Time between two pings, and for their answer. A coordinator that is frozen, or behind a broken network, is lost after both.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Times that each of several coordinators is asked, and the pause before the next one is.
const ROUNDS_MAX: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// Metadata key that says on whose behalf a request is.
const TENANT: &str = "x-lava-tenant";

pub(crate) fn run(options: &Generate, addresses: &[String]) -> Result<()> {
    let request = request(options)?;
    let tenant = options.tenant.as_ref().map(|name| {
        let value = name.parse::<AsciiMetadataValue>();
        value.with_context(|| format!("--tenant {name:?} is no name"))
    });
    let tenant = tenant.transpose()?;
    block_on(async {
        let began = Instant::now();
        let asks_max = match addresses.len() {
            1 => 1,
            several => ROUNDS_MAX * several,
        };
        let mut lost: Vec<Lost> = Vec::new();
        for address in addresses.iter().cycle() {
            let mut answer = Answer::new(began);
            let several = addresses.len() > 1;
            let mut call = Request::new(request.clone());
            if let Some(tenant) = &tenant {
                call.metadata_mut().insert(TENANT, tenant.clone());
            }
            let asked = answer.ask(address, several, call, options.json).await;
            let error = match asked {
                Ok(()) if options.json => return answer.print_json(options, &lost),
                Ok(()) => return answer.print_table(options),
                Err(error) => error,
            };
            let is_shown = !options.json && !answer.text.is_empty();
            let reason = match error {
                AskError::Lost(reason) if !is_shown && lost.len() + 1 < asks_max => reason,
                AskError::Lost(reason) | AskError::Refused(reason) => return Err(reason),
            };
            lost.push(Lost {
                address: address.clone(),
                reason: format!("{reason:#}"),
                tokens: answer.tokens.len(),
                last: answer.last,
            });
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("a cycle ends only where it is empty, and there is an address")
    })
}

/// A coordinator that began and did not end.
struct Lost {
    address: String,
    reason: String,
    /// Those that had come.
    tokens: usize,
    /// When the last of them came.
    last: Duration,
}

/// Why a coordinator gave no whole answer.
enum AskError {
    /// It, or the way to it, is gone; another one may do.
    Lost(anyhow::Error),
    /// It would be the same everywhere.
    Refused(anyhow::Error),
}

impl From<tonic::Status> for AskError {
    fn from(status: tonic::Status) -> Self {
        // tonic keeps what broke as the source; a status that the coordinator sent has none.
        let is_lost = status.code() == Code::Unavailable || status.source().is_some();
        let reason = anyhow!("{} ({:?})", status.message(), status.code());
        match is_lost {
            true => Self::Lost(reason),
            false => Self::Refused(reason),
        }
    }
}

/// Connects, and waits for it.
async fn connect(address: &str, several: bool) -> Result<Channel, AskError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not an address, expected host:port"))
        .map_err(AskError::Refused)?;
    let endpoint = endpoint
        .connect_timeout(match several {
            true => CONNECT_TIMEOUT_OF_SEVERAL,
            false => CONNECT_TIMEOUT,
        })
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await;
    channel
        .with_context(|| format!("cannot reach a coordinator at {address}"))
        .map_err(AskError::Lost)
}

/// The model that is meant when none is named.
async fn only_model(client: &mut InferenceClient<Channel>) -> Result<String, AskError> {
    let listed = client.list_models(v1::ListModelsRequest {}).await?;
    let mut models = listed.into_inner().models;
    match models.len() {
        // One that has just begun has not heard of its workers yet.
        0 => Err(AskError::Lost(anyhow!(
            "the coordinator has no model that is ready"
        ))),
        1 => Ok(models.remove(0).name),
        _ => {
            let names: Vec<_> = models.into_iter().map(|model| model.name).collect();
            Err(AskError::Refused(anyhow!(
                "the coordinator has several models; give --model with one of {}",
                names.join(", ")
            )))
        }
    }
}

fn request(options: &Generate) -> Result<v1::GenerateRequest> {
    let prompt = prompt_text(options)?;
    let message = |role: &str, content: String| v1::ChatMessage {
        role: role.into(),
        content,
    };
    let form = match options.raw {
        true => v1::prompt::Form::Text(prompt),
        false => {
            let system = options.system.clone().map(|text| message("system", text));
            let messages = system.into_iter().chain([message("user", prompt)]);
            v1::prompt::Form::Chat(v1::Chat {
                messages: messages.collect(),
            })
        }
    };
    let params = options.sampling.params();
    Ok(v1::GenerateRequest {
        model: options.model.clone().unwrap_or_default(),
        prompt: Some(v1::Prompt { form: Some(form) }),
        max_tokens: Some(options.max_tokens),
        sampling: Some(v1::Sampling {
            temperature: Some(params.temperature),
            top_k: params.top_k.map(|k| k as u32),
            top_p: Some(params.top_p),
            min_p: Some(params.min_p),
            repetition_penalty: Some(params.repetition_penalty),
            frequency_penalty: Some(params.frequency_penalty),
            presence_penalty: Some(params.presence_penalty),
            seed: Some(params.seed),
        }),
        stop: options.stop.clone(),
        priority: v1::Priority::from(options.priority).into(),
        policy: options.policy.to_string(),
        row_format: options.row_format.to_string(),
        budget_form: Some(match options.budget {
            Budget::Entries(entries) => BudgetForm::Budget(entries),
            Budget::Share { milli } => BudgetForm::BudgetShareMilli(milli),
            Budget::Bytes(bytes) => BudgetForm::BudgetBytes(bytes),
        }),
        logprobs: options.json.then_some(params.top_logprobs as u32),
        ..Default::default()
    })
}

/// What came, and when.
struct Answer {
    /// All times count from here.
    began: Instant,
    /// When this coordinator was asked.
    asked: Duration,
    first: Option<Duration>,
    last: Duration,
    request_id: String,
    text: String,
    /// Each with the time when it came.
    tokens: Vec<(v1::Token, Duration)>,
    finish: Option<v1::Finish>,
}

impl Answer {
    fn new(began: Instant) -> Self {
        Self {
            began,
            asked: Duration::ZERO,
            first: None,
            last: Duration::ZERO,
            request_id: String::new(),
            text: String::new(),
            tokens: Vec::new(),
            finish: None,
        }
    }

    /// Asks one coordinator, and shows text as it comes unless it is asked to be `silent`.
    async fn ask(
        &mut self,
        address: &str,
        several: bool,
        mut request: Request<v1::GenerateRequest>,
        silent: bool,
    ) -> Result<(), AskError> {
        let mut client = InferenceClient::new(connect(address, several).await?);
        if request.get_ref().model.is_empty() {
            request.get_mut().model = only_model(&mut client).await?;
        }
        self.asked = self.began.elapsed();
        let mut stream = client.generate(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if !silent {
                print!("{}", message.text);
                let flushed = std::io::stdout().flush();
                flushed.map_err(|error| AskError::Refused(error.into()))?;
            }
            self.push(message);
        }
        match self.finish {
            Some(_) => Ok(()),
            None => Err(AskError::Lost(anyhow!(
                "the answer ended without its last message"
            ))),
        }
    }

    fn push(&mut self, message: v1::GenerateResponse) {
        if !message.tokens.is_empty() {
            self.last = self.began.elapsed();
            self.first.get_or_insert(self.last);
        }
        self.request_id = message.request_id;
        self.text.push_str(&message.text);
        let came = self.last;
        let tokens = message.tokens.into_iter();
        self.tokens.extend(tokens.map(|token| (token, came)));
        self.finish = message.finish.or(self.finish.take());
    }

    /// Time from the request to its first token.
    fn first_token(&self) -> Duration {
        self.first
            .map_or(Duration::ZERO, |first| first - self.asked)
    }

    /// Tokens after the first, by the time they took.
    fn decode_rate(&self) -> f64 {
        let first = self.first.unwrap_or_default();
        per_second(self.tokens.len().saturating_sub(1), self.last - first)
    }

    fn finish(&self) -> Result<&v1::Finish> {
        match &self.finish {
            Some(finish) => Ok(finish),
            None => bail!("the answer ended without its last message"),
        }
    }

    fn print_table(&self, options: &Generate) -> Result<()> {
        let finish = self.finish()?;
        let usage = finish.usage.unwrap_or_default();
        let t = finish.transfer.unwrap_or_default();
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        println!("\n");
        println!("request         {}", self.request_id);
        println!(
            "policy          {}, rows in {}, budget {}",
            options.policy,
            finish.row_format,
            budget(options.budget, finish.budget as usize)
        );
        println!("prompt          {} tokens", usage.prompt_tokens);
        println!(
            "answer          {} tokens ({})",
            usage.answer_tokens,
            reason(finish.reason())
        );
        println!("full cache      {}", bytes(t.full_bytes as usize));
        println!(
            "shipped         {}: {:.1} % of the full cache ({} rows, {:.2} % on top of their bytes)",
            bytes(t.shipped_bytes as usize),
            share(t.shipped_bytes, t.full_bytes),
            t.rows_kept,
            share(t.shipped_bytes, t.row_bytes) - 100.0,
        );
        println!(
            "shipped early   {:.1} % before the last layer began ({:.1} % could be)",
            100.0 * t.early_share,
            100.0 * t.early_share_bound
        );
        println!(
            "first token     {:.0} ms (queue {:.0}, prefill {:.0}, of it scoring {:.0}, packing {:.0})",
            millis(self.first_token()),
            t.queue_ms,
            t.prefill_ms,
            t.scoring_ms,
            t.packing_ms
        );
        println!(
            "hand-off        {:.1} ms from the last layer's end to the first decode step",
            t.receipt_ms + t.first_step_wait_ms
        );
        println!("decode          {:.1} tokens/s", self.decode_rate());
        if t.reused_tokens > 0 {
            println!(
                "reused          {} prompt tokens, which an earlier prompt began with",
                t.reused_tokens
            );
        }
        println!("recomputes      {}", t.recomputes);
        Ok(())
    }

    fn print_json(&self, options: &Generate, lost: &[Lost]) -> Result<()> {
        let finish = self.finish()?;
        let usage = finish.usage.unwrap_or_default();
        let t = finish.transfer.unwrap_or_default();
        let tokens: Vec<_> = self
            .tokens
            .iter()
            .map(|(token, came)| {
                let top: Vec<_> = token.top.iter().map(|t| (t.id, t.logprob)).collect();
                json!({"id": token.id, "logprob": token.logprob, "top": top, "ms": millis(*came)})
            })
            .collect();
        let lost: Vec<_> = lost
            .iter()
            .map(|lost| {
                json!({
                    "addr": lost.address,
                    "reason": lost.reason,
                    "tokens": lost.tokens,
                    "last_token_ms": millis(lost.last),
                })
            })
            .collect();
        let document = json!({
            "request_id": self.request_id,
            "policy": options.policy.to_string(),
            "row_format": finish.row_format,
            "budget": finish.budget,
            "budget_asked": options.budget.to_string(),
            "prompt_tokens": usage.prompt_tokens,
            "text": self.text,
            "tokens": tokens,
            "finish_reason": reason(finish.reason()),
            "full_cache_bytes": t.full_bytes,
            "shipped_bytes": t.shipped_bytes,
            "kept_bytes": t.stored_bytes,
            "element_bytes": t.row_bytes,
            "rows_kept": t.rows_kept,
            "early_share": t.early_share,
            "early_share_bound": t.early_share_bound,
            "first_token_ms": millis(self.first_token()),
            "queue_ms": t.queue_ms,
            "prefill_ms": t.prefill_ms,
            "scoring_ms": t.scoring_ms,
            "packing_ms": t.packing_ms,
            "reused_tokens": t.reused_tokens,
            "transfer_ms": t.transfer_ms,
            "receipt_ms": t.receipt_ms,
            "first_step_wait_ms": t.first_step_wait_ms,
            "first_step_ms": t.first_step_ms,
            "decode_tokens_per_second": self.decode_rate(),
            "recomputes": t.recomputes,
            "lost": lost,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
        Ok(())
    }
}

fn reason(reason: v1::FinishReason) -> &'static str {
    match reason {
        v1::FinishReason::Unspecified => "unspecified",
        v1::FinishReason::EndOfText => "end of text",
        v1::FinishReason::StopString => "stop string",
        v1::FinishReason::StopToken => "stop token",
        v1::FinishReason::MaxTokens => "max tokens",
        v1::FinishReason::Context => "context full",
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
