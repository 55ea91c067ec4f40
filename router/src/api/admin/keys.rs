//! `/v1/admin/keys`: keys made, listed, rotated and revoked. They are those of the store: the configuration's own
//! are changed where they stand.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::api::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::record::MAX_MODELS;
use crate::auth::store::{Issued, unix_now};
use crate::auth::{KeyLimits, KeyRecord, NewKey, Scope, Scopes, StoreError};
use crate::error::{ApiError, ErrorCode};
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// Longest life and longest grace of a key, seconds: a hundred years.
const MAX_SECONDS: usize = 3_155_760_000;

/// All keys, in the order in which they were made.
pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let records = blocking(move || match state.keys().store() {
        Some(store) => Ok(store.read()?.unwrap_or_default()),
        None => Err(no_store()),
    })
    .await?;
    let data: Vec<Value> = records.iter().map(record_json).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// Makes a key. The answer is the only place where it is ever shown.
pub async fn create(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let new = read_new(&body)?;
    let issued = changed(state, move |state| state.keys().create(new)).await?;
    Ok(Json(issued_json(&issued)))
}

/// Makes a new key in place of one; that one opens for `grace_s` longer.
pub async fn rotate(
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::from_slice(&body)?;
    let grace = fields.count("grace_s", 0..=MAX_SECONDS)?.unwrap_or(0);
    fields.finish()?;
    let grace = Duration::from_secs(grace as u64);
    let issued = changed(state, move |state| state.keys().rotate(&id, grace)).await?;
    Ok(Json(issued_json(&issued)))
}

/// Revokes a key. Requests that run by it as streams end with an error event.
pub async fn revoke(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let record = changed(state, move |state| state.keys().revoke(&id)).await?;
    Ok(Json(json!({"id": record.id, "object": "api_key", "name": record.name, "deleted": true})))
}

/// Does something to the store; it waits for a disk, so not on the threads that serve connections.
async fn changed<T: Send + 'static>(
    state: AppState,
    change: impl FnOnce(&AppState) -> Option<Result<T, StoreError>> + Send + 'static,
) -> Result<T, ApiError> {
    blocking(move || Ok(change(&state).ok_or_else(no_store)??)).await
}

fn no_store() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "this server keeps no API keys: it was started inside a command")
}

/// What a body asks for.
pub(crate) fn read_new(body: &[u8]) -> Result<NewKey, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let name = fields.string("name")?;
    let name = fields.require("name", name)?;
    let new = NewKey {
        tenant: fields.string("tenant")?,
        domain: fields.string("domain")?,
        scopes: match fields.list("scopes", Scope::ALL.len())? {
            Some(words) => read_scopes(&words)?,
            None => NewKey::named("").scopes,
        },
        models: fields.list("models", MAX_MODELS)?.map(|names| read_models(&names)).transpose()?,
        limits: fields.object("limits")?.map_or_else(|| Ok(KeyLimits::default()), read_limits)?,
        expires_in: fields.count("expires_in_s", 1..=MAX_SECONDS)?.map(|time| Duration::from_secs(time as u64)),
        ..NewKey::named(name)
    };
    fields.finish()?;
    Ok(new)
}

fn read_scopes(words: &[Value]) -> Result<Scopes, ApiError> {
    let scope = |(index, word): (usize, &Value)| {
        let path = format!("scopes[{index}]");
        let text = word.as_str().ok_or_else(|| wrong_type(&path, word, "a string"))?;
        text.parse::<Scope>().map_err(|error| ApiError::invalid_value(&path, format!("`{path}`: {error}")))
    };
    words.iter().enumerate().map(scope).collect()
}

fn read_models(names: &[Value]) -> Result<Vec<String>, ApiError> {
    let name = |(index, name): (usize, &Value)| {
        let text = name.as_str().ok_or_else(|| wrong_type(&format!("models[{index}]"), name, "a string"))?;
        Ok(text.to_owned())
    };
    names.iter().enumerate().map(name).collect()
}

fn read_limits(mut fields: Fields) -> Result<KeyLimits, ApiError> {
    let mut count = |name| fields.count(name, 1..=u32::MAX as usize);
    let (rpm, tpm, concurrency) = (count("rpm")?, count("tpm")?, count("concurrency")?);
    let limits = KeyLimits {
        rpm: rpm.map(|limit| limit as u64),
        tpm: tpm.map(|limit| limit as u64),
        concurrency: concurrency.and_then(|limit| u32::try_from(limit).ok()),
        day_usd: fields.f64("day_usd")?,
        month_usd: fields.f64("month_usd")?,
    };
    fields.finish()?;
    Ok(limits)
}

/// What is told of a key: all but itself and its hash.
pub fn record_json(record: &KeyRecord) -> Value {
    let retiring: Vec<u64> = record.retiring.iter().map(|old| old.until).collect();
    json!({
        "id": record.id,
        "object": "api_key",
        "name": record.name,
        "prefix": record.prefix,
        "tenant": record.tenant,
        "domain": record.domain,
        "scopes": record.scopes,
        "models": record.models,
        "limits": record.limits,
        "created": record.created,
        "rotated": record.rotated,
        "expires": record.expires,
        "expired": record.expired(unix_now()),
        "retiring_until": retiring,
    })
}

/// The same with the key in it.
pub fn issued_json(issued: &Issued) -> Value {
    let mut value = record_json(&issued.record);
    value["key"] = issued.key.as_str().into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_becomes_a_key_field_by_field() {
        let body = json!({
            "name": "ci", "tenant": "ada", "domain": "web", "scopes": ["memory", "admin"], "models": ["m"],
            "limits": {"rpm": 1, "tpm": 2, "concurrency": 3, "day_usd": 4.5, "month_usd": 6}, "expires_in_s": 7,
        });
        let limits =
            KeyLimits { rpm: Some(1), tpm: Some(2), concurrency: Some(3), day_usd: Some(4.5), month_usd: Some(6.0) };
        let expected = NewKey {
            tenant: Some("ada".into()),
            domain: Some("web".into()),
            scopes: [Scope::Memory, Scope::Admin].into_iter().collect(),
            models: Some(vec!["m".into()]),
            limits,
            expires_in: Some(Duration::from_secs(7)),
            ..NewKey::named("ci")
        };
        assert_eq!(read_new(body.to_string().as_bytes()).expect("good"), expected);
        assert_eq!(read_new(b"{\"name\": \"ci\"}").expect("good"), NewKey::named("ci"));
    }

    #[test]
    fn a_wrong_body_names_its_field() {
        for (body, param) in [
            (json!({}), "name"),
            (json!({"name": 1}), "name"),
            (json!({"name": "ci", "scopes": ["root"]}), "scopes[0]"),
            (json!({"name": "ci", "scopes": [1]}), "scopes[0]"),
            (json!({"name": "ci", "models": [1]}), "models[0]"),
            (json!({"name": "ci", "limits": {"rpm": 0}}), "limits.rpm"),
            (json!({"name": "ci", "limits": {"rps": 1}}), "limits.rps"),
            (json!({"name": "ci", "expires_in_s": 0}), "expires_in_s"),
            (json!({"name": "ci", "key": "mine"}), "key"),
        ] {
            let error = read_new(body.to_string().as_bytes()).expect_err(&body.to_string());
            assert_eq!(error.param(), Some(param), "{body}: {error}");
        }
    }
}
