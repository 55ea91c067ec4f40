//! `POST /v1/memory/records`, and `GET`, `PATCH`, `DELETE` of one.

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use engram_memory::backend::{Forget, Selection};
use engram_memory::filter::Filter;
use engram_memory::{MemoryError, Name, Partition, RecordId, Scope, Timestamp};
use serde_json::{Value, json};

use super::{UrlParameters, place, record_id};
use crate::api::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::memory::Operation;
use crate::memory::wire::{MAX_PAGE, read_kind, read_patch, read_records, record_json, written_json};
use crate::request_id::RequestId;

/// Remembers a record, or a list of them; answers when they are on disk.
pub async fn create(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Extension(id): Extension<RequestId>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let place = place(&state, &tenant)?;
    let (mut records, list) = blocking(move || read_records(&body, &place)).await?;
    for record in &mut records {
        record.provenance.request_id.get_or_insert_with(|| id.as_str().to_owned());
    }
    let operation = Operation::on("remember", records.iter().map(|record| record.kind));
    let written = state.memory().run(operation, move |store| store.remember(records)).await?;
    let mut answers: Vec<Value> = written.iter().map(written_json).collect();
    Ok(Json(match list {
        true => json!({"object": "list", "data": answers}),
        false => answers.pop().unwrap_or_default(),
    }))
}

/// Records of a scope in the order of their ids, a page at a time: `after` is the last id of the page before.
pub async fn list(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let mut parameters = UrlParameters(parameters);
    let mut take = |name: &str| parameters.take(name);
    let (domain, project, session) = (take("domain"), take("project"), take("session"));
    let (kind, filter, after, limit) = (take("kind"), take("filter"), take("after"), take("limit"));
    parameters.finish(&["after", "domain", "filter", "kind", "limit", "project", "session"])?;
    let scope = Scope {
        partition: place(&state, &tenant)?.partition(domain.as_deref())?,
        project: project.map(|name| Name::new("project", name)).transpose()?,
        session: session.map(|name| Name::new("session", name)).transpose()?,
    };
    let kinds = kind.map(|kind| read_kind("kind", &json!(kind))).transpose()?;
    let filter = filter.map(|filter| read_filter_text(&filter)).transpose()?;
    let after = after.map(|id| record_id("after", &id)).transpose()?;
    let limit = match limit.as_deref().map_or(Ok(100), str::parse) {
        Ok(limit @ 1..=MAX_PAGE) => limit,
        _ => return Err(ApiError::invalid_value("limit", format!("`limit` is not a number from 1 to {MAX_PAGE}"))),
    };
    let selection = Selection { scope, kinds: kinds.into_iter().collect(), filter };
    // One more than is shown tells whether there are more.
    let list = move |store: &dyn crate::memory::MemoryStore| store.list(&selection, after, limit + 1);
    let mut records = state.memory().run(Operation::any("list"), list).await?;
    let has_more = records.len() > limit;
    records.truncate(limit);
    let data: Vec<Value> = records.iter().map(record_json).collect();
    Ok(Json(json!({"object": "list", "data": data, "has_more": has_more})))
}

fn read_filter_text(text: &str) -> Result<Filter, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        ApiError::invalid_value("filter", format!("`filter`: {error}; it is the JSON of a search's `filter`"))
    })
}

/// The record as it stands, or with `as_of` as it stood.
pub async fn retrieve(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let mut parameters = UrlParameters(parameters);
    let as_of = match parameters.take("as_of") {
        None => None,
        Some(text) => Some(Timestamp(text.parse().map_err(|_| {
            let message = "`as_of` is not a time: write milliseconds since 1970";
            ApiError::invalid_value("as_of", message)
        })?)),
    };
    let (partition, id) = named(&state, &tenant, &id, parameters, &["as_of", "domain"])?;
    let record = state.memory().run(Operation::any("get"), move |store| store.get(&partition, id, as_of)).await?;
    Ok(Json(record_json(&record)))
}

/// Changes a record: new content or metadata is a new version, the old one stays readable by `as_of`.
pub async fn update(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let (partition, id) = named(&state, &tenant, &id, UrlParameters(parameters), &["domain"])?;
    let patch = blocking(move || read_patch(&body)).await?;
    let record = state.memory().run(Operation::any("update"), move |store| store.update(&partition, id, patch)).await?;
    Ok(Json(record_json(&record)))
}

/// Forgets a record with its history.
pub async fn delete(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path<String>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let (partition, id) = named(&state, &tenant, &id, UrlParameters(parameters), &["domain"])?;
    let what = Forget::Ids(partition, vec![id]);
    let forget = move |store: &dyn crate::memory::MemoryStore| match store.forget(&what)? {
        0 => Err(MemoryError::NotFound(id)),
        gone => Ok(gone),
    };
    state.memory().run(Operation::any("forget"), forget).await?;
    Ok(Json(json!({"id": id, "object": "memory.record", "deleted": true})))
}

/// The partition and id that a URL names.
fn named(
    state: &AppState,
    tenant: &Tenant,
    id: &str,
    mut parameters: UrlParameters,
    known: &[&str],
) -> Result<(Partition, RecordId), ApiError> {
    let domain = parameters.take("domain");
    parameters.finish(known)?;
    Ok((place(state, tenant)?.partition(domain.as_deref())?, record_id("id", id)?))
}
