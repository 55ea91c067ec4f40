//! What of one partition is kept in memory: facts for filters, and the indexes.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use foldhash::fast::RandomState;

use super::encoder::EncoderId;
use crate::error::{MemoryError, Result};
use crate::filter::Outline;
use crate::index::{IndexParams, VectorIndex};
use crate::lexical::{LexicalIndex, LexicalParams, Words};
use crate::literal::LiteralIndex;
use crate::record::{Kind, Record, RecordId, Timestamp, Trust};
use crate::scope::{Name, Scope};
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::tree::Tree;
use crate::store::value;

/// Below this many dead vectors no rebuild is worth its while.
const MIN_DEAD: usize = 256;

/// What a search asks of every candidate; 72 bytes. The rest of a record is read from the store when a filter needs it.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    kind: Kind,
    trust: Trust,
    pinned: bool,
    version: u32,
    /// Numbers in the partition's table of names; 0 for none.
    project: u32,
    session: u32,
    created: Timestamp,
    updated: Timestamp,
    expires: Option<Timestamp>,
}

/// Ids of a project or of a session.
type Members = HashSet<RecordId, RandomState>;

/// One partition in memory.
pub struct Part {
    facts: HashMap<RecordId, Facts, RandomState>,
    /// Numbers of names, from 1, and the names by number.
    numbers: HashMap<Name, u32>,
    names: Vec<Name>,
    /// Who is in a project, or in a session.
    projects: HashMap<u32, Members>,
    sessions: HashMap<u32, Members>,
    /// Vectors of the records; shared with whoever sweeps it in the background.
    pub vectors: Arc<VectorIndex>,
    /// Their words.
    pub words: LexicalIndex,
    /// Their symbols and paths.
    pub literals: LiteralIndex,
    /// Changes of the vectors that their file does not have.
    unsaved: Arc<AtomicUsize>,
    sweeping: Arc<AtomicBool>,
}

/// A partition's graph and what its file lacks, for whoever writes that while the partition serves.
pub struct Graph {
    vectors: Arc<VectorIndex>,
    unsaved: Arc<AtomicUsize>,
}

impl Graph {
    /// Changes that the file does not have.
    pub fn unsaved(&self) -> usize {
        self.unsaved.load(Ordering::SeqCst)
    }

    /// There is no file.
    pub fn lost(&self) {
        self.unsaved.fetch_max(self.vectors.len(), Ordering::SeqCst);
    }

    /// Writes it to `path`. It is swept first: no file shall hold the vector of a record that was forgotten.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn save(&self, path: &Path) -> Result<()> {
        let counted = self.unsaved();
        if self.vectors.tombstones() > 0 {
            self.vectors.compact();
        }
        self.vectors.save(path)?;
        self.unsaved.fetch_sub(counted, Ordering::SeqCst);
        Ok(())
    }
}

/// Constants of the indexes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Params {
    /// Of the graph.
    pub index: IndexParams,
    /// Of BM25.
    pub lexical: LexicalParams,
}

/// A scope and kinds, with names looked up once a search.
pub struct Wanted {
    project: Option<u32>,
    session: Option<u32>,
    kinds: Vec<Kind>,
    now: Timestamp,
}

