//! `GET` and `POST /v1/admin/memory/reembed`: the whole memory, all keys' of it, embedded with another encoder while it
//! serves.

use axum::Json;
use axum::extract::State;
use engram_models::catalog;
use serde_json::{Value, json};

use crate::api::JsonBody;
use crate::app::AppState;
use crate::error::ApiError;
use crate::memory::Reembedding;
use crate::memory::wire::read_reembed;

/// How the run that goes on stands, or how the last one ended; `open` says whether there is a memory at all.
pub async fn retrieve(State(state): State<AppState>) -> Json<Value> {
    shown(&state, &state.memory().reembeddings().last())
}

/// Begins a run, or answers how the one stands that goes on with this encoder.
pub async fn create(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let configured = &state.memory().settings().encoder;
    let encoder = read_reembed(&body)?.unwrap_or_else(|| configured.clone());
    // A path or a repository is the operator's to name, in the configuration.
    if encoder != *configured && catalog::find(&encoder).is_none() {
        let message = format!(
            "`encoder`: {:?} is none of the catalog; put it into `memory.encoder`, restart, and ask again",
            encoder.chars().take(128).collect::<String>()
        );
        return Err(ApiError::invalid_value("encoder", message));
    }
    Ok(shown(&state, &state.memory().reembed(&encoder)?))
}

fn shown(state: &AppState, run: &Reembedding) -> Json<Value> {
    let mut answer = json!({"object": "memory.reembedding", "open": state.memory().is_open()});
    if let (Value::Object(answer), Value::Object(run)) = (&mut answer, json!(run)) {
        answer.extend(run);
    }
    Json(answer)
}
