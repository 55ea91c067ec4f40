//! What keys may do and how much, through all layers; the engine is the real one around a scripted model.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::auth::{ApiKeys, KeyLimits, KeyStore, NewKey, Scopes};
use crate::memory::scripted::Scripted;
use crate::scripted::{Knobs, server_with_keys};

/// A server with a store of keys, which begins with the configured key `sk-operator`.
pub(super) struct Served {
    pub state: AppState,
    pub knobs: Arc<Knobs>,
    _dir: tempfile::TempDir,
}

pub(super) fn served() -> Served {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = ApiKeys::new(["sk-operator"]).expect("good keys");
    let keys = keys.with_store(KeyStore::in_dir(dir.path()), Scopes::ALL).expect("readable");
    let (state, knobs) = server_with_keys(keys, 1024, |engine, _, memory| {
        engine.kv_bytes *= 8;
        memory.recall_min_score = 0.0;
    });
    state.memory().open(Arc::new(Scripted::default()));
    Served { state, knobs, _dir: dir }
}

impl Served {
    /// Makes a key that differs from one with nothing but a name.
    pub fn key(&self, name: &str, change: impl FnOnce(&mut NewKey)) -> String {
        let mut new = NewKey::named(name);
        change(&mut new);
        self.state.keys().create(new).expect("a store").expect("made").key
    }

    pub fn limited(&self, name: &str, limits: KeyLimits) -> String {
        self.key(name, |new| new.limits = limits)
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: &Value) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
            .expect("a request");
        crate::app::router(self.state.clone()).oneshot(request).await.expect("infallible")
    }

    async fn ask(&self, key: &str, method: &str, path: &str, body: Value) -> (u16, HeaderMap, Value) {
        let (head, body) = self.send(key, method, path, &body).await.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 24).await.expect("a body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (head.status.as_u16(), head.headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn refused(&self, key: &str, method: &str, path: &str, body: Value, status: u16, code: &str) -> Value {
        let shown = format!("{method} {path} {body}");
        let (found, headers, answer) = self.ask(key, method, path, body).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert_eq!(headers.contains_key("retry-after"), status == 429, "{shown}");
        answer["error"].clone()
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "alphabet", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4});
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

