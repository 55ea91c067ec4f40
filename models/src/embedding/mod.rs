//! Sentence encoders: a text becomes a vector whose inner product with another's says how near their meanings are.
//!
//! - [`Encoder`] loads one and encodes batches on the calling thread; sequences are packed one behind the other, so nothing is
//!   spent on padding, and a sequence's vector is bit-equal alone and in any batch.
//! - [`EncoderHandle`] shares one between threads: what waits is encoded together.
//!
//! Families ([`Family`]): BERT (all-MiniLM-L6-v2, the default), Jina's BERT, static tables, Qwen3-Embedding. They run on the CPU.

mod batcher;
mod bert;
mod causal;
mod checkpoint;
mod config;
mod error;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;
use std::sync::OnceLock;

use engram_kernels::pool;
use serde_json::Value;

pub use batcher::{EncoderHandle, QueueLimits};
pub use checkpoint::Precision;
pub use config::{Family, Pooling};
pub use error::EncoderError;

use crate::error::ModelError;
use crate::pull::ModelFiles;
use bert::Bert;
use causal::CausalEncoder;
use checkpoint::Checkpoint;
use config::BertConfig;
use table::StaticTable;
use text::EncoderText;

/// The encoder of the memory and of `/v1/embeddings` when none is named.
pub const DEFAULT_ENCODER: &str = "all-minilm-l6-v2";

/// What Qwen3-Embedding's queries begin with: its model card's instruction for search.
const QWEN3_QUERY: &str =
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:";

/// Tokens of one pass of [`Encoder::embed`], about: enough rows that opening a chunk of weights is no cost any more.
const PASS_TOKENS: usize = 512;

/// A part of a pass has about so many tokens at least: with fewer rows the weights' way from memory is most of the work.
const PART_TOKENS: usize = 48;

/// Parts a thread gets of a large pass, so that one that has lost its core to another process does not hold up the end.
const PARTS_PER_THREAD: usize = 2;

/// Which side of a search a text is on; some encoders mark the two differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is looked for.
    Query,
    /// What is found.
    Document,
}

/// Texts to vectors.
pub struct Encoder {
    name: String,
    family: Family,
    body: Body,
    text: EncoderText,
    pooling: Pooling,
    max_tokens: usize,
    smallest_dim: Option<usize>,
}

