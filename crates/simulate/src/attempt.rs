//! What a simulated worker is told of an attempt, checked as far as it matters here.

use std::time::Duration;

use lava::Method;
use lava_kv::{CacheShape, Header, RowFormat, Ticket};
use lava_proto::v1::FinishReason;
use lava_proto::worker as proto;
use lava_worker::Refusal;
use tokio::time::Instant;

use crate::model::Model;

#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) prompt_digest: [u8; 16],
    pub(crate) shape: CacheShape,
    /// Entries that prefill leaves at most.
    pub(crate) kept_max: usize,
    pub(crate) max_tokens: usize,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) deadline: Instant,
}

impl Attempt {
    /// # Errors
    /// A field is missing or out of range, or the attempt was meant for another model.
    pub(crate) fn check(message: proto::Attempt, model: &Model) -> Result<Self, Refusal> {
        if message.fingerprint != model.fingerprint[..] {
            return Err(Refusal::OtherModel {
                serves: model.profile.name.clone(),
            });
        }
        let (tokens, max_tokens) = (message.tokens as usize, message.max_tokens as usize);
        let positions = model.profile.positions_max;
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
        let format: RowFormat = message.row_format.parse().map_err(|error| Refusal::Field {
            field: "attempt.row_format",
            found: format!("{:?}", message.row_format),
            expected: format!("a known format ({error})"),
        })?;
        let prompt_digest = message.prompt_digest[..].try_into();
        let budget = message.budget as usize;
        Ok(Self {
            number: message.number,
            prompt_digest: prompt_digest.map_err(|_| Refusal::Field {
                field: "attempt.prompt_digest",
                found: format!("{} bytes", message.prompt_digest.len()),
                expected: "16 bytes".into(),
            })?,
            shape: model.cache_shape(tokens, &method, budget, format),
            kept_max: lava::rows_max(&method, model.shape(tokens), budget),
            max_tokens,
            stop_token_ids: message.stop_token_ids,
            deadline: Instant::now() + Duration::from_millis(message.deadline_ms),
        })
    }

    pub(crate) fn header(&self, ticket: Ticket, fingerprint: [u8; 16]) -> Header {
        Header {
            ticket,
            attempt: self.number,
            prompt_digest: self.prompt_digest,
            fingerprint,
            shape: self.shape,
        }
    }

    /// Entries at the last step.
    pub(crate) fn rows_grown_max(&self) -> usize {
        self.kept_max + self.shape.tables() * (self.max_tokens - 1)
    }

    pub(crate) fn pages_max(&self, page_bytes: usize) -> usize {
        self.shape
            .pages_max(page_bytes, self.kept_max, self.max_tokens - 1)
    }

    /// Whether the answer ends with `token`, the `made`-th of the attempt, from 1.
    pub(crate) fn finish(&self, token: u32, made: usize) -> Option<FinishReason> {
        if self.stop_token_ids.contains(&token) {
            return Some(FinishReason::StopToken);
        }
        (made >= self.max_tokens).then_some(FinishReason::MaxTokens)
    }

    /// Bytes of the rows that a real cache would have.
    pub(crate) fn cache_bytes(&self) -> usize {
        let rows = self.kept_max / self.shape.tables();
        self.shape
            .stored_bytes(std::iter::repeat_n(rows, self.shape.tables()))
    }

    /// Rows of each table that are sent, so that all of them have so many bytes at most; but no receiver takes a table without its
    /// window.
    pub(crate) fn rows_sent(&self, bytes_max: usize) -> usize {
        let of_table = self.kept_max / self.shape.tables();
        let entry = self.shape.tables() * self.shape.wide_entry_bytes();
        of_table.min(bytes_max / entry).max(self.shape.window_rows)
    }
}
