//! How fast `matmul` is, by type and shape: GB/s of packed weights at m = 1, GMAC/s at larger m, packing in GB/s.
//!
//! `cargo run --release -p engram-kernels --example matmul_speed [TYPE ..] [m=ROWS ..]`; `ENGRAM_THREADS` and `ENGRAM_ISA`
//! are followed.
//! Weights at m = 1 rotate through copies larger than the caches, as layers do. The best of several rounds is printed.

use std::time::Instant;

use engram_kernels::{GgmlType, PackedMatrix, isa, matmul, pool};

/// Bytes of weights that the caches cannot hold.
const COLD_BYTES: usize = 128 << 20;
/// The variable that sets another size: `HOT=1` keeps one copy, in the caches as far as it fits.
const HOT: &str = "HOT";
const ROWS_OF_X: [usize; 8] = [2, 3, 5, 7, 8, 32, 128, 512];

fn main() {
    let (rows, wanted): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with("m="));
    let mut rows: Vec<usize> = rows.iter().map(|m| m[2..].parse().expect("m=ROWS")).collect();
    if rows.is_empty() {
        rows = ROWS_OF_X.to_vec();
    }
    println!("{} threads, {}", pool().threads(), isa().name());
    println!("{:5} {:>13} {:>9} {:>9} | GMAC/s at m = {rows:?}", "type", "rows x cols", "pack GB/s", "m=1 GB/s");
    for ty in GgmlType::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == ty.name()) {
            continue;
        }
        let shapes: &[(usize, usize)] = match ty {
            GgmlType::Q8_0 => &[(4864, 896), (896, 4864), (151_936, 896)],
            _ => &[(4864, 896), (896, 4864)],
        };
        for &(outs, cols) in shapes {
            // K types come in 256s.
            measure(ty, outs, cols.next_multiple_of(ty.block_len()), &rows);
        }
    }
}

fn measure(ty: GgmlType, rows: usize, cols: usize, rows_of_x: &[usize]) {
    let data = random_blocks(ty, rows, cols);
    let mut pack_seconds = f64::MAX;
    let mut copies = Vec::new();
    let cold_bytes = if std::env::var_os(HOT).is_some() { 0 } else { COLD_BYTES };
    while copies.is_empty() || copies.len() * data.len() < cold_bytes {
        let start = Instant::now();
        copies.push(PackedMatrix::pack(ty, rows, cols, &data).expect("sizes agree"));
        pack_seconds = pack_seconds.min(start.elapsed().as_secs_f64());
    }
    let cold = |m: usize| {
        let x: Vec<f32> = (0..m * cols).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut out = vec![0f32; m * rows];
        let mut best = f64::MAX;
        for _ in 0..40 {
            let start = Instant::now();
            let mut calls = 0;
            while calls == 0 || start.elapsed().as_secs_f64() < 0.003 {
                matmul(&x, m, &[&copies[calls % copies.len()]], &mut out).expect("sizes agree");
                calls += 1;
            }
            best = best.min(start.elapsed().as_secs_f64() / calls as f64);
        }
        best
    };
    let mut line = format!(
        "{:5} {:>13} {:>9.2} {:>9.1} |",
        ty.name(),
        format!("{rows}x{cols}"),
        data.len() as f64 / pack_seconds / 1e9,
        copies[0].bytes() as f64 / cold(1) / 1e9
    );
    for &m in rows_of_x {
        line += &format!(" {:>6.1}", (m * rows * cols) as f64 / cold(m) / 1e9);
    }
    println!("{line}");
}

/// Random codes under scales that are small and finite.
fn random_blocks(ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let mut seed = 1u64;
    let mut data: Vec<u8> = (0..ty.row_bytes(cols).expect("whole blocks") * rows)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 56) as u8
        })
        .collect();
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        let f16_at: &[usize] = match ty {
            GgmlType::F32 => &[2],
            GgmlType::Q2K => &[80, 82],
            GgmlType::Q3K => &[108],
            GgmlType::Q6K => &[208],
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
            GgmlType::F16 | GgmlType::BF16 | GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
        };
        for &at in f16_at {
            block[at + 1] = 0x2c; // about 0.07 as f16, 2e-12 as the top of a bf16 or f32
        }
    }
    data
}
