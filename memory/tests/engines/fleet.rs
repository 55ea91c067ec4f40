//! Two servers over one engine: what one writes, the other's next search sees.

use std::sync::Arc;
use std::time::Duration;

use engram_memory::backend::Backend;
use engram_memory::backend::redis::SharedCache;
use engram_memory::{
    Embedder, Kind, Lifetime, Memory, MemoryConfig, NewRecord, Provenance, Query, Result, Scope, Side, Signals,
};

use crate::conformance::{DIM, scope, vector};

/// Vectors by the length of a text: enough to have some.
struct Lengths;

impl Embedder for Lengths {
    fn name(&self) -> &str {
        "axes"
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn embed(&self, texts: &[&str], _: Side) -> Result<Vec<Vec<f32>>> {
        Ok(texts.iter().map(|text| vector(text.len(), 0.1)).collect())
    }
}

/// A server's memory over the engine.
pub fn memory(backend: Arc<dyn Backend>, cache: Option<Arc<dyn SharedCache>>) -> Memory {
    let memory = Memory::with_backend(backend, Arc::new(Lengths), MemoryConfig::default()).unwrap();
    match cache {
        Some(cache) => memory.sharing(cache),
        None => memory,
    }
}

/// Without a shared cache nothing tells of the other's writes, so that no answer may be kept; with one, answers are
/// kept and go with any server's write.
pub fn sees_the_others_writes([one, other]: &[Memory; 2], cached: bool) {
    let scope = scope();
    let query = query(&scope);
    assert!(one.search(&query, None).unwrap().hits.is_empty());
    assert_eq!(one.search(&query, None).unwrap().cached, cached);
    assert_eq!(other.search(&query, None).unwrap().cached, cached, "what one found, the other need not search for");
    other.remember(vec![new(&scope, "a parcel")]).unwrap();
    for memory in [one, other] {
        let found = memory.search(&query, None).unwrap();
        assert_eq!(found.hits.iter().map(|hit| hit.record.content.as_str()).collect::<Vec<_>>(), ["a parcel"]);
    }
    assert_eq!(one.search(&query, None).unwrap().cached, cached);
    assert_eq!(
        one.search(&query, None).unwrap().embed,
        Duration::ZERO,
        "the query's own vector is nobody else's matter"
    );
}

fn new(scope: &Scope, content: &str) -> NewRecord {
    NewRecord {
        scope: scope.clone(),
        kind: Kind::Code,
        content: content.to_owned(),
        metadata: Default::default(),
        provenance: Provenance::default(),
        lifetime: Lifetime::Forever,
        pinned: false,
    }
}

fn query(scope: &Scope) -> Query {
    Query {
        scope: scope.clone(),
        text: "parcel".to_owned(),
        k: 3,
        kinds: Vec::new(),
        filter: None,
        min_score: None,
        as_of: None,
        budget_tokens: None,
        signals: Signals::default(),
    }
}
