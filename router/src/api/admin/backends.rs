//! `GET /v1/admin/backends`: who can answer, and how they are. `POST /v1/admin/backends/{name}/reset` closes breakers.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::openai::fields::nearest;
use crate::placement::NodeState;

/// All backends: the engine here, then the remote ones.
pub async fn list(State(state): State<AppState>) -> Json<Value> {
    let (table, now) = (state.routing().table(), Instant::now());
    let local = state.models().iter().map(|model| {
        let stats = model.engine.stats();
        json!({
            "name": "local",
            "kind": "local",
            "hosted": false,
            "models": [model.id],
            "up": !model.engine.health().stopped && !model.engine.health().failing,
            "in_flight": stats.running + stats.waiting,
            "running": stats.running,
            "waiting": stats.waiting,
            "backlog_tokens": stats.backlog_tokens,
        })
    });
    let nodes = state.routing().placement().nodes(now);
    let remote = table.backends.values().map(|backend| {
        let mut shown = backend.describe(now);
        if let Some(node) = nodes.iter().find(|node| &*node.name == backend.name()) {
            shown["placement"] = describe_node(node);
        }
        shown
    });
    Json(json!({"backends": local.chain(remote).collect::<Vec<Value>>()}))
}

/// What a peer is given among its like; one that is new or back has a growing part of a full share.
fn describe_node(node: &NodeState) -> Value {
    json!({
        "standing": node.standing.as_str(),
        "share": (node.standing.weight() * 1e3).round() / 1e3,
        "in_flight": node.in_flight,
        "first_token_s": node.first_token_s,
    })
}

/// Closes all breakers of one backend.
pub async fn reset(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let table = state.routing().table();
    let Some(backend) = table.backends.get(&name) else {
        let known: Vec<&str> = table.backends.keys().map(String::as_str).collect();
        let near = nearest(&name, &known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        let shown: String = name.chars().take(64).collect();
        let message = format!("no remote backend `{shown}`{near} Known are: {}", known.join(", "));
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    backend.reset(Instant::now());
    tracing::info!(backend = name, "breakers closed by an operator");
    Ok(Json(backend.describe(Instant::now())))
}
