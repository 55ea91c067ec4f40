//! BERT and its cousins by Jina: layers that look both ways, each sum normed after it is made.
//!
//! Sequences stand one behind the other without padding: `[tokens, hidden]` all the way through.
//! Three layouts of a layer are read: BERT's (<https://arxiv.org/abs/1810.04805>), Jina v2's with gated feed-forward
//! (`mlp.gated_layers`), and that of Jina's code model, which norms q and k and norms twice after attention
//! (`mlp.up_gated_layer`). The real weights of the latter two were not run in this project's tests, only small random ones.

use candle_core::{Device, Result, Tensor};
use engram_kernels::ops::{self, GeluForm, LinearWeight, Path};

use super::checkpoint::{Checkpoint, Precision};
use super::config::BertConfig;
use crate::error::ModelError;
use crate::layers::{Linear, Norm};

/// The network.
pub(super) struct Bert {
    config: BertConfig,
    /// `[vocab, hidden]`
    words: LinearWeight,
    /// What is added to a token's row: its position's and the first type's; one row for all where positions are ALiBi's.
    places: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    slopes: Option<Vec<f32>>,
}

struct Layer {
    qkv: Linear,
    /// Of q and of k.
    qk_norms: Option<[Norm; 2]>,
    out: Linear,
    out_norm: Norm,
    /// Norms the sum of attention's result and its input once more.
    again_norm: Option<Norm>,
    up: Linear,
    gate: Gate,
    down: Linear,
    down_norm: Norm,
}

/// How the first half of a feed-forward part ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// `gelu(up)`
    None,
    /// `gelu(first half) * second half`
    First,
    /// `first half * gelu(second half)`
    Second,
}

impl Bert {
    /// Names that all tensors may begin with.
    pub const PREFIXES: [&'static str; 2] = ["", "bert."];
    /// A tensor that every layout has.
    pub const WORDS: &'static str = "embeddings.word_embeddings.weight";

    pub fn load(file: &Checkpoint, config: BertConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let hidden = config.hidden;
        let types = file.floats("embeddings.token_type_embeddings.weight", &[config.types, hidden])?;
        let mut places = match config.alibi {
            true => vec![0.0; hidden],
            false => file.floats("embeddings.position_embeddings.weight", &[config.positions, hidden])?,
        };
        for place in places.chunks_exact_mut(hidden) {
            place.iter_mut().zip(&types).for_each(|(place, kind)| *place += kind);
        }
        // Why the last third is not: see `Precision::Mixed`.
        let rounded = if precision == Precision::Mixed { config.layers - config.layers.div_ceil(3) } else { 0 };
        let layers = (0..config.layers).map(|index| Layer::load(file, &config, index, index < rounded));
        let layers = layers.collect::<std::result::Result<_, ModelError>>()?;
        Ok(Self {
            words: file.matrix(Self::WORDS, config.vocab, hidden, false)?,
            places,
            norm: file.norm("embeddings.LayerNorm", hidden, config.eps)?,
            layers,
            slopes: config.alibi.then(|| alibi_slopes(config.heads)),
            config,
        })
    }

    pub fn dim(&self) -> usize {
        self.config.hidden
    }

    pub fn vocab(&self) -> usize {
        self.config.vocab
    }

    /// Longest sequence it has positions for.
    pub fn positions(&self) -> usize {
        self.config.positions
    }

    /// Rows `[tokens, hidden]` of sequences that stand one behind the other; ids are in the vocabulary, lengths within the positions.
    pub fn forward(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let mut x = self.norm.forward(&self.embed(ids, lengths)?)?;
        for layer in &self.layers {
            x = layer.forward(x, lengths, &self.config, self.slopes.as_deref())?;
        }
        Ok(x)
    }

    fn embed(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let hidden = self.config.hidden;
        let mut places = Vec::with_capacity(ids.len() * hidden);
        for position in lengths.iter().flat_map(|&len| 0..len) {
            let start = if self.slopes.is_some() { 0 } else { position * hidden };
            places.extend_from_slice(&self.places[start..][..hidden]);
        }
        let places = Tensor::from_vec(places, (ids.len(), hidden), &Device::Cpu)?;
        ops::embedding(ids, &self.words, &Device::Cpu)? + places
    }
}

impl Layer {
    fn load(
        file: &Checkpoint,
        config: &BertConfig,
        index: usize,
        rounded: bool,
    ) -> std::result::Result<Self, ModelError> {
        let (hidden, ffn, eps) = (config.hidden, config.ffn, config.eps);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let norm = |part: &str| file.norm(&name(part), hidden, eps);
        let linear = |part: &str, rows, cols, rounded| file.linear(&[&name(part)], rows, cols, rounded);
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        let qkv: Vec<&str> = qkv.iter().map(String::as_str).collect();
        let (up, gate, down, down_norm) = if file.has(&name("mlp.up_gated_layer.weight")) {
            ("mlp.up_gated_layer", Gate::Second, "mlp.down_layer", "layer_norm_2")
        } else if file.has(&name("mlp.gated_layers.weight")) {
            ("mlp.gated_layers", Gate::First, "mlp.wo", "mlp.layernorm")
        } else {
            ("intermediate.dense", Gate::None, "output.dense", "output.LayerNorm")
        };
        let qk_norms = match file.has(&name("attention.self.layer_norm_q.weight")) {
            true => Some([norm("attention.self.layer_norm_q")?, norm("attention.self.layer_norm_k")?]),
            false => None,
        };
        Ok(Self {
            qkv: file.linear(&qkv, hidden, hidden, false)?,
            qk_norms,
            out: linear("attention.output.dense", hidden, hidden, false)?,
            out_norm: norm("attention.output.LayerNorm")?,
            again_norm: if gate == Gate::Second { Some(norm("layer_norm_1")?) } else { None },
            up: linear(up, if gate == Gate::None { ffn } else { 2 * ffn }, hidden, rounded)?,
            gate,
            down: linear(down, hidden, ffn, rounded)?,
            down_norm: norm(down_norm)?,
        })
    }

