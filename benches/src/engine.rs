//! Tokens per second of the engine itself: prefill and decode, for some numbers of sequences at once.
//!
//! The real engine runs in this process, with its thread, scheduler and sampler; only HTTP is left
//! out. Prompts are random and the prefix cache is off, so every token is computed; the KV cache is made
//! large enough that nothing is preempted. The median of the repeats is reported, all of them are kept.
//!
//! Beside each row stands the machine's bound: the weights that its steps read and multiply, over the memory bandwidth and int8
//! rate measured in the same run, the slower of both; and where a step's time went, kernel by kernel.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use engram_inference::{
    Engine, EngineConfig, EngineHandle, EngineObserver, ForwardPass, GenerateRequest, SamplingParams, StepReport,
    StepTimes, TokenEvent, TokenStream,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use engram_kernels::peak::Peak;
use engram_kernels::profile::{self, Kernel, Spent};

use crate::machine::Machine;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineBench {
    /// Tokens of a prompt; 0: no prefill test.
    pub pp: usize,
    /// Tokens to generate; 0: no decode test.
    pub tg: usize,
    /// Sequences at once, a test each.
    pub parallel: Vec<usize>,
    /// Runs of each test.
    pub repeat: usize,
}

impl EngineBench {
    /// Whether the numbers make sense; the error says which does not.
    pub fn check(&self) -> Result<(), String> {
        if self.pp == 0 && self.tg == 0 {
            return Err("--pp and --tg are both 0: there is nothing to measure".into());
        }
        if self.parallel.is_empty() || self.parallel.contains(&0) {
            return Err("--parallel needs numbers of sequences from 1 up, such as 1,8,32".into());
        }
        if self.parallel.iter().any(|&parallel| parallel > 4096) {
            return Err("--parallel goes up to 4096".into());
        }
        if self.repeat == 0 {
            return Err("--repeat is 0: there is nothing to measure".into());
        }
        Ok(())
    }

    /// Tokens of the longest sequence.
    fn longest(&self) -> usize {
        (self.pp + 1).max(self.tg + 1)
    }

    fn widest(&self) -> usize {
        self.parallel.iter().copied().max().unwrap_or(1)
    }
}

/// One test of some width.
#[derive(Debug, Clone)]
pub struct Row {
    /// `pp512` or `tg128`.
    pub test: String,
    /// Sequences at once.
    pub parallel: usize,
    /// Each repeat's tokens per second, in order of time.
    pub runs: Vec<f64>,
    /// Time of all steps of all repeats.
    pub times: StepTimes,
    /// How many steps that were.
    pub steps: u64,
    /// What the kernels of all steps took and had to move, in the order of [`Kernel::ALL`].
    pub kernels: [Spent; Kernel::ALL.len()],
    /// Tokens of a repeat.
    pub tokens: usize,
}

impl Row {
    /// Median over the repeats.
    pub fn tokens_per_second(&self) -> f64 {
        median(&self.runs)
    }

    /// Milliseconds of an average step.
    fn each_step_ms(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / self.steps.max(1) as f64
    }