/// Every route with every scope: by a method that no route has, so that who gets past the doors learns 405.
#[tokio::test]
async fn each_route_opens_to_its_scope_alone() {
    let served = served();
    let keys: Vec<(Scope, String)> = Scope::ALL
        .into_iter()
        .map(|scope| (scope, served.key(scope.as_str(), |new| new.scopes = [scope].into_iter().collect())))
        .collect();
    let mut opened = 0;
    for (path, need) in crate::app::needs() {
        let url = path.replace("{*id}", "x").replace("{id}", "x");
        let (stranger, _, _) = served.ask("", "LINK", &url, Value::Null).await;
        assert_eq!(stranger, if need == Need::Nothing { 405 } else { 401 }, "{path}");
        assert_eq!(served.ask("sk-operator", "LINK", &url, Value::Null).await.0, 405, "{path}");
        for (scope, key) in &keys {
            let (status, _, body) = served.ask(key, "LINK", &url, Value::Null).await;
            let allowed = match need {
                Need::Scope(Scope::Metrics) => matches!(scope, Scope::Metrics | Scope::Admin),
                Need::Scope(needed) => needed == *scope,
                Need::Key | Need::Nothing => true,
            };
            opened += usize::from(allowed);
            assert_eq!(status, if allowed { 405 } else { 403 }, "{path} with {scope}: {body}");
            if let Need::Scope(needed) = need
                && !allowed
            {
                assert_eq!(body["error"]["code"], "insufficient_scope");
                let message = body["error"]["message"].as_str().expect("a message");
                assert!(message.contains(&format!("`{needed}`")), "{message}");
            }
        }
    }
    assert!(opened > 30, "{opened}");
    assert_eq!(served.ask("", "GET", "/no/such/route", Value::Null).await.0, 401);
    assert_eq!(served.ask(&keys[0].1, "GET", "/no/such/route", Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_key_from_the_admin_api() {
    let served = served();
    let keys = "/v1/admin/keys";
    let new = json!({"name": "ci", "tenant": "ada", "scopes": ["inference"], "limits": {"rpm": 100}});
    let (status, _, made) = served.ask("sk-operator", "POST", keys, new.clone()).await;
    assert_eq!(status, 200, "{made}");
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    assert_eq!(served.ask(key, "POST", CHAT, chat(json!({}))).await.0, 200);
    let (_, _, list) = served.ask("sk-operator", "GET", keys, Value::Null).await;
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["limits"]), (&made["id"], &json!({"rpm": 100})));
    assert!(!list.to_string().contains(key), "a list shows no key");
    served.refused("sk-operator", "POST", keys, new, 409, "key_exists").await;
    served.refused("sk-operator", "POST", keys, json!({"name": "key-1"}), 400, "invalid_value").await;
    served.refused(key, "GET", keys, Value::Null, 403, "insufficient_scope").await;
    served.refused(key, "POST", keys, json!({"name": "mine", "scopes": ["admin"]}), 403, "insufficient_scope").await;
    let (_, _, turned) =
        served.ask("sk-operator", "POST", &format!("{keys}/{id}/rotate"), json!({"grace_s": 60})).await;
    let second = turned["key"].as_str().expect("a key").to_owned();
    assert_eq!(turned["retiring_until"].as_array().map(Vec::len), Some(1));
    for key in [key, &second] {
        assert_eq!(served.ask(key, "GET", "/version", Value::Null).await.0, 200);
    }
    let (_, _, gone) = served.ask("sk-operator", "DELETE", &format!("{keys}/{id}"), Value::Null).await;
    assert_eq!(gone, json!({"id": id, "object": "api_key", "name": "ci", "deleted": true}));
    for key in [key, &second] {
        served.refused(key, "GET", "/version", Value::Null, 401, "invalid_api_key").await;
    }
    served.refused("sk-operator", "DELETE", &format!("{keys}/{id}"), Value::Null, 404, "key_not_found").await;
    served.refused("sk-operator", "POST", &format!("{keys}/{id}/rotate"), json!({}), 404, "key_not_found").await;
}

#[tokio::test]
async fn a_key_with_a_domain_sees_no_other() {
    let served = served();
    let pinned = served.key("web", |new| (new.tenant, new.domain) = (Some("ada".into()), Some("web".into())));
    let free = served.key("all", |new| new.tenant = Some("ada".into()));
    let record = json!({"content": "kept in coding"});
    let (_, _, other) = served.ask(&free, "POST", "/v1/memory/records", record).await;
    let elsewhere = json!({"domain": "coding"});
    let other = format!("/v1/memory/records/{}", other["id"].as_str().expect("an id"));
    let table: Vec<(&str, String, Value)> = vec![
        ("POST", "/v1/memory/records".into(), json!({"content": "x", "scope": elsewhere})),
        ("POST", "/v1/memory/records".into(), json!([{"content": "x"}, {"content": "x", "scope": elsewhere}])),
        ("GET", "/v1/memory/records?domain=coding".into(), Value::Null),
        ("GET", format!("{other}?domain=coding"), Value::Null),
        ("PATCH", format!("{other}?domain=coding"), json!({"pinned": true})),
        ("DELETE", format!("{other}?domain=coding"), Value::Null),
        ("POST", "/v1/memory/search".into(), json!({"query": "x", "scope": elsewhere})),
        ("POST", "/v1/memory/forget".into(), json!({"scope": elsewhere, "confirm": true})),
        ("POST", "/v1/memory/forget".into(), json!({"tenant": true, "confirm": true})),
        ("GET", "/v1/memory/index?domain=coding".into(), Value::Null),
        ("PATCH", "/v1/memory/index".into(), json!({"scope": elsewhere, "moved": []})),
        ("GET", "/v1/memory/stats?domain=coding".into(), Value::Null),
        ("POST", CHAT.into(), chat(json!({"memory": {"recall": "auto", "scope": elsewhere}}))),
        (
            "POST",
            "/v1/completions".into(),
            json!({"model": "alphabet", "prompt": "x", "memory": {"scope": elsewhere, "recall": "auto"}}),
        ),
    ];
    for (method, path, body) in table {
        served.refused(&pinned, method, &path, body, 403, "domain_not_allowed").await;
    }
    assert_eq!(served.ask(&pinned, "GET", &other, Value::Null).await.0, 404, "not there, in its own domain");
    assert_eq!(served.ask(&pinned, "GET", "/v1/memory/stats?domain=web", Value::Null).await.0, 200);
    let (status, _, kept) = served.ask(&pinned, "POST", "/v1/memory/records", json!({"content": "mine"})).await;
    assert_eq!(status, 200, "{kept}");
    let (_, _, found) = served.ask(&pinned, "GET", "/v1/memory/records", Value::Null).await;
    assert_eq!(found["data"][0]["scope"]["domain"], "web");
    assert_eq!(served.ask(&free, "GET", &other, Value::Null).await.0, 200, "nothing was forgotten");
}

#[tokio::test]
async fn a_key_for_inference_reaches_no_memory_through_a_chat() {
    let served = served();
    let key = served.key("ci", |new| new.scopes = [Scope::Inference].into_iter().collect());
    let body = chat(json!({"memory": {"recall": "auto"}}));
    served.refused(&key, "POST", CHAT, body, 403, "insufficient_scope").await;
    assert_eq!(served.ask(&key, "POST", CHAT, chat(json!({}))).await.0, 200);
}

#[tokio::test]
async fn a_model_that_a_key_does_not_see_is_not_there() {
    let served = served();
    let none = served.key("none", |new| new.models = Some(vec!["other".into()]));
    let some = served.key("some", |new| new.models = Some(vec!["ABC".into()]));
    assert_eq!(served.ask(&none, "GET", "/v1/models", Value::Null).await.2["data"], json!([]));
    assert_eq!(served.ask(&some, "GET", "/v1/models", Value::Null).await.2["data"][0]["id"], "alphabet");
    let mut messages = Vec::new();
    for model in ["alphabet", "abc", "ALPHABET", "no-such"] {
        for (path, body) in [
            (CHAT, chat(json!({"model": model}))),
            ("/v1/completions", json!({"model": model, "prompt": "x"})),
            ("/tokenize", json!({"model": model, "prompt": "x"})),
            ("/detokenize", json!({"model": model, "tokens": [1]})),
            ("/v1/embeddings", json!({"model": model, "input": "x"})),
            ("/v1/memory/search", json!({"model": model, "query": "x", "budget_tokens": 9})),
        ] {
            let error = served.refused(&none, "POST", path, body.clone(), 404, "model_not_found").await;
            messages.push((path, error["message"].as_str().expect("text").to_lowercase().replace(model, "M")));
            if model == "abc" && !path.contains("embeddings") {
                assert_eq!(served.ask(&some, "POST", path, body).await.0, 200, "{path}");
            }
        }
        served.refused(&none, "GET", &format!("/v1/models/{model}"), Value::Null, 404, "model_not_found").await;
    }
    // Whether the model is there or not, the words are the same.
    for (path, message) in &messages {
        let unknown = messages.iter().rev().find(|(other, _)| other == path).expect("asked");
        assert_eq!(message.replace("alphabet", "M").replace("abc", "M"), unknown.1.replace("no-such", "M"), "{path}");
    }
    served.refused(&none, "POST", "/tokenize", json!({"prompt": "x"}), 400, "missing_required_parameter").await;
}

#[tokio::test]
async fn limits_are_told_on_every_answer() {
    let served = served();
    let key = served.limited("ci", KeyLimits { rpm: Some(4), tpm: Some(100_000), ..KeyLimits::default() });
    let mut remaining = Vec::new();
    for (method, path, body, status) in [
        ("GET", "/v1/models", Value::Null, 200),
        ("POST", CHAT, json!({}), 400),
        ("GET", "/metrics", Value::Null, 403),
        ("GET", "/nowhere", Value::Null, 404),
        ("POST", CHAT, chat(json!({})), 200),
        ("GET", "/v1/models", Value::Null, 429),
    ] {
        let (found, headers, answer) = served.ask(&key, method, path, body).await;
        assert_eq!(found, status, "{method} {path}: {answer}");
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        assert_eq!(
            (header("x-ratelimit-limit-requests"), header("x-ratelimit-limit-tokens")),
            ("4".into(), "100000".into())
        );
        remaining.push(header("x-ratelimit-remaining-requests"));
        if status == 429 {
            assert_eq!(answer["error"]["code"], "rate_limited");
            let wait: u64 = header("retry-after").parse().expect("seconds");
            assert!((1..=15).contains(&wait), "{wait}");
            assert!(header("x-ratelimit-reset-requests").ends_with('s'));
        }
    }
    assert_eq!(remaining, ["3", "2", "2", "1", "0", "0"], "what is refused for its scope costs nothing");
    let (_, headers, _) = served.ask("sk-operator", "GET", "/v1/models", Value::Null).await;
    assert!(!headers.contains_key("x-ratelimit-limit-requests"), "the operator's keys have no limits");
}

/// What is left of the key's tokens, by its headers.
async fn tokens_left(served: &Served, key: &str) -> u64 {
    let (_, headers, _) = served.ask(key, "GET", "/version", Value::Null).await;
    headers["x-ratelimit-remaining-tokens"].to_str().expect("text").parse().expect("a number")
}

#[tokio::test]
async fn tokens_are_estimated_before_and_put_right_after() {
    let served = served();
    let key = served.limited("ci", KeyLimits { tpm: Some(100), ..KeyLimits::default() });
    let (_, _, answer) = served.ask(&key, "POST", CHAT, chat(json!({}))).await;
    assert_eq!(answer["usage"]["total_tokens"], 25);
    // 75 are left, and one more flows back each 0.6 s that this test takes.
    let about_75 = 75..=85;
    let left = tokens_left(&served, &key).await;
    assert!(about_75.contains(&left), "{left}");
    let refused = served.refused(&key, "POST", CHAT, chat(json!({"max_tokens": 90})), 429, "tokens_limited").await;
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("100 tokens a minute")), "{refused}");
    served.ask(&key, "POST", CHAT, chat(json!({"messages": []}))).await;
    let left = tokens_left(&served, &key).await;
    assert!(about_75.contains(&left), "neither a refusal nor a body that does not read costs anything: {left}");
}

