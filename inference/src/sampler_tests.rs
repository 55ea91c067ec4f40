use proptest::prelude::*;

use super::*;

fn state(params: SamplingParams) -> SamplerState {
    SamplerState::new(&GenerateRequest::new(vec![1], params, 100), 0)
}

fn sampled(row: &[f32], params: &SamplingParams, position: usize) -> u32 {
    Sampler::default().sample(row, &state(params.clone()), position).unwrap().id
}

fn params(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, seed: Some(42), ..SamplingParams::default() }
}

/// Probabilities after all filters, by sorting everything in f64: the definition.
fn expected(row: &[f32], params: &SamplingParams) -> Vec<f64> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    order.truncate(params.top_k.unwrap_or(row.len()));
    let best = f64::from(row[order[0]]);
    let weight = |id: usize| ((f64::from(row[id]) - best) / f64::from(params.temperature)).exp();
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let mut mass = 0.0;
    let mut probabilities = vec![0.0; row.len()];
    for (rank, &id) in order.iter().enumerate() {
        if rank > 0 && (mass >= f64::from(params.top_p) * total || weight(id) < f64::from(params.min_p)) {
            break;
        }
        mass += weight(id);
        probabilities[id] = weight(id);
    }
    probabilities.iter().map(|p| p / mass).collect()
}

/// Draws at many positions and compares the frequencies by chi-square; what has no probability never comes.
fn check_distribution(row: &[f32], params: &SamplingParams) {
    const DRAWS: usize = 20_000;
    let state = state(params.clone());
    let mut sampler = Sampler::default();
    let mut counts = vec![0usize; row.len()];
    for position in 0..DRAWS {
        counts[sampler.sample(row, &state, position).unwrap().id as usize] += 1;
    }
    let (mut chi, mut freedom) = (0.0, -1.0f64);
    for (id, p) in expected(row, params).into_iter().enumerate() {
        let mean = p * DRAWS as f64;
        if p == 0.0 {
            assert_eq!(counts[id], 0, "token {id} is filtered out by {params:?}");
        } else if mean >= 5.0 {
            chi += (counts[id] as f64 - mean).powi(2) / mean;
            freedom += 1.0;
        }
    }
    let limit = freedom.max(1.0) + 4.0 * (2.0 * freedom.max(1.0)).sqrt() + 4.0;
    assert!(chi < limit, "chi-square {chi:.1} past {limit:.1} for {params:?}");
}

fn bumpy(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 % 101) as f32 / 101.0 - 0.5) * 8.0).collect()
}

#[test]
fn draws_follow_the_distribution() {
    let row = bumpy(300);
    check_distribution(&row, &params(1.0));
    check_distribution(&row, &params(0.5));
    check_distribution(&row, &SamplingParams { top_k: Some(10), ..params(1.3) });
    check_distribution(&row, &SamplingParams { top_p: 0.5, ..params(1.0) });
    check_distribution(&row, &SamplingParams { top_p: 0.999, ..params(3.0) });
    check_distribution(&row, &SamplingParams { min_p: 0.2, ..params(1.0) });
    check_distribution(&row, &SamplingParams { top_k: Some(40), top_p: 0.8, min_p: 0.1, ..params(1.0) });
    check_distribution(&row, &SamplingParams { top_p: 0.9, min_p: 0.3, ..params(2.0) });
    check_distribution(&[0.0; 2000], &SamplingParams { top_p: 0.3, ..params(1.0) });
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    let mut row = vec![0.0; 1000];
    row[700] = 3.0;
    row[300] = 3.0;
    assert_eq!(sampled(&row, &SamplingParams::greedy(), 0), 300);
    assert_eq!(sampled(&row, &SamplingParams { top_k: Some(1), ..params(1.0) }, 0), 300);
    assert_eq!(sampled(&row, &params(1e-3), 5) % 400, 300, "a low temperature draws among the largest");
    assert_eq!(sampled(&row, &params(1e-40), 5), 300);
}

#[test]
fn the_draw_depends_on_seed_and_position_alone() {
    let row = bumpy(500);
    let draws = |seed, sampler: &mut Sampler| -> Vec<u32> {
        let state = state(SamplingParams { seed: Some(seed), ..params(1.5) });
        (0..50).map(|position| sampler.sample(&row, &state, position).unwrap().id).collect()
    };
    let mut warm = Sampler::default();
    let first = draws(1, &mut warm);
    assert_ne!(first, draws(2, &mut warm));
    assert_eq!(first, draws(1, &mut warm), "buffers of another request change nothing");
    assert_eq!(first, draws(1, &mut Sampler::default()));
}

