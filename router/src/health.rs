//! Whether answers can be trusted now: only a forward pass that gave finite logits says so.
//!
//! A process that answers HTTP while its engine is dead is the worst kind of up.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::app::AppState;
use crate::drain::Phase;
use crate::error::{ApiError, ErrorCode};

/// Good if every model had a good pass lately, or has one now.
pub async fn check(state: &AppState) -> Result<Value, ApiError> {
    if state.models().is_empty() {
        return backends(state);
    }
    let timeout = state.settings().health_timeout;
    let mut models = Map::new();
    for model in state.models().iter() {
        let id = &model.id;
        match tokio::time::timeout(timeout, model.engine.check_health_async()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(ApiError::new(ErrorCode::Unhealthy, format!("model `{id}` gives no sane answers"))
                    .with_source(error));
            }
            Err(_) => {
                return Err(ApiError::new(
                    ErrorCode::Unhealthy,
                    format!("model `{id}` ended no forward pass within {timeout:?}"),
                ));
            }
        }
        let age = model.engine.last_healthy().map(|at| Instant::now().saturating_duration_since(at).as_secs_f64());
        models.insert(id.clone(), json!({"last_forward_pass_seconds_ago": age}));
    }
    Ok(json!({"status": "ok", "models": models}))
}

/// Ready for new requests: serving, not draining.
pub fn ready(state: &AppState) -> Result<Value, ApiError> {
    match state.drain().phase() {
        Phase::Serving if state.models().is_empty() => backends(state),
        Phase::Serving => Ok(json!({"status": "ready"})),
        Phase::Draining | Phase::Stopping => {
            Err(ApiError::new(ErrorCode::ShuttingDown, "the server drains and takes no new requests"))
        }
    }
}

/// A node without a model is as good as the servers behind it: one of them must be up.
fn backends(state: &AppState) -> Result<Value, ApiError> {
    let table = state.routing().table();
    let backends: Map<String, Value> =
        table.backends.iter().map(|(name, backend)| (name.clone(), json!({"up": backend.is_up()}))).collect();
    match table.backends.values().any(|backend| backend.is_up()) {
        true => Ok(json!({"status": "ok", "models": {}, "backends": backends})),
        false if backends.is_empty() => {
            Err(ApiError::new(ErrorCode::Unhealthy, "no model is loaded, and no backend is configured"))
        }
        false => Err(ApiError::new(ErrorCode::Unhealthy, "no model is loaded, and no backend is up")),
    }
}
