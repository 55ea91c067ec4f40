//! The life of records, and what happens to files, over a real store in a temporary directory.

use std::io::BufReader;
use std::time::Duration;

use super::*;
use crate::embedder::{Embedder, Side};
use crate::index::VectorIndex;
use crate::record::content_hash;
use crate::scope::Scope;

pub(super) const DIM: usize = 8;

pub(super) fn encoder() -> EncoderId {
    EncoderId { name: "bytes".to_owned(), dim: DIM }
}

pub(super) fn config() -> EmbeddedConfig {
    let store =
        StoreConfig { reserve_bytes: 0, compact_floor_bytes: 4 << 20, log_bytes: 256 << 10, ..StoreConfig::default() };
    EmbeddedConfig { store, ..EmbeddedConfig::default() }
}

pub(super) fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Some(&encoder()), config()).expect("a memory")
}

pub(super) fn scope(tenant: &str, project: &str) -> Scope {
    Scope::of(tenant, "coding").and_then(|scope| scope.project(project)).expect("a scope")
}

/// An encoder whose vectors follow from a hash of the text: real enough to tell texts and encoders apart.
struct Hashing(&'static str, usize);

impl Embedder for Hashing {
    fn name(&self) -> &str {
        self.0
    }

    fn dim(&self) -> usize {
        self.1
    }

    fn embed(&self, texts: &[&str], _: Side) -> Result<Vec<Vec<f32>>> {
        Ok(texts.iter().map(|text| vector(&format!("{}{text}", self.0), self.1)).collect())
    }
}

pub(super) fn vector(text: &str, dim: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = content_hash(text).bytes().take(dim).map(|byte| f32::from(byte) - 76.0).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

pub(super) fn stored(scope: &Scope, content: &str) -> Stored {
    let record = Record::new(scope.clone(), Kind::Knowledge, content.to_owned(), Timestamp::now());
    Stored { record, vector: vector(&format!("bytes{content}"), DIM) }
}

pub(super) fn put(memory: &Embedded, scope: &Scope, content: &str) -> Record {
    memory.put(vec![stored(scope, content)]).expect("a put").remove(0).record().clone()
}

pub(super) fn contents(memory: &Embedded, scope: &Scope) -> Vec<String> {
    let found = memory.scan(&Selection::all(scope.clone()), None, None, 1000).expect("a scan");
    let mut contents: Vec<String> = found.into_iter().map(|stored| stored.record.content).collect();
    contents.sort();
    contents
}

/// Whether any file below `dir` holds `needle`.
fn on_disk(dir: &Path, needle: &str) -> bool {
    std::fs::read_dir(dir).expect("a directory").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return on_disk(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[test]
fn the_same_content_is_the_same_record_also_after_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(dir.path());
    let here = scope("t", "p");
    let first = put(&memory, &here, "one");
    let again = memory.put(vec![stored(&here, "one")]).expect("a put").remove(0);
    assert!(matches!(&again, Written::SeenAgain(record) if record.id == first.id && record.seen == 2), "{again:?}");
    let change = Change { content: Some(("two".to_owned(), vector("bytestwo", DIM))), ..Change::default() };
    let changed = memory.change(&here.partition, first.id, change).expect("a change");
    assert_eq!((changed.version, changed.content.as_str()), (2, "two"));
    assert_eq!(put(&memory, &here, "two").id, first.id, "content that a change brought is found again");
    let other = put(&memory, &here, "one");
    assert_ne!(other.id, first.id, "an id that is taken is salted");
    assert_ne!(put(&memory, &scope("t", "q"), "one").id, other.id);
    assert_eq!(contents(&memory, &here), ["one", "two"]);
}

#[test]
fn the_past_is_read_by_time_and_survives_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let memory = open(dir.path());
    let first = put(&memory, &here, "one");
    std::thread::sleep(Duration::from_millis(3));
    let change = Change { content: Some(("two".to_owned(), vector("bytestwo", DIM))), ..Change::default() };
    let second = memory.change(&here.partition, first.id, change).expect("a change");
    drop(memory);
    let memory = open(dir.path());
    let at = |time: u64| {
        memory.get(&here.partition, first.id, Some(Timestamp(time))).expect("a read").map(|record| record.content)
    };
    assert_eq!(at(first.created.0 - 1), None);
    assert_eq!(at(first.created.0).as_deref(), Some("one"));
    assert_eq!(at(second.updated.0 - 1).as_deref(), Some("one"));
    assert_eq!(at(second.updated.0).as_deref(), Some("two"));
    let past = memory.scan(&Selection::all(here.clone()), Some(first.created), None, 10).expect("a scan");
    assert_eq!(past[0].vector, vector("bytesone", DIM));
    let found = memory.lexical(&Selection::all(here), "two", 5).expect("a search");
    assert_eq!(found.iter().map(|hit| hit.id).collect::<Vec<_>>(), [first.id]);
}

#[test]
fn what_expired_is_not_found_and_pinned_records_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(dir.path());
    let here = scope("t", "p");
    let with = |content: &str, pinned| {
        let mut stored = stored(&here, content);
        (stored.record.expires, stored.record.pinned) = (Some(Timestamp(1)), pinned);
        stored
    };
    memory.put(vec![with("short", false), with("pinned", true), stored(&here, "long")]).expect("a put");
    let all = Selection::all(here.clone());
    assert_eq!(contents(&memory, &here), ["long", "pinned"]);
    assert_eq!(memory.nearest(&all, &vector("bytesshort", DIM), 5).expect("a search").len(), 2);
    assert!(memory.lexical(&all, "short", 5).expect("a search").is_empty());
    assert_eq!(memory.expire(Timestamp::now()).expect("expiry"), 1);
    assert_eq!(memory.expire(Timestamp::now()).expect("expiry"), 0);
    assert_eq!(memory.stats(None).expect("sizes").records.get("knowledge"), Some(&2));
}

#[test]
fn what_is_forgotten_is_gone_from_files_and_later_snapshots() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(&dir.path().join("memory"));
    let (here, other) = (scope("t", "p"), scope("u", "p"));
    let secret = put(&memory, &here, "the needle 7731");
    put(&memory, &here, "a straw");
    put(&memory, &other, "of somebody else");
    let change = Change { content: Some(("changed".to_owned(), vector("bytesx", DIM))), ..Change::default() };
    memory.change(&here.partition, secret.id, change).expect("a change");
    assert!(on_disk(dir.path(), "needle 7731"), "it must be there before it is gone");
    assert_eq!(memory.forget(&Forget::Ids(here.partition.clone(), vec![secret.id])).expect("a forget"), 1);
    assert_eq!(memory.get(&here.partition, secret.id, Some(secret.created)).expect("a read"), None);
    memory.compact().expect("a copy");
    for _ in 0..100 {
        if !on_disk(dir.path(), "needle 7731") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50)); // The old generation goes once its last reader let it go.
    }
    assert!(!on_disk(dir.path(), "needle 7731"));
    memory.snapshot(&dir.path().join("snap")).expect("a snapshot");
    assert!(!on_disk(dir.path(), "needle 7731"));
    assert_eq!(memory.forget(&Forget::Matching(Selection::all(here.clone()))).expect("a forget"), 1);
    assert_eq!(memory.forget(&Forget::Tenant(other.partition.tenant.clone())).expect("a forget"), 1);
    assert!(memory.stats(None).expect("sizes").records.is_empty());
    assert!(contents(&memory, &other).is_empty());
}

