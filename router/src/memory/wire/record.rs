//! Records to remember, changes to them, and how they are written.

use std::time::Duration;

use engram_memory::backend::Written;
use engram_memory::{Kind, Lifetime, NewRecord, Patch, Provenance, Record};
use serde_json::{Map, Value, json};

use super::scope::{Where, read_kind, read_scope};
use super::{MAX_CONTENT, MAX_RECORDS, MAX_TTL};
use crate::error::{ApiError, ErrorCode};
use crate::openai::Fields;
use crate::openai::fields::{check_len, type_of, wrong_type};

/// Reads a record or a list of them; the flag says whether it was a list.
pub fn read_records(body: &[u8], place: &Where) -> Result<(Vec<NewRecord>, bool), ApiError> {
    match super::json(body)? {
        value @ Value::Object(_) => Ok((vec![read_record(Fields::at("", value)?, place)?], false)),
        Value::Array(values) if values.is_empty() => {
            Err(ApiError::new(ErrorCode::InvalidValue, "the list of records is empty"))
        }
        Value::Array(values) => {
            check_len("records", values.len(), MAX_RECORDS)?;
            let records = values.into_iter().enumerate();
            let records = records.map(|(index, value)| read_record(Fields::at(format!("[{index}]"), value)?, place));
            Ok((records.collect::<Result<_, _>>()?, true))
        }
        other => Err(ApiError::new(
            ErrorCode::InvalidJson,
            format!("the body is {}, a record or a list of them is expected", type_of(&other)),
        )),
    }
}

fn read_record(mut fields: Fields, place: &Where) -> Result<NewRecord, ApiError> {
    let content = read_content(&mut fields)?;
    let content = fields.require("content", content)?;
    let kind_path = fields.path("kind");
    let kind = fields.raw("kind").map_or(Ok(Kind::Knowledge), |value| read_kind(&kind_path, &value))?;
    let (scope, _) = read_scope(&mut fields, place)?;
    let metadata = read_metadata(&mut fields)?.unwrap_or_default();
    let provenance = read_provenance(&mut fields)?;
    let lifetime = read_lifetime(&mut fields)?.unwrap_or_default();
    let pinned = fields.bool("pinned", false)?;
    fields.finish()?;
    Ok(NewRecord { scope, kind, content, metadata, provenance, lifetime, pinned })
}

/// Reads a change: at least one of content, metadata, ttl, pinned, feedback.
pub fn read_patch(body: &[u8]) -> Result<Patch, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let content = read_content(&mut fields)?;
    let metadata = read_metadata(&mut fields)?;
    let lifetime = read_lifetime(&mut fields)?;
    let pinned = match fields.raw("pinned") {
        None => None,
        Some(Value::Bool(pinned)) => Some(pinned),
        Some(other) => return Err(wrong_type("pinned", &other, "true or false")),
    };
    let useful = match fields.string("feedback")?.as_deref() {
        None => None,
        Some("useful") => Some(true),
        Some("wrong") => Some(false),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let message = format!("`feedback` is `{shown}`, must be useful or wrong");
            return Err(ApiError::invalid_value("feedback", message));
        }
    };
    fields.finish()?;
    let patch = Patch { content, metadata, lifetime, pinned, useful };
    if patch == Patch::default() {
        return Err(ApiError::new(
            ErrorCode::MissingParameter,
            "nothing to change: give `content`, `metadata`, `ttl`, `pinned` or `feedback`",
        ));
    }
    Ok(patch)
}

fn read_content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let content = fields.string("content")?;
    let path = fields.path("content");
    match &content {
        Some(text) if text.trim().is_empty() => {
            Err(ApiError::invalid_value(&path, format!("`{path}` is empty: there is nothing to remember")))
        }
        Some(text) if text.len() > MAX_CONTENT => Err(ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("`{path}` has {} bytes, at most {MAX_CONTENT} are taken: send it in parts", text.len()),
        )
        .with_param(path)),
        _ => Ok(content),
    }
}

fn read_metadata(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    match fields.raw("metadata") {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(wrong_type(&fields.path("metadata"), &other, "an object")),
    }
}

fn read_provenance(fields: &mut Fields) -> Result<Provenance, ApiError> {
    let Some(value) = fields.raw("provenance") else {
        return Ok(Provenance::default());
    };
    let path = fields.path("provenance");
    serde_json::from_value(value).map_err(|error| ApiError::invalid_value(&path, format!("`{path}`: {error}")))
}

/// `ttl`: seconds, or `null` for ever; absent: as the configuration says for the kind.
fn read_lifetime(fields: &mut Fields) -> Result<Option<Lifetime>, ApiError> {
    let path = fields.path("ttl");
    match fields.raw_or_null("ttl") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Lifetime::Forever)),
        Some(value) => match value.as_f64() {
            Some(seconds) if seconds > 0.0 && seconds <= MAX_TTL => {
                Ok(Some(Lifetime::For(Duration::from_secs_f64(seconds))))
            }
            Some(seconds) => Err(ApiError::invalid_value(
                &path,
                format!("`{path}` is {seconds}, must be above 0 and at most {MAX_TTL} seconds, or null for ever"),
            )),
            None => Err(wrong_type(&path, &value, "a number of seconds, or null for ever")),
        },
    }
}

/// A record as answers show it.
pub fn record_json(record: &Record) -> Value {
    json!({
        "id": record.id,
        "object": "memory.record",
        "kind": record.kind,
        "scope": {
            "domain": record.scope.partition.domain,
            "project": record.scope.project,
            "session": record.scope.session,
        },
        "content": record.content,
        "metadata": record.metadata,
        "provenance": record.provenance,
        "created": record.created,
        "updated": record.updated,
        "expires": record.expires,
        "content_hash": record.content_hash,
        "version": record.version,
        "seen": record.seen,
        "pinned": record.pinned,
        "feedback": record.feedback,
    })
}

/// The answer to a record that was remembered: all but what the client has just sent.
pub fn written_json(written: &Written) -> Value {
    let record = written.record();
    json!({
        "id": record.id,
        "object": "memory.record",
        "kind": record.kind,
        "created": record.created,
        "updated": record.updated,
        "expires": record.expires,
        "content_hash": record.content_hash,
        "version": record.version,
        "seen": record.seen,
        "is_new": matches!(written, Written::Created(_)),
    })
}
