//! What can go wrong between a name and verified files, with the cure where there is one.

use std::path::PathBuf;

/// A source that was asked for a model, and why it did not give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which source, for example `hub https://huggingface.co, Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF`.
    pub source: String,
    /// Why it failed.
    pub failure: String,
}

/// Why a model could not be resolved to verified files.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is no path, no catalog id and no `owner/repo`.
    #[error("no model is called `{spec}`{}; a path, a name from `engram models` or `owner/repo` of the hub is wanted", did_you_mean(.nearest))]
    UnknownModel {
        /// What was asked for.
        spec: String,
        /// Known ids that are close to it.
        nearest: Vec<String>,
    },
    /// The path does not exist.
    #[error("{}: no such file or directory", .path.display())]
    NoSuchPath {
        /// What was asked for.
        path: PathBuf,
    },
    /// The path exists and holds no model that can be read.
    #[error("{}: not a model: {reason}", .path.display())]
    NotAModel {
        /// What was asked for.
        path: PathBuf,
        /// What is missing or ambiguous.
        reason: String,
    },
    /// Files are missing and the network must not be used.
    #[error("`{model}` is not on disk and --offline forbids fetching it; missing: {}; {cure}", .missing.join(", "))]
    Offline {
        /// The model.
        model: String,
        /// The files that are missing.
        missing: Vec<String>,
        /// What to do.
        cure: String,
    },
    /// No source gave the model.
    #[error("cannot get `{model}`; tried{}", list_attempts(.tried))]
    AllSourcesFailed {
        /// The model.
        model: String,
        /// Every source and its failure, in the order they were tried.
        tried: Vec<Attempt>,
    },
    /// The bytes are not the bytes that were promised.
    #[error(
        "{}: corrupt: expected sha256 {expected}, found {found} ({bytes} bytes); \
         it was moved out of the way, pull again",
        .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The checksum it should have.
        expected: String,
        /// The checksum it has.
        found: String,
        /// Its size.
        bytes: u64,
    },
    /// A server sent another number of bytes than announced.
    #[error("{name}: {expected} bytes were announced, {found} came")]
    WrongSize {
        /// The file.
        name: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The file system has too little room.
    #[error("{}: {need} bytes are needed, {free} are free; free some space or set ENGRAM_HOME (or HF_HOME) to another disk", .path.display())]
    NoSpace {
        /// Where the files go.
        path: PathBuf,
        /// Bytes still to be written, with a reserve.
        need: u64,
        /// Bytes available.
        free: u64,
    },
    /// The file system ran full while writing.
    #[error("{}: the disk is full; free some space and pull again, it goes on where it stopped", .path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The server refused.
    #[error("{url}: HTTP {status}{}", status_hint(*.status))]
    Status {
        /// The address, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server could not be reached, or the transfer broke more often than is tolerated.
    #[error("{url}: {reason}")]
    Transport {
        /// The address, without credentials.
        url: String,
        /// Why, with its causes.
        reason: String,
    },
    /// The answer is not what the protocol says.
    #[error("{url}: unexpected answer: {reason}")]
    Protocol {
        /// The address, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub answered, and did not give what was asked for.
    #[error("{repo}: {reason}")]
    Hub {
        /// `owner/repo`.
        repo: String,
        /// What it said.
        reason: String,
    },
    /// The repository has no file of the wanted kind.
    #[error("{repo}: no {wanted}; it has: {}", abridged(.available))]
    NoMatchingFile {
        /// `owner/repo`.
        repo: String,
        /// What was looked for.
        wanted: String,
        /// The model files that are there.
        available: Vec<String>,
    },
    /// The weights are split over several GGUF files.
    #[error(
        "{file}: this GGUF is split into several files, which are not read; name another quantisation \
         (`owner/repo:Q4_K_M`) or join them with `llama-gguf-split --merge`"
    )]
    SplitGguf {
        /// The first part.
        file: String,
    },
    /// The package is not on the index, or not in the pinned version.
    #[error("package {package} {version}: {reason}")]
    Package {
        /// Package name.
        package: String,
        /// Pinned version.
        version: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file name from a server would leave its folder.
    #[error("{from}: refusing the file name {name:?}")]
    UnsafeName {
        /// Who sent it.
        from: String,
        /// The name.
        name: String,
    },
}

impl PullError {
    /// An [`PullError::Io`], or [`PullError::DiskFull`] where that is why.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action, path, source },
        }
    }

    /// The message with its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with its causes, `a: b: c`; a cause that its parent already quotes is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = nearest.iter().map(|id| format!("`{id}`")).collect();
    format!(" (nearest known: {})", quoted.join(", "))
}

fn list_attempts(tried: &[Attempt]) -> String {
    tried.iter().map(|attempt| format!("\n  {}: {}", attempt.source, attempt.failure)).collect()
}

fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        0 => "no model files".to_string(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => " (refused: set HF_TOKEN, and accept the model's terms on the hub, where it is gated)",
        404 => " (not there)",
        429 => " (too many requests: wait, or set HF_TOKEN)",
        _ => "",
    }
}
