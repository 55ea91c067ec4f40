//! Searches and their hits.

use engram_memory::{Hit, Query, Recall, Signals, Timestamp};
use serde_json::{Value, json};

use super::record::record_json;
use super::scope::{Where, read_kinds, read_scope};
use super::{MAX_K, MAX_QUERY, read_filter};
use crate::error::ApiError;
use crate::openai::Fields;
use crate::openai::fields::type_of;

/// Hits where `k` is absent.
const DEFAULT_K: usize = 10;

/// A search, and the model whose tokens its budget counts.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// What the memory is asked.
    pub query: Query,
    /// Model that counts `budget_tokens`; absent: the only one there is.
    pub model: Option<String>,
}

/// Reads a search.
pub fn read_search(body: &[u8], place: &Where) -> Result<SearchRequest, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let text = fields.string("query")?;
    let text = fields.require("query", text)?;
    if text.trim().is_empty() {
        return Err(ApiError::invalid_value("query", "`query` is empty: say what to look for"));
    }
    if text.len() > MAX_QUERY {
        let message = format!("`query` has {} bytes, at most {MAX_QUERY} are taken", text.len());
        return Err(ApiError::invalid_value("query", message));
    }
    let (scope, _) = read_scope(&mut fields, place)?;
    let k = fields.count("k", 1..=MAX_K)?.unwrap_or(DEFAULT_K);
    let kinds = read_kinds(&mut fields)?;
    let filter = read_filter(&mut fields)?;
    let min_score = fields.f64("min_score")?;
    if let Some(score) = min_score.filter(|score| !(0.0..=1.0).contains(score)) {
        let message = format!("`min_score` is {score}, must be between 0 and 1");
        return Err(ApiError::invalid_value("min_score", message));
    }
    let as_of = fields.integer("as_of", 0..=i64::MAX)?.map(|ms| Timestamp(ms.unsigned_abs()));
    let budget_tokens = fields.count("budget_tokens", 1..=usize::MAX)?;
    let signals = read_signals(&mut fields)?;
    let model = fields.string("model")?;
    fields.finish()?;
    let min_score = min_score.map(|score| score as f32);
    Ok(SearchRequest {
        query: Query { scope, text, k, kinds, filter, min_score, as_of, budget_tokens, signals },
        model,
    })
}

/// `signals`: the names of those to use; absent: all.
fn read_signals(fields: &mut Fields) -> Result<Signals, ApiError> {
    let Some(names) = fields.list("signals", 3)? else {
        return Ok(Signals::default());
    };
    let mut signals = Signals { dense: false, lexical: false, literal: false };
    for (index, name) in names.iter().enumerate() {
        match name.as_str() {
            Some("dense") => signals.dense = true,
            Some("lexical") => signals.lexical = true,
            Some("literal") => signals.literal = true,
            _ => {
                let path = format!("signals[{index}]");
                let found = name.as_str().map_or_else(
                    || type_of(name).to_owned(),
                    |text| format!("`{}`", text.chars().take(64).collect::<String>()),
                );
                let message = format!("`{path}` is {found}, must be dense, lexical or literal");
                return Err(ApiError::invalid_value(path, message));
            }
        }
    }
    if names.is_empty() {
        return Err(ApiError::invalid_value("signals", "`signals` is empty: name one, or leave it out for all"));
    }
    Ok(signals)
}

/// A hit: its record, its score and why.
pub fn hit_json(hit: &Hit) -> Value {
    let mut value = record_json(&hit.record);
    value["score"] = json!(hit.score);
    value["signals"] = json!(hit.signals);
    if let Some(tokens) = hit.tokens {
        value["tokens"] = json!(tokens);
    }
    value
}

/// A whole answer.
pub fn recall_json(recall: &Recall) -> Value {
    let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "object": "memory.search",
        "hits": recall.hits.iter().map(hit_json).collect::<Vec<Value>>(),
        "cached": recall.cached,
        "timings": {"embed_ms": milliseconds(recall.embed), "search_ms": milliseconds(recall.search)},
    })
}
