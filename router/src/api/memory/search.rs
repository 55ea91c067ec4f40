//! `POST /v1/memory/search`.

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::Value;

use super::place;
use crate::api::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::memory::Operation;
use crate::memory::wire::{read_search, recall_json};

/// Finds what was remembered, by meaning, word and name; each hit says why it is one.
pub async fn search(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let place = place(&state, &tenant)?;
    let request = match body.len() {
        // A short body is read sooner than another thread is woken.
        0..=4096 => read_search(&body, &place)?,
        _ => blocking(move || read_search(&body, &place)).await?,
    };
    let counter = match request.query.budget_tokens {
        Some(_) => Some(state.models().find_for(request.model.as_deref(), &tenant)?),
        None => None,
    };
    let operation = Operation::on("search", request.query.kinds.iter().copied());
    let search = move |store: &dyn crate::memory::MemoryStore| match &counter {
        Some(model) => store.search(&request.query, Some(&|text: &str| model.count_tokens(text))),
        None => store.search(&request.query, None),
    };
    let recall = state.memory().run(operation, search).await?;
    Ok(Json(recall_json(&recall)))
}
