//! What was indexed: each file's size, time and hash, and the records it holds.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::parts::Sendings;
use crate::error::{MemoryError, Result};
use crate::record::{Provenance, RecordId, Trust, content_hash};
use crate::scope::{Name, Partition, Scope};

/// What a tree looked like when it was indexed last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// How files were split; files are read again when it changes.
    pub chunker: String,
    /// Whether the run that wrote it came to its end.
    pub complete: bool,
    /// By path inside the tree, with `/`.
    pub files: BTreeMap<String, FileEntry>,
    /// Ids of records whose id is not the one by their content.
    #[serde(default)]
    pub salted: BTreeMap<RecordId, RecordId>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Bytes.
    pub size: u64,
    /// Time of change, ns since 1970; 0 if it was so fresh that another change could bear the same time.
    pub modified: u64,
    /// SHA-256 of its bytes.
    pub hash: String,
    /// Its language.
    pub language: String,
    /// Its chunks, in order; a binary file has none.
    pub chunks: Vec<Place>,
}

/// A place where a record's content stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Id by content.
    pub key: RecordId,
    /// First and last line.
    pub lines: (u32, u32),
    /// What it defines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
}

impl Manifest {
    /// The newest form.
    pub const FORMAT: u32 = 1;

    /// Id of the record with this content.
    pub(super) fn id_of(&self, key: RecordId) -> RecordId {
        self.salted.get(&key).copied().unwrap_or(key)
    }

    /// Each record's home: the first place by path and line.
    pub(super) fn homes(&self, commit: Option<&str>) -> HashMap<RecordId, Provenance> {
        let mut homes = HashMap::new();
        for (path, file) in &self.files {
            for place in &file.chunks {
                let home = || provenance(path, &file.language, place.lines, place.symbol.clone(), commit);
                homes.entry(self.id_of(place.key)).or_insert_with(home);
            }
        }
        homes
    }
}

/// Where a chunk comes from.
pub(super) fn provenance(
    path: &str,
    language: &str,
    lines: (u32, u32),
    symbol: Option<String>,
    commit: Option<&str>,
) -> Provenance {
    Provenance {
        path: Some(path.to_owned()),
        commit: commit.map(str::to_owned),
        lines: Some(lines),
        symbol,
        language: Some(language.to_owned()),
        request_id: None,
        trust: Trust::User,
    }
}

/// Manifests as files, one a scope, each written whole: `tenant/domain/project-session.json` in a directory, the names
/// hashed, so that those of a project, a domain or a tenant can be dropped without reading any.
#[derive(Debug, Clone)]
pub struct ManifestStore {
    dir: PathBuf,
    pub(super) sendings: Sendings,
}

impl ManifestStore {
    /// In `dir`, which is made when the first one is saved.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), sendings: Sendings::default() }
    }

    fn tenant_dir(&self, tenant: &Name) -> PathBuf {
        self.dir.join(hashed(Some(tenant)))
    }

    fn partition_dir(&self, partition: &Partition) -> PathBuf {
        self.tenant_dir(&partition.tenant).join(hashed(Some(&partition.domain)))
    }

    pub(super) fn path(&self, scope: &Scope) -> PathBuf {
        let name = format!("{}-{}.json", hashed(scope.project.as_ref()), hashed(scope.session.as_ref()));
        self.partition_dir(&scope.partition).join(name)
    }

    /// The manifest of a scope. One that cannot be understood counts as none: the next run asks the store.
    ///
    /// # Errors
    /// [`MemoryError::Io`] if it cannot be read, [`MemoryError::Format`] if a newer version wrote it.
    pub fn load(&self, scope: &Scope) -> Result<Option<Manifest>> {
        let path = self.path(scope);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MemoryError::Io { action: "read", path, source }),
        };
        match serde_json::from_slice::<Manifest>(&bytes) {
            Ok(manifest) if manifest.format > Manifest::FORMAT => {
                Err(MemoryError::Format { path, found: manifest.format, known: Manifest::FORMAT })
            }
            Ok(manifest) => Ok(Some(manifest)),
            Err(_) => Ok(None),
        }
    }

    /// Saves it: a new file, synced, takes the old one's name.
    ///
    /// # Errors
    /// [`MemoryError::DiskFull`], [`MemoryError::ReadOnly`] or [`MemoryError::Io`]; the old one then stays.
    pub fn save(&self, scope: &Scope, manifest: &Manifest) -> Result<()> {
        let path = self.path(scope);
        let bytes = serde_json::to_vec(manifest).map_err(|error| MemoryError::Io {
            action: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        replace(&self.partition_dir(&scope.partition), &path, &bytes)
            .map_err(|source| unwritten(&path, bytes.len(), source))
    }

    /// Removes the manifests of every scope that `scope` covers, as must be done when records are forgotten by other
    /// means: the next run then asks the store what is there.
    ///
    /// # Errors
    /// [`MemoryError::Io`] if one is there and cannot be removed.
    pub fn remove(&self, scope: &Scope) -> Result<()> {
        let dir = self.partition_dir(&scope.partition);
        let meant = |given: Option<&Name>, part: &str| given.is_none_or(|name| hashed(Some(name)) == part);
        let covered = |name: &str| {
            let parts = name.split_once('.').and_then(|(stem, _)| stem.split_once('-'));
            parts.is_some_and(|(project, session)| {
                meant(scope.project.as_ref(), project) && meant(scope.session.as_ref(), session)
            })
        };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(MemoryError::Io { action: "list", path: dir, source }),
        };
        for entry in entries.flatten() {
            if covered(&entry.file_name().to_string_lossy()) {
                gone(&entry.path(), fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    /// Removes all manifests, as must be done when the records were replaced or some were lost.
    ///
    /// # Errors
    /// As [`ManifestStore::remove`].
    pub fn clear(&self) -> Result<()> {
        gone(&self.dir, fs::remove_dir_all(&self.dir))
    }

    /// Removes all manifests of a tenant.
    ///
    /// # Errors
    /// As [`ManifestStore::remove`].
    pub fn remove_tenant(&self, tenant: &Name) -> Result<()> {
        let dir = self.tenant_dir(tenant);
        gone(&dir, fs::remove_dir_all(&dir))
    }
}

/// Why `bytes` could not be written to `path`.
pub(super) fn unwritten(path: &Path, bytes: usize, source: std::io::Error) -> MemoryError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::StorageFull => MemoryError::DiskFull { path, bytes: bytes as u64 },
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => MemoryError::ReadOnly { path },
        _ => MemoryError::Io { action: "write", path, source },
    }
}

/// A removal of what need not be there.
fn gone(path: &Path, removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(MemoryError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A name, or that there is none, as one that every file system takes; no name is empty.
fn hashed(name: Option<&Name>) -> String {
    content_hash(name.map_or("", Name::as_str))[..32].to_owned()
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(dir)?.sync_all()
}
