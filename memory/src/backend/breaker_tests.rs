use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// A breaker whose time stands still until it is moved.
fn breaker(failures: u32, cooldown_ms: u64) -> (Arc<Breaker>, Arc<AtomicU64>) {
    let (begun, passed) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let hand = Arc::clone(&passed);
    let clock = move || begun + Duration::from_millis(hand.load(Ordering::SeqCst));
    let config = BreakerConfig { failures, cooldown: Duration::from_millis(cooldown_ms) };
    (Arc::new(Breaker::with_clock("postgres", config, clock)), passed)
}

fn down<T>() -> Result<T> {
    Err(MemoryError::Backend { backend: "postgres", message: "refused".into(), retryable: true })
}

#[test]
fn opens_probes_and_closes() {
    let (breaker, time) = breaker(3, 1000);
    for _ in 0..3 {
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.call(down::<()>).unwrap_err();
    }
    let refused = breaker.call(|| -> Result<()> { panic!("called while open") }).unwrap_err();
    assert_eq!(refused.to_string(), "postgres failed 3 times in a row, next try in 1000 ms");

    time.store(1000, Ordering::SeqCst);
    breaker
        .call(|| {
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            let second = breaker.call(|| Ok(())).unwrap_err();
            assert!(matches!(second, MemoryError::BreakerOpen { .. }), "one probe at a time: {second}");
            down::<()>()
        })
        .unwrap_err();
    assert_eq!(breaker.state(), BreakerState::Open, "the probe failed");

    time.store(2000, Ordering::SeqCst);
    breaker.call(|| Ok(())).unwrap();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn an_answer_is_no_failure() {
    let (breaker, _) = breaker(1, 1000);
    let answers = [
        MemoryError::Closed,
        MemoryError::Backend { backend: "postgres", message: "no such column".into(), retryable: false },
    ];
    for answer in answers {
        breaker.call(|| -> Result<()> { Err(answer) }).unwrap_err();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}

#[test]
fn a_probe_that_unwinds_has_failed() {
    let (breaker, time) = breaker(1, 10);
    breaker.call(down::<()>).unwrap_err();
    time.store(10, Ordering::SeqCst);
    let probe = Arc::clone(&breaker);
    std::thread::spawn(move || probe.call(|| -> Result<()> { panic!("the driver has a bug") })).join().unwrap_err();
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn a_late_call_does_not_close_it() {
    let (breaker, _) = breaker(1, 1000);
    breaker
        .call(|| {
            breaker.call(down::<()>).unwrap_err();
            Ok(())
        })
        .unwrap();
    assert_eq!(breaker.state(), BreakerState::Open);
}

proptest! {
    /// Against the definition in words: open exactly when the last `limit` answers were failures and less
    /// than the cooldown has passed since.
    #[test]
    fn follows_its_definition(limit in 1..5_u32, steps in prop::collection::vec((any::<bool>(), 0..40_u64), 1..80)) {
        let (breaker, time) = breaker(limit, 50);
        let (mut now, mut row, mut opened) = (0, 0, None::<u64>);
        for (fails, passed) in steps {
            now += passed;
            time.store(now, Ordering::SeqCst);
            let mut called = false;
            let _ = breaker.call(|| { called = true; if fails { down() } else { Ok(()) } });
            let shut = opened.is_some_and(|since| now < since + 50);
            prop_assert_eq!(called, !shut);
            if called {
                row = if fails { row + 1 } else { 0 };
                opened = (row >= limit).then_some(now);
            }
        }
    }
}
