//! A model whose logits are a hash of the tokens it reads back from the KV cache through the block
//! tables: a wrong slot, block or position anywhere shows as wrong tokens. For tests of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::{Device, Tensor};
use engram_kernels::ops::KvType;
use engram_models::forward::{ForwardBatch, KvStore};
use engram_models::{ModelError, Workspace};

use crate::config::EngineConfig;
use crate::forward::{ForwardPass, Geometry};
use crate::kv_cache::KvCache;

pub(crate) const VOCAB: usize = 64;
const LAYERS: usize = 2;

/// Knobs that a test turns while the engine runs.
#[derive(Debug, Default)]
pub(crate) struct Knobs {
    pub panic_next: AtomicBool,
    pub nan_next: AtomicBool,
    pub fail_next: AtomicBool,
    pub delay_micros: AtomicU64,
    /// What each token of a pass adds to the delay.
    pub token_micros: AtomicU64,
    pub passes: AtomicUsize,
    pub tokens: AtomicUsize,
}

pub(crate) struct TestModel {
    pub knobs: Arc<Knobs>,
    pub max_len: usize,
}

impl TestModel {
    pub fn new() -> (Self, Arc<Knobs>) {
        let knobs = Arc::new(Knobs::default());
        (Self { knobs: Arc::clone(&knobs), max_len: 1024 }, knobs)
    }
}

/// A small engine: 16-token steps, 4-token blocks, as many blocks as asked for.
pub(crate) fn config(blocks: usize) -> EngineConfig {
    EngineConfig {
        max_num_seqs: 8,
        max_batch_tokens: 16,
        max_prefill_chunk: 16,
        block_size: 4,
        kv_bytes: blocks * LAYERS * 2 * 4 * 4,
        kv_dtype: KvType::F32,
        queue_limit: 64,
        ..EngineConfig::default()
    }
}

/// The logits after `tokens`, as the model gives them.
pub(crate) fn logits_after(tokens: &[u32]) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for (position, token) in tokens.iter().enumerate() {
        state = (state ^ u64::from(*token) ^ (position as u64) << 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        state ^= state >> 29;
    }
    let logit =
        |id: u64| ((state ^ id.wrapping_mul(0xA076_1D64_78BD_642F)).wrapping_mul(0xE703_7ED1_A0B4_28DB) >> 40) as f32;
    (0..VOCAB as u64).map(|id| logit(id) / (1 << 21) as f32).collect()
}

/// What greedy decoding gives after `prompt`.
pub(crate) fn greedy(prompt: &[u32], len: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..len {
        let logits = logits_after(&tokens);
        let best = (0..VOCAB).fold(0, |best, id| if logits[id] > logits[best] { id } else { best });
        tokens.push(best as u32);
    }
    tokens.split_off(prompt.len())
}

impl ForwardPass for TestModel {
    fn forward(&mut self, batch: &ForwardBatch, kv: &KvCache, workspace: &mut Workspace) -> Result<(), ModelError> {
        self.knobs.passes.fetch_add(1, Ordering::SeqCst);
        self.knobs.tokens.fetch_add(batch.num_tokens(), Ordering::SeqCst);
        let token_micros = self.knobs.token_micros.load(Ordering::SeqCst);
        let micros = self.knobs.delay_micros.load(Ordering::SeqCst) + token_micros * batch.num_tokens() as u64;
        std::thread::sleep(Duration::from_micros(micros));
        assert!(!self.knobs.panic_next.swap(false, Ordering::SeqCst), "the model was told to panic");
        if self.knobs.fail_next.swap(false, Ordering::SeqCst) {
            return Err(ModelError::Tensor(candle_core::Error::Msg("told to fail".into())));
        }
        write(batch, kv)?;
        let stored = read(kv)?;
        let mut rows = Vec::new();
        for row in &batch.logit_rows {
            let row = *row as usize;
            let span = batch.spans.iter().find(|s| (s.query_start..s.query_start + s.query_len).contains(&row));
            let span = span.expect("every row belongs to a sequence");
            let context = span.context_len - span.query_len + (row - span.query_start) + 1;
            let slot =
                |p: usize| span.block_table[p / kv.block_size()] as usize * kv.block_size() + p % kv.block_size();
            let read_back: Vec<u32> = (0..context)
                .map(|p| {
                    for (tokens, positions) in &stored {
                        assert_eq!(positions[slot(p)] as usize, p, "the slot holds another position");
                        assert_eq!(tokens[slot(p)], stored[0].0[slot(p)], "layers disagree");
                    }
                    stored[0].0[slot(p)] as u32
                })
                .collect();
            assert_eq!(read_back.last(), batch.token_ids.get(row), "the newest token is not where it was put");
            rows.extend(logits_after(&read_back));
        }
        if self.knobs.nan_next.swap(false, Ordering::SeqCst) && !rows.is_empty() {
            rows[3] = f32::NAN;
        }
        workspace.logits_mut(batch.logit_rows.len(), VOCAB).copy_from_slice(&rows);
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        Geometry { layers: LAYERS, kv_heads: 1, head_dim: 1, vocab_size: VOCAB, max_len: self.max_len }
    }

    fn device(&self) -> Device {
        Device::Cpu
    }
}

/// K holds the token, V its position.
fn write(batch: &ForwardBatch, kv: &KvCache) -> candle_core::Result<()> {
    for layer in 0..LAYERS {
        let (k, v) = kv.layer(layer);
        let slots = k.elem_count();
        for (row, slot) in batch.slot_mapping.iter().enumerate() {
            let value = |x: u32| Tensor::new(&[x as f32], &Device::Cpu);
            k.reshape(slots)?.slice_set(&value(batch.token_ids[row])?, 0, *slot as usize)?;
            v.reshape(slots)?.slice_set(&value(batch.positions[row])?, 0, *slot as usize)?;
        }
    }
    Ok(())
}

fn read(kv: &KvCache) -> candle_core::Result<Vec<(Vec<f32>, Vec<f32>)>> {
    (0..LAYERS)
        .map(|layer| {
            let (k, v) = kv.layer(layer);
            Ok((k.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?))
        })
        .collect()
}
