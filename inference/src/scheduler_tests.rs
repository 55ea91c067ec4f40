use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::request::{GenerateRequest, SamplingParams};
use crate::test_model::config;

/// A scheduler, its clock, and a stand-in for the model: every sampled token is 7.
struct Bench {
    scheduler: Scheduler,
    now: Instant,
    next: u64,
    machine: Option<Machine>,
}

/// Microseconds that a step takes: fixed, a decode, a prompt token, a pair.
type Machine = [f64; 4];

/// Half a billion parameters on two cores.
const TWO_CORES: Machine = [22_000.0, 3_500.0, 3_600.0, 0.9];

fn time(machine: Machine, work: &StepWork) -> Duration {
    let [fixed, decode, token, pair] = machine;
    let micros = fixed + decode * work.decodes as f64 + token * work.prefill as f64 + pair * work.pairs as f64;
    Duration::from_secs_f64(micros * 1e-6)
}

impl Bench {
    fn new(config: EngineConfig, blocks: usize) -> Self {
        Self { scheduler: Scheduler::new(config, blocks), now: Instant::now(), next: 0, machine: None }
    }

    /// On a machine whose steps take time, of which the scheduler knows one decode, as in the engine.
    fn on(machine: Machine, max_itl: Option<Duration>) -> Self {
        let config = EngineConfig { max_itl, ..EngineConfig::default() };
        let mut bench = Self { machine: Some(machine), ..Self::new(config, 4096) };
        let probe = StepWork { decodes: 1, prefill: 0, pairs: 1 };
        bench.scheduler.observe(&probe, time(machine, &probe) * 2); // the first pass is a cold one
        bench
    }

    fn add(&mut self, request: &GenerateRequest) -> SeqId {
        let id = SeqId(self.next);
        self.next += 1;
        self.scheduler.add(Sequence::new(id, request, self.scheduler.block_size(), self.now));
        id
    }

    fn submit(&mut self, prompt: Vec<u32>, max_tokens: usize) -> SeqId {
        self.add(&GenerateRequest::new(prompt, SamplingParams::greedy(), max_tokens))
    }

    /// One step; returns what was planned and who finished.
    fn step(&mut self) -> (Plan, Vec<SeqId>) {
        let plan = self.scheduler.schedule(self.now);
        self.scheduler.check();
        let took = self.machine.map_or(Duration::from_millis(1), |machine| time(machine, &plan.work));
        self.now += took;
        if self.machine.is_some() {
            self.scheduler.observe(&plan.work, took);
        }
        let sequences = &self.scheduler.sequences;
        let reads = |id: &&SeqId| sequences[*id].remaining() > 1;
        if let Some(oldest) = self.scheduler.running.iter().filter(reads).min() {
            assert!(plan.entries.iter().any(|entry| entry.id == *oldest), "the oldest prompt does not advance");
        }
        let limit = self.scheduler.config.max_batch_tokens;
        assert!(plan.num_tokens() <= limit, "{} tokens in a step of {limit}", plan.num_tokens());
        assert!(self.scheduler.is_idle() || !plan.entries.is_empty(), "work is left and nothing is done");
        for entry in &plan.entries {
            let sequence = self.scheduler.sequence(entry.id).expect("who is planned is here");
            assert_eq!(entry.start, sequence.computed());
            assert!(sequence.table().len() * self.scheduler.block_size() >= entry.start + entry.len);
        }
        self.scheduler.advance(&plan);
        let mut finished = Vec::new();
        for entry in &plan.entries {
            if entry.samples {
                self.scheduler.append(entry.id, 7);
            }
            let is_done = |s: &Sequence| s.output_len() >= s.max_tokens() && s.remaining() <= 1;
            if self.scheduler.sequence(entry.id).is_some_and(is_done) {
                self.scheduler.finish(entry.id);
                finished.push(entry.id);
            }
        }
        self.scheduler.check();
        (plan, finished)
    }

    /// Steps until idle; returns the order in which sequences finished, and the tokens computed.
    fn run(&mut self) -> (Vec<SeqId>, usize) {
        let (mut order, mut tokens) = (Vec::new(), 0);
        for _ in 0..10_000 {
            if self.scheduler.is_idle() {
                return (order, tokens);
            }
            let (plan, finished) = self.step();
            tokens += plan.num_tokens();
            order.extend(finished);
        }
        panic!("sequences starve: {:?}", self.scheduler.sequences.keys());
    }
}

