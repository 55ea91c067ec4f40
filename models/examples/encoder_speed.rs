//! How many short queries a second an encoder answers, one by one from 1 and from 16 threads:
//! `cargo run --release -p engram-models --example encoder_speed -- all-minilm-l6-v2 wordllama`.
//!
//! `ENGRAM_ENCODER_EXACT=1` keeps the weights as the file has them; `ENGRAM_PROFILE=1` tells where the time goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engram_kernels::profile;
use engram_models::embedding::{Encoder, EncoderHandle, Precision, QueueLimits, Side};
use engram_models::pull::{PullOptions, resolve};

/// About twelve tokens each, no two alike.
fn query(number: usize) -> String {
    const VERBS: [&str; 7] = ["parse", "retry", "merge", "sort", "validate", "stream", "encode"];
    const NOUNS: [&str; 5] = ["json config file", "http request body", "token stream", "binary tree", "user record"];
    let (verb, noun) = (VERBS[number % VERBS.len()], NOUNS[number / VERBS.len() % NOUNS.len()]);
    format!("how does the server {verb} a {noun} number {number}")
}

/// Queries a second from `threads` threads that each wait for an answer before they ask again.
fn measure(handle: &EncoderHandle, threads: usize, time: Duration) -> (f64, f64) {
    let asked = AtomicUsize::new(0);
    let begun = Instant::now();
    let mut latencies: Vec<f64> = std::thread::scope(|scope| {
        let ask = || {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let text = query(asked.fetch_add(1, Ordering::Relaxed));
                let started = Instant::now();
                handle.embed(&[&text], Side::Query).expect("a vector");
                latencies.push(started.elapsed().as_secs_f64() * 1e3);
            }
            latencies
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    (rate, latencies[latencies.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = |name: &str| std::env::var_os(name).is_some();
    let precision = if set("ENGRAM_ENCODER_EXACT") { Precision::Exact } else { Precision::default() };
    for spec in std::env::args().skip(1) {
        let encoder = Encoder::load(&resolve(&spec, &PullOptions::from_env())?, precision)?;
        let tokens: usize = (0..100).map(|number| encoder.tokens(&query(number), Side::Query).len()).sum();
        println!("{encoder:?}, {precision:?}, {} tokens a query", tokens as f64 / 100.0);
        let handle = EncoderHandle::start(encoder, QueueLimits::default())?;
        profile::enable(set("ENGRAM_PROFILE"));
        for round in 0..3 {
            for threads in [1, 16] {
                let before = profile::snapshot();
                let (rate, median) = measure(&handle, threads, Duration::from_secs(2));
                println!("round {round}: {threads:2} threads {rate:9.0} queries/s, median {median:.3} ms");
                if set("ENGRAM_PROFILE") {
                    let spent = profile::snapshot().into_iter().zip(before).map(|(now, before)| now.since(before));
                    for (kernel, spent) in profile::Kernel::ALL.into_iter().zip(spent) {
                        println!("  {:10} {:8.1} ms", kernel.name(), spent.time.as_secs_f64() * 1e3);
                    }
                }
            }
        }
        let texts: Vec<String> =
            (0..512).map(|i| (0..8).map(|j| query(i * 8 + j)).collect::<Vec<_>>().join(". ")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokens: usize = texts.iter().map(|text| handle.encoder().tokens(text, Side::Document).len()).sum();
        let begun = Instant::now();
        handle.embed(&texts, Side::Document)?;
        let seconds = begun.elapsed().as_secs_f64();
        println!("512 documents: {:.0} documents/s, {:.0} tokens/s", 512.0 / seconds, tokens as f64 / seconds);
    }
    Ok(())
}
