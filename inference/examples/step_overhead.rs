//! What the engine itself costs a step: a model that takes no time, and the rest of the step measured.
//!
//! `cargo run --release -p engram-inference --example step_overhead [-- STREAMS,..]`
//!
//! Prints microseconds of an average step: deciding and laying out, choosing tokens from rows of
//! 151,936 logits, bookkeeping and sending; `round` is the whole loop, from one step to the next.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;
use engram_inference::{
    Engine, EngineConfig, EngineHandle, EngineObserver, ForwardPass, GenerateRequest, Geometry, KvCache,
    SamplingParams, StepReport, StepTimes, TokenEvent,
};
use engram_models::forward::ForwardBatch;
use engram_models::{ModelError, Workspace};

const VOCAB: usize = 151_936;
const PROMPT: usize = 1024;
const TOKENS: usize = 2000;

/// The same logits at each pass, written once for each row.
struct NoTime {
    row: Vec<f32>,
    written: usize,
}

impl NoTime {
    fn new() -> Self {
        let mut state = 1u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 20) as f32
        };
        Self { row: std::iter::repeat_with(next).take(VOCAB).collect(), written: 0 }
    }
}

impl ForwardPass for NoTime {
    fn forward(&mut self, batch: &ForwardBatch, _: &KvCache, workspace: &mut Workspace) -> Result<(), ModelError> {
        let rows = batch.logit_rows.len();
        let logits = workspace.logits_mut(rows, VOCAB); // what was written before is still there, unless it grew
        if logits.first() != self.row.first() {
            self.written = 0;
        }
        for row in logits.chunks_mut(VOCAB).skip(self.written) {
            row.copy_from_slice(&self.row);
        }
        self.written = self.written.max(rows);
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        Geometry { layers: 1, kv_heads: 1, head_dim: 1, vocab_size: VOCAB, max_len: 1 << 20 }
    }

    fn device(&self) -> Device {
        Device::Cpu
    }
}

/// Adds up the steps in which every stream decodes.
#[derive(Default)]
struct Decodes(Mutex<(u64, StepTimes, Option<Instant>, Duration)>);

impl EngineObserver for Decodes {
    fn on_step(&self, report: &StepReport) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (steps, times, last, rounds) = &mut *totals;
        let now = Instant::now();
        let last = last.replace(now);
        if report.prefill_tokens > 0 {
            return;
        }
        *steps += 1;
        times.schedule += report.times.schedule;
        times.sample += report.times.sample;
        times.deliver += report.times.deliver;
        *rounds += last.map_or(Duration::ZERO, |last| now - last);
    }
}

fn run(engine: &EngineHandle, streams: usize) -> Result<(), Box<dyn Error>> {
    let streams: Vec<_> = (0..streams)
        .map(|stream| {
            let prompt = (0..PROMPT as u32).map(|i| (i * 31 + stream as u32) % VOCAB as u32).collect();
            let mut request = GenerateRequest::new(prompt, SamplingParams::greedy(), TOKENS);
            request.deadline = Some(Instant::now() + Duration::from_secs(600)); // as the server sets one
            engine.submit(request)
        })
        .collect::<Result<_, _>>()?;
    // Each reader waits for its own tokens, as the server's tasks do.
    std::thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || while let Some(TokenEvent::Token { .. }) = stream.recv() {});
        }
    });
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let list = std::env::args().nth(1).unwrap_or_else(|| "1,8,32".into());
    println!("{:>7} {:>9} {:>9} {:>9} {:>9}   us a step", "streams", "schedule", "sample", "deliver", "round");
    for streams in list.split(',').map(str::parse::<usize>) {
        let streams = streams?;
        let decodes = Arc::new(Decodes::default());
        let config = EngineConfig { kv_bytes: 64 << 20, ..EngineConfig::default() };
        let observer = Arc::clone(&decodes) as Arc<dyn EngineObserver>;
        let engine = Engine::start(NoTime::new(), config, observer)?;
        run(&engine, streams)?;
        engine.drain(Instant::now())?;
        let (steps, times, _, rounds) = *decodes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / steps.max(1) as f64;
        println!(
            "{streams:>7} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            each(times.schedule),
            each(times.sample),
            each(times.deliver),
            each(rounds)
        );
    }
    Ok(())
}
