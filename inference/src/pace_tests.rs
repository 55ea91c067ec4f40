use proptest::prelude::*;

use super::*;

/// A machine whose steps take so many microseconds: fixed, a decode, a prompt token, a pair.
#[derive(Debug, Clone, Copy)]
struct Machine([f64; 4]);

/// Two slow cores; a small GPU; a big model on a slow machine.
const MACHINES: [Machine; 3] = [
    Machine([22_000.0, 3_500.0, 3_600.0, 0.9]),
    Machine([6_000.0, 60.0, 20.0, 0.002]),
    Machine([330_000.0, 45_000.0, 47_000.0, 10.0]),
];

impl Machine {
    fn time(&self, work: &StepWork) -> Duration {
        Duration::from_secs_f64(dot(&self.0, &work.terms()) * 1e-6)
    }
}

fn work(decodes: usize, context: usize, start: usize, prefill: usize) -> StepWork {
    let mut work = StepWork::default();
    (0..decodes).for_each(|_| work.add_decode(context));
    work.add_prefill(start, prefill);
    work
}

/// What a step beside `decodes` reads of a prompt at `start`, and how long that step takes.
fn step(pace: &mut Pace, machine: &Machine, decodes: usize, start: usize) -> (usize, Duration) {
    let without = work(decodes, 200, 0, 0);
    let prefill = pace.beside(&without).fits(start).min(512 - decodes);
    let all = work(decodes, 200, start, prefill);
    let time = machine.time(&all);
    pace.observe(&all, time);
    (prefill, time)
}

fn steps(count: usize, pace: &mut Pace, machine: &Machine, decodes: usize) {
    for _ in 0..count {
        step(pace, machine, decodes, 0);
    }
}

#[test]
fn the_bound_is_kept_from_soon_on_and_used() {
    let bound = Duration::from_millis(500);
    for machine in &MACHINES[..2] {
        let mut pace = Pace::new(Some(bound));
        pace.observe(&work(1, 1, 0, 0), machine.time(&work(1, 1, 0, 0)) * 3); // cold
        let mut start = 0;
        for round in 0..200 {
            let (prefill, time) = step(&mut pace, machine, 4, start);
            // From 8000 tokens deep back to a fresh prompt, one step may be off: growing depth looks like load.
            assert!(time <= bound.mul_f64(1.3), "{machine:?}, step {round}: {time:?} for {prefill} tokens");
            start = (start + prefill) % 8000;
            if round >= 40 {
                assert!(prefill >= 508 || time >= bound.mul_f64(0.6), "{machine:?}: {time:?} of {bound:?} used");
            }
        }
    }
}

#[test]
fn where_decodes_alone_break_the_bound_prefill_goes_on() {
    let machine = MACHINES[2];
    let mut pace = Pace::new(Some(Duration::from_millis(100)));
    for _ in 0..100 {
        let alone = machine.time(&work(8, 200, 0, 0));
        let (prefill, time) = step(&mut pace, &machine, 8, 0);
        let extra = time - alone;
        assert!(prefill >= GROUP && (prefill == GROUP || extra <= alone / 2), "{prefill} tokens, {extra:?}");
    }
}

#[test]
fn a_machine_that_stood_still_is_forgotten_in_a_few_steps() {
    let machine = MACHINES[0];
    let mut pace = Pace::new(Some(Duration::from_millis(400)));
    steps(100, &mut pace, &machine, 2);
    let usual = step(&mut pace, &machine, 2, 0).0;
    pace.observe(&work(2, 200, 0, usual), Duration::from_secs(60));
    let after = step(&mut pace, &machine, 2, 0).0;
    assert!(after < usual && after * 2 >= usual, "{usual}, then {after}");
    steps(15, &mut pace, &machine, 2);
    assert_eq!(step(&mut pace, &machine, 2, 0).0, usual);
}