enum Body {
    Bert(Box<Bert>),
    Table(StaticTable),
    Causal(Box<CausalEncoder>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("name", &self.name)
            .field("family", &self.family)
            .field("dim", &self.dim())
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Loads an encoder from its files: safetensors, tokenizer.json, and config.json unless it is a static table.
    ///
    /// The catalog says how long its sequences may be and whether its vectors may be cut; of one that is not listed, its config does.
    ///
    /// # Errors
    /// [`EncoderError`] names the file or tensor that is not as it should be.
    pub fn load(files: &ModelFiles, precision: Precision) -> Result<Self, EncoderError> {
        let config = files.config.as_deref().map(read_json).transpose()?;
        let family = Family::of(config.as_ref())?;
        let missing = |file| EncoderError::MissingFile { name: files.id.clone(), file };
        let config = config.unwrap_or_default();
        let shards = files.weights.paths();
        let listed = files.catalog.map_or(0, |entry| entry.context_len as usize);
        let tokenizer = files.tokenizer.as_deref().ok_or_else(|| missing("tokenizer.json"))?;
        let text = EncoderText::load(tokenizer, files.tokenizer_config.as_deref())?;
        let (body, text, positions) = match family {
            Family::Bert | Family::JinaBert => {
                let file = Checkpoint::open(shards, &[Bert::WORDS], &Bert::PREFIXES)?;
                // What rounding does to Jina's was not measured.
                let precision = if family == Family::Bert { precision } else { Precision::Exact };
                let body = Bert::load(&file, BertConfig::read(&config)?, precision)?;
                let positions = body.positions();
                (Body::Bert(Box::new(body)), text, positions)
            }
            Family::Static => {
                let file = Checkpoint::open(shards, &StaticTable::NAMES, &[""])?;
                let text = if config["model_type"] == "model2vec" { text.without_unknown() } else { text };
                (Body::Table(StaticTable::load(&file)?), text.bare(), usize::MAX)
            }
            Family::Qwen3 => {
                let config_json = files.config.as_deref().ok_or_else(|| missing("config.json"))?;
                let body = CausalEncoder::load(shards, config_json, Some(listed).filter(|&len| len > 0))?;
                let positions = body.positions();
                (Body::Causal(Box::new(body)), text.with_query_prefix(QWEN3_QUERY), positions)
            }
        };
        let pooling = match (&files.pooling, family) {
            (Some(path), _) => Pooling::read(&read_json(path)?)?,
            (None, Family::Qwen3) => Pooling::Last,
            (None, _) => Pooling::Mean,
        };
        Ok(Self {
            name: files.id.clone(),
            family,
            body,
            text,
            pooling,
            max_tokens: if listed > 0 { listed.min(positions) } else { positions },
            smallest_dim: files.catalog.and_then(|entry| entry.smallest_dim).map(|dim| dim as usize),
        })
    }

    /// The name requests use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind of network.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Length of its vectors.
    pub fn dim(&self) -> usize {
        match &self.body {
            Body::Bert(body) => body.dim(),
            Body::Table(body) => body.dim(),
            Body::Causal(body) => body.dim(),
        }
    }

    /// Shortest length its vectors may be cut to; `None` where they may not be.
    pub fn smallest_dim(&self) -> Option<usize> {
        self.smallest_dim
    }

    /// Longest sequence in tokens, those that begin and end it counted; `usize::MAX` for a static table.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Ids in its vocabulary.
    pub fn vocab(&self) -> usize {
        match &self.body {
            Body::Bert(body) => body.vocab(),
            Body::Table(body) => body.vocab(),
            Body::Causal(body) => body.vocab(),
        }
    }

    /// Whether a text costs so little that handing it to another thread would cost more.
    pub(crate) fn is_static(&self) -> bool {
        matches!(self.body, Body::Table(_))
    }

    /// Ids of a text with what begins and ends a sequence; perhaps more than [`Encoder::max_tokens`].
    pub fn tokens(&self, text: &str, side: Side) -> Vec<u32> {
        self.text.ids(text, side)
    }

    /// Ids made elsewhere, with what begins and ends a sequence put around them where it is not there.
    pub fn complete(&self, ids: &[u32]) -> Vec<u32> {
        self.text.complete(ids)
    }

    /// The sequence as far as the encoder reads; what ends a sequence still stands at its end.
    pub fn cut(&self, ids: Vec<u32>) -> Vec<u32> {
        self.text.cut(ids, self.max_tokens)
    }

    /// Checks that sequences can be encoded.
    ///
    /// # Errors
    /// [`EncoderError::TooLong`], [`EncoderError::UnknownToken`].
    pub fn check(&self, sequences: &[impl AsRef<[u32]>]) -> Result<(), EncoderError> {
        let (limit, vocab) = (self.max_tokens, self.vocab());
        for (index, ids) in sequences.iter().map(AsRef::as_ref).enumerate() {
            let name = || self.name.clone();
            if ids.len() > limit {
                return Err(EncoderError::TooLong { name: name(), index, tokens: ids.len(), limit });
            }
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
                return Err(EncoderError::UnknownToken { name: name(), index, id, vocab });
            }
        }
        Ok(())
    }

