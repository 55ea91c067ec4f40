//! `POST /v1/completions`: text goes on, or a gap in it is filled.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::JsonBody;
use crate::access::Facts;
use crate::answer::{Caller, Endpoint, serve};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::ApiError;
use crate::request_id::RequestId;
use crate::trace::TraceContext;

/// Completes prompts, at once or as a stream.
pub async fn create(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Extension(facts): Extension<Facts>,
    Extension(id): Extension<RequestId>,
    Extension(trace): Extension<TraceContext>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    serve(state, Caller { tenant, facts, id, headers, trace }, Endpoint::Completions, body).await
}
