//! `GET`, `PUT` and `PATCH /v1/memory/index`: what `engram memory index` keeps beside the records of a project.
//!
//! The manifest lies with the records and not with the client, so that forgetting a project forgets that it was
//! indexed, and so that it may be indexed from another machine.

use axum::extract::{Query, State};
use axum::{Extension, Json};
use engram_memory::{Name, Scope};
use serde_json::{Value, json};

use super::{UrlParameters, place};
use crate::api::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::memory::Operation;
use crate::memory::wire::{read_manifest, read_moves};

/// What was indexed of a project; `manifest` is null where nothing was.
pub async fn retrieve(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let mut parameters = UrlParameters(parameters);
    let (domain, project) = (parameters.take("domain"), parameters.take("project"));
    parameters.finish(&["domain", "project"])?;
    let scope = Scope {
        partition: place(&state, &tenant)?.partition(domain.as_deref())?,
        project: project.map(|project| Name::new("project", project)).transpose()?,
        session: None,
    };
    let manifest = state.memory().run(Operation::any("index"), move |store| store.manifest(&scope)).await?;
    Ok(Json(json!({"object": "memory.index", "manifest": manifest})))
}

/// Keeps what was indexed of a project, in place of what was kept before; what is larger than a body may be comes in
/// parts, and counts when the last is there.
pub async fn replace(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let place = place(&state, &tenant)?;
    let (scope, manifest, part) = blocking(move || read_manifest(&body, &place)).await?;
    let files = manifest.files.len();
    let keep = move |store: &dyn crate::memory::MemoryStore| store.keep_manifest(&scope, &manifest, part.as_ref());
    state.memory().run(Operation::any("index"), keep).await?;
    Ok(Json(json!({"object": "memory.index", "files": files})))
}

/// Says where records are now; their text and version stay.
pub async fn relocate(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let place = place(&state, &tenant)?;
    let (scope, moved) = blocking(move || read_moves(&body, &place)).await?;
    let relocate = move |store: &dyn crate::memory::MemoryStore| store.relocate(&scope.partition, moved);
    let moved = state.memory().run(Operation::any("update"), relocate).await?;
    Ok(Json(json!({"object": "memory.index", "moved": moved})))
}
