//! Messages of the public service to what the rest of the crate works with. What the service cannot do
//! is refused here, with the field, what was found and what was expected; no text and no id of a prompt
//! gets into these words.

use std::borrow::Cow;
use std::sync::Arc;

use lava::{Budget, Method, ParseMethodError, Policy};
use lava_kv::{RowFormat, UnknownRowFormat};
use lava_proto::v1::{self, generate_request::BudgetForm, prompt::Form};
use lava_text::{Message, TextError};

use crate::admission::Priority;
use crate::config::{Defaults, Limits};
use crate::placement::CacheSize;
use crate::snapshot::Model;
use crate::status::clipped;

/// Most of the likeliest tokens that can be reported.
const LOGPROBS_MAX: u32 = 20;

/// Most stop ids of a request; each sampled token is compared with all of them.
const STOP_TOKEN_IDS_MAX: usize = 1024;

/// The budget of a policy that has no use for one.
const EVERYTHING: Budget = Budget::Share { milli: 1000 };

/// What the client did wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error(transparent)]
    Method(#[from] ParseMethodError),
    #[error(transparent)]
    RowFormat(#[from] UnknownRowFormat),
    #[error("{field} is {found}, expected {expected}")]
    Value {
        field: &'static str,
        found: String,
        expected: String,
    },
    #[error("{field} has {found} {of}, expected at most {max}")]
    TooMany {
        field: &'static str,
        found: usize,
        of: &'static str,
        max: usize,
    },
    #[error("stop[{index}] has {found} bytes, expected 1 to {max}")]
    StopLength {
        index: usize,
        found: usize,
        max: usize,
    },
    #[error("{field}[{index}] is outside the vocabulary, expected an id below {vocabulary}")]
    OutsideVocabulary {
        field: &'static str,
        index: usize,
        vocabulary: u32,
    },
    #[error(
        "prompt has {found} tokens, expected at most {}: the model's context of {context} has to hold the answer too",
        context.saturating_sub(1)
    )]
    PromptTooLong { found: usize, context: u32 },
    #[error("{field}: {error}")]
    Budget {
        field: &'static str,
        error: lava::Error,
    },
    #[error("prompt: {0}")]
    Text(#[from] TextError),
    #[error("grpc-timeout is not one to eight digits and one of the units H, M, S, m, u, n")]
    Timeout,
    #[error("x-lava-tenant is no name of 1 to 64 letters, digits, dots, dashes and underscores")]
    Tenant,
}

/// One of three forms of prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PromptForm {
    Text(String),
    Chat(Vec<Message>),
    Ids(Vec<u32>),
}

/// A request without its prompt, whose fields make sense by themselves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// `n`.
    pub(crate) choices: u32,
    priority: Priority,
    max_tokens: u32,
    sampling: v1::Sampling,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    ignore_end_of_text: bool,
    method: Method,
    budget: Budget,
    format: RowFormat,
    logprobs: Option<u32>,
}

/// A request that its model can answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) model: Arc<Model>,
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) size: CacheSize,
    /// `size.max_tokens` is what the context leaves, less than was asked for.
    pub(crate) capped: bool,
    /// Every field is present; the seed is that of choice 0.
    pub(crate) sampling: v1::Sampling,
    pub(crate) stop: Vec<String>,
    /// Ids that end an answer with `STOP_TOKEN`.
    pub(crate) stop_token_ids: Arc<[u32]>,
    /// Ids that end an answer with `END_OF_TEXT`.
    pub(crate) end_of_text: Arc<[u32]>,
    pub(crate) choices: u32,
    pub(crate) priority: Priority,
    pub(crate) logprobs: Option<u32>,
}

