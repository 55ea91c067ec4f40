//! Pulls against servers that cut, lie, refuse and hang; and, where asked for, against the real ones.

mod hub;
mod mirror;
mod real;
mod transfer;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::progress::Progress;
use super::{PullOptions, Timeouts};
use crate::catalog::{self, CatalogEntry};

/// Bytes that no two offsets share for long, so that a wrong join shows.
fn bytes(n: usize, seed: u32) -> Arc<Vec<u8>> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Arc::new((0..n).map(|_| next()).collect())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keeps what a pull says.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn text(&self) -> String {
        self.0.lock().expect("notes").join("\n")
    }
}

impl Progress for Notes {
    fn start(&self, name: &str, done: u64, total: Option<u64>) {
        self.note(&format!("start {name} {done} {total:?}"));
    }
    fn at(&self, _done: u64) {}
    fn finish(&self) {}
    fn note(&self, message: &str) {
        self.0.lock().expect("notes").push(message.to_string());
    }
}

/// A fresh home, limits that suit a test, and nothing that leads to the real network.
struct Home {
    folder: tempfile::TempDir,
    notes: Arc<Notes>,
    options: PullOptions,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let notes = Arc::new(Notes::default());
        let mut options = PullOptions::new(folder.path().join("home"));
        options.hub.cache = folder.path().join("hub");
        options.hub.endpoint = closed_port();
        options.package_index = format!("{}/simple", closed_port());
        options.progress = Arc::clone(&notes) as Arc<dyn Progress>;
        options.timeouts = Timeouts {
            connect: Duration::from_millis(500),
            idle: Duration::from_millis(400),
            retry: Duration::from_millis(1),
        };
        Self { folder, notes, options }
    }
}

/// An address nobody listens on.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("address"))
}

/// A catalog entry of the usual form.
fn entry(text: &str) -> &'static CatalogEntry {
    let entries = catalog::parse(text).expect("a well-formed entry");
    Box::leak(Box::new(entries.into_iter().next().expect("one entry")))
}
