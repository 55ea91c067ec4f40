//! Every metric, named once. Durations are in seconds, as Prometheus has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_inference::{Capacity, EngineObserver, EngineStats, Outcome, StepReport, Timing, Usage};
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::memory::metrics::MemoryMetrics;

/// Milliseconds to minutes: whole requests, time to the first token, time in the queue.
const SLOW: [f64; 15] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// A tenth of a millisecond to seconds: steps, and the gap between two tokens.
const FAST: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What one engine reports at a scrape.
#[derive(Debug, Clone)]
pub struct EngineReport {
    /// Id of its model.
    pub model: String,
    /// Counters and gauges.
    pub stats: EngineStats,
    /// Its bounds.
    pub capacity: Capacity,
    /// Age of the last good forward pass.
    pub healthy_age: Option<Duration>,
}

/// The registry and all that is in it.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refused: IntCounterVec,
    request_seconds: HistogramVec,
    engine: EngineMetrics,
    memory: MemoryMetrics,
    resident_bytes: IntGauge,
    /// Held while a scrape brings the counters up to the engines' own: two at once would add twice.
    scrape: Mutex<()>,
}

/// One label, `model`, unless it says more.
struct EngineMetrics {
    requests: IntCounterVec,
    prompt_tokens: IntCounterVec,
    cached_tokens: IntCounterVec,
    prefill_tokens: IntCounterVec,
    generated_tokens: IntCounterVec,
    steps: IntCounterVec,
    preemptions: IntCounterVec,
    evicted_blocks: IntCounterVec,
    phase_seconds: CounterVec,
    waiting: IntGaugeVec,
    running: IntGaugeVec,
    prefill_budget: IntGaugeVec,
    kv_blocks: IntGaugeVec,
    kv_bytes: IntGaugeVec,
    healthy_age: GaugeVec,
    step_seconds: HistogramVec,
    first_token_seconds: HistogramVec,
    inter_token_seconds: HistogramVec,
    queue_seconds: HistogramVec,
    started: Gauge,
}

/// Registers metrics; names are ours and distinct, so this fails only by a mistake in this file.
struct Builder<'a>(&'a Registry);

impl Builder<'_> {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        let metric = CounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, label: &str, buckets: &[f64]) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let metric = HistogramVec::new(options, &[label])?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

