//! One file: read, cleared of secrets, split.

use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::walk::Found;
use super::{FileEntry, IndexOptions};
use crate::chunk::{Chunk, Language, chunk_source, language_of};
use crate::secrets::{Finding, redact};

/// What a file held.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The same bytes as before.
    Same(Found, FileEntry),
    /// Something to remember; the entry has no chunks yet. A binary file has none.
    Split { found: Found, entry: FileEntry, language: Language, chunks: Vec<Chunk>, secrets: Vec<Finding> },
    /// It could not be read.
    Unread(Found, String),
}

/// A file changed less than this before it was read may change again within the same tick of its clock.
const TICK: Duration = Duration::from_secs(2);

/// Reads a file; `before` is what the manifest says of it, if it may be trusted. What is not UTF-8 is replaced by
/// U+FFFD; a file with a NUL among its first 8 KiB is binary.
pub(super) fn read(found: Found, before: Option<&FileEntry>, options: &IndexOptions) -> Outcome {
    let mut bytes = Vec::new();
    // The file may have grown since it was listed; past the limit nothing is taken.
    let limit = options.max_file_bytes.saturating_add(1);
    let read = std::fs::File::open(&found.full).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Outcome::Unread(found, error.to_string());
    }
    if bytes.len() as u64 == limit {
        return Outcome::Unread(found, format!("grew past {} bytes", options.max_file_bytes));
    }
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    let hash = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let modified = settled(found.modified);
    if let Some(before) = before.filter(|before| before.hash == hash) {
        let entry = FileEntry { size: bytes.len() as u64, modified, ..before.clone() };
        return Outcome::Same(found, entry);
    }
    let binary = bytes.iter().take(8 << 10).any(|byte| *byte == 0);
    let text = if binary { "".into() } else { String::from_utf8_lossy(&bytes) };
    let clean = redact(&text);
    let language = language_of(&found.path, &clean.text);
    let chunks = chunk_source(&found.path, &clean.text, &options.limits);
    let entry =
        FileEntry { size: bytes.len() as u64, modified, hash, language: language.name.to_owned(), chunks: Vec::new() };
    Outcome::Split { found, entry, language, chunks, secrets: clean.found }
}

/// The time of change, or 0 if it is too fresh to tell two changes apart.
fn settled(modified: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fresh = u128::from(modified) + TICK.as_nanos() > now.as_nanos();
    if fresh { 0 } else { modified }
}
