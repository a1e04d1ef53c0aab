//! `lava generate --addr`: one prompt, one answer, from a coordinator.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lava::Budget;
use lava_proto::v1;
use lava_proto::v1::generate_request::BudgetForm;
use lava_proto::v1::inference_client::InferenceClient;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use crate::generate::prompt_text;
use crate::options::Generate;
use crate::process::block_on;
use crate::report::{budget, bytes, per_second};

/// Time to reach a coordinator.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(options: &Generate, address: &str) -> Result<()> {
    let mut request = request(options)?;
    block_on(async {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address:?} is not an address, expected host:port"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("cannot reach a coordinator at {address}"))?;
        let mut client = InferenceClient::new(channel);
        if request.model.is_empty() {
            request.model = only_model(&mut client).await?;
        }
        let began = Instant::now();
        let mut stream = client
            .generate(request)
            .await
            .map_err(refused)?
            .into_inner();
        let mut answer = Answer::new(began);
        while let Some(message) = stream.message().await.map_err(refused)? {
            if !options.json {
                print!("{}", message.text);
                std::io::stdout().flush()?;
            }
            answer.push(message);
        }
        match options.json {
            true => answer.print_json(options),
            false => answer.print_table(options),
        }
    })
}

/// The model that is meant when none is named.
async fn only_model(client: &mut InferenceClient<Channel>) -> Result<String> {
    let listed = client.list_models(v1::ListModelsRequest {}).await;
    let mut models = listed.map_err(refused)?.into_inner().models;
    match models.len() {
        0 => bail!("the coordinator has no model that is ready"),
        1 => Ok(models.remove(0).name),
        _ => {
            let names: Vec<_> = models.into_iter().map(|model| model.name).collect();
            bail!(
                "the coordinator has several models; give --model with one of {}",
                names.join(", ")
            )
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

fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
}

/// What came, and when.
struct Answer {
    began: Instant,
    first: Option<Duration>,
    last: Duration,
    request_id: String,
    text: String,
    tokens: Vec<v1::Token>,
    finish: Option<v1::Finish>,
}

impl Answer {
    fn new(began: Instant) -> Self {
        Self {
            began,
            first: None,
            last: Duration::ZERO,
            request_id: String::new(),
            text: String::new(),
            tokens: Vec::new(),
            finish: None,
        }
    }

    fn push(&mut self, message: v1::GenerateResponse) {
        if !message.tokens.is_empty() {
            self.last = self.began.elapsed();
            self.first.get_or_insert(self.last);
        }
        self.request_id = message.request_id;
        self.text.push_str(&message.text);
        self.tokens.extend(message.tokens);
        self.finish = message.finish.or(self.finish.take());
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
            millis(self.first.unwrap_or_default()),
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

    fn print_json(&self, options: &Generate) -> Result<()> {
        let finish = self.finish()?;
        let usage = finish.usage.unwrap_or_default();
        let t = finish.transfer.unwrap_or_default();
        let tokens: Vec<_> = self
            .tokens
            .iter()
            .map(|token| {
                let top: Vec<_> = token.top.iter().map(|t| (t.id, t.logprob)).collect();
                json!({"id": token.id, "logprob": token.logprob, "top": top})
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
            "first_token_ms": millis(self.first.unwrap_or_default()),
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