impl EngineMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let build = Builder(registry);
        let healthy_age = GaugeVec::new(
            Opts::new("engram_healthy_age_seconds", "Age of the last forward pass with finite logits."),
            &["model"],
        )?;
        registry.register(Box::new(healthy_age.clone()))?;
        let started = Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?;
        registry.register(Box::new(started.clone()))?;
        let model: &[&str] = &["model"];
        Ok(Self {
            requests: build.counter(
                "engram_sequences_total",
                "Sequences by outcome: accepted, refused, stopped, length, deadline, expired_in_queue, aborted, failed.",
                &["model", "outcome"],
            )?,
            prompt_tokens: build.counter("engram_prompt_tokens_total", "Tokens of admitted prompts.", model)?,
            cached_tokens: build.counter(
                "engram_prefix_cache_hit_tokens_total",
                "Prompt tokens whose KV came from the prefix cache.",
                model,
            )?,
            prefill_tokens: build.counter(
                "engram_prefill_tokens_total",
                "Tokens read by the model: prompts without their cached part, and what preemption made it read again.",
                model,
            )?,
            generated_tokens: build.counter("engram_generated_tokens_total", "Tokens generated.", model)?,
            steps: build.counter("engram_steps_total", "Forward passes.", model)?,
            preemptions: build.counter("engram_preemptions_total", "Sequences preempted for want of KV blocks.", model)?,
            evicted_blocks: build.counter("engram_kv_evicted_blocks_total", "Cached KV blocks given to other content.", model)?,
            phase_seconds: build.seconds(
                "engram_step_phase_seconds_total",
                "Time of all steps by phase: schedule, forward, sample, deliver.",
                &["model", "phase"],
            )?,
            waiting: build.gauge("engram_queue_waiting", "Sequences waiting to run.", model)?,
            running: build.gauge("engram_sequences_running", "Sequences running.", model)?,
            prefill_budget: build.gauge(
                "engram_prefill_budget_tokens",
                "Prompt tokens that the last step had room for: what fits into max_itl_ms beside running streams.",
                model,
            )?,
            kv_blocks: build.gauge("engram_kv_blocks", "KV blocks by state: used, cached, free.", &["model", "state"])?,
            kv_bytes: build.gauge("engram_kv_bytes", "Size of the KV cache.", model)?,
            healthy_age,
            step_seconds: build.histogram("engram_step_seconds", "Time of a step.", "model", &FAST)?,
            first_token_seconds: build.histogram(
                "engram_time_to_first_token_seconds",
                "From submit to the first token.",
                "model",
                &SLOW,
            )?,
            inter_token_seconds: build.histogram(
                "engram_inter_token_seconds",
                "Between two tokens of a sequence.",
                "model",
                &FAST,
            )?,
            queue_seconds: build.histogram("engram_queue_seconds", "From submit to the first admission.", "model", &SLOW)?,
            started,
        })
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build = Builder(&registry);
        let requests = build.counter(
            "engram_requests_total",
            "HTTP requests; outcome: complete, stream_failed, client_left.",
            &["route", "method", "status", "outcome"],
        )?;
        let refused = build.counter(
            "engram_refused_requests_total",
            "Requests refused for what their API key is or has used: invalid_api_key, insufficient_scope, \
             domain_not_allowed, rate_limited, tokens_limited, concurrency_limited.",
            &["reason"],
        )?;
        let request_seconds = build.histogram(
            "engram_request_seconds",
            "From the head of a request to the end of its answer.",
            "route",
            &SLOW,
        )?;
        let resident_bytes = IntGauge::new("process_resident_memory_bytes", "Resident memory of the process.")?;
        registry.register(Box::new(resident_bytes.clone()))?;
        let engine = EngineMetrics::new(&registry)?;
        let memory = MemoryMetrics::new(&registry)?;
        engine.started.set(crate::openai::response::unix_now() as f64);
        Ok(Self {
            requests,
            refused,
            request_seconds,
            engine,
            memory,
            resident_bytes,
            scrape: Mutex::new(()),
            registry,
        })
    }

    /// Counts an HTTP request.
    pub fn request_ended(&self, route: &str, method: &str, status: u16, outcome: &str, elapsed: Duration) {
        // A client may invent methods; the label may not grow with them.
        let method = match method {
            "GET" | "POST" | "OPTIONS" | "HEAD" | "PUT" | "DELETE" | "PATCH" => method,
            _ => "other",
        };
        let status = status.to_string();
        self.requests.with_label_values(&[route, method, status.as_str(), outcome]).inc();
        self.request_seconds.with_label_values(&[route]).observe(elapsed.as_secs_f64());
    }

    /// Counts a request that the doors refused, by the code of its error.
    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// What the memory counts.
    pub fn memory(&self) -> &MemoryMetrics {
        &self.memory
    }

    /// What an engine that runs `model` is to be given, so that its times land here.
    pub fn observer(&self, model: &str) -> Arc<dyn EngineObserver> {
        let of = |histogram: &HistogramVec| histogram.with_label_values(&[model]);
        Arc::new(Observer {
            step: of(&self.engine.step_seconds),
            first_token: of(&self.engine.first_token_seconds),
            inter_token: of(&self.engine.inter_token_seconds),
            queue: of(&self.engine.queue_seconds),
        })
    }

    /// The Prometheus text, with the engines' counters brought up to date.
    pub fn render(&self, engines: &[EngineReport]) -> prometheus::Result<String> {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        for report in engines {
            self.engine.update(report);
        }
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl EngineMetrics {
    fn update(&self, report: &EngineReport) {
        let model = report.model.as_str();
        let stats = &report.stats;
        for (counter, total) in [
            (&self.prompt_tokens, stats.prompt_tokens),
            (&self.cached_tokens, stats.cached_tokens),
            (&self.prefill_tokens, stats.prefill_tokens),
            (&self.generated_tokens, stats.generated_tokens),
            (&self.steps, stats.steps),
            (&self.preemptions, stats.preemptions),
            (&self.evicted_blocks, stats.evicted_blocks),
        ] {
            raise(counter, &[model], total);
        }
        let requests = &stats.requests;
        for (outcome, total) in [
            ("accepted", requests.accepted),
            ("refused", requests.refused),
            ("stopped", requests.stopped),
            ("length", requests.length),
            ("deadline", requests.deadline),
            ("expired_in_queue", requests.expired_in_queue),
            ("aborted", requests.aborted),
            ("failed", requests.failed),
        ] {
            raise(&self.requests, &[model, outcome], total);
        }
        let times = &stats.times;
        for (phase, time) in [
            ("schedule", times.schedule),
            ("forward", times.forward),
            ("sample", times.sample),
            ("deliver", times.deliver),
        ] {
            let counter = self.phase_seconds.with_label_values(&[model, phase]);
            counter.inc_by((time.as_secs_f64() - counter.get()).max(0.0));
        }
        let blocks = &stats.blocks;
        for (state, count) in [("used", blocks.used), ("cached", blocks.cached), ("free", blocks.free)] {
            self.kv_blocks.with_label_values(&[model, state]).set(count as i64);
        }
        self.kv_bytes.with_label_values(&[model]).set(report.capacity.kv_bytes as i64);
        // `queued` counts submissions that the engine's thread has not looked at yet too.
        self.waiting.with_label_values(&[model]).set(stats.queued.max(stats.waiting) as i64);
        self.running.with_label_values(&[model]).set(stats.running as i64);
        self.prefill_budget.with_label_values(&[model]).set(stats.prefill_budget as i64);
        let age = report.healthy_age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.healthy_age.with_label_values(&[model]).set(age);
    }
}

/// Brings a counter to the total that the engine counted.
fn raise(counter: &IntCounterVec, labels: &[&str], total: u64) {
    let counter = counter.with_label_values(labels);
    counter.inc_by(total.saturating_sub(counter.get()));
}

struct Observer {
    step: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    queue: Histogram,
}

impl EngineObserver for Observer {
    fn on_step(&self, report: &StepReport) {
        self.step.observe(report.times.total().as_secs_f64());
    }

    fn on_first_token(&self, since_submit: Duration) {
        self.first_token.observe(since_submit.as_secs_f64());
    }

    fn on_token(&self, since_previous: Duration) {
        self.inter_token.observe(since_previous.as_secs_f64());
    }

    fn on_finish(&self, _outcome: Outcome, _usage: &Usage, timing: &Timing) {
        self.queue.observe(timing.queued.as_secs_f64());
    }
}

/// Resident memory by the kernel's own count; `None` where there is no `/proc`.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engram_inference::Geometry;

    fn report(generated_tokens: u64) -> EngineReport {
        EngineReport {
            model: "m".into(),
            stats: EngineStats { generated_tokens, running: 3, prefill_budget: 48, ..EngineStats::default() },
            capacity: Capacity {
                geometry: Geometry { layers: 1, kv_heads: 1, head_dim: 8, vocab_size: 10, max_len: 16 },
                max_len: 16,
                num_blocks: 4,
                kv_tokens: 64,
                kv_bytes: 4096,
            },
            healthy_age: None,
        }
    }

    #[test]
    fn counters_follow_the_engine_and_never_fall() {
        let metrics = Metrics::new().expect("names are distinct");
        let line = |text: &str, start: &str| {
            text.lines().find(|line| line.starts_with(start)).map(str::to_owned).unwrap_or_default()
        };
        let text = metrics.render(&[report(5)]).expect("text");
        assert_eq!(line(&text, "engram_generated_tokens_total{"), "engram_generated_tokens_total{model=\"m\"} 5");
        let text = metrics.render(&[report(12)]).expect("text");
        assert_eq!(line(&text, "engram_generated_tokens_total{"), "engram_generated_tokens_total{model=\"m\"} 12");
        assert_eq!(line(&text, "engram_sequences_running{"), "engram_sequences_running{model=\"m\"} 3");
        assert_eq!(line(&text, "engram_prefill_budget_tokens{"), "engram_prefill_budget_tokens{model=\"m\"} 48");
        assert!(!line(&text, "process_resident_memory_bytes ").is_empty());
    }

    #[test]
    fn observations_land_in_their_histograms() {
        let metrics = Metrics::new().expect("names are distinct");
        let observer = metrics.observer("m");
        observer.on_first_token(Duration::from_millis(30));
        observer.on_token(Duration::from_millis(12));
        observer.on_step(&StepReport::default());
        metrics.request_ended("/v1/models", "BREW", 200, "complete", Duration::from_millis(1));
        let text = metrics.render(&[]).expect("text");
        for line in [
            "engram_time_to_first_token_seconds_count{model=\"m\"} 1",
            "engram_inter_token_seconds_bucket{model=\"m\",le=\"0.02\"} 1",
            "engram_step_seconds_count{model=\"m\"} 1",
            "engram_requests_total{method=\"other\",outcome=\"complete\",route=\"/v1/models\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
