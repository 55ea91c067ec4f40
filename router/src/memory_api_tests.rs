//! `/v1/memory` and the `memory` member of chats and completions, over the real engine and a scripted memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::{AppState, router};
use crate::config::MemorySettings;
use crate::memory::scripted::Scripted;
use crate::scripted::server_with_memory;

const KEYS: [&str; 2] = ["ada sk-ada-0001", "bob sk-bob-0001"];

fn server(change: impl FnOnce(&mut MemorySettings)) -> (AppState, Arc<Scripted>) {
    let (state, _) = server_with_memory(&KEYS, 1024, |engine, _, memory| {
        // The answers of `alphabet` are short; recalled text wants room.
        engine.kv_bytes *= 8;
        memory.recall_min_score = 0.0;
        change(memory);
    });
    let store = Arc::new(Scripted::default());
    state.memory().open(Arc::clone(&store) as Arc<dyn crate::memory::MemoryStore>);
    (state, store)
}

async fn ask(state: &AppState, who: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer sk-{who}-0001"))
        .header("x-request-id", "req-7")
        .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
        .expect("a request");
    let response = router(state.clone()).oneshot(request).await.expect("infallible");
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.expect("a body");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn good(state: &AppState, who: &str, method: &str, path: &str, body: Value) -> Value {
    let (status, value) = ask(state, who, method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {value}");
    value
}

const RECORDS: &str = "/v1/memory/records";

#[tokio::test]
async fn a_record_from_its_first_writing_to_its_end() {
    let (state, _) = server(|_| ());
    let new = json!({"content": "retry with backoff", "scope": {"project": "p"}, "metadata": {"by": "me"}});
    let first = good(&state, "ada", "POST", RECORDS, new.clone()).await;
    assert_eq!((&first["is_new"], &first["version"], &first["seen"]), (&json!(true), &json!(1), &json!(1)));
    assert!(first.get("content").is_none());
    let again = good(&state, "ada", "POST", RECORDS, json!([new])).await;
    assert_eq!((&again["data"][0]["is_new"], &again["data"][0]["seen"]), (&json!(false), &json!(2)));
    assert_eq!(again["data"][0]["id"], first["id"]);
    let path = format!("{RECORDS}/{}", first["id"].as_str().expect("an id"));
    let record = good(&state, "ada", "GET", &path, Value::Null).await;
    assert_eq!(record["scope"], json!({"domain": "coding", "project": "p", "session": null}));
    assert_eq!(record["provenance"]["request_id"], "req-7");
    assert!(!record.to_string().contains("\"ada\""), "the tenant is not told: {record}");
    let changed = good(&state, "ada", "PATCH", &path, json!({"feedback": "useful", "pinned": true})).await;
    assert_eq!((&changed["feedback"]["useful"], &changed["pinned"]), (&json!(1), &json!(true)));
    let found =
        good(&state, "ada", "POST", "/v1/memory/search", json!({"query": "backoff", "budget_tokens": 99})).await;
    assert_eq!(found["hits"][0]["id"], first["id"]);
    assert_eq!(found["hits"][0]["tokens"], "retry with backoff".len());
    let stats = good(&state, "ada", "GET", "/v1/memory/stats", Value::Null).await;
    assert_eq!((&stats["total"], &stats["records"]), (&json!(1), &json!({"knowledge": 1})));
    let gone = good(&state, "ada", "DELETE", &path, Value::Null).await;
    assert_eq!(gone["deleted"], true);
    let (status, error) = ask(&state, "ada", "GET", &path, Value::Null).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("record_not_found")));
}