    /// One pass over all sequences: a vector each, of [`Encoder::dim`] values and length 1.
    ///
    /// A sequence without a token has a vector of zeros.
    ///
    /// # Errors
    /// As [`Encoder::check`]; [`EncoderError::Model`] if the pass fails; [`EncoderError::NotFinite`].
    pub fn encode(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Vec<Vec<f32>>, EncoderError> {
        self.check(sequences)?;
        let mut vectors = match &self.body {
            Body::Table(table) => sequences.iter().map(|ids| table.mean(ids.as_ref())).collect(),
            Body::Bert(_) | Body::Causal(_) => self.encode_packed(sequences)?,
        };
        vectors.iter_mut().for_each(|vector| normalize(vector));
        match vectors.iter().position(|vector| vector.iter().any(|value| !value.is_finite())) {
            None => Ok(vectors),
            Some(index) => Err(EncoderError::NotFinite { name: self.name.clone(), index }),
        }
    }

    /// Cuts a pass into parts of whole sequences, one after the other on each thread of the pool: a part's ops then wait for nobody,
    /// where ops that are shared wait for the slower thread, each of them. A lone sequence has its ops shared.
    fn encode_packed(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Vec<Vec<f32>>, EncoderError> {
        let sequences: Vec<&[u32]> = sequences.iter().map(AsRef::as_ref).collect();
        let tokens: usize = sequences.iter().map(|ids| ids.len()).sum();
        let wanted = (tokens / PART_TOKENS).clamp(1, PARTS_PER_THREAD * pool().threads());
        let parts = cut_evenly(&sequences, tokens.div_ceil(wanted));
        if let [only] = parts.as_slice() {
            return self.encode_part(only);
        }
        let done: Vec<OnceLock<_>> = parts.iter().map(|_| OnceLock::new()).collect();
        pool().run(parts.len(), &|index| {
            done[index].get_or_init(|| self.encode_part(parts[index]));
        });
        let mut vectors = Vec::with_capacity(sequences.len());
        for part in done {
            vectors.extend(part.into_inner().unwrap_or(Err(EncoderError::Stopped))?);
        }
        Ok(vectors)
    }

    fn encode_part(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, EncoderError> {
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).filter(|&len| len > 0).collect();
        let ids = sequences.concat();
        if ids.is_empty() {
            return Ok(vec![vec![0.0; self.dim()]; sequences.len()]);
        }
        let pooled = match &self.body {
            Body::Causal(body) => body.forward(&ids, &lengths)?.to_vec2::<f32>()?,
            Body::Bert(body) => {
                let rows = body.forward(&ids, &lengths)?.flatten_all()?.to_vec1::<f32>()?;
                pool_rows(&rows, body.dim(), &lengths, self.pooling)
            }
            Body::Table(_) => Vec::new(),
        };
        let mut pooled = pooled.into_iter();
        let vectors = sequences.iter().map(|ids| if ids.is_empty() { None } else { pooled.next() });
        Ok(vectors.map(|vector| vector.unwrap_or_else(|| vec![0.0; self.dim()])).collect())
    }

    /// Texts to vectors on this thread; a text longer than the encoder reads is cut.
    ///
    /// # Errors
    /// [`EncoderError::Model`] if a pass fails.
    pub fn embed(&self, texts: &[&str], side: Side) -> Result<Vec<Vec<f32>>, EncoderError> {
        let sequences: Vec<Vec<u32>> = texts.iter().map(|text| self.cut(self.tokens(text, side))).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = sequences.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|ids| {
                tokens += ids.len();
                tokens <= PASS_TOKENS
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            vectors.extend(self.encode(now)?);
            rest = later;
        }
        Ok(vectors)
    }

    /// The first `dim` values of each vector, brought back to length 1.
    ///
    /// # Errors
    /// [`EncoderError::Dimensions`] where this encoder's vectors cannot be cut so: only those trained for it can
    /// (Matryoshka representations, <https://arxiv.org/abs/2205.13147>).
    pub fn shorten(&self, vectors: &mut [Vec<f32>], dim: usize) -> Result<(), EncoderError> {
        let whole = self.dim();
        if dim == whole {
            return Ok(());
        }
        let cure = match self.smallest_dim {
            Some(smallest) if (smallest..=whole).contains(&dim) => {
                for vector in vectors {
                    vector.truncate(dim);
                    normalize(vector);
                }
                return Ok(());
            }
            Some(smallest) => format!("ask for {smallest} to {whole}"),
            None => "it was not trained to be cut, leave `dimensions` out".to_owned(),
        };
        Err(EncoderError::Dimensions { name: self.name.clone(), asked: dim, dim: whole, cure })
    }
}

/// Runs of sequences that have at least `tokens` tokens each, the last perhaps fewer; one run at least.
fn cut_evenly<'a, 'b>(sequences: &'b [&'a [u32]], tokens: usize) -> Vec<&'b [&'a [u32]]> {
    let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0);
    for (index, ids) in sequences.iter().enumerate() {
        sum += ids.len();
        if sum >= tokens {
            parts.push(&sequences[start..=index]);
            (start, sum) = (index + 1, 0);
        }
    }
    if start < sequences.len() || parts.is_empty() {
        parts.push(&sequences[start..]);
    }
    parts
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| ModelError::ConfigJson { reason: error.to_string() })?;
    if !value.is_object() {
        return Err(ModelError::ConfigJson { reason: format!("{} holds no object", path.display()) });
    }
    Ok(value)
}

/// Rows `[tokens, dim]` of sequences to a vector each; no length is zero.
fn pool_rows(rows: &[f32], dim: usize, lengths: &[usize], pooling: Pooling) -> Vec<Vec<f32>> {
    let mut rest = rows;
    let pooled = lengths.iter().map(|&len| {
        let (own, later) = rest.split_at(len * dim);
        rest = later;
        match pooling {
            Pooling::First => own[..dim].to_vec(),
            Pooling::Last => own[(len - 1) * dim..].to_vec(),
            Pooling::Mean => {
                let mut sum = vec![0f32; dim];
                for row in own.chunks_exact(dim) {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                sum.iter_mut().for_each(|value| *value /= len as f32);
                sum
            }
        }
    });
    pooled.collect()
}

/// Brings a vector to length 1; zeros stay.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}
