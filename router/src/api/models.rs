//! `GET /v1/models` and `/v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::backend::ServedModel;
use crate::error::ApiError;

/// All models that are served.
pub async fn list(State(state): State<AppState>) -> Json<Value> {
    let data: Vec<Value> = state.models().iter().map(describe).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub async fn retrieve(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
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
