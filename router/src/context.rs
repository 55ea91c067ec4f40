//! Recalled records into prompts, and exchanges into the memory.
//!
//! What was recalled stands between marks at the head of the first message that the user wrote: behind the system
//! prompt, ahead of the conversation, and with no more authority than the user's own words. Within a session a
//! record keeps the place where it was first shown, and stays while the budget lasts, so that the prompt of the next
//! turn begins with the prompt of this one and the prefix cache goes on working; without a session, records stand in
//! the order of their ids. The memory never fails an answer: what went wrong is told in the answer's `memory` member.

mod order;
mod render;

use std::sync::Arc;

use engram_memory::filter::{Comparison, Filter, Presence};
use engram_memory::{Kind, Lifetime, MemoryError, NewRecord, Provenance, Query, Record, Signals, Trust};
use serde_json::{Map, Value, json};

pub use order::Orders;

use crate::answer::Asked;
use crate::app::AppState;
use crate::backend::ServedModel;
use crate::config::Remember;
use crate::error::ApiError;
use crate::memory::extension::{MemoryWish, RecallWish};
use crate::memory::{MemoryStore, Operation};
use crate::openai::completion::ContextFile;
use crate::request_id::RequestId;

/// Of the last message, this much is looked for, characters.
const QUERY_CHARS: usize = 2000;
/// And of the two messages before it, this much each: they say what "it" and "there" mean.
const TAIL_CHARS: usize = 300;
/// Longest text of an exchange that is remembered, bytes.
const MAX_EXCHANGE: usize = 64 << 10;

/// Who counts the tokens of what is recalled.
pub enum Counter {
    /// The model's own tokenizer.
    Model(Arc<ServedModel>),
    /// Nobody knows the tokenizer: four bytes are taken for a token.
    Estimate,
}

impl Counter {
    fn count(&self, text: &str) -> usize {
        match self {
            Self::Model(model) => model.count_tokens(text),
            Self::Estimate => text.len().div_ceil(4),
        }
    }
}

/// A record in the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The record.
    pub record: Record,
    /// Its score when it was last found.
    pub score: f32,
    /// Tokens it takes in the prompt.
    pub tokens: usize,
}

/// What the memory has to do with one request.
pub struct Attached {
    wish: MemoryWish,
    shown: Vec<Shown>,
    error: Option<String>,
    service: crate::memory::MemoryService,
}

impl Attached {
    /// Recalls what the request wants for `query`; never fails, and never takes longer than is configured.
    pub async fn recall(state: &AppState, counter: Counter, wish: MemoryWish, query: Option<String>) -> Self {
        let mut attached = Self { wish, shown: Vec::new(), error: None, service: state.memory().clone() };
        let Some(recall) = attached.wish.recall.clone() else {
            return attached;
        };
        let Some(query) = query.filter(|query| !query.trim().is_empty()) else {
            attached.error = Some("nothing was recalled: the request holds no text to look for".into());
            return attached;
        };
        let earlier = state.orders().of(&attached.wish.scope);
        let query = memory_query(&attached.wish, &recall, query, state.memory().settings().recall_min_score);
        let operation = Operation::on("recall", recall.kinds.iter().copied());
        let search = move |store: &dyn MemoryStore| {
            let hits = store.search(&query, None)?.hits;
            let hits: Vec<(Record, f32)> = hits.into_iter().map(|hit| (hit.record, hit.score)).collect();
            let earlier = still_there(store, &query, earlier, &hits)?;
            let count = |record: &Record| counter.count(&render::entry(record));
            Ok(order::select(earlier, hits, recall.budget_tokens, count))
        };
        let limit = state.memory().settings().recall_timeout;
        match tokio::time::timeout(limit, state.memory().run(operation, search)).await {
            Ok(Ok(shown)) => {
                state.orders().keep(&attached.wish.scope, &shown);
                attached.shown = shown;
            }
            Ok(Err(error)) => {
                error.log();
                attached.error = Some(error.to_string());
            }
            Err(_) => attached.error = Some(format!("nothing was recalled within {limit:?}")),
        }
        attached
    }

    /// The text that goes into the prompt, if anything was recalled.
    pub fn block(&self) -> Option<String> {
        (!self.shown.is_empty()).then(|| render::block(self.shown.iter().map(|shown| &shown.record)))
    }

    /// What was recalled as files for a fill-in-the-middle prompt, the best nearest to the cursor.
    pub fn files(&self) -> Vec<ContextFile> {
        self.shown.iter().map(|shown| render::file(&shown.record)).collect()
    }