/// Hanging up before the counts are told is no way around them.
#[tokio::test]
async fn a_stream_that_is_left_costs_what_was_read_of_it() {
    let served = served();
    served.knobs.delay_millis.store(5, Ordering::SeqCst);
    let key = served.limited("ci", KeyLimits { tpm: Some(200), ..KeyLimits::default() });
    let request = chat(json!({"stream": true, "max_tokens": 20}));
    let prompt = request.to_string().len().div_ceil(4) as u64;
    let response = served.send(&key, "POST", CHAT, &request).await;
    let mut body = response.into_body().into_data_stream();
    // A piece holds the events that were there: several where the reader is slow.
    let mut events = 0;
    while events < 10 {
        let piece = body.next().await.expect("an event").expect("no error");
        events += piece.iter().filter(|byte| **byte == b'\n').count() as u64 / 2;
    }
    let while_it_runs = tokens_left(&served, &key).await;
    drop(body);
    let after = tokens_left(&served, &key).await;
    // Three a second flow back meanwhile.
    let near = |left: u64, used: u64| (200 - used..208 - used).contains(&left);
    assert!(near(while_it_runs, prompt + 20), "{while_it_runs} left, {prompt} for the prompt");
    assert!(near(after, prompt + events), "{after} left after {events} events, {prompt} for the prompt");
}

