//! A fleet of three real Engrams behind a fourth: one is killed under load, and comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::SMOLLM2;
use crate::support::server::{Server, free_port};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Time between health checks; two in a row that fail say that a peer is down.
const INTERVAL: Duration = Duration::from_secs(1);
/// Clients that always have a stream open.
const CLIENTS: usize = 6;
const FLAGS: [&str; 4] = ["--kv-memory", "64MiB", "--threads", "1"];

/// One client's request, from its first byte to its last.
#[derive(Debug)]
struct Served {
    sent: Instant,
    ended: Instant,
    backend: String,
    status: u16,
    deltas: usize,
    done: bool,
    finished: bool,
    error: Option<Value>,
}

impl Served {
    /// A clean answer: a finish reason, `[DONE]`, no error.
    fn is_whole(&self) -> bool {
        self.status == 200 && self.done && self.finished && self.error.is_none() && self.deltas > 0
    }
}

/// Clients with conversations of their own, one request after the other, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<Served>>>,
    /// Streams that have said something and not ended, by backend.
    open: Arc<[AtomicUsize; 3]>,
}

impl Load {
    fn start(server: &Server) -> Self {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let clients = (0..CLIENTS)
            .map(|number| {
                let (url, stop, open) = (server.url("/v1/chat/completions"), Arc::clone(&stop), Arc::clone(&open));
                tokio::spawn(async move {
                    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
                    let mut served = Vec::new();
                    for turn in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        served.push(chat(&client, &url, &format!("client {number}, question {turn}"), &open).await);
                    }
                    served
                })
            })
            .collect();
        Self { stop, clients, open }
    }

    async fn end(self) -> Vec<Served> {
        self.stop.store(true, Ordering::SeqCst);
        let mut served = Vec::new();
        for client in self.clients {
            served.extend(client.await.expect("a client"));
        }
        served
    }
}

/// One streamed chat of 24 tokens.
async fn chat(client: &reqwest::Client, url: &str, text: &str, open: &[AtomicUsize; 3]) -> Served {
    let body = json!({"model": SMOLLM2, "stream": true, "max_tokens": 24, "ignore_eos": true, "temperature": 0.0,
        "messages": [{"role": "user", "content": text}]});
    let sent = Instant::now();
    let response = client.post(url).json(&body).send().await.expect("the front answers");
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let backend = header("x-engram-backend").unwrap_or_default();
    let status = response.status().as_u16();
    let mut served =
        Served { sent, ended: sent, backend, status, deltas: 0, done: false, finished: false, error: None };
    if status != 200 {
        served.error = response.json().await.ok();
        served.ended = Instant::now();
        return served;
    }
    let place = NAMES.iter().position(|name| *name == served.backend).expect("one of the three");
    let (mut bytes, mut text) = (response.bytes_stream(), String::new());
    open[place].fetch_add(1, Ordering::SeqCst);
    while let Some(part) = bytes.next().await {
        text.push_str(std::str::from_utf8(&part.expect("the front breaks no body")).expect("text"));
        while let Some((event, rest)) = text.split_once("\n\n") {
            if let Some(data) = event.strip_prefix("data: ") {
                served.hear(data);
            }
            text = rest.to_owned();
        }
    }
    open[place].fetch_sub(1, Ordering::SeqCst);
    served.ended = Instant::now();
    served
}

impl Served {
    fn hear(&mut self, data: &str) {
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        let event: Value = serde_json::from_str(data).expect("JSON");
        if !event["error"].is_null() {
            self.error = Some(event["error"].clone());
        }
        let choice = &event["choices"][0];
        self.deltas += usize::from(choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()));
        self.finished |= choice["finish_reason"].is_string();
    }
}

/// Answers by backend, of those sent between two moments.
fn shares(served: &[Served], from: Instant, to: Instant) -> HashMap<&str, usize> {
    let mut shares = HashMap::new();
    for one in served.iter().filter(|one| one.sent >= from && one.sent < to) {
        *shares.entry(one.backend.as_str()).or_default() += 1;
    }
    shares
}

fn placement(front: &Server, name: &str) -> (String, f64) {
    let shown = &front.backend(name)["placement"];
    (shown["standing"].as_str().expect("a word").to_owned(), shown["share"].as_f64().expect("a number"))
}

