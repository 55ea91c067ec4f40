//! What can be read of a damaged store, put into a fresh generation.
//!
//! Base and log are read first, leniently: a whole pair is kept whatever was damaged around it. Where they have no gap they
//! are the store. Where they have, and the database is whole, it is the store, with the commits after it. Where neither is,
//! the database fills in what base and log lost. So a record is lost only if its bytes were hit in both, and where only one
//! of them is damaged nothing is lost. (Where both are, a removal whose bytes were hit may come back, and an older version
//! may stand for one that was hit.)
//!
//! sled is opened on a copy: it changes files that it does not understand. All damaged files are kept beside the store under
//! another name; they are nobody's but the operator's to remove.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;

use super::current::{Current, generations};
use super::fault::{Fault, io_fault, sync_dir};
use super::log::{self, Log};
use super::replay::{Reading, replay};
use super::tree::Tree;
use super::{census, compact, copy_dir, keys, lock, value};
use crate::error::{MemoryError, Result};

/// Memory of sled while it repairs, bytes.
const CACHE: u64 = 64 << 20;
/// How finely a stretch of the database that cannot be read is cut up: a key's first bytes.
const DEPTH: usize = 7;

/// What a repair of the store found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salvaged {
    /// Records there were, by the newest count that can be read.
    pub expected: u64,
    /// Stretches of base and log that could not be read.
    pub log_gaps: u64,
    /// Where the damaged files lie now.
    pub damaged: PathBuf,
}

/// Makes a fresh generation of every value of the store in `dir` that can be read, and makes that the store.
///
/// # Errors
/// [`MemoryError::Locked`] if it is open; [`MemoryError::Format`] if another version wrote it; what the disk refuses. The
/// store is as it was then.
pub fn repair(dir: &Path) -> Result<Salvaged> {
    let Some(_lock) = lock(dir)? else { return Err(MemoryError::ReadOnly { path: dir.to_owned() }) };
    let aside = dir.join("repair");
    let current = current_or_guess(dir)?;
    remove_dir(&aside)?;
    std::fs::create_dir(&aside).map_err(io_fault("create", &aside))?;
    let old = open_copy(&current.path(dir), &aside.join("old"))?;
    let applied = old.as_ref().map_or(0, |old| old.applied().unwrap_or(0));
    let mut tree = Tree::open(&aside.join("fresh"), CACHE)?;
    let logged = read_logs(dir, &current, applied, &tree)?;
    if logged.gaps > 0
        && let Some(old) = &old
    {
        match whole(old, dir, &current, &logged, &aside.join("whole"))? {
            Some(whole) => tree = whole,
            None => fill(old, &tree, &logged.removed)?,
        }
    }
    let newest = generations(dir)?.last().copied().unwrap_or(0).max(current.generation);
    let fresh = (dir, newest + 1);
    let (made, stands) =
        compact::copy(&tree, fresh, CACHE, channel().1, &AtomicBool::new(false))?.catch_up(logged.last)?;
    drop((made, tree, old));
    stands.write(dir)?;
    let damaged = set_aside(dir, &stands, logged.last)?;
    remove_dir(&aside)?;
    sync_dir(dir)?;
    Ok(Salvaged { expected: logged.records, log_gaps: logged.gaps, damaged })
}

/// What base and log gave.
struct Logged {
    /// The last commit known to have been.
    last: u64,
    /// Records after it.
    records: u64,
    gaps: u64,
    /// The last commit that a gap may have held.
    damaged_to: u64,
    /// Keys that commits after the database's last removed.
    removed: HashSet<Vec<u8>>,
}

/// Puts every whole pair of base and log into `tree`.
fn read_logs(dir: &Path, current: &Current, applied: u64, tree: &Tree) -> Result<Logged> {
    let all = |base, written| Reading { base, applied: 0, written, lenient: true };
    let base = replay(&current.base(dir), all(0, current.base_frames), |frame| tree.apply(&frame.ops, 0))?;
    let (mut removed, mut damaged_to) = (HashSet::new(), 0);
    let log = replay(&dir.join("log"), all(current.base_seq, current.seq), |frame| {
        damaged_to = frame.damaged_to.unwrap_or(damaged_to);
        if frame.seq > applied {
            for (key, value) in &frame.ops {
                let _ = if value.is_some() { removed.remove(key) } else { removed.insert(key.clone()) };
            }
        }
        tree.apply(&frame.ops, 0)
    })?;
    let records = if log.last > current.seq { log.records } else { Some(current.records) };
    Ok(Logged {
        last: log.last.max(current.seq).max(applied),
        records: records.or(base.records).unwrap_or(0),
        gaps: base.gaps + log.gaps,
        damaged_to,
        removed,
    })
}

/// The database with the commits after it, if all of it can be read and it holds the records that there were.
fn whole(old: &Tree, dir: &Path, current: &Current, logged: &Logged, path: &Path) -> Result<Option<Tree>> {
    let applied = old.applied().unwrap_or(0);
    if applied < current.seq.max(logged.damaged_to) {
        return Ok(None);
    }
    let tree = Tree::open(path, CACHE)?;
    let mut sealed_all = true;
    let read_all = salvage(old, &[], &mut |key, sealed| {
        sealed_all &= value::unseal(key, sealed).is_some();
        tree.apply(&[(key.to_vec(), Some(sealed.to_vec()))], 0)
    })?;
    let rest = Reading { base: applied, applied, written: 0, lenient: true };
    replay(&dir.join("log"), rest, |frame| {
        // The database holds what a gap held.
        if frame.damaged_to.is_none() { tree.apply(&frame.ops, 0) } else { Ok(()) }
    })?;
    let records = census::counted(&tree)?;
    Ok((read_all && sealed_all && records == logged.records).then_some(tree))
}