fn prompt(family: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| family * 1000 + i).collect()
}

#[test]
fn decodes_come_first_and_prefills_share_the_rest() {
    let mut bench = Bench::new(config(64), 64);
    let runs = bench.submit(prompt(1, 3), 50);
    bench.step();
    let long = bench.submit(prompt(2, 100), 4);
    let short = bench.submit(prompt(3, 6), 4);
    let (plan, _) = bench.step();
    let lens: Vec<(SeqId, usize)> = plan.entries.iter().map(|e| (e.id, e.len)).collect();
    // 16 tokens: 1 decode; of 15 a quarter to the oldest prefill, then the short one, then the rest.
    assert_eq!(lens, [(runs, 1), (short, 6), (long, 9)]);
    let (plan, _) = bench.step();
    assert_eq!(plan.entries.iter().filter(|e| e.samples).count(), 2, "the short prompt decodes already");
}

/// Steps until `id` has its first token; the tokens it was given a step.
fn until_first_token(bench: &mut Bench, id: SeqId) -> Vec<usize> {
    let mut chunks = Vec::new();
    while bench.scheduler.sequence(id).is_some_and(|sequence| sequence.output_len() == 0) {
        let plan = bench.step().0;
        chunks.push(plan.entries.iter().find(|entry| entry.id == id).map_or(0, |entry| entry.len));
    }
    chunks
}

#[test]
fn streams_keep_their_bound_while_prompts_are_read() {
    let bound = Duration::from_millis(200);
    let read = |max_itl: Option<Duration>| {
        let mut bench = Bench::on(TWO_CORES, max_itl);
        for stream in 0..4 {
            let id = bench.submit(prompt(10 + stream, 20), 100_000);
            until_first_token(&mut bench, id);
        }
        for long in 0..3 {
            bench.submit(prompt(20 + long, 2000), 1);
        }
        let (begun, mut gaps, mut read) = (bench.now, Vec::new(), 0);
        while read < 6000 {
            let before = bench.now;
            read += bench.step().0.work.prefill;
            gaps.push(bench.now - before);
        }
        (gaps, read as f64 / (bench.now - begun).as_secs_f64())
    };
    let (gaps, bounded_rate) = read(Some(bound));
    for (step, gap) in gaps.iter().enumerate() {
        assert!(*gap <= bound || (step < 5 && *gap <= bound * 2), "step {step}: {gap:?}");
    }
    let (gaps, rate) = read(None);
    assert!(gaps[0] > bound * 5, "without a bound a step is as long as it gets: {:?}", gaps[0]);
    assert!(bounded_rate >= rate * 0.6, "{bounded_rate:.0} prompt tokens/s with a bound, {rate:.0} without");
}

#[test]
fn a_bound_too_tight_leaves_most_of_the_throughput() {
    let mut bench = Bench::on(TWO_CORES, Some(Duration::from_millis(1)));
    let stream = bench.submit(prompt(1, 10), 100_000);
    until_first_token(&mut bench, stream);
    let long = bench.submit(prompt(2, 2000), 1);
    let begun = bench.now;
    let steps = until_first_token(&mut bench, long).len();
    let rate = (2000 + steps) as f64 / (bench.now - begun).as_secs_f64();
    assert!(rate >= 0.5 * 1e6 / TWO_CORES[2], "{rate:.0} tokens/s");
}

#[test]
fn a_prompt_alone_is_read_with_the_whole_budget() {
    let mut bench = Bench::on(TWO_CORES, Some(Duration::from_millis(50)));
    let long = bench.submit(prompt(1, 1300), 1);
    assert_eq!(until_first_token(&mut bench, long), [512, 512, 276]);
}

#[test]
fn a_short_prompt_waits_for_a_step_not_for_a_long_prompt() {
    for streams in [0, 4] {
        let mut bench = Bench::on(TWO_CORES, Some(Duration::from_millis(200)));
        for stream in 0..streams {
            let id = bench.submit(prompt(10 + stream, 20), 100_000);
            until_first_token(&mut bench, id);
        }
        let long = bench.submit(prompt(1, 6000), 4);
        for _ in 0..3 {
            bench.step();
        }
        let (short, arrived) = (bench.submit(prompt(2, 40), 4), bench.now);
        let steps = until_first_token(&mut bench, short).len();
        let waited = bench.now - arrived;
        assert!(steps <= 2 && waited <= Duration::from_millis(450), "{steps} steps, {waited:?}");
        assert!(bench.scheduler.sequence(long).is_some_and(|long| long.remaining() > 3000));
    }
}

