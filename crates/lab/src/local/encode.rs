//! Questions as ids.

use std::time::UNIX_EPOCH;

use lava_text::{Message, encode_chat};

use super::{Error, Local};
use crate::Prompt;
use crate::cut::cut_to;
use crate::question::{Body, Question, TRUTH_TOKENS_MAX};

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
            prompt: begun(local, prompt)?,
            truth: continuation.clone(),
            max_tokens: 0,
        }),
        Body::Sample { sample, chat } => {
            let mut truth = local.encode(&sample.truth)?;
            truth.truncate(TRUTH_TOKENS_MAX);
            let appended = truth.len().max(sample.max_tokens);
            let room = local.context();
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

/// The ids of a piece of text behind what the model wants in front of every text, which takes the place
/// of as many ids, so that the length stays.
fn begun(local: &Local, ids: &[u32]) -> Result<Vec<u32>, Error> {
    let mut begun = local.tokenizer.encode("", true)?;
    begun.extend(ids.iter().skip(begun.len()));
    Ok(begun)
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
        // Without a template the answer begins on a line of its own.
        None if !prompt.lead.is_empty() => local.tokenizer.encode(&format!("{text}\n"), true)?,
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
