//! The file `current`: which generation of the records is the store, and how large it was when it began.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::fault::{Fault, io_fault, sync_dir};

const NAME: &str = "current";

/// A generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Its number.
    pub generation: u64,
    /// Bytes on disk when it was made; it is copied again when it has doubled.
    pub base_bytes: u64,
}

impl Current {
    /// Its directory.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("records.{}", self.generation))
    }

    /// Reads the file; `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, Fault> {
        let path = dir.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_fault("read", &path)(error)),
        };
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(generation)), Some(Ok(base_bytes))) => Ok(Some(Self { generation, base_bytes })),
            _ => Err(Fault::Corrupt { path, detail: "it should be two numbers".to_owned() }),
        }
    }

    /// The same, creating the first generation where there is none.
    pub fn read_or_create(dir: &Path) -> Result<Self, Fault> {
        if let Some(current) = Self::read(dir)? {
            return Ok(current);
        }
        // A store that lost this file is not an empty one: nothing is created over its records.
        if generations(dir)?.into_iter().any(|generation| generation > 0) {
            return Err(Fault::Corrupt { path: dir.join(NAME), detail: "it is missing beside records".to_owned() });
        }
        let current = Self { generation: 0, base_bytes: 0 };
        current.write(dir)?;
        Ok(current)
    }

    /// Makes this the store, durably: written aside, synced, renamed.
    pub fn write(&self, dir: &Path) -> Result<(), Fault> {
        let aside = dir.join("current.new");
        let failed = |error| Fault::of(&error, "write", &aside, 32);
        let mut file = std::fs::File::create(&aside).map_err(failed)?;
        writeln!(file, "{} {}", self.generation, self.base_bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&aside, dir.join(NAME)).map_err(failed)?;
        sync_dir(dir)
    }

    /// Removes generations that are not the store: older ones, and copies that were not finished.
    pub fn remove_others(&self, dir: &Path) -> Result<(), Fault> {
        for generation in generations(dir)?.into_iter().filter(|&generation| generation != self.generation) {
            let path = Self { generation, base_bytes: 0 }.path(dir);
            match std::fs::remove_dir_all(&path) {
                // Whoever retired it was quicker.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(io_fault("remove", &path))?,
            }
        }
        sync_dir(dir)
    }
}

/// Numbers of the generations in `dir`.
pub fn generations(dir: &Path) -> Result<Vec<u64>, Fault> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_fault("list", dir))? {
        let name = entry.map_err(io_fault("list", dir))?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix("records.")).and_then(|text| text.parse::<u64>().ok());
        found.extend(number);
    }
    Ok(found)
}
