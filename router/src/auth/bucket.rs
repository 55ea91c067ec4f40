//! A token bucket: so much a minute, all of it at once if it was not used before.
//!
//! It counts in whole numbers (billionths of a minute's sixtieth), so nothing is lost or won by rounding: a burst at
//! the limit passes exactly the limit, however many ask at once, and in any minute after it exactly the limit again.

use std::time::{Duration, Instant};

/// Nanoseconds of a minute: the parts that one token is counted in.
const MINUTE: u128 = 60_000_000_000;

/// How much of a minute's limit is used. The caller says what time it is, and keeps others out meanwhile.
#[derive(Debug, Clone)]
pub struct Bucket {
    limit: u64,
    /// Parts that were taken and have not flowed back. It may exceed the limit: then there is a debt to wait for.
    used: u128,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(limit: u64, now: Instant) -> Self {
        Self { limit, used: 0, at: now }
    }

    /// Tokens a minute.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Another limit; what is used stays used.
    pub fn set_limit(&mut self, limit: u64, now: Instant) {
        self.flow(now);
        self.limit = limit;
    }

    /// Takes `count`, all or nothing; if they are not there, how long until they are.
    ///
    /// More than the whole limit is never there: of that, a full bucket gives all, and the rest is owed.
    pub fn take(&mut self, count: u64, now: Instant) -> Result<(), Duration> {
        self.flow(now);
        let wanted = u128::from(count.min(self.limit)) * MINUTE;
        let missing = (self.used + wanted).saturating_sub(self.room());
        if missing > 0 {
            return Err(self.time_for(missing));
        }
        self.used += u128::from(count) * MINUTE;
        Ok(())
    }

    /// Puts right what was taken on an estimate: `taken` were, `actual` it should have been.
    pub fn settle(&mut self, taken: u64, actual: u64, now: Instant) {
        self.flow(now);
        let more = u128::from(actual.saturating_sub(taken)) * MINUTE;
        let less = u128::from(taken.saturating_sub(actual)) * MINUTE;
        self.used = (self.used + more).saturating_sub(less);
    }

    /// Whole tokens that are there.
    pub fn remaining(&mut self, now: Instant) -> u64 {
        self.flow(now);
        u64::try_from(self.room().saturating_sub(self.used) / MINUTE).unwrap_or(u64::MAX)
    }

    /// How long until it is full again.
    pub fn full_in(&mut self, now: Instant) -> Duration {
        self.flow(now);
        self.time_for(self.used)
    }

    /// What has flowed back since it was last looked at. A clock read before another caller's changes nothing.
    fn flow(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        self.used = self.used.saturating_sub(elapsed.saturating_mul(u128::from(self.limit)));
    }

    fn room(&self) -> u128 {
        u128::from(self.limit) * MINUTE
    }

    /// A token flows back each `MINUTE / limit` nanoseconds, so a part each `1 / limit`; rounded up, for a client
    /// that waits exactly so long must not be a nanosecond early.
    fn time_for(&self, parts: u128) -> Duration {
        let nanos = parts.div_ceil(u128::from(self.limit).max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_exactly_the_limit() {
        // Limits that divide a minute, that do not, and that are finer than its nanoseconds.
        for limit in [1, 7, 60, 61, 1_000, 999_983] {
            let start = Instant::now();
            let mut bucket = Bucket::new(limit, start);
            let mut at = |now: Instant| (0..limit + 5).filter(|_| bucket.take(1, now).is_ok()).count() as u64;
            assert_eq!(at(start), limit);
            assert_eq!(at(start), 0);
            assert_eq!(at(start + 60 * SECOND), limit);
            assert_eq!(at(start + 90 * SECOND), limit / 2, "half a minute gives half of {limit}, rounded down");
            assert_eq!(at(start + 1000 * SECOND), limit, "no more is saved up than one minute's");
        }
    }

    #[test]
    fn who_waits_as_long_as_told_gets_in_and_no_sooner() {
        for (limit, count) in [(7, 1), (60, 13), (999_983, 4_001), (u64::MAX, u64::MAX)] {
            let start = Instant::now();
            let mut bucket = Bucket::new(limit, start);
            bucket.take(limit, start).expect("it was full");
            let wait = bucket.take(count, start).expect_err("it is empty");
            let early = wait.saturating_sub(Duration::from_nanos(1));
            assert!(bucket.take(count, start + early).is_err(), "{limit} {count} {wait:?}");
            assert!(bucket.take(count, start + wait).is_ok(), "{limit} {count} {wait:?}");
        }
    }

    #[test]
    fn in_the_long_run_it_passes_the_limit_whatever_the_rhythm() {
        let start = Instant::now();
        for (limit, step) in [(61, 7), (600, 11), (100_000, 3)] {
            let mut bucket = Bucket::new(limit, start);
            let mut passed = 0;
            // An hour, asked at odd moments for odd amounts.
            let mut now = start;
            while now < start + 3600 * SECOND {
                now += Duration::from_micros(step * 33_331);
                passed += if bucket.take(step, now).is_ok() { step } else { 0 };
            }
            let most = limit * 61;
            assert!(passed <= most, "{passed} of {most}");
        }
    }

    #[test]
    fn estimates_are_put_right_and_debts_are_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        bucket.take(50, start).expect("full");
        bucket.settle(50, 10, start);
        assert_eq!((bucket.remaining(start), bucket.full_in(start)), (50, 10 * SECOND));
        bucket.settle(10, 90, start);
        assert_eq!(bucket.remaining(start), 0);
        assert_eq!(bucket.take(1, start), Err(31 * SECOND), "30 are owed");
        // More than a minute's limit passes when all is there, and is owed.
        let mut bucket = Bucket::new(60, start);
        bucket.take(100, start).expect("full");
        assert_eq!(bucket.take(1, start), Err(41 * SECOND));
        assert_eq!(bucket.take(100, start), Err(100 * SECOND));
    }

    #[test]
    fn a_new_limit_forgets_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        bucket.take(60, start).expect("full");
        bucket.set_limit(120, start);
        assert_eq!((bucket.limit(), bucket.remaining(start)), (120, 60));
        bucket.set_limit(30, start);
        assert_eq!(bucket.take(1, start), Err(62 * SECOND));
    }

    #[test]
    fn time_that_runs_backwards_gives_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start + SECOND);
        bucket.take(60, start + SECOND).expect("full");
        assert!(bucket.take(1, start).is_err());
        assert!(bucket.take(1, start + SECOND).is_err());
        assert!(bucket.take(1, start + 2 * SECOND).is_ok());
    }
}
