//! A span: of a request that came, or of a call that was made for it.

use axum::http::HeaderValue;
use opentelemetry::trace::{Span as _, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::trace::Span;

use super::context::TraceContext;

/// A span that ends when it is dropped.
#[derive(Debug)]
pub struct TraceSpan {
    context: TraceContext,
    span: Option<Span>,
}

/// What is known of a request once its answer has ended; what does not apply is `None` or 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestEnd<'a> {
    /// The route as the router knows it.
    pub route: &'a str,
    /// Its method.
    pub method: &'a str,
    /// The status that was sent; 499 for a client that left before.
    pub status: u16,
    /// How it ended: `complete`, `client_left`, `stream_failed`.
    pub outcome: &'a str,
    /// Model that was asked for.
    pub model: Option<&'a str>,
    /// Model that answered.
    pub answered_by: Option<&'a str>,
    /// Backend that answered.
    pub backend: Option<&'a str>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of them, those a cache held.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Calls that were made for it.
    pub attempts: u64,
    /// What it cost, USD.
    pub cost_usd: Option<f64>,
    /// How the response cache answered: `hit`, `miss`.
    pub cache: Option<&'a str>,
}

impl TraceSpan {
    pub(super) fn unsent(context: TraceContext) -> Self {
        Self { context, span: None }
    }

    pub(super) fn sent(context: TraceContext, span: Span) -> Self {
        Self { context, span: Some(span) }
    }

    /// Its place, for logs and for the headers of calls.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Adds a fact.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(Key::from_static_str(key), value));
        }
    }

    /// It failed; `kind` is a word from a small set (`timeout`, `rate_limited`), as `error.type` wants it.
    pub fn fail(&mut self, kind: &str) {
        self.set("error.type", kind.to_owned());
        if let Some(span) = &mut self.span {
            span.set_status(Status::error(""));
        }
    }

    /// Closes the span of a request with OpenTelemetry's names for what is known of it.
    pub fn end_request(mut self, end: &RequestEnd<'_>) {
        if self.span.is_none() {
            return;
        }
        self.set("http.request.method", end.method.to_owned());
        self.set("http.route", end.route.to_owned());
        self.set("http.response.status_code", i64::from(end.status));
        self.set("engram.outcome", end.outcome.to_owned());
        if let Some(operation) = operation(end.route) {
            self.generative(operation, end);
        }
        match end.outcome {
            "complete" if end.status < 500 => {}
            "complete" => self.fail(&end.status.to_string()),
            outcome => self.fail(outcome),
        }
    }

    /// <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>
    fn generative(&mut self, operation: &'static str, end: &RequestEnd<'_>) {
        self.set("gen_ai.operation.name", operation);
        self.set("gen_ai.provider.name", "engram");
        if let Some(model) = end.model {
            self.set("gen_ai.request.model", model.to_owned());
            if let Some(span) = &mut self.span {
                span.update_name(format!("{operation} {model}"));
            }
        }
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.set("gen_ai.usage.input_tokens", tokens(end.prompt_tokens));
        self.set("gen_ai.usage.cache_read.input_tokens", tokens(end.cached_tokens));
        self.set("gen_ai.usage.output_tokens", tokens(end.completion_tokens));
        let words =
            [("gen_ai.response.model", end.answered_by), ("engram.backend", end.backend), ("engram.cache", end.cache)];
        for (key, value) in words {
            if let Some(value) = value {
                self.set(key, value.to_owned());
            }
        }
        if end.attempts > 0 {
            self.set("engram.attempts", tokens(end.attempts));
        }
        if let Some(cost) = end.cost_usd {
            self.set("engram.cost_usd", cost);
        }
    }
}

/// The convention's name for what a route does.
fn operation(route: &str) -> Option<&'static str> {
    match route {
        "/v1/chat/completions" => Some("chat"),
        "/v1/completions" => Some("text_completion"),
        "/v1/embeddings" => Some("embeddings"),
        _ => None,
    }
}

/// As OpenTelemetry writes it; a vendor's state that it cannot read is left out there and passed on all the same.
pub(super) fn to_context(context: &TraceContext) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = context.state.as_ref().and_then(|state| state.to_str().ok()?.parse().ok()).unwrap_or(TraceState::NONE);
    let (trace, span) = (TraceId::from(context.trace_id), SpanId::from(context.span_id));
    SpanContext::new(trace, span, flags, true, state)
}

/// The place of a span that has begun.
pub(super) fn of_context(span: &Span, state: Option<HeaderValue>) -> TraceContext {
    let context = span.span_context();
    TraceContext {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
        state,
    }
}

#[cfg(test)]
#[path = "span_tests.rs"]
mod tests;
