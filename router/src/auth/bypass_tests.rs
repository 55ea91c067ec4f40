//! Ways around the doors, tried over real connections with raw bytes. None may lead in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::tests::{Served, served};
use crate::auth::KeyLimits;

/// The server on a port of loopback; it ends with the test's runtime.
async fn listen(served: &Served) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(crate::serve(listener, served.state.clone(), std::future::pending()));
    addr
}

/// Sends `bytes` and reads until the other side closes.
async fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    // The server may refuse and close before it has taken all of it.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A reset after the answer is no failure either.
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Statuses of all answers on a connection, in order.
fn statuses(answer: &str) -> Vec<u16> {
    let heads = answer.match_indices("HTTP/1.");
    heads.filter_map(|(at, _)| answer.get(at + 9..at + 12)?.parse().ok()).collect()
}

/// One request with these header lines.
fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn no_trick_with_headers_opens() {
    let served = served();
    let addr = listen(&served).await;
    let long = format!("authorization: Bearer {}", "k".repeat(4096));
    let table: &[(&[&str], u16)] = &[
        // These do, or the rest would prove nothing.
        (&["authorization: Bearer sk-operator"], 200),
        (&["AUTHORIZATION: bearer sk-operator"], 200),
        (&["Authorization:   Bearer   sk-operator  "], 200),
        (&["x-api-key: sk-operator"], 200),
        (&["Api-Key: sk-operator"], 200),
        (&["authorization: Bearer sk-operator", "x-api-key: sk-operator"], 200),
        // Nothing, or not a key.
        (&[], 401),
        (&["authorization:"], 401),
        (&["authorization: Bearer"], 401),
        (&["authorization: Bearer "], 401),
        (&["authorization: sk-operator"], 401),
        (&["authorization: Basic c2stb3BlcmF0b3I6"], 401),
        (&["authorization: Bearer *"], 401),
        (&["authorization: Bearer null"], 401),
        (&["authorization: Bearer undefined"], 401),
        // Almost the key.
        (&["authorization: Bearer SK-OPERATOR"], 401),
        (&["authorization: Bearer sk-operato"], 401),
        (&["authorization: Bearer sk-operator1"], 401),
        (&["authorization: Bearer sk-operator sk-operator"], 401),
        (&["authorization: Bearer \"sk-operator\""], 401),
        (&["authorization: Bearer sk-operator,"], 401),
        (&["authorization: Bearer sk%2doperator"], 401),
        (&["authorization: Bearer Bearer sk-operator"], 401),
        (&["authorization: BearerX sk-operator"], 401),
        (&["authorization: Bearer\tsk-operator"], 401),
        (&[&long], 401),
        // Two, of which a proxy may have looked at the other one.
        (&["authorization: Bearer sk-operator", "authorization: Bearer sk-operator"], 401),
        (&["authorization: Bearer wrong-key", "authorization: Bearer sk-operator"], 401),
        (&["authorization: Bearer sk-operator", "Authorization: Bearer wrong-key"], 401),
        (&["authorization: Bearer wrong-key, Bearer sk-operator"], 401),
        (&["authorization: Bearer sk-operator", "x-api-key: wrong-key"], 401),
        (&["authorization: Bearer wrong-key", "x-api-key: sk-operator"], 401),
        (&["authorization: Basic eA==", "x-api-key: sk-operator"], 401),
        (&["x-api-key: sk-operator", "api-key: wrong-key"], 401),
        (&["x-api-key: sk-operator", "x-api-key: sk-operator"], 401),
        (&["x-api-key: Bearer sk-operator"], 401),
        // Where a key does not belong.
        (&["proxy-authorization: Bearer sk-operator"], 401),
        (&["x-forwarded-authorization: Bearer sk-operator"], 401),
        (&["cookie: authorization=Bearer sk-operator; api-key=sk-operator"], 401),
        (&["x_api_key: sk-operator"], 401),
        // Headers that some servers believe.
        (&["x-original-url: /health", "x-rewrite-url: /health"], 401),
        (&["x-http-method-override: OPTIONS", "x-forwarded-for: 127.0.0.1", "forwarded: for=127.0.0.1"], 401),
        (&["connection: authorization, close"], 401),
        (&["expect: 100-continue"], 401),
        // No HTTP at all.
        (&["authorization : Bearer sk-operator"], 400),
        (&["x-a: 1\r\n authorization: Bearer sk-operator"], 400),
        (&["x-a: \0"], 400),
    ];
    for (headers, expected) in table {
        let answer = exchange(addr, &request("GET /v1/models", headers)).await;
        assert_eq!(statuses(&answer), [*expected], "{headers:?}: {answer}");
        assert_eq!(answer.contains("alphabet"), *expected == 200, "{headers:?}: {answer}");
    }
    let many: Vec<String> = (0..2000).map(|number| format!("x-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let large = format!("x-large: {}", "a".repeat(1 << 20));
    for headers in [&many[..], &[large.as_str()]] {
        let answer = exchange(addr, &request("GET /v1/models", headers)).await;
        assert!(matches!(statuses(&answer)[..], [] | [400 | 401 | 431]), "{answer}");
    }
}

#[tokio::test]
async fn no_trick_with_paths_or_methods_opens() {
    let served = served();
    let addr = listen(&served).await;
    let targets = [
        "/v1/models",
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/v1/./models",
        "/v1/x/../models",
        "/v1/../v1/models",
        "/v1/%2e%2e/v1/models",
        "/%76%31/models",
        "/v1%2fmodels",
        "/v1%5cmodels",
        "/v1\\models",
        "/V1/MODELS",
        "/v1/models;jsessionid=1",
        "/v1/models%00",
        "/v1/models%20",
        "/v1/models.json",
        "/v1/models?x=/health",
        "/v1/models?api_key=sk-operator",
        "/v1/models?key=sk-operator",
        "/v1/models#/health",
        "/health/../v1/models",
        "/health/..%2fv1/models",
        "/health%2f..%2fv1/models",
        "/health/v1/models",
        "/health/",
        "/health;/v1/models",
        "/ready/../metrics",
        "/openapi.json/../metrics",
        "/openapi.json%2f..%2fmetrics",
        "/metrics",
        "/metrics/",
        "/v1/admin/keys",
        "/v1/admin//keys",
        "/v1/admin/keys/",
        "/v1/models/../admin/keys",
        "/v1/models/%2e%2e/admin/keys",
        "/v1/models/alphabet",
        "/v1/models/x/../alphabet",
        "http://x/v1/models",
        "http://x/health/../v1/models",
        "http://127.0.0.1/metrics",
        "http:///v1/models",
        "*",
        "x:443",
        "",
        "v1/models",
        "?",
        "/",
        "/v1",
        "/v1/",
    ];
    for method in
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "GE T", "LINK"]
    {
        for target in targets {
            let overrides = ["x-original-url: /health", "x-http-method-override: GET", "content-length: 0"];
            let answer = exchange(addr, &request(&format!("{method} {target}"), &overrides)).await;
            let found = statuses(&answer);
            assert!(matches!(found[..], [] | [400 | 401 | 404 | 405 | 505]), "{method} {target}: {answer}");
            // A stranger hears of no route and of no model, but that there are probes.
            let probe = target.starts_with("/health");
            assert!(probe || !matches!(found[..], [404 | 405]), "{method} {target}: {answer}");
            assert!(!answer.contains("alphabet") && !answer.contains("engram_"), "{method} {target}: {answer}");
        }
    }
    // With a key, a path is what it says: nothing is joined or decoded into another.
    for target in
        ["/v1/models/../admin/keys", "/v1/models/%2e%2e/admin/keys", "//v1/models", "/V1/models", "/v1/models/"]
    {
        let answer = exchange(addr, &request(&format!("GET {target}"), &["x-api-key: sk-operator"])).await;
        assert_eq!(statuses(&answer), [404], "{target}: {answer}");
    }
}

/// What one request may do, the next on its connection may not do by that.
#[tokio::test]
async fn each_request_of_a_connection_shows_its_key() {
    let served = served();
    let addr = listen(&served).await;
    let keyed = "GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: sk-operator\r\n\r\n";
    let bare = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(addr, format!("{keyed}{keyed}{bare}").as_bytes()).await;
    assert_eq!(statuses(&answer), [200, 200, 401], "{answer}");
    // Bodies whose ends two servers may see in different places, with a request in what is left over.
    let hidden = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for head in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "content-length: 5\r\ncontent-length: 90",
        "content-length: +5",
        "content-length: 5, 5",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    ] {
        for key in ["x-api-key: sk-operator\r\n", ""] {
            let text = format!("POST /tokenize HTTP/1.1\r\nhost: x\r\n{key}{head}\r\n\r\n0\r\n\r\n{hidden}");
            let answer = exchange(addr, text.as_bytes()).await;
            let found = statuses(&answer);
            assert!(found.iter().all(|status| (400..500).contains(status)), "{head}: {answer}");
            assert!(!answer.contains("alphabet"), "{head}: {answer}");
        }
    }
    // HTTP/1.0 and what came before it ask for a key too.
    for text in ["GET /v1/models HTTP/1.0\r\n\r\n", "GET /v1/models\r\n\r\n", "GET /v1/models HTTP/2.0\r\n\r\n"] {
        let answer = exchange(addr, text.as_bytes()).await;
        assert!(matches!(statuses(&answer)[..], [] | [400 | 401 | 505]), "{text}: {answer}");
    }
}