#[tokio::test]
async fn another_keys_record_is_like_none() {
    let (state, store) = server(|_| ());
    let record = good(&state, "ada", "POST", RECORDS, json!({"content": "the plan"})).await;
    let id = record["id"].as_str().expect("an id");
    let path = format!("{RECORDS}/{id}");
    let other = format!("{RECORDS}/{id}?domain=business");
    let none = format!("{RECORDS}/{}", "0".repeat(32));
    for (who, path) in [("bob", &path), ("ada", &other), ("ada", &none)] {
        for (method, body) in [("GET", Value::Null), ("PATCH", json!({"pinned": true})), ("DELETE", Value::Null)] {
            let (status, error) = ask(&state, who, method, path, body).await;
            assert_eq!((status, &error["error"]["code"]), (404, &json!("record_not_found")), "{who} {method} {path}");
        }
    }
    let found = good(&state, "bob", "POST", "/v1/memory/search", json!({"query": "the plan"})).await;
    assert_eq!(found["hits"], json!([]));
    let gone = good(&state, "bob", "POST", "/v1/memory/forget", json!({"tenant": true, "confirm": true})).await;
    assert_eq!(gone["forgotten"], 0);
    assert_eq!(store.records().len(), 1);
}

#[tokio::test]
async fn refusals_say_what_and_how() {
    let (state, store) = server(|memory| {
        memory.workers = 1;
        memory.queue_limit = 0;
    });
    let id = "0".repeat(32);
    for (method, path, body, status, code) in [
        ("POST", RECORDS.to_owned(), json!({"content": "a", "tenant": "x"}), 400, "unknown_parameter"),
        ("GET", format!("{RECORDS}/7"), Value::Null, 400, "invalid_value"),
        ("GET", format!("{RECORDS}/{id}?as_of=yesterday"), Value::Null, 400, "invalid_value"),
        ("GET", format!("{RECORDS}/{id}?domian=x"), Value::Null, 400, "unknown_parameter"),
        ("GET", format!("{RECORDS}/{id}?domain=..%2Fx"), Value::Null, 400, "invalid_value"),
        ("PUT", format!("{RECORDS}/{id}"), json!({}), 405, "method_not_allowed"),
        ("POST", "/v1/memory/snapshots".to_owned(), json!({"name": "../x"}), 400, "invalid_value"),
        ("GET", "/v1/memory/stats?k=1".to_owned(), Value::Null, 400, "unknown_parameter"),
    ] {
        let (found, error) = ask(&state, "ada", method, &path, body).await;
        assert_eq!((found, &error["error"]["code"]), (status, &json!(code)), "{method} {path}: {error}");
    }
    store.delay_millis.store(200, Ordering::SeqCst);
    let search = || ask(&state, "ada", "POST", "/v1/memory/search", json!({"query": "x"}));
    let (one, two) = tokio::join!(search(), search());
    let refused = if one.0 == 200 { two } else { one };
    assert_eq!((refused.0, &refused.1["error"]["code"]), (429, &json!("overloaded")));
    store.delay_millis.store(0, Ordering::SeqCst);
    store.fail.store(true, Ordering::SeqCst);
    let (status, error) = search().await;
    assert_eq!(status, 503);
    assert!(!error.to_string().contains("secret"), "{error}");
    state.memory().shut("`memory.encoder` is not the store's");
    let (status, error) = search().await;
    assert_eq!((status, &error["error"]["message"]), (503, &json!("`memory.encoder` is not the store's")));
}

#[tokio::test]
async fn records_are_listed_page_by_page() {
    let (state, _) = server(|_| ());
    let place = json!({"project": "p"});
    let new: Vec<Value> = (0..5).map(|n| json!({"content": format!("note {n}"), "scope": place})).collect();
    good(&state, "ada", "POST", RECORDS, json!(new)).await;
    good(&state, "ada", "POST", RECORDS, json!({"content": "elsewhere", "kind": "code"})).await;
    good(&state, "bob", "POST", RECORDS, json!({"content": "another's", "scope": place})).await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = good(&state, "ada", "GET", &format!("{RECORDS}?project=p&limit=2{after}"), Value::Null).await;
        found.extend(page["data"].as_array().expect("a list").iter().map(|record| record["id"].to_string()));
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", found.last().expect("one").trim_matches('"'));
    }
    assert_eq!(found.len(), 5);
    assert!(found.is_sorted() && !found.windows(2).any(|pair| pair[0] == pair[1]), "{found:?}");
    let count = async |query: &str| {
        let list = good(&state, "ada", "GET", &format!("{RECORDS}?{query}"), Value::Null).await;
        list["data"].as_array().map(Vec::len)
    };
    assert_eq!(count("").await, Some(6));
    assert_eq!(count("kind=code").await, Some(1));
    assert_eq!(count("filter=%7B%22exists%22%3A%7B%22field%22%3A%22project%22%7D%7D").await, Some(5));
    for query in ["limit=0", "limit=1001", "after=7", "kind=song", "filter=%7B", "project="] {
        let (status, error) = ask(&state, "ada", "GET", &format!("{RECORDS}?{query}"), Value::Null).await;
        assert_eq!(status, 400, "{query}: {error}");
    }
}

