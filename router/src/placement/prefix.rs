//! What the prompts of one conversation begin with, as a number that stays while it grows.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A prompt shorter than this is computed as fast as it is looked up: it needs no node of its own.
const LEAST_BYTES: usize = 512;
/// How much of the instructions, and of the first question, is read.
const MOST_BYTES: usize = 4096;
/// How much of a completion's prompt is read.
const COMPLETION_BYTES: usize = 1024;
/// The same for a prompt of token ids.
const COMPLETION_IDS: usize = 256;

/// Where a request's KV may lie already.
///
/// Both numbers hold the tenant and the model, whose caches are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// What many conversations share: instructions and tools. Without any it is the conversation.
    pub head: u64,
    /// The head and the first question, or the session.
    pub conversation: u64,
    /// The conversation was answered before: more than its head may lie in a cache.
    pub going_on: bool,
}

impl PrefixKey {
    /// Of a chat's body. `None`: too short for a cache to matter.
    pub fn of_chat(tenant: &str, model: &str, session: Option<&str>, body: &Map<String, Value>) -> Option<Self> {
        let messages = body.get("messages")?.as_array()?;
        let tools = body.get("tools").filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
        let tools = tools.map(Value::to_string).unwrap_or_default();
        let length = messages.iter().map(content_len).sum::<usize>() + tools.len();
        if length < LEAST_BYTES {
            return None;
        }
        let leads = messages.iter().take_while(|message| is_instruction(message)).count();
        let mut head = owned_by(tenant, model);
        messages[..leads].iter().for_each(|message| take_content(&mut head, message));
        take(&mut head, tools.as_bytes(), MOST_BYTES);
        let mut conversation = head.clone();
        match (session, messages.get(leads)) {
            (Some(session), _) => take(&mut conversation, session.as_bytes(), MOST_BYTES),
            (None, Some(question)) => take_content(&mut conversation, question),
            (None, None) => {}
        }
        let conversation = number(conversation);
        let shared = leads > 0 || !tools.is_empty();
        let going_on = messages[leads..].iter().any(|message| message["role"] == "assistant");
        Some(Self { head: if shared { number(head) } else { conversation }, conversation, going_on })
    }

    /// Of a completion's body; a list of prompts goes by its first. `None`: too short for a cache to matter.
    pub fn of_completion(tenant: &str, model: &str, session: Option<&str>, body: &Map<String, Value>) -> Option<Self> {
        let mut hash = owned_by(tenant, model);
        let prompt = match body.get("prompt")? {
            Value::Array(list) if !list.first()?.is_number() => list.first()?,
            prompt => prompt,
        };
        let length = match prompt {
            Value::String(text) => {
                take(&mut hash, text.as_bytes(), COMPLETION_BYTES);
                text.len()
            }
            Value::Array(ids) => {
                let first = ids.iter().take(COMPLETION_IDS).map(|id| id.as_u64().unwrap_or(u64::MAX).to_le_bytes());
                first.for_each(|id| hash.update(id));
                // A token is about four bytes.
                ids.len() * 4
            }
            _ => return None,
        };
        if length < LEAST_BYTES {
            return None;
        }
        if let Some(session) = session {
            hash = owned_by(tenant, model);
            take(&mut hash, session.as_bytes(), MOST_BYTES);
        }
        let conversation = number(hash);
        Some(Self { head: conversation, conversation, going_on: true })
    }
}

fn is_instruction(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
}

fn owned_by(tenant: &str, model: &str) -> Sha256 {
    let mut hash = Sha256::new();
    take(&mut hash, tenant.as_bytes(), usize::MAX);
    take(&mut hash, model.as_bytes(), usize::MAX);
    hash
}

