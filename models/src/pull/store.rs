//! What is on disk: `$ENGRAM_HOME/models/ID/FILE`, and the hub's cache.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::disk::{FolderLock, set_aside};
use super::error::PullError;
use super::hub_cache::{HubCache, Snapshot, promised_sha256};
use super::select::select;
use super::sources::Wanted;
use super::spec::is_repo;
use super::verify::{Expected, Ledger};
use super::{ModelFiles, Progress, PullOptions, Source};
use crate::catalog::{self, CatalogEntry, CatalogFile, FileRole};

/// The models on this machine.
pub(crate) struct Store<'a> {
    models: PathBuf,
    cache: HubCache,
    pub(crate) ledger: Ledger,
    progress: &'a dyn Progress,
    offline: bool,
}

type Files = Vec<(FileRole, PathBuf)>;

impl<'a> Store<'a> {
    pub(crate) fn new(options: &'a PullOptions) -> Self {
        let models = options.models();
        Self {
            ledger: Ledger::new(&models),
            cache: HubCache::new(options.hub.cache.clone()),
            models,
            progress: options.progress.as_ref(),
            offline: options.offline,
        }
    }

    /// The folder of a model in the home directory.
    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.models.join(id)
    }

    /// The model, if all of it is here and intact. A corrupt file is set aside and told, so that it is fetched anew;
    /// offline it is an error, because nothing can be fetched.
    pub(crate) fn find(&self, wanted: &Wanted) -> Result<Option<ModelFiles>, PullError> {
        if let Some(entry) = wanted.entry {
            if let Some(files) = self.find_in_home(entry)? {
                return ModelFiles::new(wanted.id.clone(), files, Source::Home).map(Some);
            }
            let mut snapshots: Vec<Snapshot> =
                self.cache.snapshot(&wanted.repo, &wanted.revision).into_iter().collect();
            if entry.is_pinned() {
                snapshots.extend(self.cache.snapshots(&wanted.repo)); // the checksum says which file it is
            }
            for snapshot in snapshots {
                let paths = |file: &CatalogFile| snapshot.file(&file.path);
                if let Some(files) = self.check_all(entry, paths)? {
                    let source = Source::HubCache { repo: wanted.repo.clone(), commit: snapshot.commit.clone() };
                    return ModelFiles::new(wanted.id.clone(), files, source).map(Some);
                }
            }
            if entry.is_pinned() {
                return Ok(None);
            }
        }
        self.find_in_cache(wanted)
    }

    fn find_in_home(&self, entry: &CatalogEntry) -> Result<Option<Files>, PullError> {
        let folder = self.folder(&entry.id);
        self.check_all(entry, |file| Some(folder.join(&file.path)).filter(|path| path.is_file()))
    }

    /// Every file of the entry, checked; `None` where one is missing or was corrupt.
    fn check_all(
        &self,
        entry: &CatalogEntry,
        locate: impl Fn(&CatalogFile) -> Option<PathBuf>,
    ) -> Result<Option<Files>, PullError> {
        let mut located = Vec::with_capacity(entry.files.len());
        for file in &entry.files {
            match locate(file) {
                Some(path) => located.push((file, path)),
                None if file.role == FileRole::TokenizerConfig => {} // not every repository has one
                None => return Ok(None),
            }
        }
        let mut files = Files::new();
        for (file, path) in located {
            if !self.check(&path, file.sha256.as_deref())? {
                return Ok(None);
            }
            files.push((file.role, path));
        }
        Ok(Some(files))
    }

    /// Whether the file is what it should be; a corrupt one is moved out of the way.
    fn check(&self, path: &Path, pinned: Option<&str>) -> Result<bool, PullError> {
        let promised = promised_sha256(path);
        let expected = match pinned.or(promised.as_deref()) {
            Some(sha256) => Expected::Sha256(sha256),
            None => Expected::FirstUse,
        };
        match self.ledger.verify(path, expected) {
            Ok(_) => Ok(true),
            Err(error @ PullError::Corrupt { .. }) => {
                self.ledger.forget(path);
                // In the hub's cache the pointer is the link, the damage is in the blob.
                set_aside(&path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
                if self.offline {
                    return Err(error);
                }
                self.progress.note(&error.chain());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn find_in_cache(&self, wanted: &Wanted) -> Result<Option<ModelFiles>, PullError> {
        let Some(snapshot) = self.cache.snapshot(&wanted.repo, &wanted.revision) else {
            return Ok(None);
        };
        let Ok(selected) = select(&wanted.repo, &snapshot.paths(), wanted.quant.as_deref()) else {
            return Ok(None);
        };
        let mut files = Files::new();
        for (role, path) in selected {
            let Some(file) = snapshot.file(&path) else {
                return Ok(None);
            };
            if !self.check(&file, None)? {
                return Ok(None);
            }
            files.push((role, file));
        }
        if !is_whole(&files) {
            return Ok(None);
        }
        let source = Source::HubCache { repo: wanted.repo.clone(), commit: snapshot.commit };
        ModelFiles::new(wanted.id.clone(), files, source).map(Some)
    }

    /// The files of an entry that are not in the home directory.
    pub(crate) fn missing(&self, entry: &CatalogEntry) -> Vec<String> {
        let folder = self.folder(&entry.id);
        let absent = entry.files.iter().filter(|file| !folder.join(&file.path).is_file());
        absent.map(|file| file.path.clone()).collect()
    }
}

/// Whether all shards are here that the index names, or that the file names count.
fn is_whole(files: &[(FileRole, PathBuf)]) -> bool {
    let shards: Vec<&str> = files
        .iter()
        .filter(|(role, _)| *role == FileRole::Weights)
        .filter_map(|(_, path)| path.file_name()?.to_str())
        .collect();
    let total = shards.first().and_then(|name| name.rsplit_once("-of-")?.1.split_once('.')?.0.parse().ok());
    let has_tokenizer = files.iter().any(|(role, _)| *role == FileRole::Tokenizer);
    let is_gguf = shards.first().is_some_and(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    is_gguf || (has_tokenizer && total.is_none_or(|total: usize| total == shards.len()))
}

/// Where an installed model lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Location {
    /// In the home directory.
    Home,
    /// In the hub's cache, which other tools share.
    HubCache,
}

/// A model that is on disk.
#[derive(Debug, Clone)]
pub struct InstalledModel {
    /// Its catalog id, or `owner/repo`.
    pub id: String,
    /// Its weights.
    pub paths: Vec<PathBuf>,
    /// Their size in bytes.
    pub bytes: u64,
    /// Whether they were checked and have not changed since. Listing does not hash.
    pub verified: bool,
    /// Where they lie.
    pub location: Location,
    /// The catalog's entry, where there is one.
    pub catalog: Option<&'static CatalogEntry>,
}

/// The models on disk: those of the catalog first, then others of the hub's cache. Reads names and sizes, no contents.
pub fn installed(options: &PullOptions) -> Vec<InstalledModel> {
    let store = Store::new(options);
    let mut models: Vec<InstalledModel> =
        catalog::entries().iter().filter_map(|entry| store.installed(entry)).collect();
    for repo in store.cache.repos() {
        let listed = |model: &InstalledModel| model.catalog.is_some_and(|entry| entry.hub.repo == repo);
        let Some(snapshot) = store.cache.snapshot(&repo, "main").filter(|_| !models.iter().any(listed)) else {
            continue;
        };
        let Ok(selected) = select(&repo, &snapshot.paths(), options.quant.as_deref()) else {
            continue;
        };
        let located = selected.into_iter().filter_map(|(role, path)| Some((role, snapshot.file(&path)?)));
        let files: Files = located.collect();
        if is_whole(&files) {
            models.push(store.describe(repo, &files, Location::HubCache, None));
        }
    }
    models
}

impl Store<'_> {
    fn installed(&self, entry: &'static CatalogEntry) -> Option<InstalledModel> {
        let folder = self.folder(&entry.id);
        let weights = |locate: &dyn Fn(&CatalogFile) -> Option<PathBuf>| -> Option<Files> {
            let wanted = entry.files.iter().filter(|file| file.role != FileRole::TokenizerConfig);
            wanted.map(|file| Some((file.role, locate(file)?))).collect()
        };
        let in_home = weights(&|file| Some(folder.join(&file.path)).filter(|path| path.is_file()));
        if let Some(files) = in_home {
            return Some(self.describe(entry.id.clone(), &files, Location::Home, Some(entry)));
        }
        let snapshots = self.cache.snapshots(&entry.hub.repo);
        let files = snapshots.iter().find_map(|snapshot| weights(&|file| snapshot.file(&file.path)))?;
        Some(self.describe(entry.id.clone(), &files, Location::HubCache, Some(entry)))
    }

    fn describe(
        &self,
        id: String,
        files: &[(FileRole, PathBuf)],
        location: Location,
        catalog: Option<&'static CatalogEntry>,
    ) -> InstalledModel {
        let weights = files.iter().filter(|(role, _)| *role == FileRole::Weights);
        let paths: Vec<PathBuf> = weights.map(|(_, path)| path.clone()).collect();
        let pinned = catalog.and_then(|entry| entry.files.first()).and_then(|file| file.sha256.as_deref());
        let expected = pinned.map_or(Expected::FirstUse, Expected::Sha256);
        InstalledModel {
            bytes: paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum(),
            verified: paths.iter().all(|path| self.ledger.is_verified(path, expected)),
            id,
            paths,
            location,
            catalog,
        }
    }
}

/// A line of `engram models`: what the catalog knows, and whether it is here.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The catalog's entry; none for other models of the hub's cache.
    pub catalog: Option<&'static CatalogEntry>,
    /// What is on disk, if anything.
    pub installed: Option<InstalledModel>,
}

/// The catalog with what is on disk, then what else is on disk.
pub fn list(options: &PullOptions) -> Vec<Listing> {
    let mut here = installed(options);
    let mut lines = Vec::new();
    for entry in catalog::entries() {
        let at = here.iter().position(|model| model.catalog.is_some_and(|known| known.id == entry.id));
        lines.push(Listing { catalog: Some(entry), installed: at.map(|at| here.remove(at)) });
    }
    lines.extend(here.into_iter().map(|model| Listing { catalog: None, installed: Some(model) }));
    lines
}

/// What [`remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Bytes freed.
    pub bytes: u64,
    /// Copies that stay, because the hub's cache belongs to other tools too.
    pub kept: Vec<PathBuf>,
}

