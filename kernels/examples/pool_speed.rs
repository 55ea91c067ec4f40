//! What handing a job to the pool costs: empty tasks, and tasks that each take about as long as a tile's.
//!
//! `cargo run --release -p engram-kernels --example pool_speed`; `ENGRAM_THREADS` is followed.

use std::hint::black_box;
use std::time::Instant;

use engram_kernels::pool;

fn main() {
    println!("{} threads", pool().threads());
    for (tasks, work) in [(2, 0), (32, 0), (2, 2000), (32, 500), (32, 2000), (64, 4000)] {
        let spin = |n: usize| {
            let mut x = 0u64;
            for i in 0..n as u64 {
                x = black_box(x.wrapping_add(i));
            }
            black_box(x);
        };
        let mut samples: Vec<f64> = (0..2000)
            .map(|_| {
                let begun = Instant::now();
                pool().run(tasks, &|_| spin(work));
                begun.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        let alone = {
            let begun = Instant::now();
            for _ in 0..100 {
                (0..tasks).for_each(|_| spin(work));
            }
            begun.elapsed().as_secs_f64() * 1e6 / 100.0
        };
        let ideal = alone / pool().threads() as f64;
        println!(
            "{tasks:>3} tasks of {work:>4} steps: median {:>7.2} us, 95 % {:>7.2} us; one thread {alone:>7.2} us, so {:>6.2} us over its share",
            samples[samples.len() / 2],
            samples[samples.len() * 95 / 100],
            samples[samples.len() / 2] - ideal
        );
    }
}
