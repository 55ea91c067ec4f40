//! Copies a generation into a fresh one while writes go on.
//!
//! sled's iterator is no snapshot: it may or may not show what is written while it runs. Every commit since before the
//! copy began is therefore applied to the copy once more, in order; commits hold absolute values, so where the iterator
//! saw them already nothing changes, and where it did not they are added or removed now.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::batch::Op;
use super::fault::{Fault, io_fault};
use super::tree::Tree;
use super::{keys, value};

/// Pairs of one batch, bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A copy that lacks only the last commits.
pub struct Copied {
    tree: Tree,
    commits: Receiver<Arc<Vec<Op>>>,
}

impl Copied {
    /// Adds the commits up to `seq`, which have all been sent, and makes the copy durable.
    pub fn catch_up(self, seq: u64) -> Result<Tree, Fault> {
        apply_waiting(&self.tree, &self.commits, seq)?;
        self.tree.apply(&[], seq)?;
        self.tree.sync()?;
        Ok(self.tree)
    }
}

/// Copies every pair of `from` to a new database at `to`.
///
/// # Errors
/// [`Fault::Corrupt`] if a value fails its checksum: damage is not copied as if it were whole. The unfinished copy is
/// removed.
pub fn copy(
    from: &Tree,
    to: &Path,
    cache_bytes: u64,
    commits: Receiver<Arc<Vec<Op>>>,
    stop: &AtomicBool,
) -> Result<Copied, Fault> {
    let copied = (|| {
        if to.exists() {
            std::fs::remove_dir_all(to).map_err(io_fault("remove", to))?;
        }
        let tree = Tree::open(to, cache_bytes)?;
        copy_pairs(from, &tree, stop)?;
        // What piled up during the long copy is added here, so that the writer has little left to do.
        apply_waiting(&tree, &commits, 0)?;
        tree.sync()?;
        Ok(Copied { tree, commits })
    })();
    if copied.is_err() {
        let _ = std::fs::remove_dir_all(to);
    }
    copied
}

fn copy_pairs(from: &Tree, to: &Tree, stop: &AtomicBool) -> Result<(), Fault> {
    let (mut ops, mut bytes) = (Vec::new(), 0);
    for pair in from.scan(&[], &[]) {
        let (key, sealed) = pair?;
        if value::unseal(&key, &sealed).is_none() {
            return Err(from.damaged(&key));
        }
        if [keys::PURGE, keys::APPLIED].contains(&key.as_ref()) {
            continue;
        }
        bytes += key.len() + sealed.len();
        ops.push((key.to_vec(), Some(sealed.to_vec())));
        if bytes > BATCH_BYTES {
            if stop.load(Ordering::Acquire) {
                return Err(Fault::Closed);
            }
            to.apply(&ops, 0)?;
            (ops, bytes) = (Vec::new(), 0);
        }
    }
    to.apply(&ops, 0)
}

fn apply_waiting(tree: &Tree, commits: &Receiver<Arc<Vec<Op>>>, seq: u64) -> Result<(), Fault> {
    commits.try_iter().try_for_each(|ops| tree.apply(&ops, seq))
}

/// Removes an old generation once its last reader has let it go; if that takes long, the next open does.
pub fn retire(old: Arc<Tree>) {
    let path = old.path().to_owned();
    let wait = move || {
        let mut old = old;
        for _ in 0..600 {
            match Arc::try_unwrap(old) {
                Ok(tree) => {
                    drop(tree);
                    let _ = std::fs::remove_dir_all(&path);
                    return;
                }
                Err(shared) => old = shared,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // Without a thread for it the directory stays until the next open.
    let _ = std::thread::Builder::new().name("memory-retire".to_owned()).spawn(wait);
}
