//! A storm of faults through a real Engram in front of scripted servers, for each kind of backend: what the client saw,
//! what the breaker counted, what was billed, and that nothing outlives its timeout.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engram_benches::upstream::{Received, Step, Upstream, answer, chunk, event, json, stream_end, stream_head, write};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use crate::support::server::{Server, Streamed, free_port, stream};

const KINDS: [&str; 3] = ["peer", "portkey", "openai_compatible"];

/// A backend's waits, seconds: to the first token, for silence, for the whole.
const WAITS: &str = "connect_timeout_s = 0.4\nfirst_token_timeout_s = 0.6\nidle_timeout_s = 0.6\ntimeout_s = 1.5\n";
/// No call may take longer than two tries of the longest wait, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(5);

/// 100 tokens in at 10 dollars a million and 10 out at 100: what a whole answer of the scripted server costs.
const PRICE: &str = "input = 10.0\noutput = 100.0\n";
const FULL: f64 = 0.002;
/// Two tokens that came before a break, and the prompt of eleven as this side reckons it.
const PART: f64 = 0.000_31;
const FREE: f64 = 0.0;

const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}"#;

/// What a client sees of an answer.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// An error body: its status, its code, what each call to the backend came to.
    Error(u16, &'static str, &'static [&'static str]),
    /// The whole answer, after so many calls.
    Answer(u64),
    /// Two tokens, then an error event that says this, and no `[DONE]`.
    Broken(&'static str),
}
use Seen::{Answer, Broken, Error};

/// One request's outcome: what the client saw, failures that the breaker counted, dollars billed.
type Outcome = (Seen, u64, f64);

/// A fault, and what comes of it for an answer in one piece and for a stream.
struct Row {
    fault: &'static str,
    whole: Outcome,
    stream: Outcome,
}

/// Both kinds of answer come to the same.
fn same(fault: &'static str, outcome: Outcome) -> Row {
    Row { fault, whole: outcome, stream: outcome }
}

/// No answer, whatever was asked for.
const fn failed(kinds: &'static [&'static str], marks: u64) -> Outcome {
    (Error(502, "backends_failed", kinds), marks, FREE)
}

/// A stream that broke after its second token.
const fn broken(says: &'static str) -> Outcome {
    (Broken(says), 1, PART)
}

/// The table: what may heal is asked twice, what is the client's or a matter of load is no mark.
fn rows() -> Vec<Row> {
    let row = |fault, whole, stream| Row { fault, whole, stream };
    let busy = (Error(429, "overloaded", &["rate_limited", "rate_limited"]), 0, FREE);
    vec![
        same("refused", failed(&["refused", "refused"], 2)),
        same("dns", failed(&["dns", "dns"], 2)),
        same("tls-silence", failed(&["connect_timeout", "connect_timeout"], 2)),
        same("no-tls", failed(&["tls"], 1)),
        same("untrusted", failed(&["tls"], 1)),
        same("not-http", failed(&["garbage"], 1)),
        same("reset-at-once", failed(&["reset", "reset"], 2)),
        row("reset-in-body", failed(&["reset", "reset"], 2), broken("the connection broke")),
        row("closed-in-body", failed(&["cut", "cut"], 2), broken("ended before it was complete")),
        same("slow-headers", failed(&["header_timeout"], 1)),
        row("slow-body", failed(&["total_timeout"], 1), failed(&["first_token_timeout"], 1)),
        row("slow-rest", failed(&["total_timeout"], 1), broken("not complete after 1.5 s")),
        row("silence", failed(&["idle_timeout"], 1), broken("nothing came for 0.6 s")),
        same("garbage", failed(&["garbage"], 1)),
        row("garbage-later", failed(&["garbage"], 1), broken("is not JSON")),
        row("error-inside", failed(&["server_error", "server_error"], 2), broken("the model fell over")),
        row("clean-cut", failed(&["cut", "cut"], 2), broken("without [DONE]")),
        row("done-too-early", failed(&["cut", "cut"], 2), broken("without a finish_reason")),
        row("cut-after-usage", failed(&["cut", "cut"], 2), (Broken("without a finish_reason"), 1, FULL)),
        same("flapping", (Answer(2), 1, FULL)),
        same("500", failed(&["server_error", "server_error"], 2)),
        same("408", failed(&["timeout", "timeout"], 2)),
        same("429", busy),
        same("429-later", (Error(429, "overloaded", &["rate_limited"]), 0, FREE)),
        same("429-soon", (Answer(2), 0, FULL)),
        same("bad-key", failed(&["bad_key"], 0)),
        same("no-model", failed(&["no_model"], 0)),
        same("rejected", (Error(400, "invalid_value", &[]), 0, FREE)),
        same("gateway", failed(&["server_error", "server_error"], 2)),
        same("well", (Answer(1), 0, FULL)),
    ]
}

/// What the gateway says of itself only Portkey's kind of backend believes.
fn for_kind(kind: &str, row: Row) -> Row {
    match (kind, row.fault) {
        ("portkey", "gateway") => same("gateway", failed(&["gateway"], 1)),
        _ => row,
    }
}

/// The scripted server of all backends: `/KIND/FAULT/v1/chat/completions`.
fn script(request: &Received, again: bool) -> Vec<Step> {
    if request.method == "GET" {
        return vec![json("200 OK", r#"{"data":[{"id":"m","owned_by":"them"}]}"#)];
    }
    let fault = request.path.split('/').nth(2).unwrap_or_default();
    let body: Value = serde_json::from_slice(&request.body).expect("a JSON body");
    match body["stream"] == true {
        true => streamed(fault, again),
        false => in_one_piece(fault, again),
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const SLOW: Duration = Duration::from_millis(100);

fn trickle(text: &str) -> Step {
    Step::Trickle(text.as_bytes().into(), SLOW)
}

/// Faults that begin before the first byte of a body.
fn at_the_head(fault: &str, again: bool) -> Option<Vec<Step>> {
    let refusal = |status: &str, headers: &[&str]| {
        let headers: Vec<&str> = headers.iter().copied().chain(["content-type: application/json"]).collect();
        Some(vec![answer(status, &headers, r#"{"error":{"message":"said so"}}"#)])
    };
    match fault {
        "not-http" => Some(vec![write("SSH-2.0-OpenSSH_9.2\r\n"), Step::Hang]),
        "reset-at-once" => Some(vec![Step::Reset]),
        "slow-headers" => Some(vec![trickle(HEAD)]),
        "flapping" if !again => refusal("503 Service Unavailable", &[]),
        "500" => refusal("500 Internal Server Error", &[]),
        "408" => refusal("408 Request Timeout", &[]),
        "429" => refusal("429 Too Many Requests", &[]),
        "429-later" => refusal("429 Too Many Requests", &["retry-after: 30"]),
        "429-soon" if !again => refusal("429 Too Many Requests", &["retry-after: 0"]),
        "bad-key" => refusal("401 Unauthorized", &[]),
        "no-model" => refusal("404 Not Found", &[]),
        "rejected" => refusal("400 Bad Request", &[]),
        "gateway" => refusal("500 Internal Server Error", &["x-portkey-gateway-exception: true"]),
        _ => None,
    }
}

fn in_one_piece(fault: &str, again: bool) -> Vec<Step> {
    if let Some(steps) = at_the_head(fault, again) {
        return steps;
    }
    let whole = |finish: &str| {
        let choice =
            format!(r#"{{"index":0,"message":{{"role":"assistant","content":"ok"}},"finish_reason":{finish}}}"#);
        format!(r#"{{"id":"c","object":"chat.completion","model":"m","choices":[{choice}],"usage":{USAGE}}}"#)
    };
    match fault {
        "reset-in-body" => vec![write(HEAD), write("{"), Step::Pause(SLOW), Step::Reset],
        "closed-in-body" => vec![write(HEAD), write("{"), Step::Close],
        "slow-body" | "slow-rest" => vec![write(HEAD), trickle(&" ".repeat(1000))],
        "silence" => vec![write(HEAD), Step::Hang],
        "garbage" => vec![answer("200 OK", &["content-type: text/html"], "<html>It works!</html>")],
        "garbage-later" => vec![json("200 OK", r#"{"choices":[{"index":0,"#)],
        "error-inside" => vec![json("200 OK", r#"{"error":{"message":"the model fell over"}}"#)],
        "clean-cut" | "done-too-early" | "cut-after-usage" => vec![json("200 OK", &whole("null"))],
        _ => vec![json("200 OK", &whole("\"stop\""))],
    }
}

fn streamed(fault: &str, again: bool) -> Vec<Step> {
    if let Some(steps) = at_the_head(fault, again) {
        return steps;
    }
    let piece = |delta: &str, finish: &str| {
        event(&format!(
            r#"{{"id":"c","model":"m","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
        ))
    };
    let usage = || event(&format!(r#"{{"id":"c","model":"m","choices":[],"usage":{USAGE}}}"#));
    let done = || event("[DONE]");
    let rest = match fault {
        "slow-body" => return vec![write(STREAM_HEAD), write("3e8\r\n"), trickle(&":".repeat(1000))],
        "garbage" => return vec![write(STREAM_HEAD), event("It works!"), Step::Hang],
        "reset-in-body" => vec![Step::Pause(SLOW), Step::Reset],
        "closed-in-body" => vec![Step::Close],
        "slow-rest" => vec![write("3e8\r\n"), trickle(&":".repeat(1000))],
        "silence" => vec![Step::Hang],
        "garbage-later" => vec![event("{\"choices\":"), Step::Hang],
        "error-inside" => vec![event(r#"{"error":{"message":"the model fell over"}}"#), stream_end()],
        "clean-cut" => vec![chunk("data: {\"id\":"), stream_end()],
        "done-too-early" => vec![done(), stream_end()],
        "cut-after-usage" => vec![usage(), done(), stream_end()],
        _ => vec![piece("{}", "\"stop\""), usage(), done(), stream_end()],
    };
    let role = piece(r#"{"role":"assistant","content":""}"#, "null");
    let tokens = ["o", "k"].map(|token| piece(&format!(r#"{{"content":"{token}"}}"#), "null"));
    [stream_head(), role].into_iter().chain(tokens).chain(rest).collect()
}

/// A server that knows no TLS, and says so to a handshake.
async fn plain() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Whoever does not listen to it is gone.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    port
}

/// A server whose certificate nobody knows.
async fn untrusted() -> u16 {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server's settings");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The client hangs up in the handshake; one that did not would find nobody.
            let _ = acceptor.accept(stream).await;
        }
    });
    port
}

/// A backend and its model, both of this name.
fn backend(config: &mut String, name: &str, kind: &str, url: &str, more: &str) {
    let portkey = if kind == "portkey" { "portkey_provider = \"openai\"\n" } else { "" };
    writeln!(
        config,
        "[backends.\"{name}\"]\nkind = \"{kind}\"\nurl = \"{url}\"\nmodels = [\"m\"]\nhealth_interval_s = 0\n{WAITS}{portkey}{more}\n\
         [catalog.\"{name}\"]\nbackends = [\"{name}\"]\nupstream = \"m\"\n{PRICE}"
    )
    .expect("a string");
}

/// Retries at once, as many as the table has.
const ROUTING: &str = "[routing]\ncache = false\nretry_base_ms = 1\nretry_cap_ms = 2000\nretry_budget_percent = 100\n";

fn ask(model: &str, stream: bool) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16});
    if stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// What one request came to.
struct Came {
    status: u16,
    retry_after: Option<String>,
    cost: Option<String>,
    body: Value,
    took: Duration,
}

async fn post(client: &reqwest::Client, server: &Server, body: &Value) -> Came {
    let begun = Instant::now();
    let response = client.post(server.url("/v1/chat/completions")).json(body).send().await.expect("an answer");
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let (status, retry_after, cost) = (response.status().as_u16(), header("retry-after"), header("x-engram-cost-usd"));
    let body = response.json().await.expect("JSON");
    Came { status, retry_after, cost, body, took: begun.elapsed() }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

fn check_error(at: &str, error: &Value, seen: (u16, &str, &[&str]), status: u16) {
    let (expected, code, kinds) = seen;
    assert_eq!((status, error["code"].as_str()), (expected, Some(code)), "{at}: {error}");
    let attempts = error["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let codes: Vec<&str> = attempts.iter().filter_map(|attempt| attempt["code"].as_str()).collect();
    assert_eq!(codes, kinds, "{at}: {error}");
}

fn check_whole(at: &str, came: &Came, (seen, _, dollars): Outcome) {
    match seen {
        Error(status, code, kinds) => check_error(at, &came.body["error"], (status, code, kinds), came.status),
        Answer(calls) => {
            let body = &came.body;
            assert_eq!((came.status, &body["choices"][0]["message"]["content"]), (200, &json!("ok")), "{at}: {body}");
            assert_eq!(body["engram"]["attempts"], calls, "{at}: {body}");
            assert_eq!(came.cost.as_deref(), Some(format!("{dollars:.9}").as_str()), "{at}");
        }
        Broken(_) => panic!("{at}: an answer in one piece does not break in two"),
    }
}

fn check_stream(at: &str, came: &Streamed, (seen, _, dollars): Outcome) {
    match seen {
        Error(status, code, kinds) => {
            let body = came.error.as_ref().unwrap_or_else(|| panic!("{at}: no error in {came:?}"));
            check_error(at, &body["error"], (status, code, kinds), came.status);
        }
        Answer(_) => {
            assert_eq!((came.status, came.text.as_str(), came.done), (200, "ok", true), "{at}: {came:?}");
            assert_eq!(
                came.usage.as_ref().map(|usage| &usage["completion_tokens"]),
                Some(&json!(10)),
                "{at}: {came:?}"
            );
            assert!(came.error.is_none() && dollars == FULL, "{at}: {came:?}");
        }
        Broken(says) => {
            assert_eq!((came.status, came.text.as_str(), came.done), (200, "ok", false), "{at}: {came:?}");
            assert_eq!(came.finish_reason, None, "{at}: a clean end: {came:?}");
            let error = came.error.as_ref().unwrap_or_else(|| panic!("{at}: no error event in {came:?}"));
            assert_eq!(error["code"], "backends_failed", "{at}: {error}");
            assert!(error["message"].as_str().is_some_and(|told| told.contains(says)), "{at}: {error}");
        }
    }
}

/// Failures that a backend's breaker has counted.
fn marks(server: &Server, name: &str) -> u64 {
    server.backend(name)["breaker"]["failures"].as_u64().expect("a count")
}

/// One row at one backend: first an answer in one piece, then a stream.
async fn storm(client: &reqwest::Client, server: &Server, kind: &str, row: &Row) {
    let name = format!("{kind}-{}", row.fault);
    let at = format!("{name}, whole");
    let came = post(client, server, &ask(&name, false)).await;
    check_whole(&at, &came, row.whole);
    assert!(came.took < PATIENCE, "{at}: took {:?}", came.took);
    assert_eq!(came.retry_after.as_deref(), (row.fault == "429-later").then_some("30"), "{at}");
    assert_eq!(marks(server, &name), row.whole.1, "{at}: marks against the backend");

    let at = format!("{name}, streamed");
    let came = stream(client, &server.url("/v1/chat/completions"), &ask(&name, true), None).await;
    check_stream(&at, &came, row.stream);
    assert!(came.elapsed < PATIENCE, "{at}: took {:?}", came.elapsed);
    assert_eq!(marks(server, &name), row.whole.1 + row.stream.1, "{at}: marks against the backend");
}

/// Dollars by backend, as the metrics have them.
fn billed(server: &Server) -> HashMap<String, f64> {
    let (_, text) = server.blocking_get("/metrics").expect("metrics");
    let series = text.lines().filter_map(|line| line.strip_prefix("llm_token_cost_dollars{backend=\""));
    let mut dollars = HashMap::new();
    for line in series {
        let (name, rest) = line.split_once('"').expect("a label");
        let value: f64 = rest.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number");
        *dollars.entry(name.to_owned()).or_default() += value;
    }
    dollars
}

/// Waits until no backend has a call in flight: whatever a client saw, nothing is left behind.
fn settle(server: &Server) {
    let begun = Instant::now();
    loop {
        let (_, body) = server.blocking_get("/v1/admin/backends").expect("the backends");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let busy: Vec<&Value> =
            body["backends"].as_array().expect("a list").iter().filter(|one| one["in_flight"] != 0).collect();
        if busy.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still in flight: {busy:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_told_marked_and_billed() {
    // Whether a path was asked before, by its second request of a pair: a backend that flaps.
    let seen: Mutex<HashMap<String, u64>> = Mutex::default();
    let upstream = Upstream::start(move |request| {
        let mut seen = seen.lock().expect("no panic");
        let count = seen.entry(request.path.clone()).or_default();
        *count += u64::from(request.method == "POST");
        script(request, (*count).is_multiple_of(2))
    })
    .await
    .expect("a port");
    let (dead, plain, tls) = (free_port(), plain().await, untrusted().await);
    let mut config = ROUTING.to_owned();
    for kind in KINDS {
        for Row { fault, .. } in rows() {
            let url = match fault {
                "refused" => format!("http://127.0.0.1:{dead}/v1"),
                "dns" => "http://no-such-host.invalid/v1".to_owned(),
                "no-tls" => format!("https://127.0.0.1:{plain}/v1"),
                // It waits for a request that never comes.
                "tls-silence" => format!("https://{}/v1", upstream.address),
                "untrusted" => format!("https://localhost:{tls}/v1"),
                _ => format!("http://{}/{kind}/{fault}/v1", upstream.address),
            };
            backend(&mut config, &format!("{kind}-{fault}"), kind, &url, "breaker_failures = 100");
        }
    }
    let server = Server::front(&config);
    let client = client();
    let cases = KINDS.into_iter().flat_map(|kind| rows().into_iter().map(move |row| (kind, for_kind(kind, row))));
    let cases: Vec<(&str, Row)> = cases.collect();
    // All of the table is told, not only the first row that is wrong.
    let wrong = Mutex::new(Vec::new());
    let run = async |(kind, row): &(&str, Row)| {
        if AssertUnwindSafe(storm(&client, &server, kind, row)).catch_unwind().await.is_err() {
            wrong.lock().expect("no panic").push(format!("{kind}-{}", row.fault));
        }
    };
    futures::stream::iter(&cases).for_each_concurrent(8, run).await;
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{} of {} rows went wrong: {wrong:?}", wrong.len(), cases.len());

    settle(&server);
    let billed = billed(&server);
    for (kind, row) in &cases {
        let name = format!("{kind}-{}", row.fault);
        let (paid, owed) = (billed.get(&name).copied().unwrap_or(0.0), row.whole.2 + row.stream.2);
        assert!((paid - owed).abs() < 1e-9, "{name}: {paid} dollars were billed, {owed} are owed");
    }
}

/// A scripted backend that fails until it is told not to, beside one that is well and one that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_backend_is_left_alone_and_holds_up_no_other() {
    let healed = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let (now_well, asked_down) = (Arc::clone(&healed), Arc::clone(&asked));
    let upstream = Upstream::start(move |request| {
        let fault = request.path.split('/').nth(2).unwrap_or_default();
        if request.method == "POST" && fault == "stuck" {
            return vec![Step::Hang];
        }
        if request.method == "POST" && fault == "down" {
            asked_down.fetch_add(1, Ordering::SeqCst);
            if !now_well.load(Ordering::SeqCst) {
                return vec![json("503 Service Unavailable", "{}")];
            }
        }
        script(request, false)
    })
    .await
    .expect("a port");
    for kind in KINDS {
        healed.store(false, Ordering::SeqCst);
        asked.store(0, Ordering::SeqCst);
        let mut config = ROUTING.to_owned();
        let more = "tries = 1\nbreaker_failures = 3\nbreaker_open_s = 0.5\nmax_in_flight = 4\n";
        for name in ["down", "stuck", "well", "429"] {
            backend(&mut config, name, kind, &format!("http://{}/{kind}/{name}/v1", upstream.address), more);
        }
        config.push_str("[routes.any]\nmodels = [\"down\", \"well\"]\nlocal = \"never\"\n");
        let server = Server::front(&config);
        let client = client();
        let send = |model: &str| {
            let (client, url, body) = (client.clone(), server.url("/v1/chat/completions"), ask(model, false));
            async move {
                let response = client.post(url).json(&body).send().await.expect("an answer");
                (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
            }
        };

        // Eight calls that hang take the four seats of their backend, for their whole timeout; the well one does not notice.
        let stuck: Vec<_> = (0..8).map(|_| tokio::spawn(send("stuck"))).collect();
        let begun = Instant::now();
        for _ in 0..20 {
            let (status, body) = send("well").await;
            assert_eq!(status, 200, "{kind}: {body}");
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{kind}: the well one took {:?}", begun.elapsed());
        let mut codes: Vec<String> = Vec::new();
        for one in stuck {
            let (status, body) = one.await.expect("a client");
            assert!(matches!(status, 502 | 503), "{kind}: {status} {body}");
            codes.push(body["error"]["attempts"][0]["code"].as_str().expect("a code").to_owned());
        }
        let count = |code: &str| codes.iter().filter(|known| *known == code).count();
        assert_eq!((count("header_timeout"), count("not_asked")), (4, 4), "{kind}: {codes:?}");

        // Three failures open the breaker: from then on nobody asks, and a route goes on to the next at once.
        for call in 0..20 {
            let (status, body) = send("down").await;
            let expected = if call < 3 { (502, "server_error") } else { (503, "not_asked") };
            let code = body["error"]["attempts"][0]["code"].as_str().expect("a code");
            assert_eq!((status, code), expected, "{kind}, call {call}: {body}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3, "{kind}: calls to a backend that is left alone");
        assert_eq!(server.backend("down")["breaker"]["state"], "open");
        assert_eq!(server.metric("engram_breaker_state", "backend=\"down\""), 2.0);
        let (status, body) = send("any").await;
        assert_eq!((status, &body["engram"]["backend"]), (200, &json!("well")), "{kind}: {body}");
        // Load is no illness.
        for _ in 0..5 {
            assert_eq!(send("429").await.0, 429);
        }
        assert_eq!(server.backend("429")["breaker"]["state"], "closed", "{kind}");

        // Half open, one probe goes out, and its success lets all through again.
        healed.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(550)).await;
        assert_eq!(server.backend("down")["breaker"]["state"], "half_open", "{kind}");
        let (status, body) = send("down").await;
        assert_eq!(status, 200, "{kind}: {body}");
        assert_eq!(server.backend("down")["breaker"]["state"], "closed", "{kind}");
        settle(&server);
    }
}
