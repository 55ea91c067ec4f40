//! The models that are served, by name, and how each turns words into ids.

use std::sync::Arc;

use engram_inference::EngineHandle;
use engram_models::EncoderHandle;
use engram_models::chat_template::{ChatOptions, ChatTemplate, encode_chat};
use engram_models::fim::{FimFile, FimRequest, FimTokens};
use engram_models::tokenizer::{Specials, Tokenizer};
use serde_json::{Map, Value};

use super::Encoders;
use crate::auth::Tenant;
use crate::error::{ApiError, ErrorCode};
use crate::openai::completion::{Fim, Prompt};
use crate::openai::fields::nearest;

/// What the listing tells about a model besides its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// License, by its SPDX id where it has one.
    pub license: Option<String>,
    /// Architecture, such as `qwen2`.
    pub architecture: Option<String>,
    /// Format of the weights, such as `Q4_K_M`.
    pub quantization: Option<String>,
}

/// A model with its running engine.
pub struct ServedModel {
    /// Name in requests and answers.
    pub id: String,
    /// Other names that find it.
    pub aliases: Vec<String>,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to text.
    pub template: Arc<ChatTemplate>,
    /// Fill-in-the-middle, if it was trained for it.
    pub fim: Option<FimTokens>,
    /// Ids that end its answers.
    pub stop_ids: Vec<u32>,
    /// Its engine.
    pub engine: EngineHandle,
    /// Longest sequence, prompt and output together.
    pub max_len: usize,
    /// For the listing.
    pub facts: ModelFacts,
}

/// The models of this process: those that generate, and the encoder.
#[derive(Default)]
pub struct Models {
    generating: Vec<Arc<ServedModel>>,
    encoders: Encoders,
}

impl Models {
    /// These models; of two with a name in common the first one answers to it.
    pub fn new(models: impl IntoIterator<Item = ServedModel>) -> Self {
        Self { generating: models.into_iter().map(Arc::new).collect(), encoders: Encoders::default() }
    }

    /// With an encoder beside them.
    pub fn with_encoders(mut self, encoders: Encoders) -> Self {
        self.encoders = encoders;
        self
    }

    /// The encoder, if one is served.
    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// The encoder called `name`, ready to be asked, if this key sees it. Errors: as [`Encoders::find`]; 400 for a
    /// model that generates.
    pub fn encoder_for(&self, name: Option<&str>, tenant: &Tenant) -> Result<EncoderHandle, ApiError> {
        let hidden = self.encoders.facts().is_some_and(|encoder| !tenant.may_ask(encoder.names()));
        if hidden && name.is_none_or(|name| self.encoders.has(name)) {
            let shown: String = name.unwrap_or("").chars().take(128).collect();
            let message = format!("no encoder `{shown}` here for this API key");
            return Err(ApiError::new(ErrorCode::ModelNotFound, message).with_param("model"));
        }
        if let Some(name) = name.filter(|name| !self.encoders.has(name))
            && let Ok(model) = self.find_for(Some(name), tenant)
        {
            let message = format!("`{}` generates text, it makes no vectors: name an encoder", model.id);
            return Err(ApiError::invalid_value("model", message));
        }
        self.encoders.find(name)
    }

    /// Whether there is none that generates.
    pub fn is_empty(&self) -> bool {
        self.generating.is_empty()
    }

    /// All that generate.
    pub fn iter(&self) -> impl Iterator<Item = &ServedModel> {
        self.generating.iter().map(Arc::as_ref)
    }

    /// The model called `name`, in any case; without a name the only one there is.
    pub fn find(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        self.find_for(name, &Tenant::anonymous())
    }

    /// The same where nobody is told why there is none: each request to another server asks this twice, and the message
    /// was a thirtieth of what it cost.
    pub fn get(&self, name: Option<&str>) -> Option<Arc<ServedModel>> {
        let Some(name) = name else {
            let mut all = self.generating.iter();
            return all.next().filter(|_| all.next().is_none()).map(Arc::clone);
        };
        let called = |model: &&Arc<ServedModel>| model.names().any(|known| known.eq_ignore_ascii_case(name));
        let is_encoder = || self.encoders.facts().is_some() && self.encoders.has(name);
        self.generating.iter().find(called).filter(|_| !is_encoder()).map(Arc::clone)
    }

    /// The same of those that this key sees. One that it does not see is answered like one that is not there.
    pub fn find_for(&self, name: Option<&str>, tenant: &Tenant) -> Result<Arc<ServedModel>, ApiError> {
        let seen: Vec<&Arc<ServedModel>> =
            self.generating.iter().filter(|model| tenant.may_ask(model.names())).collect();
        let served = || {
            let names: Vec<String> = seen.iter().map(|model| format!("`{}`", model.id)).collect();
            if names.is_empty() { "none".into() } else { names.join(", ") }
        };
        let Some(name) = name else {
            return match seen.as_slice() {
                [only] => Ok(Arc::clone(only)),
                _ => {
                    let message = format!("`model` is missing, served are: {}", served());
                    Err(ApiError::new(ErrorCode::MissingParameter, message).with_param("model"))
                }
            };
        };
        let called = |model: &&&Arc<ServedModel>| model.names().any(|known| known.eq_ignore_ascii_case(name));
        let encoder = self.encoders.facts().filter(|encoder| tenant.may_ask(encoder.names()));
        if encoder.is_some() && self.encoders.has(name) {
            let message = format!("`{name}` is an encoder, it generates no text: ask /v1/embeddings");
            return Err(ApiError::invalid_value("model", message));
        }
        seen.iter().find(called).map(|model| Arc::clone(model)).ok_or_else(|| {
            let shown: String = name.chars().take(128).collect();
            let known: Vec<&str> = seen.iter().flat_map(|model| model.names()).collect();
            let near = nearest(&shown, &known).map_or_else(|| ".".into(), |near| format!(", did you mean `{near}`?"));
            ApiError::new(ErrorCode::ModelNotFound, format!("no model `{shown}` here{near} Served are: {}", served()))
                .with_param("model")
        })
    }
}