#[test]
fn who_arrives_together_is_answered_one_after_another() {
    for len in [60, 200, 600] {
        let mut bench = Bench::on(TWO_CORES, Some(Duration::from_millis(200)));
        let begun = bench.now;
        let ids: Vec<SeqId> = (0..8).map(|client| bench.submit(prompt(1 + client, len), 40)).collect();
        let mut waited = Vec::new();
        for id in ids {
            until_first_token(&mut bench, id);
            waited.push((bench.now - begun).as_secs_f64());
        }
        let mean = waited.iter().sum::<f64>() / 8.0;
        assert!(waited[0] <= 0.3 * waited[7], "{len} tokens: the first waits {waited:?}");
        assert!(mean <= 0.75 * waited[7], "{len} tokens: {waited:?}");
    }
}

#[test]
fn one_cold_prefix_is_computed_once() {
    let mut bench = Bench::new(config(128), 128);
    for client in 0..8 {
        let mut tokens = prompt(1, 40);
        tokens.extend(prompt(50 + client, 3));
        bench.submit(tokens, 2);
    }
    let (order, tokens) = bench.run();
    assert_eq!(order.len(), 8);
    // 40 shared once, 3 own and 1 decode each.
    assert_eq!(tokens, 40 + 8 * (3 + 1));
}

#[test]
fn identical_prompts_share_all_but_the_last_block() {
    let mut bench = Bench::new(config(128), 128);
    for _ in 0..8 {
        bench.submit(prompt(1, 40), 1);
    }
    let (_, tokens) = bench.run();
    assert_eq!(tokens, 40 + 7 * 4, "the last token's logits are wanted, so its block is computed by each");
}

#[test]
fn tenants_share_nothing() {
    let mut bench = Bench::new(config(128), 128);
    for tenant in 0..3 {
        let mut request = GenerateRequest::new(prompt(1, 40), SamplingParams::greedy(), 1);
        request.tenant = tenant;
        bench.add(&request);
    }
    assert_eq!(bench.run().1, 120);
}

#[test]
fn a_held_back_sequence_goes_on_when_who_computes_for_it_leaves() {
    let mut bench = Bench::new(config(128), 128);
    let first = bench.submit(prompt(1, 60), 2);
    let second = bench.submit(prompt(1, 60), 2);
    bench.step();
    assert_eq!(bench.scheduler.waiting(), [second]);
    bench.scheduler.finish(first);
    bench.scheduler.check();
    let (plan, _) = bench.step();
    assert_eq!(plan.admitted, [Admitted { id: second, cached_tokens: 16 }]);
    assert_eq!(bench.run().0, [second]);
}

#[test]
fn higher_priority_runs_first_and_may_push_out() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config(64) }, 64);
    let at = |bench: &mut Bench, priority, family| {
        let mut request = GenerateRequest::new(prompt(family, 5), SamplingParams::greedy(), 3);
        request.priority = priority;
        bench.add(&request)
    };
    let runs = at(&mut bench, 0, 1);
    bench.step();
    let (low, high, middle) = (at(&mut bench, -1, 2), at(&mut bench, 2, 3), at(&mut bench, 1, 4));
    let (plan, _) = bench.step();
    assert_eq!(plan.preempted, [runs]);
    assert_eq!(bench.run().0, [high, middle, runs, low]);
}

#[test]
fn age_lets_the_lowest_run_at_last() {
    let config = EngineConfig { max_num_seqs: 1, priority_aging: Duration::from_millis(50), ..config(64) };
    let mut bench = Bench::new(config, 64);
    let mut low = GenerateRequest::new(prompt(9, 5), SamplingParams::greedy(), 2);
    low.priority = -3;
    let low = bench.add(&low);
    for round in 0..1000 {
        if bench.scheduler.waiting().len() < 3 {
            bench.submit(prompt(round, 5), 2);
        }
        if bench.step().1.contains(&low) {
            return;
        }
    }
    panic!("the low priority never ran");
}

