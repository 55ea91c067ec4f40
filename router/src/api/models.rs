//! `GET /v1/models` and `/v1/models/{id}`.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::auth::Tenant;
use crate::backend::{EncoderFacts, ServedModel};
use crate::error::ApiError;
use crate::routing::known_models;

/// All models that can be asked for and that the key sees.
pub async fn list(State(state): State<AppState>, Extension(tenant): Extension<Tenant>) -> Json<Value> {
    let generating = state.models().iter().filter(|model| tenant.may_ask(model.names())).map(describe);
    let encoder = state.models().encoders().facts().filter(|encoder| tenant.may_ask(encoder.names()));
    let own = generating.chain(encoder.iter().map(describe_encoder));
    let data: Vec<Value> = own.chain(elsewhere(&state, &tenant)).collect();
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
    match state.models().find_for(Some(&id), &tenant) {
        Ok(model) => Ok(Json(describe(&model))),
        Err(error) => {
            let named = |model: &Value| model["id"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(&id));
            elsewhere(&state, &tenant).into_iter().find(named).map(Json).ok_or(error)
        }
    }
}

/// Models that are not served here, but can be asked for.
fn elsewhere(state: &AppState, tenant: &Tenant) -> Vec<Value> {
    let table = state.routing().table();
    let own = |name: &str| state.models().find(Some(name)).is_ok() || state.models().encoders().has(name);
    let names = known_models(&table, state.models());
    let names = names.into_iter().filter(|name| !own(name) && tenant.may_ask([name.as_str()]));
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
