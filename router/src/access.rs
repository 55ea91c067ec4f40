//! What happens around every request: its id and tracing span, its count among those in flight,
//! its line in the log and its place in the metrics, all closed when the *body* of the answer
//! ends, for a stream's status line says little.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Span};

use crate::app::AppState;
use crate::auth::gate::Pass;
use crate::auth::keys::Life;
use crate::auth::store::unix_now;
use crate::config::LOCAL;
use crate::drain::InFlight;
use crate::error::{ApiError, ErrorCode};
use crate::money::Usd;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::routing::{CacheStatus, Report};
use crate::sse;
use crate::trace::{RequestEnd, TraceSpan};

/// Bytes of a request that are taken for a token before they are counted.
const BYTES_A_TOKEN: usize = 4;
/// Tokens that an answer is taken to have where the request names no bound.
const ASSUMED_ANSWER: usize = 512;

/// What the handlers learn about a request and its log line tells; shared through extensions.
#[derive(Debug, Clone, Default)]
pub struct Facts(Arc<FactsInner>);

#[derive(Debug, Default)]
struct FactsInner {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    failed_in_stream: AtomicBool,
    /// What the request was let in by, until its end is settled.
    pass: Mutex<Option<Pass>>,
    /// Of the key that it came in by.
    life: OnceLock<Arc<Life>>,
    /// Tokens of the prompt, as they were estimated.
    expected_prompt: AtomicU64,
    served: Mutex<Served>,
}

/// Who answered, after what.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Served {
    /// What the request asked for: a model or a route.
    pub asked: Option<String>,
    /// The backend that answered.
    pub backend: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// Calls that were made of backends.
    pub attempts: u64,
    /// What they cost.
    pub cost: Usd,
    /// What the response cache had: `hit`, `miss`.
    pub cache: Option<&'static str>,
}

impl Facts {
    /// Adds tokens to the counts.
    pub fn add_tokens(&self, prompt: usize, cached: usize, completion: usize) {
        self.0.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        self.0.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
        self.0.completion_tokens.fetch_add(completion as u64, Ordering::Relaxed);
    }

    /// An answer, or a part of one, was served as the report says, at this cost.
    pub fn routed(&self, report: &Report, cost: Usd) {
        let mut served = self.served();
        served.backend = Some(report.backend.clone());
        served.model = Some(report.model.clone());
        served.attempts = report.attempts() as u64;
        served.cache = (report.cache != CacheStatus::Off).then(|| report.cache.as_str());
        served.cost += cost;
    }

    /// What the request has cost so far.
    pub fn cost(&self) -> Usd {
        self.served().cost
    }

    /// The stream ended with an error event: its status says 200 nonetheless.
    pub fn fail_in_stream(&self) {
        self.0.failed_in_stream.store(true, Ordering::Relaxed);
    }