    /// Milliseconds of an average step: schedule, forward, sample, deliver; and what of it was neither kernel nor sampling.
    fn step_ms(&self) -> [(&'static str, f64); 5] {
        let StepTimes { schedule, forward, sample, deliver } = self.times;
        let kernels: Duration = self.kernels.iter().map(|spent| spent.time).sum();
        let overhead = schedule + forward.saturating_sub(kernels) + deliver;
        [("schedule", schedule), ("forward", forward), ("sample", sample), ("deliver", deliver), ("overhead", overhead)]
            .map(|(part, time)| (part, self.each_step_ms(time)))
    }

    /// Tokens per second if the steps took no longer than reading and multiplying their weights must.
    fn bound(&self, peak: &Peak) -> Option<f64> {
        let work = self.kernels[Kernel::Linear as usize];
        let floor = peak.floor_seconds(work.bytes as f64, work.macs as f64);
        (floor > 0.0).then(|| (self.tokens * self.runs.len()) as f64 / floor)
    }

    fn kernel_json(&self, peak: Option<&Peak>) -> Value {
        let each =
            Kernel::ALL.into_iter().zip(&self.kernels).filter(|(_, spent)| spent.calls > 0).map(|(kernel, spent)| {
                let floor = peak.map(|peak| peak.floor_seconds(spent.bytes as f64, spent.macs as f64));
                let share = floor.filter(|&floor| floor > 0.0).map(|floor| round(floor / spent.time.as_secs_f64(), 3));
                let ms = round(self.each_step_ms(spent.time), 4);
                let calls = spent.calls / self.steps.max(1);
                (kernel.name().to_owned(), json!({ "ms": ms, "calls": calls, "bound_share": share }))
            });
        Value::Object(each.collect())
    }
}

/// All rows, and what they were measured on.
#[derive(Debug, Clone)]
pub struct Report {
    /// The model's id.
    pub model: String,
    /// The machine.
    pub machine: Machine,
    /// What it can do at most; `None` where there was no memory to measure it.
    pub peak: Option<Peak>,
    /// Tokens of a step.
    pub max_batch_tokens: usize,
    /// Number format of the KV cache.
    pub kv_dtype: String,
    /// The results.
    pub rows: Vec<Row>,
}

impl Report {
    /// For scripts.
    pub fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let step: serde_json::Map<String, Value> =
                    row.step_ms().into_iter().map(|(part, ms)| (part.to_owned(), json!(round(ms, 4)))).collect();
                json!({
                    "test": row.test,
                    "parallel": row.parallel,
                    "tokens_per_second": round(row.tokens_per_second(), 2),
                    "runs": row.runs.iter().map(|run| round(*run, 2)).collect::<Vec<_>>(),
                    "steps": row.steps,
                    "step_ms": step,
                    "kernels": row.kernel_json(self.peak.as_ref()),
                    "bound_tokens_per_second": self.bound(row).map(|bound| round(bound, 2)),
                    "bound_share": self.bound(row).map(|bound| round(row.tokens_per_second() / bound, 4)),
                })
            })
            .collect();
        json!({
            "rows": rows,
            "machine": self.machine.to_json(),
            "machine_peak": self.peak.map(|peak| json!({
                "memory_gb_s": round(peak.memory_gb_s, 2),
                "memory_gb_s_1_core": round(peak.memory_gb_s_1_core, 2),
                "int8_gmac_s": round(peak.int8_gmac_s, 1),
                "int8_gmac_s_1_core": round(peak.int8_gmac_s_1_core, 1),
            })),
            "model": self.model,
            "engine": { "version": env!("CARGO_PKG_VERSION"), "max_batch_tokens": self.max_batch_tokens, "kv_dtype": self.kv_dtype },
        })
    }

    fn bound(&self, row: &Row) -> Option<f64> {
        self.peak.as_ref().and_then(|peak| row.bound(peak))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}, KV cache in {}\n{}\n", self.model, self.kv_dtype, self.machine);
        if let Some(peak) = &self.peak {
            text.push_str(&format!(
                "measured: memory {:.1} GB/s ({:.1} one core), int8 {:.0} GMAC/s ({:.0} one core)\n",
                peak.memory_gb_s, peak.memory_gb_s_1_core, peak.int8_gmac_s, peak.int8_gmac_s_1_core
            ));
        }
        text.push_str(&format!(
            "\n{:<8} {:>8} {:>10} {:>10} {:>5}   {:>9} {:>9} {:>9} {:>9} {:>9}   ms a step\n",
            "test", "parallel", "tokens/s", "bound", "%", "schedule", "forward", "sample", "deliver", "overhead"
        ));
        for row in &self.rows {
            let [schedule, forward, sample, deliver, overhead] = row.step_ms().map(|(_, ms)| ms);
            let bound = self.bound(row).unwrap_or(f64::NAN);
            text.push_str(&format!(
                "{:<8} {:>8} {:>10.1} {bound:>10.1} {:>5.1}   {schedule:>9.3} {forward:>9.2} {sample:>9.3} {deliver:>9.3} {overhead:>9.3}\n",
                row.test,
                row.parallel,
                row.tokens_per_second(),
                100.0 * row.tokens_per_second() / bound
            ));
        }
        text.push_str("\nkernels, ms a step (and of their bound)\n");
        for row in &self.rows {
            text.push_str(&format!("{:<8} {:>8}  ", row.test, row.parallel));
            for (kernel, spent) in Kernel::ALL.into_iter().zip(&row.kernels).filter(|(_, spent)| spent.calls > 0) {
                let floor = self.peak.map_or(0.0, |peak| peak.floor_seconds(spent.bytes as f64, spent.macs as f64));
                let share = if floor > 0.0 {
                    format!(" ({:.0} %)", 100.0 * floor / spent.time.as_secs_f64())
                } else {
                    String::new()
                };
                text.push_str(&format!("  {} {:.3}{share}", kernel.name(), row.each_step_ms(spent.time)));
            }
            text.push('\n');
        }
        text
    }
}

