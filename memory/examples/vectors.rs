//! Our side of `benches/vectors`: builds the index over a file of vectors, then measures searches as it is told.
//!
//! `vectors DIR [THREADS]` reads `base.npy`, `queries.npy` and `truth.npy`, prints a line of JSON about the build, and
//! then, for each line on stdin that is an `ef`, one about the searches: recall@10 and queries a second on all threads.

use std::io::BufRead;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engram_memory::{IndexParams, VectorIndex};

const K: usize = 10;
/// Queries are repeated until this long has gone by: a single pass lasts some hundredths of a second.
const AT_LEAST: Duration = Duration::from_millis(1000);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: vectors DIR [THREADS]")?;
    let threads: usize = args.next().map_or(Ok(2), |threads| threads.parse())?;
    let (base, dim) = npy(&Path::new(&dir).join("base.npy"), f32::from_le_bytes)?;
    let (queries, _) = npy(&Path::new(&dir).join("queries.npy"), f32::from_le_bytes)?;
    let (truth, width) = npy(&Path::new(&dir).join("truth.npy"), u32::from_le_bytes)?;

    let rows: Vec<(u128, &[f32])> = (0u128..).zip(base.chunks_exact(dim)).collect();
    let index = VectorIndex::new(dim, IndexParams { build_threads: threads, ..IndexParams::default() })?;
    let (start, before) = (Instant::now(), resident()?);
    index.insert_many(&rows)?;
    let build = start.elapsed().as_secs_f64();
    let vectors = index.len() as f64;
    let built = serde_json::json!({
        "build_s": build,
        "vectors": index.len(),
        "bytes_per_vector": index.bytes() as f64 / vectors,
        "resident_per_vector": (resident()? - before) / vectors,
    });
    println!("{built}");

    let queries: Vec<&[f32]> = queries.chunks_exact(dim).collect();
    let truth: Vec<&[u32]> = truth.chunks_exact(width).map(|row| &row[..K]).collect();
    for line in std::io::stdin().lock().lines() {
        let ef: usize = line?.trim().parse()?;
        let recall = recall(&index, &queries, &truth, ef)?;
        let qps = queries_a_second(&index, &queries, ef, threads);
        println!("{}", serde_json::json!({"ef": ef, "recall": recall, "qps": qps}));
    }
    Ok(())
}

/// Bytes of this process in memory.
fn resident() -> Result<f64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    let kilobytes: f64 = line.trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024.0)
}

fn recall(index: &VectorIndex, queries: &[&[f32]], truth: &[&[u32]], ef: usize) -> engram_memory::Result<f64> {
    let mut found = 0;
    for (query, truth) in queries.iter().zip(truth) {
        let hits = index.search(query, K, ef, None)?;
        found += hits.iter().filter(|(id, _)| truth.iter().any(|&near| u128::from(near) == *id)).count();
    }
    Ok(found as f64 / (K * queries.len()) as f64)
}

fn queries_a_second(index: &VectorIndex, queries: &[&[f32]], ef: usize, threads: usize) -> f64 {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let work = || {
        while start.elapsed() < AT_LEAST {
            for _ in 0..16 {
                let query = queries[next.fetch_add(1, Ordering::Relaxed) % queries.len()];
                std::hint::black_box(index.search(query, K, ef, None).map_or(0, |hits| hits.len()));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    next.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// The values of a `.npy` file of two axes and little-endian items of four bytes, and the length of its rows.
fn npy<T>(path: &Path, item: fn([u8; 4]) -> T) -> Result<(Vec<T>, usize), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let refused = || format!("{}: no .npy of version 1 with four-byte items in rows", path.display());
    let length = bytes.get(8..10).ok_or_else(refused)?;
    let data = 10 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    let header = std::str::from_utf8(bytes.get(10..data).ok_or_else(refused)?)?;
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).ok_or_else(refused)?.0;
    let width: usize = shape.split(',').nth(1).ok_or_else(refused)?.trim().parse()?;
    let (items, _) = bytes[data..].as_chunks::<4>();
    Ok((items.iter().map(|bytes| item(*bytes)).collect(), width))
}
