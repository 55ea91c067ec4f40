//! A request as routing sees it: a JSON object whose members for the router are taken out and checked, whose size is
//! estimated, and whose rest goes to whoever answers.

use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorCode};
use crate::limits::MAX_CHOICES;
use crate::memory::extension::MemoryMember;
use crate::openai::Fields;
use crate::openai::completion::DEFAULT_MAX_TOKENS;
use crate::routing::Wish;

pub use crate::remote::Endpoint;

/// Bytes of JSON text that make about one token: what prices and contexts are estimated by before a tokenizer has
/// seen the request. English and code come to 3.2 to 4.5.
const BYTES_A_TOKEN: usize = 4;
/// What a chat template puts around a message.
const TOKENS_A_MESSAGE: usize = 6;
/// Output that is reckoned with where a chat names no bound.
const EXPECTED_OUTPUT: usize = 1024;

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Where it came in.
    pub endpoint: Endpoint,
    /// What is left for the backend: OpenAI's members, and extensions that are not the router's.
    pub body: Map<String, Value>,
    /// Model it names.
    pub model: Option<String>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the stream is to end with its usage.
    pub include_usage: bool,
    /// What it wants of the router.
    pub wish: Wish,
    /// What it wants of the memory.
    pub memory: Option<MemoryMember>,
    /// Choices a prompt.
    pub choices: usize,
    /// Tokens of the prompt, estimated.
    pub prompt_tokens: usize,
    /// Tokens that may be generated for each choice: as asked, or an expectation.
    pub output_tokens: usize,
}

impl Asked {
    /// Members of a body that are read here, and not by who answers.
    pub const NAMES: [&str; 8] =
        ["route", "task", "max_cost", "deadline_ms", "ttft_ms", "continue_mid_stream", "cache", "memory"];

