//! How often the right function comes first: MRR@10 and recall@10 of each signal alone and of all together, on the set
//! that `benches/recall/build.py` makes.
//!
//! `recall DIR tune|report`; with `tune` other weights are tried too, one at a time.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use engram_memory::RecordId;
use engram_memory::backend::Candidate;
use engram_memory::config::Weights;
use engram_memory::fuse::{Rankings, fuse};
use engram_memory::lexical::{LexicalIndex, LexicalParams, Words};
use engram_memory::literal::{LiteralIndex, Literals};
use engram_memory::mmr::{diverse, dot};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

/// Length of the vectors.
const DIM: usize = 384;
/// Hits that are looked at.
const K: usize = 10;

#[derive(Deserialize)]
struct Function {
    symbol: String,
    path: String,
    content: String,
    query: Option<String>,
}

struct Set {
    functions: Vec<Function>,
    vectors: Vec<f32>,
    /// Place of the answer, and of the query's vector.
    queries: Vec<(usize, usize)>,
}

impl Set {
    fn read(directory: &Path, half: &str) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(directory.join(format!("{half}.jsonl")))?;
        let functions = text.lines().map(serde_json::from_str).collect::<Result<Vec<Function>, _>>()?;
        let bytes = std::fs::read(directory.join(format!("{half}.f32")))?;
        let vectors = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>();
        let asked = functions.iter().enumerate().filter(|(_, function)| function.query.is_some());
        let queries: Vec<_> = asked.enumerate().map(|(i, (place, _))| (place, functions.len() + i)).collect();
        if vectors.len() != (functions.len() + queries.len()) * DIM {
            return Err(format!("{half}.f32 has {} values: build the set again", vectors.len()).into());
        }
        Ok(Self { functions, vectors, queries })
    }

    fn vector(&self, place: usize) -> &[f32] {
        &self.vectors[place * DIM..][..DIM]
    }

    fn words(&self, place: usize) -> Words<'_> {
        let function = &self.functions[place];
        Words { content: &function.content, symbol: Some(&function.symbol), path: Some(&function.path) }
    }

    fn text(&self, query: usize) -> &str {
        self.functions[self.queries[query].0].query.as_deref().unwrap_or_default()
    }

    fn nearest(&self, query: usize, k: usize) -> Vec<Candidate> {
        let vector = self.vector(self.queries[query].1);
        let score = |place| Candidate { id: RecordId(place as u128), score: dot(self.vector(place), vector) };
        let mut all: Vec<Candidate> = (0..self.functions.len()).map(score).collect();
        all.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(k);
        all
    }
}

