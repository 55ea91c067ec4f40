//! Records going in, and changing.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::backend::{Change, Selection, Stored, Written};
use crate::embedder::{Embedder, Side};
use crate::error::{MemoryError, Result};
use crate::memory::Memory;
use crate::observer::Operation;
use crate::query::{Lifetime, NewRecord, Patch};
use crate::record::{Feedback, Kind, Provenance, Record, RecordId, Timestamp};
use crate::redact::redact_json;
use crate::scope::Partition;

impl Memory {
    /// Remembers records; when it returns, they are durable and found. One outcome each, in order.
    ///
    /// The same content in the same scope and kind is the same record, seen again. So is a near-copy: one whose
    /// vector is that of a record of the same scope and kind ([`crate::config::Weights::near_copy`]) and that says
    /// the same but for white space and closing full stops. What differs in a single word or number is a fact of its
    /// own and is kept; recall then sees to it that such records do not crowd the hits. Source is never taken for a
    /// copy, nor is anything pinned.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] or [`MemoryError::Invalid`] with the record's place, before anything is written; the
    /// encoder's and the backend's.
    pub fn remember(&self, records: Vec<NewRecord>) -> Result<Vec<Written>> {
        let kind = records.first().map(|record| record.kind);
        let kind = kind.filter(|&kind| records.iter().all(|record| record.kind == kind));
        self.watched(Operation::Remember, kind, || {
            let limit = self.config.limits.records;
            if records.len() > limit {
                return Err(MemoryError::TooLarge { what: "list in records", size: records.len(), limit });
            }
            for (i, record) in records.iter().enumerate() {
                self.check_content(&record.content, &format!("records[{i}].content"))?;
                self.check_metadata(&record.metadata)?;
            }
            let now = Timestamp::now();
            let records = records.into_iter().map(|record| self.record(record, now)).collect();
            let encoder = self.encoder();
            let stored = self.with_vectors(records, encoder.as_ref())?;
            let stored = stored.into_iter().map(|new| self.or_near_copy(new)).collect::<Result<Vec<_>>>()?;
            let mut partitions: Vec<Partition> = Vec::new();
            for new in &stored {
                if !partitions.contains(&new.record.scope.partition) {
                    partitions.push(new.record.scope.partition.clone());
                }
            }
            let written = self.backend.put(stored);
            drop(encoder);
            // Also after a failure, for a part may have been written.
            partitions.iter().for_each(|partition| self.written(partition));
            written
        })
    }

    /// Changes a record. Its id stays, and what it said before is still read by `as_of`.
    ///
    /// # Errors
    /// [`MemoryError::NotFound`]; as [`Memory::remember`].
    pub fn update(&self, partition: &Partition, id: RecordId, patch: Patch) -> Result<Record> {
        self.watched(Operation::Update, None, || {
            let encoder = self.encoder();
            let content = match patch.content {
                None => None,
                Some(content) => {
                    self.check_content(&content, "content")?;
                    let content = self.redact(content);
                    let mut vectors = encoder.embed(&[&content], Side::Document)?;
                    let vector = vectors.pop().ok_or_else(|| short_answer(1, 0))?;
                    Some((content, vector))
                }
            };
            let metadata = match patch.metadata {
                None => None,
                Some(metadata) => {
                    self.check_metadata(&metadata)?;
                    Some(self.redact_metadata(metadata))
                }
            };
            let expires = match patch.lifetime {
                None => None,
                Some(lifetime) => {
                    let record = self.backend.get(partition, id, None)?.ok_or(MemoryError::NotFound(id))?;
                    Some(self.expiry(lifetime, record.kind, Timestamp::now()))
                }
            };
            let feedback = patch.useful.map(feedback);
            let change = Change { content, metadata, expires, pinned: patch.pinned, feedback, provenance: None };
            let changed = self.backend.change(partition, id, change);
            self.written(partition);
            changed
        })
    }

