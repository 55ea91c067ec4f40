//! Many threads at once.

use std::thread;

use engram_memory::backend::{Backend, Change, Forget, Selection, Stored, Written};
use engram_memory::{Kind, MemoryError, Timestamp};

use super::{all, put, record, scope, stored, vector};

/// Eight threads, each with records of its own in one shared scope, doing everything.
pub fn eight_threads_at_once(backend: &dyn Backend) {
    let scope = scope();
    thread::scope(|threads| {
        for thread in 0..8_usize {
            let scope = &scope;
            threads.spawn(move || {
                let selection = Selection::all(scope.clone());
                for round in 0..12_usize {
                    let record = record(scope, Kind::Code, &format!("thread{thread} round{round}"));
                    let id = put(backend, Stored { record, vector: vector(thread, 0.1) }).id;
                    let word = format!("thread{thread}");
                    let found = backend.lexical(&selection, &word, 99).unwrap();
                    assert!(found.iter().any(|candidate| candidate.id == id), "its own write is found at once");
                    assert!(!backend.nearest(&selection, &vector(thread, 0.1), 5).unwrap().is_empty());
                    match round % 3 {
                        0 => {
                            let change = Change {
                                content: Some((format!("{word} changed {round}"), vector(thread, 0.2))),
                                ..Change::default()
                            };
                            assert_eq!(backend.change(&scope.partition, id, change).unwrap().version, 2);
                        }
                        1 => assert_eq!(backend.forget(&Forget::Ids(scope.partition.clone(), vec![id])).unwrap(), 1),
                        _ => assert!(backend.get(&scope.partition, id, None).unwrap().is_some()),
                    }
                }
            });
        }
    });
    assert_eq!(all(backend, &scope).len(), 8 * 8);
}

/// The same contents from every thread, in different orders: each is one record, counted right.
pub fn one_record_from_eight_threads(backend: &dyn Backend) {
    let scope = scope();
    let created: usize = thread::scope(|threads| {
        let workers: Vec<_> = (0..8_usize)
            .map(|thread| {
                let scope = &scope;
                threads.spawn(move || {
                    let mut records: Vec<Stored> = (0..10).map(|i| stored(scope, &format!("shared {i}"))).collect();
                    records.rotate_left(thread);
                    let written = backend.put(records).unwrap();
                    written.iter().filter(|written| matches!(written, Written::Created(_))).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(created, 10);
    let records = all(backend, &scope);
    assert_eq!(records.iter().map(|record| record.seen).collect::<Vec<_>>(), [8; 10]);
}

/// A change that meets a forget leaves nothing behind, in the past neither.
pub fn forget_wins_over_change(backend: &dyn Backend) {
    let scope = scope();
    for round in 0..10 {
        let id = put(backend, stored(&scope, &format!("round {round}"))).id;
        let then = Timestamp::now();
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    let change = Change { content: Some(("later".into(), vector(1, 0.0))), ..Change::default() };
                    match backend.change(&scope.partition, id, change) {
                        Ok(_) | Err(MemoryError::NotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                });
            }
            threads.spawn(|| {
                let forget = Forget::Ids(scope.partition.clone(), vec![id]);
                assert_eq!(backend.forget(&forget).unwrap(), 1);
            });
        });
        for as_of in [None, Some(then), Some(Timestamp::now())] {
            assert_eq!(backend.get(&scope.partition, id, as_of).unwrap(), None, "round {round}");
        }
    }
}
