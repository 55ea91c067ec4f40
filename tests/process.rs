//! The process: how fast it starts, how much it holds, how it ends.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::server::{Server, binary, stream};
use crate::support::{QWEN, SMOLLM2, gguf};

#[test]
fn default_model_starts_fast_and_small() {
    let file = std::fs::metadata(gguf(QWEN)).expect("the model file").len();
    let kv = 64u64 << 20;
    let server = Server::start(QWEN, &["--kv-memory", "64MiB"]);
    // Three seconds is the promise on an idle machine; other tests share these cores.
    assert!(server.started_in < Duration::from_secs(9), "ready only after {:?}", server.started_in);
    // The encoder is read in the background, if it is here: what it holds counts, what reading it took does not.
    let encoder = |state: &str| {
        let listed = server.blocking_get("/v1/models/all-minilm-l6-v2").expect("the encoder is listed").1;
        serde_json::from_str::<serde_json::Value>(&listed).expect("JSON")["state"] == state
    };
    while encoder("loading") {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(encoder("ready"), "`make test` fetches the encoder");
    let (resident, limit) = (server.resident(), file * 13 / 10 + kv);
    assert!(resident <= limit, "{} MiB resident, limit {} MiB", resident >> 20, limit >> 20);
    println!("started in {:?}, {} MiB resident", server.started_in, resident >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_running_streams_finish() {
    let mut server = Server::start(SMOLLM2, &[]);
    let url = server.url("/v1/completions");
    let body = json!({"model": SMOLLM2, "prompt": "def add(a, b):", "max_tokens": 120, "stream": true,
        "ignore_eos": true, "temperature": 0.0});
    let running = tokio::spawn(async move { stream(&reqwest::Client::new(), &url, &body, None).await });
    while server.metric("engram_sequences_running", "") < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.terminate();
    let result = running.await.expect("the client task");
    assert!(result.done && result.finish_reason.as_deref() == Some("length"), "cut off: {:?}", result.error);
    let status = server.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "exit status after a drain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_deadline_ends_streams_as_errors() {
    let mut server = Server::start(SMOLLM2, &["--drain-deadline", "1"]);
    let url = server.url("/v1/completions");
    let body = json!({"model": SMOLLM2, "prompt": "def add(a, b):", "max_tokens": 1900, "stream": true,
        "ignore_eos": true, "temperature": 0.0});
    let running = tokio::spawn(async move { stream(&reqwest::Client::new(), &url, &body, None).await });
    while server.metric("engram_sequences_running", "") < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.terminate();
    let result = running.await.expect("the client task");
    assert!(!result.done, "a stream that was cut must not end with [DONE]");
    assert!(result.error.is_some(), "a stream that was cut must end with an error event");
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn refuses_to_listen_beyond_loopback_without_keys() {
    let output = Command::new(binary())
        .args(["serve", "--model", SMOLLM2, "--host", "0.0.0.0", "--port", "0"])
        .output()
        .expect("run engram");
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("--insecure-no-auth") && stderr.contains("key"), "no cure in: {stderr}");
}

#[test]
fn unknown_model_names_its_neighbours() {
    let output = Command::new(binary())
        .args(["serve", "--offline", "--model", "qwen2.5-coder-0.5b-instrukt"])
        .output()
        .expect("run engram");
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(QWEN), "no neighbour in: {stderr}");
}
