//! The bodies of `POST /tokenize` and `POST /detokenize`.

use serde_json::Value;

use super::completion::read_ids;
use super::fields::Fields;
use super::message::{read_messages, read_tools};
use crate::error::{ApiError, ErrorCode};
use crate::limits::MAX_TOKEN_IDS;

/// What is to be turned into ids.
#[derive(Debug, Clone, PartialEq)]
pub enum Tokenizable {
    /// A text, as a completion's prompt would be.
    Text {
        /// The text.
        text: String,
        /// Put the beginning-of-sequence id before it, where the model wants one.
        add_special: bool,
        /// Read control tokens in it as such.
        parse_special: bool,
    },
    /// Messages, as a chat's would be.
    Chat {
        /// The messages.
        messages: Vec<Value>,
        /// The tools to show.
        tools: Vec<Value>,
    },
}

/// A tokenize request.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// Model whose tokenizer is meant.
    pub model: Option<String>,
    /// What to tokenise.
    pub input: Tokenizable,
}

impl TokenizeRequest {
    /// Reads `{prompt | content, add_special, parse_special}` or `{messages, tools}`.
    pub fn from_slice(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::from_slice(body)?;
        let model = fields.string("model")?;
        let prompt = fields.string("prompt")?;
        let content = fields.string("content")?;
        let text = match (prompt, content) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid_value("content", "give `prompt` or `content`, not both"));
            }
            (prompt, content) => prompt.or(content),
        };
        let input = match text {
            Some(text) => Tokenizable::Text {
                text,
                add_special: fields.bool("add_special", true)?,
                parse_special: fields.bool("parse_special", false)?,
            },
            None => match read_messages(&mut fields) {
                Ok(messages) => Tokenizable::Chat { messages, tools: read_tools(&mut fields)? },
                Err(error) if error.code() == ErrorCode::MissingParameter && error.param() == Some("messages") => {
                    return Err(ApiError::new(
                        ErrorCode::MissingParameter,
                        "`prompt` is missing: give `prompt`, `content` or `messages`",
                    )
                    .with_param("prompt"));
                }
                Err(error) => return Err(error),
            },
        };
        fields.finish()?;
        Ok(Self { model, input })
    }
}

/// A detokenize request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// Model whose tokenizer is meant.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
    /// Leave control tokens out of the text.
    pub skip_special: bool,
}

impl DetokenizeRequest {
    /// Reads `{tokens, skip_special}`.
    pub fn from_slice(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::from_slice(body)?;
        let model = fields.string("model")?;
        let tokens = fields.list("tokens", MAX_TOKEN_IDS)?;
        let tokens = fields.require("tokens", tokens)?;
        let tokens = read_ids("tokens", &tokens)?;
        let skip_special = fields.bool("skip_special", false)?;
        fields.finish()?;
        Ok(Self { model, tokens, skip_special })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_or_a_chat() {
        let text = TokenizeRequest::from_slice(br#"{"content": "x", "parse_special": true}"#).expect("good");
        assert_eq!(text.input, Tokenizable::Text { text: "x".into(), add_special: true, parse_special: true });
        let chat = TokenizeRequest::from_slice(br#"{"messages": [{"role": "user", "content": "x"}]}"#);
        assert!(matches!(chat.expect("good").input, Tokenizable::Chat { .. }));
    }

    #[test]
    fn bad_bodies_are_named() {
        for (body, param) in [
            (r#"{}"#, "prompt"),
            (r#"{"prompt": "a", "content": "b"}"#, "content"),
            (r#"{"prompt": "a", "messages": []}"#, "messages"),
            (r#"{"prompt": "a", "add_specials": true}"#, "add_specials"),
        ] {
            let error = TokenizeRequest::from_slice(body.as_bytes()).expect_err(body);
            assert_eq!(error.param(), Some(param), "{body}: {error}");
        }
        for (body, param) in
            [(r#"{}"#, "tokens"), (r#"{"tokens": ["a"]}"#, "tokens"), (r#"{"tokens": [1], "x": 1}"#, "x")]
        {
            let error = DetokenizeRequest::from_slice(body.as_bytes()).expect_err(body);
            assert_eq!(error.param(), Some(param), "{body}: {error}");
        }
    }
}