    /// What was recalled does not go into the prompt after all.
    pub fn leave_out(&mut self, why: impl Into<String>) {
        self.shown.clear();
        self.error = Some(why.into());
    }

    /// The answer's `memory` member.
    pub fn member(&self) -> Value {
        let recalled = self.shown.iter().map(|shown| {
            json!({
                "id": shown.record.id,
                "score": shown.score,
                "kind": shown.record.kind,
                "path": shown.record.provenance.path,
                "symbol": shown.record.provenance.symbol,
                "tokens": shown.tokens,
            })
        });
        let mut member = json!({"recalled": recalled.collect::<Vec<Value>>()});
        if let Some(error) = &self.error {
            member["error"] = json!(error);
        }
        member
    }

    /// Whether the exchange is to be remembered, so that its text has to be kept until it is complete.
    pub fn remembers(&self) -> bool {
        self.wish.remember != Remember::Off
    }

    /// Remembers a complete exchange, without anybody waiting for it but a shutdown.
    fn exchanged(&self, question: &str, answer: &str, model: &str, request_id: &str) {
        if !self.remembers() || answer.trim().is_empty() {
            return;
        }
        let mut scope = self.wish.scope.clone();
        if self.wish.remember == Remember::Project {
            scope.session = None;
        }
        let mut content = format!("User: {}\n\nAssistant: {}", question.trim(), answer.trim());
        truncate(&mut content, MAX_EXCHANGE);
        let mut metadata = Map::new();
        metadata.insert("model".into(), model.into());
        // Half of it was made by a model, so none of it counts for more.
        let provenance =
            Provenance { request_id: Some(request_id.into()), trust: Trust::Model, ..Provenance::default() };
        self.service.remember_later(vec![NewRecord {
            scope,
            kind: Kind::Conversation,
            content,
            metadata,
            provenance,
            lifetime: Lifetime::OfKind,
            pinned: false,
        }]);
    }
}

/// An exchange that may have to be remembered: its question now, its answer as it comes.
pub struct Exchange {
    attached: Attached,
    /// `None`: it is not to be remembered.
    question: Option<String>,
    answer: String,
    model: String,
    request_id: String,
}

impl Exchange {
    /// The exchange that begins with `question`, if it is to be remembered.
    pub fn new(attached: Attached, question: Option<String>, model: &str, id: &RequestId) -> Self {
        let (model, request_id) = (model.to_owned(), id.as_str().to_owned());
        Self { attached, question, answer: String::new(), model, request_id }
    }

    /// The answer's `memory` member.
    pub fn member(&self) -> Value {
        self.attached.member()
    }

    /// More of the answer.
    pub fn heard(&mut self, text: &str) {
        if self.question.is_some() && self.answer.len() < MAX_EXCHANGE {
            self.answer.push_str(text);
        }
    }

    /// The answer is whole: now it is remembered. One that was cut off or left is not.
    pub fn complete(self) {
        if let Some(question) = &self.question {
            self.attached.exchanged(question, &self.answer, &self.model, &self.request_id);
        }
    }
}

/// The search behind a recall.
///
/// It looks through the whole project, but what was remembered in a session shows in that session only.
fn memory_query(wish: &MemoryWish, recall: &RecallWish, text: String, min_score: f32) -> Query {
    let of_no_session = Filter::Not(Box::new(Filter::Exists(Presence { field: "session".into() })));
    let filter = match &wish.scope.session {
        None => of_no_session,
        Some(session) => Filter::Or(vec![
            of_no_session,
            Filter::Eq(Comparison { field: "session".into(), value: session.as_str().into() }),
        ]),
    };
    let mut scope = wish.scope.clone();
    scope.session = None;
    Query {
        scope,
        text,
        k: recall.k,
        kinds: recall.kinds.clone(),
        filter: Some(filter),
        min_score: Some(min_score),
        as_of: None,
        budget_tokens: None,
        signals: Signals::default(),
    }
}

