//! The hub's cache on disk, shared with every other tool that uses it.
//!
//! Layout, below `$HF_HOME/hub`: `models--OWNER--NAME/{blobs/ETAG, snapshots/COMMIT/PATH -> blob, refs/REVISION}`, and
//! locks in `.locks/models--OWNER--NAME/ETAG.lock`. The ETag of a large file is its sha256.
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::create_folder;
use super::error::PullError;
use super::spec::{is_commit, is_repo};

/// The cache folder, usually `~/.cache/huggingface/hub`.
#[derive(Debug, Clone)]
pub(crate) struct HubCache {
    root: PathBuf,
}

/// A commit of a repository, as far as it is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) commit: String,
    folder: PathBuf,
}

impl HubCache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn folder_name(repo: &str) -> String {
        format!("models--{}", repo.replace('/', "--"))
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.root.join(Self::folder_name(repo))
    }

    /// The snapshot a revision points to, without asking the hub.
    pub(crate) fn snapshot(&self, repo: &str, revision: &str) -> Option<Snapshot> {
        let folder = self.folder(repo);
        let commit = if is_commit(revision) {
            revision.to_string()
        } else {
            fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_string()
        };
        let snapshot = folder.join("snapshots").join(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then_some(Snapshot { commit, folder: snapshot })
    }

    /// Every snapshot of a repository; for files that are recognised by their checksum, whatever the commit.
    pub(crate) fn snapshots(&self, repo: &str) -> Vec<Snapshot> {
        let Ok(children) = self.folder(repo).join("snapshots").read_dir() else {
            return Vec::new();
        };
        let snapshot = |child: fs::DirEntry| {
            let commit = child.file_name().into_string().ok()?;
            is_commit(&commit).then(|| Snapshot { commit, folder: child.path() })
        };
        children.flatten().filter_map(snapshot).collect()
    }

    /// The repositories that have a snapshot of their `main` branch.
    pub(crate) fn repos(&self) -> Vec<String> {
        let Ok(children) = self.root.read_dir() else {
            return Vec::new();
        };
        let repo = |child: fs::DirEntry| {
            let name = child.file_name().into_string().ok()?;
            let repo = name.strip_prefix("models--")?.replacen("--", "/", 1);
            is_repo(&repo).then_some(repo)
        };
        let mut repos: Vec<String> = children.flatten().filter_map(repo).collect();
        repos.sort();
        repos
    }

    pub(crate) fn blob(&self, repo: &str, etag: &str) -> PathBuf {
        self.folder(repo).join("blobs").join(etag)
    }

    pub(crate) fn lock(&self, repo: &str, etag: &str) -> PathBuf {
        self.root.join(".locks").join(Self::folder_name(repo)).join(format!("{etag}.lock"))
    }

    /// Notes that `revision` is `commit` now. A commit points to itself and needs no note.
    pub(crate) fn write_ref(&self, repo: &str, revision: &str, commit: &str) -> Result<(), PullError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder(repo).join("refs").join(revision);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        fs::write(&path, commit).map_err(PullError::io("write", path))
    }

    /// Makes `path` of the snapshot stand for the blob, and returns where it then is.
    pub(crate) fn link(&self, repo: &str, commit: &str, path: &str, etag: &str) -> Result<PathBuf, PullError> {
        let pointer = self.folder(repo).join("snapshots").join(commit).join(path);
        if let Some(folder) = pointer.parent() {
            create_folder(folder)?;
        }
        let blob = self.blob(repo, etag);
        if fs::read_link(&pointer).is_ok_and(|target| target.file_name() == blob.file_name()) && pointer.exists() {
            return Ok(pointer);
        }
        // Made under another name and renamed, so that a second process never sees the pointer missing.
        let temporary = pointer.with_file_name(format!(".{etag}.{}.link", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let up = "../".repeat(2 + path.matches('/').count());
        make_pointer(Path::new(&format!("{up}blobs/{etag}")), &blob, &temporary)
            .and_then(|()| fs::rename(&temporary, &pointer))
            .map_err(PullError::io("link", &pointer))?;
        Ok(pointer)
    }
}

#[cfg(unix)]
fn make_pointer(relative: &Path, _blob: &Path, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, at)
}

#[cfg(not(unix))]
fn make_pointer(_relative: &Path, blob: &Path, at: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, at).or_else(|_| fs::copy(blob, at).map(drop)) // links there need a privilege
}

impl Snapshot {
    /// Where the file of the repository is, if it is here.
    pub(crate) fn file(&self, path: &str) -> Option<PathBuf> {
        let file = self.folder.join(path);
        file.is_file().then_some(file)
    }

    /// The paths of the snapshot that are complete, at most two folders deep.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect(&self.folder, "", 2, &mut paths);
        paths.sort();
        paths
    }
}

/// The sha256 that the name of the blob behind `path` promises, where it promises one.
pub(crate) fn promised_sha256(path: &Path) -> Option<String> {
    let name = path.canonicalize().ok()?.file_name()?.to_str()?.to_string();
    (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())).then_some(name)
}

fn collect(folder: &Path, prefix: &str, depth: usize, paths: &mut Vec<String>) {
    let Ok(children) = folder.read_dir() else {
        return;
    };
    for child in children.flatten() {
        let Ok(name) = child.file_name().into_string() else {
            continue;
        };
        let path = child.path();
        if path.is_file() {
            paths.push(format!("{prefix}{name}"));
        } else if depth > 0 && path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), depth - 1, paths);
        }
    }
}
