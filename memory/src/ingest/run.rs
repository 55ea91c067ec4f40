//! One run over a tree: list, read what may have changed, write what is new, settle the rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use serde_json::{Map, Value, json};

use super::manifest::provenance;
use super::read::{Outcome, read};
use super::settle::settle;
use super::walk::{Found, Listing, walk};
use super::{Control, FileEntry, IndexOptions, IndexReport, Manifest, ORIGIN, Place, Sink, git};
use crate::chunk::{Chunk, Language};
use crate::error::Result;
use crate::query::{Lifetime, NewRecord};
use crate::record::{Kind, Provenance, RecordId};
use crate::secrets::RULES_VERSION;

/// Makes the records of `options.scope` those of the tree at `root`.
///
/// Reading and splitting run on `options.threads` threads, ahead of the sink by a bounded number of files; the sink
/// is called from this one. If it is cancelled, what was written stays and the next run goes on from there.
///
/// # Errors
/// [`crate::MemoryError::Invalid`] if `root` cannot be listed or a glob is none, and whatever the sink says. A file that
/// cannot be read is no error: it is in the report, and what was indexed of it stays.
pub fn index_tree(
    root: &Path,
    options: &IndexOptions,
    sink: &mut dyn Sink,
    control: Control<'_>,
) -> Result<IndexReport> {
    index_listing(root, walk(root, options)?, options, sink, control)
}