#[test]
fn when_blocks_run_out_the_latest_gives_way_and_comes_back() {
    let mut bench = Bench::new(config(10), 10);
    let first = bench.submit(prompt(1, 14), 20);
    let second = bench.submit(prompt(2, 14), 20);
    let mut preempted = Vec::new();
    let mut order = Vec::new();
    while !bench.scheduler.is_idle() {
        let (plan, finished) = bench.step();
        preempted.extend(plan.preempted);
        order.extend(finished);
    }
    assert_eq!((preempted, order), (vec![second], vec![first, second]));
}

#[test]
fn deadlines_end_the_waiting_and_the_running() {
    let mut bench = Bench::new(EngineConfig { max_num_seqs: 1, ..config(64) }, 64);
    let mut request = GenerateRequest::new(prompt(1, 5), SamplingParams::greedy(), 500);
    request.deadline = Some(bench.now + Duration::from_millis(5));
    let (runs, waits) = (bench.add(&request), bench.add(&request));
    let mut expired = Vec::new();
    while !bench.scheduler.is_idle() {
        let plan = bench.step().0;
        expired.extend(plan.expired.iter().map(|e| (e.sequence.id(), e.in_queue)));
    }
    expired.sort();
    assert_eq!(expired, [(runs, false), (waits, true)]);
    assert_eq!(bench.scheduler.block_counts().used, 0);
}

#[test]
fn scoring_a_prompt_uses_no_cache_and_few_rows() {
    let config = EngineConfig { max_batch_tokens: 256, max_prefill_chunk: 256, ..config(128) };
    let mut bench = Bench::new(config, 128);
    bench.submit(prompt(1, 200), 1);
    bench.run();
    let mut request = GenerateRequest::new(prompt(1, 200), SamplingParams::greedy(), 0);
    request.prompt_logprobs = Some(1);
    bench.add(&request);
    let mut rows = Vec::new();
    while !bench.scheduler.is_idle() {
        let plan = bench.scheduler.schedule(bench.now);
        let sequence = bench.scheduler.sequence(plan.entries[0].id).unwrap();
        rows.push(sequence.scoring(plan.entries[0].start, plan.entries[0].len).len());
        bench.scheduler.advance(&plan);
        let id = plan.entries[0].id;
        if bench.scheduler.sequence(id).unwrap().remaining() == 0 {
            bench.scheduler.finish(id);
        }
    }
    assert_eq!(rows, [64, 64, 64, 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Any arrivals, priorities, aborts and few blocks: accounting stays exact, every step does
    /// something, everybody finishes.
    #[test]
    fn everybody_finishes(
        blocks in 12usize..40,
        requests in prop::collection::vec((0u32..4, 1usize..40, 1usize..8, -2i32..3, 0usize..6), 1..40),
        aborts in prop::collection::vec((0usize..60, 0u64..40), 0..6),
        prefix_cache in any::<bool>(),
        machine in prop::option::of([1.0f64..1e5, 1.0..1e4, 1.0..1e4, 0.0..100.0]),
        max_itl in prop::option::of(1u64..200),
    ) {
        let max_itl = max_itl.map(Duration::from_millis);
        let config = EngineConfig { prefix_cache, max_itl, max_num_seqs: 5, max_batch_tokens: 40, ..config(blocks) };
        let mut bench = Bench { machine, ..Bench::new(config, blocks) };
        let mut done = std::collections::HashSet::new();
        let mut step = 0;
        let abort = |bench: &mut Bench, step: usize, done: &mut std::collections::HashSet<SeqId>| {
            for (at, id) in &aborts {
                if *at == step && bench.scheduler.finish(SeqId(*id)).is_some() {
                    done.insert(SeqId(*id));
                }
            }
        };
        for (family, len, max_tokens, priority, pause) in &requests {
            let mut request = GenerateRequest::new(prompt(*family, *len), SamplingParams::greedy(), *max_tokens);
            request.priority = *priority;
            bench.add(&request);
            for _ in 0..*pause {
                if !bench.scheduler.is_idle() {
                    done.extend(bench.step().1);
                }
                step += 1;
                abort(&mut bench, step, &mut done);
            }
        }
        while !bench.scheduler.is_idle() {
            done.extend(bench.step().1);
            step += 1;
            prop_assert!(step < 20_000, "sequences starve");
            abort(&mut bench, step, &mut done);
        }
        prop_assert_eq!(done.len(), requests.len());
        bench.scheduler.blocks_mut().drop_cache();
        prop_assert_eq!(bench.scheduler.block_counts().free, blocks);
    }
}