#[test]
fn a_deep_prompt_gets_less() {
    let machine = MACHINES[0];
    let mut pace = Pace::new(Some(Duration::from_millis(400)));
    // Whole prompts, read in big chunks, teach both rates.
    for round in 0..200 {
        let chunk = work(0, 0, round % 60 * 512, 512);
        pace.observe(&chunk, machine.time(&chunk));
    }
    let allowance = pace.beside(&work(1, 200, 0, 0));
    let (fresh, deep) = (allowance.fits(0), allowance.fits(20_000));
    assert!(deep * 3 <= fresh, "{deep} at 20,000, {fresh} at 0");
}

#[test]
fn before_anything_is_measured_the_least_is_read() {
    let pace = Pace::new(Some(Duration::from_millis(200)));
    assert_eq!(pace.estimate(&work(1, 1, 0, 0)), None);
    assert_eq!(pace.beside(&work(1, 1, 0, 0)).fits(0), GROUP);
    assert_eq!(pace.to_finish(0, 300).fits(0), usize::MAX);
}

#[test]
fn without_a_bound_there_is_none() {
    let mut pace = Pace::new(None);
    pace.observe(&work(1, 1, 0, 0), Duration::from_secs(1));
    let mut allowance = pace.beside(&work(4, 100, 0, 0));
    allowance.spend(0, 1000);
    assert_eq!(allowance.fits(1000), usize::MAX);
    assert_eq!(pace.to_finish(0, 300).fits(0), usize::MAX);
}

#[test]
fn a_prompt_that_ends_is_read_whole() {
    let machine = MACHINES[0];
    let mut pace = Pace::new(Some(Duration::from_millis(200)));
    steps(100, &mut pace, &machine, 1);
    let allowance = pace.to_finish(0, 300);
    let fits = allowance.fits(0);
    assert!((300..480).contains(&fits), "{fits} tokens beside a prompt of 300");
    assert!(pace.to_finish(0, 10).fits(0) < 64, "a short one leaves the rest of the bound");
}

proptest! {
    /// Whatever is measured, a step reads at least a group and rates stay finite and positive.
    #[test]
    fn no_measurement_stops_prefill(
        bound in 1u64..10_000,
        steps in prop::collection::vec((0usize..64, 0usize..512, 0usize..30_000, 0u64..100_000_000), 0..200),
    ) {
        let mut pace = Pace::new(Some(Duration::from_millis(bound)));
        for (decodes, prefill, start, micros) in steps {
            pace.observe(&work(decodes, 100, start, prefill), Duration::from_micros(micros));
            let mut allowance = pace.beside(&work(decodes, 100, 0, 0));
            let first = allowance.fits(start);
            prop_assert!(first >= GROUP && first.is_multiple_of(GROUP));
            allowance.spend(start, 5);
            let second = allowance.fits(start + 5);
            prop_assert!(second + 5 <= first && (second + 5).is_multiple_of(GROUP));
            prop_assert!(pace.rates.unwrap().iter().all(|rate| rate.is_finite() && *rate > 0.0));
        }
    }

    /// Steps that vary by a quarter either way: the bound is passed by little, and rarely.
    #[test]
    fn noise_is_borne(seed in any::<u64>(), machine in 0usize..2) {
        let machine = MACHINES[machine];
        let bound = Duration::from_millis(400);
        let mut pace = Pace::new(Some(bound));
        let mut state = seed;
        let (mut late, mut start) = (0, 0);
        for round in 0..300 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = 0.75 + (state >> 40) as f64 / (1u64 << 24) as f64 / 2.0;
            let prefill = pace.beside(&work(3, 200, 0, 0)).fits(start).min(509);
            let all = work(3, 200, start, prefill);
            let time = machine.time(&all).mul_f64(noise);
            pace.observe(&all, time);
            start = (start + prefill) % 4000;
            if round >= 40 {
                late += usize::from(time > bound);
                prop_assert!(time <= bound.mul_f64(1.6), "{time:?}");
            }
        }
        prop_assert!(late <= 60, "{late} of 260 steps late");
    }
}
