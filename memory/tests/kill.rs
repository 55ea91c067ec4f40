//! Nothing acknowledged is lost, and nothing forgotten comes back, when the process is killed at any moment.
//!
//! This program starts itself as a child that writes from several threads (put, change, forget) and says on its
//! standard output what it is about to do and what was acknowledged. The parent kills it with SIGKILL at a random
//! moment, mostly lets the next child go on from what is left, and every third time opens the memory itself and
//! compares every record ever mentioned. `ENGRAM_KILL_ROUNDS` sets the rounds (200), `ENGRAM_KILL_SEED` the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use engram_memory::backend::embedded::{Embedded, EmbeddedConfig, EncoderId};
use engram_memory::backend::{Backend, Change, Forget, Selection, Stored};
use engram_memory::store::StoreConfig;
use engram_memory::{IndexParams, Kind, Record, RecordId, Scope, Timestamp, content_hash};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const THREADS: u64 = 4;
const DIM: usize = 16;
const CHILD: &str = "ENGRAM_KILL_CHILD";

fn main() {
    match std::env::var(CHILD) {
        Ok(work) => child(&work),
        Err(_) => parent(),
    }
}

fn open(dir: &Path) -> Embedded {
    // Small limits, so that kills also meet log rotations and copies of generations.
    let store = StoreConfig {
        log_bytes: 64 << 10,
        reserve_bytes: 0,
        compact_floor_bytes: 2 << 20,
        purge_after: Duration::from_millis(100),
        cache_bytes: 8 << 20,
    };
    let encoder = EncoderId { name: "kill".to_owned(), dim: DIM };
    // Graphs are written long before they are worth it, so that kills meet that too; a wide search finds all of them.
    let index = IndexParams { recent: 64, exact_below: 64, ..IndexParams::default() };
    Embedded::open(dir, Some(&encoder), EmbeddedConfig { store, index, ef_search: 512, ..EmbeddedConfig::default() })
        .unwrap_or_else(|error| panic!("the memory does not open after a kill: {error}"))
}

fn scope(thread: u64) -> Scope {
    Scope::of("tenant", "coding").and_then(|scope| scope.project(&format!("p{thread}"))).expect("a scope")
}

/// A vector that tells the content, so that a vector of another version shows.
fn vector(content: &str) -> Vec<f32> {
    let mut vector: Vec<f32> = content_hash(content).bytes().take(DIM).map(f32::from).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

fn stored(thread: u64, content: String) -> Stored {
    let scope = scope(thread);
    let record = Record::new(scope, Kind::Code, content, Timestamp::now());
    Stored { vector: vector(&record.content), record }
}

/// Writes until it is killed.
fn child(work: &str) {
    let (dir, seed) = work.rsplit_once(':').expect("a directory and a seed");
    let memory = open(Path::new(dir));
    let out = Mutex::new(std::io::stdout());
    let say = |line: String| {
        let mut out = out.lock().expect("standard output");
        // One write a line: a pipe takes lines this short whole.
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
    };
    say("open\n".to_owned());
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let (memory, say) = (&memory, &say);
            threads.spawn(move || {
                let mut random = ChaCha8Rng::seed_from_u64(seed.parse::<u64>().expect("a seed") * THREADS + thread);
                loop {
                    step(memory, thread, &mut random, say);
                }
            });
        }
    });
}

/// One write: a line before it (`try`) that names the record and the content it will have (`-`: none), one after it.
fn step(memory: &Embedded, thread: u64, random: &mut ChaCha8Rng, say: &dyn Fn(String)) {
    let partition = scope(thread).partition;
    let start = RecordId(random.random());
    let selection = Selection::all(scope(thread));
    let picked = memory.scan(&selection, None, Some(start), 1).expect("a scan").pop();
    let text = || "x".repeat(200);
    match (random.random_range(0..10), picked) {
        (0..=2, Some(picked)) => {
            let content = format!("changed {:032x} {}", random.random::<u128>(), text());
            say(format!("try {thread} {} {}\n", picked.record.id, content_hash(&content)));
            let change = Change { content: Some((content.clone(), vector(&content))), ..Change::default() };
            memory.change(&partition, picked.record.id, change).expect("a change");
        }
        (3..=5, Some(picked)) => {
            say(format!("try {thread} {} -\n", picked.record.id));
            assert_eq!(memory.forget(&Forget::Ids(partition, vec![picked.record.id])).expect("a forget"), 1);
        }
        _ => {
            let new: Vec<Stored> = (0..random.random_range(1..4))
                .map(|_| stored(thread, format!("put {:032x} {}", random.random::<u128>(), text())))
                .collect();
            let names: Vec<String> =
                new.iter().map(|new| format!("{} {}", new.record.id, new.record.content_hash)).collect();
            say(format!("try {thread} {}\n", names.join(" ")));
            memory.put(new).expect("a put");
        }
    }
    say(format!("ack {thread}\n"));
    if random.random_bool(0.05) {
        memory.upkeep().expect("upkeep");
    }
}