impl Asked {
    /// Checks all that needs no model, and takes the prompt out.
    ///
    /// # Errors
    /// The client's fault.
    pub(crate) fn new(
        request: v1::GenerateRequest,
        limits: &Limits,
        defaults: &Defaults,
    ) -> Result<(PromptForm, Asked), Invalid> {
        let prompt = prompt_form(request.prompt)?;
        let method = match request.policy.as_str() {
            "" => defaults.method,
            text => clipped(text).parse()?,
        };
        let at_least_one = |field, value: Option<u32>, default| match value {
            Some(0) => Err(value_error(field, &0, "at least 1")),
            value => Ok(value.unwrap_or(default)),
        };
        let choices = request.n.unwrap_or(1);
        if choices == 0 || choices > limits.choices_max {
            let expected = format!("1 to {}", limits.choices_max);
            return Err(value_error("n", &choices, &expected));
        }
        if let Some(found) = request.logprobs.filter(|&found| found > LOGPROBS_MAX) {
            let expected = format!("at most {LOGPROBS_MAX}");
            return Err(value_error("logprobs", &found, &expected));
        }
        check_stop(&request.stop, limits)?;
        let found = request.stop_token_ids.len();
        if found > STOP_TOKEN_IDS_MAX {
            return Err(Invalid::TooMany {
                field: "stop_token_ids",
                found,
                of: "ids",
                max: STOP_TOKEN_IDS_MAX,
            });
        }
        let sampling = request.sampling.unwrap_or_default();
        check_sampling(&sampling)?;
        let asked = Asked {
            choices,
            priority: priority(request.priority)?,
            max_tokens: at_least_one("max_tokens", request.max_tokens, limits.max_tokens_default)?,
            sampling,
            stop: request.stop,
            stop_token_ids: request.stop_token_ids,
            ignore_end_of_text: request.ignore_end_of_text,
            method,
            budget: match request.budget_form {
                Some(form) => budget(form)?,
                // Who asks for everything and no budget is not refused by a default in bytes.
                None if method.policy == Policy::Full => EVERYTHING,
                None => defaults.budget,
            },
            format: match request.row_format.as_str() {
                "" => defaults.format,
                text => clipped(text).parse()?,
            },
            logprobs: request.logprobs,
        };
        Ok((prompt, asked))
    }

    /// Checks the rest. `seed` is taken if the client gave none.
    ///
    /// # Errors
    /// The client's fault.
    pub(crate) fn of_model(
        self,
        model: Arc<Model>,
        prompt: Vec<u32>,
        seed: u64,
    ) -> Result<Order, Invalid> {
        let context = model.positions_max;
        if prompt.is_empty() {
            return Err(value_error("prompt", &"empty", "at least 1 token"));
        }
        check_ids("prompt.tokens.ids", &prompt, &model)?;
        check_ids("stop_token_ids", &self.stop_token_ids, &model)?;
        let tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = context.saturating_sub(tokens);
        if room == 0 {
            return Err(Invalid::PromptTooLong {
                found: prompt.len(),
                context,
            });
        }
        let size = CacheSize {
            method: self.method,
            budget: self.budget_entries(&model, tokens)?,
            format: self.format,
            tokens,
            max_tokens: self.max_tokens.min(room),
        };
        let end_of_text = match self.ignore_end_of_text {
            true => Arc::default(),
            false => model.end_of_text.as_slice().into(),
        };
        Ok(Order {
            prompt: prompt.into(),
            size,
            capped: self.max_tokens > room,
            sampling: filled(self.sampling, model.vocabulary, seed),
            stop: self.stop,
            stop_token_ids: self.stop_token_ids.into(),
            end_of_text,
            choices: self.choices,
            priority: self.priority,
            logprobs: self.logprobs,
            model,
        })
    }

    /// `b`. Attempts that go on after a fault keep it, although their prompts are longer.
    fn budget_entries(&self, model: &Model, tokens: u32) -> Result<u32, Invalid> {
        let shape = model.shape(tokens);
        let bytes = model.entry_bytes(self.format);
        match self.budget.entries(&self.method, shape, bytes) {
            Ok(entries) => Ok(u32::try_from(entries).unwrap_or(u32::MAX)),
            Err(error) => {
                let field = budget_field(self.budget);
                Err(Invalid::Budget { field, error })
            }
        }
    }
}

