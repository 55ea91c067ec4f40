//! Doors over real connections: TLS, the routes of each side, flags and traces of what is served.

use std::future::pending;
use std::net::SocketAddr;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::FlagConfig;
use crate::tls::tests::Files;
use crate::trace::Tracer;
use crate::trace::receiver::{self, Receiver};

async fn door(state: &AppState, side: Side, tls: Option<Tls>) -> (Door, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Door { side, tls, ..Door::open(listener, state) }, address)
}

/// A request as text; the answer's status and body.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn plain(address: SocketAddr, line: &str, body: &str) -> (u16, String) {
    ask(TcpStream::connect(address).await.unwrap(), line, body).await
}

async fn secured(address: SocketAddr, client: &ClientConfig, line: &str, body: &str) -> (u16, String) {
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    ask(TlsConnector::from(Arc::new(client.clone())).connect(name, stream).await.unwrap(), line, body).await
}

fn chat(stream: bool) -> String {
    json!({"model": "alphabet", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": stream})
        .to_string()
}

#[tokio::test]
async fn the_api_is_spoken_over_tls_and_drained_there_too() {
    let (state, _knobs) = crate::scripted::server(&[], |_, _| ());
    let files = Files::new();
    let client = files.renew();
    let (door, address) = door(&state, Side::Both, Some(Tls::new(&files.config).unwrap())).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve_doors(vec![door], state.clone(), async { stopped.await.unwrap_or(()) }));
    let (status, body) = secured(address, &client, "POST /v1/chat/completions", &chat(true)).await;
    assert!(status == 200 && body.contains("data: [DONE]"), "{body}");
    // Plain HTTP is not answered at this door, and holds nobody else up.
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(secured(address, &client, "GET /ready", "").await.0, 200);
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("drained").unwrap();
}

#[tokio::test]
async fn each_door_has_its_own_routes() {
    let (state, _knobs) = crate::scripted::server(&[], |_, _| ());
    let (api, api_at) = door(&state, Side::Api, None).await;
    let (admin, admin_at) = door(&state, Side::Admin, None).await;
    tokio::spawn(serve_doors(vec![api, admin], state, pending()));
    for (line, at_api, at_admin) in [
        ("GET /ready", 200, 200),
        ("GET /version", 200, 200),
        ("GET /metrics", 404, 200),
        ("GET /v1/admin/flags", 404, 200),
        ("GET /v1/admin/keys", 404, 404),
        ("GET //v1/admin/flags", 404, 404),
        ("GET /v1/admin/../admin/flags", 404, 404),
        ("GET /v1/models", 200, 404),
        ("POST /v1/chat/completions", 200, 404),
        ("POST /v1/memory/search", 400, 404),
    ] {
        let body = if line.starts_with("POST") { chat(false) } else { String::new() };
        assert_eq!(plain(api_at, line, &body).await.0, at_api, "{line} at the API's door");
        assert_eq!(plain(admin_at, line, &body).await.0, at_admin, "{line} at the admin door");
    }
}

#[tokio::test]
async fn flags_are_read_and_changed_over_http() {
    let (state, _knobs) = crate::scripted::server(&[], |_, _| ());
    let configured = FlagConfig {
        name: "semantic_cache".into(),
        enabled: true,
        percent: 0.0,
        tenants: vec!["ada".into()],
        about: "similar requests".into(),
    };
    state.flags().replace(std::slice::from_ref(&configured));
    let (door, at) = door(&state, Side::Both, None).await;
    tokio::spawn(serve_doors(vec![door], state.clone(), pending()));
    let json = |body: &str| serde_json::from_str::<Value>(body).unwrap_or_else(|_| panic!("{body}"));
    let flag = json!({"object": "flag", "name": "semantic_cache", "enabled": true, "percent": 0.0, "tenants": ["ada"],
                      "about": "similar requests", "changed": false});
    let (status, body) = plain(at, "GET /v1/admin/flags", "").await;
    assert_eq!((status, json(&body)), (200, json!({"object": "list", "data": [flag]})));

    let put = "PUT /v1/admin/flags/semantic_cache";
    let (status, body) = plain(at, put, r#"{"percent": 100, "tenants": []}"#).await;
    assert_eq!((status, &json(&body)["percent"], &json(&body)["changed"]), (200, &json!(100.0), &json!(true)));
    assert!(state.flags().enabled("semantic_cache", "bob"));
    let (_, body) = plain(at, put, r#"{"enabled": false}"#).await;
    assert_eq!((&json(&body)["enabled"], &json(&body)["percent"]), (&json!(false), &json!(100.0)));
    assert!(!state.flags().enabled("semantic_cache", "bob"));

    for (line, body, status, part) in [
        ("PUT /v1/admin/flags/other", r#"{"enabled": true}"#, 404, "[flags.NAME]"),
        ("GET /v1/admin/flags/other", "", 404, "[flags.NAME]"),
        (put, r#"{"percent": 101}"#, 400, "`percent` is 101"),
        (put, r#"{"enabled": "yes"}"#, 400, "true or false"),
        (put, r#"{"tenants": [1]}"#, 400, "a list of names"),
        (put, r#"{"percentage": 5}"#, 400, "unknown"),
        (put, "[]", 400, "a JSON object"),
    ] {
        let (found, text) = plain(at, line, body).await;
        assert!(found == status && text.contains(part), "{line} {body}: {found} {text}");
    }
    assert_eq!(state.flags().get("semantic_cache").unwrap().config.percent, 100.0);
    // A reload has the configuration's word again.
    state.flags().replace(&[configured]);
    assert_eq!(json(&plain(at, "GET /v1/admin/flags/semantic_cache", "").await.1), flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_spans_with_their_tokens() {
    let receiver = Receiver::default();
    let tracer = Tracer::start(&receiver::config(receiver.start().await, 100.0)).unwrap();
    let (state, _knobs) = crate::scripted::server(&[], |_, _| ());
    state.trace_by(tracer.clone());
    let (door, at) = door(&state, Side::Both, None).await;
    tokio::spawn(serve_doors(vec![door], state, pending()));
    assert_eq!(plain(at, "POST /v1/chat/completions", &chat(true)).await.0, 200);
    assert_eq!(plain(at, "POST /v1/nothing?key=sk-secret", "{}").await.0, 404);
    // The span ends with the body, on the server's side a moment after the client has it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::task::spawn_blocking(move || tracer.stop()).await.unwrap();
    let spans = receiver.spans();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["chat alphabet", "POST unmatched"]);
    assert!(spans.iter().all(|span| receiver::hex(&span.trace_id) == "4bf92f3577b34da6a3ce929d0e0e4736"));
    let told = receiver::attributes(&spans[0]);
    for (key, value) in [
        ("gen_ai.request.model", "alphabet"),
        ("gen_ai.usage.output_tokens", "3"),
        ("engram.backend", "local"),
        ("engram.outcome", "complete"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(told.get(key).map(String::as_str), Some(value), "{key} in {told:?}");
    }
    assert!(told["gen_ai.usage.input_tokens"].parse::<u64>().unwrap() > 0);
    assert!(!format!("{spans:?}").contains("sk-secret"));
}