/// Removes a catalog model from the home directory, with what an interrupted pull left of it.
///
/// Copies in the hub's cache are named, not removed. Fails where the model is nowhere on disk.
pub fn remove(name: &str, options: &PullOptions) -> Result<Removed, PullError> {
    let store = Store::new(options);
    let nearest = || catalog::nearest(name).into_iter().map(str::to_string).collect();
    let unknown = || PullError::UnknownModel { spec: name.to_string(), nearest: nearest() };
    let kept = |id: &str| {
        let copies =
            installed(options).into_iter().filter(|model| model.id == id && model.location == Location::HubCache);
        copies.flat_map(|model| model.paths).collect::<Vec<PathBuf>>()
    };
    let Some(entry) = catalog::find(name) else {
        let kept = if is_repo(name) { kept(name) } else { Vec::new() };
        return if kept.is_empty() { Err(unknown()) } else { Ok(Removed { bytes: 0, kept }) };
    };
    let folder = store.folder(&entry.id);
    let lock = options.lock(&entry.id);
    let _lock = FolderLock::acquire(&lock, &entry.id, options.progress.as_ref())?;
    let mut removed = Removed::default();
    if folder.is_dir() {
        for file in &entry.files {
            store.ledger.forget(&folder.join(&file.path));
        }
        removed.bytes = folder_bytes(&folder);
        fs::remove_dir_all(&folder).map_err(PullError::io("remove", &folder))?;
    }
    removed.kept = kept(&entry.id);
    if removed == Removed::default() {
        return Err(PullError::NoSuchPath { path: folder });
    }
    Ok(removed)
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(children) = folder.read_dir() else {
        return 0;
    };
    let size = |child: fs::DirEntry| match child.file_type() {
        Ok(kind) if kind.is_dir() => folder_bytes(&child.path()),
        Ok(kind) if kind.is_file() => child.metadata().map_or(0, |metadata| metadata.len()),
        _ => 0,
    };
    children.flatten().map(size).sum()
}
