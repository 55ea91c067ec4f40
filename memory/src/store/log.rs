//! The append-only log: what makes an acknowledged write survive.
//!
//! sled's `flush` is `sync_file_range` on Linux, which says nothing about metadata or the disk's own cache, so a
//! commit is first written here, as one frame, and made durable by one `fdatasync`. A file is
//! `"ENGRLOG1"`, the sequence number of its first frame (u64), then frames `{length u32, crc32 u32, sequence u64, payload}`,
//! little endian; the checksum covers sequence and payload. There is one frame a commit and one commit in flight, so
//! whatever a crash tore is the end of the last file: it was never acknowledged and is cut off. A bad frame with a
//! good one behind it is damage.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::batch::{self, Op};
use super::fault::{Fault, io_fault, sync_dir};

const MAGIC: &[u8; 8] = b"ENGRLOG1";
const FILE_HEAD: u64 = 16;
const FRAME_HEAD: usize = 16;

/// The file that commits are appended to.
pub struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    next: u64,
}

/// One commit read back.
pub struct Frame {
    /// Its number; they count up by one.
    pub seq: u64,
    /// What it changes.
    pub ops: Vec<Op>,
}

impl Log {
    /// Starts a new file in `dir` whose first frame will be `next`, durable as a directory entry before it returns.
    pub fn create(dir: &Path, next: u64) -> Result<Self, Fault> {
        let path = dir.join(format!("{next:020}.log"));
        let failed = |error| Fault::of(&error, "create", &path, FILE_HEAD);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&next.to_le_bytes());
        file.write_all(&head).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), path, file, len: FILE_HEAD, next })
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
        self.len <= FILE_HEAD
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one commit and returns its number once it is on disk. If the disk refuses, the file is as before.
    ///
    /// # Errors
    /// The [`Fault`], and whether the log can still be used: after a failed `fdatasync` nobody knows what is on
    /// the disk (the kernel forgets the dirty pages), so the log must not be appended to again.
    pub fn append(&mut self, ops: &[Op]) -> Result<u64, (Fault, Usable)> {
        let seq = self.next;
        let payload = batch::encode(ops);
        let mut frame = Vec::with_capacity(FRAME_HEAD + payload.len());
        frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.extend_from_slice(&checksum(seq, &payload).to_le_bytes());
        frame.extend_from_slice(&seq.to_le_bytes());
        frame.extend_from_slice(&payload);
        if let Err(error) = self.file.write_all(&frame) {
            let fault = Fault::of(&error, "write", &self.path, frame.len() as u64);
            let back = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            return Err((fault, if back.is_ok() { Usable::Yes } else { Usable::No }));
        }
        if let Err(error) = self.file.sync_data() {
            return Err((Fault::of(&error, "sync", &self.path, frame.len() as u64), Usable::No));
        }
        self.len += frame.len() as u64;
        self.next += 1;
        Ok(seq)
    }

    /// Goes on in a new file and removes the older ones; the caller has made everything in them durable elsewhere.
    pub fn rotate(&mut self) -> Result<(), Fault> {
        if self.is_empty() {
            return Ok(());
        }
        *self = Self::create(&self.dir, self.next)?;
        self.remove_others()
    }

    /// Removes every other log file of the directory.
    pub fn remove_others(&self) -> Result<(), Fault> {
        for path in files(&self.dir)?.into_iter().filter(|path| *path != self.path) {
            std::fs::remove_file(&path).map_err(io_fault("remove", &path))?;
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

/// Log files of `dir`, oldest first.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_fault("list", dir))? {
        let path = entry.map_err(io_fault("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Calls `each` for every whole frame after `applied`, in order. Returns the number of the last frame seen
/// (`applied` if none).
///
/// With `lenient` a damaged stretch is skipped and counted in the second value; without, it is an error.
///
/// # Errors
/// [`Fault::Corrupt`] naming the file if frames are damaged or missing in the middle; whatever `each` returns.
pub fn replay(
    dir: &Path,
    applied: u64,
    lenient: bool,
    mut each: impl FnMut(Frame) -> Result<(), Fault>,
) -> Result<(u64, u64), Fault> {
    let paths = files(dir)?;
    let (mut last, mut skipped) = (applied, 0);
    for (index, path) in paths.iter().enumerate() {
        let mut bytes = Vec::new();
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(io_fault("read", path))?;
        let damaged = |detail: String| Fault::Corrupt { path: path.clone(), detail };
        let following = paths.get(index + 1).and_then(|path| path.file_stem()?.to_str()?.parse::<u64>().ok());
        // An open that was killed between starting a new file and removing this one leaves its torn end behind.
        let torn_end = |last: u64| following.is_none_or(|first| first == last + 1);
        if bytes.len() < FILE_HEAD as usize && torn_end(last) {
            continue; // The crash came between creating the file and its first write.
        }
        if bytes.get(..8) != Some(MAGIC) {
            if lenient {
                skipped += 1;
                continue;
            }
            return Err(damaged("it does not begin as a log".to_owned()));
        }
        let mut at = FILE_HEAD as usize;
        while at < bytes.len() {
            let Some((frame, end)) = frame_at(&bytes, at) else {
                let next = (at + 1..bytes.len()).find(|&offset| plausible(&bytes, offset, last));
                match next {
                    None if torn_end(last) => break,
                    None if lenient => {
                        skipped += 1;
                        break;
                    }
                    Some(next) if lenient => {
                        skipped += 1;
                        at = next;
                        continue;
                    }
                    _ => return Err(damaged(format!("the frame at byte {at} fails its checksum"))),
                }
            };
            at = end;
            if frame.seq <= last {
                continue;
            }
            if frame.seq != last + 1 && !lenient {
                return Err(damaged(format!("frame {} follows frame {last}", frame.seq)));
            }
            last = frame.seq;
            each(frame)?;
        }
    }
    Ok((last, skipped))
}

/// The frame that begins at `at`, and where it ends.
fn frame_at(bytes: &[u8], at: usize) -> Option<(Frame, usize)> {
    let head = bytes.get(at..at + FRAME_HEAD)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let seq = u64::from_le_bytes(head[8..].try_into().ok()?);
    let end = (at + FRAME_HEAD).checked_add(len)?;
    let payload = bytes.get(at + FRAME_HEAD..end)?;
    if checksum(seq, payload) != crc {
        return None;
    }
    Some((Frame { seq, ops: batch::decode(payload)? }, end))
}

/// Whether a whole frame that could follow `last` begins at `at`; the number is looked at before the checksum is computed.
fn plausible(bytes: &[u8], at: usize, last: u64) -> bool {
    let seq = bytes.get(at + 8..at + FRAME_HEAD).and_then(|seq| seq.try_into().ok()).map(u64::from_le_bytes);
    seq.is_some_and(|seq| seq > last && seq - last < 1 << 32) && frame_at(bytes, at).is_some()
}

fn checksum(seq: u64, payload: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&seq.to_le_bytes());
    hash.update(payload);
    hash.finalize()
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
