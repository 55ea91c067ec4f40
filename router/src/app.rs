//! What every handler can reach, the routes, and the layers around them.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as AnyOrigin, CorsLayer};

use crate::access;
use crate::api;
use crate::auth::ApiKeys;
use crate::backend::Models;
use crate::context::Orders;
use crate::drain::Drain;
use crate::error::{ApiError, ErrorCode};
use crate::limits::HttpSettings;
use crate::memory::MemoryService;
use crate::metrics::Metrics;
use crate::openapi;
use crate::request_id::X_REQUEST_ID;

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    models: Models,
    keys: ApiKeys,
    settings: HttpSettings,
    metrics: Arc<Metrics>,
    drain: Drain,
    memory: MemoryService,
    orders: Orders,
}

impl AppState {
    /// The state of a server that is about to serve `models`. The engines in them should have been
    /// started with [`Metrics::observer`] of the same `metrics`.
    pub fn new(
        models: Models,
        keys: ApiKeys,
        settings: HttpSettings,
        metrics: Arc<Metrics>,
        memory: MemoryService,
    ) -> Self {
        let (drain, orders) = (Drain::default(), Orders::default());
        Self(Arc::new(Inner { models, keys, settings, metrics, drain, memory, orders }))
    }

    /// The models that are served.
    pub fn models(&self) -> &Models {
        &self.0.models
    }

    /// Settings of the HTTP side.
    pub fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Phase and requests in flight.
    pub fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// The memory, or the reason why there is none.
    pub fn memory(&self) -> &MemoryService {
        &self.0.memory
    }

    /// In which order each session was shown what was recalled for it.
    pub fn orders(&self) -> &Orders {
        &self.0.orders
    }

    /// When a request received at `received` must be done: by its own timeout or the configured one,
    /// whichever is shorter.
    pub fn deadline(&self, received: Instant, timeout: Option<Duration>) -> Option<Instant> {
        let bound = self.settings().request_timeout;
        let timeout = timeout.into_iter().chain(bound).min()?;
        received.checked_add(timeout)
    }
}

/// Routes that ask for no key: probes, and what describes the API itself.
fn open_routes() -> Vec<(&'static str, MethodRouter<AppState>)> {
    vec![
        ("/health", get(api::status::health)),
        ("/ready", get(api::status::ready)),
        ("/openapi.json", get(openapi::document)),
    ]
}

/// Routes that ask for a key where keys are configured.
fn keyed_routes() -> Vec<(&'static str, MethodRouter<AppState>)> {
    vec![
        ("/v1/completions", post(api::completions::create)),
        ("/v1/chat/completions", post(api::chat::create)),
        ("/v1/embeddings", post(api::embeddings::create)),
        ("/v1/models", get(api::models::list)),
        // Ids of the hub have a slash in them.
        ("/v1/models/{*id}", get(api::models::retrieve)),
        ("/v1/memory/records", get(api::memory::list).post(api::memory::create)),
        ("/v1/memory/records/{id}", get(api::memory::retrieve).patch(api::memory::update).delete(api::memory::delete)),
        ("/v1/memory/search", post(api::memory::search)),
        ("/v1/memory/forget", post(api::memory::forget)),
        (
            "/v1/memory/index",
            get(api::memory::index::retrieve).put(api::memory::index::replace).patch(api::memory::index::relocate),
        ),
        ("/v1/memory/stats", get(api::memory::stats)),
        ("/v1/memory/snapshots", post(api::memory::snapshot)),
        ("/v1/admin/memory/reembed", get(api::memory::reembed::retrieve).post(api::memory::reembed::create)),
        ("/tokenize", post(api::tokenize::tokenize)),
        ("/detokenize", post(api::tokenize::detokenize)),
        ("/metrics", get(api::status::metrics)),
        ("/version", get(api::status::version)),
    ]
}

/// Paths of all routes, as the router knows them.
#[cfg(test)]
pub(crate) fn paths() -> Vec<&'static str> {
    open_routes().into_iter().chain(keyed_routes()).map(|(path, _)| path).collect()
}

/// The routes with their layers, for [`crate::serve`] and for tests that need no connection.
pub fn router(state: AppState) -> Router {
    let with = |routes: Vec<(&str, MethodRouter<AppState>)>| {
        routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
    };
    let open = with(open_routes());
    let keyed = with(keyed_routes()).route_layer(middleware::from_fn_with_state(state.clone(), authenticate));
    let mut router = open
        .merge(keyed)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(state.settings().body_limit))
        .layer(CatchPanicLayer::custom(panicked));
    if let Some(cors) = cors(&state.settings().cors_origins) {
        router = router.layer(cors);
    }
    router.layer(middleware::from_fn_with_state(state.clone(), access::track)).with_state(state)
}

/// Lets a request pass that carries a key, and tells the handler whose it is.
async fn authenticate(State(state): State<AppState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let tenant = state.0.keys.authenticate(request.headers())?;
    tracing::Span::current().record("tenant", tenant.name.as_str());
    request.extensions_mut().insert(tenant);
    Ok(next.run(request).await)
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("no route {method} {}", shown(&uri)))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{} does not take {method}", shown(&uri)))
}

/// The path, cut to a length that a message bears.
fn shown(uri: &Uri) -> String {
    uri.path().chars().take(128).collect()
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    ApiError::internal("the server failed at this request, its log says why", message).into_response()
}

/// Nothing unless origins are configured: browsers then keep other sites' pages out.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, X_REQUEST_ID])
        .expose_headers([X_REQUEST_ID, header::RETRY_AFTER]);
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(AnyOrigin));
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    Some(layer.allow_origin(AllowOrigin::list(origins)))
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
