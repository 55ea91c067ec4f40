//! Answers as OpenAI writes them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::request_id::random_uuid;

/// Log-probabilities below this, minus infinity among them, are written as this: JSON has no
/// infinity, and OpenAI uses the same number.
const LOWEST_LOGPROB: f32 = -9999.0;

/// Why a choice ended, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop string, or the model's own end.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// The model called tools.
    ToolCalls,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompts, each prompt once however many choices it has.
    pub prompt_tokens: usize,
    /// Tokens generated, over all choices.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// What the prompt's tokens cost.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// What the prompt's tokens cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Came from the prefix cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Counts with their sum.
    pub fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

/// A token and its log-probability, with its bytes: a token need not be whole characters.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// Raw bytes.
    pub bytes: Vec<u8>,
    /// Natural log of its probability; `None` for a prompt's first token.
    pub logprob: Option<f32>,
}

/// A position of the output with its alternatives.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPosition {
    /// What stands there.
    pub token: ScoredToken,
    /// The most likely tokens there, most likely first.
    pub top: Vec<ScoredToken>,
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOWEST_LOGPROB } else { logprob.max(LOWEST_LOGPROB) }
}

/// `logprobs` of a chat choice: `{"content": [...], "refusal": null}`.
pub fn chat_logprobs(positions: &[ScoredPosition]) -> Value {
    let entry = |token: &ScoredToken| {
        let mut entry = Map::new();
        entry.insert("token".into(), String::from_utf8_lossy(&token.bytes).into_owned().into());
        entry.insert("logprob".into(), token.logprob.map(finite).into());
        entry.insert("bytes".into(), token.bytes.clone().into());
        entry
    };
    let content: Vec<Value> = positions
        .iter()
        .map(|position| {
            let mut value = entry(&position.token);
            let top: Vec<Value> = position.top.iter().map(|token| Value::Object(entry(token))).collect();
            value.insert("top_logprobs".into(), top.into());
            Value::Object(value)
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// `logprobs` of a completion choice; `offset` is the number of characters before the first
/// position, and is moved past the last one.
pub fn completion_logprobs(positions: &[ScoredPosition], with_top: bool, offset: &mut usize) -> Value {
    let mut tokens = Vec::with_capacity(positions.len());
    let mut logprobs = Vec::with_capacity(positions.len());
    let mut tops = Vec::with_capacity(positions.len());
    let mut offsets = Vec::with_capacity(positions.len());
    for position in positions {
        tokens.push(name_of(&position.token.bytes));
        logprobs.push(position.token.logprob.map(finite));
        offsets.push(*offset);
        // Characters begin at every byte that is not a continuation byte.
        *offset += position.token.bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        tops.push(if position.token.logprob.is_none() {
            Value::Null
        } else {
            let mut top = Map::new();
            for token in &position.top {
                top.entry(name_of(&token.bytes)).or_insert_with(|| token.logprob.map(finite).into());
            }
            Value::Object(top)
        });
    }
    json!({
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": if with_top { Value::from(tops) } else { Value::Null },
        "text_offset": offsets,
    })
}

/// A token as a string that tells tokens apart: bytes that are no whole characters are written out,
/// in OpenAI's form `bytes:\xe2\x80`.
fn name_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{hex}")
        }
    }
}

/// A fresh id with its prefix: `chatcmpl-`, `cmpl-`, `call_`.
pub fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{}", random_uuid().simple())
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What all parts of one answer carry.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Id of the answer.
    pub id: String,
    /// `chat.completion`, `chat.completion.chunk` or `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Id of the model that answered.
    pub model: String,
}

impl Envelope {
    /// A fresh envelope.
    pub fn new(prefix: &str, object: &'static str, model: &str) -> Self {
        Self { id: fresh_id(prefix), object, created: unix_now(), model: model.to_owned() }
    }

    /// The answer with these choices. `usage` is left out if `None`, and `null` if `Some(None)`:
    /// so it stands in every chunk but the last of a stream that ends with counts.
    pub fn with(&self, choices: Vec<Value>, usage: Option<Option<Usage>>) -> Value {
        let mut value = json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            value["usage"] = json!(usage);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(bytes: &[u8], logprob: f32) -> ScoredToken {
        ScoredToken { bytes: bytes.to_vec(), logprob: Some(logprob) }
    }

    #[test]
    fn chat_logprobs_carry_bytes() {
        let position = ScoredPosition {
            token: token(b"a", -0.5),
            top: vec![token(b"a", -0.5), token(&[0xe2], f32::NEG_INFINITY)],
        };
        assert_eq!(
            chat_logprobs(&[position]),
            json!({"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [226]}]}], "refusal": null})
        );
    }

    #[test]
    fn completion_logprobs_count_characters() {
        let first = ScoredPosition { token: ScoredToken { bytes: b"ab".to_vec(), logprob: None }, top: Vec::new() };
        let euro = "€".as_bytes();
        let split = [&euro[..1], &euro[1..]]
            .map(|bytes| ScoredPosition { token: token(bytes, -1.0), top: vec![token(bytes, -1.0)] });
        let last = ScoredPosition { token: token(b"c", -2.0), top: vec![] };
        let [second, third] = split;
        let mut offset = 10;
        let value = completion_logprobs(&[first, second, third, last], true, &mut offset);
        assert_eq!(
            value,
            json!({"tokens": ["ab", "bytes:\\xe2", "bytes:\\x82\\xac", "c"],
                "token_logprobs": [null, -1.0, -1.0, -2.0],
                "top_logprobs": [null, {"bytes:\\xe2": -1.0}, {"bytes:\\x82\\xac": -1.0}, {}],
                "text_offset": [10, 12, 13, 13]})
        );
        assert_eq!(offset, 14);
    }

    #[test]
    fn usage_is_absent_null_or_there() {
        let envelope = Envelope::new("cmpl-", "text_completion", "m");
        assert!(envelope.id.starts_with("cmpl-"));
        assert!(envelope.with(vec![], None).get("usage").is_none());
        assert!(envelope.with(vec![], Some(None))["usage"].is_null());
        let usage = envelope.with(vec![], Some(Some(Usage::new(5, 2, 4))))["usage"].clone();
        assert_eq!(
            usage,
            json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4}})
        );
    }
}
