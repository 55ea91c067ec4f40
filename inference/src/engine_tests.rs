//! The whole engine over the hashing test model: same tokens whatever happens around a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::handle::{EngineHandle, TokenStream};
use crate::request::{FinishReason, GenerateRequest, SamplingParams, TokenEvent, Usage};
use crate::stats::{EngineObserver, RequestCounts, StepReport};
use crate::test_model::{Knobs, TestModel, VOCAB, config, greedy, logits_after};

const SECONDS: Duration = Duration::from_secs(20);

fn start(config: EngineConfig) -> (EngineHandle, Arc<Knobs>) {
    let (model, knobs) = TestModel::new();
    (Engine::start(model, config, Arc::new(())).unwrap(), knobs)
}

fn prompt(family: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (family * 31 + i * i * 7 + i) % VOCAB as u32).collect()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    GenerateRequest::new(prompt, SamplingParams::greedy(), max_tokens)
}

/// Reads to the end.
fn read(mut stream: TokenStream) -> Result<(Vec<u32>, FinishReason, Usage), EngineError> {
    let mut tokens = Vec::new();
    loop {
        match stream.recv().expect("an end comes before the stream's") {
            TokenEvent::Token { id, .. } => tokens.push(id),
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished { reason, usage, .. } => {
                assert!(stream.recv().is_none());
                return Ok((tokens, reason, usage));
            }
            TokenEvent::Failed(error) => {
                assert!(stream.recv().is_none());
                return Err(error);
            }
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < SECONDS, "not within {SECONDS:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Idle, every block is free once the cache is dropped.
fn assert_nothing_leaks(handle: &EngineHandle) {
    wait_until("idle", || handle.stats().running + handle.stats().waiting == 0);
    handle.drop_cache().unwrap();
    let stats = handle.stats();
    assert_eq!((stats.blocks.free, stats.queued), (stats.blocks.total, 0));
    assert_eq!(stats.requests.accepted, stats.requests.ended());
}

#[test]
fn batched_chunked_cached_and_preempted_equal_alone() {
    // Few blocks: 24 of 4 tokens for eight sequences of up to 62 make preemption certain.
    for (blocks, preempts) in [(400, false), (24, true)] {
        let (handle, _) = start(config(blocks));
        let requests: Vec<(Vec<u32>, usize)> = (0..24)
            .map(|i| {
                let mut tokens = prompt(i % 3, 8 + (i as usize % 4) * 4); // prefixes in common
                tokens.extend(prompt(100 + i, i as usize % 11 + 1));
                (tokens, 20 + i as usize % 9)
            })
            .collect();
        for round in 0..2 {
            let streams: Vec<_> =
                requests.iter().map(|(p, n)| handle.submit(request(p.clone(), *n)).unwrap()).collect();
            for (stream, (prompt, len)) in streams.into_iter().zip(&requests) {
                let (tokens, reason, usage) = read(stream).unwrap();
                assert_eq!(tokens, greedy(prompt, *len), "{blocks} blocks, round {round}");
                assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, *len));
            }
        }
        let stats = handle.stats();
        assert_eq!(stats.preemptions > 0, preempts, "{} preemptions in {blocks} blocks", stats.preemptions);
        assert!(stats.cached_tokens > 0);
        assert_nothing_leaks(&handle);
    }
}

#[test]
fn sampling_with_a_seed_is_the_same_alone_and_in_a_crowd() {
    let (handle, _) = start(config(64));
    let sampling = SamplingParams { temperature: 1.5, seed: Some(11), ..SamplingParams::default() };
    let submit = || handle.submit(GenerateRequest::new(prompt(5, 9), sampling.clone(), 30)).unwrap();
    let alone = read(submit()).unwrap().0;
    let others: Vec<_> = (0..6).map(|i| handle.submit(request(prompt(i, 20), 40)).unwrap()).collect();
    assert_eq!(read(submit()).unwrap().0, alone);
    drop(others);
    let unseeded = || {
        let sampling = SamplingParams { seed: None, ..sampling.clone() };
        read(handle.submit(GenerateRequest::new(prompt(5, 9), sampling, 30)).unwrap()).unwrap().0
    };
    assert_ne!(unseeded(), unseeded());
    assert_nothing_leaks(&handle);
}

#[test]
fn a_second_turn_finds_prompt_and_answer_in_the_cache() {
    let (handle, knobs) = start(config(64));
    let first = prompt(1, 21);
    let (answer, _, usage) = read(handle.submit(request(first.clone(), 12)).unwrap()).unwrap();
    assert_eq!(usage.cached_tokens, 0);
    let second: Vec<u32> = [first, answer, prompt(2, 3)].concat();
    let before = knobs.tokens.load(Ordering::SeqCst);
    let (tokens, _, usage) = read(handle.submit(request(second.clone(), 1)).unwrap()).unwrap();
    // 33 tokens, the last of which was sampled but never read: 32 of them are 8 full blocks.
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (36, 32));
    assert_eq!(knobs.tokens.load(Ordering::SeqCst) - before, 4);
    assert_eq!(tokens, greedy(&second, 1));
    handle.drop_cache().unwrap();
    assert_eq!(read(handle.submit(request(second.clone(), 1)).unwrap()).unwrap().2.cached_tokens, 0);
}

