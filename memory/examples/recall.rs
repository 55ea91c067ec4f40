//! How often the right function comes first: MRR@10 and recall@10 of each signal alone and of all together, on the set
//! that `benches/recall/build.py` makes.
//!
//! `recall DIR tune` looks for better weights, one knob at a time; `recall DIR report [NAME=VALUE ..]` tells of the other half,
//! with the shipped weights and with those given; `recall DIR speed` times the words' index at 100,000 records.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use engram_memory::RecordId;
use engram_memory::backend::Candidate;
use engram_memory::config::Weights;
use engram_memory::fuse::{Rankings, fuse};
use engram_memory::lexical::{LexicalIndex, LexicalParams, Words, content_words};
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

/// What of a search is tried: how signals are weighed, and how words are.
#[derive(Clone, Default)]
struct Setting {
    weights: Weights,
    words: LexicalParams,
}

/// What may be tried of each; BM25's own weight is 1, for only ratios count. Not here: `mmr_*`, for there are no copies in the set,
/// and `rrf_k`, which says how scores fall from hit to hit, and against that `min_score` and the factors of age, trust and
/// feedback are set.
const KNOBS: [(&str, &[f32]); 6] = [
    ("dense", &[0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5]),
    ("literal", &[0.0, 0.1, 0.25, 0.5, 1.0]),
    ("b", &[0.3, 0.4, 0.5, 0.6, 0.75, 0.9]),
    ("k1", &[0.6, 0.9, 1.2, 1.6, 2.0]),
    ("symbol", &[0.0, 1.0, 2.0, 3.0, 5.0, 8.0]),
    ("path", &[0.0, 1.0, 2.0, 3.0]),
];

impl Setting {
    /// The same with another value of a knob.
    fn with(&self, name: &str, value: f32) -> Result<Self, Failure> {
        let mut changed = self.clone();
        let Setting { weights, words } = &mut changed;
        match name {
            "dense" => weights.dense = value,
            "rrf_k" => weights.rrf_k = value,
            "literal" => weights.literal = value,
            "b" => words.b = value,
            "k1" => words.k1 = value,
            "symbol" => words.symbol = value as u16,
            "path" => words.path = value as u16,
            _ => return Err(format!("{name}: known are {}", KNOBS.map(|(name, _)| name).join(", ")).into()),
        }
        Ok(changed)
    }

    /// The same with `NAME=VALUE` set.
    fn parsed(&self, change: &str) -> Result<Self, Failure> {
        let (name, value) = change.split_once('=').ok_or_else(|| format!("{change}: write NAME=VALUE"))?;
        self.with(name, value.parse().map_err(|error| format!("{change}: {error}"))?)
    }
}

/// What each signal says to each query; the same queries that a [`engram_memory::Memory`] puts to its backend.
fn rankings(set: &Set, dense: &[Vec<Candidate>], params: LexicalParams) -> Vec<Rankings> {
    let k = candidates();
    let words: Vec<_> = (0..set.functions.len()).map(|place| (RecordId(place as u128), set.words(place))).collect();
    let index = LexicalIndex::build(params, &words);
    let mut literals = LiteralIndex::default();
    words.iter().for_each(|(id, words)| literals.insert(*id, *words));
    let content = |id: RecordId| Some(set.functions[id.0 as usize].content.clone());
    on_two_threads(set.queries.len(), |query| {
        let text = set.text(query);
        Rankings {
            dense: Some(dense[query].clone()),
            lexical: Some(index.search(&content_words(text), k, &|_| true)),
            literal: Some(literals.search(&index, text, k, &|_| true, &content)),
        }
    })
}

/// Candidates a signal.
fn candidates() -> usize {
    let weights = Weights::default();
    (K * weights.candidates_per_hit).max(weights.min_candidates)
}

