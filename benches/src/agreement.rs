//! How far answers are from the exact model's, teacher-forced over real text.
//!
//! The truth is the exact model: weights dequantised to f32, f32 arithmetic, f32 KV cache. Text is cut into
//! chunks, each read from an empty cache; at every position the next-token distribution of an engine is
//! compared with the truth's: KL(truth || engine), in nats, whether the likeliest token is the same, and
//! the perplexity of the text itself. Logits are worked off piece by piece, so memory stays bounded
//! (150,000 words of vocabulary times 4,000 positions would be 2.4 GB).

use std::io::Read;

use anyhow::{Context, bail};
use engram_inference::{EngineConfig, Geometry, KvCache, KvType};
use engram_models::forward::{ForwardBatch, SequenceSpan};
use engram_models::{Model, Workspace};
use serde_json::{Value, json};

const BLOCK_SIZE: usize = 16;

/// Something that gives logits for one chunk after the other, some rows at a time.
pub trait Teacher {
    /// Its name in tables.
    fn name(&self) -> &str;
    /// Logits `[ids.len(), vocab]` after each of the ids, which go on where the last call ended;
    /// `first` begins a new chunk.
    fn logits(&mut self, ids: &[u32], first: bool) -> anyhow::Result<Vec<f32>>;
}

/// A model of ours, read through a paged KV cache of its own.
pub struct Engram {
    name: String,
    model: Model,
    kv: KvCache,
    workspace: Workspace,
    position: usize,
}

impl Engram {
    /// Room for chunks of `chunk` tokens, K and V held in `kv_dtype`.
    pub fn new(name: &str, model: Model, chunk: usize, kv_dtype: KvType) -> anyhow::Result<Self> {
        let config = model.config();
        let geometry = Geometry {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            max_len: config.context_len,
        };
        if chunk > geometry.max_len {
            bail!("chunks of {chunk} tokens do not fit the model's context of {}", geometry.max_len);
        }
        let token_bytes = geometry.layers * 2 * geometry.kv_heads * kv_dtype.row_bytes(geometry.head_dim);
        let engine = EngineConfig {
            max_num_seqs: 1,
            block_size: BLOCK_SIZE,
            kv_bytes: (chunk.div_ceil(BLOCK_SIZE) + 1) * BLOCK_SIZE * token_bytes,
            kv_dtype,
            ..EngineConfig::default()
        };
        let kv = KvCache::new(&geometry, &engine, model.device())?;
        Ok(Self { name: name.to_owned(), model, kv, workspace: Workspace::default(), position: 0 })
    }
}

impl Teacher for Engram {
    fn name(&self) -> &str {
        &self.name
    }

    fn logits(&mut self, ids: &[u32], first: bool) -> anyhow::Result<Vec<f32>> {
        let start = if first { 0 } else { self.position };
        let end = start + ids.len();
        if end > self.kv.tokens() {
            bail!("a chunk of {end} tokens is longer than the cache of {}", self.kv.tokens());
        }
        self.position = end;
        let positions = start as u32..end as u32;
        let batch = ForwardBatch {
            token_ids: ids.to_vec(),
            positions: positions.clone().collect(),
            // The block table is the identity, so a slot is a position.
            slot_mapping: positions.collect(),
            spans: vec![SequenceSpan {
                query_start: 0,
                query_len: ids.len(),
                context_len: end,
                block_table: (0..end.div_ceil(BLOCK_SIZE) as u32).collect(),
            }],
            logit_rows: (0..ids.len() as u32).collect(),
        };
        self.model.pass(&batch, &self.kv, &mut self.workspace)?;
        Ok(self.workspace.logits().to_vec())
    }
}

/// Another program, whose logits come down a pipe: `ENGRLOGT`, the vocabulary's size as u32, then
/// rows of f32, everything little-endian.
pub struct Piped<R> {
    name: String,
    source: R,
    vocab: usize,
}

