//! A model for tests of the HTTP side, where a failure must come at an exact moment: after a letter it
//! says the next one, after `z` it ends. The engine around it is the real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use candle_core::Device;
use engram_inference::{Engine, EngineConfig, ForwardPass, Geometry, KvCache, KvType};
use engram_models::chat_template::ChatTemplate;
use engram_models::fim::FimTokens;
use engram_models::forward::ForwardBatch;
use engram_models::tokenizer::{SpecialIds, Tokenizer, TokenizerParts};
use engram_models::{ModelError, Workspace};

use crate::app::AppState;
use crate::auth::ApiKeys;
use crate::backend::{ModelFacts, Models, ServedModel};
use crate::config::{Config, MemorySettings, Sources, resolve};
use crate::limits::HttpSettings;
use crate::memory::MemoryService;
use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::spend::Spend;

/// Ids below are bytes; these follow.
const SPECIALS: [&str; 6] =
    ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
/// `<|im_end|>`.
pub const END: u32 = 257;
/// A byte-level vocabulary has merges; this one, whose token comes last, is in no test's text.
const MERGE: [&str; 2] = ["Q Q", "QQ"];
const VOCAB: usize = 256 + SPECIALS.len() + 1;

/// Turned while the engine runs.
#[derive(Debug)]
pub struct Knobs {
    /// Passes until one fails; below 0: none does.
    pub fail_in: AtomicI64,
    /// Time of a pass.
    pub delay_millis: AtomicU64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { fail_in: AtomicI64::new(-1), delay_millis: AtomicU64::new(0) }
    }
}

struct Alphabet {
    knobs: Arc<Knobs>,
    max_len: usize,
}

/// What follows a token: letters in order, `a` after everything that is no letter.
fn successor(id: u32) -> u32 {
    match u8::try_from(id) {
        Ok(b'z') => END,
        Ok(letter @ b'a'..=b'y') => u32::from(letter) + 1,
        _ => u32::from(b'a'),
    }
}

impl ForwardPass for Alphabet {
    fn forward(&mut self, batch: &ForwardBatch, _: &KvCache, workspace: &mut Workspace) -> Result<(), ModelError> {
        std::thread::sleep(Duration::from_millis(self.knobs.delay_millis.load(Ordering::SeqCst)));
        if self.knobs.fail_in.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(ModelError::Tensor(candle_core::Error::Msg("told to fail, at /a/secret/path".into())));
        }
        let logits = workspace.logits_mut(batch.logit_rows.len(), VOCAB);
        logits.fill(0.0);
        for (row, values) in batch.logit_rows.iter().zip(logits.chunks_mut(VOCAB)) {
            values[successor(batch.token_ids[*row as usize]) as usize] = 20.0;
        }
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        Geometry { layers: 1, kv_heads: 1, head_dim: 8, vocab_size: VOCAB, max_len: self.max_len }
    }

    fn device(&self) -> Device {
        Device::Cpu
    }
}

/// Bytes as the letters that byte-level vocabularies write for them.
fn byte_text(byte: u8) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let before = (0..byte).filter(|&byte| !printable(byte)).count() as u32;
    let code = if printable(byte) { u32::from(byte) } else { 0x100 + before };
    char::from_u32(code).expect("a letter").to_string()
}

fn tokenizer() -> Tokenizer {
    let specials = SPECIALS.iter().map(|text| (*text).to_owned());
    let parts = TokenizerParts {
        model: "gpt2".into(),
        pre: Some("qwen2".into()),
        tokens: (0..=255u8).map(byte_text).chain(specials).chain([MERGE[1].to_owned()]).collect(),
        token_types: [vec![1; 256], vec![3; SPECIALS.len()], vec![1]].concat(),
        merges: vec![MERGE[0].to_owned()],
        ids: SpecialIds { eos: Some(END), ..SpecialIds::default() },
        ..TokenizerParts::default()
    };
    Tokenizer::from_parts(parts).expect("a vocabulary")
}

