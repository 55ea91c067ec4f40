//! A disk that is full and a directory that takes no writes: named errors, and what is there is still served.
//!
//! The test runs itself again in a mount namespace of its own, on a small tmpfs, which gives the real errors.

use std::path::Path;
use std::process::Command;

use engram_memory::backend::embedded::{Embedded, EmbeddedConfig, EncoderId};
use engram_memory::backend::{Backend, Selection, Stored};
use engram_memory::store::StoreConfig;
use engram_memory::{Kind, MemoryError, Record, Scope, Timestamp};

const INSIDE: &str = "ENGRAM_SMALL_DISK";

/// Runs the test `name` again on a tmpfs of 24 MiB at a directory it finds in [`INSIDE`]; false inside of it.
fn on_a_small_disk(name: &str) -> bool {
    if std::env::var(INSIDE).is_ok() {
        return false;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let script = "mount -t tmpfs -o size=24m tmpfs \"$0\" && exec \"$1\" --exact \"$2\" --nocapture --test-threads=1";
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.arg(dir.path()).arg(program).arg(name).env(INSIDE, dir.path());
    let allowed = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("{name}: this machine allows no mount namespaces, nothing was tested");
        return true;
    }
    assert!(command.status().expect("a run").success(), "{name} failed on the small disk");
    true
}

fn open(dir: &Path, reserve_bytes: u64) -> Embedded {
    let store = StoreConfig { reserve_bytes, cache_bytes: 4 << 20, ..StoreConfig::default() };
    let encoder = EncoderId { name: "small".to_owned(), dim: 2 };
    Embedded::open(dir, Some(&encoder), EmbeddedConfig { store, ..EmbeddedConfig::default() }).expect("a memory")
}

fn stored(n: usize) -> Stored {
    let scope = Scope::of("t", "coding").expect("a scope");
    let content = format!("{n} {}", "x".repeat(20_000));
    let record = Record::new(scope, Kind::Document, content, Timestamp::now());
    Stored { record, vector: vec![1.0, 0.0] }
}

fn count(memory: &Embedded) -> usize {
    let all = Selection::all(Scope::of("t", "coding").expect("a scope"));
    memory.scan(&all, None, None, usize::MAX).expect("a scan").len()
}

/// Puts until the disk refuses; how many were acknowledged.
fn fill(memory: &Embedded) -> usize {
    for n in 0..5000 {
        match memory.put(vec![stored(n)]) {
            Ok(_) => {}
            Err(MemoryError::DiskFull { bytes, .. }) => {
                assert!(bytes > 20_000, "it says how much was to be written: {bytes}");
                return n;
            }
            Err(other) => panic!("not the error of a full disk: {other:?}"),
        }
    }
    panic!("24 MiB took 100 MB")
}

#[test]
fn a_full_disk_is_named_and_reads_go_on() {
    if on_a_small_disk("a_full_disk_is_named_and_reads_go_on") {
        return;
    }
    let dir = Path::new(&std::env::var(INSIDE).expect("a disk")).join("memory");
    let memory = open(&dir, 6 << 20);
    let acknowledged = fill(&memory);
    assert!(acknowledged > 50, "only {acknowledged} records fit");
    assert_eq!(count(&memory), acknowledged);
    assert!(matches!(memory.put(vec![stored(9999)]), Err(MemoryError::DiskFull { .. })), "still full");
    drop(memory);
    assert_eq!(count(&open(&dir, 6 << 20)), acknowledged, "after reopening");
}

#[test]
fn a_disk_that_others_filled_to_the_last_byte_loses_nothing_acknowledged() {
    if on_a_small_disk("a_disk_that_others_filled_to_the_last_byte_loses_nothing_acknowledged") {
        return;
    }
    let disk = std::env::var(INSIDE).expect("a disk");
    let dir = Path::new(&disk).join("memory");
    let memory = open(&dir, 0);
    (0..20).for_each(|n| assert!(memory.put(vec![stored(n)]).is_ok()));
    let hog = Path::new(&disk).join("hog");
    assert!(std::fs::write(&hog, vec![1; 32 << 20]).is_err(), "the disk is full now");
    let refused = memory.put(vec![stored(9999)]);
    assert!(matches!(refused, Err(MemoryError::DiskFull { .. })), "{refused:?}");
    assert_eq!(count(&memory), 20);
    std::fs::remove_file(&hog).expect("room again");
    assert!(memory.put(vec![stored(20)]).is_ok(), "room was made, so writes are taken again");
    drop(memory);
    assert_eq!(count(&open(&dir, 0)), 21);
}

#[test]
fn a_directory_that_takes_no_writes_is_served() {
    if on_a_small_disk("a_directory_that_takes_no_writes_is_served") {
        return;
    }
    let disk = std::env::var(INSIDE).expect("a disk");
    let dir = Path::new(&disk).join("memory");
    let memory = open(&dir, 0);
    (0..5).for_each(|n| assert!(memory.put(vec![stored(n)]).is_ok()));
    drop(memory);
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &options, &disk]).status().expect("mount").success());
    };
    remount("ro");
    let memory = open(&dir, 0);
    assert!(memory.read_only());
    assert_eq!(count(&memory), 5);
    assert!(matches!(memory.put(vec![stored(9)]), Err(MemoryError::ReadOnly { .. })));
    drop(memory);
    remount("rw");
    let memory = open(&dir, 0);
    assert!(memory.put(vec![stored(9)]).is_ok());
    assert_eq!(count(&memory), 6);
}
