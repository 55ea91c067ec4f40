//! The memory's metrics, under the names that dashboards of such stores know.

use std::time::Duration;

use engram_memory::backend::BackendStats;
use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Tenths of a millisecond to seconds.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// What the memory counts and measures.
pub struct MemoryMetrics {
    operations: IntCounterVec,
    latency: HistogramVec,
    pool_usage: IntGaugeVec,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
    cache_hit_rate: GaugeVec,
    records: IntGaugeVec,
    vectors: IntGauge,
    index_bytes: IntGauge,
    disk_bytes: IntGauge,
    tombstones: IntGauge,
    self_check: Gauge,
    queue: IntGaugeVec,
}

impl MemoryMetrics {
    /// All of them at zero, in `registry`.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let options = HistogramOpts::new("memory_operation_latency_seconds", "Time of an operation, waiting included.")
            .buckets(BUCKETS.to_vec());
        let latency = HistogramVec::new(options, &["operation"])?;
        registry.register(Box::new(latency.clone()))?;
        let cache_hit_rate =
            GaugeVec::new(Opts::new("cache_hit_rate", "Hits of all lookups since the start, 0 to 1."), &["cache"])?;
        registry.register(Box::new(cache_hit_rate.clone()))?;
        let self_check = Gauge::new(
            "memory_recall_self_check",
            "Share of true nearest neighbours that the index found in the last background sample; NaN before the first.",
        )?;
        self_check.set(f64::NAN);
        registry.register(Box::new(self_check.clone()))?;
        Ok(Self {
            operations: counter(
                "memory_operations_total",
                "Operations of the memory; kind: of the records, `any` where several or none are named; \
                 status: ok, refused, unavailable, failed.",
                &["operation", "kind", "status"],
            )?,
            latency,
            pool_usage: gauges(
                "connection_pool_usage",
                "Connections to a shared engine; state: in_use, limit.",
                &["backend", "state"],
            )?,
            cache_hits: counter("cache_hits_total", "Lookups that a cache answered.", &["cache"])?,
            cache_misses: counter("cache_misses_total", "Lookups that it did not.", &["cache"])?,
            cache_hit_rate,
            records: gauges("memory_records", "Live records.", &["kind"])?,
            vectors: gauge("memory_index_vectors", "Vectors in the index.")?,
            index_bytes: gauge("memory_index_bytes", "Index and vectors in memory.")?,
            disk_bytes: gauge("memory_disk_bytes", "The memory on disk.")?,
            tombstones: gauge("memory_tombstones", "Deleted vectors that are not compacted away yet.")?,
            self_check,
            queue: gauges("memory_queue", "Operations by state: running, waiting.", &["state"])?,
        })
    }

    /// Counts an operation.
    pub fn operation(&self, operation: &str, kind: &str, status: &str, elapsed: Duration) {
        self.operations.with_label_values(&[operation, kind, status]).inc();
        self.latency.with_label_values(&[operation]).observe(elapsed.as_secs_f64());
    }

    /// Counts a lookup in a cache.
    pub fn cache(&self, cache: &str, hit: bool) {
        let (hits, misses) =
            (self.cache_hits.with_label_values(&[cache]), self.cache_misses.with_label_values(&[cache]));
        if hit {
            hits.inc()
        } else {
            misses.inc()
        }
        let all = hits.get() + misses.get();
        self.cache_hit_rate.with_label_values(&[cache]).set(hits.get() as f64 / all.max(1) as f64);
    }

    /// What a background sample measured.
    pub fn self_checked(&self, recall: f64) {
        self.self_check.set(recall);
    }

    /// Sizes, as told at a scrape.
    pub fn sizes(&self, backend: &str, stats: &BackendStats) {
        for kind in engram_memory::Kind::ALL {
            let count = stats.records.get(kind.as_str()).copied().unwrap_or(0);
            self.records.with_label_values(&[kind.as_str()]).set(signed(count));
        }
        self.vectors.set(signed(stats.vectors));
        self.index_bytes.set(signed(stats.index_bytes));
        self.disk_bytes.set(signed(stats.disk_bytes));
        self.tombstones.set(signed(stats.tombstones));
        if let Some((in_use, limit)) = stats.pool {
            self.pool_usage.with_label_values(&[backend, "in_use"]).set(i64::from(in_use));
            self.pool_usage.with_label_values(&[backend, "limit"]).set(i64::from(limit));
        }
    }

    /// The pool's load, as told at a scrape.
    pub fn queue(&self, running: usize, waiting: usize) {
        self.queue.with_label_values(&["running"]).set(signed(running as u64));
        self.queue.with_label_values(&["waiting"]).set(signed(waiting as u64));
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
