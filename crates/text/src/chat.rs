//! Chat templates: messages to the text that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};

use crate::error::TextError;

/// Steps of the template engine that a rendering may take; real templates need a few per message.
const FUEL: u64 = 1_000_000;
/// Nested calls and includes; real templates have a handful.
const RECURSION_MAX: usize = 64;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
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

    /// What the template can write of its own accord: its source and the two tokens' texts.
    pub(crate) fn own_text(&self) -> String {
        let template = self.environment.get_template(NAME);
        let template = template.expect("`new` added it");
        [template.source(), &self.bos_token, &self.eos_token].concat()
    }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn template_error(error: minijinja::Error) -> TextError {
    TextError::Template {
        reason: error.to_string(),
    }
}