impl<R: Read> Piped<R> {
    /// Reads the head and checks it.
    pub fn new(name: &str, mut source: R, vocab: usize) -> anyhow::Result<Self> {
        let mut head = [0u8; 12];
        source.read_exact(&mut head).with_context(|| format!("{name} sent no logits"))?;
        let (magic, size) = head.split_at(8);
        let found = size.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
        if magic != b"ENGRLOGT" || found != vocab {
            bail!("{name} sent logits over {found} tokens, the model has {vocab}");
        }
        Ok(Self { name: name.to_owned(), source, vocab })
    }
}

impl<R: Read> Teacher for Piped<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn logits(&mut self, ids: &[u32], _first: bool) -> anyhow::Result<Vec<f32>> {
        let mut bytes = vec![0u8; ids.len() * self.vocab * 4];
        self.source.read_exact(&mut bytes).with_context(|| format!("{} stopped sending logits", self.name))?;
        Ok(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
    }
}

/// What is known of one engine after some positions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    positions: u64,
    kl_sum: f64,
    kl_max: f64,
    same_top: u64,
    /// Sum of -ln p(next token of the text), over the positions that have a next one in their chunk.
    surprise: f64,
    predictions: u64,
}

impl Tally {
    /// Mean KL divergence from the truth, nats.
    pub fn mean_kl(&self) -> f64 {
        self.kl_sum / self.positions.max(1) as f64
    }

    /// Share of positions whose likeliest token is the truth's, 0 to 1.
    pub fn top1(&self) -> f64 {
        self.same_top as f64 / self.positions.max(1) as f64
    }

    /// Perplexity of the text.
    pub fn perplexity(&self) -> f64 {
        (self.surprise / self.predictions.max(1) as f64).exp()
    }

    fn add(&mut self, position: &Position) {
        self.positions += 1;
        self.kl_sum += position.kl;
        self.kl_max = self.kl_max.max(position.kl);
        self.same_top += u64::from(position.same_top);
        if let Some(surprise) = position.surprise {
            self.surprise += surprise;
            self.predictions += 1;
        }
    }

    fn to_json(self) -> Value {
        json!({
            "mean_kl": self.mean_kl(),
            "max_kl": self.kl_max,
            "top1_agreement": self.top1(),
            "perplexity": self.perplexity(),
            "positions": self.positions,
        })
    }
}

/// One row of an engine against the same row of the truth.
struct Position {
    kl: f64,
    same_top: bool,
    surprise: Option<f64>,
}

/// Compares distributions given by logits; sums are taken in f64.
fn compare(truth: &[f32], found: &[f32], next: Option<u32>) -> Position {
    let (truth_norm, found_norm) = (log_sum_exp(truth), log_sum_exp(found));
    let mut kl = 0.0;
    for (&t, &f) in truth.iter().zip(found) {
        let log_p = f64::from(t) - truth_norm;
        // e^-60 of probability adds nothing; this skips most of a vocabulary.
        if log_p > -60.0 {
            kl += log_p.exp() * (log_p - (f64::from(f) - found_norm));
        }
    }
    Position {
        // It is never negative but for rounding.
        kl: kl.max(0.0),
        same_top: argmax(truth) == argmax(found),
        surprise: next.and_then(|id| found.get(id as usize)).map(|&logit| found_norm - f64::from(logit)),
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp()).sum();
    f64::from(max) + sum.ln()
}

/// Index of the largest; of equal ones the first.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best
}

/// How a text is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Tokens that are read from an empty cache: the longest context.
    pub chunk: usize,
    /// Tokens whose logits are held at once.
    pub piece: usize,
}

/// The result for the truth itself (only its perplexity says something) and for each engine.
pub struct Agreement {
    truth: (String, Tally),
    engines: Vec<(String, Tally)>,
}