/// A server's state around the model `alphabet`, and the knobs of its passes; it has no memory.
pub fn server(keys: &[&str], change: impl FnOnce(&mut EngineConfig, &mut HttpSettings)) -> (AppState, Arc<Knobs>) {
    let (state, knobs) = server_with_memory(keys, 256, |config, http, _| change(config, http));
    state.memory().shut("this test has no memory");
    (state, knobs)
}

/// The same with the router that a config file of this text describes.
pub fn routed(text: &str) -> (AppState, Arc<Knobs>) {
    slow(text, 0)
}

/// The same with an engine that has known from its first step on that one takes so long.
pub fn slow(text: &str, delay_millis: u64) -> (AppState, Arc<Knobs>) {
    let knobs = Knobs { fail_in: AtomicI64::new(-1), delay_millis: AtomicU64::new(delay_millis) };
    let (state, knobs) = build(ApiKeys::default(), 256, text, knobs, |_, _, _| {});
    state.memory().shut("this test has no memory");
    (state, knobs)
}

/// The same with a context of `max_len` tokens and a memory that is still to be opened.
pub fn server_with_memory(
    keys: &[&str],
    max_len: usize,
    change: impl FnOnce(&mut EngineConfig, &mut HttpSettings, &mut MemorySettings),
) -> (AppState, Arc<Knobs>) {
    server_with_keys(ApiKeys::new(keys).expect("good keys"), max_len, change)
}

/// The same before the doors of these keys.
pub fn server_with_keys(
    keys: ApiKeys,
    max_len: usize,
    change: impl FnOnce(&mut EngineConfig, &mut HttpSettings, &mut MemorySettings),
) -> (AppState, Arc<Knobs>) {
    // Tests of the engine ask the same thing twice, and mean the engine.
    build(keys, max_len, "[routing]\ncache = false\n", Knobs::default(), change)
}

fn build(
    keys: ApiKeys,
    max_len: usize,
    config_text: &str,
    knobs: Knobs,
    change: impl FnOnce(&mut EngineConfig, &mut HttpSettings, &mut MemorySettings),
) -> (AppState, Arc<Knobs>) {
    let mut config = EngineConfig {
        block_size: 4,
        kv_bytes: 512 * 4 * 2 * 8 * 4,
        kv_dtype: KvType::F32,
        max_num_seqs: 16,
        queue_limit: 64,
        ..EngineConfig::default()
    };
    let mut settings = HttpSettings::default();
    let mut memory = memory_settings();
    change(&mut config, &mut settings, &mut memory);
    let knobs = Arc::new(knobs);
    let metrics = Arc::new(Metrics::new().expect("names are distinct"));
    let alphabet = Alphabet { knobs: Arc::clone(&knobs), max_len };
    let engine = Engine::start(alphabet, config, metrics.observer("alphabet")).expect("an engine");
    let tokenizer = tokenizer();
    let model = ServedModel {
        id: "alphabet".into(),
        aliases: vec!["abc".into()],
        created: 1,
        template: Arc::new(ChatTemplate::for_tokenizer(&tokenizer).expect("ChatML")),
        fim: FimTokens::find(&tokenizer),
        stop_ids: tokenizer.stop_ids().to_vec(),
        max_len: engine.capacity().max_len,
        tokenizer: Arc::new(tokenizer),
        engine,
        facts: ModelFacts::default(),
    };
    let memory = MemoryService::new(memory, Arc::clone(&metrics));
    let routing = routing(config_text, &metrics);
    (AppState::new(Models::new([model]), keys, settings, metrics, memory, routing), knobs)
}

/// What is configured where nothing is.
pub fn memory_settings() -> MemorySettings {
    configured("").memory
}

/// What a config file of this text says.
pub fn configured(text: &str) -> Config {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let env = [("HOME".to_owned(), "/nowhere".to_owned())].into();
    let sources = Sources { env, files: vec![file.path().to_owned()], ..Sources::default() };
    resolve(&sources).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// The router that a config file of this text describes; nobody checks its backends' health.
pub fn routing(text: &str, metrics: &Metrics) -> Routing {
    Routing::new(configured(text).routing, Spend::in_memory(), metrics.routing().clone()).expect("good backends")
}
