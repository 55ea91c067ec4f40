//! A stream's chunks put together into the answer that would have come in one piece.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Endpoint;
use super::answer::{Answer, Incomplete};

/// Most tool calls, or other numbered members, of a message.
const MOST_NUMBERED: usize = 512;

/// What came of a stream so far.
#[derive(Debug)]
pub struct Assembler {
    endpoint: Endpoint,
    /// All but the choices.
    envelope: Map<String, Value>,
    choices: Vec<Map<String, Value>>,
    bytes: usize,
    most: usize,
    failed: Option<Incomplete>,
}

impl Assembler {
    /// For an answer of so many choices, and at most so many bytes: past that what came is let go.
    pub fn new(endpoint: Endpoint, choices: usize, most: usize) -> Self {
        let choices = vec![Map::new(); choices];
        Self { endpoint, envelope: Map::new(), choices, bytes: 0, most, failed: None }
    }

    /// The next chunk. One that makes a whole answer impossible is remembered for [`Assembler::finish`].
    pub fn push(&mut self, chunk: &Value) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.take(chunk) {
            self.failed = Some(error);
            self.envelope.clear();
            self.choices.clear();
        }
    }

    /// The whole answer. To be called only when the stream has ended well, with `[DONE]`.
    ///
    /// # Errors
    /// What is missing.
    pub fn finish(mut self) -> Result<Arc<Answer>, Incomplete> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let count = self.choices.len();
        let choices = std::mem::take(&mut self.choices);
        let (endpoint, object) = match self.endpoint {
            Endpoint::Chat => (Endpoint::Chat, "chat.completion"),
            Endpoint::Completions => (Endpoint::Completions, "text_completion"),
            Endpoint::Embeddings => return Err(Incomplete::Garbage("embeddings are not streamed".into())),
        };
        let choices: Vec<Value> =
            choices.into_iter().enumerate().map(|(index, choice)| whole_choice(endpoint, index, choice)).collect();
        self.envelope.insert("object".into(), object.into());
        self.envelope.insert("choices".into(), choices.into());
        Answer::whole(endpoint, count, Value::Object(self.envelope))
    }

    fn take(&mut self, chunk: &Value) -> Result<(), Incomplete> {
        let chunk = chunk.as_object().ok_or_else(|| Incomplete::Garbage("a chunk is no object".into()))?;
        if chunk.get("error").is_some_and(|error| !error.is_null()) {
            return Err(Incomplete::Error);
        }
        for (name, value) in chunk.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "choices" | "object" => {}
                // A stream has one id, whatever its later chunks say.
                "id" | "created" | "model" => drop(self.envelope.entry(name).or_insert_with(|| value.clone())),
                _ => drop(self.envelope.insert(name.clone(), value.clone())),
            }
        }
        for choice in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
            self.take_choice(choice)?;
        }
        Ok(())
    }

    fn take_choice(&mut self, choice: &Value) -> Result<(), Incomplete> {
        let fields = choice.as_object().ok_or_else(|| Incomplete::Garbage("a choice is no object".into()))?;
        let index = choice.get("index").map_or(Some(0), Value::as_u64).unwrap_or(u64::MAX);
        let wanted = self.choices.len();
        let whole = usize::try_from(index).ok().and_then(|index| self.choices.get_mut(index));
        let whole = whole.ok_or_else(|| Incomplete::Garbage(format!("choice {index} of {wanted}")))?;
        for (name, value) in fields.iter().filter(|(name, _)| *name != "index") {
            self.bytes += size(value);
            if self.bytes > self.most {
                return Err(Incomplete::TooLarge { most: self.most });
            }
            match name.as_str() {
                "delta" => merge(whole, "message", value)?,
                "text" | "logprobs" => merge(whole, name, value)?,
                _ if value.is_null() => {}
                _ => drop(whole.insert(name.clone(), value.clone())),
            }
        }
        Ok(())
    }
}

/// The members in the order in which OpenAI has them.
fn whole_choice(endpoint: Endpoint, index: usize, mut parts: Map<String, Value>) -> Value {
    let mut choice = Map::new();
    choice.insert("index".into(), index.into());
    match endpoint {
        Endpoint::Chat => {
            let message = parts.shift_remove("message").unwrap_or_else(|| json!({}));
            choice.insert("message".into(), whole_message(message));
        }
        Endpoint::Completions | Endpoint::Embeddings => {
            let text = parts.shift_remove("text").unwrap_or(Value::Null);
            choice.insert("text".into(), text);
        }
    }
    for name in ["logprobs", "finish_reason"] {
        choice.insert(name.into(), parts.shift_remove(name).unwrap_or(Value::Null));
    }
    choice.extend(parts);
    choice.into()
}

fn whole_message(mut message: Value) -> Value {
    let Some(map) = message.as_object_mut() else { return message };
    map.entry("role").or_insert_with(|| "assistant".into());
    map.entry("content").or_insert(Value::Null);
    if let Some(calls) = map.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.sort_by_key(|call| call["index"].as_u64());
        // Only a stream numbers its calls.
        calls.iter_mut().filter_map(Value::as_object_mut).for_each(|call| drop(call.shift_remove("index")));
        if !calls.is_empty() && map["content"] == "" {
            map["content"] = Value::Null;
        }
    }
    message
}

/// Puts what came behind what was there: text to text, lists to lists, members of lists by their `index`, objects member by member.
fn merge(whole: &mut Map<String, Value>, name: &str, part: &Value) -> Result<(), Incomplete> {
    let there = whole.entry(name).or_insert(Value::Null);
    match (&mut *there, part) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => match name {
            // Said once; some servers say it with every chunk.
            "id" | "type" | "role" if !text.is_empty() => {}
            "name" if text == more => {}
            _ => text.push_str(more),
        },
        (_, Value::Object(more)) => {
            if !there.is_object() {
                *there = json!({});
            }
            if let Value::Object(map) = there {
                for (name, value) in more {
                    merge(map, name, value)?;
                }
            }
        }
        (_, Value::Array(more)) => {
            if !there.is_array() {
                *there = json!([]);
            }
            if let Value::Array(list) = there {
                more.iter().try_for_each(|item| merge_item(list, item))?;
            }
        }
        (_, other) => *there = other.clone(),
    }
    Ok(())
}

fn merge_item(list: &mut Vec<Value>, item: &Value) -> Result<(), Incomplete> {
    let (Some(index), Some(more)) = (item.get("index").and_then(Value::as_u64), item.as_object()) else {
        list.push(item.clone());
        return Ok(());
    };
    let at = match list.iter().position(|there| there["index"] == index) {
        Some(at) => at,
        None if list.len() < MOST_NUMBERED => {
            list.push(json!({"index": index}));
            list.len() - 1
        }
        None => return Err(Incomplete::Garbage(format!("more than {MOST_NUMBERED} numbered members"))),
    };
    if let Some(map) = list[at].as_object_mut() {
        for (name, value) in more.iter().filter(|(name, _)| *name != "index") {
            merge(map, name, value)?;
        }
    }
    Ok(())
}

/// Bytes that a part adds, about.
fn size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) | Value::Number(_) => 16,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(|value| 16 + size(value)).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + size(value)).sum(),
    }
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
