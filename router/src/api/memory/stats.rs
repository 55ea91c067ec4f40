//! `GET /v1/memory/stats`.

use axum::extract::{Query, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{UrlParameters, place};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::memory::Operation;

/// Sizes of one domain of the key's memory.
pub async fn stats(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let mut parameters = UrlParameters(parameters);
    let domain = parameters.take("domain");
    parameters.finish(&["domain"])?;
    let partition = place(&state, &tenant)?.partition(domain.as_deref())?;
    let shown = partition.domain.clone();
    let ask = move |store: &dyn crate::memory::MemoryStore| Ok((store.stats(Some(&partition))?, store.encoder()));
    let (stats, encoder) = state.memory().run(Operation::any("stats"), ask).await?;
    let total: u64 = stats.records.values().sum();
    Ok(Json(json!({
        "object": "memory.stats",
        "domain": shown,
        "total": total,
        "records": stats.records,
        "vectors": stats.vectors,
        "tombstones": stats.tombstones,
        "index_bytes": stats.index_bytes,
        "disk_bytes": stats.disk_bytes,
        "encoder": encoder,
    })))
}
