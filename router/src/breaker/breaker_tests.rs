use super::*;
use proptest::prelude::*;

fn settings() -> BreakerSettings {
    BreakerSettings {
        failures: 3,
        error_percent: 50,
        min_calls: 8,
        window: Duration::from_secs(10),
        open: Duration::from_secs(10),
        open_cap: Duration::from_secs(60),
        slow_call: Some(Duration::from_secs(5)),
    }
}

const FAST: Duration = Duration::from_millis(20);

/// A breaker and a clock that only goes when told.
struct Bench {
    breaker: Breaker,
    now: Instant,
}

impl Bench {
    fn new(settings: BreakerSettings) -> Self {
        let now = Instant::now();
        Self { breaker: Breaker::starting(settings, now, 7), now }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn call(&self, good: bool) -> Option<BreakerState> {
        let permit = self.breaker.try_acquire(self.now).expect("may call");
        if good { permit.success(self.now, FAST) } else { permit.failure(self.now) }
    }

    fn state(&self) -> BreakerState {
        self.breaker.state(self.now)
    }

    /// Waits until a probe may go out, which must be between these seconds.
    fn wait(&mut self, at_least: f64, at_most: f64) {
        let refused = self.breaker.try_acquire(self.now).expect_err("open");
        let seconds = refused.retry_in.as_secs_f64();
        assert!((at_least..=at_most).contains(&seconds), "{seconds} not in {at_least} to {at_most}");
        self.now += refused.retry_in;
        assert_eq!(self.state(), BreakerState::HalfOpen);
    }
}

#[test]
fn what_opens_it() {
    // calls, in order, one a second: `.` good, `x` bad; whether the last one opens it
    let table = [
        ("xx", false),
        ("xxx", true),
        ("xx.xx.xx", true), // six of eight in the window
        ("xx.xx.x", false), // seven are too few to have a share
        (".......", false),
        ("x.x.x.x.", false), // a success does not open, though the half failed
        ("x.x.x.xx", true),
        ("..x..x..x..x..x..x", false),
        // the first failures have left the window of ten seconds when the next come
        ("xx.xx..........xx", false),
    ];
    for (calls, opens) in table {
        let mut bench = Bench::new(settings());
        let mut last = None;
        for call in calls.chars() {
            assert_eq!(last, None, "{calls}: opened early");
            last = bench.call(call == '.');
            bench.pass(1);
        }
        assert_eq!(last, opens.then_some(BreakerState::Open), "{calls}");
    }
}

#[test]
fn each_rule_can_be_off() {
    let in_a_row = Bench::new(BreakerSettings { error_percent: 0, ..settings() });
    for _ in 0..40 {
        assert_eq!(in_a_row.call(false), None);
        assert_eq!(in_a_row.call(false), None);
        assert_eq!(in_a_row.call(true), None);
    }
    let share = Bench::new(BreakerSettings { failures: 0, ..settings() });
    for _ in 0..7 {
        assert_eq!(share.call(false), None);
    }
    assert_eq!(share.call(false), Some(BreakerState::Open));
}

#[test]
fn a_slow_answer_is_a_failure() {
    let bench = Bench::new(settings());
    let slow = |took| bench.breaker.try_acquire(bench.now).expect("closed").success(bench.now, took);
    assert_eq!(slow(Duration::from_secs(5)), None);
    assert_eq!(slow(Duration::from_secs(9)), None);
    assert_eq!(slow(Duration::from_millis(4999)), None);
    assert_eq!(bench.breaker.view(bench.now).in_a_row, 0);
    assert_eq!(bench.breaker.view(bench.now).failures, 2);
    for _ in 0..2 {
        assert_eq!(slow(Duration::from_secs(5)), None);
    }
    assert_eq!(slow(Duration::from_secs(5)), Some(BreakerState::Open));
}

#[test]
fn one_probe_goes_out_and_decides() {
    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        bench.call(false);
    }
    let view = bench.breaker.view(bench.now);
    assert_eq!((view.state, view.trip), (BreakerState::Open, Some(Trip::InARow { failures: 3 })));
    // Each failed probe doubles the time, up to the cap of 60.
    for (round, open) in [10.0, 20.0, 40.0, 60.0, 60.0].into_iter().enumerate() {
        bench.wait(open * 0.8, open);
        let probe = bench.breaker.try_acquire(bench.now).expect("the probe");
        assert!(bench.breaker.try_acquire(bench.now).is_err(), "a second probe");
        assert_eq!(bench.breaker.view(bench.now).retry_in, None);
        assert_eq!(probe.failure(bench.now), Some(BreakerState::Open));
        assert_eq!(bench.breaker.view(bench.now).opened, round as u64 + 2);
    }
    bench.wait(48.0, 60.0);
    assert_eq!(bench.call(true), Some(BreakerState::Closed));
    let view = bench.breaker.view(bench.now);
    assert_eq!((view.calls, view.failures, view.in_a_row, view.trip), (0, 0, 0, None));
    for _ in 0..3 {
        bench.call(false);
    }
    bench.wait(8.0, 10.0); // not twice 60
}

