//! A manifest in parts, for a door that takes only so much at once.
//!
//! The parts of one sending are kept beside the manifest until the last is there, and then take its place together: until
//! then, and if it never comes, the manifest is what it was.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestStore};
use crate::error::{MemoryError, Result};
use crate::scope::Scope;

/// Which part of a manifest it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Names the sending: the parts of two do not mix.
    pub upload: String,
    /// From 0, one after the other.
    pub number: u32,
    /// None follows.
    pub last: bool,
}

/// Sendings that are under way, by the file that their parts are kept in. A mutex, held for one part: of two sendings of
/// one scope the later counts.
pub(super) type Sendings = Arc<Mutex<HashMap<PathBuf, Sending>>>;

/// How far one is.
#[derive(Debug)]
pub(super) struct Sending {
    upload: String,
    next: u32,
}

impl Manifest {
    /// Cuts it into parts of about `bytes` of JSON each, a part at least; the entry of a single file is not cut. Each part
    /// says of itself what the whole does.
    pub fn into_parts(self, bytes: usize) -> Vec<Self> {
        let Self { format, chunker, complete, files, salted } = self;
        let empty = Self { format, chunker, complete, ..Self::default() };
        let (mut parts, mut part, mut size) = (Vec::new(), empty.clone(), 0);
        let mut room = |part: &mut Self, size: &mut usize, more: usize| {
            if *size > 0 && *size + more > bytes {
                parts.push(std::mem::replace(part, empty.clone()));
                *size = 0;
            }
            *size += more;
        };
        for (path, entry) in files {
            let entry_bytes = serde_json::to_vec(&entry).map_or(0, |json| json.len());
            room(&mut part, &mut size, path.len() + entry_bytes + 8);
            part.files.insert(path, entry);
        }
        for (key, id) in salted {
            room(&mut part, &mut size, 72);
            part.salted.insert(key, id);
        }
        parts.push(part);
        parts
    }

    /// Adds what a later part of the same manifest holds.
    fn extend(&mut self, part: Self) {
        self.files.extend(part.files);
        self.salted.extend(part.salted);
    }
}

impl ManifestStore {
    /// Keeps a part of a scope's manifest; with the last one the whole takes the place of what was kept before.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a part that does not follow the one before it; then the sending begins anew. As
    /// [`ManifestStore::save`].
    pub fn save_part(&self, scope: &Scope, part: &Part, manifest: &Manifest) -> Result<()> {
        let path = self.path(scope).with_extension("part");
        let mut sendings = self.sendings.lock().unwrap_or_else(PoisonError::into_inner);
        let follows =
            sendings.get(&path).is_some_and(|sending| sending.upload == part.upload && sending.next == part.number);
        if part.number > 0 && !follows {
            return Err(out_of_turn(part));
        }
        // Whatever comes of this one, nothing follows it but what it says.
        sendings.remove(&path);
        let mut line = serde_json::to_vec(manifest).map_err(|error| io("encode", &path, error.into()))?;
        line.push(b'\n');
        append(&path, part, &line)?;
        if !part.last {
            sendings.insert(path, Sending { upload: part.upload.clone(), next: part.number + 1 });
            return Ok(());
        }
        let whole = read(&path)?;
        let saved = self.save(scope, &whole);
        // A part more or less that nobody asks for; the next sending begins with a new file.
        let _ = fs::remove_file(&path);
        saved
    }
}

fn append(path: &Path, part: &Part, line: &[u8]) -> Result<()> {
    let first = part.number == 0;
    if let Some(dir) = path.parent().filter(|_| first) {
        fs::create_dir_all(dir).map_err(|source| io("create", dir, source))?;
    }
    let opened = match first {
        true => File::create(path),
        // What was forgotten meanwhile took the parts with it.
        false => File::options().append(true).open(path),
    };
    match opened.and_then(|mut file| file.write_all(line)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(out_of_turn(part)),
        Err(source) => Err(super::manifest::unwritten(path, line.len(), source)),
    }
}

/// All parts together.
fn read(path: &Path) -> Result<Manifest> {
    let text = fs::read_to_string(path).map_err(|source| io("read", path, source))?;
    let mut whole: Option<Manifest> = None;
    for line in text.lines() {
        let part: Manifest = serde_json::from_str(line).map_err(|error| io("read", path, error.into()))?;
        match &mut whole {
            Some(whole) => whole.extend(part),
            None => whole = Some(part),
        }
    }
    Ok(whole.unwrap_or_default())
}

fn out_of_turn(part: &Part) -> MemoryError {
    let Part { upload, number, .. } = part;
    let message = format!("number {number} of upload {upload:?} is not the next: send all parts again, from number 0");
    MemoryError::Invalid { field: "part".to_owned(), message }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> MemoryError {
    MemoryError::Io { action, path: path.to_owned(), source }
}
