//! Messages to the prompt a model was trained on, through the model's own Jinja template.
//!
//! - The template runs as Hugging Face's `apply_chat_template` runs it: `trim_blocks`, `lstrip_blocks`, loop controls,
//!   `raise_exception`, `strftime_now`, `tojson` without HTML escapes, and Python's methods on strings and dicts.
//! - It comes from a file somebody else wrote: its steps are counted ([`ChatTemplate::FUEL`]) and it reaches nothing
//!   but the values it is given.
//! - [`encode_chat`] keeps what users wrote apart from what the template wrote, down to the ids.

mod encode;
mod python;
#[cfg(test)]
mod tests;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use encode::encode_chat;

use crate::tokenizer::Tokenizer;
use python::RaisedByTemplate;

/// ChatML, what most code models without a template of their own were tuned on.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Why messages did not become a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The model's template does not parse.
    #[error("chat template, line {line}: {message}")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template refused the messages (`raise_exception`): the fault of the request.
    #[error("the model's chat template refuses these messages: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template ran on and on.
    #[error("chat template: stopped after {limit} steps; the template loops, or the messages are far too many")]
    OutOfFuel {
        /// Steps allowed.
        limit: u64,
    },
    /// The template failed on these messages.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// Line in the template, from 1; 0 where unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The messages are not a list of objects with a role.
    #[error("messages[{index}]: {reason}")]
    BadMessage {
        /// Which, from 0.
        index: usize,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// Every private-use character of the plane that marks user text occurs in the messages.
    #[error("the messages use all {tried} private-use characters tried, none is left to mark user text with")]
    NoMark {
        /// How many were tried.
        tried: usize,
    },
}

/// Where a template comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateSource {
    /// The model's own files.
    Model,
    /// ChatML, because the model has none.
    DefaultChatMl,
}

/// What a chat request adds to its messages.
#[derive(Debug, Clone)]
pub struct ChatOptions {
    /// End the prompt with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Documents for templates that quote them: a list of objects.
    pub documents: Option<Json>,
    /// Further variables for the template, such as `enable_thinking`.
    pub kwargs: Map<String, Json>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        ChatOptions { add_generation_prompt: true, documents: None, kwargs: Map::new() }
    }
}

/// A compiled chat template. Shared by threads; rendering takes it by reference.
pub struct ChatTemplate {
    environment: Environment<'static>,
    text: String,
    source: TemplateSource,
    /// `bos_token` and its likes, as the template sees them.
    special_texts: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).field("text", &self.text).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Steps a render may take. A thousand messages with fifty tools take under a hundredth of it.
    pub const FUEL: u64 = 10_000_000;
    /// Templates may call themselves (macros) this deep.
    const RECURSION: usize = 64;
    const NAME: &'static str = "chat";

    /// The template that came with the tokenizer, else ChatML ([`ChatTemplate::source`] tells).
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`] where the model's template does not parse.
    pub fn for_tokenizer(tokenizer: &Tokenizer) -> Result<Self, ChatTemplateError> {
        let (text, source) = match tokenizer.chat_template() {
            Some(text) => (text, TemplateSource::Model),
            None => (CHATML, TemplateSource::DefaultChatMl),
        };
        let ids = tokenizer.ids();
        let roles = [("bos_token", ids.bos), ("eos_token", ids.eos), ("unk_token", ids.unk), ("pad_token", ids.pad)];
        let special_texts =
            roles.into_iter().filter_map(|(name, id)| Some((name, tokenizer.token_text(id?)))).collect();
        Self::compile(text, source, special_texts)
    }

    /// A template given as text; `bos_token` and `eos_token` are what it sees under these names.
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`] where it does not parse.
    pub fn new(text: &str, bos_token: &str, eos_token: &str) -> Result<Self, ChatTemplateError> {
        let special_texts = vec![("bos_token", bos_token.to_owned()), ("eos_token", eos_token.to_owned())];
        Self::compile(text, TemplateSource::Model, special_texts)
    }

    fn compile(
        text: &str,
        source: TemplateSource,
        special_texts: Vec<(&'static str, String)>,
    ) -> Result<Self, ChatTemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax_error = |error: minijinja::Error| ChatTemplateError::Syntax {
            line: error.line().unwrap_or(0),
            message: message_of(&error),
        };
        environment.set_syntax(syntax.map_err(syntax_error)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(Self::FUEL));
        environment.set_recursion_limit(Self::RECURSION);
        python::install(&mut environment);
        environment.add_template_owned(Self::NAME, python::without_generation_tags(text)).map_err(syntax_error)?;
        Ok(ChatTemplate { environment, text: text.to_owned(), source, special_texts })
    }

    /// Where the template comes from.
    pub fn source(&self) -> TemplateSource {
        self.source
    }

    /// The template as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The prompt as text. For ids use [`encode_chat`]: in this text, a user's words cannot be told from the template's.
    ///
    /// `messages` is OpenAI's list; `tools` OpenAI's list or none.
    ///
    /// # Errors
    /// [`ChatTemplateError`] for messages of the wrong form or refused by the template.
    pub fn render(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        options: &ChatOptions,
    ) -> Result<String, ChatTemplateError> {
        let messages = encode::in_template_form(messages)?;
        self.render_with(&messages, tools, options, &str::to_owned)
    }

    /// Renders with every string of the request passed through `guard`.
    fn render_with(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        options: &ChatOptions,
        guard: &dyn Fn(&str) -> String,
    ) -> Result<String, ChatTemplateError> {
        let given = |value: Option<&Json>| value.map_or(Value::from(()), |value| python::to_template(value, guard));
        let mut variables: Vec<(String, Value)> = vec![
            ("messages".to_owned(), python::to_template(messages, guard)),
            ("tools".to_owned(), given(tools)),
            ("documents".to_owned(), given(options.documents.as_ref())),
            ("add_generation_prompt".to_owned(), Value::from(options.add_generation_prompt)),
        ];
        variables
            .extend(self.special_texts.iter().map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str()))));
        variables.extend(options.kwargs.iter().map(|(name, value)| (name.clone(), python::to_template(value, guard))));
        let template = self.environment.get_template(Self::NAME).map_err(|error| render_error(&error))?;
        template.render(Value::from_pairs(variables)).map_err(|error| render_error(&error))
    }
}

fn message_of(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

fn render_error(error: &minijinja::Error) -> ChatTemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<RaisedByTemplate>() {
            return ChatTemplateError::Raised { message: raised.0.clone() };
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return ChatTemplateError::OutOfFuel { limit: ChatTemplate::FUEL };
    }
    ChatTemplateError::Render { line: error.line().unwrap_or(0), message: message_of(error) }
}
