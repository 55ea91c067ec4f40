//! The files of a tree: what .gitignore leaves, no links, nothing too large.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ignore::WalkBuilder;
use ignore::overrides::OverrideBuilder;

use super::IndexOptions;
use crate::error::{MemoryError, Result};

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Path inside the tree, with `/`; what is not UTF-8 in it is replaced.
    pub path: String,
    /// Where it lies.
    pub full: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Time of change, ns since 1970.
    pub modified: u64,
}

/// A tree.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By path.
    pub files: Vec<Found>,
    /// Directories walked, the root included.
    pub dirs: Vec<PathBuf>,
    /// Paths that could not be looked at, and why. An empty path stands for anywhere.
    pub unread: Vec<(String, String)>,
}

/// Lists the files under `root`. Rules are those of git (.gitignore, also of directories above, info/exclude), of
/// .ignore and of .engramignore. Symbolic links are not followed, be it to files or to directories.
///
/// # Errors
/// [`MemoryError::Invalid`] if `root` is no directory that can be read or a glob is none.
pub(super) fn walk(root: &Path, options: &IndexOptions) -> Result<Listing> {
    if let Err(error) = std::fs::read_dir(root) {
        let message = format!("{} cannot be listed ({error}): name a directory that can be read", root.display());
        return Err(MemoryError::Invalid { field: "path".to_owned(), message });
    }
    let mut overrides = OverrideBuilder::new(root);
    for glob in &options.exclude {
        let bad = |error| MemoryError::Invalid { field: "exclude".to_owned(), message: format!("`{glob}`: {error}") };
        overrides.add(&format!("!{glob}")).map_err(bad)?;
    }
    let overrides = overrides
        .build()
        .map_err(|error| MemoryError::Invalid { field: "exclude".to_owned(), message: error.to_string() })?;
    let mut walk = WalkBuilder::new(root);
    walk.hidden(!options.hidden).require_git(false).follow_links(false).overrides(overrides);
    walk.add_custom_ignore_filename(".engramignore");
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let mut listing = Listing::default();
    for entry in walk.build() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                listing.unread.push((failed_at(&error, root), error.to_string()));
                continue;
            }
        };
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_dir()) {
            listing.dirs.push(entry.into_path());
        } else if kind.is_some_and(|kind| kind.is_file()) {
            let path = inside(entry.path(), root);
            match entry.metadata() {
                Ok(data) if data.len() <= options.max_file_bytes => {
                    let modified = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                    let modified = modified.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
                    listing.files.push(Found { path, full: entry.into_path(), size: data.len(), modified });
                }
                Ok(_) => {}
                Err(error) => listing.unread.push((path, error.to_string())),
            }
        }
    }
    listing.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

/// `path` as seen from `root`, with `/`.
fn inside(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The path that an error of the walk speaks of.
fn failed_at(error: &ignore::Error, root: &Path) -> String {
    match error {
        ignore::Error::WithPath { path, .. } => inside(path, root),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => failed_at(err, root),
        _ => String::new(),
    }
}