impl Order {
    /// What the model reads in an attempt that goes on after these tokens.
    pub(crate) fn prompt_and(&self, emitted: &[u32]) -> Cow<'_, [u32]> {
        match emitted {
            [] => Cow::Borrowed(&self.prompt),
            emitted => Cow::Owned([&self.prompt, emitted].concat()),
        }
    }

    /// The cache of an attempt that goes on after `emitted` tokens. An answer that began with every
    /// entry kept, or with none packed, goes on so, although its prompt has grown past the budget or the
    /// window.
    pub(crate) fn size_after(&self, emitted: usize) -> CacheSize {
        let emitted = u32::try_from(emitted).unwrap_or(u32::MAX);
        let method = match emitted > 0 && keeps_everything(&self.model, self.size) {
            true => Method::new(Policy::Full),
            false => self.size.method,
        };
        let wide = self.size.format.wide();
        let was_wide = self.model.cache_shape(self.size).wide_rows >= self.size.tokens as usize;
        let can_be_wide = self.model.row_formats.contains(&wide);
        let format = match emitted > 0 && was_wide && can_be_wide {
            true => wide,
            false => self.size.format,
        };
        CacheSize {
            method,
            budget: self.size.budget,
            format,
            tokens: self.size.tokens.saturating_add(emitted),
            max_tokens: self.size.max_tokens.saturating_sub(emitted),
        }
    }

    /// How the tokens of a choice are chosen.
    pub(crate) fn sampling(&self, choice: u32) -> v1::Sampling {
        let seed = self.sampling.seed.unwrap_or_default();
        v1::Sampling {
            seed: Some(seed.wrapping_add(u64::from(choice))),
            ..self.sampling
        }
    }
}

/// A priority that there is.
///
/// # Errors
/// The client's fault.
fn priority(number: i32) -> Result<Priority, Invalid> {
    match v1::Priority::try_from(number) {
        Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Ok(Priority::Normal),
        Ok(v1::Priority::Low) => Ok(Priority::Low),
        Ok(v1::Priority::High) => Ok(Priority::High),
        Err(_) => {
            let expected = "1 (low), 2 (normal), 3 (high), or 0 for normal";
            Err(value_error("priority", &number, expected))
        }
    }
}

/// The form of a prompt.
///
/// # Errors
/// The client gave none, or a chat of nothing.
pub(crate) fn prompt_form(prompt: Option<v1::Prompt>) -> Result<PromptForm, Invalid> {
    match prompt.and_then(|prompt| prompt.form) {
        None => Err(value_error("prompt", &"missing", "text, chat or tokens")),
        Some(Form::Text(text)) => Ok(PromptForm::Text(text)),
        Some(Form::Tokens(tokens)) => Ok(PromptForm::Ids(tokens.ids)),
        Some(Form::Chat(chat)) if chat.messages.is_empty() => {
            let field = "prompt.chat.messages";
            Err(value_error(field, &"empty", "at least 1 message"))
        }
        Some(Form::Chat(chat)) => {
            let messages = chat.messages.into_iter().map(|message| Message {
                role: message.role,
                content: message.content,
            });
            Ok(PromptForm::Chat(messages.collect()))
        }
    }
}

/// A budget that makes sense by itself.
///
/// # Errors
/// The client's fault.
fn budget(form: BudgetForm) -> Result<Budget, Invalid> {
    match form {
        BudgetForm::Budget(0) => Err(value_error("budget", &0, "at least 1")),
        BudgetForm::Budget(entries) => Ok(Budget::Entries(entries)),
        BudgetForm::BudgetShareMilli(milli @ 1..=1000) => Ok(Budget::Share { milli }),
        BudgetForm::BudgetShareMilli(milli) => {
            Err(value_error("budget_share_milli", &milli, "1 to 1000"))
        }
        BudgetForm::BudgetBytes(0) => Err(value_error("budget_bytes", &0, "at least 1")),
        BudgetForm::BudgetBytes(bytes) => Ok(Budget::Bytes(bytes)),
    }
}

