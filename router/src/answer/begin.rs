//! An answer that has begun: its first token is there, whoever makes it.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Map, Value, json};

use super::Endpoint;
use super::serve::Way;
use crate::backend::{Asker, LocalChat, LocalCompletion, ServedModel};
use crate::context;
use crate::error::{ApiError, ErrorCode};
use crate::openai::chat::ChatRequest;
use crate::openai::completion::CompletionRequest;
use crate::placement::Placed;
use crate::remote::{Chunk, Upstream};
use crate::routing::{Attempt, Backend, Began, Candidate, Refusal, RemoteAnswer, RemoteCall};
use crate::trace::TraceSpan;

/// How many servers a request has come through: Engrams that are each other's peers must not pass it round for ever.
pub const HOPS: HeaderName = HeaderName::from_static("x-engram-hops");
/// And how many it may.
const MAX_HOPS: u32 = 3;

/// An answer whose beginning is there.
pub enum Begun {
    /// A chat, by the engine of this process.
    Chat(LocalChat),
    /// A completion, by the engine of this process.
    Completion(LocalCompletion),
    /// By another server; the span of the call ends with the answer.
    Remote(Box<RemoteAnswer>, TraceSpan),
}

/// A chunk of a streamed answer; as it was received, if it came from another server.
pub type Chunks = BoxStream<'static, Result<Chunk, ApiError>>;

impl Begun {
    /// What a gateway on the way said.
    pub fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Remote(answer, _) => Some(&answer.upstream),
            Self::Chat(_) | Self::Completion(_) => None,
        }
    }

    /// The whole answer in one piece.
    pub async fn whole(self) -> Result<Value, ApiError> {
        match self {
            Self::Chat(chat) => chat.whole().await,
            Self::Completion(completion) => completion.whole().await,
            Self::Remote(answer, _) => match answer.began {
                Began::Whole(whole) => Ok(whole.body),
                // A whole answer is asked for as a whole.
                Began::Stream(_) => {
                    Err(ApiError::internal("a stream came where a whole answer was asked for", "stream"))
                }
            },
        }
    }

    /// The answer as it comes.
    pub fn chunks(self) -> Chunks {
        match self {
            Self::Chat(chat) => chat.chunks().map(|chunk| chunk.map(Chunk::from)).boxed(),
            Self::Completion(completion) => completion.chunks().map(|chunk| chunk.map(Chunk::from)).boxed(),
            Self::Remote(answer, span) => remote_chunks(*answer, span),
        }
    }
}

/// The stream of another server; a failure in it counts against the backend, and its place there is kept to the end.
fn remote_chunks(answer: RemoteAnswer, mut span: TraceSpan) -> Chunks {
    let RemoteAnswer { began, mut claim, .. } = answer;
    let Began::Stream(stream) = began else {
        return futures::stream::empty().boxed();
    };
    stream
        .map(move |chunk| {
            chunk.map_err(|failure| {
                claim.broke(&failure);
                span.fail(failure.kind.as_str());
                let message = format!("`{}` failed in the middle of its answer: {}", claim.backend(), failure.message);
                ApiError::new(ErrorCode::BackendsFailed, message)
            })
        })
        .boxed()
}

impl Way {
    /// Asks the engine of this process.
    pub(super) async fn begin_local(
        &mut self,
        candidate: &Candidate,
        model: &Arc<ServedModel>,
    ) -> Result<Begun, Refusal> {
        let begun = Instant::now();
        let asker =
            Asker { tenant: self.caller.tenant.clone(), deadline: self.deadline, facts: self.caller.facts.clone() };
        let result = match self.asked.endpoint {
            Endpoint::Completions => match CompletionRequest::from_map(self.asked.body.clone()) {
                Ok(request) => LocalCompletion::begin(&self.state, model, &asker, request, &mut self.attached)
                    .await
                    .map(Begun::Completion),
                Err(error) => Err(error),
            },
            _ => match ChatRequest::from_map(self.asked.body.clone()) {
                Ok(request) => {
                    LocalChat::begin(&self.state, model, &asker, request, &mut self.attached).await.map(Begun::Chat)
                }
                Err(error) => Err(error),
            },
        };
        result.map_err(|error| {
            if !another_may_do_it(error.code()) {
                return Refusal::Fatal(error);
            }
            let (backend, model) = (candidate.backend().to_owned(), candidate.model.clone());
            Refusal::Local(Box::new(Attempt::of(&error, backend, model, begun.elapsed())), error)
        })
    }

