//! Two counts over the last while: all, and the marked ones among them.

use std::time::{Duration, Instant};

/// Parts of a window; what falls out of it does so a part at a time.
pub(crate) const PARTS: u64 = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Which part of time it counts, from the window's start.
    index: u64,
    all: u64,
    marked: u64,
}

/// Counts over the part of time that runs and the nine before it. Adding is O(1), summing is O(10), and nothing
/// is allocated.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    start: Instant,
    part: Duration,
    parts: [Part; PARTS as usize],
}

impl Window {
    /// An empty one over `length`, at least ten milliseconds.
    pub(crate) fn new(length: Duration, start: Instant) -> Self {
        let part = (length / PARTS as u32).max(Duration::from_millis(1));
        Self { start, part, parts: [Part::default(); PARTS as usize] }
    }

    /// Adds to both counts. A time that another thread has overtaken by a whole window counts nothing.
    pub(crate) fn add(&mut self, now: Instant, all: u64, marked: u64) {
        let index = self.index(now);
        let part = &mut self.parts[(index % PARTS) as usize];
        if part.index < index {
            *part = Part { index, all: 0, marked: 0 };
        }
        if part.index == index {
            part.all += all;
            part.marked += marked;
        }
    }

    /// All, and the marked ones.
    pub(crate) fn sums(&self, now: Instant) -> (u64, u64) {
        let index = self.index(now);
        let counted = self.parts.iter().filter(|part| part.index + PARTS > index);
        counted.fold((0, 0), |(all, marked), part| (all + part.all, marked + part.marked))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.parts = [Part::default(); PARTS as usize];
    }

    fn index(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_nanos() / self.part.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_part_of_time_at_once_falls_out() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(Duration::from_secs(1), start);
        window.add(at(0), 2, 1);
        window.add(at(950), 3, 0);
        assert_eq!(window.sums(at(999)), (5, 1));
        assert_eq!(window.sums(at(1000)), (3, 0));
        assert_eq!(window.sums(at(1899)), (3, 0));
        assert_eq!(window.sums(at(1900)), (0, 0));
        window.add(at(5000), 1, 1);
        window.add(at(3000), 9, 9); // its place is another's by now
        assert_eq!(window.sums(at(5000)), (1, 1));
        window.clear();
        assert_eq!(window.sums(at(5000)), (0, 0));
    }

    proptest! {
        #[test]
        fn it_counts_as_a_list_of_all_events_would(steps in prop::collection::vec((0u64..400, 0u64..3, 0u64..2), 1..200)) {
            let start = Instant::now();
            let mut window = Window::new(Duration::from_secs(1), start);
            let (mut ms, mut events) = (0, Vec::new());
            for (step, all, marked) in steps {
                ms += step;
                let now = start + Duration::from_millis(ms);
                window.add(now, all, marked);
                events.push((ms / 100, all, marked));
                let counted = events.iter().filter(|event| event.0 + PARTS > ms / 100);
                let expected = counted.fold((0, 0), |sum, event| (sum.0 + event.1, sum.1 + event.2));
                prop_assert_eq!(window.sums(now), expected);
            }
        }
    }
}
