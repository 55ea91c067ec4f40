//! The memory inside the server's own process: the store, and indexes over it in memory.
//!
//! Every record of a partition is in its indexes when a write returns; a partition is loaded from the store when it is
//! first asked, and at most so many stay loaded. Nothing of the indexes is needed to open a store.

mod archive;
mod encoder;
mod graphs;
mod jsonl;
mod part;
mod plan;
mod reembed;
mod repair;
mod resident;
mod search;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use archive::{Contents, restore};
pub use encoder::EncoderId;
pub use jsonl::Imported;
pub use reembed::Reembedding;
pub use repair::Repaired;

use crate::backend::vector::check_vector;
use crate::backend::{Backend, BackendStats, Candidate, Change, CompiledSelection, Forget, Selection, Stored, Written};
use crate::error::{MemoryError, Result};
use crate::index::IndexParams;
use crate::lexical::LexicalParams;
use crate::record::{Kind, Record, RecordId, Timestamp};
use crate::scope::{Name, Partition};
use crate::store::keys::{self, PartitionId};
use crate::store::tree::Tree;
use crate::store::{FORMAT, Store, StoreConfig, value};
use encoder::{Encoders, Slotted};
use part::Params;
use resident::Resident;

/// Records of one commit where many are removed: a kill between two leaves a forget half done and not acknowledged.
const CHUNK: usize = 4096;

/// Sizes and times of an embedded memory.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedConfig {
    /// The store's.
    pub store: StoreConfig,
    /// Partitions that are kept in memory at most.
    pub partitions: usize,
    /// Constants of the vectors' graph.
    pub index: IndexParams,
    /// Candidates that a search of it keeps on the way, at least `k`: more find more and take longer.
    pub ef_search: usize,
    /// Constants of BM25.
    pub lexical: LexicalParams,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            store: StoreConfig::default(),
            partitions: 32,
            index: IndexParams::default(),
            ef_search: 64,
            lexical: LexicalParams::default(),
        }
    }
}

/// The embedded backend.
pub struct Embedded {
    store: Store,
    resident: Arc<Resident>,
    ef_search: usize,
    /// Whose vectors are handed in; `None` when opened without an encoder, for whatever is in use.
    configured: RwLock<Option<EncoderId>>,
    /// Held by whoever fills the other slot with another encoder's vectors.
    reembedding: Mutex<()>,
}

impl Embedded {
    /// Opens the memory in `dir`, or creates it for `encoder`.
    ///
    /// With `None` it is opened for whatever encoder it was made with, which a new one has not: for tools that write
    /// no vectors of their own, and for [`Embedded::reembed`].
    ///
    /// # Errors
    /// [`MemoryError::EncoderMismatch`], [`MemoryError::Format`], and those of [`Store::open`].
    pub fn open(dir: &Path, encoder: Option<&EncoderId>, config: EmbeddedConfig) -> Result<Self> {
        let resident =
            Arc::new(Resident::new(config.partitions, Params { index: config.index, lexical: config.lexical }));
        let noted = resident.clone();
        let store = Store::open(dir, config.store, Arc::new(move |ops| noted.note(ops)))?;
        let (configured, ef_search) = (RwLock::new(encoder.cloned()), config.ef_search);
        let memory = Self { store, resident, ef_search, configured, reembedding: Mutex::default() };
        let tree = memory.store.tree();
        check_format(&tree)?;
        let encoders = Encoders::of_tree(&tree)?;
        memory.resident.set_slot(encoders.active_slot);
        match (&encoders.active, encoder) {
            (Some(_), Some(configured)) => encoders.check(configured)?,
            (Some(_), None) => {}
            (None, Some(configured)) => memory.create(configured.clone())?,
            (None, None) => {
                let message = format!("{} holds no memory yet: name the encoder to create one", dir.display());
                return Err(MemoryError::Invalid { field: "memory.encoder".to_owned(), message });
            }
        }
        memory.clear_left_over(&encoders)?;
        Ok(memory)
    }

    fn create(&self, encoder: EncoderId) -> Result<()> {
        self.store.write(move |view| {
            view.set_json(keys::FORMAT.to_vec(), &FORMAT);
            view.set_json(keys::ENCODER.to_vec(), &Slotted { encoder, slot: 0 });
            Ok(())
        })
    }

    /// Whose vectors are searched.
    pub fn encoder(&self) -> Result<EncoderId> {
        Encoders::of_tree(&self.store.tree())?.active.ok_or(MemoryError::Closed)
    }