/// The same over a listing.
pub(super) fn index_listing(
    root: &Path,
    listing: Listing,
    options: &IndexOptions,
    sink: &mut dyn Sink,
    control: Control<'_>,
) -> Result<IndexReport> {
    let scope = &options.scope;
    let mut old = sink.load_manifest(scope)?.unwrap_or_default();
    let reconcile = options.reconcile || !old.complete;
    let stored: HashMap<RecordId, Provenance> =
        if reconcile { sink.indexed(scope)?.into_iter().collect() } else { old.homes(None) };
    let chunker = chunker(options);
    if reconcile {
        let salted = &old.salted;
        let there = |place: &Place| stored.contains_key(salted.get(&place.key).unwrap_or(&place.key));
        old.files.retain(|_, file| file.chunks.iter().all(there));
    }
    let trusted = old.chunker == chunker;
    let mut report = IndexReport { unread: listing.unread, commit: git::head_commit(root), ..IndexReport::default() };
    report.progress.total = listing.files.len();

    let mut files = BTreeMap::new();
    let mut todo = Vec::new();
    for found in listing.files {
        match old.files.get(&found.path).filter(|entry| trusted && unchanged(entry, &found)) {
            Some(entry) => drop(files.insert(found.path, entry.clone())),
            None => todo.push(found),
        }
    }
    report.unchanged = files.len();
    report.progress.files = files.len();
    for (path, entry) in &old.files {
        let hidden = |(at, _): &(String, String)| {
            path.strip_prefix(at.as_str()).is_some_and(|rest| at.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        if !files.contains_key(path) && report.unread.iter().any(hidden) {
            files.insert(path.clone(), entry.clone());
        }
    }
    if todo.is_empty() && !reconcile && trusted && files.len() == old.files.len() {
        return Ok(report);
    }
    old.complete = false;
    sink.save_manifest(scope, &old)?;

    let manifest = Manifest { format: Manifest::FORMAT, chunker, complete: true, files, salted: old.salted.clone() };
    let mut run = Run { options, sink, stored, manifest, report, batch: Vec::new(), queued: HashSet::new() };
    run.read_all(todo, if trusted { &old.files } else { &NO_FILES }, &old.files, control)?;
    if !run.report.cancelled {
        run.finish()?;
    }
    Ok(run.report)
}

static NO_FILES: BTreeMap<String, FileEntry> = BTreeMap::new();

/// How files are split and cleared, in a word: records made in another way are made again.
fn chunker(options: &IndexOptions) -> String {
    const VERSION: u32 = 1; // raised when chunks of the same file may come out differently
    let limits = options.limits;
    format!("{VERSION}.{RULES_VERSION}:{}:{}:{}", limits.max_bytes, limits.min_bytes, limits.max_parse_bytes)
}

fn unchanged(entry: &FileEntry, found: &Found) -> bool {
    entry.modified != 0 && entry.modified == found.modified && entry.size == found.size
}

struct Run<'a> {
    options: &'a IndexOptions,
    sink: &'a mut dyn Sink,
    stored: HashMap<RecordId, Provenance>,
    manifest: Manifest,
    report: IndexReport,
    batch: Vec<(RecordId, NewRecord)>,
    queued: HashSet<RecordId>,
}

impl Run<'_> {
    /// Reads `todo`, and writes what it holds as it comes.
    fn read_all(
        &mut self,
        todo: Vec<Found>,
        trusted: &BTreeMap<String, FileEntry>,
        before: &BTreeMap<String, FileEntry>,
        control: Control<'_>,
    ) -> Result<()> {
        let options = self.options;
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            // Two files a thread wait at most: what is read and not yet written stays small.
            let threads = options.threads.clamp(1, 64);
            let (send, outcomes) = sync_channel(2 * threads);
            for _ in 0..threads {
                let (send, next, stop, todo) = (send.clone(), &next, &stop, &todo);
                scope.spawn(move || reader(todo, trusted, options, next, stop, &send));
            }
            drop(send);
            let mut result = Ok(());
            for outcome in outcomes {
                if control.cancel.load(Ordering::Relaxed) {
                    self.report.cancelled = true;
                }
                if result.is_err() || self.report.cancelled {
                    stop.store(true, Ordering::Relaxed); // and go on receiving, so that readers end
                    continue;
                }
                result = self.take(outcome, before);
                self.report.progress.files += 1;
                (control.progress)(&self.report.progress);
            }
            result?;
            self.flush()
        })
    }

    fn take(&mut self, outcome: Outcome, before: &BTreeMap<String, FileEntry>) -> Result<()> {
        match outcome {
            Outcome::Same(found, entry) => {
                self.report.progress.bytes += entry.size;
                self.report.kept += entry.chunks.len();
                self.manifest.files.insert(found.path, entry);
            }
            Outcome::Unread(found, why) => {
                if let Some(entry) = before.get(&found.path) {
                    self.manifest.files.insert(found.path.clone(), entry.clone());
                }
                self.report.unread.push((found.path, why));
            }
            Outcome::Split { found, mut entry, language, chunks, secrets } => {
                self.report.progress.bytes += entry.size;
                self.report.secrets.extend(secrets.into_iter().map(|secret| (found.path.clone(), secret)));
                for chunk in chunks {
                    let kind = if language.prose { Kind::Document } else { Kind::Code };
                    let key = RecordId::of(&self.options.scope, kind, &chunk.text, 0);
                    entry.chunks.push(Place { key, lines: chunk.lines, symbol: chunk.symbol.clone() });
                    if self.stored.contains_key(&self.manifest.id_of(key)) || !self.queued.insert(key) {
                        self.report.kept += 1;
                        continue;
                    }
                    self.batch.push((key, self.record(&found.path, language, kind, chunk)));
                    if self.batch.len() >= self.options.batch.max(1) {
                        self.flush()?;
                    }
                }
                self.manifest.files.insert(found.path, entry);
            }
        }
        Ok(())
    }

    fn record(&self, path: &str, language: Language, kind: Kind, chunk: Chunk) -> NewRecord {
        let mut metadata = Map::new();
        metadata.insert("origin".to_owned(), json!(ORIGIN));
        if let Some(node) = chunk.node {
            metadata.insert("node".to_owned(), json!(node));
        }
        if !chunk.symbols.is_empty() {
            metadata.insert("symbols".to_owned(), Value::from(chunk.symbols));
        }
        let commit = self.report.commit.as_deref();
        NewRecord {
            scope: self.options.scope.clone(),
            kind,
            content: chunk.text,
            metadata,
            provenance: provenance(path, language.name, chunk.lines, chunk.symbol, commit),
            lifetime: Lifetime::Forever, // it goes with its file
            pinned: false,
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (keys, records): (Vec<RecordId>, Vec<NewRecord>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let places: Vec<Provenance> = records.iter().map(|record| record.provenance.clone()).collect();
        let ids = self.sink.write(records)?;
        self.report.progress.records += ids.len();
        for ((key, id), place) in keys.into_iter().zip(ids).zip(places) {
            if key != id {
                self.manifest.salted.insert(key, id);
            }
            self.stored.insert(id, place);
        }
        self.queued.clear();
        Ok(())
    }

    /// Moves and forgets what has to be, and saves the manifest.
    fn finish(&mut self) -> Result<()> {
        let scope = &self.options.scope;
        let settlement = settle(&self.stored, &self.manifest, self.report.commit.as_deref());
        self.report.relocated = settlement.relocate.len();
        self.report.forgotten = settlement.forget.len();
        if !settlement.relocate.is_empty() {
            self.sink.relocate(scope, settlement.relocate)?;
        }
        if !settlement.forget.is_empty() {
            self.sink.forget(scope, settlement.forget)?;
        }
        let held: HashSet<RecordId> =
            self.manifest.files.values().flat_map(|file| &file.chunks).map(|place| place.key).collect();
        self.manifest.salted.retain(|key, _| held.contains(key));
        self.sink.save_manifest(scope, &self.manifest)
    }
}

/// Reads files one after another until there are none left, or nobody wants them.
fn reader(
    todo: &[Found],
    trusted: &BTreeMap<String, FileEntry>,
    options: &IndexOptions,
    next: &AtomicUsize,
    stop: &AtomicBool,
    send: &SyncSender<Outcome>,
) {
    while let Some(found) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = read(found.clone(), trusted.get(&found.path), options);
        if send.send(outcome).is_err() {
            return;
        }
    }
}
