//! A tree kept indexed while it changes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::run::index_listing;
use super::walk::walk;
use super::{Control, IndexOptions, IndexReport, Sink};
use crate::error::Result;

/// How a tree is watched.
#[derive(Debug, Clone, Copy)]
pub struct WatchOptions {
    /// A run starts when nothing has changed for this long, so that a save in several steps is seen whole.
    pub quiet: Duration,
    /// It starts after this long at the latest, however much is being written.
    pub at_latest: Duration,
    /// How often the tree is looked at where the system does not tell of changes.
    pub poll: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(300), at_latest: Duration::from_secs(5), poll: Duration::from_secs(5) }
    }
}

/// Indexes the tree at `root`, and again whenever it changes, until `control.cancel` is set; `on_run` is told of
/// every run. What changed is not taken from the system's word but from a walk, so no order of events, no rename of an
/// editor and no lost event leaves a record behind. Only directories that are not ignored are watched; where the
/// system has no more watches to give, the tree is walked every `poll`.
///
/// # Errors
/// As [`super::index_tree`].
pub fn watch_tree(
    root: &Path,
    options: &IndexOptions,
    how: WatchOptions,
    sink: &mut dyn Sink,
    control: Control<'_>,
    on_run: &mut dyn FnMut(&IndexReport),
) -> Result<()> {
    let (send, changes) = channel();
    let tell = move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, changes_something) {
            // whoever listened is gone: so is the reason to tell
            drop(send.send(event.map_or_else(|_| Vec::new(), gone)));
        }
    };
    let mut watched = notify::recommended_watcher(tell).ok().map(|watcher| Watched { watcher, dirs: HashSet::new() });
    let Control { cancel, progress } = control;
    while !cancel.load(Ordering::Relaxed) {
        let mut listing = walk(root, options)?;
        // Directories are watched before they are read: what is made in between is seen by the next walk.
        let complete = watched.as_mut().map(|watched| watched.follow(&listing.dirs));
        if complete == Some(Follow::Fresh) {
            listing = walk(root, options)?;
        }
        let report = index_listing(root, listing, options, sink, Control { cancel, progress: &mut *progress })?;
        on_run(&report);
        let told = matches!(complete, Some(Follow::Fresh | Follow::Same));
        let gone = wait(&changes, how, told, || cancel.load(Ordering::Relaxed));
        if let Some(watched) = &mut watched {
            watched.dirs.retain(|dir| !gone.contains(dir)); // one of that name may be back, without its watch
        }
    }
    Ok(())
}

/// Whether an event may change what is indexed; reading does not, or every run would cause the next.
fn changes_something(event: &Event) -> bool {
    !matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

/// Paths that an event took away: removed, or renamed.
fn gone(event: Event) -> Vec<PathBuf> {
    let gone = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    if gone { event.paths } else { Vec::new() }
}

#[derive(Debug, PartialEq, Eq)]
enum Follow {
    /// Some directories are watched since now.
    Fresh,
    /// All were watched already.
    Same,
    /// Some cannot be watched.
    Partly,
}

struct Watched {
    watcher: RecommendedWatcher,
    dirs: HashSet<PathBuf>,
}

impl Watched {
    /// Watches exactly `dirs`. One that went away and came back is watched anew.
    fn follow(&mut self, dirs: &[PathBuf]) -> Follow {
        let wanted: HashSet<PathBuf> = dirs.iter().cloned().collect();
        for gone in self.dirs.difference(&wanted) {
            drop(self.watcher.unwatch(gone)); // a directory that is gone has lost its watch already
        }
        self.dirs.retain(|dir| wanted.contains(dir));
        let mut follow = Follow::Same;
        for dir in wanted {
            if self.dirs.contains(&dir) {
                continue;
            }
            if self.watcher.watch(&dir, RecursiveMode::NonRecursive).is_err() {
                return Follow::Partly;
            }
            self.dirs.insert(dir);
            follow = Follow::Fresh;
        }
        follow
    }
}

/// Returns when it is time for the next run, or `cancelled`; the paths that went away meanwhile. A sign is looked for
/// ten times a second.
fn wait(
    changes: &Receiver<Vec<PathBuf>>,
    how: WatchOptions,
    told: bool,
    cancelled: impl Fn() -> bool,
) -> HashSet<PathBuf> {
    const LOOK: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let (mut first, mut last): (Option<Instant>, _) = (None, began);
    let mut gone = HashSet::new();
    while !cancelled() {
        match changes.recv_timeout(LOOK.min(how.quiet)) {
            Ok(paths) => {
                gone.extend(paths);
                last = Instant::now();
                first.get_or_insert(last);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK), // there is no watcher at all
        }
        let due = first.is_some_and(|first| last.elapsed() >= how.quiet || first.elapsed() >= how.at_latest);
        if due || !told && began.elapsed() >= how.poll {
            break;
        }
    }
    gone.extend(changes.try_iter().flatten());
    gone
}
