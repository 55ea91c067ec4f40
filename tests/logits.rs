//! The same logits, bit for bit, alone, in random batches and in random prefill chunks, on plain rows and as tensors: what the CPU
//! path promises. And a pass that allocates nothing of its own once it is warm.

use candle_core::{Device, Tensor};
use engram_inference::KvType;
use engram_models::forward::{ForwardBatch, KvStore, SequenceSpan};
use engram_models::{LoadOptions, Model, Workspace};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::{QWEN, SMOLLM2, gguf};

const BLOCK: usize = 16;
const PROMPTS: usize = 32;
/// Longest prompt: past one block row of every kernel, and past several KV blocks.
const LONGEST: usize = 90;
const BLOCKS_EACH: usize = LONGEST.div_ceil(BLOCK);

/// KV of all prompts, each with blocks of its own, scattered.
struct Caches {
    layers: Vec<(Tensor, Tensor)>,
    tables: Vec<Vec<u32>>,
}

impl KvStore for Caches {
    fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (k, v) = &self.layers[layer];
        (k, v)
    }
    fn block_size(&self) -> usize {
        BLOCK
    }
}

impl Caches {
    fn new(model: &Model, kind: KvType, rng: &mut ChaCha8Rng) -> Self {
        let config = model.config();
        let shape = (PROMPTS * BLOCKS_EACH, config.kv_heads, BLOCK, kind.row_len(config.head_dim));
        let zeros = || Tensor::zeros(shape, kind.dtype(), &Device::Cpu).expect("a KV cache of a small model");
        let mut blocks: Vec<u32> = (0..(PROMPTS * BLOCKS_EACH) as u32).collect();
        blocks.shuffle(rng);
        let tables = blocks.chunks(BLOCKS_EACH).map(<[u32]>::to_vec).collect();
        Self { layers: (0..config.layers).map(|_| (zeros(), zeros())).collect(), tables }
    }
}

