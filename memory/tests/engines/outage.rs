//! What a shared engine does when its server dies, or when its connections are used up.

use engram_memory::backend::Backend;
use engram_memory::backend::breaker::BreakerState;
use engram_memory::{MemoryError, RecordId};

use crate::conformance::{put, scope, stored};
use crate::servers::Server;

/// The engine dies and comes back under a backend that stays; its breaker opens at two failures, for 100 ms.
pub fn opens_the_breaker_and_closes_it(server: &Server, backend: &dyn Backend, breaker: &dyn Fn() -> BreakerState) {
    let scope = scope();
    let written = put(backend, stored(&scope, "x"));
    server.stop();
    for _ in 0..2 {
        let error = backend.get(&scope.partition, written.id, None).unwrap_err();
        assert!(matches!(error, MemoryError::Backend { retryable: true, .. }), "{error}");
    }
    let refused = backend.put(vec![stored(&scope, "y")]).unwrap_err();
    let open = matches!(refused, MemoryError::BreakerOpen { backend: of, failures: 2, .. } if of == backend.name());
    assert!(open, "{refused}");
    assert_eq!(breaker(), BreakerState::Open);
    server.start_again();
    std::thread::sleep(std::time::Duration::from_millis(120));
    assert_eq!(backend.get(&scope.partition, written.id, None).unwrap(), Some(written));
    assert_eq!(breaker(), BreakerState::Closed);
    assert_eq!(backend.get(&scope.partition, RecordId(7), None).unwrap(), None);
}

/// Eight threads on a pool of one connection that does not wait; the breaker opens at one failure.
pub fn a_pool_that_is_used_up_says_so(backend: &(dyn Backend + Sync), breaker: &dyn Fn() -> BreakerState) {
    assert_eq!(backend.stats(None).unwrap().pool, Some((0, 1)));
    let refused = std::thread::scope(|threads| {
        let workers: Vec<_> =
            (0..8).map(|_| threads.spawn(|| (0..40).filter_map(|_| backend.health().err()).next())).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).next()
    });
    let refused = refused.expect("eight threads on one connection").to_string();
    assert!(refused.contains("all 1 connections were in use for 0 ms: raise `memory."), "{refused}");
    assert_eq!(breaker(), BreakerState::Closed, "it is no failure of the engine");
}
