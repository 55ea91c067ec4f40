//! What every backend must do, over `&dyn Backend`. Checks share one backend, each in tenants of its own.

pub mod filters;
pub mod isolation;
pub mod search;
pub mod together;
pub mod write;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engram_memory::backend::{Backend, Selection, Stored};
use engram_memory::{Kind, Record, Scope, Timestamp};

/// Dimension of the suite's vectors.
pub const DIM: usize = 8;

/// Makes one `#[test]` of each check, over the backend that `$backend` gives.
#[macro_export]
macro_rules! conformance {
    ($backend:expr) => {
        $crate::conformance!($backend;
            write: puts_and_gets, sees_again, takes_the_next_salt, changes_and_keeps_the_past, changes_without_a_version,
                moves_without_a_version, refuses_to_change_what_is_not_there, expires, revives_what_expired, forgets_ids, forgets_a_selection,
                forgets_a_tenant, keeps_every_text, keeps_large_records, refuses_vectors_of_another_length;
            search: gets_many_in_order, scans_in_pages, scans_the_past, finds_the_nearest, finds_the_nearest_that_are_selected,
                finds_words, ranks_rare_words_higher, finds_symbols_first, follows_changes, tells_its_sizes;
            filters: every_operator, agrees_with_matches;
            isolation: partitions_do_not_see_each_other, statistics_do_not_cross;
            together: eight_threads_at_once, one_record_from_eight_threads, forget_wins_over_change);
    };
    ($backend:expr; $($file:ident: $($check:ident),+);+) => {
        $(mod $file {
            use super::*;
            $(#[test] fn $check() {
                $crate::conformance::$file::$check($backend);
            })+
        })+
    };
}

/// A scope in a tenant that no other check uses.
pub fn scope() -> Scope {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Scope::of(&format!("tenant-{}", NEXT.fetch_add(1, Ordering::Relaxed)), "coding").unwrap()
}

/// The unit vector along `axis`, leaning a little towards the next: `axis` and `lean` decide every distance.
pub fn vector(axis: usize, lean: f32) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    vector[axis % DIM] = (1.0 - lean * lean).sqrt();
    vector[(axis + 1) % DIM] = lean;
    vector
}

/// A record of now with a content.
pub fn record(scope: &Scope, kind: Kind, content: &str) -> Record {
    Record::new(scope.clone(), kind, content.to_owned(), Timestamp::now())
}

/// The same with a vector along the first axis.
pub fn stored(scope: &Scope, content: &str) -> Stored {
    Stored { record: record(scope, Kind::Code, content), vector: vector(0, 0.0) }
}

/// Writes one record; the record as the backend has it.
pub fn put(backend: &dyn Backend, stored: Stored) -> Record {
    backend.put(vec![stored]).unwrap().remove(0).record().clone()
}

/// Everything in a scope.
pub fn all(backend: &dyn Backend, scope: &Scope) -> Vec<Record> {
    let stored = backend.scan(&Selection::all(scope.clone()), None, None, usize::MAX).unwrap();
    stored.into_iter().map(|stored| stored.record).collect()
}

/// Waits for the clock, whose unit is a millisecond, to move on; the time between.
pub fn between() -> Timestamp {
    std::thread::sleep(Duration::from_millis(3));
    let now = Timestamp::now();
    std::thread::sleep(Duration::from_millis(3));
    now
}
