//! A node that fails, or is far slower than its peers, is left alone for a while and comes back slowly.

use std::time::{Duration, Instant};

/// When a node is left alone, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Failures in a row.
    pub failures: u32,
    /// Share of failures among the last requests, 0 to 1, about one part in ten weighing each new one.
    pub failure_share: f64,
    /// Times to the first token this many times those of the median peer.
    pub slowness: f64,
    /// Answers before shares and times say anything.
    pub least_answers: u32,
    /// Most nodes ejected at once, as a share of all; one may always be.
    pub most_ejected: f64,
    /// How long the first time; it doubles each further time, until the node has stayed as long as it was away.
    pub ejection: Duration,
    /// The longest time.
    pub longest_ejection: Duration,
    /// How long a new or returned node takes to its full share.
    pub slow_start: Duration,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            failure_share: 0.5,
            slowness: 6.0,
            least_answers: 20,
            most_ejected: 0.34,
            ejection: Duration::from_secs(10),
            longest_ejection: Duration::from_secs(300),
            slow_start: Duration::from_secs(30),
        }
    }
}

/// The weight a cold node begins with.
const COLDEST: f64 = 0.1;
/// How much the newest answer counts in the share of failures.
const NEWEST: f64 = 0.1;
/// And in the mean time, which long prompts and queues move for a while without anything being wrong. At 0.1, and a slowness of 4,
/// busy nodes were ejected in the simulation, and the load that they left made others slow.
const NEWEST_TIME: f64 = 0.03;

/// What is known of one node.
#[derive(Debug, Clone, Default)]
pub struct Record {
    failed_in_a_row: u32,
    failure_share: f64,
    /// Mean of the logarithm of seconds to the first token: long prompts differ from short ones by factors.
    log_latency: f64,
    answers: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    last_ejection: Duration,
    /// The health check says it is gone.
    down: bool,
    /// Since when it takes part; `None`: it was there from the start and is warm.
    since: Option<Instant>,
}

/// What a node is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// Its full share.
    Warm,
    /// This part of it, below 1.
    Warming(f64),
    /// Nothing for so long, for it was an outlier.
    Ejected(Duration),
    /// Nothing until its health check passes.
    Down,
}

impl Standing {
    /// The part of a full share, 0 to 1.
    pub fn weight(self) -> f64 {
        match self {
            Self::Warm => 1.0,
            Self::Warming(part) => part,
            Self::Ejected(_) | Self::Down => 0.0,
        }
    }

    /// In one word, for people and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Warming(_) => "warming",
            Self::Ejected(_) => "ejected",
            Self::Down => "down",
        }
    }
}

impl Record {
    /// A node that comes now, with nothing in its caches.
    pub fn cold(now: Instant) -> Self {
        Self { since: Some(now), ..Self::default() }
    }

    /// What the node is given now.
    pub fn standing(&self, settings: &OutlierSettings, now: Instant) -> Standing {
        if self.down {
            return Standing::Down;
        }
        let returned = match self.ejected_until {
            Some(until) if until > now => return Standing::Ejected(until - now),
            returned => returned,
        };
        let Some(since) = self.since.max(returned) else {
            return Standing::Warm;
        };
        let part = now.saturating_duration_since(since).as_secs_f64() / settings.slow_start.as_secs_f64().max(1e-3);
        if part >= 1.0 { Standing::Warm } else { Standing::Warming(COLDEST + (1.0 - COLDEST) * part) }
    }

    /// Typical seconds to the first token; `None` before enough answers.
    pub fn latency(&self, settings: &OutlierSettings) -> Option<f64> {
        (self.answers >= settings.least_answers).then(|| self.log_latency.exp())
    }

    /// An answer began after this long. Answers of a cold node say nothing of its speed: it computes what others have cached.
    pub fn answered(&mut self, first_token: Duration, standing: Standing) {
        self.failed_in_a_row = 0;
        self.failure_share -= self.failure_share * NEWEST;
        if standing != Standing::Warm {
            return;
        }
        let log = first_token.as_secs_f64().max(1e-6).ln();
        self.log_latency =
            if self.answers == 0 { log } else { self.log_latency + (log - self.log_latency) * NEWEST_TIME };
        self.answers = self.answers.saturating_add(1);
    }

    /// A request failed by the node's fault.
    pub fn failed(&mut self) {
        self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
        self.failure_share += (1.0 - self.failure_share) * NEWEST;
        self.answers = self.answers.saturating_add(1);
    }

