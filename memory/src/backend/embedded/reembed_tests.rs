//! Another encoder while the memory serves, is interrupted, and is killed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::tests::{DIM, config, encoder, open, put, scope, stored, vector};
use super::*;
use crate::backend::{Backend, Forget, Selection};
use crate::config::{Caches, MemoryConfig};
use crate::error::MemoryError;
use crate::query::{Lifetime, NewRecord, Query, Signals};
use crate::record::{Kind, Provenance};
use crate::{Memory, Scope};

const NEW: usize = 12;

/// An encoder whose vectors follow from a hash of the text and its own name; it counts what it embeds.
struct Hashing(&'static str, usize, AtomicUsize);

impl Hashing {
    fn new(name: &'static str, dim: usize) -> Self {
        Self(name, dim, AtomicUsize::new(0))
    }

    fn texts(&self) -> usize {
        self.2.load(Ordering::SeqCst)
    }
}

impl Embedder for Hashing {
    fn name(&self) -> &str {
        self.0
    }

    fn dim(&self) -> usize {
        self.1
    }

    fn embed(&self, texts: &[&str], _: Side) -> Result<Vec<Vec<f32>>> {
        self.2.fetch_add(texts.len(), Ordering::SeqCst);
        Ok(texts.iter().map(|text| vector(&format!("{}{text}", self.0), self.1)).collect())
    }
}

fn nearest(memory: &Embedded, here: &Scope, vector: &[f32]) -> Option<RecordId> {
    memory.nearest(&Selection::all(here.clone()), vector, 1).expect("a search").first().map(|hit| hit.id)
}

fn id(here: &Scope, content: &str) -> RecordId {
    RecordId::of(here, Kind::Knowledge, content, 0)
}

/// Vectors there are of the encoder that is not in use yet; `None` if none is being made.
fn pending(memory: &Embedded) -> Option<usize> {
    let tree = memory.store.tree();
    let pending = Encoders::of_tree(&tree).expect("encoders").pending?;
    Some(tree.scan(&[b'v', pending.slot], &[]).count())
}

#[test]
fn the_old_vectors_serve_until_all_new_ones_are_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let memory = open(dir.path());
    (0..300).for_each(|n| drop(put(&memory, &here, &format!("number {n}"))));
    assert!(nearest(&memory, &here, &vector("bytesnumber 1", DIM)).is_some(), "the partition is in memory");
    let new = Hashing::new("other", NEW);
    let mut run = memory.begin_reembed(&new, 16).expect("a begin").expect("another encoder");
    let mut rounds = 0;
    let whole = run.embed(&mut |done| {
        // Meanwhile records come, change and go, and all are found by the old vectors.
        assert_eq!(memory.encoder().expect("an encoder"), encoder());
        let written = put(&memory, &here, &format!("meanwhile {rounds}"));
        assert_eq!(nearest(&memory, &here, &vector(&format!("bytesmeanwhile {rounds}"), DIM)), Some(written.id));
        if rounds == 3 {
            memory.forget(&Forget::Ids(here.partition.clone(), vec![id(&here, "number 5")])).expect("a forget");
        }
        rounds += 1;
        assert!(done >= 16);
        ControlFlow::Continue(())
    });
    assert!(whole.expect("embedding anew"));
    put(&memory, &here, "at last");
    let done = run.switch().expect("a switch");
    let live = memory.stats(None).expect("sizes").records["knowledge"];
    assert!(done >= live && rounds >= 18, "{done} embedded of {live}, {rounds} batches");
    assert_eq!(memory.encoder().expect("an encoder"), EncoderId { name: "other".to_owned(), dim: NEW });
    // What is in memory took the graph over that was built before, and was not loaded again.
    let mut loaded = Vec::new();
    memory.resident.each_loaded(|_, part| loaded.push((part.vectors.dim(), part.vectors.len() as u64)));
    assert_eq!(loaded, [(NEW, live)]);
    let find = |memory: &Embedded| {
        let texts = (0..rounds).map(|n| format!("meanwhile {n}")).chain((0..300).map(|n| format!("number {n}")));
        for text in texts.chain(["at last".to_owned()]) {
            let found = nearest(memory, &here, &vector(&format!("other{text}"), NEW));
            assert_eq!(found == Some(id(&here, &text)), text != "number 5", "{text}");
        }
    };
    find(&memory);
    let refused = memory.put(vec![stored(&here, "by the old encoder")]);
    assert!(matches!(refused, Err(MemoryError::Invalid { .. })), "{refused:?}");
    drop(memory);
    assert!(matches!(Embedded::open(dir.path(), Some(&encoder()), config()), Err(MemoryError::EncoderMismatch { .. })));
    find(
        &Embedded::open(dir.path(), Some(&EncoderId { name: "other".to_owned(), dim: NEW }), config())
            .expect("a memory"),
    );
}

