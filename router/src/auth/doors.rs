//! The doors: every request passes here, and none that may not.
//!
//! What a route needs stands beside it in the table of routes. What stands in no table needs a key too, so that a
//! stranger learns nothing about what is there. Routes are matched as they are sent: no path is decoded, joined or
//! shortened on its way here, so there is no second reading of it to get by with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Span;

use super::gate::Pass;
use super::keys::Credential;
use super::rate_headers;
use super::scope::Scope;
use crate::access::Facts;
use crate::app::AppState;
use crate::error::{ApiError, ErrorCode};

/// What a route asks of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: probes, and what describes the API itself.
    Nothing,
    /// A key, whatever it is for.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

/// What each route asks for.
#[derive(Clone)]
pub struct Doors {
    state: AppState,
    needs: Arc<HashMap<&'static str, Need>>,
}

impl Doors {
    /// The doors before these routes, which go by their paths as the router knows them.
    pub fn new(state: AppState, needs: impl IntoIterator<Item = (&'static str, Need)>) -> Self {
        Self { state, needs: Arc::new(needs.into_iter().collect()) }
    }

    fn need(&self, request: &Request) -> Need {
        let path = request.extensions().get::<MatchedPath>();
        path.and_then(|path| self.needs.get(path.as_str()).copied()).unwrap_or(Need::Key)
    }
}

/// Lets a request pass that carries a key and may do what it asks for, and tells the handler whose it is.
pub async fn ask(State(doors): State<Doors>, mut request: Request, next: Next) -> Response {
    let need = doors.need(&request);
    if need == Need::Nothing {
        return next.run(request).await;
    }
    let credential = match doors.state.keys().authenticate(request.headers()) {
        Ok(credential) => credential,
        Err(denied) => return ApiError::from(denied).into_response(),
    };
    let span = Span::current();
    span.record("tenant", credential.tenant.name.as_str());
    span.record("key", credential.tenant.key_id.as_str());
    let mut response = match let_in(&credential, need) {
        Ok(pass) => {
            if let Some(facts) = request.extensions().get::<Facts>() {
                facts.let_in(pass, Arc::clone(&credential.life));
            }
            request.extensions_mut().insert(credential.tenant.clone());
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    rate_headers::add(response.headers_mut(), &credential.gate, Instant::now());
    response
}

fn let_in(credential: &Credential, need: Need) -> Result<Pass, ApiError> {
    if let Need::Scope(scope) = need {
        require(credential.tenant.scopes.allow(scope), scope)?;
    }
    Ok(credential.gate.enter(Instant::now())?)
}

/// The error about a scope that the key has not.
pub fn require(allowed: bool, scope: Scope) -> Result<(), ApiError> {
    if allowed {
        return Ok(());
    }
    let message = format!("this needs the scope `{scope}`, which this API key has not");
    Err(ApiError::new(ErrorCode::InsufficientScope, message))
}

#[cfg(test)]
#[path = "bypass_tests.rs"]
mod bypass_tests;
#[cfg(test)]
#[path = "doors_tests.rs"]
mod tests;
