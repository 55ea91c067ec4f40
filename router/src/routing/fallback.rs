//! The cascade: candidates are asked in the plan's order until one answers. Before the first token a failure moves on
//! to the next; after it the answer is owned. All failures are kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::{Map, Value};

use crate::breaker::Permit;
use crate::bulkhead::Seat;
use crate::error::ApiError;
use crate::placement::Placed;
use crate::remote::{Call, Endpoint, Failure, FailureKind, RemoteStream, Upstream, Whole};

use super::plan::{Candidate, LeftOut};
use super::report::Attempt;
use super::{Backend, Routing};

/// One call to a remote backend, and all that is the same for each of its tries.
pub struct RemoteCall<'a> {
    /// Which door.
    pub endpoint: Endpoint,
    /// The body, with the model's name there.
    pub body: Map<String, Value>,
    /// Headers that go along.
    pub headers: HeaderMap,
    /// The answer is wanted as a stream.
    pub stream: bool,
    /// When the first token must be there.
    pub first_by: Option<Instant>,
    /// When all must be.
    pub deadline: Option<Instant>,
    /// Who is asked, for which model.
    pub candidate: &'a Candidate,
    /// Its place among peers, if it was chosen among them.
    pub placed: Option<Placed>,
}

/// What a remote backend has begun to say.
pub enum Began {
    /// All of it.
    Whole(Box<Whole>),
    /// Its first token, and the rest as it comes.
    Stream(Box<RemoteStream>),
}

/// An answer that a remote backend has begun.
pub struct RemoteAnswer {
    /// The answer.
    pub began: Began,
    /// What its gateway said.
    pub upstream: Upstream,
    /// What it takes there.
    pub claim: Claim,
}

/// What an answer takes of its backend, to be kept until it has ended.
pub struct Claim {
    backend: Arc<Backend>,
    routing: Routing,
    /// Of the breakers that wait for how a stream ends.
    permits: Vec<Permit>,
    /// How long its first token took.
    took: Duration,
    /// Its place among peers.
    placed: Option<Placed>,
    /// Its place in the bulkhead.
    _seat: Seat,
}

impl Claim {
    /// Who answers.
    pub fn backend(&self) -> &str {
        self.backend.name()
    }

    /// The answer broke off after its first token.
    pub fn broke(&mut self, failure: &Failure) {
        let (now, took) = (Instant::now(), self.took);
        self.routing.metrics().failed(self.backend.name(), failure.kind.as_str());
        for permit in self.permits.drain(..) {
            note(permit, failure, now, took);
        }
        if let Some(placed) = self.placed.as_ref().filter(|_| failure.kind.counts()) {
            placed.failed(now);
        }
    }
}

impl Drop for Claim {
    /// The answer has ended, or the client left it: that it began is to the backend's credit.
    fn drop(&mut self) {
        let now = Instant::now();
        for permit in self.permits.drain(..) {
            permit.success(now, self.took);
        }
    }
}

/// Why a candidate did not answer.
pub enum Refusal {
    /// It was not asked.
    LeftOut(Box<LeftOut>),
    /// It was, and failed.
    Failed(Box<Attempt>),
    /// The engine here failed or would be late; its own words are kept for the case that nobody else is asked.
    Local(Box<Attempt>, ApiError),
    /// The request itself is at fault: nobody else is asked.
    Fatal(ApiError),
}

impl Refusal {
    /// The same in one word, for a span.
    pub fn code(&self) -> &str {
        match self {
            Self::LeftOut(_) => "not_asked",
            Self::Failed(attempt) | Self::Local(attempt, _) => &attempt.code,
            Self::Fatal(error) => error.code().as_str(),
        }
    }
}

impl Routing {
    /// Asks one backend, again where that may heal, as long as time and the retry budget last.
    pub async fn ask(
        &self,
        backend: &Arc<Backend>,
        mut call: RemoteCall<'_>,
        failed: &mut Vec<Attempt>,
    ) -> Result<RemoteAnswer, Refusal> {
        let body = match serde_json::to_vec(&call.body) {
            Ok(body) => Bytes::from(body),
            Err(source) => return Err(Refusal::Fatal(ApiError::internal("the request could not be written", source))),
        };
        let tries = backend.config().tries.max(1);
        let (retries, backoff) = (self.retry_budget(), self.backoff());
        retries.deposit(Instant::now());
        let mut attempt = 0;
        loop {
            let begun = Instant::now();
            let failure = match self.try_once(backend, &call, body.clone()).await {
                Ok(mut answer) => {
                    answer.claim.placed = call.placed.take();
                    return Ok(answer);
                }
                Err(Tried::NotAsked(why)) => return Err(left_out(call.candidate, why)),
                Err(Tried::Failed(failure)) => failure,
            };
            self.metrics().failed(backend.name(), failure.kind.as_str());
            attempt += 1;
            let again = (attempt < tries && failure.kind.heals())
                .then(|| {
                    let left = call.deadline.map(|by| by.saturating_duration_since(Instant::now()));
                    backoff.delay(attempt - 1, failure.retry_after, left, &mut rand::rng())
                })
                .flatten()
                .filter(|_| retries.withdraw(Instant::now()));
            let kind = failure.kind;
            let told = attempt_of(call.candidate, failure, begun.elapsed());
            match again {
                Some(wait) => {
                    failed.push(told);
                    tokio::time::sleep(wait).await;
                }
                None if kind.moves_on() => return Err(Refusal::Failed(Box::new(told))),
                None => return Err(Refusal::Fatal(fatal(&told, kind))),
            }
        }
    }

