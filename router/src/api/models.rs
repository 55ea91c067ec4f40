//! `GET /v1/models` and `/v1/models/{id}`.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::auth::Tenant;
use crate::backend::{EncoderFacts, ServedModel};
use crate::error::ApiError;

/// All models that are served and that the key sees.
pub async fn list(State(state): State<AppState>, Extension(tenant): Extension<Tenant>) -> Json<Value> {
    let generating = state.models().iter().filter(|model| tenant.may_ask(model.names())).map(describe);
    let encoder = state.models().encoders().facts().filter(|encoder| tenant.may_ask(encoder.names()));
    let data: Vec<Value> = generating.chain(encoder.iter().map(describe_encoder)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One of them.
pub async fn retrieve(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let encoders = state.models().encoders();
    let encoder = encoders.facts().filter(|encoder| encoders.has(&id) && tenant.may_ask(encoder.names()));
    if let Some(encoder) = encoder {
        return Ok(Json(describe_encoder(&encoder)));
    }
    state.models().find_for(Some(&id), &tenant).map(|model| Json(describe(&model)))
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
