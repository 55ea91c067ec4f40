//! A real OTLP receiver for tests: it decodes what comes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue as ProtoKeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
use prost::Message;

use crate::config::{Secret, TraceConfig};

/// Ids as people write them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An OTLP receiver: what came, decoded, and the `authorization` it came with.
#[derive(Clone, Default)]
pub struct Receiver(Arc<Mutex<(Vec<ExportTraceServiceRequest>, Vec<HeaderValue>)>>);

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) {
    let mut got = receiver.0.lock().unwrap();
    got.0.push(ExportTraceServiceRequest::decode(body).unwrap());
    got.1.extend(headers.get("authorization").cloned());
}

impl Receiver {
    /// Listens on a free port.
    pub async fn start(&self) -> SocketAddr {
        let app = Router::new().route("/v1/traces", post(receive)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<ProtoSpan> {
        let got = self.0.lock().unwrap();
        let scopes = got.0.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The `authorization` headers so far.
    pub fn authorizations(&self) -> Vec<HeaderValue> {
        self.0.lock().unwrap().1.clone()
    }

    /// What the first batch says of the sender.
    pub fn resource(&self) -> BTreeMap<String, String> {
        as_text(&self.0.lock().unwrap().0[0].resource_spans[0].resource.as_ref().unwrap().attributes)
    }
}

/// What a span says, as text.
pub fn attributes(span: &ProtoSpan) -> BTreeMap<String, String> {
    as_text(&span.attributes)
}

fn as_text(attributes: &[ProtoKeyValue]) -> BTreeMap<String, String> {
    let text = |value: &ProtoValue| match value {
        ProtoValue::StringValue(text) => text.clone(),
        ProtoValue::IntValue(number) => number.to_string(),
        ProtoValue::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |attribute: &ProtoKeyValue| {
        attribute.value.as_ref().and_then(|value| value.value.as_ref()).map(text).unwrap_or_default()
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

/// Sends all to this receiver.
pub fn config(address: SocketAddr, sample_percent: f64) -> TraceConfig {
    TraceConfig {
        otlp_endpoint: format!("http://{address}"),
        otlp_headers: vec![("authorization".parse().unwrap(), Secret::new("Bearer hidden"))],
        sample_percent,
    }
}
