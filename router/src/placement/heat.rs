//! How much of the traffic begins alike.

use std::time::{Duration, Instant};

/// Requests a head, as counts that halve in each `half_life`.
///
/// Heads share a fixed number of counters, so that their number is no matter of memory; two that share one look as hot as both
/// together, and are spread a little wider than they need.
#[derive(Debug)]
pub struct Heat {
    counts: Box<[f32]>,
    total: f32,
    half_life: Duration,
    halved: Option<Instant>,
}

impl Heat {
    const COUNTERS: usize = 4096;

    /// Nothing was seen yet.
    pub fn new(half_life: Duration) -> Self {
        Self { counts: vec![0.0; Self::COUNTERS].into(), total: 0.0, half_life, halved: None }
    }

    /// Counts a request.
    pub fn add(&mut self, head: u64, now: Instant) {
        self.cool(now);
        self.counts[Self::counter(head)] += 1.0;
        self.total += 1.0;
    }

    /// The head's share of all requests, 0 to 1. While fewer than `prior` were seen, nothing is hot.
    pub fn share(&self, head: u64, prior: f32) -> f64 {
        f64::from(self.counts[Self::counter(head)] / (self.total + prior).max(1.0))
    }

    fn counter(head: u64) -> usize {
        head as usize % Self::COUNTERS
    }

    fn cool(&mut self, now: Instant) {
        let halved = *self.halved.get_or_insert(now);
        let passed = now.saturating_duration_since(halved).as_secs_f64() / self.half_life.as_secs_f64().max(1e-3);
        // In whole steps of a quarter: a pass over the counters now and then, not with each request.
        let quarters = (passed * 4.0).floor();
        if quarters < 1.0 {
            return;
        }
        let kept = 0.5f32.powf(quarters as f32 / 4.0);
        self.counts.iter_mut().for_each(|count| *count *= kept);
        self.total *= kept;
        self.halved = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_traffic_and_fade() {
        let start = Instant::now();
        let mut heat = Heat::new(Duration::from_secs(60));
        heat.add(1, start);
        assert!(heat.share(1, 256.0) < 0.01, "one request says nothing yet");
        for step in 0..1000u64 {
            heat.add(if step % 5 < 2 { 1 } else { 100 + step }, start);
        }
        assert!((heat.share(1, 0.0) - 0.4).abs() < 0.01, "{}", heat.share(1, 0.0));
        let later = start + Duration::from_secs(120);
        (0..250).for_each(|step| heat.add(5000 + step, later));
        assert!((heat.share(1, 0.0) - 0.2).abs() < 0.01, "{}", heat.share(1, 0.0));
    }
}
