//! `GET /v1/models` and `/v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::backend::{EncoderFacts, ServedModel};
use crate::error::ApiError;

/// All models that are served.
pub async fn list(State(state): State<AppState>) -> Json<Value> {
    let generating = state.models().iter().map(describe);
    let data: Vec<Value> = generating.chain(state.models().encoders().facts().iter().map(describe_encoder)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub async fn retrieve(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let encoders = state.models().encoders();
    if let Some(facts) = encoders.facts().filter(|_| encoders.has(&id)) {
        return Ok(Json(describe_encoder(&facts)));
    }
    state.models().find(Some(&id)).map(|model| Json(describe(&model)))
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
