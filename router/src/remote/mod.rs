//! Remote backends: other Engram nodes, OpenAI-compatible servers, hosted models behind a Portkey gateway.
//!
//! - [`Remote`] sends a body as it is and reads what comes: an answer that is whole, or a [`Failure`] of a kind that says
//!   what to do. It never retries and holds no breaker: that is the router's business.
//! - [`RemoteStream`] is handed over at the first token, so that until then another backend can be asked.
//! - Every wait ends: connect, headers, first token, silence, the whole, the client's deadline.
//! - Dropping a call or its stream closes the connection, so that the backend stops too.
//!
//! Cost: a header map and a URL cloned a call; an event is parsed once and its bytes are not copied.

mod answer;
mod client;
mod failure;
mod patience;
mod portkey;
mod request;
mod settings;
mod sse;
mod stream;
mod usage;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use reqwest::{Client, Method, Request, Response, Url};
use serde_json::Value;
use tokio::time::timeout_at;

use crate::prices::TokenCount;

use answer::Scrub;
use patience::{Limit, Patience};
use request::Addresses;

pub use crate::config::PortkeyCache;
pub use failure::{Failure, FailureKind};
pub use portkey::Upstream;
pub use settings::{PortkeySettings, RemoteError, RemoteKind, RemoteSettings};
pub use stream::{Chunk, RemoteStream};
pub use usage::of as usage_of;

/// Most time for a list of models.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most time for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a peer says whether it can serve: Engram, then vLLM and llama-server, then anything that lists models.
const PEER_PROBES: [&str; 2] = ["/ready", "/health"];

/// Which of a backend's endpoints a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `chat/completions`.
    Chat,
    /// `completions`.
    Completions,
    /// `embeddings`.
    Embeddings,
}

impl Endpoint {
    /// Its path, below the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }
}

/// One request to a backend.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where to.
    pub endpoint: Endpoint,
    /// The JSON, as the backend is to read it: with its name of the model, and `stream` as it is meant.
    pub body: Bytes,
    /// Sent along: `traceparent`, `x-request-id`. What belongs to the client's connection, and its key, is left out.
    pub headers: HeaderMap,
    /// A stream's first token must come by then, if that is sooner than the backend's own limit.
    pub first_by: Option<Instant>,
    /// Nothing is worth anything after that.
    pub deadline: Option<Instant>,
}

/// An answer that came in one piece.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its JSON.
    pub body: Value,
    /// Tokens, as the backend counted them.
    pub usage: Option<TokenCount>,
    /// What it said of its way here.
    pub upstream: Upstream,
}

/// A model that a backend lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// Whose it is; Engram's are `engram`'s.
    pub owned_by: String,
}

/// A backend behind HTTP.
pub struct Remote {
    settings: RemoteSettings,
    client: Client,
    addresses: Addresses,
    headers: HeaderMap,
    scrub: Arc<Scrub>,
    /// Which of [`PEER_PROBES`] the peer has; past the end: none.
    probe: AtomicUsize,
}