/// A batch of parts of some prompts, `(prompt, from, to)` each, that wants the logits of every part's last token.
fn batch(kv: &Caches, prompts: &[Vec<u32>], parts: &[(usize, usize, usize)]) -> ForwardBatch {
    let mut batch = ForwardBatch::default();
    for &(prompt, from, to) in parts {
        let table = &kv.tables[prompt];
        batch.spans.push(SequenceSpan {
            query_start: batch.token_ids.len(),
            query_len: to - from,
            context_len: to,
            block_table: table.clone(),
        });
        batch.token_ids.extend_from_slice(&prompts[prompt][from..to]);
        batch.positions.extend(from as u32..to as u32);
        batch.slot_mapping.extend((from..to).map(|p| table[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32));
        batch.logit_rows.push(batch.token_ids.len() as u32 - 1);
    }
    batch
}

/// One pass over such a batch; its logits.
fn pass(model: &Model, kv: &Caches, prompts: &[Vec<u32>], parts: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
    let mut workspace = Workspace::default();
    model.pass(&batch(kv, prompts, parts), kv, &mut workspace).expect("a forward pass");
    workspace.logits().chunks(model.config().vocab_size).map(<[f32]>::to_vec).collect()
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn plain_rows_give_what_tensors_give() {
    for (id, kind) in [(SMOLLM2, KvType::F16), (QWEN, KvType::F16), (SMOLLM2, KvType::Int8), (QWEN, KvType::Int8)] {
        let model = Model::load_path(&gguf(id), &LoadOptions::default()).unwrap_or_else(|e| panic!("load {id}: {e}"));
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let vocab = model.config().vocab_size as u32;
        let prompts: Vec<Vec<u32>> =
            [1, 40, 7, 90].iter().map(|&len| (0..len).map(|_| rng.random_range(0..vocab)).collect()).collect();
        let (rows, tensors) = (Caches::new(&model, kind, &mut rng), Caches::new(&model, kind, &mut rng));
        // Prompts in two chunks, of which the second stands beside a decode.
        for parts in [&[(1, 0, 33), (3, 0, 60)][..], &[(0, 0, 1), (1, 33, 40), (3, 60, 90), (2, 0, 7)]] {
            let logits = pass(&model, &rows, &prompts, parts);
            let expected = model.forward(&batch(&tensors, &prompts, parts), &tensors).expect("a forward pass");
            let expected: Vec<Vec<f32>> = expected.to_vec2().expect("f32 logits on the CPU");
            for (part, (logits, expected)) in logits.iter().zip(&expected).enumerate() {
                assert!(same_bits(logits, expected), "{id} {kind:?} part {part} of {parts:?}");
            }
            assert_eq!(logits.len(), expected.len());
        }
    }
}

#[test]
fn a_warm_pass_allocates_nothing_of_its_own() {
    for (id, kind) in [(SMOLLM2, KvType::F16), (QWEN, KvType::F16), (SMOLLM2, KvType::Int8)] {
        let model = Model::load_path(&gguf(id), &LoadOptions::default()).unwrap_or_else(|e| panic!("load {id}: {e}"));
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let prompts: Vec<Vec<u32>> =
            (0..PROMPTS as u32).map(|i| (0..LONGEST as u32).map(|t| 1 + i + t).collect()).collect();
        let kv = Caches::new(&model, kind, &mut rng);
        let mut workspace = Workspace::default();
        // A prefill, decodes of some widths, and both at once.
        let decodes = |count: usize| (0..count).map(|i| (i, 40, 41)).collect::<Vec<_>>();
        let mut mixed = decodes(5);
        mixed.push((9, 0, 70));
        for parts in [vec![(0, 0, 90)], decodes(1), decodes(8), decodes(32), mixed] {
            let batch = batch(&kv, &prompts, &parts);
            let mut run = || model.pass(&batch, &kv, &mut workspace).expect("a forward pass");
            run();
            run();
            // Of this thread, which does a worker's share besides its own work; the workers' buffers are the same ones.
            // Candle makes a list of one entry for each write in place: K and V of each layer.
            let counted = allocation_counter::measure(run);
            let of_candle = 2 * model.config().layers as u64;
            assert_eq!(counted.count_total, of_candle, "{id} {kind:?}, {} sequences: {counted:?}", parts.len());
        }
    }
}

#[test]
fn logits_do_not_depend_on_neighbours_or_chunks() {
    for (id, kind) in [(SMOLLM2, KvType::F16), (QWEN, KvType::F16), (SMOLLM2, KvType::Int8), (QWEN, KvType::Int8)] {
        let model = Model::load_path(&gguf(id), &LoadOptions::default()).unwrap_or_else(|e| panic!("load {id}: {e}"));
        let mut rng = ChaCha8Rng::seed_from_u64(32);
        let vocab = model.config().vocab_size as u32;
        let prompts: Vec<Vec<u32>> =
            (0..PROMPTS).map(|i| (0..1 + (i * 37) % LONGEST).map(|_| rng.random_range(0..vocab)).collect()).collect();
        let kv = Caches::new(&model, kind, &mut rng);
        let alone: Vec<Vec<f32>> =
            (0..PROMPTS).map(|i| pass(&model, &kv, &prompts, &[(i, 0, prompts[i].len())]).remove(0)).collect();

        // Every prompt goes forward by a random chunk in a random batch, until all are through.
        for round in 0..2 {
            let kv = Caches::new(&model, kind, &mut rng);
            let mut done = [0usize; PROMPTS];
            let mut finished = 0;
            while finished < PROMPTS {
                let mut open: Vec<usize> = (0..PROMPTS).filter(|&i| done[i] < prompts[i].len()).collect();
                open.shuffle(&mut rng);
                open.truncate(rng.random_range(1..=open.len()));
                let parts: Vec<(usize, usize, usize)> = open
                    .into_iter()
                    .map(|i| (i, done[i], done[i] + rng.random_range(1..=prompts[i].len() - done[i])))
                    .collect();
                for (logits, &(i, _, to)) in pass(&model, &kv, &prompts, &parts).iter().zip(&parts) {
                    done[i] = to;
                    if to == prompts[i].len() {
                        finished += 1;
                        let what = format!(
                            "{id} {kind:?} round {round} prompt {i} of {to} tokens, {} parts in its last pass",
                            parts.len()
                        );
                        assert!(same_bits(logits, &alone[i]), "{what}");
                    }
                }
            }
        }
    }
}
