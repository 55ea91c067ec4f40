//! Reading a log back: exactly, at every open, or what can be had of a damaged one.
//!
//! There is one frame a commit and one commit in flight, so whatever a crash tore is the end of a file and was never
//! acknowledged: it is passed over. Anything else that fails a checksum is damage. An exact reading names it; a lenient
//! one takes the whole pairs out of the damaged stretch, in the order in which they were written.

use std::ops::Range;
use std::path::Path;

use super::batch::{self, Op};
use super::fault::{Fault, io_fault};
use super::log::{FILE_HEAD, FRAME_HEAD, MAGIC, files, first_of};

/// One commit read back, or what is left of a stretch of them.
pub struct Frame {
    /// Its number; they count up by one. Of a stretch, the number of its first.
    pub seq: u64,
    /// What it changes.
    pub ops: Vec<Op>,
    /// Of a damaged or missing stretch, the number of its last commit as far as is known.
    pub damaged_to: Option<u64>,
}

/// Which frames are read, and how.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Frames up to this one are elsewhere: files with no other are not opened.
    pub base: u64,
    /// Frames up to this one are verified and not given out.
    pub applied: u64,
    /// The last frame that is known to have been written: a bad end before it is damage, not a torn write.
    pub written: u64,
    /// Whether damage is passed over, or an error.
    pub lenient: bool,
}

/// What a reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// The last frame, or `base`.
    pub last: u64,
    /// Records there were after it; `None` if there was no frame.
    pub records: Option<u64>,
    /// Damaged or missing stretches.
    pub gaps: u64,
}

/// Calls `each` for the wanted frames of the log in `dir`, in order.
///
/// # Errors
/// Unless `lenient`: [`Fault::Corrupt`] naming the file if frames are damaged or missing. Whatever `each` returns.
pub fn replay(
    dir: &Path,
    reading: Reading,
    mut each: impl FnMut(Frame) -> Result<(), Fault>,
) -> Result<Replayed, Fault> {
    let paths = files(dir)?;
    let mut found = Replayed { last: reading.base, records: None, gaps: 0 };
    for (index, path) in paths.iter().enumerate() {
        let following = paths.get(index + 1).and_then(|path| first_of(path));
        if following.is_some_and(|first| first <= reading.base + 1) {
            continue;
        }
        let bytes = std::fs::read(path).map_err(io_fault("read", path))?;
        File { path, bytes: &bytes, following, reading }.read(&mut found, &mut each)?;
    }
    if found.last < reading.written {
        let missing = format!("it ends with commit {}, it held {}", found.last, reading.written);
        damage(&reading, &mut found, paths.last().map_or(dir, |path| path), missing)?;
        each(Frame { seq: found.last + 1, ops: Vec::new(), damaged_to: Some(reading.written) })?;
    }
    Ok(found)
}

/// Damage: an error, or counted.
fn damage(reading: &Reading, found: &mut Replayed, path: &Path, detail: String) -> Result<(), Fault> {
    if !reading.lenient {
        return Err(Fault::Corrupt { path: path.to_owned(), detail });
    }
    found.gaps += 1;
    Ok(())
}

/// One file of a log.
struct File<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// Number of the next file's first frame.
    following: Option<u64>,
    reading: Reading,
}

impl File<'_> {
    fn read(&self, found: &mut Replayed, each: &mut impl FnMut(Frame) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.bytes.len() < FILE_HEAD && self.may_be_torn(found.last) {
            return Ok(()); // The crash came between creating the file and its first write.
        }
        if self.bytes.get(..8) != Some(MAGIC) {
            damage(&self.reading, found, self.path, "it does not begin as a log".to_owned())?;
        }
        let mut at = FILE_HEAD;
        while at < self.bytes.len() {
            match head_at(self.bytes, at) {
                Some(head) => {
                    at = head.payload.end;
                    self.take(&head, found, each)?;
                }
                None => {
                    let Some(end) = self.skip(at, found, each)? else { break };
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Takes a whole frame.
    fn take(
        &self,
        head: &Head,
        found: &mut Replayed,
        each: &mut impl FnMut(Frame) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if head.seq <= found.last {
            return Ok(()); // The base holds it.
        }
        if head.seq != found.last + 1 {
            let detail = format!("commit {} follows commit {}", head.seq, found.last);
            damage(&self.reading, found, self.path, detail)?;
            each(Frame { seq: found.last + 1, ops: Vec::new(), damaged_to: Some(head.seq - 1) })?;
        }
        (found.last, found.records) = (head.seq, Some(head.records));
        if head.seq <= self.reading.applied {
            return Ok(());
        }
        let Some(ops) = batch::decode(&self.bytes[head.payload.clone()]) else {
            return damage(&self.reading, found, self.path, format!("commit {} holds no pairs", head.seq));
        };
        each(Frame { seq: head.seq, ops, damaged_to: None })
    }

    /// Passes over what is no frame at `at`. Where reading goes on; `None` at a torn end.
    fn skip(
        &self,
        at: usize,
        found: &mut Replayed,
        each: &mut impl FnMut(Frame) -> Result<(), Fault>,
    ) -> Result<Option<usize>, Fault> {
        let next = (at + 1..self.bytes.len()).find(|&offset| self.plausible(offset, found.last));
        if next.is_none() && self.may_be_torn(found.last) {
            return Ok(None);
        }
        damage(&self.reading, found, self.path, format!("the frame at byte {at} fails its checksum"))?;
        let (seq, end) = (found.last + 1, next.unwrap_or(self.bytes.len()));
        let ops = batch::salvage(&self.bytes[at..end]);
        let behind = next.and_then(|next| head_at(self.bytes, next)).map(|head| head.seq - 1);
        // The frames of the stretch are accounted for: the one behind it is no second gap.
        found.last = behind.unwrap_or(found.last);
        each(Frame { seq, ops, damaged_to: Some(behind.unwrap_or(self.reading.written.max(seq))) })?;
        Ok(Some(end))
    }

    /// Whether a bad end after frame `last` is what a crash leaves. An open that was killed before it wrote goes on in the
    /// next file with the number that was torn.
    fn may_be_torn(&self, last: u64) -> bool {
        self.following.map_or(last >= self.reading.written, |first| first == last + 1)
    }

    /// Whether a whole frame that could follow `last` begins at `at`; its number is looked at before its checksum.
    fn plausible(&self, at: usize, last: u64) -> bool {
        let seq = self.bytes.get(at + 8..).and_then(|rest| rest.first_chunk()).map(|seq| u64::from_le_bytes(*seq));
        seq.is_some_and(|seq| seq > last && seq - last < 1 << 32) && head_at(self.bytes, at).is_some()
    }
}

/// A whole frame.
struct Head {
    seq: u64,
    records: u64,
    payload: Range<usize>,
}

/// The frame that begins at `at`, its checksum verified.
fn head_at(bytes: &[u8], at: usize) -> Option<Head> {
    let head = bytes.get(at..at + FRAME_HEAD)?;
    let word = |from: usize| head.get(from..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let long = |from: usize| head.get(from..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let start = at + FRAME_HEAD;
    let payload = start..start.checked_add(word(0)? as usize)?;
    if crc32fast::hash(bytes.get(at + 8..payload.end)?) != word(4)? {
        return None;
    }
    Some(Head { seq: long(8)?, records: long(16)?, payload })
}
