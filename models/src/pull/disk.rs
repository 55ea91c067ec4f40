//! Room, locks and renames: what a download needs from the file system.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::error::PullError;
use super::progress::Progress;

/// Left free beyond what a download needs, so that the system and its logs go on.
const RESERVE: u64 = 64 << 20;

/// Fails where the file system of `folder` has less than `need` bytes and a reserve of 64 MiB free.
pub(crate) fn ensure_room(folder: &Path, need: u64) -> Result<(), PullError> {
    let need = need.saturating_add(RESERVE);
    match free_bytes(folder) {
        Some(free) if free < need => Err(PullError::NoSpace { path: folder.to_path_buf(), need, free }),
        _ => Ok(()), // where the system cannot tell, the write will
    }
}

/// Bytes free for this user on the file system of `folder`.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(folder: &Path) -> Result<(), PullError> {
    fs::create_dir_all(folder).map_err(PullError::io("create", folder))
}

/// Writes to the device what the file holds, then gives it its final name; a reader sees all of it or nothing.
pub(crate) fn publish(part: &Path, target: &Path) -> Result<(), PullError> {
    File::open(part).and_then(|file| file.sync_all()).map_err(PullError::io("sync", part))?;
    fs::rename(part, target).map_err(PullError::io("rename to", target))?;
    if let Some(folder) = target.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all(); // the name itself; not every file system can, and the bytes are safe
    }
    Ok(())
}

/// Moves a file that failed its check out of the way, as `NAME.corrupt`; an older one of that name gives way.
pub(crate) fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".corrupt");
    let aside = path.with_file_name(name);
    if fs::rename(path, &aside).is_err() {
        let _ = fs::remove_file(path);
    }
    aside
}

/// An exclusive lock on a file, held until dropped; the system frees it when the process dies.
///
/// An advisory `flock`, because that is what the hub's other clients take on the same files.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits for the lock, saying so where another process has it.
    pub(crate) fn acquire(path: &Path, what: &str, progress: &dyn Progress) -> Result<Self, PullError> {
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(PullError::io("open the lock", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("another process is fetching {what}; waiting for it"));
                file.lock().map_err(PullError::io("lock", path))?;
            }
            Err(TryLockError::Error(error)) => return Err(PullError::io("lock", path)(error)),
        }
        Ok(Self { _file: file })
    }
}
