//! PostgreSQL with pgvector: one memory for a fleet.
//!
//! One table of records keyed by tenant, domain and id, one of their past. Vectors have an HNSW index, words
//! are BM25 over numbers in an array with a GIN index, filters become conditions on jsonb. Every statement
//! is parameterised. The driver runs a small runtime inside: call from a thread that may block, never from
//! an async task.

mod connect;
mod filter;
mod row;
mod schema;
mod search;
mod sql;
mod write;

use std::time::Duration;

use postgres::Transaction;

use self::connect::{Connector, collided};
use super::breaker::{Breaker, BreakerConfig, BreakerState};
use super::pool::{Pool, PoolConfig};
use super::secret::Secret;
use super::vector::check_vector;
use super::{Backend, BackendStats, Candidate, Change, Forget, Selection, Stored, Written};
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId, Timestamp};
use crate::scope::Partition;

const NAME: &str = "postgres";

/// Tries of a transaction that collides with others.
const TRIES: u32 = 8;

/// How PostgreSQL is reached.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgresql://user:password@host:port/database`. `sslmode=require` asks for TLS, with the certificate
    /// checked; `sslmode=disable` forbids it.
    pub url: Secret,
    /// The schema that holds the tables; made if it is not there.
    pub schema: String,
    /// Connections.
    pub pool: PoolConfig,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// Candidates that the vector index keeps while searching (`hnsw.ef_search`), 1 to 1000.
    pub ef_search: u32,
    /// Selected rows up to which `nearest` compares all of them: an index scan that must skip most of what it
    /// meets takes longer and finds less.
    pub exact_rows: u32,
    /// When it is left alone.
    pub breaker: BreakerConfig,
}

impl PostgresConfig {
    /// The defaults, at `url`.
    pub fn at(url: Secret) -> Self {
        Self {
            url,
            schema: "engram".to_owned(),
            pool: PoolConfig::default(),
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            ef_search: 100,
            exact_rows: 10_000,
            breaker: BreakerConfig::default(),
        }
    }
}

/// What went wrong in a transaction: the engine's word, or ours.
enum Fault {
    Engine(postgres::Error),
    Ours(MemoryError),
}

impl From<postgres::Error> for Fault {
    fn from(error: postgres::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<MemoryError> for Fault {
    fn from(error: MemoryError) -> Self {
        Self::Ours(error)
    }
}

/// The backend.
pub struct Postgres {
    pool: Pool<Connector>,
    breaker: Breaker,
    dim: usize,
    config: PostgresConfig,
}

impl Postgres {
    /// Connects, brings the tables up to date, and checks that they hold vectors of `encoder` (name, dimension).
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a URL or schema name that is none, [`MemoryError::EncoderMismatch`], and
    /// [`MemoryError::Backend`] if it cannot be reached or lacks pgvector.
    pub fn open(config: &PostgresConfig, encoder: (&str, usize)) -> Result<Self> {
        connect::schema_name(&config.schema)?;
        let connector = Connector::new(config)?;
        let pool = Pool::new((NAME, "memory.postgres_pool"), config.pool, connector);
        schema::migrate(&mut *pool.get()?, pool.maker(), &config.schema, encoder)?;
        let breaker = Breaker::new(NAME, config.breaker);
        Ok(Self { pool, breaker, dim: encoder.1, config: config.clone() })
    }

    /// What the breaker does with the next call.
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Runs `work` in a transaction; again if it collided with another.
    fn transact<T>(&self, work: impl Fn(&mut Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        self.breaker.call(|| {
            let mut connection = self.pool.get()?;
            let mut tries = 1;
            loop {
                let outcome = connection.transaction().map_err(Fault::Engine).and_then(|mut transaction| {
                    let value = work(&mut transaction)?;
                    transaction.commit()?;
                    Ok(value)
                });
                match outcome {
                    Ok(value) => return Ok(value),
                    Err(Fault::Engine(error)) if collided(&error) && tries < TRIES => tries += 1,
                    Err(Fault::Engine(error)) => return Err(self.pool.maker().failed(&error)),
                    Err(Fault::Ours(error)) => return Err(error),
                }
            }
        })
    }
}

impl Backend for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put(&self, records: Vec<Stored>) -> Result<Vec<Written>> {
        records.iter().try_for_each(|stored| check_vector(self.dim, &stored.vector))?;
        self.transact(|transaction| write::put(transaction, &records, Timestamp::now()))
    }

    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>> {
        self.transact(|transaction| search::get(transaction, (partition, id), as_of, Timestamp::now()))
    }

    fn get_many(&self, partition: &Partition, ids: &[RecordId]) -> Result<Vec<Stored>> {
        self.transact(|transaction| search::get_many(transaction, partition, ids, Timestamp::now()))
    }

    fn change(&self, partition: &Partition, id: RecordId, change: Change) -> Result<Record> {
        if let Some((_, vector)) = &change.content {
            check_vector(self.dim, vector)?;
        }
        self.transact(|transaction| write::change(transaction, (partition, id), &change, Timestamp::now()))
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        self.transact(|transaction| write::forget(transaction, what))
    }

    fn expire(&self, now: Timestamp) -> Result<u64> {
        self.transact(|transaction| write::expire(transaction, now))
    }

    fn nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        check_vector(self.dim, vector)?;
        let wanted = (k, Timestamp::now());
        self.transact(|transaction| search::nearest(transaction, selection, vector, wanted, &self.config))
    }

    fn lexical(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.transact(|transaction| search::lexical(transaction, selection, text, k, Timestamp::now()))
    }

    fn literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.transact(|transaction| search::literal(transaction, selection, text, k, Timestamp::now()))
    }

    fn scan(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let times = (as_of, Timestamp::now());
        self.transact(|transaction| search::scan(transaction, selection, times, after, limit))
    }

    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats> {
        let stats = self.transact(|transaction| search::stats(transaction, partition, Timestamp::now()))?;
        Ok(BackendStats { pool: Some(self.pool.usage()), ..stats })
    }

    fn shared(&self) -> bool {
        true
    }

    fn health(&self) -> Result<()> {
        self.transact(|transaction| Ok(transaction.batch_execute("SELECT FROM records LIMIT 1")?))
    }
}
