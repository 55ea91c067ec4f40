//! Two thousand clients with a stream open each, for a while: most at a scripted server behind the router, some at the
//! engine. Nobody's stream may break, memory must not grow, and nobody may be served at another's cost.
//!
//! `ENGRAM_CROWD_SECONDS` (10) and `ENGRAM_CROWD_CLIENTS` (2000) make it longer or larger.

use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_benches::upstream::{Received, Step, Upstream, event, json as answer, stream_end, stream_head};
use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, stream};

/// Clients of the engine, of each hundred.
const AT_THE_ENGINE: usize = 1;
/// Tokens of a scripted stream, and the time between two.
const TOKENS: usize = 8;
const PACE: Duration = Duration::from_millis(500);
/// Tokens of a stream of the engine.
const ENGINE_TOKENS: usize = 16;

fn from_env<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// As many open files as the system lets this process and its children have.
fn raise_file_limit(wanted: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct of the right type, for the length of the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    assert!(limit.rlim_cur >= wanted as u64, "{} open files are allowed, {wanted} are needed", limit.rlim_cur);
}

/// A slow, even stream.
fn script(request: &Received) -> Vec<Step> {
    if request.method == "GET" {
        return vec![answer("200 OK", r#"{"data":[{"id":"slow","owned_by":"them"}]}"#)];
    }
    let piece = |delta: &str, finish: &str| {
        let choice = format!(r#"{{"index":0,"delta":{delta},"finish_reason":{finish}}}"#);
        event(&format!(r#"{{"id":"c","object":"chat.completion.chunk","model":"slow","choices":[{choice}]}}"#))
    };
    let token = piece(r#"{"content":"tick "}"#, "null");
    let mut steps = vec![stream_head(), piece(r#"{"role":"assistant","content":""}"#, "null")];
    for _ in 0..TOKENS {
        steps.extend([token.clone(), Step::Pause(PACE)]);
    }
    let usage = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":8,"total_tokens":17}}"#;
    steps.extend([piece("{}", "\"stop\""), event(usage), event("[DONE]"), stream_end()]);
    steps
}

/// What one client had of its time.
#[derive(Debug, Default)]
struct Had {
    streams: usize,
    tokens: usize,
    slowest_first: Duration,
    /// What was not as it should be.
    wrong: Vec<String>,
}

/// Streams one after the other until the time is over; each must be whole.
async fn client(http: reqwest::Client, url: String, body: Value, tokens: usize, until: Instant) -> Had {
    let mut had = Had::default();
    while Instant::now() < until {
        let came = stream(&http, &url, &body, None).await;
        had.streams += 1;
        had.tokens += came.deltas;
        had.slowest_first = had.slowest_first.max(came.first.unwrap_or_default());
        // A token of the engine may be half a letter, and then two come as one.
        let enough = came.deltas == tokens || (body["model"] == SMOLLM2 && came.deltas * 2 > tokens);
        if came.status != 200 || !came.done || came.error.is_some() || came.finish_reason.is_none() || !enough {
            had.wrong.push(format!("{came:?}"));
        }
    }
    had
}

/// Jain's index: 1 where all have the same, 1/n where one has all.
fn fairness(had: &[Had]) -> f64 {
    let sum: f64 = had.iter().map(|one| one.tokens as f64).sum();
    let squares: f64 = had.iter().map(|one| (one.tokens as f64).powi(2)).sum();
    sum * sum / (had.len() as f64 * squares)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_at_once() {
    let clients: usize = from_env("ENGRAM_CROWD_CLIENTS", 2000);
    let span = Duration::from_secs(from_env("ENGRAM_CROWD_SECONDS", 10));
    // Here: a connection of each client, and one of the router's to the scripted server.
    raise_file_limit(2 * clients + 500);
    let upstream = Upstream::start(script).await.expect("a port");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("engram.toml");
    let room = 2 * clients;
    let config = format!(
        "[server]\nmax_connections = {room}\n[memory]\nenabled = false\n[routing]\ncache = false\n\
         [backends.volume]\nkind = \"openai_compatible\"\nurl = \"{}\"\nmodels = [\"slow\"]\nmax_in_flight = {room}\n\
         [catalog.slow]\nbackends = [\"volume\"]\ninput = 1.0\noutput = 1.0\n",
        upstream.url()
    );
    std::fs::write(&file, config).expect("a configuration");
    let server = Server::start(SMOLLM2, &["--config", file.to_str().expect("a path")]);

    let begun = Instant::now();
    let until = begun + span;
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(room).build().expect("a client");
    let chat = |model: &str, tokens: usize| {
        json!({"model": model, "stream": true, "max_tokens": tokens, "ignore_eos": true, "temperature": 0.0,
            "messages": [{"role": "user", "content": "Count."}]})
    };
    let (mut volume, mut engine) = (Vec::new(), Vec::new());
    for number in 0..clients {
        let (list, model, tokens) = match number % 100 < AT_THE_ENGINE {
            true => (&mut engine, SMOLLM2, ENGINE_TOKENS),
            false => (&mut volume, "slow", TOKENS),
        };
        let url = server.url("/v1/chat/completions");
        list.push(tokio::spawn(client(http.clone(), url, chat(model, tokens), tokens, until)));
        // They come within a second, not all in one instant.
        if number % 20 == 19 {
            tokio::time::sleep(Duration::from_secs(1) * 20 / clients as u32).await;
        }
    }
    // Memory, once everybody is there.
    let mut resident = Vec::new();
    let mut most_open = 0.0_f64;
    tokio::time::sleep(span / 5).await;
    while Instant::now() < until {
        resident.push(server.resident() as f64 / 1024.0 / 1024.0);
        most_open = most_open.max(server.metric("engram_backend_in_flight", "backend=\"volume\""));
        tokio::time::sleep(span / 20).await;
    }
    let (volume, engine) = (join(volume).await, join(engine).await);

    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, second) = resident.split_at(resident.len() / 2);
    let (first, second) = (mean(first), mean(second));
    let wrong: Vec<&String> = volume.iter().chain(&engine).flat_map(|had| &had.wrong).collect();
    let tokens = |list: &[Had]| (list.iter().map(|had| had.tokens).min(), list.iter().map(|had| had.tokens).max());
    let slowest = volume.iter().map(|had| had.slowest_first).max().unwrap_or_default();
    eprintln!(
        "{clients} clients for {span:?}, {most_open} open at once at the scripted server: {} streams of it and {} of the \
         engine, {} wrong; tokens a client (least, most) {:?} and {:?}, fairness {:.4} and {:.4}; slowest first token of \
         the scripted server {slowest:?}; resident {first:.1} then {second:.1} MiB",
        volume.iter().map(|had| had.streams).sum::<usize>(),
        engine.iter().map(|had| had.streams).sum::<usize>(),
        wrong.len(),
        tokens(&volume),
        tokens(&engine),
        fairness(&volume),
        fairness(&engine),
    );
    assert!(wrong.is_empty(), "{} streams went wrong, such as {}", wrong.len(), wrong[0]);
    assert!(most_open > 0.9 * volume.len() as f64, "only {most_open} were open at once");
    assert!(second < first * 1.05 + 4.0, "memory grows: {resident:?}");
    assert!(fairness(&volume) > 0.95, "{:?}", tokens(&volume));
    assert!(fairness(&engine) > 0.9, "{:?}", tokens(&engine));

    // Nothing is left behind.
    let begun = Instant::now();
    while server.metric("engram_backend_in_flight", "backend=\"volume\"") > 0.0
        || server.metric("engram_sequences_running", "") > 0.0
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "streams are still in flight");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.counts.left.load(Ordering::Relaxed), 0, "the router left streams that nobody had left");
    let asked = upstream.counts.requests.load(Ordering::Relaxed);
    let streams: usize = volume.iter().map(|had| had.streams).sum();
    assert!(asked >= streams as u64, "{asked} requests for {streams} streams");
}

async fn join(clients: Vec<tokio::task::JoinHandle<Had>>) -> Vec<Had> {
    let mut all = Vec::new();
    for client in clients {
        all.push(client.await.expect("a client"));
    }
    all
}