    /// Whose vectors are taken.
    ///
    /// # Errors
    /// [`MemoryError::EncoderMismatch`] if records were embedded anew with another since this was opened.
    fn writing_encoder(&self) -> Result<EncoderId> {
        let encoders = Encoders::of_tree(&self.store.tree())?;
        if let Some(configured) = &*self.configured.read().unwrap_or_else(PoisonError::into_inner) {
            encoders.check(configured)?;
        }
        encoders.active.ok_or(MemoryError::Closed)
    }

    /// From now on this encoder's vectors are handed in.
    fn use_encoder(&self, encoder: EncoderId) {
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = Some(encoder);
    }

    /// Copies what is live into fresh files; afterwards no file holds what was forgotten.
    ///
    /// # Errors
    /// [`MemoryError::Corrupt`] if a value fails its checksum, [`MemoryError::DiskFull`] without room for the copy.
    pub fn compact(&self) -> Result<()> {
        self.store.compact()
    }

    /// Whether its directory takes no writes, so that it only serves reads.
    pub fn read_only(&self) -> bool {
        self.store.read_only()
    }

    fn number(&self, tree: &Tree, partition: &Partition) -> Result<Option<PartitionId>> {
        let key = keys::partition_name(partition);
        let Some(sealed) = tree.get(&key)? else { return Ok(None) };
        Ok(Some(value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?))
    }

    /// Partitions by name, of one tenant or of all.
    fn partitions(&self, tree: &Tree, tenant: Option<&Name>) -> Result<Vec<(PartitionId, Partition)>> {
        let mut found = Vec::new();
        for pair in tree.scan(keys::PARTITIONS, &[]) {
            let (key, sealed) = pair?;
            let partition: Partition = value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
            let number = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
            if let Some(number) = number
                && tenant.is_none_or(|tenant| *tenant == partition.tenant)
            {
                found.push((number, partition));
            }
        }
        Ok(found)
    }

    /// Ids of all records of a partition, in order, that `selection` takes.
    fn ids(&self, tree: &Tree, number: PartitionId, selection: Option<&CompiledSelection>) -> Result<Vec<RecordId>> {
        let mut ids = Vec::new();
        for pair in tree.scan(&keys::all(b'r', number), &[]) {
            let (key, sealed) = pair?;
            let wanted = match selection {
                None => true,
                Some(selection) => selection.matches(&record_of(tree, &key, &sealed)?),
            };
            ids.extend(keys::parse_id(&key).filter(|_| wanted).map(|(_, id)| id));
        }
        Ok(ids)
    }

    fn forget_ids(&self, number: PartitionId, ids: &[RecordId], selection: Option<&CompiledSelection>) -> Result<u64> {
        let mut gone = 0;
        for chunk in ids.chunks(CHUNK) {
            let (chunk, selection) = (chunk.to_vec(), selection.cloned());
            gone += self.store.write(move |view| plan::forget(view, number, &chunk, selection.as_ref()))?;
        }
        if gone > 0 {
            self.resident.unsave(&self.store, number);
        }
        Ok(gone)
    }

    fn forget_tenant(&self, tenant: &Name) -> Result<u64> {
        let tree = self.store.tree();
        let mut gone = 0;
        for (number, partition) in self.partitions(&tree, Some(tenant))? {
            let ids = self.ids(&tree, number, None)?;
            gone += self.forget_ids(number, &ids, None)?;
            self.store.write(move |view| plan::forget_partition(view, number, &partition))?;
        }
        Ok(gone)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if !self.read_only() {
            // What was not written is built at the next open.
            let _ = self.resident.save(&self.store, |unsaved, _| unsaved > 0);
        }
    }
}

/// The record under `key`.
fn record_of(tree: &Tree, key: &[u8], sealed: &[u8]) -> Result<Record> {
    Ok(value::unseal_json(key, sealed).ok_or_else(|| tree.damaged(key))?)
}

fn check_format(tree: &Tree) -> Result<()> {
    let Some(sealed) = tree.get(keys::FORMAT)? else { return Ok(()) };
    let found: u32 = value::unseal_json(keys::FORMAT, &sealed).ok_or_else(|| tree.damaged(keys::FORMAT))?;
    if found != FORMAT {
        return Err(MemoryError::Format { path: tree.path().to_owned(), found, known: FORMAT });
    }
    Ok(())
}

