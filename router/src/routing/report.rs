//! What happened on the way to an answer: who was asked, what failed, who served it, what it cost. It goes into the
//! answer's headers and `engram` member, the log line and the metrics.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::error::{ApiError, ErrorCode};
use crate::money::Usd;
use crate::remote::Upstream;

use super::plan::LeftOut;

/// Longest text of one failure in an answer, characters.
const MAX_TEXT: usize = 300;

/// One call that gave no answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who was asked.
    pub backend: String,
    /// For which model.
    pub model: String,
    /// What came of it, as a code.
    pub code: String,
    /// The same in words.
    pub message: String,
    /// The backend's HTTP status, if it gave one.
    pub status: Option<u16>,
    /// When another try is worth it.
    pub retry_after: Option<Duration>,
    /// How long it took.
    pub took: Duration,
}

impl Attempt {
    /// A call whose failure is an error of ours.
    pub fn of(error: &ApiError, backend: String, model: String, took: Duration) -> Self {
        Self {
            backend,
            model,
            code: error.code().as_str().to_owned(),
            message: error.message().to_owned(),
            status: Some(error.status().as_u16()),
            retry_after: error.retry_after(),
            took,
        }
    }
}

/// Where an answer came from when it came from no backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheStatus {
    /// The cache had no part in it.
    #[default]
    Off,
    /// Asked, not found.
    Miss,
    /// An equal request was answered before.
    Hit,
    /// A like one was.
    Semantic,
    /// An equal request was in flight, and its answer is this one's too.
    Shared,
}

impl CacheStatus {
    /// Whether the answer came from there.
    pub fn answered(self) -> bool {
        matches!(self, Self::Hit | Self::Semantic | Self::Shared)
    }

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Miss => "miss",
            Self::Hit => "hit",
            Self::Semantic => "semantic",
            Self::Shared => "shared",
        }
    }
}

/// The way of one request.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By which rule its plan was made.
    pub rule: String,
    /// Calls that failed, in order.
    pub failed: Vec<Attempt>,
    /// Candidates that were not asked.
    pub left_out: Vec<LeftOut>,
    /// Who served it; empty until somebody does.
    pub backend: String,
    /// The model that served it.
    pub model: String,
    /// What its gateway said.
    pub upstream: Option<Upstream>,
    /// The cache's part in it.
    pub cache: CacheStatus,
}

impl Report {
    /// Who had begun to answer has failed after all, after so long: another may.
    pub fn broke(&mut self, error: &ApiError, took: Duration) {
        let (backend, model) = (std::mem::take(&mut self.backend), std::mem::take(&mut self.model));
        self.failed.push(Attempt::of(error, backend, model, took));
    }

    /// Calls made, the one that succeeded among them; an answer from before took none.
    pub fn attempts(&self) -> usize {
        self.failed.len() + usize::from(!self.backend.is_empty() && !self.cache.answered())
    }

    /// Headers of the answer; the cost where it is known before the body.
    pub fn headers(&self, cost: Option<Usd>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            // Names of models may hold what no header carries; then the body's member has to do.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("x-engram-backend", &self.backend);
        put("x-engram-model", &self.model);
        put("x-engram-attempts", &self.attempts().to_string());
        put("x-engram-cache", self.cache.as_str());
        if let Some(cost) = cost {
            put("x-engram-cost-usd", &format!("{:.9}", cost.as_dollars()));
        }
        headers
    }

    /// The answer's `engram` member.
    pub fn member(&self) -> Value {
        let mut member = json!({
            "backend": self.backend,
            "model": self.model,
            "rule": self.rule,
            "attempts": self.attempts(),
            "cache": self.cache.as_str(),
        });
        if !self.failed.is_empty() {
            member["failed"] = self.failed.iter().map(describe).collect();
        }
        if !self.left_out.is_empty() {
            member["left_out"] = self.left_out.iter().map(describe_left_out).collect();
        }
        if let Some(upstream) = &self.upstream {
            member["upstream"] = json!(upstream);
        }
        member
    }

    /// Nobody could answer: all failures in one error. One failure is told as it is.
    pub fn into_error(self) -> ApiError {
        let details = self.failed.iter().map(describe).chain(self.left_out.iter().map(describe_left_out)).collect();
        let only_left_out = self.failed.is_empty();
        let all = |is: fn(&str) -> bool| !only_left_out && self.failed.iter().all(|attempt| is(&attempt.code));
        // Both only say "later"; the second with an estimate.
        let all_busy = all(|code| matches!(code, "overloaded" | "rate_limited"));
        let all_late = all(|code| code == ErrorCode::DeadlineUnreachable.as_str());
        let too_dear = only_left_out && self.left_out.iter().any(|out| out.over_budget);
        let code = match () {
            () if all_busy => ErrorCode::Overloaded,
            () if all_late => ErrorCode::DeadlineUnreachable,
            () if too_dear => ErrorCode::OverBudget,
            () if only_left_out => ErrorCode::NoBackend,
            () => ErrorCode::BackendsFailed,
        };
        let tried: Vec<String> = self
            .failed
            .iter()
            .map(|attempt| format!("{} ({}): {}", attempt.backend, attempt.model, attempt.message))
            .chain(self.left_out.iter().map(|out| format!("{} ({}): {}", out.backend, out.model, out.why)))
            .collect();
        let message = format!("no backend could answer. {}", tried.join("; "));
        let error = ApiError::new(code, message).with_details("attempts", details);
        match self.failed.iter().filter_map(|attempt| attempt.retry_after).min() {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }
}

fn describe(attempt: &Attempt) -> Value {
    json!({
        "backend": attempt.backend,
        "model": attempt.model,
        "code": attempt.code,
        "message": attempt.message.chars().take(MAX_TEXT).collect::<String>(),
        "status": attempt.status,
        "ms": (attempt.took.as_secs_f64() * 1e4).round() / 10.0,
    })
}

fn describe_left_out(out: &LeftOut) -> Value {
    json!({"backend": out.backend, "model": out.model, "code": if out.over_budget { "over_budget" } else { "not_asked" },
        "message": out.why})
}