#[test]
fn eight_clients_with_one_cold_prefix_compute_it_once() {
    let (handle, knobs) = start(config(200));
    let shared = prompt(3, 60);
    let before = knobs.tokens.load(Ordering::SeqCst);
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| [shared.clone(), prompt(40 + i, 5)].concat()).collect();
    let streams: Vec<_> = prompts.iter().map(|p| handle.submit(request(p.clone(), 1)).unwrap()).collect();
    for (stream, prompt) in streams.into_iter().zip(&prompts) {
        assert_eq!(read(stream).unwrap().0, greedy(prompt, 1));
    }
    assert_eq!(knobs.tokens.load(Ordering::SeqCst) - before, 60 + 8 * 5);
}

/// Most prompt tokens that a step read beside a decode, once a few such steps were measured.
#[derive(Default)]
struct BesideDecodes {
    steps: AtomicUsize,
    most: AtomicUsize,
}

impl EngineObserver for BesideDecodes {
    fn on_step(&self, report: &StepReport) {
        let mixed = report.decode_tokens > 0 && report.prefill_tokens > 0;
        if mixed && self.steps.fetch_add(1, Ordering::SeqCst) >= 3 {
            self.most.fetch_max(report.prefill_tokens, Ordering::SeqCst);
        }
    }
}

#[test]
fn prefill_beside_a_stream_is_what_the_measured_steps_allow() {
    // A token takes a millisecond, so about 36 fit into 40 ms; without a bound a step takes all it is given.
    for (max_itl, range) in [(Some(Duration::from_millis(40)), 16..=48), (None, 120..=127)] {
        let (model, knobs) = TestModel::new();
        let seen = Arc::new(BesideDecodes::default());
        let config = EngineConfig { max_batch_tokens: 128, max_prefill_chunk: 128, max_itl, ..config(800) };
        knobs.token_micros.store(1000, Ordering::SeqCst);
        let handle = Engine::start(model, config, Arc::clone(&seen) as Arc<dyn EngineObserver>).unwrap();
        let mut stream = handle.submit(request(prompt(1, 4), 1000)).unwrap();
        for _ in 0..20 {
            assert!(matches!(stream.recv(), Some(TokenEvent::Token { .. })));
        }
        let long = handle.submit(request(prompt(2, 1000), 2)).unwrap();
        assert_eq!(read(long).unwrap().0, greedy(&prompt(2, 1000), 2), "chunks do not change what is said");
        let most = seen.most.load(Ordering::SeqCst);
        assert!(range.contains(&most), "{most} tokens beside a stream, bound {max_itl:?}");
        assert!(handle.stats().prefill_budget <= 127);
        drop(stream);
        assert_nothing_leaks(&handle);
    }
}

