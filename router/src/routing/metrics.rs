//! What the router counts.

use std::time::Instant;

use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::breaker::BreakerState;
use crate::money::Usd;
use crate::placement::Placement;
use crate::prices::TokenCount;

use super::Table;

/// The router's metrics. Cheap to clone.
#[derive(Clone)]
pub struct RoutingMetrics {
    decisions: IntCounterVec,
    failures: IntCounterVec,
    tokens: IntCounterVec,
    dollars: CounterVec,
    cache: IntCounterVec,
    breaker: IntGaugeVec,
    in_flight: IntGaugeVec,
    up: IntGaugeVec,
    share: GaugeVec,
}

impl RoutingMetrics {
    /// Registers them; names are distinct, so this fails only by a mistake here.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let dollars = CounterVec::new(
            Opts::new("llm_token_cost_dollars", "US dollars that answers cost, by the configured prices."),
            &["backend", "model"],
        )?;
        registry.register(Box::new(dollars.clone()))?;
        let share = GaugeVec::new(
            Opts::new(
                "engram_peer_share",
                "Part of a full share that a peer is given, 0 to 1; it grows after a return.",
            ),
            &["backend"],
        )?;
        registry.register(Box::new(share.clone()))?;
        Ok(Self {
            decisions: counter(
                "model_routing_decisions",
                "Requests by the rule of their plan and who served them.",
                &["rule", "backend", "model"],
            )?,
            failures: counter(
                "engram_backend_failures_total",
                "Calls to remote backends that gave no answer, by kind.",
                &["backend", "kind"],
            )?,
            tokens: counter(
                "engram_backend_tokens_total",
                "Tokens of answers, by direction: prompt, cached (of the prompt), completion.",
                &["backend", "model", "direction"],
            )?,
            dollars,
            cache: counter(
                "engram_response_cache_total",
                "Requests by the response cache's part in them.",
                &["status"],
            )?,
            breaker: gauge("engram_breaker_state", "0 closed, 1 half-open, 2 open.", &["backend"])?,
            in_flight: gauge("engram_backend_in_flight", "Calls in flight.", &["backend"])?,
            up: gauge("engram_backend_up", "1 if the last health checks reached it.", &["backend"])?,
            share,
        })
    }

    /// A request is served.
    pub fn decided(&self, rule: &str, backend: &str, model: &str) {
        self.decisions.with_label_values(&[rule, backend, model]).inc();
    }

    /// A call failed.
    pub fn failed(&self, backend: &str, kind: &str) {
        self.failures.with_label_values(&[backend, kind]).inc();
    }

    /// An answer has ended.
    pub fn answered(&self, backend: &str, model: &str, usage: &TokenCount, cost: Usd) {
        for (direction, tokens) in
            [("prompt", usage.prompt), ("cached", usage.cached), ("completion", usage.completion)]
        {
            self.tokens.with_label_values(&[backend, model, direction]).inc_by(tokens);
        }
        self.dollars.with_label_values(&[backend, model]).inc_by(cost.as_dollars());
    }

    /// The cache's part in a request.
    pub fn cached(&self, status: &str) {
        self.cache.with_label_values(&[status]).inc();
    }

    /// Brings the gauges up to now.
    pub fn measure(&self, table: &Table, placement: &Placement) {
        let now = Instant::now();
        for (name, backend) in &table.backends {
            let state = match backend.breaker().state(now) {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            };
            self.breaker.with_label_values(&[name]).set(state);
            self.in_flight.with_label_values(&[name]).set(backend.bulkhead().in_flight() as i64);
            self.up.with_label_values(&[name]).set(i64::from(backend.is_up()));
        }
        for node in placement.nodes(now) {
            self.share.with_label_values(&[&*node.name]).set(node.standing.weight());
        }
    }
}
