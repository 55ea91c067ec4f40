//! The append-only log: what makes an acknowledged write survive, and what a damaged database is made again from.
//!
//! sled's `flush` is `sync_file_range` on Linux, which says nothing about metadata or the disk's own cache, so a
//! commit is first written here, as one frame, and made durable by one `fdatasync`. A file is
//! `"ENGRLOG1"`, the sequence number of its first frame (u64), then frames
//! `{length u32, crc32 u32, sequence u64, records u64, payload}`, little endian; the checksum covers what follows it, and
//! `records` is how many records the store holds after the commit. Reading it is [`super::replay`]'s.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::batch::{self, Op};
use super::fault::{Fault, io_fault, sync_dir};

pub(super) const MAGIC: &[u8; 8] = b"ENGRLOG1";
pub(super) const FILE_HEAD: usize = 16;
pub(super) const FRAME_HEAD: usize = 24;

/// The file that commits are appended to.
pub struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    next: u64,
}

impl Log {
    /// Starts a new file in `dir` whose first frame will be `next`, durable as a directory entry before it returns.
    pub fn create(dir: &Path, next: u64) -> Result<Self, Fault> {
        let path = dir.join(format!("{next:020}.log"));
        let failed = |error| Fault::of(&error, "create", &path, FILE_HEAD as u64);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&next.to_le_bytes());
        file.write_all(&head).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), path, file, len: FILE_HEAD as u64, next })
    }

    /// Number of the next commit.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no commit.
    pub fn is_empty(&self) -> bool {
        self.len <= FILE_HEAD as u64
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one commit, after which there are `records`, and returns its number once it is on disk. If the disk
    /// refuses, the file is as before.
    ///
    /// # Errors
    /// The [`Fault`], and whether the log can still be used: after a failed `fdatasync` nobody knows what is on
    /// the disk (the kernel forgets the dirty pages), so the log must not be appended to again.
    pub fn append(&mut self, ops: &[Op], records: u64) -> Result<u64, (Fault, Usable)> {
        let before = self.len;
        let seq = self.write(ops, records)?;
        let synced = self.sync();
        synced.map_err(|fault| {
            // It may be on disk and was not acknowledged: its number is not given again, since nothing is written again.
            self.len = before;
            (fault, Usable::No)
        })?;
        Ok(seq)
    }

    /// The same without waiting for the disk.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn write(&mut self, ops: &[Op], records: u64) -> Result<u64, (Fault, Usable)> {
        let seq = self.next;
        let payload = batch::encode(ops);
        let mut frame = Vec::with_capacity(FRAME_HEAD + payload.len());
        frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&seq.to_le_bytes());
        frame.extend_from_slice(&records.to_le_bytes());
        frame.extend_from_slice(&payload);
        let crc = crc32fast::hash(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        if let Err(error) = self.file.write_all(&frame) {
            let fault = Fault::of(&error, "write", &self.path, frame.len() as u64);
            let back = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            return Err((fault, if back.is_ok() { Usable::Yes } else { Usable::No }));
        }
        self.len += frame.len() as u64;
        self.next += 1;
        Ok(seq)
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> Result<(), Fault> {
        self.file.sync_data().map_err(|error| Fault::of(&error, "sync", &self.path, self.len))
    }

    /// Goes on in a new file, unless this one is empty.
    pub fn rotate(&mut self) -> Result<(), Fault> {
        if !self.is_empty() {
            *self = Self::create(&self.dir, self.next)?;
        }
        Ok(())
    }

    /// Removes the files whose commits are all up to `seq`, which is in a base.
    pub fn remove_up_to(&self, seq: u64) -> Result<(), Fault> {
        let paths = files(&self.dir)?;
        for (path, following) in paths.iter().zip(paths.iter().skip(1)) {
            if first_of(following).is_some_and(|first| first <= seq + 1) {
                std::fs::remove_file(path).map_err(io_fault("remove", path))?;
            }
        }
        sync_dir(&self.dir)
    }
}

/// Whether a log may be appended to after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// The failed frame was taken back.
    Yes,
    /// What is on disk is not known.
    No,
}

/// Log files of `dir`, oldest first; none if there is no such directory.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let mut paths = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
        entries => entries.map_err(io_fault("list", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(io_fault("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The number of a file's first frame, by its name.
pub fn first_of(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
