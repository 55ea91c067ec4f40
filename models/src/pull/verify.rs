//! Checksums, and the record of what was already checked.
//!
//! Hashing half a gigabyte takes 0.3 s to 0.5 s, which a start should not pay each time. So a checked file leaves a
//! record (path, size, modification time, sha256) under `models/.verified`; a file whose size and time still match is
//! trusted, any other is hashed again. The record guards against damage and mix-ups, not against somebody who can
//! write to the folder: they could replace the program as well.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::PullError;

/// Lower-case hex of a digest.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

/// SHA-256 of a file and its size in bytes, read in pieces of 1 MiB.
pub(crate) fn sha256_file(path: &Path) -> Result<(String, u64), PullError> {
    let mut file = File::open(path).map_err(PullError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    let mut bytes = 0_u64;
    loop {
        let n = file.read(&mut buffer).map_err(PullError::io("read", path))?;
        if n == 0 {
            return Ok((hex(&hasher.finalize()), bytes));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// What a file is to be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected<'a> {
    /// This sha256, from the catalog or from the hub.
    Sha256(&'a str),
    /// Nothing is known: what is found first is recorded, and must not change later.
    FirstUse,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    bytes: u64,
    mtime_ns: u64,
    sha256: String,
}

/// The records of one home directory.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// The ledger of the models folder `models`; nothing is created until something is recorded.
    pub(crate) fn new(models: &Path) -> Self {
        Self { folder: models.join(".verified") }
    }

    /// Whether `path` was checked against `expected` and has not changed since. Costs two `stat`s and a small read.
    pub(crate) fn is_verified(&self, path: &Path, expected: Expected<'_>) -> bool {
        let (Some(stamp), Some(record)) = (Stamp::of(path), self.read(path)) else {
            return false;
        };
        let same = record.bytes == stamp.bytes && record.mtime_ns == stamp.mtime_ns;
        same && match expected {
            Expected::Sha256(sha256) => record.sha256.eq_ignore_ascii_case(sha256),
            Expected::FirstUse => true,
        }
    }

    /// Checks `path` and returns its sha256, hashing only where no record vouches for it.
    ///
    /// A mismatch is [`PullError::Corrupt`]; the file is left where it is, what to do with it is the caller's matter.
    pub(crate) fn verify(&self, path: &Path, expected: Expected<'_>) -> Result<String, PullError> {
        let known = self.read(path);
        if self.is_verified(path, expected)
            && let Some(record) = known
        {
            return Ok(record.sha256);
        }
        let (found, bytes) = sha256_file(path)?;
        let wanted = match expected {
            Expected::Sha256(sha256) => Some(sha256.to_ascii_lowercase()),
            Expected::FirstUse => known.map(|record| record.sha256),
        };
        if let Some(expected) = wanted
            && expected != found
        {
            return Err(PullError::Corrupt { path: path.to_path_buf(), expected, found, bytes });
        }
        self.record(path, &found);
        Ok(found)
    }

    /// Notes that `path` was hashed and has this sha256.
    pub(crate) fn record(&self, path: &Path, sha256: &str) {
        if let Some(stamp) = Stamp::of(path) {
            self.write(path, stamp, sha256);
        }
    }

    /// Forgets what was recorded about `path`.
    pub(crate) fn forget(&self, path: &Path) {
        let _ = fs::remove_file(self.record_path(path)); // absent is as good as removed
    }

    fn record_path(&self, path: &Path) -> PathBuf {
        // Through links, so that a hub snapshot and its blob share a record.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let digest = Sha256::digest(real.as_os_str().as_encoded_bytes());
        self.folder.join(format!("{}.json", &hex(&digest)[..32]))
    }

    fn read(&self, path: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(path)).ok()?).ok()
    }

    /// A record that cannot be written costs a hash at the next start, nothing else: a read-only home is served too.
    fn write(&self, path: &Path, stamp: Stamp, sha256: &str) {
        let record = Record {
            path: path.to_path_buf(),
            bytes: stamp.bytes,
            mtime_ns: stamp.mtime_ns,
            sha256: sha256.to_string(),
        };
        let target = self.record_path(path);
        let temporary = target.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&temporary, serde_json::to_vec_pretty(&record).unwrap_or_default()))
            .and_then(|()| fs::rename(&temporary, &target));
        if let Err(error) = written {
            tracing::debug!("cannot record that {} was verified: {error}", path.display());
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Stamp {
    bytes: u64,
    mtime_ns: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self { bytes: metadata.len(), mtime_ns: u64::try_from(since.as_nanos()).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, appendix B.1

    #[test]
    fn a_change_is_noticed_and_an_unchanged_file_is_not_read_again() {
        let home = tempfile::tempdir().expect("temporary folder");
        let path = home.path().join("abc");
        fs::write(&path, "abc").expect("write");
        let ledger = Ledger::new(home.path());
        assert!(!ledger.is_verified(&path, Expected::Sha256(ABC)));
        assert_eq!(ledger.verify(&path, Expected::Sha256(ABC)).expect("matches"), ABC);
        assert!(ledger.is_verified(&path, Expected::Sha256(ABC)));

        let other = "0".repeat(64);
        assert!(!ledger.is_verified(&path, Expected::Sha256(&other)));
        fs::write(&path, "abd").expect("same size, another time");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
        File::options().append(true).open(&path).and_then(|f| f.set_modified(later)).expect("touch");
        let error = ledger.verify(&path, Expected::Sha256(ABC)).expect_err("changed");
        assert!(matches!(&error, PullError::Corrupt { expected, bytes: 3, .. } if expected == ABC), "{error}");
        assert!(matches!(ledger.verify(&path, Expected::FirstUse), Err(PullError::Corrupt { .. })));
    }

    #[test]
    fn first_use_is_remembered() {
        let home = tempfile::tempdir().expect("temporary folder");
        let path = home.path().join("abc");
        fs::write(&path, "abc").expect("write");
        let ledger = Ledger::new(home.path());
        assert_eq!(ledger.verify(&path, Expected::FirstUse).expect("first"), ABC);
        fs::write(&path, "abcd").expect("write");
        assert!(ledger.verify(&path, Expected::FirstUse).is_err());
        ledger.forget(&path);
        assert!(ledger.verify(&path, Expected::FirstUse).is_ok());
    }
}