#[test]
fn a_snapshot_restores_and_one_that_was_changed_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(&dir.path().join("memory"));
    let here = scope("t", "p");
    (0..300).for_each(|n| drop(put(&memory, &here, &format!("number {n}"))));
    let path = dir.path().join("snap");
    let taken = std::thread::scope(|threads| {
        threads.spawn(|| (0..40).for_each(|n| drop(put(&memory, &here, &format!("meanwhile {n}")))));
        memory.snapshot(&path).expect("a snapshot")
    });
    let into = dir.path().join("restored");
    assert_eq!(restore(&path, &into).expect("a restore"), taken);
    let restored = open(&into);
    let there = contents(&restored, &here);
    assert!((0..300).all(|n| there.contains(&format!("number {n}"))));
    assert_eq!(restored.stats(None).expect("sizes").records["knowledge"], there.len() as u64);
    assert!(matches!(restore(&path, &into), Err(MemoryError::Invalid { .. })));
    let whole = std::fs::read(&path).expect("its bytes");
    for (cut, flip) in
        [(whole.len() - 1, None), (whole.len(), Some(whole.len() / 2)), (3, None), (whole.len(), Some(1))]
    {
        let mut bytes = whole[..cut].to_vec();
        flip.into_iter().for_each(|at: usize| bytes[at] ^= 1);
        std::fs::write(&path, bytes).expect("spoiling");
        let refused = restore(&path, &dir.path().join("never"));
        assert!(matches!(refused, Err(MemoryError::Corrupt { .. })), "{refused:?}");
    }
}