    async fn try_once(
        &self,
        backend: &Arc<Backend>,
        call: &RemoteCall<'_>,
        body: Bytes,
    ) -> Result<RemoteAnswer, Tried> {
        let now = Instant::now();
        let of_backend = backend.breaker().try_acquire(now).map_err(|open| Tried::NotAsked(open.to_string()))?;
        let of_model = match backend.breaker_of(&call.candidate.model) {
            Some(breaker) => {
                Some(breaker.try_acquire(now).map_err(|open| Tried::NotAsked(format!("for this model {open}")))?)
            }
            None => None,
        };
        let seat = backend.bulkhead().enter().await.map_err(|full| Tried::NotAsked(full.to_string()))?;
        let begun = Instant::now();
        let request = Call {
            endpoint: call.endpoint,
            body,
            headers: call.headers.clone(),
            first_by: call.first_by,
            deadline: call.deadline,
        };
        let result = if call.stream {
            backend.remote().stream(request).await.map(|stream| Began::Stream(Box::new(stream)))
        } else {
            backend.remote().whole(request).await.map(|whole| Began::Whole(Box::new(whole)))
        };
        let (took, now) = (begun.elapsed(), Instant::now());
        match result {
            Ok(began) => {
                // A whole answer takes as long as it is long: only the wait for a first token says how the backend is.
                let took = if call.stream { took } else { Duration::ZERO };
                if let Some(placed) = call.placed.as_ref().filter(|_| call.stream) {
                    placed.answered(took, now);
                }
                let permits = [Some(of_backend), of_model].into_iter().flatten();
                let permits = permits.filter_map(|permit| permit.begun(now, took)).collect();
                let upstream = match &began {
                    Began::Whole(whole) => whole.upstream.clone(),
                    Began::Stream(stream) => stream.upstream().clone(),
                };
                let claim = Claim {
                    backend: Arc::clone(backend),
                    routing: self.clone(),
                    permits,
                    took,
                    placed: None,
                    _seat: seat,
                };
                Ok(RemoteAnswer { began, upstream, claim })
            }
            Err(failure) => {
                if let Some(placed) = call.placed.as_ref().filter(|_| failure.kind.counts()) {
                    placed.failed(now);
                }
                note(of_backend, &failure, now, took);
                if let Some(permit) = of_model {
                    note(permit, &failure, now, took);
                }
                Err(Tried::Failed(failure))
            }
        }
    }
}

enum Tried {
    NotAsked(String),
    Failed(Failure),
}

/// A failure that is the backend's own counts against it; one that is the client's says that the backend works.
fn note(permit: Permit, failure: &Failure, now: Instant, took: Duration) {
    if failure.kind.counts() {
        permit.failure(now);
    } else if failure.status.is_some() {
        permit.success(now, took);
    }
}

fn left_out(candidate: &Candidate, why: String) -> Refusal {
    Refusal::LeftOut(Box::new(LeftOut {
        backend: candidate.backend().to_owned(),
        model: candidate.model.clone(),
        why,
        over_budget: false,
    }))
}

fn attempt_of(candidate: &Candidate, failure: Failure, took: Duration) -> Attempt {
    Attempt {
        backend: candidate.backend().to_owned(),
        model: candidate.model.clone(),
        code: failure.kind.as_str().to_owned(),
        message: failure.message,
        status: failure.status,
        retry_after: failure.retry_after,
        took,
    }
}

/// The error of a request that another backend would refuse as well.
fn fatal(attempt: &Attempt, kind: FailureKind) -> ApiError {
    let code = match kind {
        FailureKind::Deadline => crate::error::ErrorCode::DeadlineExceeded,
        _ => crate::error::ErrorCode::InvalidValue,
    };
    ApiError::new(code, format!("`{}` refused the request: {}", attempt.backend, attempt.message))
}
