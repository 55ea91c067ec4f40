//! The shared cache, against a real Redis.

use std::sync::OnceLock;
use std::time::Duration;

use engram_memory::backend::breaker::{BreakerConfig, BreakerState};
use engram_memory::backend::redis::{RedisCache, RedisConfig, SharedCache};
use engram_memory::backend::{PoolConfig, Secret};

use crate::conformance::scope;
use crate::servers::{PASSWORD, Server};

const LONG: Duration = Duration::from_secs(600);

/// Patient, because test machines are slow; what is tested is not the time.
fn config(server: &Server) -> RedisConfig {
    let patient = Duration::from_secs(20);
    let pool = PoolConfig { size: 4, wait: patient };
    RedisConfig { pool, connect_timeout: patient, timeout: patient, ..RedisConfig::at(Secret::new(&*server.url)) }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("redis"))
}

/// A node's cache.
pub fn cache() -> RedisCache {
    RedisCache::new(config(server())).unwrap()
}

#[test]
fn keeps_what_it_was_given() {
    let (one, other, partition) = (cache(), cache(), scope().partition);
    let generation = one.generation(&partition).unwrap();
    assert_eq!(other.generation(&partition), Some(generation), "two nodes share it");
    let values = [vec![], b"hits".to_vec(), vec![0, 255, 13, 10], vec![7; 1 << 20]];
    for (i, value) in values.iter().enumerate() {
        let key = [i as u8, 0, b'\n'];
        assert_eq!(one.get(&partition, generation, &key), None);
        one.set(&partition, generation, &key, value, LONG);
        assert_eq!(other.get(&partition, generation, &key).as_ref(), Some(value));
    }
    one.set(&partition, generation, b"large", &vec![1; (1 << 20) + 1], LONG);
    assert_eq!(one.get(&partition, generation, b"large"), None);
    one.health().unwrap();
    assert_eq!(one.usage(), (0, 4));
}

#[test]
fn a_write_makes_the_old_answers_unreadable() {
    let (cache, partition, other) = (cache(), scope().partition, scope().partition);
    let [before, elsewhere] = [&partition, &other].map(|place| {
        let generation = cache.generation(place).unwrap();
        cache.set(place, generation, b"query", b"old", LONG);
        generation
    });
    cache.invalidate(&partition);
    let after = cache.generation(&partition).unwrap();
    assert_ne!(after, before);
    assert_eq!(cache.get(&partition, after, b"query"), None);
    // An answer computed before the write and kept after it.
    cache.set(&partition, before, b"query", b"old", LONG);
    assert_eq!(cache.get(&partition, after, b"query"), None);
    assert_eq!(cache.get(&other, elsewhere, b"query").as_deref(), Some(&b"old"[..]));
}

#[test]
fn partitions_do_not_share_answers() {
    let (cache, here, there) = (cache(), scope().partition, scope().partition);
    let generation = cache.generation(&here).unwrap();
    cache.set(&here, generation, b"query", b"mine", LONG);
    assert_eq!(cache.get(&there, generation, b"query"), None);
}

#[test]
fn answers_go_with_time_and_damaged_ones_are_not_given_out() {
    let (cache, partition) = (cache(), scope().partition);
    let generation = cache.generation(&partition).unwrap();
    cache.set(&partition, generation, b"short", b"x", Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(cache.get(&partition, generation, b"short"), None);

    cache.set(&partition, generation, b"long", b"value", LONG);
    let mut raw = redis::Client::open(&*server().url).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("engram:*").query(&mut raw).unwrap();
    assert!(!keys.is_empty());
    for key in keys.iter().filter(|key| !key.ends_with(":generation")) {
        redis::cmd("SETRANGE").arg(key).arg(3).arg("!!!!").exec(&mut raw).unwrap();
    }
    assert_eq!(cache.get(&partition, generation, b"long"), None);
}

#[test]
fn a_dead_cache_is_a_miss_and_a_write_it_missed_is_told_later() {
    let server = Server::start("redis");
    let breaker = BreakerConfig { failures: 2, cooldown: Duration::from_millis(50) };
    let cache = RedisCache::new(RedisConfig { breaker, ..config(&server) }).unwrap();
    let partition = scope().partition;
    let generation = cache.generation(&partition).unwrap();
    server.stop();
    cache.set(&partition, generation, b"query", b"x", LONG);
    cache.invalidate(&partition);
    assert_eq!(cache.get(&partition, generation, b"query"), None);
    assert_eq!(cache.generation(&partition), None);
    assert_eq!(cache.breaker(), BreakerState::Open);
    server.start_again();
    std::thread::sleep(Duration::from_millis(60));
    let after = cache.generation(&partition).expect("it is back");
    assert_ne!(after, generation, "the write that it missed");
    assert_eq!(cache.breaker(), BreakerState::Closed);
}

#[test]
fn errors_hold_no_secret() {
    let good = config(server());
    assert!(!format!("{good:?}").contains("horse"));
    let bad = good.url.expose().replace(PASSWORD, "wrong-horse");
    let error = RedisCache::new(RedisConfig { url: Secret::new(bad), ..good.clone() }).unwrap().health().unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("redis") && !text.contains("horse"), "{text}");
    let none = RedisConfig { url: Secret::new(format!("http://:{PASSWORD}@h")), ..good };
    let error = RedisCache::new(none).err().unwrap();
    let text = format!("{error} {error:?}");
    assert!(text.contains("memory.redis_url") && !text.contains("horse"), "{text}");
}
