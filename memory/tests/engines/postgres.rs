//! The shared engine, against a real PostgreSQL with pgvector.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engram_memory::backend::breaker::BreakerConfig;
use engram_memory::backend::postgres::{Postgres, PostgresConfig};
use engram_memory::backend::{Backend, PoolConfig, Secret, Selection, Stored};
use engram_memory::{Kind, MemoryError, RecordId};

use crate::conformance::{DIM, put, record, scope, stored};
use crate::fleet::{memory, sees_the_others_writes};
use crate::outage::{a_pool_that_is_used_up_says_so, opens_the_breaker_and_closes_it};
use crate::servers::{PASSWORD, Server};

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("postgres"))
}

fn config(schema: &str) -> PostgresConfig {
    let statement_timeout = Duration::from_secs(60);
    PostgresConfig { schema: schema.to_owned(), statement_timeout, ..PostgresConfig::at(Secret::new(&*server().url)) }
}

fn backend() -> &'static dyn Backend {
    static BACKEND: OnceLock<Postgres> = OnceLock::new();
    BACKEND.get_or_init(|| Postgres::open(&config("conformance"), ("axes", DIM)).unwrap())
}

mod conforms {
    use super::backend;
    crate::conformance!(backend());
}

#[test]
fn many_open_at_once_and_make_one_schema() {
    std::thread::scope(|threads| {
        for _ in 0..6 {
            threads.spawn(|| Postgres::open(&config("raced"), ("axes", DIM)).unwrap().health().unwrap());
        }
    });
}

#[test]
fn another_encoder_is_refused() {
    Postgres::open(&config("encoders"), ("axes", DIM)).unwrap();
    for encoder in [("axes", DIM + 1), ("others", DIM)] {
        let error = Postgres::open(&config("encoders"), encoder).err().unwrap();
        assert!(matches!(error, MemoryError::EncoderMismatch { .. }), "{error}");
    }
}

#[test]
fn is_there_after_opening_again() {
    let scope = scope();
    let first = Postgres::open(&config("again"), ("axes", DIM)).unwrap();
    let written = put(&first, stored(&scope, "x"));
    drop(first);
    let again = Postgres::open(&config("again"), ("axes", DIM)).unwrap();
    assert_eq!(again.get(&scope.partition, written.id, None).unwrap(), Some(written));
}

/// More records than are compared one by one, so that the index answers: the same as the exact order, in a
/// wide selection and in one that the scan has to look far for.
#[test]
fn the_index_finds_what_exact_search_finds() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(4);
    let mut unit = || {
        let values: Vec<f32> = (0..DIM).map(|_| random.random_range(-1.0..1.0)).collect();
        let length = values.iter().map(|x: &f32| x * x).sum::<f32>().sqrt();
        values.into_iter().map(|x| x / length).collect::<Vec<f32>>()
    };
    let backend = Postgres::open(&PostgresConfig { exact_rows: 200, ..config("indexed") }, ("axes", DIM)).unwrap();
    let scope = scope();
    let records: Vec<Stored> = (0..3_000)
        .map(|i| {
            let kind = if i % 7 == 0 { Kind::Document } else { Kind::Code };
            Stored { record: record(&scope, kind, &format!("n{i}")), vector: unit() }
        })
        .collect();
    for records in records.chunks(1_000) {
        backend.put(records.to_vec()).unwrap();
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut found = 0;
    let queries = 40;
    for query in 0..queries {
        let query_vector = unit();
        let kinds = if query % 2 == 0 { vec![] } else { vec![Kind::Document] };
        let mut exact: Vec<(f32, RecordId)> = records
            .iter()
            .filter(|stored| kinds.is_empty() || kinds.contains(&stored.record.kind))
            .map(|stored| (dot(&stored.vector, &query_vector), stored.record.id))
            .collect();
        exact.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near = backend.nearest(&Selection { kinds, ..Selection::all(scope.clone()) }, &query_vector, 10).unwrap();
        assert_eq!(near.len(), 10);
        found += exact[..10].iter().filter(|(_, id)| near.iter().any(|candidate| candidate.id == *id)).count();
    }
    let recall = found as f32 / (10 * queries) as f32;
    assert!(recall >= 0.97, "recall@10 is {recall}");
}

/// The engine dies and comes back under a backend that stays.
#[test]
fn a_dead_engine_opens_the_breaker_and_a_living_one_closes_it() {
    let server = Server::start("postgres");
    let config = PostgresConfig {
        breaker: BreakerConfig { failures: 2, cooldown: Duration::from_millis(100) },
        ..PostgresConfig::at(Secret::new(&*server.url))
    };
    let backend = Postgres::open(&config, ("axes", DIM)).unwrap();
    opens_the_breaker_and_closes_it(&server, &backend, &|| backend.breaker());
}

#[test]
fn a_pool_that_is_used_up_says_so_and_is_no_failure_of_the_engine() {
    let pool = PoolConfig { size: 1, wait: Duration::ZERO };
    let breaker = BreakerConfig { failures: 1, ..BreakerConfig::default() };
    let backend = Postgres::open(&PostgresConfig { pool, breaker, ..config("pool") }, ("axes", DIM)).unwrap();
    a_pool_that_is_used_up_says_so(&backend, &|| backend.breaker());
}

#[test]
fn errors_name_the_cure_and_no_secret() {
    let good = server().url.clone();
    let check = |url: String, schema: &str, expected: &str| {
        let config = PostgresConfig { url: Secret::new(url.clone()), ..config(schema) };
        assert!(!format!("{config:?}").contains("horse"), "{config:?}");
        let error = Postgres::open(&config, ("axes", DIM)).err().unwrap_or_else(|| panic!("{expected}"));
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("horse") && !text.contains(&url), "{text}");
    };
    check(good.replace(PASSWORD, "wrong-horse"), "engram", "password authentication failed");
    check(good.replace("127.0.0.1:", "127.0.0.1:1"), "engram", "`memory.postgres_url`");
    check(format!("{good}?sslmode=require"), "engram", "TLS");
    check(format!("{good}?sslmode={PASSWORD}"), "engram", "`memory.postgres_url`: is not `postgresql://");
    check(format!("mysql://u:{PASSWORD}@h/d"), "engram", "`memory.postgres_url`");
    check(good.replace("/postgres", "/nowhere"), "engram", "\"nowhere\" does not exist");
    check(good, "x; DROP", "`memory.postgres_schema`");
}

#[test]
fn two_servers_see_each_others_writes_with_a_shared_cache_and_without() {
    let backend = || Arc::new(Postgres::open(&config("fleet"), ("axes", DIM)).unwrap());
    sees_the_others_writes(&[memory(backend(), None), memory(backend(), None)], false);
    let cache = || Arc::new(crate::redis::cache());
    sees_the_others_writes(&[memory(backend(), Some(cache())), memory(backend(), Some(cache()))], true);
}