#[test]
fn bias_penalties_and_mask() {
    let row = [1.0, 2.0, 3.0, 4.0];
    let greedy = SamplingParams::greedy();
    assert_eq!(sampled(&row, &SamplingParams { logit_bias: [(0, 10.0), (999, 5.0)].into(), ..greedy.clone() }, 0), 0);

    let check = |params: SamplingParams, output: &[u32], expected: u32| {
        let mut state = SamplerState::new(&GenerateRequest::new(vec![3], params, 100), 0);
        output.iter().for_each(|token| state.push(*token));
        assert_eq!(Sampler::default().sample(&row, &state, output.len()).unwrap().id, expected);
    };
    check(SamplingParams { repetition_penalty: 2.0, ..greedy.clone() }, &[], 2); // the prompt's 3: 4 / 2
    check(SamplingParams { repetition_penalty: 2.0, ..greedy.clone() }, &[2], 1); // 3 / 2 too
    check(SamplingParams { presence_penalty: 1.5, ..greedy.clone() }, &[], 3); // the prompt does not count
    check(SamplingParams { presence_penalty: 1.5, ..greedy.clone() }, &[3, 3], 2);
    check(SamplingParams { frequency_penalty: 0.4, ..greedy.clone() }, &[3, 3], 3); // 4 - 0.8
    check(SamplingParams { frequency_penalty: 0.4, ..greedy.clone() }, &[3, 3, 3], 2); // 4 - 1.2

    let mut request = GenerateRequest::new(vec![1], SamplingParams { min_tokens: 2, ..greedy }, 100);
    request.stop_ids = vec![3];
    let state = SamplerState::new(&request, 0);
    let at = |position| Sampler::default().sample(&row, &state, position).unwrap().id;
    assert_eq!([at(0), at(1), at(2)], [2, 2, 3]);
    request.stop_ids = vec![0, 1, 2, 3];
    Sampler::default().sample(&row, &SamplerState::new(&request, 0), 0).unwrap();
}

#[test]
fn logprobs_are_the_models_own() {
    let row = [1.0, 2.0, 3.0, 2.0];
    let params = SamplingParams { logprobs: Some(2), logit_bias: [(0, 50.0)].into(), ..SamplingParams::greedy() };
    let sampled = Sampler::default().sample(&row, &state(params), 0).unwrap();
    let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    let logprob = |x: f64| (x - total.ln()) as f32;
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} {b}");
    let found = sampled.logprobs.unwrap();
    assert_eq!(sampled.id, 0);
    close(found.logprob, logprob(1.0));
    assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1]);
    close(found.top[0].1, logprob(3.0));
    close(found.top[1].1, logprob(2.0));
}

#[test]
fn what_is_not_finite_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 15, 16, 36] {
            let mut row = vec![0.5; 37];
            row[at] = bad;
            assert_eq!(Sampler::default().sample(&row, &state(params(1.0)), 0), Err(NotFinite));
        }
    }
    assert_eq!(Sampler::default().sample(&[], &state(params(1.0)), 0), Err(NotFinite));
}

proptest! {
    #[test]
    fn the_largest_are_found_in_order(row in prop::collection::vec(-4i8..4, 1..2000), k in 0usize..400) {
        let row: Vec<f32> = row.into_iter().map(f32::from).collect();
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
        order.truncate(k);
        let mut keys = Vec::new();
        largest(&row, k, &mut keys);
        prop_assert_eq!(keys.into_iter().map(key_id).collect::<Vec<_>>(), order);
    }

    #[test]
    fn whatever_the_row_and_the_filters_the_token_is_among_the_allowed(
        row in prop::collection::vec(-30f32..30.0, 1..400),
        temperature in 0.05f32..5.0,
        top_k in prop::option::of(1usize..500),
        top_p in 0.01f32..1.0,
        min_p in 0.0f32..1.0,
        position in 0usize..1000,
    ) {
        let params = SamplingParams { top_k, top_p, min_p, ..params(temperature) };
        let id = sampled(&row, &params, position) as usize;
        // Weights in f32 and in f64 may differ at the very border: allow what the next notch would.
        let wider = SamplingParams { top_p: (top_p + 1e-4).min(1.0), min_p: (min_p - 1e-4).max(0.0), ..params };
        prop_assert!(expected(&row, &wider)[id] > 0.0);
    }
}

/// `cargo test --release -p engram-inference sampling_time -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn sampling_time() {
    let row: Vec<f32> = (0..151_936u64)
        .map(|i| {
            let uniform = |salt: u64| ((i ^ salt).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32 / (1 << 24) as f32;
            (0..6).map(|salt| uniform(salt * 0x9E37_79B9_7F4A_7C15)).sum::<f32>() * 6.0
        })
        .collect();
    let cases = [
        ("greedy", SamplingParams::greedy()),
        ("temperature 1", params(1.0)),
        ("top_k 50", SamplingParams { top_k: Some(50), ..params(1.0) }),
        ("top_p 0.95", SamplingParams { top_p: 0.95, ..params(1.0) }),
        ("top_p 0.95, flat", SamplingParams { top_p: 0.95, ..params(20.0) }),
        ("min_p 0.05", SamplingParams { min_p: 0.05, ..params(1.0) }),
        (
            "top_k 50, top_p 0.9, bias",
            SamplingParams { top_k: Some(50), top_p: 0.9, logit_bias: [(5, 1.0)].into(), ..params(0.8) },
        ),
        ("greedy, 5 logprobs", SamplingParams { logprobs: Some(5), ..SamplingParams::greedy() }),
    ];
    for (name, params) in cases {
        let state = state(params);
        let mut sampler = Sampler::default();
        let mut samples: Vec<f64> = (0..200)
            .map(|position| {
                let begun = std::time::Instant::now();
                sampler.sample(&row, &state, position).unwrap();
                begun.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        println!("{name:28} {:8.0} µs a row of {}", samples[100], row.len());
    }
}