/// Waits until the front says so of a peer, and says how long that took.
fn until(front: &Server, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let shown = front.backend(name);
        if is(&shown) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{name} is never {what}: {shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_takes_only_its_own_streams_and_comes_back_slowly() {
    let ports = NAMES.map(|_| free_port());
    let mut peers: HashMap<&str, Server> =
        NAMES.into_iter().zip(ports).map(|(name, port)| (name, Server::start_at(port, SMOLLM2, &FLAGS))).collect();
    let mut config = "[routing]\ncache = false\nretry_base_ms = 1\n".to_owned();
    for (name, port) in NAMES.iter().zip(ports) {
        config.push_str(&format!(
            "[backends.{name}]\nkind = \"peer\"\nurl = \"http://127.0.0.1:{port}/v1\"\nhealth_interval_s = {}\n",
            INTERVAL.as_secs()
        ));
    }
    let front = Server::front(&config);
    let load = Load::start(&front);
    let first_asked = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;

    // The one with the most streams open dies in the midst of them.
    let begun = Instant::now();
    let at = loop {
        let open = load.open.each_ref().map(|count| count.load(Ordering::SeqCst));
        let most = (0..3).max_by_key(|&at| open[at]).expect("three");
        if open[most] >= 2 {
            break most;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no peer has two streams open: {open:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let victim = NAMES[at];
    let killed = Instant::now();
    peers.remove(victim).expect("it runs").kill();
    let noticed = tokio::task::block_in_place(|| until(&front, victim, "down", |shown| shown["up"] == false));
    assert!(noticed < 3 * INTERVAL, "that {victim} is down was noticed after {noticed:?}");
    assert_eq!(placement(&front, victim).0, "down");
    tokio::time::sleep(2 * INTERVAL).await;

    // It comes back at its old address, and is given a tenth of its share, then more.
    let returned = Server::start_at(ports[at], SMOLLM2, &FLAGS);
    tokio::task::block_in_place(|| until(&front, victim, "up", |shown| shown["up"] == true));
    let back = Instant::now();
    tokio::task::block_in_place(|| until(&front, victim, "warming", |shown| shown["placement"]["standing"] != "down"));
    let mut part = Vec::new();
    while back.elapsed() < Duration::from_secs(15) {
        part.push(placement(&front, victim));
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let metric = front.metric("engram_peer_share", &format!("backend=\"{victim}\""));
    let served = load.end().await;
    let (end, log) = (Instant::now(), front.log());

    // Its own open streams ended with an error event. Nobody else's did, and no new request failed.
    let (touched, whole): (Vec<&Served>, Vec<&Served>) = served.iter().partition(|one| !one.is_whole());
    let before = shares(&served, first_asked, killed);
    eprintln!(
        "{} answers; by backend before {victim} was killed {before:?}; {} streams cut; down noticed after {noticed:?}; shares on \
         return {part:?}; answers by backend in the first half of the time after its return {:?}, in the second {:?}",
        served.len(),
        touched.len(),
        shares(&served, back, back + (end - back) / 2),
        shares(&served, back + (end - back) / 2, end),
    );
    assert!(!touched.is_empty(), "it was killed between two streams: {log}");
    for one in &touched {
        assert_eq!(one.backend, victim, "not its stream: {one:?}");
        assert!(one.sent <= killed && one.ended >= killed, "not in flight when it died: {one:?}");
        assert!(!one.done && !one.finished && one.deltas > 0, "a clean end: {one:?}");
        assert_eq!(one.error.as_ref().map(|error| &error["code"]), Some(&json!("backends_failed")), "{one:?}");
        assert!(one.ended - killed < INTERVAL, "it hung for {:?}: {one:?}", one.ended - killed);
    }
    let elsewhere = whole.iter().filter(|one| one.sent > killed && one.sent < back);
    let elsewhere: Vec<_> = elsewhere.collect();
    assert!(elsewhere.len() > 5 && elsewhere.iter().all(|one| one.backend != victim), "{elsewhere:?}");
    let first = elsewhere.iter().map(|one| one.sent).min().expect("some");
    assert!(first - killed < INTERVAL, "the first new answer was asked for {:?} after the kill", first - killed);

    // Its part grows, and so do the requests that it gets.
    assert!(part[0].0 == "warming" && part[0].1 < 0.3, "{part:?}");
    assert!(part.windows(2).all(|pair| pair[0].1 < pair[1].1), "its share does not grow: {part:?}");
    assert!(metric > part[0].1 && metric < 1.0, "{metric}");
    assert!(shares(&served, back, end).contains_key(victim), "it never gets a request again");
    drop((peers, returned));
}
