//! Chat templates: messages to the text that a model was trained on.

use std::path::Path;

use lava_gguf::{Gguf, optional};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use crate::error::TextError;
use crate::tokenizer::{optional_json, token_text};

/// Steps of the template engine that a rendering may take; real templates need a few per message.
const FUEL: u64 = 1_000_000;
/// Nested calls and includes; real templates have a handful.
const RECURSION_MAX: usize = 64;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// From `chat_template.jinja` or `tokenizer_config.json` of a Hugging Face folder.
    ///
    /// # Errors
    /// There is none, or it does not parse.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let config = optional_json(&folder.join("tokenizer_config.json"))?;
        let file = folder.join("chat_template.jinja");
        let source = match file.exists() {
            true => {
                std::fs::read_to_string(&file).map_err(|source| TextError::Io { file, source })?
            }
            false => template_of(&config["chat_template"]).ok_or(TextError::NoTemplate)?,
        };
        let text = |key: &str| token_text(&config[key]).unwrap_or_default();
        Self::new(source, text("bos_token"), text("eos_token"))
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// There is none, or it does not parse.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        let source = optional(gguf.str("tokenizer.chat_template"))?.ok_or(TextError::NoTemplate)?;
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let text = |key| -> Result<String, TextError> {
            let id = optional(gguf.usize(key))?;
            Ok(id
                .and_then(|id| tokens.get(id))
                .cloned()
                .unwrap_or_default())
        };
        Self::new(
            source.to_owned(),
            text("tokenizer.ggml.bos_token_id")?,
            text("tokenizer.ggml.eos_token_id")?,
        )
    }

    /// From the template's source and the texts of two tokens that templates refer to.
    ///
    /// # Errors
    /// It does not parse.
    pub fn new(source: String, bos_token: String, eos_token: String) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        // Hub templates are written for these settings of Jinja.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(template_error)?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source)
            .map_err(template_error)?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// The prompt for `messages`, open for the assistant's turn. `today` is what `strftime_now`
    /// gives to templates that print the date.
    ///
    /// # Errors
    /// The template refuses the messages, or fails on them.
    pub fn render(&self, messages: &[Message], today: &str) -> Result<String, TextError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(template_error)?;
        let messages: Vec<minijinja::Value> = messages
            .iter()
            .map(|message| {
                let Message { role, content } = message;
                context! { role => role.as_str(), content => content.as_str() }
            })
            .collect();
        let today = today.to_owned();
        let strftime_now = minijinja::Value::from_function(move |_format: String| today.clone());
        template
            .render(context! {
                messages => messages,
                add_generation_prompt => true,
                bos_token => self.bos_token.as_str(),
                eos_token => self.eos_token.as_str(),
                strftime_now => strftime_now,
            })
            .map_err(template_error)
    }
}

/// One template, or the one called `default` among several.
fn template_of(value: &Value) -> Option<String> {
    let named = || {
        value
            .as_array()?
            .iter()
            .find(|entry| entry["name"] == "default")
    };
    let text = value.as_str().or_else(|| named()?["template"].as_str());
    text.map(str::to_owned)
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn template_error(error: minijinja::Error) -> TextError {
    TextError::Template {
        reason: error.to_string(),
    }
}
