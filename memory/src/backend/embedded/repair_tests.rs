//! Damage at random places of a store's files: it is named, nothing that was not hit is lost, and the loss is told.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::tests::{config, contents, encoder, open, put, scope, stored, vector};
use super::*;
use crate::backend::{Backend, Change, Forget, Selection};
use crate::error::MemoryError;

const DIM: usize = super::super::tests::DIM;
/// Places that are damaged in each file.
const PLACES: usize = 20;
/// More than a record's pair has before and after its content.
const PAIR: usize = 1024;

fn text(n: usize) -> String {
    format!("number {n} {}", "x".repeat(300))
}

/// A memory with a base, commits after it, changed and forgotten records; its live contents.
fn made(dir: &Path) -> Vec<String> {
    let memory = open(dir);
    let here = scope("t", "p");
    for batch in 0..25 {
        memory.put((batch * 10..batch * 10 + 10).map(|n| stored(&here, &text(n))).collect()).expect("a put");
    }
    memory.compact().expect("a copy");
    for batch in 25..40 {
        memory.put((batch * 10..batch * 10 + 10).map(|n| stored(&here, &text(n))).collect()).expect("a put");
    }
    let id = |n: usize| RecordId::of(&here, crate::record::Kind::Knowledge, &text(n), 0);
    assert_eq!(
        memory.forget(&Forget::Ids(here.partition.clone(), (0..400).step_by(40).map(id).collect())).expect("a forget"),
        10
    );
    let changed = text(1000);
    let vector = vector(&format!("bytes{changed}"), DIM);
    let change = Change { content: Some((changed, vector)), ..Change::default() };
    memory.change(&here.partition, id(1), change).expect("a change");
    put(&memory, &here, "the last");
    contents(&memory, &here)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

fn copied(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("a file inside"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
        std::fs::copy(&file, target).expect("a copy");
    }
}

/// Damages [`PLACES`] places of every file whose name in the store begins with one of `which`; where, by file.
fn damaged(dir: &Path, which: &[&str], seed: u64) -> BTreeMap<PathBuf, Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut places = BTreeMap::new();
    for file in files(dir) {
        let name = file.strip_prefix(dir).expect("a file inside").to_string_lossy().into_owned();
        let mut bytes = std::fs::read(&file).expect("its bytes");
        if bytes.is_empty() || !which.iter().any(|which| name.starts_with(which)) {
            continue;
        }
        let hit: Vec<usize> = (0..PLACES).map(|_| random.random_range(0..bytes.len())).collect();
        hit.iter().for_each(|&at| bytes[at] ^= random.random_range(1..=255_u8));
        std::fs::write(&file, bytes).expect("spoiling");
        places.insert(file, hit);
    }
    assert!(!places.is_empty(), "no file of {which:?}");
    places
}

/// Whether the newest pair of `content` in base and log was hit, or may have been.
fn hit(whole: &Path, dir: &Path, places: &BTreeMap<PathBuf, Vec<usize>>, content: &str) -> bool {
    let needle: Vec<u8> = format!("{content}\"").into_bytes();
    let mut newest = None;
    for file in files(whole).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "log")) {
        let bytes = std::fs::read(&file).expect("its bytes");
        if let Some(at) = bytes.windows(needle.len()).rposition(|window| window == needle) {
            newest = Some((dir.join(file.strip_prefix(whole).expect("a file inside")), at));
        }
    }
    let (file, at) = newest.expect("it was written");
    places.get(&file).is_some_and(|hit| hit.iter().any(|hit| hit.abs_diff(at) < PAIR + needle.len()))
}

/// Damages a copy of the store `whole`, which holds `live`, and repairs it.
fn check(whole: &Path, live: &[String], which: &[&str], seed: u64, loses_nothing: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    copied(whole, dir);
    let places = damaged(dir, which, seed);
    let here = scope("t", "p");
    let case = format!("{which:?}, seed {seed}");
    let opened = Embedded::open(dir, Some(&encoder()), config());
    match opened.and_then(|memory| memory.scan(&Selection::all(here.clone()), None, None, 1000)) {
        Ok(read) => assert_eq!(read.len(), live.len(), "{case}: damage passes for a smaller store"),
        Err(MemoryError::Corrupt { path, .. }) => {
            let name = path.strip_prefix(dir).expect("a file of the store").to_string_lossy().into_owned();
            assert!(which.iter().any(|which| name.starts_with(which)), "{case}: {name} is named");
        }
        Err(other) => panic!("{case}: {other:?}"),
    }
    let repaired = Embedded::repair(dir, Some(&encoder())).unwrap_or_else(|error| panic!("{case}: {error}"));
    let memory = open(dir);
    let there = contents(&memory, &here);
    let known = |content: &String| live.contains(content);
    let kept = there.iter().filter(|content| known(content)).count();
    println!("{case}: {repaired:?}, {kept} of {}", live.len());
    assert_eq!(there.len() as u64, repaired.kept, "{case}");
    assert_eq!(repaired.lost, (live.len() as u64).saturating_sub(repaired.kept), "{case}");
    if loses_nothing {
        assert_eq!((there.as_slice(), repaired.without_vector), (live, 0), "{case}");
    }
    for content in live.iter().filter(|content| !there.contains(content)) {
        assert!(hit(whole, dir, &places, content), "{case}: lost, though not hit: {}", &content[..12]);
    }
    put(&memory, &here, "after the repair");
    drop(memory);
    assert_eq!(contents(&open(dir), &here).len(), there.len() + 1, "{case}");
}

/// The bound: damage to the database alone, or to base and log alone, costs nothing; damage to both at once costs at most
/// the records whose bytes in base and log were hit.
#[test]
fn what_was_not_hit_is_kept_and_the_loss_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = made(dir.path());
    assert_eq!(live.len(), 391);
    for seed in 0..3 {
        check(dir.path(), &live, &["records."], seed, true);
        check(dir.path(), &live, &["base.", "log"], seed, true);
        check(dir.path(), &live, &["current"], seed, true);
        check(dir.path(), &live, &["records.", "base.", "log"], seed, false);
        check(dir.path(), &live, &["records.", "base.", "log", "current"], seed, false);
    }
}

#[test]
fn files_that_are_gone_are_named_and_made_again() {
    let whole = tempfile::tempdir().expect("a directory");
    let live = made(whole.path());
    for gone in ["records.1", "base.1", "log", "current"] {
        let dir = tempfile::tempdir().expect("a directory");
        copied(whole.path(), dir.path());
        let path = dir.path().join(gone);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.expect("a removal");
        let opened = Embedded::open(dir.path(), Some(&encoder()), config()).map(drop);
        assert!(matches!(&opened, Err(MemoryError::Corrupt { .. })), "without {gone}: {opened:?}");
        let repaired = Embedded::repair(dir.path(), Some(&encoder())).expect("a repair");
        assert_eq!((repaired.kept, repaired.lost), (live.len() as u64, 0), "without {gone}");
        assert_eq!(contents(&open(dir.path()), &scope("t", "p")), live);
    }
}

#[test]
fn a_whole_store_is_what_it_was_after_a_repair() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = made(dir.path());
    let repaired = Embedded::repair(dir.path(), None).expect("a repair");
    assert_eq!((repaired.kept, repaired.lost, repaired.log_gaps), (live.len() as u64, 0, 0));
    assert_eq!(contents(&open(dir.path()), &scope("t", "p")), live);
}
