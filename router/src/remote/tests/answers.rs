//! Good answers, deadlines, clients that leave, and questions of our own.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use engram_benches::upstream::{Received, Step, Upstream, answer, chunk, event, json, stream_end, stream_head};

use super::super::{Call, Endpoint, FailureKind, RemoteKind, Whole};
use super::{call, hurry, read, remote_at, scripted, stream_of};
use crate::config::Secret;

const WHOLE: &str = r#"{"model": "m-1", "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}}"#;
const ROLE: &str = r#"{"model":"m-1","choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}"#;
const TOKEN: &str = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#;

/// Waits until the server has seen this many clients leave.
async fn left(upstream: &Upstream, clients: u64) {
    let begun = Instant::now();
    while upstream.counts.left.load(Ordering::Relaxed) < clients {
        assert!(begun.elapsed() < Duration::from_secs(12), "the connection is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_whole_answer_and_what_was_sent_for_it() {
    let seen: Arc<Mutex<Vec<Received>>> = Arc::default();
    let record = Arc::clone(&seen);
    let upstream = Upstream::start(move |request| {
        record.lock().expect("no panic").push(request.clone());
        vec![answer("200 OK", &["content-type: application/json", "x-request-id: up-1"], WHOLE)]
    })
    .await
    .expect("a port");
    let remote = remote_at(&format!("{}/", upstream.url()), |settings| {
        settings.api_key = Some(Secret::new("the-secret-key"));
        settings.headers = vec!["x-team: a".into()];
    });
    let mut call = call(r#"{"as": "it is"}"#);
    call.headers.insert("traceparent", HeaderValue::from_static("00-1-2-01"));
    call.headers.insert("authorization", HeaderValue::from_static("Bearer the-clients-key"));
    let Whole { body, usage, upstream: way } = remote.whole(call.clone()).await.expect("an answer");
    assert_eq!(body["choices"][0]["message"]["content"], "a");
    let usage = usage.expect("usage");
    assert_eq!((usage.prompt, usage.cached, usage.completion), (5, 4, 1));
    assert_eq!((way.request_id.as_deref(), way.model.as_deref()), (Some("up-1"), Some("m-1")));

    for endpoint in [Endpoint::Completions, Endpoint::Embeddings] {
        let _ = remote.whole(Call { endpoint, ..call.clone() }).await;
    }
    let seen = seen.lock().expect("no panic");
    let paths: Vec<&str> = seen.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]);
    assert_eq!(seen[0].body, call.body);
    let headers =
        ["authorization", "x-team", "traceparent", "content-type", "accept", "accept-encoding", "transfer-encoding"];
    assert_eq!(
        headers.map(|name| seen[0].header(name)),
        [
            Some("Bearer the-secret-key"),
            Some("a"),
            Some("00-1-2-01"),
            Some("application/json"),
            Some("application/json"),
            None,
            None
        ]
    );
    assert_eq!(upstream.counts.connections.load(Ordering::Relaxed), 1, "the connection was not used again");
}

#[tokio::test]
async fn a_stream_is_handed_over_whole_and_its_connection_used_again() {
    let tool = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{"}}]}}]}"#;
    let text = r#"{"choices":[{"index":0,"text":"a","finish_reason":null}]}"#;
    let ended = r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#;
    let second = r#"{"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":"stop"}]}"#;
    let empty = r#"{"choices":[],"prompt_filter_results":[]}"#;
    let table: [&[&str]; 7] = [
        &[ROLE, TOKEN, STOP],
        &[ROLE, TOKEN, STOP, USAGE],
        &[empty, ROLE, tool, STOP],
        &[text, ended],
        &[TOKEN, second, STOP],
        &[STOP],
        &[r#"{"note":"no choices"}"#, TOKEN, STOP],
    ];
    for events in table {
        let (upstream, remote) = scripted(stream_of(events)).await;
        for turn in 0..3 {
            let stream = remote.stream(call("{}")).await.expect("a first token");
            let (found, failure) = read(stream).await;
            assert!(failure.is_none(), "{failure:?}");
            assert_eq!(found, events, "turn {turn}");
            // The end of the body comes after `[DONE]`: give it the time to be read.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(upstream.counts.connections.load(Ordering::Relaxed), 1, "the connection was not used again");
    }
}

#[tokio::test]
async fn usage_and_model_of_a_stream_are_known_at_its_end() {
    let (_upstream, remote) = scripted(stream_of(&[ROLE, TOKEN, STOP, USAGE])).await;
    let mut stream = remote.stream(call("{}")).await.expect("a first token");
    assert_eq!(stream.usage(), None);
    while let Some(item) = futures::StreamExt::next(&mut stream).await {
        item.expect("no failure");
    }
    assert_eq!(stream.usage().map(|usage| usage.prompt), Some(5));
    assert_eq!(stream.upstream().model.as_deref(), Some("m-1"));
}

#[tokio::test]
async fn the_first_token_is_what_a_stream_waits_for() {
    let steps = vec![
        stream_head(),
        event(ROLE),
        chunk(": wait\n\n"),
        Step::Pause(Duration::from_millis(200)),
        event(TOKEN),
        Step::Hang,
    ];
    let (_upstream, remote) = scripted(steps).await;
    let begun = Instant::now();
    let stream = remote.stream(call("{}")).await.expect("a first token");
    assert!(begun.elapsed() >= Duration::from_millis(200), "handed over after {:?}", begun.elapsed());
    drop(stream);
}

#[tokio::test]
async fn events_in_pieces_of_a_byte_are_the_same() {
    let text: String = [ROLE, TOKEN, STOP, "[DONE]"].iter().map(|data| format!("data: {data}\r\n\r\n")).collect();
    let mut steps = vec![stream_head()];
    steps.extend(text.chars().map(|letter| chunk(&letter.to_string())));
    steps.push(stream_end());
    let (_upstream, remote) = scripted(steps).await;
    let (found, failure) = read(remote.stream(call("{}")).await.expect("a first token")).await;
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(found, [ROLE, TOKEN, STOP]);
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_connection() {
    let (upstream, remote) = scripted(vec![Step::Hang]).await;
    let patience = Duration::from_millis(100);
    tokio::time::timeout(patience, remote.whole(call("{}"))).await.expect_err("nothing comes");
    left(&upstream, 1).await;
    tokio::time::timeout(patience, remote.stream(call("{}"))).await.expect_err("nothing comes");
    left(&upstream, 2).await;

    let steps = vec![stream_head(), event(TOKEN), Step::Hang];
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let remote = remote_at(&upstream.url(), hurry);
    drop(remote.stream(call("{}")).await.expect("a first token"));
    left(&upstream, 1).await;
    let (_, failure) = read(remote.stream(call("{}")).await.expect("a first token")).await;
    assert_eq!(failure.map(|failure| failure.kind), Some(FailureKind::IdleTimeout));
    left(&upstream, 2).await;
}

#[tokio::test]
async fn a_deadline_ends_the_call_wherever_it_is() {
    let deadline = |millis| Some(Instant::now() + Duration::from_millis(millis));
    let (upstream, remote) = scripted(vec![Step::Hang]).await;
    let failure = remote.whole(Call { deadline: deadline(0), ..call("{}") }).await.expect_err("over");
    assert_eq!((failure.kind, upstream.counts.requests.load(Ordering::Relaxed)), (FailureKind::Deadline, 0));
    let failure = remote.whole(Call { deadline: deadline(100), ..call("{}") }).await.expect_err("over");
    assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
    left(&upstream, 1).await;
    let failure = remote.stream(Call { deadline: deadline(100), ..call("{}") }).await.expect_err("over");
    assert_eq!(failure.kind, FailureKind::Deadline, "{failure}");
    left(&upstream, 2).await;
    // Too late for its first token, but not too late: another backend may make it.
    let failure = remote.stream(Call { first_by: deadline(100), ..call("{}") }).await.expect_err("too slow");
    assert_eq!(failure.kind, FailureKind::TooSlow, "{failure}");
    assert!(failure.message.contains("0.1 s"), "{failure}");
    left(&upstream, 3).await;

    let (upstream, remote) = scripted(vec![stream_head(), event(TOKEN), Step::Hang]).await;
    let call = Call { deadline: deadline(1500), ..call("{}") };
    let (events, failure) = read(remote.stream(call).await.expect("a first token")).await;
    assert_eq!((events.len(), failure.map(|failure| failure.kind)), (1, Some(FailureKind::Deadline)));
    left(&upstream, 1).await;
}

#[tokio::test]
async fn silence_is_timed_by_itself_and_a_slow_reader_is_none() {
    let millis = Duration::from_millis;
    let steps = vec![stream_head(), event(TOKEN), Step::Hang];
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let remote = remote_at(&upstream.url(), |settings| {
        settings.first_token_timeout = millis(30_000);
        settings.idle_timeout = millis(200);
    });
    let begun = Instant::now();
    let (_, failure) = read(remote.stream(call("{}")).await.expect("a first token")).await;
    assert_eq!(failure.map(|failure| failure.kind), Some(FailureKind::IdleTimeout));
    assert!(begun.elapsed() < millis(12_000), "only after {:?}", begun.elapsed());

    let end = stream_of(&[STOP]).split_off(1);
    let steps = [vec![stream_head(), event(TOKEN), Step::Pause(millis(2200))], end].concat();
    let upstream = Upstream::start(move |_| steps.clone()).await.expect("a port");
    let remote = remote_at(&upstream.url(), |settings| settings.idle_timeout = millis(1500));
    let stream = remote.stream(call("{}")).await.expect("a first token");
    tokio::time::sleep(millis(1800)).await;
    let (events, failure) = read(stream).await;
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(events, [TOKEN, STOP]);
}

#[tokio::test]
async fn models_are_listed_and_signs_of_life_read() {
    let listed = r#"{"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"name": "no id"}]}"#;
    let (_upstream, remote) = scripted(vec![json("200 OK", listed)]).await;
    let names: Vec<String> = remote.models().await.expect("a list").into_iter().map(|model| model.id).collect();
    assert_eq!(names, ["a", "b"]);
    let (_upstream, remote) = scripted(vec![json("200 OK", r#"{"data": []}"#)]).await;
    assert!(remote.models().await.expect("a list").is_empty());

    // Which path answers what, and whether that is a sign of life of this kind of server.
    type Paths = &'static [(&'static str, &'static str)];
    let table: [(RemoteKind, Paths, Option<FailureKind>); 10] = [
        (RemoteKind::Peer, &[("/ready", "200 OK")], None),
        (
            RemoteKind::Peer,
            &[("/ready", "503 Service Unavailable"), ("/health", "200 OK")],
            Some(FailureKind::ServerError),
        ),
        (RemoteKind::Peer, &[("/health", "200 OK")], None),
        (RemoteKind::Peer, &[("/v1/models", "200 OK")], None),
        (RemoteKind::Peer, &[("/v1/models", "401 Unauthorized")], Some(FailureKind::BadKey)),
        (RemoteKind::OpenAiCompatible, &[("/v1/models", "200 OK")], None),
        (RemoteKind::OpenAiCompatible, &[], None),
        (RemoteKind::OpenAiCompatible, &[("/v1/models", "401 Unauthorized")], Some(FailureKind::BadKey)),
        (RemoteKind::OpenAiCompatible, &[("/v1/models", "502 Bad Gateway")], Some(FailureKind::ServerError)),
        (RemoteKind::Portkey, &[("/", "200 OK")], None),
    ];
    for (kind, paths, expected) in table {
        let upstream = Upstream::start(move |request| {
            let status = paths.iter().find(|(path, _)| *path == request.path).map_or("404 Not Found", |found| found.1);
            vec![json(status, "{}")]
        })
        .await
        .expect("a port");
        let remote = remote_at(&upstream.url(), |settings| {
            settings.kind = kind;
            settings.portkey.provider = Some("openai".into());
        });
        for _ in 0..2 {
            let found = remote.probe().await.err().map(|failure| failure.kind);
            assert_eq!(found, expected, "{kind:?} {paths:?}");
        }
    }
}

#[test]
fn wrong_settings_name_the_key_and_the_cure() {
    use super::super::{Remote, RemoteSettings};
    let missing = std::path::PathBuf::from("/nowhere/ca.pem");
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let table: [(&str, Option<&std::path::Path>, &str); 7] = [
        ("10.0.0.2:8080", None, "`backends.other.url`"),
        ("ftp://h/v1", None, "known: `http`, `https`"),
        ("http://me:hush@h/v1", None, "use `api_key`"),
        ("http://h/v1?key=hush", None, "query or fragment"),
        ("", None, "write it as `http://host:port/v1`"),
        ("http://h/v1", Some(&missing), "`backends.other.ca_file`: /nowhere/ca.pem"),
        ("http://h/v1", Some(empty.path()), "holds no PEM certificate"),
    ];
    for (url, ca_file, expected) in table {
        let mut settings = RemoteSettings::new("other", RemoteKind::Peer, url);
        settings.ca_file = ca_file.map(Into::into);
        let message = Remote::new(settings).expect_err("wrong settings").to_string();
        assert!(message.contains(expected) && !message.contains("hush"), "{message}");
    }
}
