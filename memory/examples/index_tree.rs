//! Walks, clears and splits a tree of sources without storing it, and says how fast.
//!
//! `cargo run --release -p engram-memory --example index_tree -- PATH`

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use engram_memory::ingest::{Control, IndexOptions, IndexReport, Manifest, Sink, index_tree};
use engram_memory::secrets::redact;
use engram_memory::{NewRecord, Provenance, RecordId, Result, Scope};

/// Counts what it is given.
#[derive(Default)]
struct Counter {
    records: HashMap<RecordId, Provenance>,
    bytes: usize,
    by_language: BTreeMap<String, usize>,
    manifest: Option<Manifest>,
}

impl Sink for Counter {
    fn write(&mut self, records: Vec<NewRecord>) -> Result<Vec<RecordId>> {
        let count = |record: NewRecord| {
            self.bytes += record.content.len();
            *self.by_language.entry(record.provenance.language.clone().unwrap_or_default()).or_default() += 1;
            let id = RecordId::of(&record.scope, record.kind, &record.content, 0);
            self.records.insert(id, record.provenance);
            id
        };
        Ok(records.into_iter().map(count).collect())
    }

    fn forget(&mut self, _: &Scope, ids: Vec<RecordId>) -> Result<()> {
        for id in ids {
            self.records.remove(&id);
        }
        Ok(())
    }

    fn relocate(&mut self, _: &Scope, moved: Vec<(RecordId, Provenance)>) -> Result<()> {
        self.records.extend(moved);
        Ok(())
    }

    fn indexed(&mut self, _: &Scope) -> Result<Vec<(RecordId, Provenance)>> {
        Ok(self.records.iter().map(|(id, provenance)| (*id, provenance.clone())).collect())
    }

    fn load_manifest(&mut self, _: &Scope) -> Result<Option<Manifest>> {
        Ok(self.manifest.clone())
    }

    fn save_manifest(&mut self, _: &Scope, manifest: &Manifest) -> Result<()> {
        self.manifest = Some(manifest.clone());
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).ok_or("name the directory: index_tree PATH")?;
    let root = Path::new(&root);
    let options = IndexOptions::new(Scope::of("example", Scope::DEFAULT_DOMAIN)?.project("tree")?);
    let mut counter = Counter::default();
    for run in ["first run", "second run"] {
        let (report, seconds) = timed(root, &options, &mut counter)?;
        let progress = report.progress;
        println!(
            "{run}: {} files ({} unchanged), {:.1} MB read, {} records written, {} held twice, {} secrets, {} unread, \
             {seconds:.2} s: {:.0} files/s, {:.0} records/s",
            progress.total,
            report.unchanged,
            progress.bytes as f64 / 1e6,
            progress.records,
            report.kept,
            report.secrets.len(),
            report.unread.len(),
            progress.total as f64 / seconds,
            progress.records as f64 / seconds,
        );
        let mut by_rule: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, finding) in &report.secrets {
            *by_rule.entry(finding.rule).or_default() += 1;
        }
        if !by_rule.is_empty() {
            println!("  secrets by rule: {by_rule:?}");
        }
    }
    println!(
        "  {} bytes a record in the mean, by language: {:?}",
        counter.bytes / counter.records.len().max(1),
        counter.by_language
    );
    redaction_speed(counter.manifest.as_ref(), root);
    Ok(())
}

fn timed(
    root: &Path,
    options: &IndexOptions,
    sink: &mut Counter,
) -> std::result::Result<(IndexReport, f64), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let cancel = AtomicBool::new(false);
    let report = index_tree(root, options, sink, Control { cancel: &cancel, progress: &mut |_| {} })?;
    Ok((report, began.elapsed().as_secs_f64()))
}

/// Redaction alone, on one thread, over up to 64 MB of the tree.
fn redaction_speed(manifest: Option<&Manifest>, root: &Path) {
    let paths = manifest.into_iter().flat_map(|manifest| manifest.files.keys());
    let mut total = 0;
    let mut taken = 0.0;
    for text in paths.filter_map(|path| std::fs::read_to_string(root.join(path)).ok()) {
        let began = Instant::now();
        let found = std::hint::black_box(redact(&text));
        taken += began.elapsed().as_secs_f64();
        total += text.len();
        drop(found);
        if total > 64 << 20 {
            break;
        }
    }
    println!("  redaction alone: {:.0} MB/s over {:.1} MB, one thread", total as f64 / 1e6 / taken, total as f64 / 1e6);
}