/// Runs all tests on one engine; `told` hears of each row as it is done.
pub fn run<M: ForwardPass + 'static>(
    model: M,
    name: &str,
    config: &EngineConfig,
    bench: &EngineBench,
    mut told: impl FnMut(&str),
) -> anyhow::Result<Report> {
    let config = engine_config(&model, config, bench)?;
    let peak = Peak::measure();
    let recorder = Arc::new(Recorder::default());
    let engine = Engine::start(model, config.clone(), Arc::clone(&recorder) as Arc<dyn EngineObserver>)?;
    let mut runner = Runner { engine, recorder, rng: ChaCha8Rng::seed_from_u64(512) };
    // Pages touched, threads awake, code in the caches.
    runner.round(1, 32, 4).context("the warm-up failed")?;
    profile::enable(true);

    let mut rows = Vec::new();
    for (test, prompt_len, max_tokens) in [("pp", bench.pp, 1), ("tg", 1, bench.tg)] {
        let size = if test == "pp" { bench.pp } else { bench.tg };
        for &parallel in bench.parallel.iter().filter(|_| size > 0) {
            let mut row = Row {
                test: format!("{test}{size}"),
                parallel,
                runs: Vec::new(),
                times: StepTimes::default(),
                steps: 0,
                kernels: Default::default(),
                tokens: parallel * size,
            };
            for _ in 0..bench.repeat {
                let round = runner.round(parallel, prompt_len, max_tokens)?;
                row.runs.push((parallel * size) as f64 / round.elapsed.as_secs_f64());
                row.steps += round.steps;
                add(&mut row.times, &round.times);
                for (sum, spent) in row.kernels.iter_mut().zip(round.kernels) {
                    sum.calls += spent.calls;
                    sum.time += spent.time;
                    sum.bytes += spent.bytes;
                    sum.macs += spent.macs;
                }
            }
            told(&format!("{} x {parallel}: {:.1} tokens/s", row.test, row.tokens_per_second()));
            rows.push(row);
        }
    }
    profile::enable(false);
    runner.engine.drain(Instant::now())?;
    Ok(Report {
        model: name.to_owned(),
        machine: Machine::detect(),
        peak,
        max_batch_tokens: config.max_batch_tokens,
        kv_dtype: config.kv_dtype.name().to_owned(),
        rows,
    })
}

/// Room for everything at once, and nothing that spares work.
fn engine_config(model: &impl ForwardPass, given: &EngineConfig, bench: &EngineBench) -> anyhow::Result<EngineConfig> {
    let geometry = model.geometry();
    let longest = bench.longest();
    if longest > geometry.max_len {
        bail!("--pp and --tg need {longest} tokens of context, the model holds {}", geometry.max_len);
    }
    let widest = bench.widest();
    let blocks = widest * (longest.div_ceil(given.block_size) + 1) + 1;
    let token_bytes = geometry.layers * geometry.kv_heads * given.kv_dtype.row_bytes(geometry.head_dim) * 2; // K and V
    Ok(EngineConfig {
        max_num_seqs: widest,
        max_batch_tokens: given.max_batch_tokens.max(widest),
        max_prefill_chunk: given.max_batch_tokens.max(widest),
        kv_bytes: blocks * given.block_size * token_bytes,
        queue_limit: widest,
        max_model_len: None,
        prefix_cache: false,
        ..given.clone()
    })
}

/// Adds up the engine's steps as it tells them.
#[derive(Default)]
struct Recorder(Mutex<Totals>); // taken once a step, and by the reader between rounds

#[derive(Clone, Copy, Default)]
struct Totals {
    steps: u64,
    preempted: usize,
    times: StepTimes,
}

impl Recorder {
    fn totals(&self) -> Totals {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineObserver for Recorder {
    fn on_step(&self, report: &StepReport) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.steps = report.step;
        totals.preempted += report.preempted;
        add(&mut totals.times, &report.times);
    }
}

struct Runner {
    engine: EngineHandle,
    recorder: Arc<Recorder>,
    rng: ChaCha8Rng,
}

/// One repeat of one test.
struct Round {
    elapsed: Duration,
    steps: u64,
    times: StepTimes,
    kernels: [Spent; Kernel::ALL.len()],
}

impl Runner {
    /// `parallel` sequences of random prompts, from the first submit to the last token.
    fn round(&mut self, parallel: usize, prompt_len: usize, max_tokens: usize) -> anyhow::Result<Round> {
        let vocab = self.engine.capacity().geometry.vocab_size as u32;
        let sampling = SamplingParams { ignore_eos: true, ..SamplingParams::greedy() };
        let requests: Vec<GenerateRequest> = (0..parallel)
            .map(|_| {
                let prompt = (0..prompt_len).map(|_| self.rng.random_range(0..vocab)).collect();
                GenerateRequest::new(prompt, sampling.clone(), max_tokens)
            })
            .collect();
        let before = self.settled()?;
        let kernels_before = profile::snapshot();
        let begun = Instant::now();
        let streams: Vec<TokenStream> =
            requests.into_iter().map(|request| self.engine.submit(request)).collect::<Result<_, _>>()?;
        for stream in streams {
            let tokens = drain(stream)?;
            if tokens != max_tokens {
                bail!("a sequence gave {tokens} tokens, {max_tokens} were asked for");
            }
        }
        let elapsed = begun.elapsed();
        let after = self.settled()?;
        if after.preempted > before.preempted {
            bail!("sequences were preempted: the KV cache is too small for this test");
        }
        let kernels_after = profile::snapshot();
        Ok(Round {
            elapsed,
            steps: after.steps - before.steps,
            times: between(&before.times, &after.times),
            kernels: std::array::from_fn(|i| kernels_after[i].since(kernels_before[i])),
        })
    }

