//! The shared engine Qdrant, against a stand-in (`tests/servers/qdrant_stand_in.py`): no Qdrant can be had here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engram_memory::backend::breaker::BreakerConfig;
use engram_memory::backend::qdrant::{Qdrant, QdrantConfig};
use engram_memory::backend::{Backend, Change, PoolConfig, Secret, Selection, Stored};
use engram_memory::{Kind, MemoryError, RecordId};
use serde_json::json;

use crate::conformance::{DIM, all, put, record, scope, stored, vector};
use crate::fleet::{memory, sees_the_others_writes};
use crate::outage::{a_pool_that_is_used_up_says_so, opens_the_breaker_and_closes_it};
use crate::servers::{PASSWORD, Server};

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("qdrant"))
}

/// Patient, because test machines are slow; what is tested is not the time.
fn at(server: &Server, collection: &str) -> QdrantConfig {
    let patient = Duration::from_secs(60);
    QdrantConfig {
        api_key: Some(Secret::new(PASSWORD)),
        collection: collection.to_owned(),
        pool: PoolConfig { wait: patient, ..PoolConfig::default() },
        connect_timeout: patient,
        timeout: patient,
        ..QdrantConfig::at(&*server.url)
    }
}

fn open(collection: &str) -> Qdrant {
    Qdrant::open(&at(server(), collection), ("axes", DIM)).unwrap()
}

/// A collection for each check: the stand-in looks at every point of a collection for every question.
fn backend() -> &'static dyn Backend {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Box::leak(Box::new(open(&format!("conforms-{}", NEXT.fetch_add(1, Ordering::Relaxed)))))
}

mod conforms {
    use super::backend;
    crate::conformance!(backend());
}

#[test]
fn many_open_at_once_and_make_one_collection() {
    std::thread::scope(|threads| {
        for _ in 0..6 {
            threads.spawn(|| open("raced").health().unwrap());
        }
    });
}

#[test]
fn another_encoder_is_refused() {
    open("encoders");
    for encoder in [("axes", DIM + 1), ("others", DIM)] {
        let error = Qdrant::open(&at(server(), "encoders"), encoder).err().unwrap();
        assert!(matches!(&error, MemoryError::EncoderMismatch { stored, .. } if stored == "axes"), "{error}");
    }
}

#[test]
fn is_there_after_opening_again() {
    let scope = scope();
    let written = put(&open("again"), stored(&scope, "x"));
    assert_eq!(open("again").get(&scope.partition, written.id, None).unwrap(), Some(written));
}

/// Filters that Qdrant cannot answer let most through, so more must be asked for until enough are right.
#[test]
fn looks_further_where_the_filter_takes_few() {
    let (backend, scope) = (open("few"), scope());
    let records: Vec<Stored> = (0..300)
        .map(|i| {
            let mut record = record(&scope, Kind::Code, &format!("common n{i}"));
            record.provenance.path = Some(if i >= 290 { format!("docs/{i}.md") } else { format!("src/{i}.rs") });
            Stored { record, vector: vector(0, i as f32 / 400.0) }
        })
        .collect();
    let expected: Vec<RecordId> = records[290..].iter().map(|stored| stored.record.id).collect();
    backend.put(records).unwrap();
    let filter = serde_json::from_value(json!({"glob": {"field": "path", "pattern": "docs/*"}})).unwrap();
    let selection = Selection { filter: Some(filter), ..Selection::all(scope) };
    let near: Vec<RecordId> =
        backend.nearest(&selection, &vector(0, 0.0), 10).unwrap().iter().map(|found| found.id).collect();
    assert_eq!(near, expected);
    assert_eq!(backend.lexical(&selection, "common", 10).unwrap().len(), 10);
}

/// An id takes in its partition; one that does not (an import from elsewhere) still passes no wall.
#[test]
fn one_id_in_two_partitions_is_two_records() {
    let (backend, here, there) = (open("walls"), scope(), scope());
    let mine = put(&backend, stored(&here, "mine"));
    let mut theirs = stored(&there, "mine");
    theirs.record.id = mine.id;
    let theirs = put(&backend, theirs);
    assert_ne!(theirs.id, mine.id);
    assert_eq!(all(&backend, &here), [mine]);
    assert_eq!(all(&backend, &there), [theirs]);
}

#[test]
fn changes_provenance_without_a_version() {
    let (backend, scope) = (open("provenance"), scope());
    let first = put(&backend, stored(&scope, "fn main() {}"));
    let mut provenance = first.provenance.clone();
    provenance.symbol = Some("start::main".into());
    let change = Change { provenance: Some(provenance.clone()), ..Change::default() };
    let changed = backend.change(&scope.partition, first.id, change).unwrap();
    assert_eq!((changed.version, changed.provenance), (1, provenance));
    let found = backend.literal(&Selection::all(scope), "start::main", 3).unwrap();
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [first.id]);
}

/// The engine dies and comes back under a backend that stays.
#[test]
fn a_dead_engine_opens_the_breaker_and_a_living_one_closes_it() {
    let server = Server::start("qdrant");
    let breaker = BreakerConfig { failures: 2, cooldown: Duration::from_millis(100) };
    let config = QdrantConfig { breaker, ..at(&server, "engram") };
    let backend = Qdrant::open(&config, ("axes", DIM)).unwrap();
    opens_the_breaker_and_closes_it(&server, &backend, &|| backend.breaker());
}

#[test]
fn a_pool_that_is_used_up_says_so_and_is_no_failure_of_the_engine() {
    let pool = PoolConfig { size: 1, wait: Duration::ZERO };
    let breaker = BreakerConfig { failures: 1, ..BreakerConfig::default() };
    let backend = Qdrant::open(&QdrantConfig { pool, breaker, ..at(server(), "pool") }, ("axes", DIM)).unwrap();
    a_pool_that_is_used_up_says_so(&backend, &|| backend.breaker());
}

#[test]
fn errors_name_the_cure_and_no_secret() {
    let good = at(server(), "errors");
    let check = |config: QdrantConfig, expected: &str| {
        assert!(!format!("{config:?}").contains("horse"), "{config:?}");
        let error = Qdrant::open(&config, ("axes", DIM)).err().unwrap_or_else(|| panic!("{expected}"));
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected) && !text.contains("horse"), "{text}");
    };
    let key = |key: &str| Some(Secret::new(key));
    check(QdrantConfig { api_key: key("wrong-horse"), ..good.clone() }, "(HTTP 401): check `memory.qdrant_api_key`");
    check(QdrantConfig { api_key: None, ..good.clone() }, "check `memory.qdrant_api_key`");
    check(QdrantConfig { api_key: key("a\nhorse"), ..good.clone() }, "`memory.qdrant_api_key`: is no text");
    check(QdrantConfig { url: "http://127.0.0.1:1".into(), ..good.clone() }, "at `memory.qdrant_url`");
    check(QdrantConfig { url: "127.0.0.1:6333".into(), ..good.clone() }, "`memory.qdrant_url`: is not");
    check(QdrantConfig { collection: "a/b".into(), ..good }, "`collection`");
}

#[test]
fn two_servers_see_each_others_writes_with_a_shared_cache_and_without() {
    let backend = || Arc::new(open("fleet"));
    sees_the_others_writes(&[memory(backend(), None), memory(backend(), None)], false);
    let cache = || Arc::new(crate::redis::cache());
    sees_the_others_writes(&[memory(backend(), Some(cache())), memory(backend(), Some(cache()))], true);
}
