//! `POST /v1/memory/forget`.

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::place;
use crate::api::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::memory::Operation;
use crate::memory::wire::read_forget;

/// Forgets by ids, by scope and filter, or everything of the key; answers how many records went.
pub async fn forget(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let place = place(&state, &tenant)?;
    let what = blocking(move || read_forget(&body, &place)).await?;
    let forgotten = state.memory().run(Operation::any("forget"), move |store| store.forget(&what)).await?;
    Ok(Json(json!({"object": "memory.forgotten", "forgotten": forgotten})))
}
