//! What has to change in the store, once all files are known.

use std::collections::HashMap;

use super::Manifest;
use crate::record::{Provenance, RecordId};

/// Differences between what is stored and what should be.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Settlement {
    /// Records that no file holds.
    pub forget: Vec<RecordId>,
    /// Records whose home is elsewhere now.
    pub relocate: Vec<(RecordId, Provenance)>,
}

/// Compares `stored` with the homes that `manifest` gives its records; in the order of ids. The commit alone is no
/// difference: a record keeps the one it was read at.
pub(super) fn settle(stored: &HashMap<RecordId, Provenance>, manifest: &Manifest, commit: Option<&str>) -> Settlement {
    let homes = manifest.homes(commit);
    let place = |p: &Provenance| (p.path.clone(), p.lines, p.symbol.clone(), p.language.clone());
    let mut forget: Vec<RecordId> = stored.keys().filter(|id| !homes.contains_key(id)).copied().collect();
    let moved = |id: &RecordId, home: &Provenance| stored.get(id).is_some_and(|old| place(old) != place(home));
    let mut relocate: Vec<_> = homes.into_iter().filter(|(id, home)| moved(id, home)).collect();
    forget.sort_unstable();
    relocate.sort_unstable_by_key(|(id, _)| *id);
    Settlement { forget, relocate }
}
