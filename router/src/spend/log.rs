//! The file that spend survives in: a snapshot, and behind it frames of charges.
//!
//! `"ENGRSPD1"`, length of head and snapshot (u64), crc32 of these; then frames
//! `{"SPND", payload length u32, crc32 u32, durable u64, payload}`, little endian, the checksum covering all behind
//! it. `durable` is how much of the file was known to be on disk when the frame was written. It tells a power
//! failure (bytes are missing or wrong only past that) from damage (they are wrong before it): a frame that stands
//! behind the gap counts in either case. A payload is charges `{key length u32, day u32, nano-dollars u64, key}`.
//!
//! A file is only ever appended to; a new one is written aside, made durable, and renamed over the old one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::calendar::Day;
use super::error::{SpendError, failed};
use super::ledger::Charge;
use crate::money::Usd;

const MAGIC: &[u8; 8] = b"ENGRSPD1";
const MARK: &[u8; 4] = b"SPND";
pub(super) const FILE_HEAD: usize = 20;
const FRAME_HEAD: usize = 20;
const CHARGE_HEAD: usize = 16;
/// A snapshot's frames are about this long.
const SNAPSHOT_PAYLOAD: usize = 64 << 10;

/// The file that charges are appended to.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    /// Length of head and snapshot.
    base: u64,
    durable: u64,
}

/// Where the log of a directory is.
pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join("spend.log")
}

impl Log {
    /// Begins a new file with these charges in the place of the old one, durable before it returns.
    pub(super) fn begin(dir: &Path, charges: &[Charge]) -> Result<Self, SpendError> {
        let (path, aside) = (path_in(dir), dir.join("spend.log.new"));
        let bytes = snapshot(charges);
        let mut file = File::create(&aside).map_err(failed("create", &aside))?;
        file.write_all(&bytes).map_err(failed("write", &aside))?;
        file.sync_all().map_err(failed("sync", &aside))?;
        std::fs::rename(&aside, &path).map_err(failed("rename", &aside))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))?;
        let len = bytes.len() as u64;
        Ok(Self { path, file, len, base: len, durable: len })
    }

    /// Adds one frame. After an error what the file holds is not known: a new one is to be begun.
    pub(super) fn append(&mut self, charges: &[Charge]) -> Result<(), SpendError> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, charges, self.durable);
        self.file.write_all(&bytes).map_err(failed("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes all of it durable. After an error a new file is to be begun: the kernel forgets what it could not write.
    pub(super) fn sync(&mut self) -> Result<(), SpendError> {
        self.file.sync_data().map_err(failed("sync", &self.path))?;
        self.durable = self.len;
        Ok(())
    }

    /// Whether it is over `least` bytes, and four times as long as what it began with.
    pub(super) fn is_outgrown(&self, least: u64) -> bool {
        self.len > least.max(self.base.saturating_mul(4))
    }
}

fn snapshot(charges: &[Charge]) -> Vec<u8> {
    let mut bytes = vec![0; FILE_HEAD];
    let mut rest = charges;
    while !rest.is_empty() {
        let mut len = 0;
        let fitting = rest.iter().take_while(|charge| {
            len += CHARGE_HEAD + charge.key.len();
            len <= SNAPSHOT_PAYLOAD
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        put_frame(&mut bytes, now, 0);
        rest = later;
    }
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..FILE_HEAD].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn put_frame(bytes: &mut Vec<u8>, charges: &[Charge], durable: u64) {
    let start = bytes.len();
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&durable.to_le_bytes());
    for charge in charges {
        bytes.extend_from_slice(&(charge.key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&charge.day.0.to_le_bytes());
        bytes.extend_from_slice(&charge.amount.nanos().to_le_bytes());
        bytes.extend_from_slice(charge.key.as_bytes());
    }
    let len = (bytes.len() - start - FRAME_HEAD) as u32;
    bytes[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    // The length is covered as well: it stands before the checksum, so it is hashed first.
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(&bytes[start + 12..]);
    bytes[start + 8..start + 12].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    pub(super) charges: Vec<Charge>,
    /// Bytes that were being written when the machine stopped.
    pub(super) torn: u64,
}

/// Reads the log of `dir`; nothing if there is none.
pub(super) fn read(dir: &Path) -> Result<Replay, SpendError> {
    let path = path_in(dir);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Replay::default()),
        Err(error) => Err(failed("read", &path)(error)),
        Ok(bytes) => replay(&bytes).map_err(|at| SpendError::Corrupt { path, at, len: bytes.len() as u64 }),
    }
}

/// All whole frames; the place of the damage if bytes that were durable are not what was written.
fn replay(bytes: &[u8]) -> Result<Replay, u64> {
    let mut durable = base(bytes).ok_or(0u64)?;
    let mut replay = Replay::default();
    let mut bad = None;
    let mut at = FILE_HEAD;
    while at < bytes.len() {
        let next = (at..bytes.len()).find_map(|start| Some((start, frame(bytes, start)?)));
        let start = next.as_ref().map_or(bytes.len(), |(start, _)| *start);
        if start > at {
            bad.get_or_insert(at as u64);
            replay.torn += (start - at) as u64;
        }
        let Some((_, frame)) = next else { break };
        durable = durable.max(frame.durable);
        replay.charges.extend(charges(frame.payload).ok_or(start as u64)?);
        at = frame.end;
    }
    // A file that is too short is damaged where it ends.
    match bad.unwrap_or(bytes.len() as u64) {
        bad if bad < durable => Err(bad),
        _ => Ok(replay),
    }
}

struct Frame<'a> {
    durable: u64,
    payload: &'a [u8],
    end: usize,
}

fn base(bytes: &[u8]) -> Option<u64> {
    let head = bytes.get(..FILE_HEAD)?;
    let whole = head.starts_with(MAGIC) && crc32fast::hash(&head[..16]) == u32_at(head, 16)?;
    whole.then_some(u64_at(head, 8)?)
}

/// The frame that begins at `start`, if a whole one does.
fn frame(bytes: &[u8], start: usize) -> Option<Frame<'_>> {
    let bytes = bytes.get(start..)?;
    if !bytes.starts_with(MARK) {
        return None;
    }
    let len = u32_at(bytes, 4)?;
    let end = FRAME_HEAD.checked_add(len as usize)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(bytes.get(12..end)?);
    (crc.finalize() == u32_at(bytes, 8)?).then_some(Frame {
        durable: u64_at(bytes, 12)?,
        payload: bytes.get(FRAME_HEAD..end)?,
        end: start + end,
    })
}

fn charges(mut payload: &[u8]) -> Option<Vec<Charge>> {
    let mut charges = Vec::new();
    while !payload.is_empty() {
        let end = CHARGE_HEAD.checked_add(u32_at(payload, 0)? as usize)?;
        let key = std::str::from_utf8(payload.get(CHARGE_HEAD..end)?).ok()?;
        let (day, amount) = (Day(u32_at(payload, 4)?), Usd::from_nanos(u64_at(payload, 8)?));
        charges.push(Charge { key: key.into(), day, amount });
        payload = &payload[end..];
    }
    Some(charges)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