/// A stranger's body is not waited for: neither its size nor its slowness costs the server anything.
#[tokio::test]
async fn a_body_without_a_key_is_not_read() {
    let served = served();
    let addr = listen(&served).await;
    for body in ["content-length: 99999999999999", "content-length: 10", "transfer-encoding: chunked"] {
        let begun = Instant::now();
        let text = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             {body}\r\n\r\n"
        );
        let answer = exchange(addr, text.as_bytes()).await;
        assert_eq!(statuses(&answer), [401], "{body}: {answer}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{body}: {:?}", begun.elapsed());
    }
    let large = request(
        "POST /v1/chat/completions",
        &["x-api-key: sk-operator", "content-type: application/json", "content-length: 99999999999999"],
    );
    assert_eq!(statuses(&exchange(addr, &large).await), [413]);
    assert_eq!(served.state.drain().in_flight(), 0);
}

/// Kept-alive connections learn of a key's end at their next request.
#[tokio::test]
async fn a_kept_connection_does_not_keep_its_key() {
    let served = served();
    let addr = listen(&served).await;
    let key = served.key("ci", |_| ());
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let mut ask = async |key: &str| {
        let text = format!("GET /version HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = vec![0; 4096];
        let len = stream.read(&mut answer).await.expect("an answer");
        statuses(&String::from_utf8_lossy(&answer[..len]))
    };
    assert_eq!(ask(&key).await, [200]);
    served.state.keys().revoke("ci").expect("a store").expect("revoked");
    assert_eq!(ask(&key).await, [401]);
    let short = served.key("short", |new| new.expires_in = Some(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&short).await, [401]);
    assert_eq!(ask("sk-operator").await, [200], "the connection itself is fine");
}

/// A command changes the file; the server that runs follows it by itself.
#[tokio::test]
async fn a_change_by_a_command_reaches_a_running_server() {
    let served = served();
    let addr = listen(&served).await;
    let store = served.state.keys().store().expect("a store").clone();
    let made = store.create(crate::auth::NewKey::named("ci")).expect("made");
    let header = format!("x-api-key: {}", made.key);
    let until = async |expected: u16| {
        let begun = Instant::now();
        while statuses(&exchange(addr, &request("GET /version", &[&header])).await) != [expected] {
            assert!(begun.elapsed() < Duration::from_secs(10), "{expected} never came");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    };
    let opened = until(200).await;
    store.revoke("ci").expect("revoked");
    let shut = until(401).await;
    assert!(opened < Duration::from_secs(5) && shut < Duration::from_secs(5), "{opened:?} {shut:?}");
}

/// A hundred connections at one moment: as many pass as the limit says, and what flowed back meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_passes_exactly_its_limit() {
    let served = served();
    let addr = listen(&served).await;
    let limit = 30;
    let limits = KeyLimits { rpm: Some(limit), ..KeyLimits::default() };
    let key = format!("x-api-key: {}", served.limited("ci", limits));
    let bytes = request("GET /version", &[&key]);
    let begun = Instant::now();
    let answers = join_all((0..100).map(|_| exchange(addr, &bytes))).await;
    let found: Vec<u16> = answers.iter().flat_map(|answer| statuses(answer)).collect();
    let passed = found.iter().filter(|status| **status == 200).count() as u64;
    let flowed = begun.elapsed().as_secs() / 2;
    assert_eq!(found.iter().filter(|status| **status == 429).count() as u64, 100 - passed);
    assert!((limit..=limit + flowed).contains(&passed), "{passed} passed, {flowed} flowed back");
}
