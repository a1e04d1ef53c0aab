//! What a worker is told of a request's attempt, checked.

use std::time::Duration;

use lava::{Method, Shape};
use lava_engine::SamplingParams;
use lava_kv::{CacheShape, Header, RowFormat, Ticket};
use lava_proto::worker as proto;
use tokio::time::Instant;

use crate::loaded::Loaded;
use crate::refusal::Refusal;

/// One attempt of a request, as both workers see it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The request's id in logs.
    pub request_id: String,
    /// Number of the attempt.
    pub number: u32,
    /// Hash of the prompt's ids.
    pub prompt_digest: [u8; 16],
    /// Which entries are kept.
    pub method: Method,
    /// b.
    pub budget: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Whether to report logprobs.
    pub logprobs: bool,
    /// Ids that end the answer as the model would.
    pub end_of_text: Vec<u32>,
    /// Ids that end the answer as the client wants.
    pub stop_token_ids: Vec<u32>,
    /// Tokens that may still be made, at least 1.
    pub max_tokens: usize,
    /// When everything that the attempt holds is freed.
    pub deadline: Instant,
    /// Tokens of the answer that earlier attempts made.
    pub answered: Vec<u32>,
    /// Shape of its cache.
    pub shape: CacheShape,
}

impl Attempt {
    /// Checks a message against the model.
    ///
    /// # Errors
    /// A field is missing or out of range, or the attempt was meant for another model.
    pub fn check(message: proto::Attempt, loaded: &Loaded) -> Result<Self, Refusal> {
        let fingerprint = sixteen("attempt.fingerprint", &message.fingerprint)?;
        if fingerprint != loaded.fingerprint {
            return Err(Refusal::OtherModel {
                serves: loaded.name.clone(),
            });
        }
        let (tokens, max_tokens) = (message.tokens as usize, message.max_tokens as usize);
        let config = loaded.model.config();
        let positions = config.positions_max();
        if tokens == 0 || max_tokens == 0 || tokens + max_tokens > positions {
            return Err(Refusal::Field {
                field: "attempt.tokens and attempt.max_tokens",
                found: format!("{tokens} and {max_tokens}"),
                expected: format!("both at least 1, together at most {positions}"),
            });
        }
        let method: Method = message.policy.parse().map_err(|error| Refusal::Field {
            field: "attempt.policy",
            found: format!("{:?}", message.policy),
            expected: format!("a known method ({error})"),
        })?;
        let format = format(&message.row_format, loaded)?;
        let sampling = sampling(&message.sampling.unwrap_or_default(), message.logprobs);
        sampling.check()?;
        let budget = message.budget as usize;
        Ok(Self {
            request_id: message.request_id,
            number: message.number,
            prompt_digest: sixteen("attempt.prompt_digest", &message.prompt_digest)?,
            budget,
            sampling,
            logprobs: message.logprobs.is_some(),
            end_of_text: message.end_of_text,
            stop_token_ids: message.stop_token_ids,
            max_tokens,
            deadline: Instant::now() + Duration::from_millis(message.deadline_ms),
            answered: message.answered,
            shape: config.cache_shape(tokens, &method, budget, format),
            method,
        })
    }

    /// The header of its transfer.
    pub fn header(&self, ticket: Ticket, fingerprint: [u8; 16]) -> Header {
        Header {
            ticket,
            attempt: self.number,
            prompt_digest: self.prompt_digest,
            fingerprint,
            shape: self.shape,
        }
    }

    /// Rows that its cache has at most at its last step: those shipped, and one per table for every
    /// token but the last.
    pub fn rows_grown_max(&self) -> usize {
        let appended = self.shape.tables() * (self.max_tokens - 1);
        self.rows_max().saturating_add(appended)
    }

    /// Pages of so many bytes that its cache needs at most at its last step.
    pub fn pages_max(&self, page_bytes: usize) -> usize {
        let appended = self.max_tokens - 1;
        self.shape.pages_max(page_bytes, self.rows_max(), appended)
    }

    /// Rows that its compact cache has at most when it is shipped.
    pub fn rows_max(&self) -> usize {
        let shape = Shape {
            layers: self.shape.layers,
            kv_heads: self.shape.kv_heads,
            tokens: self.shape.tokens,
        };
        lava::rows_max(&self.method, shape, self.budget)
    }
}

fn format(text: &str, loaded: &Loaded) -> Result<RowFormat, Refusal> {
    let known = text.parse::<RowFormat>().ok();
    known
        .filter(|format| loaded.row_formats.contains(format))
        .ok_or_else(|| {
            let serves: Vec<_> = loaded
                .row_formats
                .iter()
                .map(|format| format.name())
                .collect();
            Refusal::Field {
                field: "attempt.row_format",
                found: format!("{text:?}"),
                expected: format!("one of {}", serves.join(", ")),
            }
        })
}

/// Sixteen bytes of a field.
pub(crate) fn sixteen(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], Refusal> {
    <[u8; 16]>::try_from(bytes).map_err(|_| Refusal::Field {
        field,
        found: format!("{} bytes", bytes.len()),
        expected: "16 bytes".into(),
    })
}

impl Attempt {
    /// A ticket from a message's bytes.
    ///
    /// # Errors
    /// They are not sixteen.
    pub fn ticket(bytes: &[u8]) -> Result<Ticket, Refusal> {
        sixteen("ticket", bytes).map(Ticket)
    }
}

fn sampling(message: &lava_proto::v1::Sampling, logprobs: Option<u32>) -> SamplingParams {
    let default = SamplingParams::default();
    SamplingParams {
        temperature: message.temperature.unwrap_or(default.temperature),
        top_k: message.top_k.map(|k| k as usize),
        top_p: message.top_p.unwrap_or(default.top_p),
        min_p: message.min_p.unwrap_or(default.min_p),
        repetition_penalty: message
            .repetition_penalty
            .unwrap_or(default.repetition_penalty),
        frequency_penalty: message
            .frequency_penalty
            .unwrap_or(default.frequency_penalty),
        presence_penalty: message.presence_penalty.unwrap_or(default.presence_penalty),
        seed: message.seed.unwrap_or(default.seed),
        top_logprobs: logprobs.unwrap_or(0) as usize,
    }
}
