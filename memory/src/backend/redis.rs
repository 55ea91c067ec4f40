//! A cache that a fleet shares, in Redis: what one node recalled, another need not search for.
//!
//! Keys are `prefix:{partition}:generation:key`, hashed; a write in a partition gives it a new generation,
//! and what was kept under the old one is never read again and goes by its time to live. A cache is never a
//! reason to fail: whatever goes wrong is a miss, and an engine that fails is left alone by the breaker.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Connection, ConnectionLike, RedisError};
use sha2::{Digest, Sha256};

use super::breaker::{Breaker, BreakerConfig, BreakerState};
use super::pool::{Connect, Pool, PoolConfig};
use super::secret::{Secret, scrub};
use crate::error::{MemoryError, Result};
use crate::scope::Partition;

const NAME: &str = "redis";

/// Bytes of checksum before each value.
const CHECKSUM: usize = 16;

/// What a partition's cached answers belong to; a new one after each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u64);

impl Generation {
    /// As a number, for keys of caches.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A cache beside a memory. It may forget at any time, and it never fails: trouble is a miss.
pub trait SharedCache: Send + Sync {
    /// The partition's generation, to be asked for before the answer is looked up or computed: an answer that a
    /// write overtook is then kept where nobody looks. `None`: the cache is of no use now.
    fn generation(&self, partition: &Partition) -> Option<Generation>;

    /// What was kept for `key`.
    fn get(&self, partition: &Partition, generation: Generation, key: &[u8]) -> Option<Vec<u8>>;

    /// Keeps `value` for at most `ttl`.
    fn set(&self, partition: &Partition, generation: Generation, key: &[u8], value: &[u8], ttl: Duration);

    /// Nothing kept for this partition until now is given out again.
    fn invalidate(&self, partition: &Partition);
}

/// How Redis is reached.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/database`.
    pub url: Secret,
    /// First part of every key.
    pub prefix: String,
    /// Connections.
    pub pool: PoolConfig,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one answer may take; a cache that is slower than the search is no use.
    pub timeout: Duration,
    /// Largest value kept, bytes.
    pub max_value: usize,
    /// When it is left alone.
    pub breaker: BreakerConfig,
}

impl RedisConfig {
    /// The defaults, at `url`.
    pub fn at(url: Secret) -> Self {
        Self {
            url,
            prefix: "engram".to_owned(),
            pool: PoolConfig { size: 8, wait: Duration::from_millis(50) },
            connect_timeout: Duration::from_millis(500),
            timeout: Duration::from_millis(100),
            max_value: 1 << 20,
            breaker: BreakerConfig { failures: 3, cooldown: Duration::from_secs(5) },
        }
    }
}

struct Connector {
    client: redis::Client,
    config: RedisConfig,
    password: String,
}

impl Connector {
    fn failed(&self, error: &RedisError) -> MemoryError {
        let message = scrub(&error.to_string(), &[&self.password, self.config.url.expose()]);
        // An answer that is an error is no trouble of the connection.
        let retryable = error.is_io_error() || error.is_timeout() || error.is_connection_dropped();
        MemoryError::Backend { backend: NAME, message, retryable: retryable || error.is_unrecoverable_error() }
    }
}

impl Connect for Connector {
    type Connection = Connection;

    fn connect(&self) -> Result<Connection> {
        let connect = || {
            let connection = self.client.get_connection_with_timeout(self.config.connect_timeout)?;
            connection.set_read_timeout(Some(self.config.timeout))?;
            connection.set_write_timeout(Some(self.config.timeout))?;
            Ok(connection)
        };
        connect().map_err(|error| self.failed(&error))
    }

    fn broken(&self, connection: &Connection) -> bool {
        !connection.is_open()
    }

    fn answers(&self, connection: &mut Connection) -> bool {
        connection.check_connection()
    }
}

/// The cache.
pub struct RedisCache {
    pool: Pool<Connector>,
    breaker: Breaker,
    /// Partitions whose last write could not be told: nothing is read for them until it is. A mutex, held for
    /// a look-up.
    untold: Mutex<HashSet<Partition>>,
}

