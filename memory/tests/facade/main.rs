//! What a memory does, whatever lies under it.

mod cached;
mod isolation;
mod plain;
mod recall;
mod words;
mod written;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use engram_memory::{
    Kind, Lifetime, Memory, MemoryConfig, NewRecord, Provenance, Query, Recall, RecordId, Scope, Signals,
};

pub(crate) struct Fixture {
    pub(crate) memory: Memory,
    pub(crate) encoder: Arc<words::WordVectors>,
}

impl Fixture {
    pub(crate) fn new(config: MemoryConfig) -> Self {
        let encoder = Arc::new(words::WordVectors::default());
        let memory = Memory::with_backend(Arc::new(plain::Plain::default()), encoder.clone(), config).unwrap();
        Self { memory, encoder }
    }

    /// Texts embedded so far.
    pub(crate) fn embedded(&self) -> usize {
        self.encoder.texts.load(Ordering::SeqCst)
    }

    pub(crate) fn remember(&self, record: NewRecord) -> RecordId {
        self.memory.remember(vec![record]).unwrap()[0].record().id
    }

    pub(crate) fn search(&self, query: &Query) -> Recall {
        self.memory.search(query, None).unwrap()
    }

    /// The contents of the hits.
    pub(crate) fn contents(&self, query: &Query) -> Vec<String> {
        self.search(query).hits.into_iter().map(|hit| hit.record.content).collect()
    }
}

pub(crate) fn scope() -> Scope {
    Scope::of("acme", "coding").unwrap()
}

pub(crate) fn new(kind: Kind, content: &str) -> NewRecord {
    NewRecord {
        scope: scope(),
        kind,
        content: content.to_owned(),
        metadata: Default::default(),
        provenance: Provenance::default(),
        lifetime: Lifetime::OfKind,
        pinned: false,
    }
}

pub(crate) fn code(symbol: &str, path: &str, content: &str) -> NewRecord {
    let provenance = Provenance { symbol: Some(symbol.into()), path: Some(path.into()), ..Provenance::default() };
    NewRecord { provenance, ..new(Kind::Code, content) }
}

pub(crate) fn query(text: &str) -> Query {
    Query {
        scope: scope(),
        text: text.to_owned(),
        k: 10,
        kinds: Vec::new(),
        filter: None,
        min_score: None,
        as_of: None,
        budget_tokens: None,
        signals: Signals::default(),
    }
}
