//! `/v1/embeddings` with the official `openai` Python package, and while the encoder is not there.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use engram_memory::{self as memory, Embedder};
use engram_models::embedding::Side;
use engram_models::pull::{PullOptions, resolve};
use engram_router::backend::Encoders;
use engram_router::memory::EncoderEmbedder;
use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::Server;

/// A server with this encoder. The folder holds its configuration.
fn serve(encoder: &str, flags: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("engram.toml");
    std::fs::write(&config, format!("[memory]\nencoder = {encoder:?}\n")).expect("written");
    let config = config.display().to_string();
    let server = Server::start(SMOLLM2, &[&["--config", &config], flags].concat());
    (server, folder)
}

async fn ask(server: &Server, body: Value) -> (u16, Option<String>, Value) {
    let response =
        reqwest::Client::new().post(server.url("/v1/embeddings")).json(&body).send().await.expect("an answer");
    let retry = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    (response.status().as_u16(), retry, response.json().await.expect("JSON"))
}

/// Asks until the encoder is loaded; every answer until then says when to come again.
async fn until_ready(server: &Server) {
    let begun = Instant::now();
    loop {
        let (status, retry, body) = ask(server, json!({"input": "a"})).await;
        if status == 200 {
            return;
        }
        assert_eq!((status, &body["error"]["code"]), (503, &"model_unavailable".into()), "{body}\n{}", server.log());
        assert!(
            retry.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1)),
            "no Retry-After"
        );
        assert!(begun.elapsed() < Duration::from_secs(60), "not loaded after 60 s:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_client_embeds() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.venv/bin/python");
    assert!(python.exists(), "{} is missing: `make test` makes it", python.display());
    for (encoder, id, dim, smallest) in [
        ("all-minilm-l6-v2", "all-minilm-l6-v2", "384", "384"),
        ("wordllama", "wordllama-l2-supercat-256", "256", "64"),
    ] {
        resolve(encoder, &PullOptions::from_env()).expect("the encoder's files");
        let (server, _folder) = serve(encoder, &[]);
        until_ready(&server).await;
        let output = Command::new(&python)
            .arg(root.join("python/embeddings_client.py"))
            .args([server.url("").as_str(), id, dim, smallest, SMOLLM2])
            .output()
            .expect("run python");
        assert!(
            output.status.success(),
            "{encoder}: {}{}\nserver:\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            server.log()
        );
    }
}

#[test]
fn the_memory_embeds_through_the_same_encoder() {
    let encoders = Encoders::new("wordllama", PullOptions::from_env());
    let embedder = EncoderEmbedder::new(encoders.wait().expect("an encoder"));
    assert_eq!((embedder.name(), embedder.dim()), ("wordllama-l2-supercat-256", 256));
    let vectors = embedder.embed(&["a", "b"], memory::Side::Query).expect("vectors");
    let direct = encoders.find(Some("WordLlama")).expect("loaded by now");
    assert_eq!(vectors, direct.embed(&["a", "b"], Side::Query).expect("vectors"));
    let unknown = encoders.find(Some("wordlama")).err().expect("no such encoder");
    assert_eq!((unknown.status().as_u16(), unknown.code().as_str()), (404, "model_not_found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_that_cannot_be_had_is_told_and_the_rest_serves() {
    let (server, _folder) = serve("jina-embeddings-v2-base-code", &["--offline"]);
    let begun = Instant::now();
    let message = loop {
        let (status, retry, body) = ask(&server, json!({"input": "a"})).await;
        assert_eq!((status, retry.is_some()), (503, true), "{body}");
        let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("cannot be had") {
            break message;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "still: {message}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(message.contains("engram pull jina-embeddings-v2-base-code"), "{message}");
    let chat = json!({"model": SMOLLM2, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]});
    let answer = reqwest::Client::new().post(server.url("/v1/chat/completions")).json(&chat).send().await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
}