impl Backend for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn put(&self, records: Vec<Stored>) -> Result<Vec<Written>> {
        let encoder = self.writing_encoder()?;
        records.iter().try_for_each(|stored| check_vector(encoder.dim, &stored.vector))?;
        let now = Timestamp::now();
        self.store.write(move |view| {
            // Again, where no other plan can come between.
            Encoders::read(view)?.check(&encoder)?;
            records.into_iter().map(|stored| plan::put(view, stored, now)).collect()
        })
    }

    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>> {
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, partition)? else { return Ok(None) };
        let key = keys::record(number, id);
        let Some(sealed) = tree.get(&key)? else { return Ok(None) };
        let record = record_of(&tree, &key, &sealed)?;
        if record.expired(Timestamp::now()) {
            return Ok(None);
        }
        search::as_it_stood(&tree, number, record, as_of)
    }

    fn get_many(&self, partition: &Partition, ids: &[RecordId]) -> Result<Vec<Stored>> {
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, partition)? else { return Ok(Vec::new()) };
        let slot = Encoders::of_tree(&tree)?.active_slot;
        let now = Timestamp::now();
        let mut found = Vec::with_capacity(ids.len());
        for &id in ids {
            let key = keys::record(number, id);
            let Some(sealed) = tree.get(&key)? else { continue };
            let record = record_of(&tree, &key, &sealed)?;
            if !record.expired(now) {
                let vector = search::vector(&tree, keys::vector(slot, number, id))?;
                found.push(Stored { record, vector });
            }
        }
        Ok(found)
    }

    fn change(&self, partition: &Partition, id: RecordId, change: Change) -> Result<Record> {
        let mut encoder = None;
        if let Some((_, vector)) = &change.content {
            let writing = self.writing_encoder()?;
            check_vector(writing.dim, vector)?;
            encoder = Some(writing);
        }
        let partition = partition.clone();
        self.store.write(move |view| {
            if let Some(encoder) = encoder {
                Encoders::read(view)?.check(&encoder)?;
            }
            plan::change(view, &partition, id, change, Timestamp::now())
        })
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        let tree = self.store.tree();
        let in_partition = |partition: &Partition| self.number(&tree, partition);
        match what {
            Forget::Ids(partition, ids) => match in_partition(partition)? {
                Some(number) => self.forget_ids(number, ids, None),
                None => Ok(0),
            },
            Forget::Matching(selection) => {
                let compiled = selection.compile()?;
                let Some(number) = in_partition(&selection.scope.partition)? else { return Ok(0) };
                let ids = self.ids(&tree, number, Some(&compiled))?;
                self.forget_ids(number, &ids, Some(&compiled))
            }
            Forget::Tenant(tenant) => self.forget_tenant(tenant),
        }
    }

    fn expire(&self, now: Timestamp) -> Result<u64> {
        let mut due = Vec::new();
        for pair in self.store.tree().scan(keys::EXPIRY, &[]) {
            let Some((at, partition, id)) = keys::parse_expiry(&pair?.0) else { continue };
            if at > now.0 {
                break;
            }
            due.push((partition, id));
        }
        let mut gone = 0;
        for chunk in due.chunks(CHUNK) {
            let chunk = chunk.to_vec();
            gone += self.store.write(move |view| plan::expire(view, &chunk, now))?;
        }
        Ok(gone)
    }

    fn nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        check_vector(self.writing_encoder()?.dim, vector)?;
        self.find_nearest(selection, vector, k)
    }

    fn lexical(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.search(selection, |part, _, accept| Ok(part.words.search(text, k, accept)))
    }

    fn literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        self.find_literal(selection, text, k)
    }

    fn scan(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        self.scan_page(selection, as_of, after, limit)
    }

    fn stats(&self, partition: Option<&Partition>) -> Result<BackendStats> {
        let tree = self.store.tree();
        let numbers: Vec<PartitionId> = match partition {
            Some(partition) => self.number(&tree, partition)?.into_iter().collect(),
            None => self.partitions(&tree, None)?.into_iter().map(|(number, _)| number).collect(),
        };
        let mut stats = BackendStats { disk_bytes: self.store.disk_bytes(), ..BackendStats::default() };
        for &number in &numbers {
            for kind in Kind::ALL {
                let key = keys::count(number, kind.as_str());
                let Some(sealed) = tree.get(&key)? else { continue };
                let count: u64 = value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
                if count > 0 {
                    *stats.records.entry(kind.as_str().to_owned()).or_default() += count;
                }
            }
        }
        self.resident.each_loaded(|number, part| {
            if numbers.contains(&number) {
                stats.vectors += part.vectors.len() as u64;
                stats.tombstones += part.vectors.tombstones() as u64;
                stats.index_bytes += part.bytes() as u64;
            }
        });
        Ok(stats)
    }

    /// Writes the graphs that changed much since they were written last, so that an end without a close costs the next
    /// open little.
    fn upkeep(&self) -> Result<()> {
        if self.read_only() { Ok(()) } else { self.resident.save_now_and_then(&self.store) }
    }

    fn health(&self) -> Result<()> {
        Ok(self.store.tree().applied().map(drop)?)
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
