//! What can be read of a damaged store, put into a fresh generation.
//!
//! The damaged generation is kept beside the store under another name; it is nobody's but the operator's to remove.

use std::path::{Path, PathBuf};

use super::current::{Current, generations};
use super::fault::{Fault, io_fault, sync_dir};
use super::log::{self, Log};
use super::tree::Tree;
use super::{copy_dir, keys, lock, value};
use crate::error::{MemoryError, Result};

/// Memory of sled while it repairs, bytes.
const CACHE: u64 = 64 << 20;
/// How finely a stretch that cannot be read is cut up: a key's first bytes.
const DEPTH: usize = 7;

/// What a repair of the store found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salvaged {
    /// Stretches of the log that could not be read.
    pub log_gaps: u64,
    /// Where the damaged generation lies now.
    pub damaged: PathBuf,
}

/// Copies every value of the store in `dir` whose checksum holds into a fresh generation, adds what the log holds, and
/// makes that the store.
///
/// # Errors
/// [`MemoryError::Locked`] if it is open; what the disk refuses. The store is as it was then.
pub fn repair(dir: &Path) -> Result<Salvaged> {
    let Some(_lock) = lock(dir)? else { return Err(MemoryError::ReadOnly { path: dir.to_owned() }) };
    let numbers = generations(dir)?;
    let newest = numbers.iter().copied().max().unwrap_or(0);
    let current = match Current::read(dir) {
        Ok(Some(current)) => current,
        _ => Current { generation: newest, base_bytes: 0 },
    };
    let fresh = Current { generation: newest.max(current.generation) + 1, base_bytes: 0 };
    let tree = Tree::open(&fresh.path(dir), CACHE)?;
    let mut salvaged = Salvaged { damaged: dir.join(format!("damaged.{}", current.generation)), ..Salvaged::default() };
    let mut applied = 0;
    if let Some(old) = open_damaged(&current.path(dir), &dir.join("repair"))? {
        applied = old.applied().unwrap_or(0);
        salvage(&old, &tree, &[])?;
    }
    let (last, gaps) = log::replay(&dir.join("log"), applied, true, |frame| tree.apply(&frame.ops, frame.seq))?;
    salvaged.log_gaps = gaps;
    tree.apply(&[], last)?;
    tree.sync()?;
    fresh.write(dir)?;
    Log::create(&dir.join("log"), last + 1)?.remove_others()?;
    if current.path(dir).exists() {
        std::fs::rename(current.path(dir), &salvaged.damaged).map_err(io_fault("rename", &salvaged.damaged))?;
    }
    let _ = std::fs::remove_dir_all(dir.join("repair"));
    sync_dir(dir)?;
    Ok(salvaged)
}

/// The damaged database, or a copy of it without sled's own snapshots, which sled then makes anew from its segments;
/// `None` if it opens neither way.
fn open_damaged(path: &Path, aside: &Path) -> Result<Option<Tree>> {
    if !path.exists() {
        return Ok(None);
    }
    if let Ok(tree) = Tree::open(path, CACHE) {
        return Ok(Some(tree));
    }
    let _ = std::fs::remove_dir_all(aside);
    copy_dir(path, aside)?;
    for entry in std::fs::read_dir(aside).map_err(io_fault("list", aside))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path()).map_err(io_fault("remove", aside))?;
        }
    }
    Ok(Tree::open(aside, CACHE).ok())
}

/// Copies what is whole under `prefix`. Where reading stops, each longer prefix is tried by itself, so that one bad page
/// costs its own keys only.
fn salvage(from: &Tree, to: &Tree, prefix: &[u8]) -> std::result::Result<(), Fault> {
    let mut ops = Vec::new();
    let mut reached = None;
    let mut whole = true;
    for pair in from.scan(prefix, &[]) {
        let Ok((key, sealed)) = pair else {
            whole = false;
            break;
        };
        reached = key.get(prefix.len()).copied();
        if key != keys::APPLIED && value::unseal(&key, &sealed).is_some() {
            ops.push((key.to_vec(), Some(sealed.to_vec())));
        }
        if ops.len() == 1024 {
            to.apply(&std::mem::take(&mut ops), 0)?;
        }
    }
    to.apply(&ops, 0)?;
    if whole || prefix.len() >= DEPTH {
        return Ok(());
    }
    // Keys that were read already are written once more, which changes nothing.
    (reached.unwrap_or(0)..=u8::MAX).try_for_each(|byte| salvage(from, to, &[prefix, &[byte]].concat()))
}
