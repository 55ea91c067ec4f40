//! What every handler can reach, the routes, and the layers around them.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as AnyOrigin, CorsLayer};

use crate::access;
use crate::api;
use crate::auth::credential::KEY_HEADERS;
use crate::auth::doors::{self, Doors, Need};
use crate::auth::rate_headers;
use crate::auth::{ApiKeys, Scope};
use crate::backend::Models;
use crate::context::Orders;
use crate::drain::Drain;
use crate::error::{ApiError, ErrorCode};
use crate::flags::Flags;
use crate::limits::HttpSettings;
use crate::memory::MemoryService;
use crate::metrics::Metrics;
use crate::openapi;
use crate::request_id::X_REQUEST_ID;
use crate::routing::Routing;
use crate::trace::Tracer;

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
    routing: Routing,
    flags: Flags,
    tracer: OnceLock<Tracer>,
}

/// Which routes a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// All.
    Both,
    /// The API without `/metrics` and `/v1/admin`.
    Api,
    /// `/metrics`, `/v1/admin`, and what tells how the server is.
    Admin,
}

impl Side {
    fn has(self, path: &str) -> bool {
        let admin = path == "/metrics" || path.starts_with("/v1/admin/");
        let status = matches!(path, "/health" | "/ready" | "/version" | "/openapi.json");
        match self {
            Self::Both => true,
            Self::Api => !admin,
            Self::Admin => admin || status,
        }
    }
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
        routing: Routing,
    ) -> Self {
        let (drain, orders, flags) = (Drain::default(), Orders::default(), Flags::default());
        let tracer = OnceLock::new();
        Self(Arc::new(Inner { models, keys, settings, metrics, drain, memory, orders, routing, flags, tracer }))
    }

    /// The models that are served.
    pub fn models(&self) -> &Models {
        &self.0.models
    }

    /// The keys that open.
    pub fn keys(&self) -> &ApiKeys {
        &self.0.keys
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

    /// Who else can answer.
    pub fn routing(&self) -> &Routing {
        &self.0.routing
    }

    /// What is switched on for whom; nothing until they are configured.
    pub fn flags(&self) -> &Flags {
        &self.0.flags
    }

    /// Spans of requests go where this sends them, from now on; a second call changes nothing.
    pub fn trace_by(&self, tracer: Tracer) {
        let _ = self.0.tracer.set(tracer);
    }

    /// Where spans begin; without [`trace_by`](Self::trace_by) they go nowhere.
    pub fn tracer(&self) -> Tracer {
        self.0.tracer.get().cloned().unwrap_or_default()
    }

    /// When a request received at `received` must be done: by its own timeout or the configured one,
    /// whichever is shorter.
    pub fn deadline(&self, received: Instant, timeout: Option<Duration>) -> Option<Instant> {
        let bound = self.settings().request_timeout;
        let timeout = timeout.into_iter().chain(bound).min()?;
        received.checked_add(timeout)
    }
}

/// Every route with what it asks for.
fn routes() -> Vec<(&'static str, Need, MethodRouter<AppState>)> {
    const INFERENCE: Need = Need::Scope(Scope::Inference);
    const MEMORY: Need = Need::Scope(Scope::Memory);
    const ADMIN: Need = Need::Scope(Scope::Admin);
    use api::memory;
    let record = get(memory::retrieve).patch(memory::update).delete(memory::delete);
    let index = get(memory::index::retrieve).put(memory::index::replace).patch(memory::index::relocate);
    vec![
        ("/health", Need::Nothing, get(api::status::health)),
        ("/ready", Need::Nothing, get(api::status::ready)),
        ("/openapi.json", Need::Nothing, get(openapi::document)),
        ("/version", Need::Key, get(api::status::version)),
        ("/v1/models", Need::Key, get(api::models::list)),
        // Ids of the hub have a slash in them.
        ("/v1/models/{*id}", Need::Key, get(api::models::retrieve)),
        ("/v1/completions", INFERENCE, post(api::completions::create)),
        ("/v1/chat/completions", INFERENCE, post(api::chat::create)),
        ("/v1/embeddings", INFERENCE, post(api::embeddings::create)),
        ("/tokenize", INFERENCE, post(api::tokenize::tokenize)),
        ("/detokenize", INFERENCE, post(api::tokenize::detokenize)),
        ("/v1/memory/records", MEMORY, get(memory::list).post(memory::create)),
        ("/v1/memory/records/{id}", MEMORY, record),
        ("/v1/memory/search", MEMORY, post(memory::search)),
        ("/v1/memory/forget", MEMORY, post(memory::forget)),
        ("/v1/memory/index", MEMORY, index),
        ("/v1/memory/stats", MEMORY, get(memory::stats)),
        // All tenants' memory goes into one file.
        ("/v1/memory/snapshots", ADMIN, post(memory::snapshot)),
        ("/v1/admin/keys", ADMIN, get(api::admin::keys::list).post(api::admin::keys::create)),
        ("/v1/admin/keys/{id}", ADMIN, delete(api::admin::keys::revoke)),
        ("/v1/admin/keys/{id}/rotate", ADMIN, post(api::admin::keys::rotate)),
        ("/v1/admin/memory/reembed", ADMIN, get(memory::reembed::retrieve).post(memory::reembed::create)),
        ("/v1/admin/backends", ADMIN, get(api::admin::backends::list)),
        ("/v1/admin/backends/{name}/reset", ADMIN, post(api::admin::backends::reset)),
        ("/v1/admin/flags", ADMIN, get(api::admin::flags::list)),
        ("/v1/admin/flags/{name}", ADMIN, get(api::admin::flags::retrieve).put(api::admin::flags::change)),
        ("/metrics", Need::Scope(Scope::Metrics), get(api::status::metrics)),
    ]
}

/// What every route asks for, by its path as the router knows it.
pub(crate) fn needs() -> impl Iterator<Item = (&'static str, Need)> {
    routes().into_iter().map(|(path, need, _)| (path, need))
}

/// Paths of all routes, as the router knows them.
#[cfg(test)]
pub(crate) fn paths() -> Vec<&'static str> {
    routes().into_iter().map(|(path, ..)| path).collect()
}

/// The routes with their layers, for [`crate::serve`] and for tests that need no connection.
pub fn router(state: AppState) -> Router {
    side(state, Side::Both)
}

/// The routes of one side. Those of the other are not there at all: no key opens them here.
pub fn side(state: AppState, side: Side) -> Router {
    let doors = Doors::new(state.clone(), needs());
    let mut router = routes()
        .into_iter()
        .filter(|(path, ..)| side.has(path))
        .fold(Router::new(), |router, (path, _, methods)| router.route(path, methods))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        // Around the fallbacks too: a stranger is told of no route that it is not there.
        .layer(middleware::from_fn_with_state(doors, doors::ask))
        .layer(DefaultBodyLimit::max(state.settings().body_limit))
        .layer(CatchPanicLayer::custom(panicked));
    if let Some(cors) = cors(&state.settings().cors_origins) {
        router = router.layer(cors);
    }
    router.layer(middleware::from_fn_with_state(state.clone(), access::track)).with_state(state)
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
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(
            [header::AUTHORIZATION, header::CONTENT_TYPE, X_REQUEST_ID]
                .into_iter()
                .chain(KEY_HEADERS)
                .collect::<Vec<_>>(),
        )
        .expose_headers(
            [X_REQUEST_ID, header::RETRY_AFTER].into_iter().chain(rate_headers::names()).collect::<Vec<_>>(),
        );
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(AnyOrigin));
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    Some(layer.allow_origin(AllowOrigin::list(origins)))
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
