//! What of one partition is kept in memory: facts for filters, and the indexes.

use std::collections::HashMap;

use super::encoder::EncoderId;
use crate::exact::ExactIndex;
use crate::lexical::{LexicalIndex, LexicalParams, Words};
use crate::record::{Kind, Record, RecordId, Timestamp};
use crate::scope::{Name, Scope};
use crate::store::fault::Fault;
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::tree::Tree;
use crate::store::value;

/// What a search asks of every candidate; 40 bytes. The rest of a record is read from the store when a filter needs it.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    kind: Kind,
    pinned: bool,
    /// Numbers in the partition's table of names; 0 for none.
    project: u32,
    session: u32,
    expires: Option<Timestamp>,
}

/// One partition in memory.
pub struct Part {
    facts: HashMap<RecordId, Facts>,
    names: HashMap<Name, u32>,
    /// Vectors of the records.
    pub vectors: ExactIndex,
    /// Their words.
    pub words: LexicalIndex,
}

/// A scope and kinds, with names looked up once a search.
pub struct Wanted {
    project: Option<u32>,
    session: Option<u32>,
    kinds: Vec<Kind>,
    now: Timestamp,
}

impl Part {
    /// Reads a partition from the store.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] if a value fails its checksum.
    pub fn load(
        tree: &Tree,
        partition: PartitionId,
        encoder: &EncoderId,
        slot: Slot,
        params: LexicalParams,
    ) -> Result<Self, Fault> {
        let mut records: Vec<Record> = Vec::new();
        for pair in tree.scan(&keys::all(b'r', partition), &[]) {
            let (key, sealed) = pair?;
            records.push(value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?);
        }
        let words: Vec<_> = records.iter().map(|record| (record.id, Words::of(record))).collect();
        let words = LexicalIndex::build(params, &words);
        let mut part =
            Self { facts: HashMap::new(), names: HashMap::new(), vectors: ExactIndex::new(encoder.dim), words };
        for record in &records {
            part.note(record);
        }
        for pair in tree.scan(&keys::all_vectors(slot, partition), &[]) {
            let (key, sealed) = pair?;
            let vector = value::unseal_vector(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
            if let Some((_, _, id)) = keys::parse_vector(&key) {
                part.vectors.insert(id, &vector);
            }
        }
        Ok(part)
    }

    /// Takes a record in, or its new state.
    pub fn upsert(&mut self, record: &Record) {
        self.note(record);
        self.words.insert(record.id, Words::of(record));
    }

    /// Takes a record out.
    pub fn remove(&mut self, id: RecordId) {
        self.facts.remove(&id);
        self.vectors.remove(id);
        self.words.remove(id);
    }

    /// Live records.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        self.vectors.bytes() + self.words.bytes() + self.facts.capacity() * (size_of::<Facts>() + 17)
    }

    /// What a search of `scope` and `kinds` wants; `None` if nothing here can be it.
    pub fn wanted(&self, scope: &Scope, kinds: &[Kind], now: Timestamp) -> Option<Wanted> {
        let number = |name: &Option<Name>| match name {
            None => Some(None),
            Some(name) => self.names.get(name).map(|&number| Some(number)),
        };
        Some(Wanted {
            project: number(&scope.project)?,
            session: number(&scope.session)?,
            kinds: kinds.to_vec(),
            now,
        })
    }

    /// Whether a record is wanted, by its facts.
    pub fn accepts(&self, wanted: &Wanted, id: RecordId) -> bool {
        self.facts.get(&id).is_some_and(|facts| {
            wanted.project.is_none_or(|project| project == facts.project)
                && wanted.session.is_none_or(|session| session == facts.session)
                && (wanted.kinds.is_empty() || wanted.kinds.contains(&facts.kind))
                && (facts.pinned || facts.expires.is_none_or(|expires| expires > wanted.now))
        })
    }

    fn note(&mut self, record: &Record) {
        let project = self.number(record.scope.project.as_ref());
        let session = self.number(record.scope.session.as_ref());
        let Record { id, kind, pinned, expires, .. } = *record;
        self.facts.insert(id, Facts { kind, pinned, project, session, expires });
    }

    fn number(&mut self, name: Option<&Name>) -> u32 {
        let Some(name) = name else { return 0 };
        let next = u32::try_from(self.names.len() + 1).unwrap_or(u32::MAX);
        *self.names.entry(name.clone()).or_insert(next)
    }
}
