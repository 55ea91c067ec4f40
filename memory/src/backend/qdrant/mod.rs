//! Qdrant as one memory for a fleet, by its REST API (1.17 or newer).
//!
//! **It never met a running Qdrant.** No package carries the server, so its tests are against a stand-in that
//! speaks the documented API: Qdrant's own Python client, whose models refuse unknown fields and whose local mode
//! says what filters, conditional updates and searches mean. What that cannot show: behaviour under replication,
//! load and restart, the HNSW index (the local mode compares everything), time limits, and speed.
//!
//! One collection an encoder and dimension, one point a record with all its past in the payload. Tenant and domain
//! stand in every filter, and every point that comes back is checked again. Words and facts are numbers salted with
//! the partition. A collection keeps writes in a log of its own; how often that is synced to disk is Qdrant's
//! setting.
//!
//! Limits, where PostgreSQL has none: a record grows with each version; to forget by a filter reads first and deletes
//! then, so a record that is changed in between goes all the same; a count of what was forgotten or expired is
//! taken just before; a write is given up after 64 rounds against others of the same record. With replicas, writes
//! go through the permanent leader (`ordering=strong`), and reads before a write ask the majority.

mod client;
mod collection;
mod filter;
mod point;
mod search;
mod words;
mod write;

use std::time::Duration;

use self::client::{Client, Session};
use super::breaker::{Breaker, BreakerConfig, BreakerState};
use super::pool::PoolConfig;
use super::secret::Secret;
use super::vector::check_vector;
use super::{Backend, BackendStats, Candidate, Change, Forget, Selection, Stored, Written};
use crate::error::Result;
use crate::record::{Record, RecordId, Timestamp};
use crate::scope::Partition;

const NAME: &str = "qdrant";

/// How Qdrant is reached.
#[derive(Debug, Clone)]
pub struct QdrantConfig {
    /// `http://host:6333`, or `https://`: the certificate is then checked against the system's roots.
    pub url: String,
    /// Sent as `api-key`; over `http://` it can be read on the way.
    pub api_key: Option<Secret>,
    /// First part of the collection's name; letters, digits and `-`.
    pub collection: String,
    /// Connections.
    pub pool: PoolConfig,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one request may take.
    pub timeout: Duration,
    /// Candidates that the vector index keeps while searching, at least.
    pub hnsw_ef: u32,
    /// When it is left alone.
    pub breaker: BreakerConfig,
}

impl QdrantConfig {
    /// The defaults, at `url`.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            collection: "engram".to_owned(),
            pool: PoolConfig::default(),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(30),
            hnsw_ef: 128,
            breaker: BreakerConfig::default(),
        }
    }
}

/// The backend.
pub struct Qdrant {
    client: Client,
    breaker: Breaker,
    collection: String,
    /// Path of the collection's points.
    points: String,
    dim: usize,
    hnsw_ef: u32,
}

impl Qdrant {
    /// Connects, makes the collection of `encoder` (name, dimension) where there is none, and checks it.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] for a URL or collection name that is none, [`MemoryError::EncoderMismatch`] if there
    /// is a collection of another encoder and none of this, and [`MemoryError::Backend`] if it cannot be reached,
    /// refuses the key, is too old, or the collection is another's.
    pub fn open(config: &QdrantConfig, encoder: (&str, usize)) -> Result<Self> {
        let client = Client::new(config)?;
        let collection = collection::open(&mut client.session()?, config, encoder)?;
        let points = format!("/collections/{collection}/points");
        let breaker = Breaker::new(NAME, config.breaker);
        Ok(Self { client, breaker, collection, points, dim: encoder.1, hnsw_ef: config.hnsw_ef })
    }

    /// What the breaker does with the next call.
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    fn run<T>(&self, work: impl FnOnce(&mut Session<'_>, &str) -> Result<T>) -> Result<T> {
        self.breaker.call(|| work(&mut self.client.session()?, &self.points))
    }
}

impl Backend for Qdrant {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put(&self, records: Vec<Stored>) -> Result<Vec<Written>> {
        records.iter().try_for_each(|stored| check_vector(self.dim, &stored.vector))?;
        self.run(|session, points| write::put(session, points, records, Timestamp::now()))
    }

    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>> {
        self.run(|session, points| search::get(session, points, (partition, id), as_of, Timestamp::now()))
    }

    fn get_many(&self, partition: &Partition, ids: &[RecordId]) -> Result<Vec<Stored>> {
        self.run(|session, points| search::get_many(session, points, partition, ids, Timestamp::now()))
    }

    fn change(&self, partition: &Partition, id: RecordId, change: Change) -> Result<Record> {
        if let Some((_, vector)) = &change.content {
            check_vector(self.dim, vector)?;
        }
        self.run(|session, points| write::change(session, points, (partition, id), &change, Timestamp::now()))
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        self.run(|session, points| write::forget(session, points, what))
    }

    fn expire(&self, now: Timestamp) -> Result<u64> {
        self.run(|session, points| write::expire(session, points, now))
    }

    fn nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        check_vector(self.dim, vector)?;
        let (wanted, ef) = ((k, Timestamp::now()), self.hnsw_ef);
        self.run(|session, points| search::nearest(session, points, selection, vector, wanted, ef))
    }

    fn lexical(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.run(|session, points| search::lexical(session, points, selection, text, (k, Timestamp::now())))
    }

    fn literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.run(|session, points| search::literal(session, points, selection, text, (k, Timestamp::now())))
    }

    fn scan(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let times = (as_of, Timestamp::now());
        self.run(|session, points| search::scan(session, points, selection, times, after, limit))
    }

    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats> {
        let stats = self.run(|session, points| search::stats(session, points, partition, Timestamp::now()))?;
        Ok(BackendStats { pool: Some(self.client.usage()), ..stats })
    }

    fn shared(&self) -> bool {
        true
    }

    fn health(&self) -> Result<()> {
        self.run(|session, _| collection::health(session, &self.collection))
    }
}