impl ServedModel {
    /// Its id, then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// Ids of a chat, up to where the assistant is to speak. Control tokens come from the template
    /// alone, never from what users wrote.
    pub fn chat_prompt(
        &self,
        messages: &[Value],
        tools: &[Value],
        kwargs: Map<String, Value>,
    ) -> Result<Vec<u32>, ApiError> {
        let options = ChatOptions { kwargs, ..ChatOptions::default() };
        let messages = Value::from(messages);
        let tools = (!tools.is_empty()).then(|| Value::from(tools));
        Ok(encode_chat(&self.tokenizer, &self.template, &messages, tools.as_ref(), &options)?)
    }

    /// Ids of the beginning of an answer, to stand behind the prompt.
    pub fn answer_so_far(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, Specials::AsText)
    }

    /// Tokens of a text that users wrote, without what a template puts around it.
    pub fn count_tokens(&self, text: &str) -> usize {
        self.tokenizer.encode(text, Specials::AsText).len()
    }

    /// Ids of a completion's prompt.
    pub fn completion_prompt(&self, prompt: &Prompt, add_special: bool, parse_special: bool) -> Vec<u32> {
        match prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let specials = if parse_special { Specials::Parse } else { Specials::AsText };
                if add_special {
                    self.tokenizer.encode_prompt(text, specials)
                } else {
                    self.tokenizer.encode(text, specials)
                }
            }
        }
    }

    /// Ids of a prompt whose gap is to be filled.
    pub fn fim_prompt(&self, prefix: &str, fim: &Fim) -> Result<Vec<u32>, ApiError> {
        let Some(tokens) = &self.fim else {
            return Err(ApiError::new(
                ErrorCode::FimUnsupported,
                format!(
                    "model `{}` has no fill-in-the-middle tokens: `suffix` and `fim_context` cannot be used with it",
                    self.id
                ),
            )
            .with_param("suffix"));
        };
        let context: Vec<FimFile<'_>> =
            fim.context.iter().map(|file| FimFile { path: &file.path, text: &file.text }).collect();
        let request = FimRequest {
            prefix,
            suffix: &fim.suffix,
            context: &context,
            repo: fim.repo.as_deref(),
            path: fim.path.as_deref(),
        };
        Ok(tokens.build(&self.tokenizer, &request))
    }

    /// Tokens that may be generated after a prompt: what was asked for if it fits, else an error
    /// with the numbers; the room there is if nothing was asked for.
    pub fn room(&self, prompt_len: usize, wanted: Option<usize>) -> Result<usize, ApiError> {
        // A KV cache smaller than the context is the tighter bound.
        let max_len = self.max_len.min(self.engine.capacity().kv_tokens);
        room(prompt_len, wanted, max_len)
    }
}

fn room(prompt_len: usize, wanted: Option<usize>, max_len: usize) -> Result<usize, ApiError> {
    let left = max_len.saturating_sub(prompt_len);
    let needed = wanted.unwrap_or(1);
    if needed <= left && prompt_len <= max_len {
        return Ok(wanted.unwrap_or(left));
    }
    let asked = match wanted {
        Some(wanted) => {
            format!("{} tokens ({prompt_len} in the prompt, {wanted} to generate)", prompt_len.saturating_add(wanted))
        }
        None => format!("{prompt_len} tokens in the prompt and at least one to generate"),
    };
    // Whether less output would do, or only a shorter prompt.
    let param = if left == 0 { None } else { Some("max_tokens") };
    let error = ApiError::new(
        ErrorCode::ContextLengthExceeded,
        format!("the context holds {max_len} tokens, the request needs {asked}"),
    );
    Err(match param {
        Some(param) => error.with_param(param),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_was_asked_or_what_is_left() {
        let table = [
            (10, Some(6), 16, Some(6)),
            (10, Some(7), 16, None),
            (10, None, 16, Some(6)),
            (16, None, 16, None),
            (16, Some(0), 16, Some(0)),
            (17, Some(0), 16, None),
            (1, Some(usize::MAX), 16, None),
        ];
        for (prompt_len, wanted, max_len, expected) in table {
            let found = room(prompt_len, wanted, max_len);
            assert_eq!(found.as_ref().ok().copied(), expected, "{prompt_len} {wanted:?} {max_len}");
            if let Err(error) = found {
                assert_eq!(error.code(), ErrorCode::ContextLengthExceeded);
                assert!(error.to_string().contains("holds 16"), "{error}");
            }
        }
    }
}