#[tokio::test]
async fn a_projects_index_is_kept_and_its_records_move() {
    const INDEX: &str = "/v1/memory/index";
    let (state, _) = server(|_| ());
    let scope = json!({"project": "p"});
    let none = good(&state, "ada", "GET", &format!("{INDEX}?project=p"), Value::Null).await;
    assert_eq!(none["manifest"], Value::Null);
    let manifest = json!({"format": 1, "chunker": "c", "complete": true, "files": {}, "salted": {}});
    good(&state, "ada", "PUT", INDEX, json!({"scope": scope, "manifest": manifest})).await;
    let kept = good(&state, "ada", "GET", &format!("{INDEX}?project=p"), Value::Null).await;
    assert_eq!(kept["manifest"], manifest);
    let others = good(&state, "bob", "GET", &format!("{INDEX}?project=p"), Value::Null).await;
    assert_eq!(others["manifest"], Value::Null);

    let record = good(&state, "ada", "POST", RECORDS, json!({"content": "fn a() {}", "scope": scope})).await;
    let id = record["id"].as_str().expect("an id");
    let moved = json!([{"id": id, "provenance": {"path": "b.rs"}}, {"id": "0".repeat(32), "provenance": {}}]);
    let answer = good(&state, "ada", "PATCH", INDEX, json!({"scope": scope, "moved": moved})).await;
    assert_eq!(answer["moved"], 1);
    let record = good(&state, "ada", "GET", &format!("{RECORDS}/{id}"), Value::Null).await;
    assert_eq!((&record["provenance"]["path"], &record["version"]), (&json!("b.rs"), &json!(1)));
    for (method, body) in [
        ("PUT", json!({"scope": scope})),
        ("PUT", json!({"manifest": {"format": 9, "chunker": "", "complete": true, "files": {}}})),
        ("PATCH", json!({"moved": [{"id": "7", "provenance": {}}]})),
    ] {
        let (status, error) = ask(&state, "ada", method, INDEX, body).await;
        assert_eq!(status, 400, "{error}");
    }
}

/// An encoder with nothing but a name.
struct Named(String);

impl engram_memory::Embedder for Named {
    fn name(&self) -> &str {
        &self.0
    }

    fn dim(&self) -> usize {
        2
    }

    fn embed(&self, texts: &[&str], _: engram_memory::Side) -> engram_memory::Result<Vec<Vec<f32>>> {
        Ok(vec![vec![1.0, 0.0]; texts.len()])
    }
}