#[test]
fn a_probe_without_a_verdict_is_given_back() {
    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        bench.call(false);
    }
    bench.wait(8.0, 10.0);
    for _ in 0..5 {
        let probe = bench.breaker.try_acquire(bench.now).expect("the probe");
        assert!(bench.breaker.try_acquire(bench.now).is_err());
        drop(probe);
        assert_eq!(bench.state(), BreakerState::HalfOpen);
    }
    assert_eq!(bench.call(false), Some(BreakerState::Open));
    bench.wait(16.0, 20.0); // one probe failed, not six
    drop(bench.breaker.try_acquire(bench.now).expect("the probe"));
    assert_eq!(bench.call(true), Some(BreakerState::Closed));
    drop(bench.breaker.try_acquire(bench.now).expect("closed"));
    assert_eq!(bench.breaker.view(bench.now).calls, 0);
}

#[test]
fn verdicts_from_before_a_change_count_nothing() {
    let mut bench = Bench::new(settings());
    let acquire = |bench: &Bench| bench.breaker.try_acquire(bench.now).expect("may call");
    let (good, bad, late) = (acquire(&bench), acquire(&bench), acquire(&bench));
    for _ in 0..3 {
        bench.call(false);
    }
    assert_eq!(good.success(bench.now, FAST), None);
    assert_eq!(bench.state(), BreakerState::Open);
    bench.wait(8.0, 10.0);
    let probe = acquire(&bench);
    assert_eq!(bad.failure(bench.now), None); // not the probe's verdict
    assert_eq!(bench.state(), BreakerState::HalfOpen);
    bench.breaker.reset(bench.now);
    assert_eq!(probe.failure(bench.now), None);
    assert_eq!(late.failure(bench.now), None);
    assert_eq!(bench.breaker.view(bench.now).calls, 0);
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[test]
fn many_threads_get_one_probe() {
    for _ in 0..50 {
        let mut bench = Bench::new(settings());
        for _ in 0..3 {
            bench.call(false);
        }
        bench.wait(8.0, 10.0);
        let probes: Vec<Permit> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.breaker.try_acquire(bench.now).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(probes.len(), 1);
    }
}

#[test]
fn its_words_have_figures() {
    let open = OpenUntil { retry_in: Duration::from_millis(3240) };
    assert_eq!(open.to_string(), "circuit breaker open, next try in 3.2 s");
    assert_eq!(Trip::Share { failures: 12, calls: 20 }.to_string(), "12 of the last 20 calls failed");
}

/// What a breaker is, said plainly: lists of events instead of counters.
struct Model {
    /// Seconds and verdict of each call since it closed.
    calls: Vec<(u64, bool)>,
    open: Option<Open>,
    epoch: u32,
}

struct Open {
    failed_probes: u32,
    probing: bool,
}

impl Model {
    fn opens(&self, now: u64) -> bool {
        let row = self.calls.iter().rev().take_while(|(_, good)| !good).count();
        let window: Vec<_> = self.calls.iter().filter(|(at, _)| at + 10 > now).collect();
        let bad = window.iter().filter(|(_, good)| !good).count();
        row >= 3 || (window.len() >= 8 && bad * 2 >= window.len())
    }

    fn verdict(&mut self, epoch: u32, now: u64, good: bool) {
        if epoch != self.epoch {
            return;
        }
        match &mut self.open {
            None => {
                self.calls.push((now, good));
                if !good && self.opens(now) {
                    self.open = Some(Open { failed_probes: 0, probing: false });
                    self.epoch += 1;
                }
            }
            Some(_) if good => self.reset(),
            Some(open) => {
                *open = Open { failed_probes: open.failed_probes + 1, probing: false };
                self.epoch += 1;
            }
        }
    }

    fn reset(&mut self) {
        self.calls.clear();
        self.open = None;
        self.epoch += 1;
    }
}

#[derive(Debug, Clone)]
enum Act {
    Acquire,
    Good(usize),
    Bad(usize),
    Drop(usize),
    Pass(u64),
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => Just(Act::Acquire),
        3 => (0usize..4).prop_map(Act::Good),
        5 => (0usize..4).prop_map(Act::Bad),
        1 => (0usize..4).prop_map(Act::Drop),
        3 => (0u64..15).prop_map(Act::Pass),
        1 => Just(Act::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn it_does_as_its_model(acts in prop::collection::vec(act(), 1..150)) {
        let start = Instant::now();
        let breaker = Breaker::starting(settings(), start, 11);
        let mut model = Model { calls: Vec::new(), open: None, epoch: 0 };
        let (mut now, mut until) = (0u64, start);
        let mut out: Vec<(Permit, u32)> = Vec::new();
        for act in acts {
            let at = start + Duration::from_secs(now);
            let before = model.epoch;
            match act {
                Act::Acquire => {
                    let allowed = match &mut model.open {
                        None => true,
                        Some(open) if open.probing || at < until => false,
                        Some(open) => {
                            open.probing = true;
                            model.epoch += 1;
                            true
                        }
                    };
                    let permit = breaker.try_acquire(at);
                    prop_assert_eq!(permit.is_ok(), allowed);
                    if let Ok(permit) = permit {
                        out.push((permit, model.epoch));
                    }
                }
                Act::Good(index) if index < out.len() => {
                    let (permit, epoch) = out.remove(index);
                    permit.success(at, FAST);
                    model.verdict(epoch, now, true);
                }
                Act::Bad(index) if index < out.len() => {
                    let (permit, epoch) = out.remove(index);
                    permit.failure(at);
                    model.verdict(epoch, now, false);
                }
                Act::Drop(index) if index < out.len() => {
                    let (permit, epoch) = out.remove(index);
                    drop(permit);
                    if let Some(open) = &mut model.open && epoch == model.epoch && open.probing {
                        open.probing = false;
                        model.epoch += 1;
                    }
                }
                Act::Good(_) | Act::Bad(_) | Act::Drop(_) => {}
                Act::Pass(seconds) => now += seconds,
                Act::Reset => {
                    breaker.reset(at);
                    model.reset();
                }
            }
            let at = start + Duration::from_secs(now);
            let view = breaker.view(at);
            match &model.open {
                None => prop_assert_eq!(view.state, BreakerState::Closed),
                Some(open) if open.probing => prop_assert_eq!((view.state, view.retry_in), (BreakerState::HalfOpen, None)),
                Some(open) => {
                    let retry_in = view.retry_in.expect("open");
                    if model.epoch != before && !matches!(act, Act::Drop(_)) {
                        let longest = Duration::from_secs(10 << open.failed_probes.min(3)).min(Duration::from_secs(60));
                        prop_assert!(retry_in <= longest && retry_in >= longest.mul_f64(0.8), "{retry_in:?} of {longest:?}");
                        until = at + retry_in;
                    }
                    prop_assert_eq!(retry_in, until.saturating_duration_since(at));
                    let expected = if at < until { BreakerState::Open } else { BreakerState::HalfOpen };
                    prop_assert_eq!(view.state, expected);
                }
            }
            let bad_in_a_row = model.calls.iter().rev().take_while(|(_, good)| !good).count();
            prop_assert_eq!(view.in_a_row as usize, bad_in_a_row);
        }
    }
}
