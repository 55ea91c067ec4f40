//! Where spans are begun and from where they are sent.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::HeaderMap;
use opentelemetry::trace::{SpanKind, TraceContextExt, Tracer as _, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use super::context::TraceContext;
use super::span::{TraceSpan, of_context, to_context};
use crate::config::TraceConfig;

/// The path of traces at an OTLP receiver.
const PATH: &str = "/v1/traces";
/// A receiver that takes longer loses the spans.
const SEND_TIME: Duration = Duration::from_secs(5);

/// Begins spans; without `[trace]` they are only passed on. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Sending>>);

struct Sending {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tracer({})", if self.0.is_some() { "sending" } else { "off" })
    }
}

impl Tracer {
    /// Starts the thread that sends spans in batches. A full queue drops spans, so the receiver never holds up a
    /// request.
    pub fn start(config: &TraceConfig) -> anyhow::Result<Self> {
        let base = config.otlp_endpoint.strip_suffix(PATH).unwrap_or(&config.otlp_endpoint);
        let headers = config.otlp_headers.iter();
        let headers: HashMap<String, String> =
            headers.map(|(name, value)| (name.as_str().to_owned(), value.expose().to_owned())).collect();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{base}{PATH}"))
            .with_timeout(SEND_TIME)
            .with_headers(headers)
            .build()
            .context("`trace.otlp_endpoint`")?;
        let begun_here = Sampler::TraceIdRatioBased(config.sample_percent / 100.0);
        let resource = Resource::builder()
            .with_service_name("engram")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(begun_here)))
            .with_resource(resource)
            .build();
        Ok(Self(Some(Arc::new(Sending { tracer: provider.tracer("engram"), provider }))))
    }

    /// Begins the span of a request with these headers, in the trace that they name or in a new one.
    pub fn request(&self, method: &str, route: &str, headers: &HeaderMap) -> TraceSpan {
        let came_with = TraceContext::read(headers);
        self.begin(|| format!("{method} {route}"), SpanKind::Server, came_with.as_ref())
    }

    /// Begins the span of a call that is made on behalf of a request.
    pub fn call(&self, name: impl FnOnce() -> String, request: &TraceContext) -> TraceSpan {
        self.begin(name, SpanKind::Client, Some(request))
    }

    fn begin(&self, name: impl FnOnce() -> String, kind: SpanKind, parent: Option<&TraceContext>) -> TraceSpan {
        let Some(sending) = &self.0 else {
            return TraceSpan::unsent(parent.cloned().unwrap_or_default());
        };
        let parent_context = match parent {
            Some(parent) => Context::new().with_remote_span_context(to_context(parent)),
            None => Context::new(),
        };
        let span =
            sending.tracer.span_builder(name()).with_kind(kind).start_with_context(&sending.tracer, &parent_context);
        let state = parent.and_then(|parent| parent.state.clone());
        TraceSpan::sent(of_context(&span, state), span)
    }

    /// Sends what is left; nothing is sent afterwards.
    pub fn stop(&self) {
        if let Some(sending) = &self.0
            && let Err(error) = sending.provider.shutdown_with_timeout(SEND_TIME)
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