#[tokio::test]
async fn the_memory_is_embedded_anew_by_one_run_at_a_time() {
    const RUN: &str = "/v1/admin/memory/reembed";
    let (state, store) = server(|_| ());
    let new: Vec<Value> = (0..5).map(|n| json!({"content": format!("note {n}")})).collect();
    good(&state, "ada", "POST", RECORDS, json!(new)).await;
    let ended = async || loop {
        let run = good(&state, "bob", "GET", RUN, Value::Null).await;
        if run["state"] != "running" {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let idle = ended().await;
    assert_eq!((&idle["state"], &idle["open"], &idle["encoder"]), (&json!("idle"), &json!(true), &Value::Null));
    state.memory().reembeddings().load_by(Box::new(|name| match name {
        "jina-code" => anyhow::bail!("`{name}` is not on disk"),
        name => Ok(Arc::new(Named(name.to_owned()))),
    }));
    store.delay_millis.store(20, Ordering::SeqCst);
    let begun = good(&state, "ada", "POST", RUN, json!({"encoder": "wordllama"})).await;
    assert_eq!((&begun["state"], &begun["encoder"]), (&json!("running"), &json!("wordllama")));
    assert_eq!(good(&state, "ada", "POST", RUN, json!({"encoder": "wordllama"})).await["state"], "running");
    for (encoder, told) in [("jina-code", "wait for its end"), ("/etc/passwd", "none of the catalog")] {
        let (status, error) = ask(&state, "ada", "POST", RUN, json!({"encoder": encoder})).await;
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(told), "{encoder}: {error}");
    }
    let done = ended().await;
    assert_eq!((&done["state"], &done["embedded"], &done["total"]), (&json!("done"), &json!(5), &json!(5)));
    assert_eq!(good(&state, "ada", "GET", "/v1/memory/stats", Value::Null).await["encoder"], "wordllama");
    good(&state, "ada", "POST", RUN, json!({"encoder": "jina-code"})).await;
    let failed = ended().await;
    assert_eq!((&failed["state"], &failed["error"]), (&json!("failed"), &json!("`jina-code` is not on disk")));
    assert_eq!(failed["before"], "wordllama");
    // A server that stops ends the run after the batch it is at, and begins no other.
    good(&state, "ada", "POST", RUN, json!({})).await;
    state.memory().close();
    let stopped = ended().await;
    assert_eq!((&stopped["state"], &stopped["open"]), (&json!("stopped"), &json!(false)));
    assert!(stopped["embedded"].as_u64() < Some(5), "{stopped}");
    let (status, error) = ask(&state, "ada", "POST", RUN, json!({})).await;
    assert_eq!((status, &error["error"]["code"]), (503, &json!("memory_unavailable")));
}

#[tokio::test]
async fn a_snapshot_is_a_file_of_the_servers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (state, _) = server(|memory| memory.dir = dir.path().to_owned());
    good(&state, "ada", "POST", RECORDS, json!({"content": "a"})).await;
    let report = good(&state, "ada", "POST", "/v1/memory/snapshots", json!({"name": "one"})).await;
    assert_eq!((&report["name"], &report["records"]), (&json!("one"), &json!(1)));
    assert!(dir.path().join("snapshots/one.snapshot").is_file());
    let (status, error) = ask(&state, "ada", "POST", "/v1/memory/snapshots", json!({"name": "one"})).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("name")));
}

fn chat(text: &str, memory: Value) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 3, "memory": memory})
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_chat_recalls_and_says_so() {
    let (state, _) = server(|_| ());
    let bare = good(&state, "ada", "POST", CHAT, chat("zeta", Value::Null)).await;
    assert!(bare.get("memory").is_none());
    let record = good(&state, "ada", "POST", RECORDS, json!({"content": "zeta <|im_end|>", "kind": "code"})).await;
    let value = good(&state, "ada", "POST", CHAT, chat("zeta", json!({"recall": "auto"}))).await;
    assert_eq!(value["memory"]["recalled"][0]["id"], record["id"]);
    assert_eq!(value["memory"]["recalled"].as_array().map(Vec::len), Some(1));
    assert!(value["memory"].get("error").is_none());
    // What a record writes is text: its control token is as many ids as it has letters.
    let grown = value["usage"]["prompt_tokens"].as_u64().zip(bare["usage"]["prompt_tokens"].as_u64());
    let (with, without) = grown.expect("counts");
    let block = with - without;
    let again = good(&state, "ada", "POST", CHAT, chat("zeta", json!({"recall": "auto"}))).await;
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(block), "{again}");
    // Another key recalls nothing of it.
    let other = good(&state, "bob", "POST", CHAT, chat("zeta", json!({"recall": "auto"}))).await;
    assert_eq!(other["memory"], json!({"recalled": []}));
    assert_eq!(other["usage"]["prompt_tokens"].as_u64(), Some(without));
    // In a stream the first chunk says it, and no other.
    let mut body = chat("zeta", json!({"recall": {"k": 1}}));
    body["stream"] = json!(true);
    let (_, text) = ask(&state, "ada", "POST", CHAT, body).await;
    let text = text.as_str().expect("events");
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert!(events[0].contains(record["id"].as_str().expect("an id")), "{text}");
    assert_eq!(text.matches("\"memory\":").count(), 1);
    assert_eq!(events.last(), Some(&"data: [DONE]"));
}

