//! A kept answer given as a stream.

use serde_json::{Map, Value, json};

use super::Endpoint;
use super::answer::Answer;

/// Bytes of text in a chunk, about.
const PIECE: usize = 256;

/// What every chunk of a stream carries; other members of the answer stand in the first.
const IN_EVERY_CHUNK: [&str; 5] = ["id", "created", "model", "system_fingerprint", "service_tier"];

/// Members of a message or call that come in one piece.
const SAID_ONCE: [&str; 4] = ["role", "id", "type", "name"];

/// The chunks of an answer, in the form in which its endpoint streams; `[DONE]` is for the caller to say. With `usage` the last
/// chunk has the counts, and all others `null`. Embeddings are not streamed: none.
pub fn replay(answer: &Answer, usage: bool) -> Vec<Value> {
    let object = match answer.endpoint() {
        Endpoint::Chat => "chat.completion.chunk",
        Endpoint::Completions => "text_completion",
        Endpoint::Embeddings => return Vec::new(),
    };
    let mut stream = Stream::new(answer, object, usage);
    for choice in answer.body()["choices"].as_array().into_iter().flatten() {
        let Some(choice) = choice.as_object() else { continue };
        match answer.endpoint() {
            Endpoint::Chat => stream.chat_choice(choice),
            Endpoint::Completions | Endpoint::Embeddings => stream.completion_choice(choice),
        }
    }
    if usage {
        stream.chunk(json!([]));
        if let Some(last) = stream.chunks.last_mut() {
            last["usage"] = answer.body()["usage"].clone();
        }
    }
    stream.chunks
}

struct Stream {
    envelope: Map<String, Value>,
    /// Members for the first chunk.
    first: Map<String, Value>,
    chunks: Vec<Value>,
}

impl Stream {
    fn new(answer: &Answer, object: &str, usage: bool) -> Self {
        let mut stream = Self { envelope: Map::new(), first: Map::new(), chunks: Vec::new() };
        for (name, value) in answer.body().as_object().into_iter().flatten() {
            match name.as_str() {
                "choices" | "usage" => {}
                "object" => drop(stream.envelope.insert(name.clone(), object.into())),
                _ if IN_EVERY_CHUNK.contains(&name.as_str()) => {
                    stream.envelope.insert(name.clone(), value.clone());
                }
                _ => drop(stream.first.insert(name.clone(), value.clone())),
            }
        }
        stream.envelope.insert("object".into(), object.into());
        if usage {
            stream.envelope.insert("usage".into(), Value::Null);
        }
        stream
    }

    fn chunk(&mut self, choices: Value) {
        let mut chunk = self.envelope.clone();
        chunk.insert("choices".into(), choices);
        chunk.append(&mut self.first);
        self.chunks.push(chunk.into());
    }

    fn chat_choice(&mut self, choice: &Map<String, Value>) {
        let index = &choice["index"];
        let empty = Map::new();
        let message = choice.get("message").and_then(Value::as_object).unwrap_or(&empty);
        let mut logprobs = choice.get("logprobs").filter(|logprobs| !logprobs.is_null());
        let mut delta = |delta: Value, logprobs: Option<&Value>| {
            self.chunk(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null}]));
        };
        delta(opening(message), None);
        for (name, value) in message {
            match value {
                Value::Null => {}
                Value::String(_) if SAID_ONCE.contains(&name.as_str()) => {}
                // Which token stands in which piece is not kept: all of them come with all of the text.
                Value::String(text) if name == "content" && logprobs.is_some() => {
                    delta(json!({"content": text}), logprobs.take());
                }
                Value::String(text) => pieces(text).for_each(|piece| delta(json!({name.as_str(): piece}), None)),
                Value::Array(calls) if name == "tool_calls" => {
                    for (number, call) in calls.iter().enumerate() {
                        tool_call(number, call).into_iter().for_each(|call| delta(json!({"tool_calls": [call]}), None));
                    }
                }
                other => delta(json!({name.as_str(): other}), None),
            }
        }
        if logprobs.is_some() {
            delta(json!({}), logprobs);
        }
        self.last(choice, "delta", json!({}));
    }

    fn completion_choice(&mut self, choice: &Map<String, Value>) {
        let index = &choice["index"];
        let text = choice.get("text").and_then(Value::as_str).unwrap_or_default();
        let logprobs = choice.get("logprobs").filter(|logprobs| !logprobs.is_null());
        let mut part = |text: &str| {
            self.chunk(json!([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": null}]));
        };
        if logprobs.is_some() {
            part(text);
        } else {
            pieces(text).for_each(&mut part);
        }
        self.last(choice, "text", "".into());
    }

    /// The choice's end, with its reason and whatever else it has.
    fn last(&mut self, choice: &Map<String, Value>, content: &str, nothing: Value) {
        let mut last = Map::new();
        last.insert("index".into(), choice["index"].clone());
        last.insert(content.into(), nothing);
        last.insert("logprobs".into(), Value::Null);
        for (name, value) in choice {
            if !matches!(name.as_str(), "index" | "message" | "text" | "logprobs") {
                last.insert(name.clone(), value.clone());
            }
        }
        self.chunk(Value::Array(vec![last.into()]));
    }
}

/// The first delta: who speaks, and what is null; text begins empty.
fn opening(message: &Map<String, Value>) -> Value {
    let mut delta = Map::new();
    for (name, value) in message {
        match value {
            Value::Null => drop(delta.insert(name.clone(), Value::Null)),
            Value::String(_) if SAID_ONCE.contains(&name.as_str()) => drop(delta.insert(name.clone(), value.clone())),
            Value::String(_) if name == "content" => drop(delta.insert(name.clone(), "".into())),
            _ => {}
        }
    }
    delta.into()
}

/// A call: first its name, then its arguments in pieces.
fn tool_call(number: usize, call: &Value) -> Vec<Value> {
    let mut first = call.clone();
    let arguments = call["function"]["arguments"].as_str();
    if arguments.is_some() {
        first["function"]["arguments"] = "".into();
    }
    let mut deltas = Vec::new();
    if let Some(map) = first.as_object_mut() {
        map.shift_insert(0, "index".into(), number.into());
        deltas.push(first);
    }
    deltas.extend(
        pieces(arguments.unwrap_or_default()).map(|piece| json!({"index": number, "function": {"arguments": piece}})),
    );
    deltas
}

/// A text in pieces of whole characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(PIECE.min(rest.len())));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
