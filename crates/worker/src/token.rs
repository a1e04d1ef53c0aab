//! Tokens on their way out.

use lava_engine::Sampled;
use lava_proto::v1::{FinishReason, Token, TopLogprob};

use crate::attempt::Attempt;

/// A token as messages have it; its logprob only if it was asked for.
pub fn sampled_to_wire(sampled: &Sampled, attempt: &Attempt) -> Token {
    let top = sampled.top.iter();
    Token {
        id: sampled.token,
        logprob: attempt.logprobs.then_some(sampled.logprob),
        top: top
            .map(|&(id, logprob)| TopLogprob { id, logprob })
            .collect(),
    }
}

/// Whether the answer ends with `token`, which is the `made`-th of this attempt, from 1.
pub fn finish_after(attempt: &Attempt, token: u32, made: usize) -> Option<FinishReason> {
    if attempt.end_of_text.contains(&token) {
        return Some(FinishReason::EndOfText);
    }
    if attempt.stop_token_ids.contains(&token) {
        return Some(FinishReason::StopToken);
    }
    (made >= attempt.max_tokens).then_some(FinishReason::MaxTokens)
}