#[tokio::test]
async fn a_slot_is_held_to_the_end_of_the_body() {
    let served = served();
    served.knobs.delay_millis.store(20, Ordering::SeqCst);
    let key = served.limited("ci", KeyLimits { concurrency: Some(2), ..KeyLimits::default() });
    let stream = chat(json!({"stream": true, "max_tokens": 20}));
    let first = served.send(&key, "POST", CHAT, &stream).await;
    let second = served.send(&key, "POST", CHAT, &stream).await;
    let refused = served.refused(&key, "POST", CHAT, stream.clone(), 429, "concurrency_limited").await;
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("2 requests at once")), "{refused}");
    drop(first);
    let third = served.send(&key, "POST", CHAT, &stream).await;
    assert_eq!(third.status(), 200, "a client that left makes room");
    for response in [second, third] {
        axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("the rest");
    }
    assert_eq!(served.ask(&key, "GET", "/version", Value::Null).await.0, 200);
    let (_, _, text) = served.ask("sk-operator", "GET", "/metrics", Value::Null).await;
    let line = "engram_refused_requests_total{reason=\"concurrency_limited\"} 1";
    assert!(text.as_str().is_some_and(|text| text.contains(line)), "{text}");
}

/// A stream by a key that is revoked, that has expired, or whose grace is over, ends there and then.
#[tokio::test]
async fn a_stream_does_not_outlive_its_key() {
    let served = served();
    served.knobs.delay_millis.store(50, Ordering::SeqCst);
    let keys = served.state.keys().clone();
    let revoked = served.key("revoked", |_| ());
    let rotated = served.key("rotated", |_| ());
    let expired = served.key("expired", |new| new.expires_in = Some(Duration::from_secs(2)));
    let other = served.key("other", |_| ());
    let stream = chat(json!({"stream": true, "max_tokens": 60, "ignore_eos": true}));
    let mut bodies = Vec::new();
    for key in [&revoked, &rotated, &expired, &other] {
        let mut body = served.send(key, "POST", CHAT, &stream).await.into_body().into_data_stream();
        body.next().await.expect("an event").expect("no error");
        bodies.push(body);
    }
    keys.revoke("revoked").expect("a store").expect("revoked");
    keys.rotate("rotated", Duration::ZERO).expect("a store").expect("rotated");
    let mut ends = Vec::new();
    for mut body in bodies {
        let mut last = String::new();
        while let Some(event) = body.next().await {
            let event = event.expect("no error");
            last.push_str(&String::from_utf8_lossy(&event));
        }
        ends.push(last);
    }
    for (end, name) in ends.iter().zip(["revoked", "rotated", "expired"]) {
        let last = end.trim_end().lines().last().expect("an event");
        assert!(last.contains("\"code\":\"invalid_api_key\""), "{name}: {last}");
        assert!(!end.contains("[DONE]"), "{name}");
    }
    assert!(ends[3].ends_with("data: [DONE]\n\n"), "who came in by another key hears all: {}", ends[3]);
}