impl Part {
    /// Reads a partition from the store; `saved` is its vectors' graph as it was written when it was last let go.
    ///
    /// A graph that is missing or damaged is built anew. One that is older than the store is caught up: a vector that differs is put
    /// in again, and one whose record is gone is not found, since every search asks for the record's facts.
    ///
    /// # Errors
    /// [`MemoryError::Corrupt`] if a value of the store fails its checksum, or records are missing.
    pub fn load(
        tree: &Tree,
        partition: PartitionId,
        encoder: &EncoderId,
        slot: Slot,
        params: Params,
        saved: &Path,
    ) -> Result<Self> {
        let applied = tree.applied()?;
        let mut records: Vec<Record> = Vec::new();
        for pair in tree.scan(&keys::all(b'r', partition), &[]) {
            let (key, sealed) = pair?;
            records.push(value::unseal_json(&key, &sealed).ok_or_else(|| tree.damaged(&key))?);
        }
        let counted = counted(tree, partition)?;
        // What was committed while it was read is noted after; then the two need not agree.
        if records.len() as u64 != counted && tree.applied()? == applied {
            let detail = format!("{} records of a partition can be read, there are {counted}", records.len());
            return Err(MemoryError::Corrupt { path: tree.path().to_owned(), detail });
        }
        let words: Vec<_> = records.iter().map(|record| (record.id, Words::from(record))).collect();
        let words = LexicalIndex::build(params.lexical, &words);
        let index = match VectorIndex::load(saved, params.index) {
            Ok(index) if index.dim() == encoder.dim && index.len() <= records.len() + records.len() / 4 => index,
            _ => VectorIndex::new(encoder.dim, params.index)?,
        };
        let unsaved = Arc::new(AtomicUsize::new(catch_up(&index, tree, &keys::all_vectors(slot, partition))?));
        let mut part = Self {
            facts: HashMap::default(),
            numbers: HashMap::new(),
            names: Vec::new(),
            projects: HashMap::new(),
            sessions: HashMap::new(),
            vectors: Arc::new(index),
            words,
            literals: LiteralIndex::default(),
            unsaved,
            sweeping: Arc::default(),
        };
        for record in &records {
            part.note(record);
            part.literals.insert(record.id, Words::from(record));
        }
        Ok(part)
    }

    /// Takes a record in, or its new state.
    pub fn upsert(&mut self, record: &Record) {
        self.note(record);
        self.words.insert(record.id, Words::from(record));
        self.literals.insert(record.id, Words::from(record));
    }

    /// Takes a record's vector in. One that the index does not take was refused when it was written.
    pub fn set_vector(&mut self, id: RecordId, vector: &[f32]) {
        let changed = self.vectors.insert(id.0, vector).is_ok();
        self.unsaved.fetch_add(usize::from(changed), Ordering::SeqCst);
        self.sweep();
    }

    /// Takes a record out.
    pub fn remove(&mut self, id: RecordId) {
        if let Some(facts) = self.facts.remove(&id) {
            leave(&mut self.projects, facts.project, id);
            leave(&mut self.sessions, facts.session, id);
        }
        self.words.remove(id);
        self.literals.remove(id);
        let changed = self.vectors.remove(id.0);
        self.unsaved.fetch_add(usize::from(changed), Ordering::SeqCst);
        self.sweep();
    }

    /// Its graph, to be written.
    pub fn graph(&self) -> Graph {
        Graph { vectors: self.vectors.clone(), unsaved: self.unsaved.clone() }
    }

    /// Searches these vectors from now on, which are another encoder's.
    pub fn take_vectors(&mut self, vectors: Arc<VectorIndex>) {
        self.unsaved = Arc::new(AtomicUsize::new(vectors.len()));
        // A sweep that is under way is of the old ones.
        self.sweeping = Arc::default();
        self.vectors = vectors;
    }

