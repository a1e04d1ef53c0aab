//! One choice's tokens as messages to the client: text as far as it is whole and no stop string can
//! begin in it, logprobs if they were asked for, and the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use lava_kv::RowFormat;
use lava_proto::v1::{Finish, FinishReason, GenerateResponse, Token, Usage};
use lava_text::{Checked, Detokenizer, StopStrings, TextError};

use crate::convert::Order;
use crate::flight::Answered;
use crate::request_id::RequestId;
use crate::texts::Text;

/// The answer of one choice, as far as it has come.
#[derive(Debug)]
pub(crate) struct Answer {
    request_id: RequestId,
    choice: u32,
    text: Arc<Text>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Ids that end the answer; they have no text.
    silent: BTreeSet<u32>,
    wants_logprobs: bool,
    prompt_tokens: u32,
    /// `b`.
    budget: u32,
    format: RowFormat,
    answer_tokens: u32,
    /// The stop string that was met. Nothing is added after it.
    stopped_by: Option<String>,
}

impl Answer {
    /// An answer without tokens.
    ///
    /// # Errors
    /// The stop strings are not such as the matcher takes; the configuration's limits are at most its
    /// own, so that the order's are.
    pub(crate) fn new(
        order: &Order,
        choice: u32,
        request_id: RequestId,
        text: Arc<Text>,
    ) -> Result<Answer, TextError> {
        let silent = order.end_of_text.iter().chain(order.stop_token_ids.iter());
        Ok(Answer {
            request_id,
            choice,
            text,
            detokenizer: Detokenizer::new(),
            stops: StopStrings::new(order.stop.clone())?,
            silent: silent.copied().collect(),
            wants_logprobs: order.logprobs.is_some(),
            prompt_tokens: order.size.tokens,
            budget: order.size.budget,
            format: order.size.format,
            answer_tokens: 0,
            stopped_by: None,
        })
    }

    /// Adds tokens, up to the one that completes a stop string.
    pub(crate) fn push(&mut self, tokens: Vec<Token>) -> GenerateResponse {
        let mut message = self.message();
        for token in tokens {
            if self.is_stopped() {
                break;
            }
            self.answer_tokens += 1;
            if !self.silent.contains(&token.id) {
                let piece = self.detokenizer.push(&self.text.tokenizer, token.id);
                self.add(&piece, &mut message);
            }
            message.tokens.push(match self.wants_logprobs {
                true => token,
                false => Token {
                    id: token.id,
                    ..Token::default()
                },
            });
        }
        message
    }

    /// Whether a stop string was met.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// The last message: what was held back, and why and how the answer ended.
    pub(crate) fn finish(&mut self, answered: Answered) -> GenerateResponse {
        let mut message = self.message();
        if !self.is_stopped() {
            let piece = self.detokenizer.finish();
            self.add(&piece, &mut message);
        }
        if !self.is_stopped() {
            message.text += &self.stops.finish();
        }
        let reason = match self.is_stopped() {
            true => FinishReason::StopString,
            false => answered.reason,
        };
        message.finish = Some(Finish {
            reason: reason.into(),
            stop: self.stopped_by.take().unwrap_or_default(),
            usage: Some(Usage {
                prompt_tokens: self.prompt_tokens,
                answer_tokens: self.answer_tokens,
            }),
            transfer: Some(answered.stats),
            budget: self.budget,
            row_format: self.format.to_string(),
        });
        message
    }

    fn add(&mut self, piece: &str, message: &mut GenerateResponse) {
        let Checked { text, stopped_by } = self.stops.push(piece);
        message.text += &text;
        self.stopped_by = stopped_by;
    }