#[test]
fn exported_lines_import_with_history_and_with_or_without_vectors() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(&dir.path().join("a"));
    let here = scope("t", "p");
    let first = put(&memory, &here, "one");
    std::thread::sleep(Duration::from_millis(3));
    let change = Change { content: Some(("two".to_owned(), vector("bytestwo", DIM))), ..Change::default() };
    memory.change(&here.partition, first.id, change).expect("a change");
    put(&memory, &here, "three");
    for (index, vectors) in [true, false].into_iter().enumerate() {
        let mut lines = Vec::new();
        assert_eq!(memory.export(&Selection::all(here.clone()), true, vectors, &mut lines).expect("an export"), 2);
        let copy = open(&dir.path().join(format!("copy{index}")));
        let hashing = Hashing("bytes", DIM);
        let import = |lines: &[u8]| copy.import(&mut BufReader::new(lines), &hashing);
        assert_eq!(import(&lines).expect("an import"), Imported { written: 2, there: 0 });
        assert_eq!(import(&lines).expect("an import"), Imported { written: 0, there: 2 });
        let all = Selection::all(here.clone());
        let scan = |memory: &Embedded| memory.scan(&all, None, None, 10).expect("a scan");
        assert_eq!(scan(&copy), scan(&memory));
        let past = copy.get(&here.partition, first.id, Some(first.created)).expect("a read");
        assert_eq!(past.map(|record| record.content).as_deref(), Some("one"));
        assert!(matches!(import(b"{\"record\": 1}"), Err(MemoryError::Invalid { field, .. }) if field == "line 1"));
    }
}

#[test]
fn another_encoder_is_refused_until_records_are_embedded_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let memory = open(dir.path());
    (0..20).for_each(|n| drop(put(&memory, &here, &format!("number {n}"))));
    drop(memory);
    let new = EncoderId { name: "other".to_owned(), dim: 12 };
    let refused = Embedded::open(dir.path(), Some(&new), config()).map(drop);
    assert!(matches!(refused, Err(MemoryError::EncoderMismatch { stored_dim: DIM, configured_dim: 12, .. })));
    let memory = Embedded::open(dir.path(), None, config()).expect("a memory");
    assert_eq!(memory.reembed(&Hashing("other", 12), 7, &mut |_| {}).expect("embedding anew"), 20);
    assert_eq!(memory.encoder().expect("an encoder"), new);
    assert_eq!(memory.reembed(&Hashing("other", 12), 7, &mut |_| {}).expect("nothing"), 0);
    drop(memory);
    let memory = Embedded::open(dir.path(), Some(&new), config()).expect("a memory");
    let nearest = memory.nearest(&Selection::all(here), &vector("othernumber 7", 12), 1).expect("a search");
    let id = RecordId::of(&scope("t", "p"), Kind::Knowledge, "number 7", 0);
    assert_eq!(nearest.first().map(|hit| hit.id), Some(id));
}

#[test]
fn files_of_another_version_are_refused_with_the_cure() {
    let check = |spoil: &dyn Fn(&Path), found: u32, cure: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("memory");
        put(&open(&path), &scope("t", "p"), "one");
        spoil(&path);
        let refused = Embedded::open(&path, Some(&encoder()), config()).map(drop);
        let error = refused.expect_err("another version's");
        assert!(matches!(error, MemoryError::Format { found: of, known: FORMAT, .. } if of == found), "{error}");
        assert!(error.to_string().contains(cure), "{error}");
    };
    let current = |line: &str| {
        let line = line.to_owned();
        move |dir: &Path| std::fs::write(dir.join("current"), &line).expect("written")
    };
    let summed = |line: &str| current(&format!("{line}{:08x}\n", crc32fast::hash(line.as_bytes())));
    let old = "let the engram that wrote it say `engram memory export`";
    check(&current("0 0\n"), 1, old);
    check(&summed("1 200 3 4 5 6 "), 1, old);
    check(&summed("9 1 200 3 4 5 6 7 "), 9, "use the newer engram");
    let keyed = |format: u32| {
        move |dir: &Path| {
            let memory = open(dir);
            let write = memory.store.write(move |view| {
                view.set_json(keys::FORMAT.to_vec(), &format);
                Ok(())
            });
            write.expect("a write");
        }
    };
    check(&keyed(1), 1, old);
    check(&keyed(FORMAT + 1), FORMAT + 1, "use the newer engram");
    // A repair does not take it for damage.
    let dir = tempfile::tempdir().expect("a directory");
    put(&open(dir.path()), &scope("t", "p"), "one");
    current("0 0\n")(dir.path());
    assert!(matches!(Embedded::repair(dir.path(), None), Err(MemoryError::Format { found: 1, .. })));
}