#[test]
fn a_run_that_was_interrupted_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let memory = open(dir.path());
    (0..100).for_each(|n| drop(put(&memory, &here, &format!("number {n}"))));
    let first = Hashing::new("other", DIM);
    let mut run = memory.begin_reembed(&first, 10).expect("a begin").expect("another encoder");
    let stop = |done| if done == 30 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(!run.embed(&mut { stop }).expect("embedding anew"));
    drop(run);
    assert_eq!(pending(&memory), Some(30));
    drop(memory);
    // The old encoder opens it as ever.
    let memory = open(dir.path());
    assert_eq!(nearest(&memory, &here, &vector("bytesnumber 7", DIM)), Some(id(&here, "number 7")));
    let change = crate::backend::Change {
        content: Some(("changed".to_owned(), vector("byteschanged", DIM))),
        ..crate::backend::Change::default()
    };
    memory.change(&here.partition, id(&here, "number 7"), change).expect("a change");
    let second = Hashing::new("other", DIM);
    assert!((70..=71).contains(&memory.reembed(&second, 10, &mut |_| {}).expect("the rest")));
    assert_eq!(second.texts(), 100 - 30 + usize::from(second.texts() == 71));
    assert_eq!(nearest(&memory, &here, &vector("otherchanged", DIM)), Some(id(&here, "number 7")));
    assert_eq!(pending(&memory), None);
    let left = memory.store.tree().scan(&[b'v', 0], &[]).count();
    assert_eq!(left, 0, "the old vectors are gone");
}

#[test]
fn what_another_encoder_or_a_kill_left_behind_is_not_taken_for_its_vectors() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = scope("t", "p");
    let memory = open(dir.path());
    (0..40).for_each(|n| drop(put(&memory, &here, &format!("number {n}"))));
    let half = Hashing::new("half", DIM);
    let mut run = memory.begin_reembed(&half, 8).expect("a begin").expect("another encoder");
    assert!(!run.embed(&mut |_| ControlFlow::Break(())).expect("embedding anew"));
    drop(run);
    let other = Hashing::new("other", DIM);
    assert_eq!(memory.reembed(&other, 8, &mut |_| {}).expect("embedding anew"), 40);
    // Of the same length, so only the name tells them apart.
    let refused = memory.put(vec![stored(&here, "by the old encoder")]);
    assert!(matches!(refused, Ok(_) | Err(MemoryError::EncoderMismatch { .. })), "{refused:?}");
    let (slot, partition) = (Encoders::of_tree(&memory.store.tree()).expect("encoders").active_slot, 0);
    let left = keys::vector(1 - slot, partition, id(&here, "number 3"));
    let key = left.clone();
    let plan = move |view: &mut View<'_>| {
        let sealed = value::seal_vector(&key, &[1.0; DIM]);
        view.set(key.clone(), sealed);
        Ok(())
    };
    memory.store.write(plan).expect("a write");
    drop(memory);
    let memory = Embedded::open(dir.path(), None, config()).expect("a memory");
    assert!(memory.store.tree().get(&left).expect("a read").is_none());
    assert_eq!(nearest(&memory, &here, &vector("othernumber 3", DIM)), Some(id(&here, "number 3")));
}

/// Through the facade: who searches and who writes notices nothing.
#[test]
fn searches_and_writes_go_through_the_switch() {
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = Arc::new(open(dir.path()));
    let here = scope("t", "p");
    let caches = Caches { recall_bytes: 0, ..Caches::default() };
    let old: Arc<dyn Embedder> = Arc::new(Hashing::new("bytes", DIM));
    let memory = Memory::with_backend(embedded.clone(), old, MemoryConfig { caches, ..MemoryConfig::default() });
    let memory = memory.expect("a memory");
    let new = |text: &str| NewRecord {
        scope: here.clone(),
        kind: Kind::Code,
        content: text.to_owned(),
        metadata: Default::default(),
        provenance: Provenance::default(),
        lifetime: Lifetime::Forever,
        pinned: false,
    };
    memory.remember((0..400).map(|n| new(&format!("number {n}"))).collect()).expect("remembered");
    let by_meaning = |text: &str| Query {
        scope: here.clone(),
        text: text.to_owned(),
        k: 1,
        kinds: Vec::new(),
        filter: None,
        min_score: None,
        as_of: None,
        budget_tokens: None,
        signals: Signals { dense: true, lexical: false, literal: false },
    };
    let found = |text: &str| memory.search(&by_meaning(text), None).expect("a search").hits[0].record.content == text;
    let (over, searches, writes) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for thread in 0..2 {
            let (over, searches, found) = (&over, &searches, &found);
            threads.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let n = searches.fetch_add(1, Ordering::SeqCst) * 7 + thread;
                    let text = format!("number {}", n % 400);
                    assert!(found(&text), "{text}");
                }
            });
        }
        threads.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let n = writes.fetch_add(1, Ordering::SeqCst);
                memory.remember(vec![new(&format!("later {n}"))]).expect("remembered");
            }
        });
        let other: Arc<dyn Embedder> = Arc::new(Hashing::new("other", NEW));
        let mut run = embedded.begin_reembed(other.as_ref(), 32).expect("a begin").expect("another encoder");
        assert!(run.embed(&mut |_| ControlFlow::Continue(())).expect("embedding anew"));
        memory.switch_encoder(other.clone(), || run.switch()).expect("a switch");
        let (searched, wrote) = (searches.load(Ordering::SeqCst), writes.load(Ordering::SeqCst));
        while searches.load(Ordering::SeqCst) < searched + 50 || writes.load(Ordering::SeqCst) < wrote + 5 {
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(memory.stats(None).expect("sizes").encoder, "other");
    let later = writes.load(Ordering::SeqCst);
    assert!((0..later).all(|n| found(&format!("later {n}"))), "{later} written meanwhile");
}