/// Adds to `tree` what the database has and base and log lost.
fn fill(old: &Tree, tree: &Tree, removed: &HashSet<Vec<u8>>) -> Result<()> {
    salvage(old, &[], &mut |key, sealed| {
        let wanted = value::unseal(key, sealed).is_some() && !removed.contains(key) && tree.get(key)?.is_none();
        if wanted { tree.apply(&[(key.to_vec(), Some(sealed.to_vec()))], 0) } else { Ok(()) }
    })?;
    Ok(())
}

/// The file `current`, or what the other files say where it cannot be read.
///
/// Then the newest generation whose base is finished is the store; one without an end is a copy that was being made.
fn current_or_guess(dir: &Path) -> Result<Current> {
    match Current::read(dir) {
        Ok(Some(current)) => return Ok(current),
        // Another version's is no damage, and not ours to rewrite.
        Err(fault @ Fault::Format { .. }) => return Err(fault.into()),
        _ => {}
    }
    let known = generations(dir)?;
    for &generation in known.iter().rev() {
        let mut current = Current { generation, ..Current::default() };
        let mut end = None;
        let all = Reading { base: 0, applied: 0, written: 0, lenient: true };
        let found = replay(&current.base(dir), all, |frame| {
            end = frame.ops.iter().find(|(key, _)| key == keys::APPLIED).and_then(|(_, sealed)| sealed.clone());
            Ok(())
        })?;
        let seq = end.and_then(|sealed| value::unseal(keys::APPLIED, &sealed)?.try_into().ok().map(u64::from_le_bytes));
        if let Some(seq) = seq {
            (current.base_seq, current.seq, current.records) = (seq, seq, found.records.unwrap_or(0));
            return Ok(current);
        }
    }
    let first = log::files(&dir.join("log"))?.first().and_then(|path| log::first_of(path)).unwrap_or(1);
    let generation = known.first().copied().unwrap_or(0);
    Ok(Current { generation, base_seq: first.saturating_sub(1), ..Current::default() })
}

/// The database at `path`, opened on a copy at `aside`; if sled refuses it, without sled's own snapshots, which it then
/// makes anew from its segments. `None` if it opens neither way.
fn open_copy(path: &Path, aside: &Path) -> Result<Option<Tree>> {
    if !path.exists() {
        return Ok(None);
    }
    copy_dir(path, aside)?;
    if let Ok(tree) = Tree::open(aside, CACHE) {
        return Ok(Some(tree));
    }
    remove_dir(aside)?;
    copy_dir(path, aside)?;
    for entry in std::fs::read_dir(aside).map_err(io_fault("list", aside))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path()).map_err(io_fault("remove", aside))?;
        }
    }
    Ok(Tree::open(aside, CACHE).ok())
}

/// Moves everything but the fresh generation to a directory beside it, and starts a new log behind commit `last`.
fn set_aside(dir: &Path, fresh: &Current, last: u64) -> Result<PathBuf> {
    let damaged = dir.join(format!("damaged.{}", fresh.generation));
    std::fs::create_dir_all(&damaged).map_err(io_fault("create", &damaged))?;
    let move_in = |path: PathBuf| -> std::result::Result<(), Fault> {
        let name = path.file_name().unwrap_or_default();
        if path.exists() {
            std::fs::rename(&path, damaged.join(name)).map_err(io_fault("rename", &path))
        } else {
            Ok(())
        }
    };
    for generation in generations(dir)?.into_iter().filter(|&generation| generation != fresh.generation) {
        let old = Current { generation, ..Current::default() };
        move_in(old.path(dir))?;
        move_in(old.base(dir))?;
    }
    let logs = dir.join("log");
    move_in(logs.clone())?;
    std::fs::create_dir(&logs).map_err(io_fault("create", &logs))?;
    Log::create(&logs, last + 1)?;
    Ok(damaged)
}

fn remove_dir(path: &Path) -> std::result::Result<(), Fault> {
    if path.exists() { std::fs::remove_dir_all(path).map_err(io_fault("remove", path)) } else { Ok(()) }
}

/// Takes a pair that could be read.
type Keep<'a> = dyn FnMut(&[u8], &[u8]) -> std::result::Result<(), Fault> + 'a;

/// Calls `each` for the pairs under `prefix` that can be read. Where reading stops, each longer prefix is tried by itself, so
/// that one bad page costs its own keys only. Whether reading never stopped.
fn salvage(from: &Tree, prefix: &[u8], each: &mut Keep<'_>) -> std::result::Result<bool, Fault> {
    let mut reached = 0;
    let mut whole = true;
    for pair in from.scan(prefix, &[]) {
        let Ok((key, sealed)) = pair else {
            whole = false;
            break;
        };
        reached = key.get(prefix.len()).copied().unwrap_or(0);
        if key != keys::APPLIED {
            each(&key, &sealed)?;
        }
    }
    if !whole && prefix.len() < DEPTH {
        // Pairs that were read already are met once more, which changes nothing.
        for byte in reached..=u8::MAX {
            salvage(from, &[prefix, &[byte]].concat(), each)?;
        }
    }
    Ok(whole)
}