/// The field of a request that holds a budget of this form.
fn budget_field(budget: Budget) -> &'static str {
    match budget {
        Budget::Entries(_) => "budget",
        Budget::Share { .. } => "budget_share_milli",
        Budget::Bytes(_) => "budget_bytes",
    }
}

fn keeps_everything(model: &Model, size: CacheSize) -> bool {
    let shape = model.shape(size.tokens);
    shape.keeps_everything(&size.method, size.budget as usize)
}

/// Every field present, absent ones as the engine's defaults; no cut to the k likeliest is a cut to
/// the whole vocabulary.
fn filled(sampling: v1::Sampling, vocabulary: u32, seed: u64) -> v1::Sampling {
    v1::Sampling {
        temperature: Some(sampling.temperature.unwrap_or(0.0)),
        top_k: Some(sampling.top_k.unwrap_or(vocabulary)),
        top_p: Some(sampling.top_p.unwrap_or(1.0)),
        min_p: Some(sampling.min_p.unwrap_or(0.0)),
        repetition_penalty: Some(sampling.repetition_penalty.unwrap_or(1.0)),
        frequency_penalty: Some(sampling.frequency_penalty.unwrap_or(0.0)),
        presence_penalty: Some(sampling.presence_penalty.unwrap_or(0.0)),
        seed: Some(sampling.seed.unwrap_or(seed)),
    }
}

/// The ranges of `SamplingParams::check` in crates/engine, which this crate may not use; the workers
/// check again, so a difference shows as their refusal.
fn check_sampling(sampling: &v1::Sampling) -> Result<(), Invalid> {
    let ranges = [
        (
            "sampling.temperature",
            sampling.temperature,
            0.0..=100.0,
            "0 (greedy) to 100",
        ),
        (
            "sampling.top_p",
            sampling.top_p,
            f32::MIN_POSITIVE..=1.0,
            "above 0, at most 1",
        ),
        ("sampling.min_p", sampling.min_p, 0.0..=1.0, "0 to 1"),
        (
            "sampling.repetition_penalty",
            sampling.repetition_penalty,
            0.01..=100.0,
            "0.01 to 100",
        ),
        (
            "sampling.frequency_penalty",
            sampling.frequency_penalty,
            -2.0..=2.0,
            "-2 to 2",
        ),
        (
            "sampling.presence_penalty",
            sampling.presence_penalty,
            -2.0..=2.0,
            "-2 to 2",
        ),
    ];
    for (field, value, range, expected) in ranges {
        // A range holds no NaN.
        if let Some(found) = value.filter(|value| !range.contains(value)) {
            return Err(value_error(field, &found, expected));
        }
    }
    match sampling.top_k {
        Some(0) => Err(value_error("sampling.top_k", &0, "at least 1, or none")),
        _ => Ok(()),
    }
}

fn check_stop(stop: &[String], limits: &Limits) -> Result<(), Invalid> {
    if stop.len() > limits.stop_strings_max {
        return Err(Invalid::TooMany {
            field: "stop",
            found: stop.len(),
            of: "strings",
            max: limits.stop_strings_max,
        });
    }
    let max = limits.stop_string_bytes_max;
    let lengths = stop.iter().map(String::len).enumerate();
    for (index, found) in lengths {
        if found == 0 || found > max {
            return Err(Invalid::StopLength { index, found, max });
        }
    }
    Ok(())
}

fn check_ids(field: &'static str, ids: &[u32], model: &Model) -> Result<(), Invalid> {
    let vocabulary = model.vocabulary;
    match ids.iter().position(|&id| id >= vocabulary) {
        None => Ok(()),
        Some(index) => Err(Invalid::OutsideVocabulary {
            field,
            index,
            vocabulary,
        }),
    }
}

fn value_error(field: &'static str, found: &dyn ToString, expected: &str) -> Invalid {
    Invalid::Value {
        field,
        found: found.to_string(),
        expected: expected.to_owned(),
    }
}

#[cfg(test)]
mod tests;