/// Runs all over the text. `told` hears the number of tokens done after each chunk.
pub fn run(
    ids: &[u32],
    cut: Cut,
    truth: &mut dyn Teacher,
    engines: &mut [Box<dyn Teacher>],
    mut told: impl FnMut(usize),
) -> anyhow::Result<Agreement> {
    let mut truth_tally = Tally::default();
    let mut tallies = vec![Tally::default(); engines.len()];
    let mut done = 0;
    for chunk in ids.chunks(cut.chunk) {
        for start in (0..chunk.len()).step_by(cut.piece) {
            let end = (start + cut.piece).min(chunk.len());
            let piece = &chunk[start..end];
            // The token after each position; the last of a chunk has none.
            let next: Vec<Option<u32>> = (start + 1..=end).map(|at| chunk.get(at).copied()).collect();
            let exact = truth.logits(piece, start == 0)?;
            tally(&exact, &exact, &next, &mut truth_tally, truth.name())?;
            for (engine, tally_of) in engines.iter_mut().zip(&mut tallies) {
                let found = engine.logits(piece, start == 0)?;
                tally(&exact, &found, &next, tally_of, engine.name())?;
            }
        }
        done += chunk.len();
        told(done);
    }
    Ok(Agreement {
        truth: (truth.name().to_owned(), truth_tally),
        engines: engines.iter().map(|engine| engine.name().to_owned()).zip(tallies).collect(),
    })
}

fn tally(exact: &[f32], found: &[f32], next: &[Option<u32>], tally: &mut Tally, name: &str) -> anyhow::Result<()> {
    if found.len() != exact.len() {
        bail!("{name} gave {} logits, the truth has {}", found.len(), exact.len());
    }
    if let Some(bad) = found.iter().find(|logit| !logit.is_finite()) {
        bail!("{name} gave a logit that is {bad}");
    }
    let vocab = exact.len() / next.len().max(1);
    let rows: Vec<(&[f32], &[f32], Option<u32>)> =
        exact.chunks(vocab).zip(found.chunks(vocab)).zip(next).map(|((t, f), &n)| (t, f, n)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // In order of position, so that the sums do not depend on the number of threads.
    let positions: Vec<Vec<Position>> = std::thread::scope(|scope| {
        let handles: Vec<_> = rows
            .chunks(rows.len().div_ceil(threads).max(1))
            .map(|rows| scope.spawn(move || rows.iter().map(|(t, f, n)| compare(t, f, *n)).collect::<Vec<_>>()))
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_default()).collect()
    });
    for position in positions.iter().flatten() {
        tally.add(position);
    }
    Ok(())
}

