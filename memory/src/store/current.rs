//! The file `current`: which generation is the store, where it stands, and how many records it holds.
//!
//! It is written at every checkpoint, so that a database or a log that fell behind, or lost records, is told from one that
//! is as it was left. One line of numbers with a checksum, first the version of the store's files; beside it lie `records.N`, the generation's database, `base.N`,
//! the log it began with, and `log`, the commits since.

use std::path::{Path, PathBuf};

use super::FORMAT;
use super::fault::{Fault, io_fault, sync_dir};

const NAME: &str = "current";

/// A generation and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Current {
    /// Its number. The first, 0, began empty and has no base.
    pub generation: u64,
    /// Bytes on disk when it was made; it is copied again when it has doubled.
    pub base_bytes: u64,
    /// Frames of its base.
    pub base_frames: u64,
    /// The last commit that its base holds; the log holds those after it.
    pub base_seq: u64,
    /// The last commit of which its database was durable.
    pub seq: u64,
    /// Records there were then.
    pub records: u64,
}

impl Current {
    /// The directory of its database.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("records.{}", self.generation))
    }

    /// The directory of its base.
    pub fn base(&self, dir: &Path) -> PathBuf {
        dir.join(format!("base.{}", self.generation))
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`Fault::Format`] if another version wrote it; [`Fault::Corrupt`] if it fails its checksum.
    pub fn read(dir: &Path) -> Result<Option<Self>, Fault> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_fault("read", &path)(error)),
        };
        match parse(&bytes) {
            Some(Line::Of(current)) => Ok(Some(current)),
            Some(Line::Other(found)) => Err(Fault::Format { path, found }),
            None => Err(Fault::Corrupt { path, detail: "it fails its checksum".to_owned() }),
        }
    }

    /// The same, creating the first generation where there is none.
    pub fn read_or_create(dir: &Path) -> Result<Self, Fault> {
        if let Some(current) = Self::read(dir)? {
            return Ok(current);
        }
        // A store that lost this file is not an empty one: nothing is created over its records.
        if !super::log::files(&dir.join("log"))?.is_empty() || !generations(dir)?.is_empty() {
            return Err(Fault::Corrupt { path: dir.join(NAME), detail: "it is missing beside records".to_owned() });
        }
        let current = Self::default();
        current.write(dir)?;
        Ok(current)
    }

    /// Makes this the store, durably: written aside, synced, renamed.
    pub fn write(&self, dir: &Path) -> Result<(), Fault> {
        let aside = dir.join("current.new");
        let line = self.line();
        let line = format!("{line}{:08x}\n", crc32fast::hash(line.as_bytes()));
        let failed = |error| Fault::of(&error, "write", &aside, line.len() as u64);
        std::fs::write(&aside, &line).map_err(failed)?;
        std::fs::File::open(&aside).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&aside, dir.join(NAME)).map_err(failed)?;
        sync_dir(dir)
    }

    fn line(&self) -> String {
        let Self { generation, base_bytes, base_frames, base_seq, seq, records } = self;
        format!("{FORMAT} {generation} {base_bytes} {base_frames} {base_seq} {seq} {records} ")
    }

    /// Removes generations that are not the store: older ones, and copies that were not finished.
    pub fn remove_others(&self, dir: &Path) -> Result<(), Fault> {
        for generation in generations(dir)?.into_iter().filter(|&generation| generation != self.generation) {
            let other = Self { generation, ..Self::default() };
            for path in [other.path(dir), other.base(dir)] {
                match std::fs::remove_dir_all(&path) {
                    // It has none, or whoever retired it was quicker.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    outcome => outcome.map_err(io_fault("remove", &path))?,
                }
            }
        }
        sync_dir(dir)
    }
}

/// What the file says.
enum Line {
    Of(Current),
    /// Another version's.
    Other(u32),
}

fn parse(bytes: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (first, crc) = text.rsplit_once(' ')?;
    // The first version wrote two numbers, and no checksum.
    if [first, crc].iter().all(|word| word.parse::<u64>().is_ok()) {
        return Some(Line::Other(1));
    }
    let line = text.strip_suffix(crc)?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(line.as_bytes()) {
        return None;
    }
    let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    match numbers.as_slice() {
        &[format, generation, base_bytes, base_frames, base_seq, seq, records] if format == u64::from(FORMAT) => {
            Some(Line::Of(Current { generation, base_bytes, base_frames, base_seq, seq, records }))
        }
        // Written before a version stood here.
        [_, _, _, _, _, _] => Some(Line::Other(1)),
        &[format, ..] => u32::try_from(format).ok().filter(|&format| format != FORMAT).map(Line::Other),
        [] => None,
    }
}

/// Numbers of the generations in `dir`, in order.
pub fn generations(dir: &Path) -> Result<Vec<u64>, Fault> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(io_fault("list", dir))? {
        let name = entry.map_err(io_fault("list", dir))?.file_name();
        let name = name.to_str().unwrap_or_default();
        let number = ["records.", "base."].iter().find_map(|prefix| name.strip_prefix(prefix)?.parse::<u64>().ok());
        found.extend(number);
    }
    Ok(found.into_iter().collect())
}
