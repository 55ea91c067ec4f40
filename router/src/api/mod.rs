//! The endpoints, one a file: read the request, ask the backend, write the answer.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod memory;
pub mod models;
pub mod status;
pub mod tokenize;

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};

use crate::app::AppState;
use crate::error::{ApiError, ErrorCode};

/// A request's body, declared as JSON, within the size and time limits; not parsed yet.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let settings = state.settings();
        let limit = settings.body_limit;
        let declared = content_length(request.headers());
        if declared.is_some_and(|len| len > limit as u64) {
            return Err(too_large(limit));
        }
        let reading = request.extract::<Bytes, _>();
        match tokio::time::timeout(settings.body_timeout, reading).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
                Err(too_large(limit))
            }
            Ok(Err(error)) => {
                Err(ApiError::new(ErrorCode::InvalidJson, "the body could not be read to its end").with_source(error))
            }
            Err(_) => Err(ApiError::new(
                ErrorCode::RequestTimeout,
                format!("the body did not arrive within {:?}", settings.body_timeout),
            )),
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::PayloadTooLarge,
        format!("the body is larger than {limit} bytes (`server.body_limit_bytes`)"),
    )
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Only JSON: a web page of another site can send forms and plain text here without asking this
/// server first (CORS), and so make it work; JSON it cannot.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be sent with `Content-Type: application/json`"))
}

/// Runs `work`, which takes more than a moment (parsing, templates, tokenising), off the threads
/// that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(source) => Err(ApiError::internal("the server failed at this request, its log says why", source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_json_is_taken() {
        let table = [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/vnd.api+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain; application/json", false),
            ("", false),
        ];
        for (value, taken) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(value).expect("a header value"));
            assert_eq!(check_content_type(&headers).is_ok(), taken, "{value:?}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}