    /// Says where records are now, in place of what was said. Neither text nor version changes, so nothing is embedded.
    /// How many there were; ids that are not there are passed over.
    ///
    /// # Errors
    /// The backend's; what was changed before it stays.
    pub fn relocate(&self, partition: &Partition, moved: Vec<(RecordId, Provenance)>) -> Result<u64> {
        self.watched(Operation::Update, None, || {
            let mut count = 0;
            let mut outcome = Ok(());
            for (id, provenance) in moved {
                let change = Change { provenance: Some(provenance), ..Change::default() };
                match self.backend.change(partition, id, change) {
                    Ok(_) => count += 1,
                    Err(MemoryError::NotFound(_)) => {}
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            self.written(partition);
            outcome.map(|()| count)
        })
    }

    /// Says that a record was useful, or wrong: the next searches rank it higher, or lower.
    ///
    /// # Errors
    /// [`MemoryError::NotFound`]; the backend's.
    pub fn feedback(&self, partition: &Partition, id: RecordId, useful: bool) -> Result<Record> {
        self.update(partition, id, Patch { useful: Some(useful), ..Patch::default() })
    }

    fn check_content(&self, content: &str, field: &str) -> Result<()> {
        let limit = self.config.limits.content_bytes;
        if content.len() > limit {
            return Err(MemoryError::TooLarge { what: "content in bytes", size: content.len(), limit });
        }
        if content.trim().is_empty() {
            let message = "is empty, there is nothing to remember".to_owned();
            return Err(MemoryError::Invalid { field: field.to_owned(), message });
        }
        Ok(())
    }

    fn check_metadata(&self, metadata: &Map<String, Value>) -> Result<()> {
        let limit = self.config.limits.metadata_bytes;
        let size =
            if metadata.is_empty() { 0 } else { serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len()) };
        if size > limit {
            return Err(MemoryError::TooLarge { what: "metadata in bytes", size, limit });
        }
        Ok(())
    }

    fn redact(&self, text: String) -> String {
        match self.redactor.redact(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => clean,
        }
    }

    fn redact_metadata(&self, mut metadata: Map<String, Value>) -> Map<String, Value> {
        metadata.values_mut().for_each(|value| redact_json(self.redactor.as_ref(), value));
        metadata
    }

    fn expiry(&self, lifetime: Lifetime, kind: Kind, now: Timestamp) -> Option<Timestamp> {
        let lifetime = match lifetime {
            Lifetime::OfKind => self.config.lifetimes.of(kind),
            Lifetime::Forever => None,
            Lifetime::For(time) => Some(time),
        };
        lifetime.map(|time| Timestamp(now.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))))
    }

    /// A record as it will be stored, were it new.
    fn record(&self, new: NewRecord, now: Timestamp) -> Record {
        let expires = self.expiry(new.lifetime, new.kind, now);
        let content = self.redact(new.content);
        Record {
            metadata: self.redact_metadata(new.metadata),
            provenance: new.provenance,
            expires,
            pinned: new.pinned,
            ..Record::new(new.scope, new.kind, content, now)
        }
    }

    /// Records with their vectors; those that are there already bring theirs, so that writing a tree again costs the
    /// encoder nothing.
    fn with_vectors(&self, records: Vec<Record>, encoder: &dyn Embedder) -> Result<Vec<Stored>> {
        let mut by_partition: HashMap<&Partition, Vec<RecordId>> = HashMap::new();
        for record in &records {
            by_partition.entry(&record.scope.partition).or_default().push(record.id);
        }
        let mut known: HashMap<RecordId, (String, Vec<f32>)> = HashMap::new();
        for (partition, ids) in by_partition {
            for stored in self.backend.get_many(partition, &ids)? {
                known.insert(stored.record.id, (stored.record.content_hash, stored.vector));
            }
        }
        let vector_of = |record: &Record| {
            let (hash, vector) = known.get(&record.id)?;
            (*hash == record.content_hash && vector.len() == encoder.dim()).then(|| vector.clone())
        };
        let mut vectors: Vec<Option<Vec<f32>>> = records.iter().map(vector_of).collect();
        let missing: Vec<usize> = (0..records.len()).filter(|&i| vectors[i].is_none()).collect();
        for batch in missing.chunks(self.config.limits.embed_batch) {
            let texts: Vec<&str> = batch.iter().map(|&i| records[i].content.as_str()).collect();
            let made = encoder.embed(&texts, Side::Document)?;
            if made.len() != texts.len() {
                return Err(short_answer(texts.len(), made.len()));
            }
            for (&i, vector) in batch.iter().zip(made) {
                vectors[i] = Some(vector);
            }
        }
        let pairs = records.into_iter().zip(vectors);
        Ok(pairs.filter_map(|(record, vector)| Some(Stored { record, vector: vector? })).collect())
    }

    /// `new`, or the record that it is a near-copy of.
    fn or_near_copy(&self, new: Stored) -> Result<Stored> {
        let Record { scope, kind, pinned, content, .. } = &new.record;
        if *kind == Kind::Code || *pinned {
            return Ok(new);
        }
        let selection = Selection { scope: scope.clone(), kinds: vec![*kind], filter: None };
        let near = self.backend.nearest(&selection, &new.vector, 3)?;
        let near = near.into_iter().filter(|candidate| candidate.score >= self.config.weights.near_copy);
        let ids: Vec<RecordId> = near.map(|candidate| candidate.id).collect();
        if ids.is_empty() || ids.contains(&new.record.id) {
            return Ok(new);
        }
        let there = self.backend.get_many(&scope.partition, &ids)?;
        // A record whose content has changed no longer has the id of its content, and is not met by writing it again.
        let same = |old: &Stored| {
            old.record.scope == *scope
                && says_the_same(&old.record.content, content)
                && old.record.id == RecordId::of(scope, *kind, &old.record.content, 0)
        };
        Ok(match there.into_iter().find(same) {
            None => new,
            Some(old) => Stored { record: Record { expires: new.record.expires, ..old.record }, vector: old.vector },
        })
    }
}

/// Equal but for white space and closing full stops. Case and all other signs may be what a fact turns on.
fn says_the_same(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned();
    plain(a) == plain(b)
}

fn feedback(useful: bool) -> Feedback {
    Feedback { useful: u32::from(useful), wrong: u32::from(!useful) }
}

fn short_answer(asked: usize, got: usize) -> MemoryError {
    MemoryError::Embed { texts: asked, source: format!("the encoder gave {got} vectors for {asked} texts").into() }
}