impl RedisCache {
    /// Made ready; nothing is connected yet, and Redis need not be there.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a URL that is none.
    pub fn new(config: RedisConfig) -> Result<Self> {
        let invalid = |_| MemoryError::Invalid {
            field: "memory.redis_url".to_owned(),
            message: "is not `redis://user:password@host:port/database`".to_owned(),
        };
        let client = redis::Client::open(config.url.expose()).map_err(invalid)?;
        let settings = client.get_connection_info().redis_settings();
        let password = settings.password().unwrap_or_default().to_owned();
        let breaker = Breaker::new(NAME, config.breaker);
        let pool = Pool::new((NAME, "memory.workers"), config.pool, Connector { client, config, password });
        Ok(Self { pool, breaker, untold: Mutex::new(HashSet::new()) })
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// What it says, or [`MemoryError::BreakerOpen`].
    pub fn health(&self) -> Result<()> {
        self.run::<String>(&redis::cmd("PING")).map(|_| ())
    }

    /// What the breaker does with the next call.
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Connections in use and at most.
    pub fn usage(&self) -> (u32, u32) {
        self.pool.usage()
    }

    fn run<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        self.breaker.call(|| {
            let mut connection = self.pool.get()?;
            command.query(&mut *connection).map_err(|error| self.pool.maker().failed(&error))
        })
    }

    /// The same partition's keys share a hash tag, and so a node of a cluster.
    fn key(&self, partition: &Partition, rest: &[&[u8]]) -> String {
        let names = [partition.tenant.as_str().as_bytes(), partition.domain.as_str().as_bytes()];
        let place = hex(&digest(&names)[..16]);
        let rest = if rest.is_empty() { "generation".to_owned() } else { hex(&digest(rest)[..16]) };
        format!("{}:{{{place}}}:{rest}", self.pool.maker().config.prefix)
    }

    fn renew(&self, partition: &Partition) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(self.key(partition, &[])).arg(fresh());
        self.run(&set)
    }

    fn untold(&self) -> std::sync::MutexGuard<'_, HashSet<Partition>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedCache for RedisCache {
    fn generation(&self, partition: &Partition) -> Option<Generation> {
        let late = self.untold().contains(partition);
        if late {
            self.renew(partition).ok()?;
            self.untold().remove(partition);
        }
        // Made where there is none; a lost generation is replaced by one that was never used.
        let mut set = redis::cmd("SET");
        set.arg(self.key(partition, &[])).arg(fresh()).arg("NX");
        let mut get = redis::cmd("GET");
        get.arg(self.key(partition, &[]));
        match self.run::<Option<u64>>(&get).ok()? {
            Some(generation) => Some(Generation(generation)),
            None => {
                self.run::<Option<String>>(&set).ok()?;
                self.run::<Option<u64>>(&get).ok()?.map(Generation)
            }
        }
    }

    fn get(&self, partition: &Partition, generation: Generation, key: &[u8]) -> Option<Vec<u8>> {
        let generation = generation.0.to_le_bytes();
        let mut get = redis::cmd("GET");
        get.arg(self.key(partition, &[&generation, key]));
        let kept = self.run::<Option<Vec<u8>>>(&get).ok()??;
        let (checksum, value) = kept.split_at_checked(CHECKSUM)?;
        (checksum == &digest(&[&generation, key, value])[..CHECKSUM]).then(|| value.to_vec())
    }

    fn set(&self, partition: &Partition, generation: Generation, key: &[u8], value: &[u8], ttl: Duration) {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(i64::MAX as u64 / 2);
        if value.len() > self.pool.maker().config.max_value || ttl == 0 {
            return;
        }
        let generation = generation.0.to_le_bytes();
        let mut kept = digest(&[&generation, key, value])[..CHECKSUM].to_vec();
        kept.extend_from_slice(value);
        let mut set = redis::cmd("SET");
        set.arg(self.key(partition, &[&generation, key])).arg(kept).arg("PX").arg(ttl);
        // Not kept is no harm: the next reader computes it again.
        let _ = self.run::<()>(&set);
    }

    fn invalidate(&self, partition: &Partition) {
        if self.renew(partition).is_err() {
            self.untold().insert(partition.clone());
        }
    }
}

/// A number that no generation had: 64 random bits.
fn fresh() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