    /// Notes who answers, or what is known of it by now.
    pub fn note(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served());
    }

    /// The engine in this process answers, as this model.
    pub fn served_locally(&self, asked: &str, model: &str) {
        self.note(|served| {
            served.asked = Some(asked.to_owned());
            served.backend = Some(LOCAL.to_owned());
            served.model = Some(model.to_owned());
            served.attempts += 1;
        });
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.0.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the tokens that a request is likely to need from what its key may use a minute; what it did need is
    /// put right at its end. A handler calls this once it has read the body and before it does work.
    ///
    /// # Errors
    /// 429 `tokens_limited` if they are not there.
    pub fn expect_tokens(
        &self,
        prompt_bytes: usize,
        max_tokens: Option<usize>,
        choices: usize,
    ) -> Result<(), ApiError> {
        let prompt = prompt_bytes.div_ceil(BYTES_A_TOKEN) as u64;
        let answers = (max_tokens.unwrap_or(ASSUMED_ANSWER) as u64).saturating_mul(choices as u64);
        self.0.expected_prompt.store(prompt, Ordering::Relaxed);
        match self.pass().as_mut() {
            Some(pass) => Ok(pass.reserve(prompt.saturating_add(answers), Instant::now())?),
            None => Ok(()),
        }
    }

    /// The doors let it in, by a key of this life.
    pub(crate) fn let_in(&self, pass: Pass, life: Arc<Life>) {
        *self.pass() = Some(pass);
        // A request comes in once.
        let _ = self.0.life.set(life);
    }

    fn pass(&self) -> MutexGuard<'_, Option<Pass>> {
        self.0.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The route of what has none.
const UNMATCHED: &str = "unmatched";

/// The outermost layer.
pub async fn track(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::from_headers(request.headers());
    let facts = Facts::default();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let trace = state.tracer().request(method.as_str(), route.as_deref().unwrap_or(UNMATCHED), request.headers());
    let span = tracing::info_span!(
        "request",
        id = id.as_str(),
        trace = trace.context().trace(),
        method = %method,
        path = request.uri().path(),
        tenant = tracing::field::Empty,
        key = tracing::field::Empty,
        model = tracing::field::Empty,
    );
    // Probes and scrapes neither hold up a drain nor fill the log.
    let work = matches!(method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    let in_flight = work.then(|| state.drain().enter());
    request.extensions_mut().insert(facts.clone());
    request.extensions_mut().insert(id.clone());
    // What calls made for it go out with.
    request.extensions_mut().insert(trace.context().clone());
    let mut ending = Ending {
        state,
        span: span.clone(),
        facts,
        started: Instant::now(),
        method,
        route,
        trace: Some(trace),
        status: None,
        code: None,
        events: None,
        body_ended: false,
        in_flight,
    };
    let mut response = next.run(request).instrument(span).await;
    ending.status = Some(response.status());
    ending.code = response.extensions().get().copied();
    ending.events = is_event_stream(&response).then_some(0);
    response.headers_mut().insert(X_REQUEST_ID, id.header());
    response.map(|body| Body::new(TrackedBody { body, ending }))
}

fn is_event_stream(response: &Response) -> bool {
    let value = response.headers().get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// Closes a request when it is dropped, however that comes.
struct Ending {
    state: AppState,
    span: Span,
    facts: Facts,
    started: Instant,
    method: Method,
    route: Option<String>,
    trace: Option<TraceSpan>,
    /// `None` until the head of the answer is known.
    status: Option<StatusCode>,
    /// What the answer says went wrong.
    code: Option<ErrorCode>,
    /// Events sent so far, if the answer is a stream of them.
    events: Option<u64>,
    body_ended: bool,
    in_flight: Option<InFlight>,
}

impl Ending {
    /// Tokens that count against the key's limit. An answer that was cut short tells no counts: without this, to
    /// hang up before the end would be a way to read without limit. Its events are counted for tokens then, or, where
    /// there are none, all that was expected.
    fn tokens(&self, outcome: &str, reserved: u64) -> u64 {
        let facts = &self.facts.0;
        let counted = facts.prompt_tokens.load(Ordering::Relaxed) + facts.completion_tokens.load(Ordering::Relaxed);
        match (outcome, self.events) {
            ("complete", _) if self.code == Some(ErrorCode::DeadlineExceeded) => counted.max(reserved),
            ("complete", _) => counted,
            (_, Some(events)) => counted.max(facts.expected_prompt.load(Ordering::Relaxed) + events),
            (_, None) => counted.max(reserved),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let elapsed = self.started.elapsed();
        let facts = &self.facts.0;
        let outcome = if self.status.is_none() || !self.body_ended {
            "client_left"
        } else if facts.failed_in_stream.load(Ordering::Relaxed) {
            "stream_failed"
        } else {
            "complete"
        };
        // 499 is what nginx writes for a client that left before the head of the answer.
        let status = self.status.map_or(499, |status| status.as_u16());
        let route = self.route.as_deref().unwrap_or(UNMATCHED);
        self.state.metrics().request_ended(route, self.method.as_str(), status, outcome, elapsed);
        if let Some(code) = self.code.filter(|code| code.is_refusal()) {
            self.state.metrics().refused(code.as_str());
        }
        let pass = self.facts.pass().take();
        if let Some(pass) = pass {
            let tokens = self.tokens(outcome, pass.reserved());
            pass.settle(tokens, Instant::now());
        }
        let milliseconds = (elapsed.as_secs_f64() * 1e4).round() / 10.0;
        let prompt_tokens = facts.prompt_tokens.load(Ordering::Relaxed);
        let cached_tokens = facts.cached_tokens.load(Ordering::Relaxed);
        let completion_tokens = facts.completion_tokens.load(Ordering::Relaxed);
        let served = std::mem::take(&mut *self.facts.served());
        let (backend, cache) = (served.backend.as_deref(), served.cache);
        let cost_usd = (served.cost != Usd::ZERO).then(|| served.cost.as_dollars());
        let attempts = Some(served.attempts).filter(|attempts| *attempts > 0);
        if self.in_flight.is_some() {
            tracing::info!(
                status,
                outcome,
                milliseconds,
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                backend,
                attempts,
                cost_usd,
                cache,
                "answered"
            );
        } else {
            tracing::debug!(status, outcome, milliseconds, "answered");
        }
        if let Some(trace) = self.trace.take() {
            trace.end_request(&RequestEnd {
                route,
                method: self.method.as_str(),
                status,
                outcome,
                model: served.asked.as_deref(),
                answered_by: served.model.as_deref(),
                backend,
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                attempts: served.attempts,
                cost_usd,
                cache,
            });
        }
    }
}

struct TrackedBody {
    body: Body,
    ending: Ending,
}

impl TrackedBody {
    /// The last event of a stream whose key has been revoked or has expired: it stops there and then, for what it
    /// would still say is no longer for the one who listens. An answer in one piece was earned before that.
    fn cut_off(&mut self) -> Option<Bytes> {
        let life = self.ending.facts.0.life.get()?;
        if self.ending.events.is_none() || self.ending.body_ended || life.goes_on(unix_now()) {
            return None;
        }
        self.ending.facts.fail_in_stream();
        self.ending.body_ended = true;
        // Dropping the stream aborts its sequences.
        self.body = Body::empty();
        let error = ApiError::new(ErrorCode::InvalidApiKey, "the API key was revoked, or has expired, meanwhile");
        self.ending.span.in_scope(|| error.log());
        Some(sse::error_event(&error))
    }
}

/// Events in a piece of a stream. Each ends with an empty line, and has no other line break than that before it.
fn events_in(piece: &Bytes) -> u64 {
    piece.iter().filter(|byte| **byte == b'\n').count() as u64 / 2
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some(last) = this.cut_off() {
            return Poll::Ready(Some(Ok(hyper::body::Frame::data(last))));
        }
        let _entered = this.ending.span.enter();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(events)) = (&frame, &mut this.ending.events) {
            *events += frame.data_ref().map_or(0, events_in);
        }
        if frame.is_none() {
            this.ending.body_ended = true;
        } else if this.body.is_end_stream() {
            // A body of known length is not polled to its end.
            this.ending.body_ended = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
