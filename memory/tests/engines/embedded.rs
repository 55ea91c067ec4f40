//! The memory inside the process, in temporary directories.

use std::path::Path;
use std::sync::OnceLock;

use engram_memory::backend::embedded::{Embedded, EmbeddedConfig, EncoderId};
use engram_memory::backend::{Backend, Change, Selection, Written};
use engram_memory::{MemoryError, Timestamp};

use crate::conformance::{DIM, put, scope, stored, vector};

fn open(dir: &Path) -> Embedded {
    let encoder = EncoderId { name: "axes".to_owned(), dim: DIM };
    Embedded::open(dir, Some(&encoder), EmbeddedConfig::default()).unwrap()
}

fn backend() -> &'static dyn Backend {
    static BACKEND: OnceLock<(tempfile::TempDir, Embedded)> = OnceLock::new();
    let (_, memory) = BACKEND.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let memory = open(dir.path());
        (dir, memory)
    });
    memory
}

mod conforms {
    use super::backend;
    crate::conformance!(backend());
}

/// What the suite does to a memory that is then opened again: none of it may be only in the indexes.
#[test]
fn edges_are_the_same_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let scope = scope();
    let mut past = stored(&scope, "past");
    past.record.expires = Some(Timestamp(1));
    let id = put(&open(dir.path()), past).id;
    let memory = open(dir.path());
    let change = memory.change(&scope.partition, id, Change { pinned: Some(true), ..Change::default() });
    assert!(matches!(change, Err(MemoryError::NotFound(missing)) if missing == id), "{change:?}");
    let again = memory.put(vec![stored(&scope, "past")]).unwrap().remove(0);
    assert!(matches!(&again, Written::Created(record) if record.id == id && record.seen == 1), "{again:?}");
    let all = Selection::all(scope);
    assert_eq!(memory.nearest(&all, &vector(0, 0.0), 0).unwrap(), []);
    assert_eq!(memory.nearest(&all, &vector(0, 0.0), 9).unwrap().len(), 1);
    let short = memory.nearest(&all, &[1.0; DIM - 1], 9);
    assert!(matches!(&short, Err(MemoryError::Invalid { field, .. }) if field == "vector"), "{short:?}");
}