impl Agreement {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let engines: serde_json::Map<String, Value> =
            self.engines.iter().map(|(name, tally)| (name.clone(), tally.to_json())).collect();
        json!({ "truth": { "name": self.truth.0, "perplexity": self.truth.1.perplexity() }, "engines": engines })
    }

    /// A Markdown table.
    pub fn to_table(&self) -> String {
        let mut text = String::from(
            "| | mean KL from truth (nats) | largest KL | same likeliest token | perplexity | off the truth's |\n\
             |---|---|---|---|---|---|\n",
        );
        let exact = self.truth.1.perplexity();
        text.push_str(&format!("| {} | 0 | 0 | 100 % | {exact:.4} | |\n", self.truth.0));
        for (name, tally) in &self.engines {
            text.push_str(&format!(
                "| {name} | {:.3e} | {:.3e} | {:.2} % | {:.4} | {:+.3} % |\n",
                tally.mean_kl(),
                tally.kl_max,
                tally.top1() * 100.0,
                tally.perplexity(),
                (tally.perplexity() / exact - 1.0) * 100.0
            ));
        }
        text
    }

    /// What the first engine promises, against `peer` where that was there too: mean KL at most 1.2 times the
    /// other's, agreement at most 0.3 points under it, perplexity within 0.5 % of the truth. One line each.
    pub fn verdicts(&self, peer: &str) -> Vec<(bool, String)> {
        let Some((name, ours)) = self.engines.first() else { return Vec::new() };
        let off = (ours.perplexity() / self.truth.1.perplexity() - 1.0).abs() * 100.0;
        let mut verdicts = vec![(off <= 0.5, format!("{name}: perplexity {off:.3} % off the truth's, 0.5 % allowed"))];
        if let Some((other, theirs)) = self.engines.iter().skip(1).find(|(name, _)| name == peer) {
            let ratio = ours.mean_kl() / theirs.mean_kl();
            verdicts.push((ratio <= 1.2, format!("{name}: mean KL {ratio:.3} times that of {other}, 1.2 allowed")));
            let under = (theirs.top1() - ours.top1()) * 100.0;
            verdicts.push((under <= 0.3, format!("{name}: agreement {under:+.2} points under {other}'s, 0.3 allowed")));
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives rows written down beforehand.
    struct Written(&'static str, Vec<Vec<f32>>, usize);

    impl Teacher for Written {
        fn name(&self) -> &str {
            self.0
        }
        fn logits(&mut self, ids: &[u32], _first: bool) -> anyhow::Result<Vec<f32>> {
            let rows = self.1[self.2..self.2 + ids.len()].concat();
            self.2 += ids.len();
            Ok(rows)
        }
    }

    #[test]
    fn divergence_by_hand() {
        let half = compare(&[0.0, 0.0], &[0.0, 3f32.ln()], Some(0));
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln 2/3.
        assert!((half.kl - 0.5 * (2f64.ln() + (2f64 / 3.0).ln())).abs() < 1e-7);
        assert!(!half.same_top);
        assert!((half.surprise.unwrap() - 4f64.ln()).abs() < 1e-7);
        let shifted = compare(&[1.0, 2.0, -50.0], &[101.0, 102.0, 50.0], None);
        assert!(shifted.kl < 1e-12 && shifted.same_top && shifted.surprise.is_none());
    }

    #[test]
    fn chunks_pieces_and_verdicts() {
        let rows = |scale: f32| -> Vec<Vec<f32>> {
            (0..7).map(|row| (0..4).map(|col| ((row * 3 + col) % 5) as f32 * scale).collect()).collect()
        };
        for piece in [1, 2, 4, 100] {
            let mut truth = Written("truth", rows(1.0), 0);
            let mut engines: Vec<Box<dyn Teacher>> =
                vec![Box::new(Written("ours", rows(1.001), 0)), Box::new(Written("theirs", rows(1.01), 0))];
            let mut seen = 0;
            let cut = Cut { chunk: 4, piece };
            let result = run(&[0, 1, 2, 3, 0, 1, 2], cut, &mut truth, &mut engines, |done| seen = done).unwrap();
            assert_eq!(seen, 7);
            let (ours, theirs) = (&result.engines[0].1, &result.engines[1].1);
            // Seven positions; the last of each chunk predicts nothing.
            assert_eq!((ours.positions, ours.predictions), (7, 5));
            assert!(ours.mean_kl() > 0.0 && ours.mean_kl() < theirs.mean_kl());
            assert_eq!(ours.top1(), 1.0);
            let verdicts = result.verdicts("theirs");
            assert!(verdicts.iter().all(|(good, _)| *good), "{verdicts:?}");
            assert_eq!((verdicts.len(), result.verdicts("another").len()), (3, 1));
            assert!(result.to_table().contains("| ours |"));
        }
    }

    #[test]
    fn pipes_are_checked() {
        let mut bytes = b"ENGRLOGT".to_vec();
        bytes.extend(2u32.to_le_bytes());
        bytes.extend([1f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()));
        let mut piped = Piped::new("peer", &bytes[..], 2).unwrap();
        assert_eq!(piped.logits(&[7, 8], true).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert!(piped.logits(&[9], false).unwrap_err().to_string().contains("stopped sending"));
        assert!(Piped::new("peer", &bytes[..], 3).err().unwrap().to_string().contains("over 2 tokens"));
        assert!(Piped::new("peer", &b""[..], 3).is_err());
    }

    #[test]
    fn broken_numbers_are_refused() {
        let mut truth = Written("truth", vec![vec![0.0, 1.0]], 0);
        let mut engines: Vec<Box<dyn Teacher>> = vec![Box::new(Written("ours", vec![vec![0.0, f32::NAN]], 0))];
        let cut = Cut { chunk: 1, piece: 1 };
        assert!(run(&[1], cut, &mut truth, &mut engines, |_| {}).is_err());
    }
}
