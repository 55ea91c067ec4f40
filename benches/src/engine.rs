//! Tokens per second of the engine itself: prefill and decode, for some numbers of sequences at once.
//!
//! The real engine runs in this process, with its thread, scheduler and sampler; only HTTP is left
//! out. Prompts are random and the prefix cache is off, so every token is computed; the KV cache is made
//! large enough that nothing is preempted. The median of the repeats is reported, all of them are kept.

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
}

impl Row {
    /// Median over the repeats.
    pub fn tokens_per_second(&self) -> f64 {
        median(&self.runs)
    }

    /// Milliseconds of an average step: schedule, forward, sample, deliver.
    fn step_ms(&self) -> [(&'static str, f64); 4] {
        let each = |time: Duration| time.as_secs_f64() * 1e3 / self.steps.max(1) as f64;
        [
            ("schedule", each(self.times.schedule)),
            ("forward", each(self.times.forward)),
            ("sample", each(self.times.sample)),
            ("deliver", each(self.times.deliver)),
        ]
    }
}

/// All rows, and what they were measured on.
#[derive(Debug, Clone)]
pub struct Report {
    /// The model's id.
    pub model: String,
    /// The machine.
    pub machine: Machine,
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
                })
            })
            .collect();
        json!({
            "rows": rows,
            "machine": self.machine.to_json(),
            "model": self.model,
            "engine": { "version": env!("CARGO_PKG_VERSION"), "max_batch_tokens": self.max_batch_tokens, "kv_dtype": self.kv_dtype },
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n\n{:<8} {:>8} {:>12}   {:>9} {:>9} {:>9} {:>9}   ms a step\n",
            self.model, self.machine, "test", "parallel", "tokens/s", "schedule", "forward", "sample", "deliver"
        );
        for row in &self.rows {
            let [schedule, forward, sample, deliver] = row.step_ms().map(|(_, ms)| ms);
            text.push_str(&format!(
                "{:<8} {:>8} {:>12.1}   {schedule:>9.3} {forward:>9.2} {sample:>9.3} {deliver:>9.3}\n",
                row.test,
                row.parallel,
                row.tokens_per_second()
            ));
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
    let recorder = Arc::new(Recorder::default());
    let engine = Engine::start(model, config.clone(), Arc::clone(&recorder) as Arc<dyn EngineObserver>)?;
    let mut runner = Runner { engine, recorder, rng: ChaCha8Rng::seed_from_u64(512) };
    // Pages touched, threads awake, code in the caches.
    runner.round(1, 32, 4).context("the warm-up failed")?;

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
            };
            for _ in 0..bench.repeat {
                let round = runner.round(parallel, prompt_len, max_tokens)?;
                row.runs.push((parallel * size) as f64 / round.elapsed.as_secs_f64());
                row.steps += round.steps;
                add(&mut row.times, &round.times);
            }
            told(&format!("{} x {parallel}: {:.1} tokens/s", row.test, row.tokens_per_second()));
            rows.push(row);
        }
    }
    runner.engine.drain(Instant::now())?;
    Ok(Report {
        model: name.to_owned(),
        machine: Machine::detect(),
        max_batch_tokens: config.max_batch_tokens,
        kv_dtype: format!("{:?}", config.kv_dtype).to_lowercase(),
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
    let values = geometry.layers * geometry.kv_heads * geometry.head_dim * 2; // K and V
    Ok(EngineConfig {
        max_num_seqs: widest,
        max_batch_tokens: given.max_batch_tokens.max(widest),
        max_prefill_chunk: given.max_batch_tokens.max(widest),
        kv_bytes: blocks * given.block_size * values * given.kv_dtype.size_in_bytes(),
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
        Ok(Round { elapsed, steps: after.steps - before.steps, times: between(&before.times, &after.times) })
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
        };
        let report = Report {
            model: "m".into(),
            machine: Machine::detect(),
            max_batch_tokens: 512,
            kv_dtype: "f16".into(),
            rows: vec![row],
        };
        let json = report.to_json();
        assert_eq!(json["rows"][0]["test"], "pp512");
        assert_eq!(json["rows"][0]["parallel"], 8);
        assert_eq!(json["rows"][0]["tokens_per_second"], 200.0);
        assert_eq!(json["rows"][0]["step_ms"]["forward"], 10.0);
        assert_eq!(json["model"], "m");
        assert!(report.to_text().contains("pp512"));
    }
}