/// Of the records shown earlier in the session, those that were not forgotten since and are of a kind that is
/// wanted, as they stand now.
fn still_there(
    store: &dyn MemoryStore,
    query: &Query,
    earlier: Vec<(engram_memory::RecordId, f32)>,
    hits: &[(Record, f32)],
) -> Result<Vec<(Record, f32)>, MemoryError> {
    let mut found = Vec::new();
    for (id, score) in earlier {
        if let Some(hit) = hits.iter().find(|(record, _)| record.id == id) {
            found.push(hit.clone());
            continue;
        }
        match store.get(&query.scope.partition, id, None) {
            Ok(record) if query.kinds.is_empty() || query.kinds.contains(&record.kind) => found.push((record, score)),
            Ok(_) | Err(MemoryError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What to look for: the last message of the user, and the tail of what was said before it.
pub fn query_of_chat(messages: &[Value]) -> Option<String> {
    let last = last_user(messages)?;
    let mut query = head(&text_of(&messages[last]), QUERY_CHARS);
    for message in messages[..last].iter().rev().filter(|message| message["role"] != "system").take(2) {
        let tail = tail(&text_of(message), TAIL_CHARS);
        if !tail.trim().is_empty() {
            query.push('\n');
            query.push_str(&tail);
        }
    }
    Some(query)
}

/// What to look for around a cursor: the text just before it, then the text just behind it.
pub fn query_of_gap(prefix: &str, suffix: &str) -> String {
    format!("{}\n{}", tail(prefix, QUERY_CHARS / 2), head(suffix, TAIL_CHARS))
}

/// The user's last words.
pub fn question(messages: &[Value]) -> String {
    last_user(messages).map(|at| text_of(&messages[at])).unwrap_or_default()
}

/// The text of a message, whose content is a string or a list of parts.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

fn last_user(messages: &[Value]) -> Option<usize> {
    messages.iter().rposition(|message| message["role"] == "user")
}

/// The messages with `block` at the head of the first one that the user wrote.
pub fn with_block(messages: &[Value], block: &str) -> Vec<Value> {
    let mut messages = messages.to_vec();
    if let Some(first) = messages.iter_mut().find(|message| message["role"] == "user") {
        match &mut first["content"] {
            Value::Array(parts) => parts.insert(0, json!({"type": "text", "text": block})),
            content => *content = format!("{block}\n{}", content.as_str().unwrap_or_default()).into(),
        }
    }
    messages
}

/// Recalls for a single prompt of text: code around a gap, unless other kinds are asked for.
pub async fn recall_for_completion(
    state: &AppState,
    counter: Counter,
    asked: &Asked,
    mut wish: MemoryWish,
) -> Attached {
    let suffix = asked.body.get("suffix").and_then(Value::as_str);
    let is_gap = suffix.is_some() || asked.body.contains_key("fim_context");
    let echoed = asked.body.get("echo").and_then(Value::as_bool).unwrap_or(false);
    let query = asked.prompt().filter(|_| !echoed).map(|prompt| query_of_gap(prompt, suffix.unwrap_or_default()));
    if let Some(recall) = wish.recall.as_mut().filter(|recall| is_gap && recall.kinds.is_empty()) {
        recall.kinds = vec![Kind::Code];
    }
    Attached::recall(state, counter, wish, query).await
}

/// Puts what was recalled into a body for another server.
///
/// A gap takes files only where the server is an Engram (`fim_context`); elsewhere what was recalled is left out.
pub fn into_wire(attached: &mut Attached, body: &mut Map<String, Value>, engram: bool) {
    let Some(block) = attached.block() else {
        return;
    };
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        *messages = with_block(messages, &block);
    } else if body.contains_key("suffix") || body.contains_key("fim_context") {
        if !engram {
            return attached.leave_out("the backend takes no files around a gap: what was recalled was left out");
        }
        let files = attached.files().into_iter().map(|file| json!({"path": file.path, "text": file.text}));
        let mut context: Vec<Value> = files.collect();
        if let Some(Value::Array(sent)) = body.remove("fim_context") {
            context.extend(sent);
        }
        body.insert("fim_context".into(), context.into());
    } else if let Some(Value::String(prompt)) = body.get_mut("prompt") {
        *prompt = format!("{block}\n{prompt}");
    } else {
        attached.leave_out("the prompt is no single text: what was recalled was left out");
    }
}

/// Whether an error only says that the prompt became too long.
pub fn is_too_long(error: &ApiError) -> bool {
    use crate::error::ErrorCode;
    matches!(error.code(), ErrorCode::ContextLengthExceeded | ErrorCode::KvCacheExceeded)
}

fn head(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn tail(text: &str, chars: usize) -> String {
    let skip = text.chars().count().saturating_sub(chars);
    text.chars().skip(skip).collect()
}

fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
#[path = "context/tests.rs"]
mod tests;
