//! The same answer whatever happens around a request: batched, chunked, cached, preempted, seeded.
//! Real models, greedy ids compared one by one.

use std::sync::Arc;

use engram_inference::{Engine, EngineConfig, EngineHandle, GenerateRequest, SamplingParams, TokenEvent, Usage};
use engram_models::tokenizer::Specials;
use engram_models::{LoadOptions, Model};

use crate::support::{QWEN, SMOLLM2, gguf, tokenizer};

const SNIPPETS: [&str; 8] = [
    "fn main() {\n    let mut total = 0;\n    for value in [1, 2, 3] {\n        total +=",
    "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot =",
    "SELECT name, count(*) FROM users WHERE",
    "# 读取文件并统计行数 🚀\nimport sys\n\ndef count_lines(path):",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "x",
    "package main\n\nimport \"fmt\"\n\nfunc fibonacci(n int) int {\n\tif n < 2 {\n\t\treturn n\n\t}\n",
    "const debounce = (fn, delay) => {\n  let timer;\n  return (...args) => {\n",
];

/// Prompts of very different lengths.
fn prompts(id: &str) -> Vec<Vec<u32>> {
    let tokenizer = tokenizer(id);
    SNIPPETS
        .iter()
        .enumerate()
        .map(|(i, text)| tokenizer.encode(&format!("{}{text}", "// a comment line\n".repeat(i * 5)), Specials::AsText))
        .collect()
}

fn start(id: &str, config: EngineConfig) -> EngineHandle {
    let model = Model::load_path(&gguf(id), &LoadOptions::default()).unwrap_or_else(|e| panic!("load {id}: {e}"));
    Engine::start(model, config, Arc::new(())).unwrap_or_else(|e| panic!("start {id}: {e}"))
}

fn request(prompt: &[u32], sampling: SamplingParams, tokens: usize) -> GenerateRequest {
    GenerateRequest::new(prompt.to_vec(), SamplingParams { ignore_eos: true, ..sampling }, tokens)
}

fn collect(mut stream: engram_inference::TokenStream) -> (Vec<u32>, Usage) {
    let mut ids = Vec::new();
    loop {
        match stream.recv() {
            Some(TokenEvent::Token { id, .. }) => ids.push(id),
            Some(TokenEvent::Finished { usage, .. }) => return (ids, usage),
            Some(TokenEvent::Prompt(_)) => {}
            Some(TokenEvent::Failed(error)) => panic!("failed: {error}"),
            None => panic!("the stream ended without a finish"),
        }
    }
}

fn alone(engine: &EngineHandle, prompts: &[Vec<u32>], sampling: &SamplingParams, tokens: usize) -> Vec<Vec<u32>> {
    let one = |p: &Vec<u32>| collect(engine.submit(request(p, sampling.clone(), tokens)).expect("submit")).0;
    prompts.iter().map(one).collect()
}

fn together(engine: &EngineHandle, prompts: &[Vec<u32>], sampling: &SamplingParams, tokens: usize) -> Vec<Vec<u32>> {
    let streams: Vec<_> =
        prompts.iter().map(|p| engine.submit(request(p, sampling.clone(), tokens)).expect("submit")).collect();
    streams.into_iter().map(|s| collect(s).0).collect()
}

fn uncached() -> EngineConfig {
    EngineConfig { prefix_cache: false, kv_bytes: 256 << 20, ..EngineConfig::default() }
}

#[test]
fn batched_equals_alone() {
    for id in [SMOLLM2, QWEN] {
        let engine = start(id, uncached());
        let prompts = prompts(id);
        let expected = alone(&engine, &prompts, &SamplingParams::greedy(), 24);
        assert_eq!(together(&engine, &prompts, &SamplingParams::greedy(), 24), expected, "{id}");
    }
}

#[test]
fn seeded_draws_do_not_depend_on_neighbours() {
    let engine = start(SMOLLM2, uncached());
    let prompts = prompts(SMOLLM2);
    let sampling = SamplingParams { temperature: 0.9, top_p: 0.95, seed: Some(42), ..SamplingParams::default() };
    let expected = alone(&engine, &prompts, &sampling, 24);
    assert_eq!(together(&engine, &prompts, &sampling, 24), expected);
    let other = SamplingParams { seed: Some(43), ..sampling };
    assert_ne!(alone(&engine, &prompts, &other, 24), expected, "another seed must give another text");
}

#[test]
fn chunked_equals_whole() {
    let prompts = prompts(SMOLLM2);
    let expected = alone(&start(SMOLLM2, uncached()), &prompts, &SamplingParams::greedy(), 24);
    for chunk in [1, 7, 33] {
        let engine = start(SMOLLM2, EngineConfig { max_prefill_chunk: chunk, ..uncached() });
        assert_eq!(together(&engine, &prompts, &SamplingParams::greedy(), 24), expected, "chunks of {chunk}");
    }
}

#[test]
fn cached_equals_cold() {
    let engine = start(SMOLLM2, EngineConfig { prefix_cache: true, ..uncached() });
    let prompts = prompts(SMOLLM2);
    let cold = alone(&engine, &prompts, &SamplingParams::greedy(), 24);
    for (prompt, expected) in prompts.iter().zip(&cold) {
        let (ids, usage) = collect(engine.submit(request(prompt, SamplingParams::greedy(), 24)).expect("submit"));
        assert_eq!(&ids, expected, "prompt of {} tokens", prompt.len());
        let blocks = (prompt.len() - 1) / 16 * 16;
        assert_eq!(usage.cached_tokens, blocks, "prompt of {} tokens", prompt.len());
    }
    let tenant = GenerateRequest { tenant: 7, ..request(&prompts[7], SamplingParams::greedy(), 4) };
    assert_eq!(
        collect(engine.submit(tenant).expect("submit")).1.cached_tokens,
        0,
        "another tenant sees a cached block"
    );
}

#[test]
fn preempted_equals_undisturbed() {
    let prompts = prompts(SMOLLM2);
    let expected = alone(&start(SMOLLM2, uncached()), &prompts, &SamplingParams::greedy(), 96);
    // 30 layers x (K, V) x 3 heads x 64 x f16 = 23,040 bytes a token: room for about 500 tokens, 1,300 wanted.
    let engine = start(SMOLLM2, EngineConfig { kv_bytes: 500 * 23_040, prefix_cache: false, ..uncached() });
    assert_eq!(together(&engine, &prompts, &SamplingParams::greedy(), 96), expected);
    let stats = engine.stats();
    assert!(stats.preemptions > 0, "nothing was preempted: {stats:?}");
    assert_eq!(stats.blocks.used, 0, "blocks left behind: {stats:?}");
}
