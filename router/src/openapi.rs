//! `GET /openapi.json`: what this API is, for programs. The document is kept by hand; tests hold it to the routes
//! and to what the parsers take.

use axum::http::header;
use axum::response::IntoResponse;

/// OpenAPI 3.1: <https://spec.openapis.org/oas/v3.1.0>.
const DOCUMENT: &str = include_str!("openapi.json");

/// The document; it asks for no key, for it tells nothing of this server in particular.
pub async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
