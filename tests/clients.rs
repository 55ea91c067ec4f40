//! Many clients at once, and clients that go away.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, stream};

fn chat(i: usize, max_tokens: usize) -> Value {
    json!({
        "model": SMOLLM2, "stream": true, "max_tokens": max_tokens, "ignore_eos": true, "temperature": 0.0,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": format!("Write a Python function number {i} that adds {i} to its argument.")}]
    })
}

/// Waits until the engine has nothing waiting or running.
async fn idle(server: &Server) {
    let begun = Instant::now();
    while server.metric("engram_sequences_running", "") + server.metric("engram_queue_waiting", "") > 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "still busy after 30 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// free + used + cached = total, and nothing is used when nothing runs.
fn accounts_balance_when_idle(server: &Server) {
    let [free, used, cached] =
        ["free", "used", "cached"].map(|state| server.metric("engram_kv_blocks", &format!("state=\"{state}\"")));
    let total = server.blocks_total;
    assert_eq!(used, 0.0, "blocks used by nobody");
    assert_eq!(free + cached, total, "free {free} + cached {cached} = total {total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_streams_at_once() {
    let server = Server::start(SMOLLM2, &["--max-num-seqs", "64"]);
    let client = reqwest::Client::new();
    let url = server.url("/v1/chat/completions");
    let requests: Vec<Value> = (0..64).map(|i| chat(i, 48)).collect();
    let results = join_all(requests.iter().map(|body| stream(&client, &url, body, None))).await;

    let mut rates: Vec<f64> = Vec::new();
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result.status, 200, "client {i}: {:?}", result.error);
        assert!(result.done && result.error.is_none(), "client {i} did not finish: {:?}", result.error);
        assert_eq!(result.finish_reason.as_deref(), Some("length"), "client {i}");
        let usage = result.usage.as_ref().unwrap_or_else(|| panic!("client {i} has no usage"));
        assert_eq!(usage["completion_tokens"], 48, "client {i}");
        rates.push(48.0 / result.elapsed.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let (slowest, median) = (rates[0], rates[rates.len() / 2]);
    assert!(slowest >= median / 2.0, "slowest client {slowest:.2} tokens/s, median {median:.2}");

    idle(&server).await;
    accounts_balance_when_idle(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once() {
    let server = Server::start(SMOLLM2, &["--max-num-seqs", "8", "--queue-limit", "64"]);
    let client = reqwest::Client::new();
    let url = server.url("/v1/chat/completions");
    let requests: Vec<Value> = (0..300).map(|i| chat(i, 8)).collect();
    let results = join_all(requests.iter().map(|body| stream(&client, &url, body, None))).await;

    let served = results.iter().filter(|r| r.status == 200).count();
    let refused: Vec<_> = results.iter().filter(|r| r.status == 429).collect();
    assert_eq!(served + refused.len(), 300, "every client got 200 or 429");
    assert!(served >= 64, "only {served} served with a queue of 64");
    assert!(!refused.is_empty(), "300 at once on a queue of 64 must overflow it");
    assert!(results.iter().filter(|r| r.status == 200).all(|r| r.done), "an accepted stream did not finish");
    for result in &refused {
        assert_eq!(result.error.as_ref().expect("a body")["error"]["code"], "overloaded");
    }
    let last_refusal = refused.iter().map(|r| r.elapsed).max().unwrap_or_default();
    let last_served = results.iter().filter(|r| r.status == 200).map(|r| r.elapsed).max().unwrap_or_default();
    assert!(last_refusal < last_served, "a refusal ({last_refusal:?}) waited as long as the work ({last_served:?})");
    idle(&server).await;
    accounts_balance_when_idle(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_that_leave() {
    let server = Server::start(SMOLLM2, &["--max-num-seqs", "64"]);
    let url = server.url("/v1/chat/completions");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let plans: Vec<(Duration, Option<usize>)> = (0..200)
        .map(|_| {
            let patience = Duration::from_millis(rng.random_range(5..4000));
            (patience, (rng.random_range(0..3) == 0).then(|| rng.random_range(1..6)))
        })
        .collect();
    join_all(plans.iter().enumerate().map(|(i, (patience, deltas))| {
        let url = url.clone();
        // Nobody waits for the 2,000 tokens asked for: all leave, by patience or after some deltas.
        async move {
            let client = reqwest::Client::new();
            let body = chat(i, 2000);
            let _ = tokio::time::timeout(*patience, stream(&client, &url, &body, *deltas)).await;
        }
    }))
    .await;

    // The engine notices within two steps; HTTP tells it within the time a connection takes to close.
    let begun = Instant::now();
    let steps_before = server.metric("engram_steps_total", "");
    idle(&server).await;
    let steps = server.metric("engram_steps_total", "") - steps_before;
    assert!(begun.elapsed() < Duration::from_secs(5), "idle only after {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let still = server.metric("engram_steps_total", "");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(server.metric("engram_steps_total", "") - still <= 1.0, "the engine goes on without clients");
    assert!(steps < 60.0, "{steps} steps after the last client had gone");
    accounts_balance_when_idle(&server);

    let after = stream(&reqwest::Client::new(), &url, &chat(1, 4), None).await;
    assert!(after.done, "the server does not serve any more: {:?}", after.error);
}