#[test]
fn graphs_are_written_while_it_serves_and_hold_nothing_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let index = IndexParams { recent: 64, exact_below: 100, ..IndexParams::default() };
    let config = EmbeddedConfig { index, ..config() };
    let path = dir.path().join("memory");
    let memory = Embedded::open(&path, Some(&encoder()), config).expect("a memory");
    let fill = |range: std::ops::Range<u32>| {
        let batch = range.map(|n| stored(&here, &format!("number {n}"))).collect();
        memory.put(batch).expect("a put");
    };
    let file = path.join("vectors.0.0");
    // It rests after each writing, so it may have to be asked more than once.
    let upkeep_until = |done: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !done() {
            memory.upkeep().expect("upkeep");
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing is written");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let held = || VectorIndex::load(&file, index).map_or(0, |index| index.len());
    fill(0..1000);
    assert_eq!(memory.nearest(&Selection::all(here.clone()), &vector("bytesnumber 7", DIM), 1).expect("hits").len(), 1);
    assert!(!file.exists());
    upkeep_until(&|| held() == 1000);
    // Little changed: nothing is written. An eighth did: it is.
    fill(1000..1050);
    std::thread::sleep(Duration::from_millis(20));
    memory.upkeep().expect("upkeep");
    assert_eq!(held(), 1000);
    fill(1050..1200);
    upkeep_until(&|| held() == 1200);
    // As after a kill: the directory as it is now, without a close.
    let copy = dir.path().join("copy");
    memory.store.checkpoint().expect("a checkpoint");
    copy_all(&path, &copy);
    let again = Embedded::open(&copy, Some(&encoder()), config).expect("a memory");
    assert_eq!(again.nearest(&Selection::all(here.clone()), &vector("bytesnumber 7", DIM), 1).expect("hits").len(), 1);
    let mut unsaved = Vec::new();
    again.resident.each_loaded(|_, part| unsaved.push(part.graph().unsaved()));
    assert_eq!(unsaved, [0], "all of the graph came from the file");
    // What is forgotten leaves the file at once, and is not in the next one.
    let gone = RecordId::of(&here, Kind::Knowledge, "number 7", 0);
    memory.forget(&Forget::Ids(here.partition.clone(), vec![gone])).expect("a forget");
    assert!(!file.exists());
    upkeep_until(&|| held() == 1199);
    let index = VectorIndex::load(&file, index).expect("a graph");
    assert!(!index.contains(gone.0) && index.tombstones() == 0);
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn churn_leaves_neither_disk_nor_indexes_growing() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = open(dir.path());
    let here = scope("t", "p");
    let text = "word ".repeat(200);
    let mut sizes = Vec::new();
    for round in 0..20 {
        let batch = (0..1000).map(|n| stored(&here, &format!("{round} {n} {text}"))).collect();
        memory.put(batch).expect("a put");
        assert_eq!(memory.forget(&Forget::Matching(Selection::all(here.clone()))).expect("a forget"), 1000);
        sizes.push(memory.stats(None).expect("sizes").disk_bytes);
    }
    let peak = sizes.iter().max().copied().unwrap_or(0);
    memory.compact().expect("a copy");
    for _ in 0..100 {
        if memory.store.disk_bytes() < 2 << 20 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = memory.store.disk_bytes();
    println!(
        "disk after each round, KiB: {:?}; after a copy {}",
        sizes.iter().map(|b| b >> 10).collect::<Vec<_>>(),
        end >> 10
    );
    // 20 rounds wrote some 60 MiB, each record once to sled and once to the log beside it; a generation may double from its floor
    // and a copy lie beside it.
    assert!(peak < 40 << 20, "{sizes:?}");
    assert!(end < 2 << 20, "{end} bytes for no records");
}
