//! An answer that is whole: nothing else is kept, replayed or handed to who waits for it.

use std::sync::Arc;

use serde_json::Value;

use super::Endpoint;

/// A whole answer to one request, as JSON.
///
/// It can only be made by [`Answer::whole`], which looks that nothing is missing.
#[derive(Debug, PartialEq)]
pub struct Answer {
    endpoint: Endpoint,
    body: Value,
    bytes: usize,
}

/// Why a body is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// It is an error, or has one inside.
    #[error("the answer is an error")]
    Error,
    /// Something that every answer has.
    #[error("the answer has no `{0}`")]
    Missing(&'static str),
    /// A choice, or a vector, that was asked for.
    #[error("the answer has {found} of {wanted} choices")]
    Choices {
        /// Choices there are.
        found: usize,
        /// Choices there should be.
        wanted: usize,
    },
    /// A choice that did not come to its end.
    #[error("choice {0} has no finish_reason")]
    Unfinished(usize),
    /// A chunk or an answer that is not what the endpoint sends.
    #[error("{0}")]
    Garbage(String),
    /// More than is kept of one answer.
    #[error("the answer has more than {most} bytes")]
    TooLarge {
        /// The limit.
        most: usize,
    },
}

impl Answer {
    /// The body, if it is whole: `choices` of them (of embeddings: vectors), each finished, and the counts of tokens.
    ///
    /// # Errors
    /// What is missing.
    pub fn whole(endpoint: Endpoint, choices: usize, body: Value) -> Result<Arc<Self>, Incomplete> {
        check(endpoint, choices, &body)?;
        let bytes = weight(&body);
        Ok(Arc::new(Self { endpoint, body, bytes }))
    }

    /// Which endpoint gave it.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The body as it was given.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn check(endpoint: Endpoint, wanted: usize, body: &Value) -> Result<(), Incomplete> {
    if body.get("error").is_some_and(|error| !error.is_null()) {
        return Err(Incomplete::Error);
    }
    let list = match endpoint {
        Endpoint::Chat | Endpoint::Completions => "choices",
        Endpoint::Embeddings => "data",
    };
    let items = body[list].as_array().ok_or(Incomplete::Missing(list))?;
    if items.len() != wanted {
        return Err(Incomplete::Choices { found: items.len(), wanted });
    }
    for (at, item) in items.iter().enumerate() {
        let there = match endpoint {
            Endpoint::Chat => item["message"].is_object(),
            Endpoint::Completions => item["text"].is_string(),
            Endpoint::Embeddings => !item["embedding"].is_null(),
        };
        if !there {
            return Err(Incomplete::Missing(match endpoint {
                Endpoint::Chat => "message",
                Endpoint::Completions => "text",
                Endpoint::Embeddings => "embedding",
            }));
        }
        if endpoint != Endpoint::Embeddings && item["finish_reason"].as_str().is_none_or(|reason| reason == "error") {
            return Err(Incomplete::Unfinished(at));
        }
    }
    // Whoever asks a stream for its counts must get them from what was kept, too.
    if body["usage"].is_object() { Ok(()) } else { Err(Incomplete::Missing("usage")) }
}

/// A value with what holds it. An entry of an ordered map is a name (a `String`), a hash and its place in the table: with the
/// room that tables keep, about 80 bytes beside the value.
fn weight(value: &Value) -> usize {
    const VALUE: usize = size_of::<Value>();
    VALUE
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.capacity(),
            Value::Array(values) => values.iter().map(weight).sum(),
            Value::Object(map) => map.iter().map(|(name, value)| name.len() + 80 + weight(value)).sum(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_whole_is_an_answer() {
        use Incomplete::{Choices, Error, Missing, Unfinished};
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
        let chat = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"},
            "finish_reason": "stop"}], "usage": usage});
        let with = |change: fn(&mut Value)| {
            let mut body = chat.clone();
            change(&mut body);
            Answer::whole(Endpoint::Chat, 1, body).map(|_| ())
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|body| body["error"] = json!({"message": "no"})), Err(Error));
        assert_eq!(with(|body| body["choices"] = json!([])), Err(Choices { found: 0, wanted: 1 }));
        assert_eq!(with(|body| body["choices"] = json!("no")), Err(Missing("choices")));
        assert_eq!(with(|body| body["choices"][0]["finish_reason"] = json!(null)), Err(Unfinished(0)));
        assert_eq!(with(|body| body["choices"][0]["finish_reason"] = json!("error")), Err(Unfinished(0)));
        assert_eq!(with(|body| body["choices"][0]["message"] = json!(null)), Err(Missing("message")));
        assert_eq!(with(|body| body["usage"] = json!(null)), Err(Missing("usage")));
        assert!(Answer::whole(Endpoint::Chat, 2, chat).is_err());
        let vectors = json!({"data": [{"embedding": [0.5]}], "usage": usage});
        assert!(Answer::whole(Endpoint::Embeddings, 1, vectors.clone()).is_ok());
        assert!(Answer::whole(Endpoint::Embeddings, 2, vectors).is_err());
        let text = json!({"choices": [{"text": "a", "finish_reason": "length"}], "usage": usage});
        assert!(Answer::whole(Endpoint::Completions, 1, text).is_ok());
    }
}
