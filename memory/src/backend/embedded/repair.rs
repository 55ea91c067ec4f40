//! Repairs a damaged memory: the store's values are salvaged, then everything that follows from records is made anew.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::encoder::EncoderId;
use super::{Embedded, EmbeddedConfig, plan};
use crate::error::Result;
use crate::record::{Record, RecordId};
use crate::store::keys::{self, PartitionId};
use crate::store::{repair, value};

/// What a repair kept and lost.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// Records that are there.
    pub kept: u64,
    /// Records that were there, by the count that every checkpoint and every commit keeps, and that could not be read.
    pub lost: u64,
    /// Records that are there but are not found by meaning until they are written again: their vector was lost.
    pub without_vector: u64,
    /// Stretches of base and log that could not be read; where the database was whole nothing of them is lost.
    pub log_gaps: u64,
    /// Where the damaged files lie; remove them when they are not needed.
    pub damaged: PathBuf,
}

impl Embedded {
    /// Repairs the memory in `dir`, which nobody has open. `encoder` is needed where the damage took its name.
    ///
    /// # Errors
    /// [`crate::MemoryError::Locked`]; what the disk refuses; those of [`Embedded::open`].
    pub fn repair(dir: &Path, encoder: Option<&EncoderId>) -> Result<Repaired> {
        let salvaged = repair::repair(dir)?;
        for entry in dir.read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("vectors.") {
                // Built anew when it is first asked.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let memory = Self::open(dir, encoder, EmbeddedConfig::default())?;
        let (kept, without_vector) = memory.derive_again()?;
        Ok(Repaired {
            kept,
            lost: salvaged.expected.saturating_sub(kept),
            without_vector,
            log_gaps: salvaged.log_gaps,
            damaged: salvaged.damaged,
        })
    }

    /// Makes the counts, the queue of expiry and the contents' holders again from the records, and the names of
    /// partitions that only records still tell. Records there, records without a vector.
    fn derive_again(&self) -> Result<(u64, u64)> {
        let tree = self.store.tree();
        let slot = super::Encoders::of_tree(&tree)?.active_slot;
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for pair in tree.scan(keys::COUNTS, &[]) {
            counts.insert(pair?.0.to_vec(), 0);
        }
        let mut named: HashSet<PartitionId> = HashSet::new();
        let (mut kept, mut without) = (0, 0);
        let mut batch: Vec<(PartitionId, Record)> = Vec::new();
        for pair in tree.scan(keys::RECORDS, &[]) {
            let (key, sealed) = pair?;
            let Some((partition, id)) = keys::parse_id(&key) else { continue };
            let record = super::record_of(&tree, &key, &sealed)?;
            kept += 1;
            without += u64::from(tree.get(&keys::vector(slot, partition, id))?.is_none());
            *counts.entry(keys::count(partition, record.kind.as_str())).or_default() += 1;
            named.insert(partition);
            batch.push((partition, record));
            if batch.len() == super::CHUNK {
                self.derive_batch(std::mem::take(&mut batch))?;
            }
        }
        self.derive_batch(batch)?;
        let next = named.iter().max().map_or(0, |most| most + 1);
        self.store.write(move |view| {
            counts.into_iter().for_each(|(key, count)| view.set_json(key, &count));
            let known: PartitionId = view.get_json(keys::NEXT_PARTITION)?.unwrap_or(0);
            view.set_json(keys::NEXT_PARTITION.to_vec(), &known.max(next));
            Ok(())
        })?;
        Ok((kept, without))
    }

    fn derive_batch(&self, batch: Vec<(PartitionId, Record)>) -> Result<()> {
        self.store.write(move |view| {
            for (partition, record) in &batch {
                view.set_json(keys::partition_name(&record.scope.partition), partition);
                view.set_json(keys::partition(*partition), &record.scope.partition);
                let content = keys::content(*partition, plan::content_id(record));
                if view.get_json::<RecordId>(&content)?.is_none() {
                    view.set_json(content, &record.id);
                }
                if let Some(key) = plan::expiry_key(*partition, record) {
                    let sealed = value::seal(&key, &[]);
                    view.set(key, sealed);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