fn on_two_threads<T: Send>(count: usize, ask: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let half = count / 2;
    thread::scope(|scope| {
        let second = scope.spawn(|| (half..count).map(&ask).collect::<Vec<_>>());
        let mut all: Vec<_> = (0..half).map(&ask).collect();
        all.extend(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        all
    })
}

/// For each query the reciprocal of its answer's rank among ten hits, 0 where it is not there; hits in the order in which a
/// memory gives them.
fn reciprocals(set: &Set, rankings: &[Rankings], weights: &Weights) -> Vec<f64> {
    on_two_threads(rankings.len(), |query| {
        let mut fused = fuse(&rankings[query], weights);
        if Literals::of(set.text(query)).only {
            fused.sort_by(|a, b| b.literal.unwrap_or(0.0).total_cmp(&a.literal.unwrap_or(0.0)));
        }
        fused.truncate(2 * K + 10);
        let hits: Vec<_> = fused.iter().map(|hit| (hit.score, set.vector(hit.id.0 as usize))).collect();
        let answer = RecordId(set.queries[query].0 as u128);
        let order = diverse(&hits, K, weights);
        order.iter().position(|&place| fused[place].id == answer).map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn print(name: &str, reciprocals: &[f64]) {
    let found: Vec<f64> = reciprocals.iter().map(|&one| f64::from(u8::from(one > 0.0))).collect();
    println!("{name:<24} MRR@10 {:.4}   recall@10 {:.4}", mean(reciprocals), mean(&found));
}

/// What is gained a query, and the standard error of that.
fn gain(new: &[f64], old: &[f64]) -> (f64, f64) {
    let differences: Vec<f64> = new.iter().zip(old).map(|(new, old)| new - old).collect();
    let gain = mean(&differences);
    let squares: Vec<f64> = differences.iter().map(|one| (one - gain).powi(2)).collect();
    (gain, (mean(&squares) / differences.len().max(1) as f64).sqrt())
}

/// Each signal alone, and all together; gives the last.
fn tell(set: &Set, rankings: &[Rankings], weights: &Weights) -> Vec<f64> {
    let only = |keep: fn(&Rankings) -> Rankings| rankings.iter().map(keep).collect::<Vec<_>>();
    let dense = only(|all| Rankings { dense: all.dense.clone(), ..Rankings::default() });
    let lexical = only(|all| Rankings { lexical: all.lexical.clone(), ..Rankings::default() });
    let hybrid = reciprocals(set, rankings, weights);
    print("dense", &reciprocals(set, &dense, weights));
    print("BM25", &reciprocals(set, &lexical, weights));
    print("hybrid", &hybrid);
    hybrid
}

/// From the shipped setting on, each knob in turn goes to its best value, if that gains more than chance would (two standard errors);
/// until none does. What was chosen is printed as arguments for the other half.
fn tune(set: &Set, dense: &[Vec<Candidate>]) -> Result<(), Failure> {
    let mut best = Setting::default();
    let mut kept = rankings(set, dense, best.words);
    let start = reciprocals(set, &kept, &best.weights);
    let mut reached = start.clone();
    let mut chosen: BTreeMap<&str, f32> = BTreeMap::new();
    loop {
        let before = mean(&reached);
        for (name, values) in KNOBS {
            let mut tries = Vec::new();
            for &value in values {
                let tried = best.with(name, value)?;
                let said = if tried.words == best.words { kept.clone() } else { rankings(set, dense, tried.words) };
                let found = reciprocals(set, &said, &tried.weights);
                tries.push((value, tried, said, found));
            }
            let told: Vec<String> =
                tries.iter().map(|(value, .., found)| format!("{value}: {:.4}", mean(found))).collect();
            println!("{name:<11}{}", told.join("  "));
            let first = tries.into_iter().max_by(|(.., a), (.., b)| mean(a).total_cmp(&mean(b)));
            let Some((value, tried, said, found)) = first else { continue };
            let (more, error) = gain(&found, &reached);
            if more > 2.0 * error {
                (best, kept, reached) = (tried, said, found);
                chosen.insert(name, value);
            }
        }
        if mean(&reached) <= before {
            break;
        }
    }
    let (more, error) = gain(&reached, &start);
    println!("{:.4} from {:.4}: {more:+.4} with a standard error of {error:.4}", mean(&reached), mean(&start));
    let arguments: Vec<String> = chosen.iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("{}", arguments.join(" "));
    Ok(())
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
            std::hint::black_box(index.search(&content_words(set.text(query)), 50, &|_| true));
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
    let [directory, half, changes @ ..] = arguments.as_slice() else {
        return Err("usage: recall DIR tune|report|speed [NAME=VALUE ..]".into());
    };
    let speed_alone = half == "speed";
    let set = Set::read(Path::new(directory), if speed_alone { "report" } else { half })?;
    println!("{half}: {} queries, {} functions", set.queries.len(), set.functions.len());
    if speed_alone {
        speed(&set, 100_000);
        return Ok(());
    }
    let dense = on_two_threads(set.queries.len(), |query| set.nearest(query, candidates()));
    let shipped = Setting::default();
    let hybrid = tell(&set, &rankings(&set, &dense, shipped.words), &shipped.weights);
    if half == "tune" {
        return tune(&set, &dense);
    }
    if !changes.is_empty() {
        let other = changes.iter().try_fold(shipped, |setting, change| setting.parsed(change))?;
        println!("with {}", changes.join(" "));
        let changed = tell(&set, &rankings(&set, &dense, other.words), &other.weights);
        let (more, error) = gain(&changed, &hybrid);
        println!("hybrid gains {more:+.4} with a standard error of {error:.4}");
    }
    Ok(())
}