impl Remote {
    /// Makes the client; no connection is opened yet.
    pub fn new(settings: RemoteSettings) -> Result<Self, RemoteError> {
        let base = client::base(&settings)?;
        Ok(Self {
            client: client::build(&settings, &base)?,
            addresses: Addresses::under(&base),
            headers: request::fixed_headers(&settings)?,
            scrub: Arc::new(Scrub::new(request::secrets(&settings))),
            probe: AtomicUsize::new(0),
            settings,
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What kind of server it is.
    pub fn kind(&self) -> RemoteKind {
        self.settings.kind
    }

    /// Asks for an answer in one piece. `first_by` does not apply: its first token comes with its last.
    pub async fn whole(&self, call: Call) -> Result<Whole, Failure> {
        let patience = Patience::new(&self.settings, &call);
        let endpoint = call.endpoint;
        let mut response = self.ask(call, "application/json", patience.whole_headers(), &patience).await?;
        let mut upstream = Upstream::read(response.headers());
        let kind = answer::content_type(response.headers());
        let body = answer::body(&mut response, &patience, answer::BODY_LIMIT).await?;
        let body = answer::whole(endpoint, &body, &kind, &self.scrub)?;
        upstream.model = body.get("model").and_then(Value::as_str).map(str::to_owned);
        Ok(Whole { usage: usage::of(&body), body, upstream })
    }

    /// Asks for a stream, and waits for the first of its events that carries output. Those before it are not lost.
    pub async fn stream(&self, call: Call) -> Result<RemoteStream, Failure> {
        let patience = Patience::new(&self.settings, &call);
        let response = self.ask(call, "text/event-stream", patience.stream_headers(), &patience).await?;
        let kind = answer::content_type(response.headers());
        if !kind.is_empty() && kind != "text/event-stream" {
            return Err(self.no_stream(response, &kind, &patience).await);
        }
        let upstream = Upstream::read(response.headers());
        RemoteStream::open(response, upstream, patience, Arc::clone(&self.scrub)).await
    }

    /// The models it lists.
    pub async fn models(&self) -> Result<Vec<Listed>, Failure> {
        let patience = self.short(LIST_TIMEOUT);
        let mut response = self.get(self.addresses.models.clone(), &patience).await?;
        if !answer::is_good(response.status()) {
            return Err(self.refused(response, &patience).await);
        }
        let body = answer::body(&mut response, &patience, answer::BODY_LIMIT).await?;
        answer::models(&body, &self.scrub)
    }

    /// Asks for a sign of life, and says how long it took. A peer says whether it can serve; of the others any answer
    /// will do that is no failure of the server and no refusal of the key.
    pub async fn probe(&self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let patience = self.short(PROBE_TIMEOUT);
        match self.settings.kind {
            RemoteKind::Peer => self.probe_peer(&patience).await?,
            RemoteKind::Portkey => self.probe_at(self.addresses.at_root("/"), &patience).await?,
            RemoteKind::OpenAiCompatible => self.probe_at(self.addresses.models.clone(), &patience).await?,
        }
        Ok(begun.elapsed())
    }

    async fn probe_peer(&self, patience: &Patience) -> Result<(), Failure> {
        for (at, path) in PEER_PROBES.iter().enumerate().skip(self.probe.load(Ordering::Relaxed)) {
            let response = self.get(self.addresses.at_root(path), patience).await?;
            if response.status().is_success() {
                self.probe.store(at, Ordering::Relaxed);
                return Ok(());
            }
            let failure = self.refused(response, patience).await;
            if failure.kind != FailureKind::NoModel {
                return Err(failure);
            }
        }
        self.probe_at(self.addresses.models.clone(), patience).await?;
        self.probe.store(PEER_PROBES.len(), Ordering::Relaxed);
        Ok(())
    }

    async fn probe_at(&self, url: Url, patience: &Patience) -> Result<(), Failure> {
        let response = self.get(url, patience).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let failure = self.refused(response, patience).await;
        if failure.kind.counts() || failure.kind == FailureKind::BadKey { Err(failure) } else { Ok(()) }
    }

    /// Sends a call, and turns what is no good status into a failure.
    async fn ask(
        &self,
        call: Call,
        accept: &'static str,
        wait: Limit,
        patience: &Patience,
    ) -> Result<Response, Failure> {
        let mut request = Request::new(Method::POST, self.addresses.of(call.endpoint));
        *request.headers_mut() = request::headers(&self.settings, &self.headers, call.headers, accept, patience.left());
        *request.body_mut() = Some(call.body.into());
        let response = self.send(request, wait).await?;
        if answer::is_good(response.status()) { Ok(response) } else { Err(self.refused(response, patience).await) }
    }

    async fn get(&self, url: Url, patience: &Patience) -> Result<Response, Failure> {
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = self.headers.clone();
        self.send(request, patience.whole_headers()).await
    }

    async fn send(&self, request: Request, wait: Limit) -> Result<Response, Failure> {
        if wait.is_over() {
            return Err(wait.failure());
        }
        match timeout_at(wait.by, self.client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::from_http(&error)),
            Err(_) => Err(wait.failure()),
        }
    }

    async fn refused(&self, response: Response, patience: &Patience) -> Failure {
        answer::refused(response, patience, self.settings.kind == RemoteKind::Portkey, &self.scrub).await
    }

    /// A good status, but no stream: the reason may stand in the body.
    async fn no_stream(&self, mut response: Response, kind: &str, patience: &Patience) -> Failure {
        let body = answer::body(&mut response, patience, answer::ERROR_LIMIT).await.unwrap_or_default();
        let said = serde_json::from_slice(&body).ok().and_then(|value| answer::failure_in(&value, &self.scrub));
        said.unwrap_or_else(|| {
            let kind = self.scrub.clean(kind);
            Failure::new(FailureKind::Garbage, format!("answered `{kind}` where a stream was asked for"))
        })
    }

    /// Patience for a question of our own.
    fn short(&self, limit: Duration) -> Patience {
        Patience::short(&self.settings, limit)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.settings.name).field("kind", &self.settings.kind).finish()
    }
}
