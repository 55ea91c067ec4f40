//! `/v1/admin/flags`: what is switched on for whom. A change lasts until the configuration is read again.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::api::JsonBody;
use crate::app::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::flags::{Flag, FlagChange};
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// Most tenants that one request may list.
const MAX_TENANTS: usize = 4096;

/// All flags by name.
pub async fn list(State(state): State<AppState>) -> Json<Value> {
    let data: Vec<Value> = state.flags().list().iter().map(flag_json).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One flag.
pub async fn retrieve(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    state.flags().get(&name).map(|flag| Json(flag_json(&flag))).ok_or_else(|| unknown(&name))
}

/// Changes what the request names of a flag.
pub async fn change(
    State(state): State<AppState>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let change = read_change(&body)?;
    let flag = state.flags().change(&name, change).ok_or_else(|| unknown(&name))?;
    tracing::info!(flag = name, state = %flag_json(&flag), "a flag was changed");
    Ok(Json(flag_json(&flag)))
}

/// Reads what a request changes.
pub(crate) fn read_change(body: &[u8]) -> Result<FlagChange, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let enabled = fields.raw("enabled").map(|value| match value {
        Value::Bool(enabled) => Ok(enabled),
        other => Err(wrong_type("enabled", &other, "true or false")),
    });
    let percent = fields.f64("percent")?;
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        return Err(ApiError::invalid_value("percent", format!("`percent` is {percent}, not a number from 0 to 100")));
    }
    let name = |value: Value| match value {
        Value::String(name) if !name.is_empty() => Ok(name),
        other => Err(wrong_type("tenants", &other, "a list of names")),
    };
    let tenants = fields.list("tenants", MAX_TENANTS)?;
    let tenants = tenants.map(|names| names.into_iter().map(name).collect::<Result<Vec<_>, _>>());
    fields.finish()?;
    Ok(FlagChange { enabled: enabled.transpose()?, percent, tenants: tenants.transpose()? })
}

fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::new(ErrorCode::NotFound, format!("no flag `{name}`: flags are named in the configuration, [flags.NAME]"))
}

fn flag_json(flag: &Flag) -> Value {
    let config = &flag.config;
    json!({
        "object": "flag",
        "name": config.name,
        "enabled": config.enabled,
        "percent": config.percent,
        "tenants": config.tenants,
        "about": config.about,
        "changed": flag.changed,
    })
}
