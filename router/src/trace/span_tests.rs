//! Spans as a real receiver gets them.

use axum::http::{HeaderMap, HeaderValue};

use super::*;
use crate::trace::Tracer;
use crate::trace::receiver::{Receiver, attributes, config, hex};

async fn stop(tracer: Tracer) {
    tokio::task::spawn_blocking(move || tracer.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_and_its_call_arrive_with_the_conventions_names() {
    let receiver = Receiver::default();
    let tracer = Tracer::start(&config(receiver.start().await, 100.0)).unwrap();
    let mut headers = HeaderMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", HeaderValue::from_static(parent));
    headers.insert("tracestate", HeaderValue::from_static("vendor=x"));
    let request = tracer.request("POST", "/v1/chat/completions", &headers);
    let mut call = tracer.call(|| "chat gpt-4o".into(), request.context());
    let mut sent = HeaderMap::new();
    call.context().write(&mut sent);
    call.set("server.address", "api.example.org");
    call.fail("rate_limited");
    drop(call);
    let end = RequestEnd {
        route: "/v1/chat/completions",
        method: "POST",
        status: 200,
        outcome: "complete",
        model: Some("speed"),
        answered_by: Some("gpt-4o"),
        backend: Some("portkey"),
        prompt_tokens: 12,
        cached_tokens: 8,
        completion_tokens: 34,
        attempts: 2,
        cost_usd: Some(0.0125),
        cache: Some("miss"),
    };
    request.end_request(&end);
    stop(tracer).await;

    let spans = receiver.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let (call, request) = (&spans[0], &spans[1]);
    assert_eq!(hex(&request.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
    assert_eq!((hex(&call.trace_id), &call.parent_span_id), (hex(&request.trace_id), &request.span_id));
    assert_eq!((request.name.as_str(), call.name.as_str()), ("chat speed", "chat gpt-4o"));
    // Server and client, by the protocol's numbers.
    assert_eq!((request.kind, call.kind), (2, 3));
    let goes_out = format!("00-{}-{}-01", hex(&call.trace_id), hex(&call.span_id));
    assert_eq!((sent["traceparent"].to_str().unwrap(), sent["tracestate"].to_str().unwrap()), (&*goes_out, "vendor=x"));
    let expected = [
        ("engram.attempts", "2"),
        ("engram.backend", "portkey"),
        ("engram.cache", "miss"),
        ("engram.cost_usd", "0.0125"),
        ("engram.outcome", "complete"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "engram"),
        ("gen_ai.request.model", "speed"),
        ("gen_ai.response.model", "gpt-4o"),
        ("gen_ai.usage.cache_read.input_tokens", "8"),
        ("gen_ai.usage.input_tokens", "12"),
        ("gen_ai.usage.output_tokens", "34"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/chat/completions"),
    ];
    assert_eq!(attributes(request), expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(attributes(call)["error.type"], "rate_limited");
    // 2 is the protocol's number for an error, 0 for nothing said.
    assert_eq!((call.status.as_ref().unwrap().code, request.status.as_ref().map_or(0, |status| status.code)), (2, 0));
    assert_eq!(receiver.authorizations(), [HeaderValue::from_static("Bearer hidden")]);
    assert_eq!(receiver.resource()["service.name"], "engram");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_decides_for_its_traces_and_the_share_for_new_ones() {
    let receiver = Receiver::default();
    let tracer = Tracer::start(&config(receiver.start().await, 0.0)).unwrap();
    let with = |flags: &str| {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        HeaderMap::from_iter([("traceparent".parse().unwrap(), HeaderValue::from_str(&value).unwrap())])
    };
    let kept = tracer.request("GET", "/kept", &with("01"));
    let left = tracer.request("GET", "/left", &with("00"));
    let new = tracer.request("GET", "/new", &HeaderMap::new());
    assert_eq!((kept.context().sampled, left.context().sampled, new.context().sampled), (true, false, false));
    assert_ne!(new.context().trace_id, 0);
    drop((kept, left, new));
    stop(tracer).await;
    let names: Vec<String> = receiver.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["GET /kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_not_there_holds_nothing_up() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let tracer = Tracer::start(&config(gone, 100.0)).unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..10_000 {
        let request = tracer.request("POST", "/v1/completions", &HeaderMap::new());
        request.end_request(&RequestEnd {
            route: "/v1/completions",
            status: 500,
            outcome: "complete",
            ..RequestEnd::default()
        });
    }
    assert!(begun.elapsed().as_secs_f64() < 5.0, "{:?}", begun.elapsed());
    stop(tracer).await;
}

#[test]
fn without_a_receiver_a_trace_is_passed_on_as_it_came() {
    let tracer = Tracer::default();
    let mut headers = HeaderMap::new();
    let parent = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    headers.insert("traceparent", parent.clone());
    let request = tracer.request("POST", "/v1/completions", &headers);
    let mut sent = HeaderMap::new();
    tracer.call(|| "x".into(), request.context()).context().write(&mut sent);
    assert_eq!(sent["traceparent"], parent);
    headers.insert("traceparent", HeaderValue::from_static("bad"));
    let begun = tracer.request("POST", "/v1/completions", &headers);
    assert_ne!(begun.context().trace_id, request.context().trace_id);
}
