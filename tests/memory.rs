//! The memory over real HTTP: the real encoder, the real store, a process that ends and comes again.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, binary, stream};

const NOTES: [&str; 3] = [
    "Uploads are retried with exponential backoff, five times at most, by RetryPolicy in net/retry.rs.",
    "The colour of the landing page is teal; marketing decides about it.",
    "Database migrations run before the server takes requests, in migrate.rs.",
];

/// Asks until the memory is open; its encoder may have to be read first.
async fn ask(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let client = reqwest::Client::new();
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let begun = Instant::now();
    loop {
        let request = client.request(method.clone(), server.url(path));
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.expect("the server answers");
        let status = response.status().as_u16();
        let value: Value = response.json().await.expect("JSON");
        if status != 503 {
            assert_eq!(status, 200, "{value}");
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "no memory: {value}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn remember_notes(server: &Server) -> Vec<String> {
    let records: Vec<Value> = NOTES.iter().map(|note| json!({"content": note, "scope": {"project": "web"}})).collect();
    let written = ask(server, "POST", "/v1/memory/records", &json!(records)).await;
    let data = written["data"].as_array().expect("a list");
    data.iter().map(|record| record["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_remembered_is_found_by_meaning_and_recalled() {
    let server = Server::start(SMOLLM2, &[]);
    let ids = remember_notes(&server).await;
    let query = json!({"query": "how often is a failed transfer tried again?", "scope": {"project": "web"}, "k": 2});
    let found = ask(&server, "POST", "/v1/memory/search", &query).await;
    assert_eq!(found["hits"][0]["id"], ids[0], "{found}");
    assert!(found["hits"][0]["signals"]["dense"].is_number(), "{found}");

    let chat = |extra: Value| {
        json!({"model": SMOLLM2, "max_tokens": 8, "temperature": 0.0, "messages": [
            {"role": "user", "content": "How often do we retry an upload?"}], "memory": extra})
    };
    let memory = json!({"scope": {"project": "web", "session": "s"}, "recall": {"k": 2}, "remember": "session"});
    let first = ask(&server, "POST", "/v1/chat/completions", &chat(memory.clone())).await;
    assert_eq!(first["memory"]["recalled"][0]["id"], ids[0], "{first}");
    // The exchange is remembered behind the answer's back.
    let begun = Instant::now();
    loop {
        let stats = ask(&server, "GET", "/v1/memory/stats", &Value::Null).await;
        if stats["records"]["conversation"] == 1 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{stats}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The next prompt of the session begins like this one, as far as the cache's blocks are concerned.
    let again = ask(&server, "POST", "/v1/chat/completions", &chat(memory)).await;
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert!(cached >= 64, "{again}");
    let streamed = chat(json!({"scope": {"project": "web"}, "recall": "auto"}));
    let mut body = streamed.clone();
    body["stream"] = json!(true);
    let result = stream(&reqwest::Client::new(), &server.url("/v1/chat/completions"), &body, None).await;
    assert!(result.done && result.error.is_none(), "{:?}", result.error);
    assert!(server.metric("memory_operations_total", "operation=\"recall\"") >= 3.0);

    let forgotten = ask(&server, "POST", "/v1/memory/forget", &json!({"scope": {"project": "web"}})).await;
    assert!(forgotten["forgotten"].as_u64() >= Some(4), "{forgotten}");
    let found = ask(&server, "POST", "/v1/memory/search", &query).await;
    assert_eq!(found["hits"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_outlives_its_process_and_the_command_line_reads_it() {
    let mut server = Server::start(SMOLLM2, &[]);
    let dir = server.data_dir().to_str().expect("text").to_owned();
    let ids = remember_notes(&server).await;
    let search = |flags: &[&str]| {
        let output = Command::new(binary())
            .args(["memory", "search", "RetryPolicy", "--project", "web", "--json"])
            .args(flags)
            .output()
            .expect("run engram");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    assert_eq!(search(&["--url", &server.url("")])["hits"][0]["id"], ids[0]);
    server.terminate();
    assert!(server.wait(Duration::from_secs(30)).success());
    // Nobody serves any more: the command opens the directory itself.
    let port = crate::support::server::free_port().to_string();
    let config = server.data_dir().join("engram.toml");
    std::fs::write(&config, format!("[server]\nport = {port}\n")).expect("written");
    let found = search(&["--data-dir", &dir, "--config", config.to_str().expect("text")]);
    assert_eq!(found["hits"][0]["id"], ids[0]);
}

/// This repository's own source in a memory, by a static encoder: what is found after an end and after a kill is what was
/// found before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recall_after_a_restart_is_recall_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("server.toml");
    let text = format!("[memory]\nencoder = \"wordllama\"\ncache_memory = 0\ndir = {:?}\n", dir.path().join("memory"));
    std::fs::write(&config, text).expect("written");
    let flags = ["--config", config.to_str().expect("text")];
    let mut server = Server::start(SMOLLM2, &flags);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(binary())
        .args(["memory", "index", "--project", "engram", "--json", "--url", &server.url("")])
        .arg(&root)
        .output()
        .expect("run engram");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stats = ask(&server, "GET", "/v1/memory/stats", &Value::Null).await;
    assert!(stats["total"].as_u64() >= Some(3000), "{stats}");

    // A function's own first words look for it.
    let listed = ask(&server, "GET", "/v1/memory/records?kind=code&limit=1000", &Value::Null).await;
    let mut wanted: Vec<(String, String)> = Vec::new();
    for record in listed["data"].as_array().expect("records").iter().step_by(3) {
        let doc =
            record["content"].as_str().and_then(|text| text.lines().next()?.strip_prefix("/// ").map(str::to_owned));
        wanted.extend(doc.map(|doc| (doc, record["id"].as_str().expect("an id").to_owned())));
    }
    assert!(wanted.len() >= 40, "{} functions with a doc", wanted.len());
    let before = answers(&server, &wanted).await;
    let recall = |answers: &[Vec<String>]| {
        let found = answers.iter().zip(&wanted).filter(|(ids, (_, id))| ids.contains(id)).count();
        found as f64 / wanted.len() as f64
    };
    println!("{} records, {} questions, recall@10 {:.3}", stats["total"], wanted.len(), recall(&before));
    // What it is does not matter here, only that there is something to lose.
    assert!(recall(&before) > 0.7, "{:.3}", recall(&before));
    server.terminate();
    assert!(server.wait(Duration::from_secs(60)).success());
    let server = Server::start(SMOLLM2, &flags);
    let after = answers(&server, &wanted).await;
    assert_eq!(after, before, "after an end in order");
    drop(server); // SIGKILL
    let server = Server::start(SMOLLM2, &flags);
    let after = answers(&server, &wanted).await;
    assert_eq!(recall(&after), recall(&before), "after a kill");
}

/// Ids of the ten best for each question.
async fn answers(server: &Server, wanted: &[(String, String)]) -> Vec<Vec<String>> {
    let mut answers = Vec::new();
    for (text, _) in wanted {
        let query = json!({"query": text, "scope": {"project": "engram"}, "k": 10});
        let found = ask(server, "POST", "/v1/memory/search", &query).await;
        let hits = found["hits"].as_array().expect("hits").iter();
        answers.push(hits.map(|hit| hit["id"].as_str().expect("an id").to_owned()).collect());
    }
    answers
}
