//! `GET /v1/models` and `/v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::backend::{EncoderFacts, ServedModel};
use crate::error::ApiError;
use crate::routing::known_models;

/// All models that are served.
pub async fn list(State(state): State<AppState>) -> Json<Value> {
    let generating = state.models().iter().map(describe);
    let encoders = state.models().encoders().facts().map(|facts| describe_encoder(&facts));
    let data: Vec<Value> = generating.chain(encoders).chain(elsewhere(&state)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub async fn retrieve(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let encoders = state.models().encoders();
    if let Some(facts) = encoders.facts().filter(|_| encoders.has(&id)) {
        return Ok(Json(describe_encoder(&facts)));
    }
    match state.models().find(Some(&id)) {
        Ok(model) => Ok(Json(describe(&model))),
        Err(error) => {
            let named = |model: &Value| model["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(&id));
            elsewhere(&state).into_iter().find(named).map(Json).ok_or(error)
        }
    }
}

/// Models that are not served here, but can be asked for.
fn elsewhere(state: &AppState) -> Vec<Value> {
    let table = state.routing().table();
    let own = |name: &str| state.models().find(Some(name)).is_ok();
    let names = known_models(&table, state.models());
    let names = names.into_iter().filter(|name| !own(name) && !state.models().encoders().has(name));
    names
        .filter_map(|name| {
            let backends: Vec<String> =
                table.having(&name).into_iter().map(|(backend, _)| backend.name().to_owned()).collect();
            let facts = table.model(&name);
            // What nobody has is no model of this server.
            (!backends.is_empty()).then(|| {
                json!({
                    "id": name,
                    "object": "model",
                    "created": 0,
                    "owned_by": backends[0],
                    "backends": backends,
                    "max_model_len": facts.and_then(|model| model.context),
                    "strengths": facts.map(|model| &model.strengths),
                })
            })
        })
        .collect()
}

/// OpenAI's four fields, then what a client of a local server wants to know.
fn describe(model: &ServedModel) -> Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "engram",
        "aliases": model.aliases,
        "max_model_len": model.max_len,
        "fim": model.fim.is_some(),
        "license": model.facts.license,
        "architecture": model.facts.architecture,
        "quantization": model.facts.quantization,
    })
}

/// The same of an encoder: `dimensions` is the length of its vectors, `min_dimensions` how short they may be asked for.
fn describe_encoder(encoder: &EncoderFacts) -> Value {
    json!({
        "id": encoder.id,
        "object": "model",
        "created": encoder.created,
        "owned_by": "engram",
        "aliases": encoder.aliases,
        "max_model_len": encoder.max_tokens,
        "embedding": true,
        "dimensions": encoder.dim,
        "min_dimensions": encoder.smallest_dim,
        "state": encoder.state,
        "license": encoder.license,
    })
}
