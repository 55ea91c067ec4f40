//! How fast `paged_attention` is: prefill against the FMA peak of this machine, decode in GB/s of K and V read.
//!
//! `cargo run --release -p engram-kernels --example attention_speed [WORD]` (calls whose name has the word);
//! `ENGRAM_THREADS` and `ENGRAM_ISA` are followed.
//! Caches in f16 and in int8, of 16-token blocks in scattered order, larger than the last-level cache. The best of several rounds is
//! printed. The peak is measured beside, on as many threads: fused multiply-adds on registers alone.

use std::time::Instant;

use engram_kernels::attention::{
    AttentionParams, KvShape, KvSlice, PagedKv, SequenceSpan, int8_row_len, paged_attention,
};
use engram_kernels::{Rows, isa, pool};
use half::f16;

const BLOCK_SIZE: usize = 16;
/// Values of K, and of V, in the cache: 128 MiB each in f16.
const CACHE_VALUES: usize = 64 << 20;

struct Model {
    name: &'static str,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const MODELS: [Model; 3] = [
    Model { name: "Qwen2.5 0.5B", heads: 14, kv_heads: 2, head_dim: 64 },
    Model { name: "SmolLM2 135M", heads: 9, kv_heads: 3, head_dim: 64 },
    Model { name: "Llama 3 8B", heads: 32, kv_heads: 8, head_dim: 128 },
];

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    let peak = peak_gmacs();
    println!("{} threads, {}, FMA peak {peak:.0} GMAC/s", pool().threads(), isa().name());
    println!(
        "{:13} {:>22} {:>5} {:>10} {:>9} {:>7} {:>7}",
        "shape", "call", "cache", "time us", "GMAC/s", "peak %", "GB/s"
    );
    for model in &MODELS {
        for (name, sequences, query_len, context_len) in [
            ("prefill 512", 1, 512, 512),
            ("prefill 2048", 1, 2048, 2048),
            ("chunk 256 of 4096", 1, 256, 4096),
            ("decode at 512", 1, 1, 512),
            ("decode at 4096", 1, 1, 4096),
            ("16 decodes at 512", 16, 1, 512),
            ("16 decodes at 4096", 16, 1, 4096),
        ] {
            if !name.contains(&word) {
                continue;
            }
            for int8 in [false, true] {
                measure(model, int8, name, (sequences, query_len, context_len), peak);
            }
        }
    }
}

fn measure(
    model: &Model,
    int8: bool,
    name: &str,
    (sequences, query_len, context_len): (usize, usize, usize),
    peak: f64,
) {
    let Model { heads, kv_heads, head_dim, .. } = *model;
    let num_blocks = CACHE_VALUES / (kv_heads * BLOCK_SIZE * head_dim);
    let shape = KvShape { num_blocks, kv_heads, block_size: BLOCK_SIZE, head_dim };
    let (cache_name, k, v) = match int8 {
        false => ("f16", Cache::F16(halves(shape, 1)), Cache::F16(halves(shape, 2))),
        true => ("int8", Cache::Int8(codes(shape, 1)), Cache::Int8(codes(shape, 2))),
    };
    let kv = PagedKv { k: k.slice(), v: v.slice(), shape };
    // Blocks in an order far from that of memory; each call takes the next ones, so that they come from memory.
    let blocks = context_len.div_ceil(BLOCK_SIZE);
    let mut next = 0usize;
    let mut span = |sequence: usize| SequenceSpan {
        query_start: sequence * query_len,
        query_len,
        context_len,
        block_table: (0..blocks)
            .map(|_| {
                next = (next + 7919) % num_blocks;
                next as u32
            })
            .collect(),
    };
    let calls: Vec<Vec<SequenceSpan>> = (0..8).map(|_| (0..sequences).map(&mut span).collect()).collect();
    let q: Vec<f32> = (0..sequences * query_len * heads * head_dim).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut out = vec![0f32; q.len()];
    let params = AttentionParams { scale: 1.0 / (head_dim as f32).sqrt(), window: None };
    let mut best = f64::MAX;
    for round in 0..40 {
        let start = Instant::now();
        paged_attention(Rows::dense(&q, heads * head_dim), heads, kv, &calls[round % 8], &params, &mut out)
            .expect("sizes agree");
        best = best.min(start.elapsed().as_secs_f64());
    }
    let seen: usize = (context_len - query_len + 1..=context_len).sum();
    let gmacs = (2 * sequences * seen * heads * head_dim) as f64 / best / 1e9;
    let row_bytes = if int8 { int8_row_len(head_dim) } else { 2 * head_dim };
    let bytes = (2 * sequences * context_len * kv_heads * row_bytes) as f64;
    println!(
        "{:13} {name:>22} {cache_name:>5} {:>10.1} {gmacs:>9.1} {:>7.0} {:>7.1}",
        model.name,
        best * 1e6,
        100.0 * gmacs / peak,
        bytes / best / 1e9
    );
}

/// K or V of a cache.
enum Cache {
    F16(Vec<f16>),
    Int8(Vec<u8>),
}

impl Cache {
    fn slice(&self) -> KvSlice<'_> {
        match self {
            Cache::F16(values) => KvSlice::F16(values),
            Cache::Int8(codes) => KvSlice::Int8(codes),
        }
    }
}

/// Numbers from -1 to 1.
fn halves(shape: KvShape, seed: usize) -> Vec<f16> {
    let values = shape.values().expect("a small cache");
    (0..values).map(|i| f16::from_f32(((i * 31 + seed) % 255) as f32 / 128.0 - 1.0)).collect()
}

/// The same in codes that are worth 1/128 each.
fn codes(shape: KvShape, seed: usize) -> Vec<u8> {
    let values = shape.values().expect("a small cache");
    let mut rows = Vec::with_capacity(values / shape.head_dim * int8_row_len(shape.head_dim));
    for row in 0..values / shape.head_dim {
        rows.extend((0..shape.head_dim).map(|d| ((row * shape.head_dim + d) * 31 + seed) as u8));
        rows.extend((1f32 / 128.0).to_ne_bytes());
    }
    rows
}

/// Multiply-adds a second on all threads of the pool, in billions.
fn peak_gmacs() -> f64 {
    const ROUNDS: usize = 2_000_000;
    let tasks = pool().threads();
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        pool().run(tasks, &|_| {
            std::hint::black_box(register_fmas(ROUNDS));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (tasks * ROUNDS * 12 * 8) as f64 / best / 1e9
}

/// `rounds` times 12 independent multiply-adds of 8 lanes.
fn register_fmas(rounds: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx,fma")]
        fn run(rounds: usize) -> f32 {
            use std::arch::x86_64::*;
            let (scale, add) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
            let mut acc = [_mm256_setzero_ps(); 12];
            for _ in 0..rounds {
                for a in &mut acc {
                    *a = _mm256_fmadd_ps(*a, scale, add);
                }
            }
            acc.into_iter().map(|a| _mm256_cvtss_f32(a)).sum()
        }
        // SAFETY: the processor has FMA, and with it AVX.
        return unsafe { run(rounds) };
    }
    let mut acc = [[0f32; 8]; 12];
    for _ in 0..rounds {
        acc.iter_mut().flatten().for_each(|a| *a = a.mul_add(0.999, 0.001));
    }
    acc.iter().flatten().sum()
}