/// Hashes of the contents a record may have; `-` for none. One of them, unless a kill came before an acknowledgement.
type Model = BTreeMap<String, BTreeSet<String>>;

fn parent() {
    let rounds = number("ENGRAM_KILL_ROUNDS", 200);
    let seed = number("ENGRAM_KILL_SEED", u64::from(std::process::id()));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let (mut model, mut acknowledged, mut checked) = (Model::new(), 0, 0);
    let began = Instant::now();
    for round in 0..rounds {
        acknowledged += kill_one(dir.path(), seed * 100_000 + round, &mut random, &mut model);
        if round % 3 == 2 || round + 1 == rounds {
            checked += check(dir.path(), &mut model, &format!("round {round} of seed {seed}"));
        }
    }
    assert!(acknowledged > rounds, "only {acknowledged} writes in {rounds} rounds: the kills come too early");
    println!(
        "{rounds} kills, {acknowledged} acknowledged writes, {} records, {checked} comparisons, {:.1} s, seed {seed}",
        model.len(),
        began.elapsed().as_secs_f32()
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Starts a child, kills it, and takes into the model what it said. How many writes it acknowledged.
fn kill_one(dir: &Path, seed: u64, random: &mut ChaCha8Rng, model: &mut Model) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let work = format!("{}:{seed}", dir.display());
    let mut child = Command::new(program).env(CHILD, work).stdout(Stdio::piped()).spawn().expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    // One in ten is killed while it opens: recovery must survive a kill as well.
    if !random.random_bool(0.1) {
        assert_eq!(lines.next().expect("a line").expect("a line"), "open");
    }
    std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
    child.kill().expect("a kill");
    child.wait().expect("its end");
    let mut trying: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut acknowledged = 0;
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ').map(str::to_owned);
        match (words.next().as_deref(), words.next()) {
            (Some("try"), Some(thread)) => {
                let mut pairs = Vec::new();
                while let (Some(id), Some(content)) = (words.next(), words.next()) {
                    model.entry(id.clone()).or_insert_with(|| BTreeSet::from(["-".to_owned()])).insert(content.clone());
                    pairs.push((id, content));
                }
                trying.insert(thread, pairs);
            }
            (Some("ack"), Some(thread)) => {
                acknowledged += 1;
                for (id, content) in trying.remove(&thread).unwrap_or_default() {
                    model.insert(id, BTreeSet::from([content]));
                }
            }
            _ => {}
        }
    }
    acknowledged
}

/// Opens the memory and compares every record of the model, what searches find included. How many were compared.
fn check(dir: &Path, model: &mut Model, when: &str) -> u64 {
    let memory = open(dir);
    let all = Selection::all(Scope::of("tenant", "coding").expect("a scope"));
    let there: BTreeMap<String, Stored> = memory
        .scan(&all, None, None, usize::MAX)
        .expect("a scan")
        .into_iter()
        .map(|stored| (stored.record.id.to_string(), stored))
        .collect();
    for id in there.keys() {
        assert!(model.contains_key(id), "{when}: record {id} was never written");
    }
    for (id, possible) in model.iter_mut() {
        let found = there.get(id).map_or("-".to_owned(), |stored| content_hash(&stored.record.content));
        assert!(possible.contains(&found), "{when}: record {id} has content {found}, it should be one of {possible:?}");
        *possible = BTreeSet::from([found]);
    }
    for stored in there.values() {
        let Record { content, content_hash: hash, version, id, .. } = &stored.record;
        assert_eq!(*hash, content_hash(content), "{when}: half a record");
        assert_eq!(stored.vector, vector(content), "{when}: the vector of another version");
        let history = memory.get(&stored.record.scope.partition, *id, Some(stored.record.created)).expect("history");
        assert!(history.is_some_and(|first| first.version <= *version), "{when}: history of {id} is gone");
    }
    let stats = memory.stats(None).expect("sizes");
    assert_eq!(stats.records.get("code").copied().unwrap_or(0), there.len() as u64, "{when}: the count is off");
    for stored in there.values().take(5) {
        let nearest = memory.nearest(&all, &stored.vector, 1).expect("a search");
        assert_eq!(nearest.first().map(|hit| hit.id), Some(stored.record.id), "{when}: not found by its vector");
    }
    model.len() as u64
}