#[test]
fn a_short_prompt_overtakes_a_long_one() {
    let (handle, knobs) = start(EngineConfig { max_batch_tokens: 64, max_prefill_chunk: 64, ..config(800) });
    knobs.token_micros.store(500, Ordering::SeqCst);
    let long = handle.submit(request(prompt(1, 1000), 2)).unwrap();
    wait_until("the long one is read", || handle.stats().prefill_tokens > 0);
    let short = handle.submit(request(prompt(2, 10), 2)).unwrap();
    assert_eq!(read(short).unwrap().0, greedy(&prompt(2, 10), 2));
    assert!(handle.stats().prefill_tokens < 600, "the long one is not half read");
    assert_eq!(read(long).unwrap().0, greedy(&prompt(1, 1000), 2));
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (handle, knobs) = start(EngineConfig { max_num_seqs: 2, queue_limit: 3, ..config(64) });
    knobs.delay_micros.store(3000, Ordering::SeqCst);
    let running: Vec<_> = (0..2).map(|i| handle.submit(request(prompt(i, 4), 40)).unwrap()).collect();
    wait_until("two run", || handle.stats().running == 2);
    let waiting: Vec<_> = (0..3).map(|i| handle.submit(request(prompt(10 + i, 4), 2)).unwrap()).collect();
    let begun = Instant::now();
    for _ in 0..100 {
        match handle.submit(request(prompt(20, 4), 2)).err() {
            Some(EngineError::Overloaded { waiting: 3, limit: 3, retry_after }) => {
                assert!((Duration::from_secs(1)..=Duration::from_secs(60)).contains(&retry_after));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(100), "a refusal waits for nobody");
    assert_eq!((handle.stats().requests.refused, handle.stats().queued), (100, 3));
    running.into_iter().chain(waiting).for_each(|stream| assert!(read(stream).is_ok()));
    assert_nothing_leaks(&handle);
}

#[test]
fn dropped_streams_free_their_blocks_within_a_step() {
    let (handle, knobs) = start(config(200));
    knobs.delay_micros.store(2000, Ordering::SeqCst);
    let mut streams: Vec<_> = (0..8).map(|i| handle.submit(request(prompt(i, 30), 500)).unwrap()).collect();
    for stream in &mut streams {
        assert!(matches!(stream.recv(), Some(TokenEvent::Token { .. })));
    }
    assert!(handle.stats().blocks.used > 0);
    drop(streams);
    let passes = knobs.passes.load(Ordering::SeqCst);
    wait_until("all blocks back", || handle.stats().blocks.used == 0 && handle.stats().running == 0);
    assert!(knobs.passes.load(Ordering::SeqCst) - passes <= 2, "the one under way and at most one more");
    assert_eq!(handle.stats().requests.aborted, 8);
    assert_nothing_leaks(&handle);
}

#[test]
fn two_hundred_clients_leave_at_random_moments() {
    let (handle, knobs) = start(EngineConfig { queue_limit: 256, ..config(60) });
    knobs.delay_micros.store(100, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for client in 0..200u32 {
            let handle = handle.clone();
            scope.spawn(move || {
                let prompt = prompt(client % 7, 5 + client as usize % 23);
                let mut stream = handle.submit(request(prompt.clone(), 30)).unwrap();
                let mut tokens = Vec::new();
                for _ in 0..client % 31 {
                    match stream.recv() {
                        Some(TokenEvent::Token { id, .. }) => tokens.push(id),
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(tokens, greedy(&prompt, tokens.len()));
            });
        }
    });
    assert_nothing_leaks(&handle);
    let passes = knobs.passes.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(knobs.passes.load(Ordering::SeqCst), passes, "idle is idle");
}

#[test]
fn deadlines_in_the_queue_and_while_running() {
    let (handle, knobs) = start(EngineConfig { max_num_seqs: 1, ..config(200) });
    knobs.delay_micros.store(2000, Ordering::SeqCst);
    let mut request = request(prompt(1, 4), 500);
    request.deadline = Some(Instant::now() + Duration::from_millis(60));
    let (runs, waits) = (handle.submit(request.clone()).unwrap(), handle.submit(request).unwrap());
    let (tokens, reason, usage) = read(runs).unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Deadline, tokens.len()));
    assert!(!tokens.is_empty() && tokens.len() < 60);
    match read(waits) {
        Err(EngineError::DeadlineInQueue { waited }) => {
            assert!(waited >= Duration::from_millis(55))
        }
        other => panic!("{other:?}"),
    }
    assert_nothing_leaks(&handle);
}

#[test]
fn stop_ids_end_and_are_not_delivered() {
    let (handle, _) = start(config(64));
    let expected = greedy(&prompt(1, 10), 12);
    let stop = expected[6];
    let first = expected.iter().position(|token| *token == stop).unwrap();
    let mut request = request(prompt(1, 10), 12);
    request.stop_ids = vec![stop];
    let (tokens, reason, usage) = read(handle.submit(request).unwrap()).unwrap();
    assert_eq!((&tokens[..], reason, usage.completion_tokens), (&expected[..first], FinishReason::Stop, first));
}

#[test]
fn prompts_are_scored_token_by_token() {
    let (handle, knobs) = start(config(64));
    let tokens = prompt(4, 37);
    let score = |max_tokens| {
        let mut request = request(tokens.clone(), max_tokens);
        request.prompt_logprobs = Some(2);
        let mut stream = handle.submit(request).unwrap();
        let Some(TokenEvent::Prompt(scores)) = stream.recv() else { panic!("scores come first") };
        (scores, read(stream).unwrap())
    };
    let (scores, (generated, reason, _)) = score(0);
    assert_eq!((generated.len(), reason, scores.len()), (0, FinishReason::Length, 37));
    assert!(scores[0].is_none());
    for position in 1..37 {
        let row = logits_after(&tokens[..position]);
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        let expected = f64::from(row[tokens[position] as usize]) - total.ln();
        let found = scores[position].as_ref().unwrap();
        assert!((f64::from(found.logprob) - expected).abs() < 1e-4, "position {position}");
        assert_eq!(found.top.len(), 2);
    }
    let before = knobs.tokens.load(Ordering::SeqCst);
    let (again, (generated, ..)) = score(3);
    assert_eq!((again, generated), (scores, greedy(&tokens, 3)));
    assert_eq!(knobs.tokens.load(Ordering::SeqCst) - before, 37 + 2, "scores do not come from the cache");
}

#[test]
fn a_panic_a_failure_and_a_nan_end_their_requests_and_health() {
    let (handle, knobs) = start(config(64));
    assert!(handle.health().is_good(SECONDS), "proven before the first request");
    let submit = || handle.submit(request(prompt(1, 5), 6)).unwrap();
    type Check = fn(&EngineError) -> bool;
    let cases: [(&dyn Fn(), Check); 3] = [
        (
            &|| knobs.panic_next.store(true, Ordering::SeqCst),
            |e| matches!(e, EngineError::Panicked { message, .. } if message.contains("told to panic")),
        ),
        (&|| knobs.fail_next.store(true, Ordering::SeqCst), |e| matches!(e, EngineError::Model { .. })),
        (&|| knobs.nan_next.store(true, Ordering::SeqCst), |e| matches!(e, EngineError::NotFinite { .. })),
    ];
    for (break_it, expected) in cases {
        break_it();
        let error = read(submit()).unwrap_err();
        assert!(expected(&error), "{error}");
        wait_until("health turns bad", || !handle.health().is_good(SECONDS));
        handle.probe(SECONDS).unwrap();
        assert!(handle.health().is_good(SECONDS));
        break_it();
        assert!(handle.probe(SECONDS).is_err());
        assert!(handle.check_health(SECONDS).is_ok(), "bad health asks for a new pass");
        assert_eq!(read(submit()).unwrap().0, greedy(&prompt(1, 5), 6));
    }
    assert_nothing_leaks(&handle);
}

#[test]
fn a_drain_finishes_what_runs_and_cuts_off_at_the_deadline() {
    let (handle, knobs) = start(config(200));
    knobs.delay_micros.store(1000, Ordering::SeqCst);
    let stream = handle.submit(request(prompt(1, 5), 20)).unwrap();
    let report = handle.drain(Instant::now() + SECONDS).unwrap();
    assert_eq!(report.cut_off, 0);
    assert_eq!(read(stream).unwrap().0.len(), 20);
    assert!(matches!(handle.submit(request(prompt(1, 5), 1)).err(), Some(EngineError::ShuttingDown)));
    assert!(handle.health().stopped);
    assert!(matches!(handle.drop_cache(), Err(EngineError::Stopped)));

    let (handle, knobs) = start(EngineConfig { max_num_seqs: 1, ..config(400) });
    knobs.delay_micros.store(1000, Ordering::SeqCst);
    let streams = [0, 1].map(|i| handle.submit(request(prompt(i, 5), 900)).unwrap());
    let begun = Instant::now();
    assert_eq!(handle.drain(begun + Duration::from_millis(50)).unwrap().cut_off, 2);
    assert!(begun.elapsed() < Duration::from_secs(5));
    streams.into_iter().for_each(|stream| assert!(matches!(read(stream), Err(EngineError::ShuttingDown))));
}

#[test]
fn an_engine_that_is_gone_is_an_error_not_a_finish() {
    let (handle, _) = start(config(64));
    handle.drain(Instant::now()).unwrap();
    assert!(matches!(handle.probe(SECONDS), Err(EngineError::Stopped)));
}

#[test]
fn what_cannot_run_is_refused_with_its_numbers() {
    let (handle, _) = start(config(10));
    let check = |request: GenerateRequest, expected: &str| {
        let message = handle.submit(request).err().expect(expected).to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(request(vec![], 1), "the prompt is empty");
    check(request(vec![64], 1), "token 64 is not in the vocabulary of 64");
    check(request(vec![1; 1000], 25), "1000 tokens and max_tokens is 25, the model holds 1024");
    check(request(vec![1; 30], 12), "needs 11 KV blocks, the cache has 10");
    check(request(vec![1], 0), "`max_tokens` is 0");
    check(request(vec![1], usize::MAX), "the model holds 1024");
    let with = |sampling| GenerateRequest::new(vec![1], sampling, 4);
    check(with(SamplingParams { min_tokens: 5, ..SamplingParams::greedy() }), "`min_tokens` is 5");
    check(with(SamplingParams { temperature: f32::NAN, ..SamplingParams::greedy() }), "`temperature`");
    let mut scored = request(vec![1], 1);
    scored.prompt_logprobs = Some(21);
    check(scored, "`prompt_logprobs` is 21");
    assert_eq!(read(handle.submit(request(prompt(1, 30), 11)).unwrap()).unwrap().0, greedy(&prompt(1, 30), 11));
    assert_eq!(handle.stats().requests, RequestCounts { accepted: 1, length: 1, ..RequestCounts::default() });
}

#[test]
fn the_highest_priority_gets_its_tokens_first() {
    let (handle, knobs) = start(EngineConfig { max_num_seqs: 1, ..config(64) });
    knobs.delay_micros.store(1000, Ordering::SeqCst);
    let low = handle.submit(request(prompt(1, 5), 30)).unwrap();
    wait_until("it runs", || handle.stats().running == 1);
    let mut high = request(prompt(2, 5), 5);
    high.priority = 5;
    assert_eq!(read(handle.submit(high).unwrap()).unwrap().0, greedy(&prompt(2, 5), 5));
    assert_eq!(handle.stats().running + handle.stats().waiting, 1, "the low one is not done yet");
    assert_eq!(read(low).unwrap().0, greedy(&prompt(1, 5), 30), "and comes out undisturbed");
    assert_eq!(handle.stats().preemptions, 1);
}

#[test]
fn text_stops_at_a_stop_string_and_the_engine_with_it() {
    use crate::output::{Detokenizer, TextAssembler, TextEvent, TextStream};

    struct Letters;
    impl Detokenizer for Letters {
        fn push(&mut self, id: u32) -> Option<String> {
            Some(char::from(b'@' + id as u8).to_string())
        }
        fn finish(&mut self) -> String {
            String::new()
        }
    }
    let (handle, knobs) = start(config(400));
    knobs.delay_micros.store(500, Ordering::SeqCst);
    let letters: String = greedy(&prompt(1, 8), 30).iter().map(|id| char::from(b'@' + *id as u8)).collect();
    let stop = letters[10..13].to_string();
    let end = letters.find(&stop).unwrap();
    let tokens = handle.submit(request(prompt(1, 8), 800)).unwrap();
    let mut stream = TextStream::new(tokens, TextAssembler::new(Letters, vec![stop.clone()], false));
    let mut text = String::new();
    loop {
        match stream.recv().unwrap() {
            TextEvent::Delta(piece) => text.push_str(&piece.text),
            TextEvent::Finished { reason, stop: found, text_tokens, usage, timing } => {
                assert_eq!((reason, found, text_tokens), (FinishReason::Stop, Some(stop), end));
                assert_eq!((usage.prompt_tokens, usage.completion_tokens), (8, end + 3));
                assert!(timing.first_token.is_some());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(stream.recv().is_none());
    assert_eq!(text, letters[..end]);
    wait_until("the engine stops too", || handle.stats().requests.stopped == 1);
    assert_nothing_leaks(&handle);
}

#[test]
fn a_stream_for_async_callers_has_the_same_events_and_aborts_when_dropped() {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use futures_core::Stream;

    let (handle, knobs) = start(config(200));
    let mut context = Context::from_waker(Waker::noop());
    let mut next = |events: &mut crate::handle::TokenEvents| {
        let begun = Instant::now();
        loop {
            match Pin::new(&mut *events).poll_next(&mut context) {
                Poll::Ready(event) => return event,
                Poll::Pending => assert!(begun.elapsed() < SECONDS, "no event"),
            }
            std::thread::yield_now();
        }
    };
    let mut events = handle.submit(request(prompt(1, 6), 5)).unwrap().into_stream();
    for expected in greedy(&prompt(1, 6), 5) {
        assert!(matches!(next(&mut events), Some(TokenEvent::Token { id, .. }) if id == expected));
    }
    assert!(matches!(next(&mut events), Some(TokenEvent::Finished { reason: FinishReason::Length, .. })));
    assert!(next(&mut events).is_none());

    knobs.delay_micros.store(1000, Ordering::SeqCst);
    let mut events = handle.submit(request(prompt(2, 6), 700)).unwrap().into_stream();
    assert!(matches!(next(&mut events), Some(TokenEvent::Token { .. })));
    drop(events);
    wait_until("it is aborted", || handle.stats().requests.aborted == 1);
    assert_nothing_leaks(&handle);
}