    /// `[tokens, hidden] -> [tokens, hidden]`
    fn forward(&self, x: Tensor, lengths: &[usize], config: &BertConfig, slopes: Option<&[f32]>) -> Result<Tensor> {
        let attended = self.attend(&x, lengths, config, slopes)?;
        let mut h = self.out_norm.forward(&(attended + &x)?)?;
        if let Some(norm) = &self.again_norm {
            h = norm.forward(&(h + &x)?)?;
        }
        let up = self.up.forward(&h)?;
        let gelu = |x: &Tensor| ops::gelu(Path::Kernels, x, config.gelu);
        let half = |index: usize| up.narrow(1, index * config.ffn, config.ffn)?.contiguous();
        let gated = match self.gate {
            Gate::None => gelu(&up)?,
            // The gate's GELU is exact in both, whatever `hidden_act` says.
            Gate::First => (ops::gelu(Path::Kernels, &half(0)?, GeluForm::Erf)? * half(1)?)?,
            Gate::Second => (half(0)? * ops::gelu(Path::Kernels, &half(1)?, GeluForm::Erf)?)?,
        };
        self.down_norm.forward(&(self.down.forward(&gated)? + h)?)
    }

    fn attend(&self, x: &Tensor, lengths: &[usize], config: &BertConfig, slopes: Option<&[f32]>) -> Result<Tensor> {
        let (tokens, heads, head_dim) = (x.dim(0)?, config.heads, config.hidden / config.heads);
        let qkv = self.qkv.forward(x)?;
        // [tokens, 3 * hidden] -> three of [tokens, heads, head_dim], views of one
        let part = |index: usize| qkv.narrow(1, index * config.hidden, config.hidden);
        let split = |x: Tensor| x.reshape((tokens, heads, head_dim));
        let whole = qkv.reshape((tokens, 3 * heads, head_dim))?;
        let [q, k] = match &self.qk_norms {
            None => [whole.narrow(1, 0, heads)?, whole.narrow(1, heads, heads)?],
            Some([q_norm, k_norm]) => [split(q_norm.forward(&part(0)?)?)?, split(k_norm.forward(&part(1)?)?)?],
        };
        let v = whole.narrow(1, 2 * heads, heads)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let attended = ops::full_attention(Path::Kernels, [&q, &k, &v], lengths, scale, slopes)?;
        self.out.forward(&attended.reshape((tokens, config.hidden))?)
    }
}

/// ALiBi's slopes, steepest first: a geometric series from `2^(-8/n)`; where the heads are no power of two, the series of the next
/// one, its odd places first.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = heads.next_power_of_two();
    let series: Vec<f32> = (1..=power).map(|v| 2f32.powf(-8.0 * v as f32 / power as f32)).collect();
    if power == heads {
        return series;
    }
    series.iter().skip(1).step_by(2).chain(series.iter().step_by(2)).take(heads).copied().collect()
}