    /// Whether it should go, with `peers` the median latency of the others.
    pub fn is_outlier(&self, settings: &OutlierSettings, peers: Option<f64>) -> bool {
        let known = self.answers >= settings.least_answers;
        let slow = || match (self.latency(settings), peers) {
            (Some(latency), Some(median)) => latency > median * settings.slowness,
            _ => false,
        };
        self.failed_in_a_row >= settings.failures || known && self.failure_share >= settings.failure_share || slow()
    }

    /// Leaves it alone for a while.
    pub fn eject(&mut self, settings: &OutlierSettings, now: Instant) {
        let stayed =
            self.since.max(self.ejected_until).map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if stayed >= self.last_ejection {
            self.ejections = 0;
        }
        let time = settings.ejection.saturating_mul(1 << self.ejections.min(16)).min(settings.longest_ejection);
        *self = Self {
            ejections: self.ejections + 1,
            ejected_until: Some(now + time),
            last_ejection: time,
            down: self.down,
            since: self.since,
            ..Self::default()
        };
    }

    /// What the health check found. A node that was down comes back cold.
    pub fn checked(&mut self, healthy: bool, now: Instant) {
        if healthy && self.down {
            *self = Self::cold(now);
        }
        self.down = !healthy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> OutlierSettings {
        OutlierSettings { slow_start: 10 * SECOND, ..OutlierSettings::default() }
    }

    #[test]
    fn a_node_fails_out_and_returns_slowly() {
        let (settings, start) = (settings(), Instant::now());
        let mut record = Record::default();
        assert_eq!(record.standing(&settings, start), Standing::Warm);
        (0..4).for_each(|_| record.failed());
        assert!(!record.is_outlier(&settings, None));
        record.failed();
        assert!(record.is_outlier(&settings, None));
        record.eject(&settings, start);
        assert_eq!(record.standing(&settings, start + 4 * SECOND), Standing::Ejected(6 * SECOND));
        assert_eq!(record.standing(&settings, start + 10 * SECOND), Standing::Warming(COLDEST));
        let Standing::Warming(half) = record.standing(&settings, start + 15 * SECOND) else { panic!("half way") };
        assert!((half - 0.55).abs() < 1e-9, "{half}");
        assert_eq!(record.standing(&settings, start + 20 * SECOND), Standing::Warm);
    }

    #[test]
    fn ejections_double_until_it_has_stayed_as_long() {
        let (settings, mut now) = (settings(), Instant::now());
        let mut record = Record::default();
        let mut times = Vec::new();
        for stayed in [0, 1, 1, 1, 1, 1, 1, 400] {
            now += stayed * SECOND;
            record.eject(&settings, now);
            let Standing::Ejected(time) = record.standing(&settings, now) else { panic!("ejected") };
            times.push(time.as_secs());
            now += time;
        }
        assert_eq!(times, [10, 20, 40, 80, 160, 300, 300, 10]);
    }

    #[test]
    fn failures_in_between_count_as_a_share() {
        let settings = settings();
        let mut record = Record::default();
        for step in 0..60 {
            if step % 4 == 0 { record.answered(SECOND, Standing::Warm) } else { record.failed() }
        }
        assert!(record.is_outlier(&settings, None), "three of four fail, never five in a row");
        let mut record = Record::default();
        for step in 0..60 {
            if step % 4 == 0 { record.failed() } else { record.answered(SECOND, Standing::Warm) }
        }
        assert!(!record.is_outlier(&settings, None), "one of four fails");
    }

    #[test]
    fn slowness_is_told_by_the_peers_and_not_of_cold_nodes() {
        let settings = settings();
        let mut record = Record::default();
        (0..19).for_each(|_| record.answered(SECOND, Standing::Warm));
        assert_eq!(record.latency(&settings), None);
        record.answered(SECOND, Standing::Warm);
        assert!(record.is_outlier(&settings, Some(0.16)) && !record.is_outlier(&settings, Some(0.17)));
        assert!(!record.is_outlier(&settings, None));
        let mut cold = Record::cold(Instant::now());
        (0..50).for_each(|_| cold.answered(SECOND, Standing::Warming(0.5)));
        assert!(!cold.is_outlier(&settings, Some(0.01)));
    }

    #[test]
    fn a_node_that_was_down_is_cold() {
        let (settings, start) = (settings(), Instant::now());
        let mut record = Record::default();
        record.checked(true, start);
        assert_eq!(record.standing(&settings, start), Standing::Warm);
        record.checked(false, start);
        assert_eq!(record.standing(&settings, start + SECOND), Standing::Down);
        record.checked(true, start + SECOND);
        assert_eq!(record.standing(&settings, start + SECOND), Standing::Warming(COLDEST));
    }
}