    fn message(&self) -> GenerateResponse {
        GenerateResponse {
            request_id: self.request_id.as_str().to_owned(),
            choice: self.choice,
            ..GenerateResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use lava::{Method, Policy, Profile};
    use lava_proto::v1::{Sampling, TopLogprob, TransferStats};
    use tonic::metadata::MetadataMap;

    use super::*;
    use crate::admission::Priority;
    use crate::placement::CacheSize;
    use crate::snapshot::samples;
    use crate::texts::samples::{byte_id, text};

    fn order(stop: &[&str], logprobs: Option<u32>) -> Order {
        Order {
            model: Arc::new(samples::model("toy", 1)),
            prompt: [5, 6].into(),
            size: CacheSize {
                method: Method::new(Policy::Lava(Profile::Exact)),
                budget: 64,
                format: RowFormat::F16,
                tokens: 2,
                max_tokens: 100,
            },
            capped: false,
            sampling: Sampling::default(),
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            stop_token_ids: [byte_id(b'!')].into(),
            end_of_text: [2].into(),
            choices: 1,
            priority: Priority::Normal,
            logprobs,
        }
    }

    fn answer(stop: &[&str], logprobs: Option<u32>) -> Answer {
        let id = RequestId::of(&MetadataMap::new(), 1);
        Answer::new(&order(stop, logprobs), 3, id, Arc::new(text())).unwrap()
    }

    fn bytes(bytes: &[u8]) -> Vec<Token> {
        let token = |byte: &u8| Token {
            id: byte_id(*byte),
            logprob: Some(-0.5),
            top: vec![TopLogprob::default()],
        };
        bytes.iter().map(token).collect()
    }

    fn end(mut answer: Answer, reason: FinishReason) -> (String, Finish) {
        let stats = TransferStats::default();
        let message = answer.finish(Answered { reason, stats });
        assert!(message.tokens.is_empty());
        (message.text, message.finish.unwrap())
    }

    #[test]
    fn a_character_over_several_tokens_comes_once_it_is_whole() {
        let mut answer = answer(&[], None);
        let euro = "€".as_bytes();
        let first = answer.push(bytes(&euro[..2]));
        assert_eq!((first.text.as_str(), first.tokens.len()), ("", 2));
        assert_eq!((first.choice, first.request_id.len()), (3, 16));
        assert_eq!(answer.push(bytes(&euro[2..])).text, "€");
        answer.push(bytes(&euro[..1]));
        let (text, finish) = end(answer, FinishReason::MaxTokens);
        assert_eq!(text, "\u{FFFD}");
        let usage = finish.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.answer_tokens), (2, 4));
        assert_eq!((finish.budget, finish.row_format.as_str()), (64, "f16"));
    }

    #[test]
    fn a_stop_string_across_tokens_ends_the_answer_and_nothing_after_it_is_sent() {
        let mut answer = answer(&["END"], None);
        assert_eq!(answer.push(bytes(b"aE")).text, "a");
        let last = answer.push(bytes(b"NDxyz"));
        // The tokens of the stop string are counted and sent, those after it are not.
        assert_eq!((last.text.as_str(), last.tokens.len()), ("", 2));
        assert!(answer.is_stopped());
        assert!(answer.push(bytes(b"more")).tokens.is_empty());
        let (text, finish) = end(answer, FinishReason::MaxTokens);
        assert_eq!(text, "");
        assert_eq!(finish.reason(), FinishReason::StopString);
        assert_eq!(finish.stop, "END");
        assert_eq!(finish.usage.unwrap().answer_tokens, 4);
    }

    #[test]
    fn what_was_held_back_comes_at_every_other_end() {
        for reason in [
            FinishReason::EndOfText,
            FinishReason::MaxTokens,
            FinishReason::Context,
        ] {
            let mut answer = answer(&["END"], None);
            assert_eq!(answer.push(bytes(b"bEN")).text, "b");
            let (text, finish) = end(answer, reason);
            assert_eq!((text.as_str(), finish.reason()), ("EN", reason));
            assert_eq!(finish.stop, "");
        }
    }

    #[test]
    fn ids_that_end_an_answer_have_no_text() {
        let mut answer = answer(&[], None);
        let message = answer.push(bytes(b"ok!"));
        assert_eq!((message.text.as_str(), message.tokens.len()), ("ok", 3));
    }

    #[test]
    fn logprobs_are_sent_only_if_asked_for() {
        let message = answer(&[], None).push(bytes(b"a"));
        assert_eq!(
            (message.tokens[0].logprob, message.tokens[0].top.len()),
            (None, 0)
        );
        let message = answer(&[], Some(1)).push(bytes(b"a"));
        assert_eq!(
            (message.tokens[0].logprob, message.tokens[0].top.len()),
            (Some(-0.5), 1)
        );
    }
}