    /// Reads the body.
    ///
    /// # Errors
    /// No JSON object, or a member for the router that is wrong. Other members are checked by who answers.
    pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::from_slice(body)?;
        let wish = Wish::take(&mut fields)?;
        let memory = MemoryMember::read(&mut fields)?;
        let body = fields.into_rest();
        let model = match body.get("model") {
            None | Some(Value::Null) => None,
            Some(Value::String(model)) if model.trim().is_empty() => {
                return Err(ApiError::invalid_value("model", "`model` is empty: name one, or leave it out"));
            }
            Some(Value::String(model)) => Some(model.clone()),
            Some(_) => return Err(ApiError::invalid_value("model", "`model` must be a string")),
        };
        let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        let count = |name: &str| body.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let messages = body.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
        let expected = match endpoint {
            Endpoint::Completions => DEFAULT_MAX_TOKENS,
            Endpoint::Chat => EXPECTED_OUTPUT,
            Endpoint::Embeddings => 0,
        };
        Ok(Self {
            endpoint,
            stream: flag(body.get("stream")),
            include_usage: flag(body.get("stream_options").and_then(|options| options.get("include_usage"))),
            choices: count("best_of").or(count("n")).unwrap_or(1).clamp(1, MAX_CHOICES),
            prompt_tokens: prompt_bytes(&body).div_ceil(BYTES_A_TOKEN) + messages * TOKENS_A_MESSAGE,
            output_tokens: count("max_completion_tokens").or(count("max_tokens")).unwrap_or(expected),
            model,
            body,
            wish,
            memory,
        })
    }

    /// Tokens that the request itself says a choice may have.
    pub fn bound(&self) -> Option<usize> {
        let says = ["max_completion_tokens", "max_tokens"].iter().any(|name| self.body.contains_key(*name));
        (says || self.endpoint == Endpoint::Completions).then_some(self.output_tokens)
    }

    /// Prompts times choices.
    pub fn sequences(&self) -> usize {
        let prompts = match self.body.get("prompt") {
            Some(Value::Array(prompts)) if prompts.iter().any(|prompt| !prompt.is_number()) => prompts.len(),
            _ => 1,
        };
        prompts * self.choices
    }

    /// What decides the task class where the request does not name one.
    pub fn task(&self) -> &str {
        match (&self.wish.task, self.endpoint) {
            (Some(task), _) => task,
            (None, Endpoint::Chat) => "chat",
            (None, Endpoint::Completions) => "completion",
            (None, Endpoint::Embeddings) => "embedding",
        }
    }

    /// The messages of a chat, as they came.
    pub fn messages(&self) -> &[Value] {
        self.body.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The single text that a completion goes on from.
    pub fn prompt(&self) -> Option<&str> {
        match self.body.get("prompt")? {
            Value::String(text) => Some(text),
            Value::Array(texts) => match texts.as_slice() {
                [Value::String(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// The body for another server that knows the model as `upstream`.
    ///
    /// A stream is always asked for its usage: what it cost must be known.
    pub fn body_for(&self, upstream: &str) -> Map<String, Value> {
        let mut body = self.body.clone();
        body.insert("model".into(), upstream.into());
        if self.stream {
            let mut options = match body.remove("stream_options") {
                Some(Value::Object(options)) => options,
                _ => Map::new(),
            };
            options.insert("include_usage".into(), true.into());
            body.insert("stream_options".into(), options.into());
        }
        body
    }
}

/// Bytes of what a model reads: of messages, prompts, tools.
fn prompt_bytes(body: &Map<String, Value>) -> usize {
    ["messages", "prompt", "suffix", "tools", "fim_context", "input"]
        .iter()
        .filter_map(|name| body.get(*name))
        .map(text_bytes)
        .sum()
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        // A list of token ids is as many tokens.
        Value::Number(_) => BYTES_A_TOKEN,
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + text_bytes(value)).sum(),
        Value::Null | Value::Bool(_) => 1,
    }
}

/// The error of a chat without messages, said before anybody is asked.
pub(super) fn check_there_is_a_prompt(asked: &Asked) -> Result<(), ApiError> {
    let name = match asked.endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions => "prompt",
        Endpoint::Embeddings => "input",
    };
    match asked.body.get(name) {
        None | Some(Value::Null) => {
            Err(ApiError::new(ErrorCode::MissingParameter, format!("`{name}` is missing")).with_param(name))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Asked, ApiError> {
        Asked::read(Endpoint::Chat, body.to_string().as_bytes())
    }

    #[test]
    fn the_routers_members_are_taken_out_and_the_rest_goes_on() {
        let asked = read(json!({
            "model": "m", "messages": [{"role": "user", "content": "hello there"}], "stream": true,
            "route": "speed", "max_cost": 0.01, "deadline_ms": 500, "memory": {"recall": "off"},
            "temperature": 0, "n": 2, "max_tokens": 7,
        }))
        .expect("good");
        assert_eq!(
            asked.body.keys().collect::<Vec<_>>(),
            ["model", "messages", "stream", "temperature", "n", "max_tokens"]
        );
        assert_eq!((asked.choices, asked.output_tokens), (2, 7));
        assert!(asked.memory.is_some() && asked.stream && !asked.include_usage);
        let body = asked.body_for("other");
        assert_eq!(body["model"], "other");
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(asked.body["model"], "m");
    }

    #[test]
    fn sizes_are_estimated_from_what_a_model_reads() {
        let long = read(json!({"messages": [{"role": "user", "content": "x".repeat(4000)}]})).expect("good");
        assert!((1000..1020).contains(&long.prompt_tokens), "{}", long.prompt_tokens);
        let ids = Asked::read(Endpoint::Completions, br#"{"prompt": [1, 2, 3, 4, 5]}"#).expect("good");
        assert_eq!((ids.prompt_tokens, ids.output_tokens), (5, DEFAULT_MAX_TOKENS));
        assert_eq!(ids.prompt(), None);
    }

    #[test]
    fn a_wrong_model_member_is_named() {
        for model in [json!(""), json!(7), json!({})] {
            let error = read(json!({"model": model, "messages": []})).expect_err("wrong");
            assert_eq!(error.param(), Some("model"), "{error}");
        }
    }
}