    /// Asks another server.
    pub(super) async fn begin_remote(
        &mut self,
        candidate: &Candidate,
        placed: Option<Placed>,
        backend: &Arc<Backend>,
        upstream: &str,
        failed: &mut Vec<Attempt>,
    ) -> Result<Begun, Refusal> {
        let hops = hops(&self.caller.headers);
        if hops >= MAX_HOPS {
            let message = format!(
                "the request came through {hops} servers already: peers that are each other's peers pass it round"
            );
            return Err(Refusal::Fatal(ApiError::new(ErrorCode::NoBackend, message)));
        }
        let mut span = self.span_of(backend, upstream);
        let mut headers = self.headers_for(backend, hops);
        span.context().write(&mut headers);
        let call = RemoteCall {
            endpoint: self.asked.endpoint,
            body: self.body_for(backend, upstream),
            headers,
            stream: self.asked.stream,
            first_by: self.first_by,
            deadline: self.deadline,
            candidate,
            placed,
        };
        match self.state.routing().ask(backend, call, failed).await {
            Ok(answer) => Ok(Begun::Remote(Box::new(answer), span)),
            Err(refusal) => {
                span.fail(refusal.code());
                Err(refusal)
            }
        }
    }

    /// The span of a call, its tries together. Untraced, it still carries the trace that the request came with.
    fn span_of(&self, backend: &Backend, upstream: &str) -> TraceSpan {
        let operation = match self.asked.endpoint {
            Endpoint::Chat => "chat",
            Endpoint::Completions => "text_completion",
            Endpoint::Embeddings => "embeddings",
        };
        let mut span = self.state.tracer().call(|| format!("{operation} {upstream}"), &self.caller.trace);
        span.set("gen_ai.operation.name", operation);
        span.set("gen_ai.request.model", upstream.to_owned());
        span.set("engram.backend", backend.name().to_owned());
        span
    }

    /// The body for another server, with what was recalled.
    fn body_for(&mut self, backend: &Backend, upstream: &str) -> Map<String, Value> {
        let mut body = self.asked.body_for(upstream);
        // A peer must not recall once more what is in the prompt already, nor remember it under this node's key.
        if backend.is_engram() {
            body.insert("memory".into(), json!({"recall": "off", "remember": "off"}));
            if let Some(wish) = self.asked.wish.first_token {
                body.insert("ttft_ms".into(), u64::try_from(wish.as_millis()).unwrap_or(u64::MAX).into());
            }
        } else {
            // Ours, and unknown to others.
            for name in ["timeout", "priority"] {
                body.remove(name);
            }
        }
        if let Some(attached) = &mut self.attached {
            context::into_wire(attached, &mut body, backend.is_engram());
        }
        body
    }

    fn headers_for(&self, backend: &Backend, hops: u32) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !backend.is_hosted() {
            headers.insert(HOPS, HeaderValue::from(hops + 1));
        }
        headers.insert(crate::request_id::X_REQUEST_ID, self.caller.id.header());
        headers
    }
}

fn hops(headers: &HeaderMap) -> u32 {
    headers.get(HOPS).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Whether an error of the engine here says nothing about another backend: it is busy, ill, too small, or cannot do a
/// thing that OpenAI's API has. What is wrong in the request is wrong everywhere.
pub(super) fn another_may_do_it(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnsupportedParameter
            | ErrorCode::ContextLengthExceeded
            | ErrorCode::KvCacheExceeded
            | ErrorCode::FimUnsupported
            | ErrorCode::ModelNotFound
            | ErrorCode::ModelUnavailable
            | ErrorCode::Overloaded
            | ErrorCode::Internal
            | ErrorCode::ModelFailure
            | ErrorCode::EngineStopped
            | ErrorCode::Unhealthy
            | ErrorCode::NoBackend
            | ErrorCode::BackendsFailed
    )
}

/// Text that a chunk or an answer adds to choice 0, and how it ended.
pub(super) fn said(endpoint: Endpoint, value: &Value) -> Option<&str> {
    let choice = value.get("choices")?.as_array()?.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0)?;
    match endpoint {
        Endpoint::Completions => choice["text"].as_str(),
        _ => choice["delta"]["content"].as_str().or_else(|| choice["message"]["content"].as_str()),
    }
}

/// Whether choice 0 has ended with this chunk.
pub(super) fn finished(value: &Value) -> bool {
    value["choices"].as_array().is_some_and(|choices| choices.iter().any(|choice| choice["finish_reason"].is_string()))
}