#[tokio::test]
async fn the_memory_never_fails_a_chat() {
    let (state, store) = server(|memory| memory.recall_timeout = Duration::from_millis(100));
    good(&state, "ada", "POST", RECORDS, json!({"content": format!("zeta {}", "long ".repeat(500))})).await;
    let auto = || chat("zeta", json!({"recall": {"budget_tokens": 100000}}));
    let error = |value: Value| value["memory"]["error"].as_str().unwrap_or_default().to_owned();
    let value = good(&state, "ada", "POST", CHAT, auto()).await;
    assert!(error(value).contains("did not fit into the context"));
    store.fail.store(true, Ordering::SeqCst);
    assert!(error(good(&state, "ada", "POST", CHAT, auto()).await).contains("memory_unavailable"));
    store.delay_millis.store(400, Ordering::SeqCst);
    assert!(error(good(&state, "ada", "POST", CHAT, auto()).await).contains("within 100ms"));
    state.memory().shut("gone");
    assert!(error(good(&state, "ada", "POST", CHAT, auto()).await).contains("gone"));
}

#[tokio::test]
async fn an_exchange_is_remembered_in_its_session_and_recalled_there_only() {
    let (state, store) = server(|_| ());
    let scope = |session: &str| json!({"project": "p", "session": session});
    let say = chat("omega", json!({"scope": scope("s1"), "remember": "session"}));
    let value = good(&state, "ada", "POST", CHAT, say).await;
    assert_eq!(value["memory"], json!({"recalled": []}));
    let mut streamed = chat("omega too", json!({"scope": scope("s1"), "remember": "project"}));
    streamed["stream"] = json!(true);
    ask(&state, "ada", "POST", CHAT, streamed).await;
    state.memory().idle().await;
    {
        let records = store.records();
        let contents: Vec<&str> = records.iter().map(|record| record.content.as_str()).collect();
        assert_eq!(contents, ["User: omega\n\nAssistant: abc", "User: omega too\n\nAssistant: abc"]);
        assert_eq!(records[0].provenance.request_id.as_deref(), Some("req-7"));
        assert_eq!(records[0].provenance.trust, engram_memory::Trust::Model);
        assert!(records[0].scope.session.is_some() && records[1].scope.session.is_none());
    }
    for (session, count) in [("s1", 2), ("s2", 1)] {
        let ask = chat("omega", json!({"scope": scope(session), "recall": "auto"}));
        let value = good(&state, "ada", "POST", CHAT, ask).await;
        assert_eq!(value["memory"]["recalled"].as_array().map(Vec::len), Some(count), "{session}: {value}");
    }
}

#[tokio::test]
async fn a_gap_is_filled_with_recalled_code() {
    let (state, _) = server(|_| ());
    let code = json!({"content": "def area(r): pass", "kind": "code", "provenance": {"path": "geo.py"}});
    good(&state, "ada", "POST", RECORDS, json!([code, {"content": "area is a matter of taste"}])).await;
    let body = |memory: Value| json!({"prompt": "print(area(", "suffix": "))", "max_tokens": 2, "temperature": 0, "memory": memory});
    let bare = good(&state, "ada", "POST", "/v1/completions", body(Value::Null)).await;
    let value = good(&state, "ada", "POST", "/v1/completions", body(json!({"recall": "auto"}))).await;
    assert_eq!(value["memory"]["recalled"].as_array().map(Vec::len), Some(1), "{value}");
    assert_eq!(value["memory"]["recalled"][0]["path"], "geo.py");
    let tokens = |value: &Value| value["usage"]["prompt_tokens"].as_u64().unwrap_or_default();
    assert!(tokens(&value) > tokens(&bare));
    let echo = json!({"prompt": "area", "echo": true, "max_tokens": 1, "memory": {"recall": "auto"}});
    let value = good(&state, "ada", "POST", "/v1/completions", echo).await;
    assert!(value["memory"]["error"].is_string() && value["choices"][0]["text"] == "areab", "{value}");
}
