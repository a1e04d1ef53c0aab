//! Questions as ids.

use std::time::UNIX_EPOCH;

use lava_text::{Message, encode_chat};

use super::{Error, Local};
use crate::Prompt;
use crate::cut::cut_to;
use crate::question::{Body, Question};

/// Tokens of a right answer that a teacher uses; summaries go on for hundreds.
const TRUTH_MAX: usize = 64;

/// Tokens of the beginnings of answers.
const LEAD_TOKENS: usize = 12;

/// A question in ids.
pub(super) struct Encoded {
    /// What the model reads.
    pub(super) prompt: Vec<u32>,
    /// What a teacher makes it read after that.
    pub(super) truth: Vec<u32>,
    max_tokens: usize,
}

impl Encoded {
    /// Rows that teaching or answering adds to a cache.
    pub(super) fn appended_max(&self) -> usize {
        self.truth.len().max(self.max_tokens)
    }
}

pub(super) fn encode(local: &Local, question: &Question) -> Result<Encoded, Error> {
    match &question.body {
        Body::Text {
            prompt,
            continuation,
        } => Ok(Encoded {
            prompt: prompt.clone(),
            truth: continuation.clone(),
            max_tokens: 0,
        }),
        Body::Sample { sample, chat } => {
            let mut truth = local.encode(&sample.truth)?;
            truth.truncate(TRUTH_MAX);
            let appended = truth.len().max(sample.max_tokens);
            let room = local.model.config().positions_max();
            let max = room.saturating_sub(appended + 1);
            let fitting = cut_to(&sample.prompt, max, &|prompt| ids(local, prompt, *chat))??;
            Ok(Encoded {
                prompt: fitting.ids,
                truth,
                max_tokens: sample.max_tokens,
            })
        }
    }
}

pub(super) fn overhead(local: &Local) -> Result<usize, Error> {
    let prompt = Prompt {
        question: "x".to_owned(),
        ..Prompt::default()
    };
    Ok(ids(local, &prompt, true)?.len() + LEAD_TOKENS)
}

fn ids(local: &Local, prompt: &Prompt, chat: bool) -> Result<Vec<u32>, Error> {
    let text = prompt.joined();
    let mut ids = match local.template.as_ref().filter(|_| chat) {
        None => local.tokenizer.encode(&text, true)?,
        Some(template) => {
            let message = Message {
                role: "user".to_owned(),
                content: text,
            };
            // The same prompt every day.
            let day = lava_text::date(UNIX_EPOCH);
            encode_chat(&local.tokenizer, template, &[message], &day)?
        }
    };
    ids.extend(local.encode(&prompt.lead)?);
    Ok(ids)
}
