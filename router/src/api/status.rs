//! `GET /health`, `/ready`, `/metrics`, `/version`.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::error::ApiError;
use crate::health;
use crate::metrics::EngineReport;

/// 200 only after a recent forward pass gave finite logits.
pub async fn health(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    health::check(&state).await.map(Json)
}

/// 200 while new requests are taken.
pub async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    health::ready(&state).map(Json)
}

/// Prometheus text.
pub async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let reports: Vec<EngineReport> = state
        .models()
        .iter()
        .map(|model| EngineReport {
            model: model.id.clone(),
            stats: model.engine.stats(),
            capacity: *model.engine.capacity(),
            healthy_age: model.engine.last_healthy().map(|at| Instant::now().saturating_duration_since(at)),
        })
        .collect();
    state.memory().measure().await;
    state.routing().metrics().measure(&state.routing().table(), state.routing().placement());
    let text = state
        .metrics()
        .render(&reports)
        .map_err(|source| ApiError::internal("the metrics could not be written", source))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// What runs here.
pub async fn version() -> Json<Value> {
    Json(json!({"name": "engram", "version": env!("CARGO_PKG_VERSION")}))
}