    /// Builds the graph anew, in the background, once a quarter of it is dead.
    fn sweep(&self) {
        let dead = self.vectors.tombstones();
        if dead < MIN_DEAD || dead * 3 < self.vectors.len() || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let (index, sweeping) = (self.vectors.clone(), self.sweeping.clone());
        let sweep = move || {
            index.compact();
            sweeping.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("memory-sweep".to_owned()).spawn(sweep).is_err() {
            self.sweeping.store(false, Ordering::Release);
        }
    }

    /// Whether `wanted` takes every vector of the index but for expired ones, so that nobody need be asked.
    pub fn takes_all(&self, wanted: &Wanted) -> bool {
        let anywhere = wanted.project.is_none() && wanted.session.is_none() && wanted.kinds.is_empty();
        anywhere && self.vectors.len() == self.facts.len()
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        let members = self.projects.values().chain(self.sessions.values()).map(|members| members.capacity() * 17);
        let facts = self.facts.capacity() * (size_of::<Facts>() + 17) + members.sum::<usize>();
        self.vectors.bytes() + self.words.bytes() + self.literals.bytes() + facts
    }

    /// What a search of `scope` and `kinds` wants; `None` if nothing here can be it.
    pub fn wanted(&self, scope: &Scope, kinds: &[Kind], now: Timestamp) -> Option<Wanted> {
        let number = |name: &Option<Name>| match name {
            None => Some(None),
            Some(name) => self.numbers.get(name).map(|&number| Some(number)),
        };
        Some(Wanted { project: number(&scope.project)?, session: number(&scope.session)?, kinds: kinds.to_vec(), now })
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

    /// What a filter can be told of a record without reading it.
    pub fn outline(&self, id: RecordId) -> Option<Outline<'_>> {
        let facts = self.facts.get(&id)?;
        let name = |number: u32| self.names.get((number as usize).checked_sub(1)?).map(Name::as_str);
        let Facts { kind, trust, pinned, version, created, updated, .. } = *facts;
        let (project, session) = (name(facts.project), name(facts.session));
        Some(Outline { kind, project, session, trust, created, updated, version, pinned })
    }

    /// The records of the scope's session or project, where it names one that has at most `most`.
    pub fn few<'a>(&'a self, scope: &Scope, most: usize) -> Option<impl Iterator<Item = RecordId> + use<'a>> {
        let members = |places: &'a HashMap<u32, Members>, name: &Option<Name>| -> Option<&'a Members> {
            let number = self.numbers.get(name.as_ref()?)?;
            places.get(number).filter(|members| members.len() <= most)
        };
        let found = members(&self.sessions, &scope.session).or_else(|| members(&self.projects, &scope.project))?;
        Some(found.iter().copied())
    }

    fn note(&mut self, record: &Record) {
        let project = self.number(record.scope.project.as_ref());
        let session = self.number(record.scope.session.as_ref());
        let Record { id, kind, pinned, version, created, updated, expires, .. } = *record;
        let trust = record.provenance.trust;
        // A record stays where it was first put: its scope is part of its id.
        for (places, number) in [(&mut self.projects, project), (&mut self.sessions, session)] {
            if number != 0 {
                places.entry(number).or_default().insert(id);
            }
        }
        self.facts.insert(id, Facts { kind, trust, pinned, version, project, session, created, updated, expires });
    }

    fn number(&mut self, name: Option<&Name>) -> u32 {
        let Some(name) = name else { return 0 };
        let next = u32::try_from(self.names.len() + 1).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(name.clone()).or_insert(next);
        if number == next {
            self.names.push(name.clone());
        }
        number
    }
}

/// Takes a record out of a place, and the place out with the last.
fn leave(places: &mut HashMap<u32, Members>, number: u32, id: RecordId) {
    if let Some(members) = places.get_mut(&number)
        && members.remove(&id)
        && members.is_empty()
    {
        places.remove(&number);
    }
}

/// Records of a partition, by the store's own counts.
fn counted(tree: &Tree, partition: PartitionId) -> Result<u64> {
    let mut total = 0;
    for pair in tree.scan(&keys::all(b'n', partition), &[]) {
        let (key, sealed) = pair?;
        total += value::unseal_json::<u64>(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
    }
    Ok(total)
}

/// Puts the vectors under `prefix` in that `index` does not hold as they are. How many those were.
pub fn catch_up(index: &VectorIndex, tree: &Tree, prefix: &[u8]) -> Result<usize> {
    let mut missing: Vec<(u128, Vec<f32>)> = Vec::new();
    for pair in tree.scan(prefix, &[]) {
        let (key, sealed) = pair?;
        let vector = value::unseal_vector(&key, &sealed).ok_or_else(|| tree.damaged(&key))?;
        let Some((_, _, id)) = keys::parse_vector(&key) else { continue };
        if index.vector(id.0).is_none_or(|held| !same(&held, &vector)) {
            missing.push((id.0, vector));
        }
    }
    let rows: Vec<(u128, &[f32])> = missing.iter().map(|(id, vector)| (*id, vector.as_slice())).collect();
    index.insert_many(&rows)?;
    Ok(rows.len())
}

/// Whether an index's row, which is scaled to length 1, is this vector; of a vector that was that long already, scaling
/// changes the last bits.
fn same(held: &[f32], vector: &[f32]) -> bool {
    held.len() == vector.len() && held.iter().zip(vector).all(|(a, b)| (a - b).abs() <= 1e-5)
}
