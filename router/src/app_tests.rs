//! Requests that end before any engine is asked, and connections as such.

use std::future::pending;
use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::*;
use crate::drain::Phase;

fn state(keys: &[&str], change: impl FnOnce(&mut HttpSettings)) -> AppState {
    let mut settings = HttpSettings::default();
    change(&mut settings);
    let metrics = Arc::new(Metrics::new().expect("names are distinct"));
    let memory = MemoryService::new(crate::scripted::memory_settings(), Arc::clone(&metrics));
    let routing = crate::scripted::routing("", &metrics);
    AppState::new(Models::default(), ApiKeys::new(keys).expect("good keys"), settings, metrics, memory, routing)
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Value,
    text: String,
}

async fn ask(state: &AppState, request: Request<Body>) -> Answer {
    let response = router(state.clone()).oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status: head.status, headers: head.headers, body, text }
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

fn post_request(path: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", content_type).body(body.into()).expect("a request")
}

#[tokio::test]
async fn refusals_have_openais_shape_and_their_status() {
    let state = state(&[], |settings| settings.body_limit = 1000);
    let json = "application/json";
    let chat = "/v1/chat/completions";
    let large = format!("{{\"messages\": \"{}\"}}", "x".repeat(1000));
    let hi = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    let table: Vec<(Request<Body>, u16, &str)> = vec![
        (get_request("/nowhere"), 404, "not_found"),
        (get_request("/v1/chat/completions"), 405, "method_not_allowed"),
        (post_request("/health", json, "{}"), 405, "method_not_allowed"),
        (get_request("/health"), 503, "unhealthy"),
        (get_request("/ready"), 503, "unhealthy"),
        (get_request("/v1/models/m"), 404, "model_not_found"),
        (get_request("/v1/models/owner/name"), 404, "model_not_found"),
        (post_request(chat, json, hi), 404, "model_not_found"),
        (post_request(chat, "text/plain", hi), 415, "unsupported_media_type"),
        (post_request(chat, json, large), 413, "payload_too_large"),
        (post_request(chat, json, "{"), 400, "invalid_json"),
        (post_request(chat, json, ""), 400, "invalid_json"),
        (post_request(chat, json, r#"{"model": 7, "messages": []}"#), 400, "invalid_value"),
        (post_request(chat, json, "{}"), 400, "missing_required_parameter"),
        (post_request("/v1/completions", json, r#"{"prompt": "x"}"#), 400, "missing_required_parameter"),
        (post_request("/tokenize", json, r#"{"prompt": "x", "model": "m"}"#), 404, "model_not_found"),
        (post_request("/detokenize", json, r#"{"tokens": [1], "model": "m"}"#), 404, "model_not_found"),
    ];
    for (request, status, code) in table {
        let shown = format!("{} {}", request.method(), request.uri());
        let answer = ask(&state, request).await;
        assert_eq!(answer.status.as_u16(), status, "{shown}: {}", answer.text);
        assert_eq!(answer.body["error"]["code"], code, "{shown}: {}", answer.text);
        assert!(answer.body["error"]["message"].is_string() && answer.body["error"]["type"].is_string());
        assert!(answer.headers.contains_key(X_REQUEST_ID), "{shown}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let answer = ask(&state(&[], |_| ()), get_request("/v1/completions")).await;
    assert_eq!(answer.headers[header::ALLOW], "POST");
}

#[tokio::test]
async fn a_body_without_length_is_cut_at_the_limit() {
    let state = state(&[], |settings| settings.body_limit = 1000);
    let chunks = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100])));
    let request = post_request("/v1/completions", "application/json", Body::from_stream(chunks));
    assert_eq!(ask(&state, request).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let state = state(&[], |settings| settings.body_timeout = Duration::from_millis(50));
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = ask(&state, post_request("/v1/completions", "application/json", never)).await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn keys_guard_all_but_the_probes() {
    let state = state(&["sk-secret-1"], |_| ());
    for (path, status) in [("/health", 503), ("/ready", 503), ("/v1/models", 401), ("/metrics", 401), ("/version", 401)]
    {
        let answer = ask(&state, get_request(path)).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
    let with_key = |key: &str| {
        Request::get("/v1/models")
            .header("authorization", format!("Bearer {key}"))
            .body(Body::empty())
            .expect("a request")
    };
    assert_eq!(ask(&state, with_key("sk-secret-2")).await.body["error"]["code"], "invalid_api_key");
    let answer = ask(&state, with_key("sk-secret-1")).await;
    assert_eq!((answer.status.as_u16(), &answer.body["object"]), (200, &Value::from("list")));
}

#[tokio::test]
async fn the_request_id_comes_back() {
    let request = Request::get("/version").header("x-request-id", "abc-1").body(Body::empty()).expect("a request");
    assert_eq!(ask(&state(&[], |_| ()), request).await.headers[X_REQUEST_ID], "abc-1");
}

#[tokio::test]
async fn metrics_tell_of_the_requests_before() {
    let state = state(&[], |_| ());
    ask(&state, get_request("/version")).await;
    let text = ask(&state, get_request("/metrics")).await.text;
    let line = "engram_requests_total{method=\"GET\",outcome=\"complete\",route=\"/version\",status=\"200\"} 1";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn other_sites_are_let_in_only_if_configured() {
    let preflight = || {
        Request::options("/v1/chat/completions")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .expect("a request")
    };
    let allowed = |answer: &Answer| answer.headers.get("access-control-allow-origin").cloned();
    let closed = state(&["sk-secret-1"], |_| ());
    assert_eq!(allowed(&ask(&closed, preflight()).await), None);
    let origins = |list: &[&str]| list.iter().map(|origin| (*origin).to_owned()).collect();
    let open = state(&["sk-secret-1"], |settings| settings.cors_origins = origins(&["https://app.example"]));
    let answer = ask(&open, preflight()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(allowed(&answer).expect("allowed"), "https://app.example");
    let other = state(&[], |settings| settings.cors_origins = origins(&["https://other.example"]));
    assert_eq!(allowed(&ask(&other, preflight()).await), None);
}

async fn fails() -> &'static str {
    panic!("at the wrong moment")
}

#[tokio::test]
async fn a_panic_is_an_error_500() {
    let app = Router::new().route("/", get(fails)).layer(CatchPanicLayer::custom(panicked));
    let response = app.oneshot(get_request("/")).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    assert!(!String::from_utf8_lossy(&bytes).contains("wrong moment"));
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

/// Sends `text`, reads until the other side closes.
async fn exchange(addr: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading).await.expect("closed in time").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let (listener, addr) = listen().await;
    let state = state(&[], |settings| settings.header_timeout = Duration::from_millis(100));
    tokio::spawn(crate::serve(listener, state, pending()));
    let answer = exchange(addr, "GET /version HTTP/1.1\r\nhost: x\r\n").await;
    assert!(answer.is_empty() || answer.contains("408"), "{answer}");
    let answer = exchange(addr, "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = exchange(addr, "\u{1}\u{2}nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_drain_turns_ready_off_waits_and_ends() {
    let (listener, addr) = listen().await;
    let state = state(&[], |settings| settings.drain_deadline = Duration::from_millis(600));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(crate::serve(listener, state.clone(), async { stopped.await.unwrap_or(()) }));
    let running = state.drain().enter();
    stop.send(()).expect("the server listens");
    state.drain().reached(Phase::Draining).await;
    let answer = exchange(addr, "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("503") && answer.contains("shutting_down"), "{answer}");
    assert!(!server.is_finished());
    drop(running);
    tokio::time::timeout(Duration::from_millis(400), server).await.expect("before the deadline").expect("no panic");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (listener, _) = listen().await;
    let state = state(&[], |settings| settings.drain_deadline = Duration::from_millis(50));
    let _running = state.drain().enter();
    let server = crate::serve(listener, state.clone(), async {});
    tokio::time::timeout(Duration::from_secs(2), server).await.expect("at the deadline");
    assert_eq!(state.drain().phase(), Phase::Stopping);
}