    /// The totals once nothing runs; a step is told just after its tokens are sent.
    fn settled(&self) -> anyhow::Result<Totals> {
        let begun = Instant::now();
        loop {
            let (stats, totals) = (self.engine.stats(), self.recorder.totals());
            let idle = stats.running + stats.waiting + stats.queued == 0;
            if idle && stats.requests.ended() == stats.requests.accepted && totals.steps == stats.steps {
                return Ok(totals);
            }
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("the engine does not come to rest: {} running, {} waiting", stats.running, stats.waiting);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Reads a stream to its end and counts its tokens.
fn drain(mut stream: TokenStream) -> anyhow::Result<usize> {
    let mut tokens = 0;
    while let Some(event) = stream.recv() {
        match event {
            TokenEvent::Token { .. } => tokens += 1,
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished { .. } => return Ok(tokens),
            TokenEvent::Failed(error) => return Err(error.into()),
        }
    }
    bail!("a stream ended without its finish")
}

fn between(before: &StepTimes, after: &StepTimes) -> StepTimes {
    StepTimes {
        schedule: after.schedule - before.schedule,
        forward: after.forward - before.forward,
        sample: after.sample - before.sample,
        deliver: after.deliver - before.deliver,
    }
}

fn add(sum: &mut StepTimes, times: &StepTimes) {
    sum.schedule += times.schedule;
    sum.forward += times.forward;
    sum.sample += times.sample;
    sum.deliver += times.deliver;
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let bench = EngineBench { pp: 512, tg: 128, parallel: vec![1, 8], repeat: 3 };
        assert_eq!(bench.check(), Ok(()));
        assert_eq!((bench.longest(), bench.widest()), (513, 8));
        for (broken, part) in [
            (EngineBench { pp: 0, tg: 0, ..bench.clone() }, "--pp and --tg"),
            (EngineBench { parallel: vec![], ..bench.clone() }, "--parallel"),
            (EngineBench { parallel: vec![1, 0], ..bench.clone() }, "--parallel"),
            (EngineBench { repeat: 0, ..bench.clone() }, "--repeat"),
        ] {
            assert!(broken.check().unwrap_err().contains(part));
        }
    }

    #[test]
    fn the_report_has_the_names_scripts_rely_on() {
        let row = Row {
            test: "pp512".into(),
            parallel: 8,
            runs: vec![100.0, 300.004, 200.0],
            times: StepTimes { forward: Duration::from_millis(30), ..StepTimes::default() },
            steps: 3,
            kernels: std::array::from_fn(|_| Spent {
                calls: 3,
                time: Duration::from_millis(9),
                bytes: 3 << 20,
                macs: 0,
            }),
            tokens: 4096,
        };
        let peak =
            Peak { memory_gb_s: 1.048576, memory_gb_s_1_core: 1.0, int8_gmac_s: 1000.0, int8_gmac_s_1_core: 500.0 };
        let report = Report {
            model: "m".into(),
            machine: Machine::detect(),
            peak: Some(peak),
            max_batch_tokens: 512,
            kv_dtype: "f16".into(),
            rows: vec![row],
        };
        let json = report.to_json();
        assert_eq!(json["rows"][0]["test"], "pp512");
        assert_eq!(json["rows"][0]["parallel"], 8);
        assert_eq!(json["rows"][0]["tokens_per_second"], 200.0);
        assert_eq!(json["rows"][0]["step_ms"]["forward"], 10.0);
        // 3 MiB in 3 ms is what the memory gives: three rounds of 4096 tokens in 3 ms.
        assert_eq!(json["rows"][0]["bound_tokens_per_second"], 4_096_000.0);
        assert_eq!(json["rows"][0]["bound_share"], 0.0);
        assert_eq!(json["rows"][0]["kernels"]["linear"], json!({ "ms": 3.0, "calls": 1, "bound_share": 0.333 }));
        assert_eq!(json["machine_peak"]["memory_gb_s"], 1.05);
        assert_eq!(json["model"], "m");
        assert!(report.to_text().contains("pp512"));
    }
}