/// The first `most` bytes with their length, so that no text runs into the next.
fn take(hash: &mut Sha256, bytes: &[u8], most: usize) {
    let bytes = &bytes[..bytes.len().min(most)];
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Texts of a message's content, whichever of its two forms it has.
fn texts(message: &Value) -> impl Iterator<Item = &str> {
    let content = &message["content"];
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    content.as_str().into_iter().chain(parts.iter().filter_map(|part| part["text"].as_str()))
}

fn take_content(hash: &mut Sha256, message: &Value) {
    let mut left = MOST_BYTES;
    for text in texts(message) {
        take(hash, text.as_bytes(), left);
        left = left.saturating_sub(text.len());
    }
}

fn content_len(message: &Value) -> usize {
    texts(message).map(str::len).sum()
}

fn number(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn chat(messages: &[(&str, &str)]) -> Map<String, Value> {
        let messages: Vec<Value> =
            messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        map(json!({"messages": messages}))
    }

    fn key(body: &Map<String, Value>) -> PrefixKey {
        PrefixKey::of_chat("acme", "m", None, body).expect("long enough")
    }

    #[test]
    fn a_conversation_keeps_its_key_and_shares_its_head() {
        let system = "Be brief. ".repeat(100);
        let first = chat(&[("system", &system), ("user", "sort a list")]);
        let grown = chat(&[("system", &system), ("user", "sort a list"), ("assistant", "how?"), ("user", "fast")]);
        let other = chat(&[("system", &system), ("user", "open a file")]);
        let elsewhere = chat(&[("system", &format!("Not {system}")), ("user", "sort a list")]);
        assert_eq!(PrefixKey { going_on: true, ..key(&first) }, key(&grown));
        assert_eq!(key(&first).head, key(&other).head);
        assert_ne!(key(&first).conversation, key(&other).conversation);
        assert_ne!(key(&first).head, key(&elsewhere).head);
        let parts = map(json!({"messages": [{"role": "developer", "content": [{"type": "text", "text": system}]},
            {"role": "user", "content": "sort a list"}]}));
        assert_eq!(key(&first), key(&parts), "both forms of content are one prompt");
    }

    #[test]
    fn tenants_models_tools_and_sessions_are_apart() {
        let body = chat(&[("system", &"x".repeat(600)), ("user", "q")]);
        let base = key(&body);
        for (tenant, model) in [("acm", "m"), ("acme", "n"), ("acmem", ""), ("", "acmem")] {
            let other = PrefixKey::of_chat(tenant, model, None, &body).expect("long enough");
            assert!(other.head != base.head && other.conversation != base.conversation);
        }
        let mut tools = body.clone();
        tools.insert("tools".into(), json!([{"type": "function", "function": {"name": "f"}}]));
        assert_ne!(key(&tools).head, base.head);
        let session = PrefixKey::of_chat("acme", "m", Some("s1"), &body).expect("long enough");
        assert_eq!(session.head, base.head);
        assert_ne!(session.conversation, base.conversation);
    }

    #[test]
    fn without_instructions_the_conversation_is_the_head() {
        let key = key(&chat(&[("user", &"long question ".repeat(50)), ("assistant", "a"), ("user", "b")]));
        assert_eq!(key.head, key.conversation);
    }

    #[test]
    fn short_prompts_have_none_until_they_grow() {
        let answer = "word ".repeat(200);
        let short = chat(&[("user", "hi")]);
        let grown = chat(&[("user", "hi"), ("assistant", &answer), ("user", "more")]);
        assert_eq!(PrefixKey::of_chat("t", "m", None, &short), None);
        assert!(PrefixKey::of_chat("t", "m", None, &grown).is_some());
        for body in [json!({}), json!({"messages": []}), json!({"messages": "no"}), json!({"messages": [1, null]})] {
            assert_eq!(PrefixKey::of_chat("t", "m", None, &map(body)), None);
        }
    }

    #[test]
    fn completions_go_by_their_beginning() {
        let of = |body: Value| PrefixKey::of_completion("t", "m", None, &map(body));
        let text = "fn main() {}\n".repeat(100);
        let base = of(json!({"prompt": text})).expect("long enough");
        assert_eq!(of(json!({"prompt": format!("{text} and on")})), Some(base));
        assert_eq!(of(json!({"prompt": [text, "other"]})), Some(base));
        assert_ne!(of(json!({"prompt": format!("// {text}")})), Some(base));
        assert_eq!(of(json!({"prompt": "short"})), None);
        let ids: Vec<u32> = (0..300).collect();
        let more: Vec<u32> = (0..400).collect();
        assert!(of(json!({"prompt": ids})).is_some());
        assert_eq!(of(json!({"prompt": ids})), of(json!({"prompt": [more]})));
        for body in [json!({}), json!({"prompt": []}), json!({"prompt": 1}), json!({"prompt": [[]]})] {
            assert_eq!(of(body), None);
        }
        let session = |prompt: &str| PrefixKey::of_completion("t", "m", Some("s"), &map(json!({"prompt": prompt})));
        assert_eq!(session(&text), session(&"y".repeat(900)));
    }
}
