//! Distributed tracing: where a request comes from and goes to (W3C Trace Context), and spans of it sent by OTLP
//! with OpenTelemetry's conventions for generative AI.
//!
//! Spans are made by OpenTelemetry's own API rather than from the log's: a log line then holds no trace-only
//! fields, and without `[trace]` a request costs two random numbers.

mod context;
#[cfg(test)]
pub(crate) mod receiver;
mod span;
mod tracer;

pub use context::TraceContext;
pub use span::{RequestEnd, TraceSpan};
pub use tracer::Tracer;
