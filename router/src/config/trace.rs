//! `[trace]`: where spans are sent.

use axum::http::HeaderName;

use super::Secret;
use super::getter::Getter;

/// `[trace]`
#[derive(Debug, Clone, PartialEq)]
pub struct TraceConfig {
    /// Base of an OTLP receiver over HTTP; `/v1/traces` is added.
    pub otlp_endpoint: String,
    /// Headers sent there.
    pub otlp_headers: Vec<(HeaderName, Secret)>,
    /// Share of the traces begun here that are sent, 0 to 100.
    pub sample_percent: f64,
}

pub(super) fn build(get: &Getter<'_>) -> Option<TraceConfig> {
    Some(TraceConfig {
        otlp_endpoint: get.optional_text("trace.otlp_endpoint")?,
        otlp_headers: get.headers("trace.otlp_headers"),
        sample_percent: get.float("trace.sample_percent"),
    })
}