/// What each signal says to each query.
fn rankings(set: &Set, params: LexicalParams) -> Vec<Rankings> {
    let weights = Weights::default();
    let k = (K * weights.candidates_per_hit).max(weights.min_candidates);
    let words: Vec<_> = (0..set.functions.len()).map(|place| (RecordId(place as u128), set.words(place))).collect();
    let index = LexicalIndex::build(params, &words);
    let mut literals = LiteralIndex::default();
    words.iter().for_each(|(id, words)| literals.insert(*id, *words));
    let content = |id: RecordId| Some(set.functions[id.0 as usize].content.clone());
    let ask = |query: usize| {
        let text = set.text(query);
        Rankings {
            dense: Some(set.nearest(query, k)),
            lexical: Some(index.search(text, k, &|_| true)),
            literal: Some(literals.search(&index, text, k, &|_| true, &content)),
        }
    };
    let half = set.queries.len() / 2;
    thread::scope(|scope| {
        let second = scope.spawn(|| (half..set.queries.len()).map(ask).collect::<Vec<_>>());
        let mut all: Vec<_> = (0..half).map(ask).collect();
        all.extend(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        all
    })
}

/// MRR@10 and recall@10, in the order in which a memory gives its hits.
fn quality(set: &Set, rankings: &[Rankings], weights: &Weights, keep: fn(&Rankings) -> Rankings) -> (f64, f64) {
    let (mut reciprocal, mut found) = (0.0, 0);
    for (query, rankings) in rankings.iter().enumerate() {
        let mut fused = fuse(&keep(rankings), weights);
        if Literals::of(set.text(query)).only {
            fused.sort_by(|a, b| b.literal.unwrap_or(0.0).total_cmp(&a.literal.unwrap_or(0.0)));
        }
        fused.truncate(2 * K + 10);
        let hits: Vec<_> = fused.iter().map(|hit| (hit.score, set.vector(hit.id.0 as usize))).collect();
        let answer = RecordId(set.queries[query].0 as u128);
        let order = diverse(&hits, K, weights);
        if let Some(rank) = order.iter().position(|&place| fused[place].id == answer) {
            reciprocal += 1.0 / (rank + 1) as f64;
            found += 1;
        }
    }
    let queries = rankings.len().max(1) as f64;
    (reciprocal / queries, f64::from(found) / queries)
}

fn print(name: &str, (mrr, recall): (f64, f64)) {
    println!("{name:<44} MRR@10 {mrr:.4}   recall@10 {recall:.4}");
}

fn all(rankings: &Rankings) -> Rankings {
    rankings.clone()
}

fn tell(set: &Set, rankings: &[Rankings], weights: &Weights) {
    print("dense", quality(set, rankings, weights, |all| Rankings { dense: all.dense.clone(), ..Rankings::default() }));
    let lexical = |all: &Rankings| Rankings { lexical: all.lexical.clone(), ..Rankings::default() };
    print("BM25", quality(set, rankings, weights, lexical));
    print("hybrid", quality(set, rankings, weights, all));
}

/// Each weight at other values, the rest at their defaults.
fn tune(set: &Set, base: &[Rankings]) {
    type Change = fn(&mut Weights, f32);
    let changes: [(&str, &[f32], Change); 5] = [
        ("rrf_k", &[1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0], |weights, to| weights.rrf_k = to),
        ("dense", &[0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0], |weights, to| weights.dense = to),
        ("literal", &[0.0, 0.1, 0.25, 0.5, 1.0], |weights, to| weights.literal = to),
        ("mmr_lambda", &[0.7, 0.8, 0.9, 1.0], |weights, to| weights.mmr_lambda = to),
        ("mmr_from", &[0.8, 0.9, 0.95], |weights, to| weights.mmr_from = to),
    ];
    for (name, values, change) in changes {
        for &value in values {
            let mut weights = Weights::default();
            change(&mut weights, value);
            print(&format!("{name} {value}"), quality(set, base, &weights, all));
        }
    }
    let standard = LexicalParams::default();
    for params in [
        LexicalParams { k1: 0.9, ..standard },
        LexicalParams { k1: 1.6, ..standard },
        LexicalParams { b: 0.4, ..standard },
        LexicalParams { b: 0.6, ..standard },
        LexicalParams { b: 0.9, ..standard },
        LexicalParams { symbol: 0, ..standard },
        LexicalParams { symbol: 2, ..standard },
        LexicalParams { symbol: 5, ..standard },
        LexicalParams { path: 0, ..standard },
        LexicalParams { path: 2, ..standard },
    ] {
        println!("{params:?}");
        tell(set, &rankings(set, params), &Weights::default());
    }
}

/// Copies of the functions to `records`, and what a build and a search take.
fn speed(set: &Set, records: usize) {
    let place = |i: usize| i % set.functions.len();
    let texts: Vec<String> =
        (0..records).map(|i| format!("{} copy{}", set.functions[place(i)].content, i / set.functions.len())).collect();
    let words: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, content)| (RecordId(i as u128), Words { content, ..set.words(place(i)) }))
        .collect();
    let start = Instant::now();
    let index = LexicalIndex::build(LexicalParams::default(), &words);
    let built = start.elapsed();
    let mut times: Vec<Duration> = (0..set.queries.len())
        .map(|query| {
            let start = Instant::now();
            std::hint::black_box(index.search(set.text(query), 50, &|_| true));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{records} records: built in {built:.2?}, {} bytes a record, top 50 in {:.2?} (P50), {:.2?} (P95)",
        index.bytes() / records,
        at(0.5),
        at(0.95)
    );
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, half] = arguments.as_slice() else { return Err("usage: recall DIR tune|report".into()) };
    let set = Set::read(Path::new(directory), half)?;
    println!("{half}: {} queries, {} functions", set.queries.len(), set.functions.len());
    let base = rankings(&set, LexicalParams::default());
    tell(&set, &base, &Weights::default());
    speed(&set, 100_000);
    if half == "tune" {
        tune(&set, &base);
    }
    Ok(())
}
