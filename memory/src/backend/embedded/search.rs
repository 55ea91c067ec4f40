//! Finding records: by index with what is selected, by scanning, and in the past.

use std::cell::RefCell;
use std::collections::HashMap;

use super::encoder::Encoders;
use super::part::Part;
use super::{Embedded, record_of};
use crate::backend::{Candidate, CompiledSelection, Selection, Stored};
use crate::error::Result;
use crate::exact::best;
use crate::record::{Record, RecordId, Timestamp};
use crate::store::keys::{self, PartitionId};
use crate::store::tree::Tree;
use crate::store::value;

/// Score of a query that is a record's whole symbol; of its last part; of either but for case; of a text in its content.
const WHOLE_SYMBOL: f32 = 4.0;
const LAST_PART: f32 = 3.0;
const BUT_FOR_CASE: f32 = 2.0;
const IN_CONTENT: f32 = 1.0;

impl Embedded {
    /// Asks an index of the selection's partition; `accept` knows which records are selected.
    pub(super) fn search(
        &self,
        selection: &Selection,
        ask: impl FnOnce(&Part, &dyn Fn(RecordId) -> bool) -> Vec<Candidate>,
    ) -> Result<Vec<Candidate>> {
        let compiled = selection.compile()?;
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, &selection.scope.partition)? else { return Ok(Vec::new()) };
        self.resident.with(&self.store, number, |part| {
            let now = Timestamp::now();
            let Some(wanted) = part.wanted(&selection.scope, &selection.kinds, now) else { return Ok(Vec::new()) };
            if selection.filter.is_none() {
                return Ok(ask(part, &|id| part.accepts(&wanted, id)));
            }
            let filter = Filtered::new(&self.store.tree(), number, &compiled);
            let found = ask(part, &|id| part.accepts(&wanted, id) && filter.accepts(id));
            filter.finish()?;
            Ok(found)
        })
    }

    /// Records whose symbol `text` names, or whose content holds it as it stands, best first.
    pub(super) fn find_literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        // Whoever holds the text holds its words: the inverted index narrows, the record decides.
        let holders = self.search(selection, |part, accept| part.words.search_all(text, usize::MAX / 4, accept))?;
        let ids: Vec<RecordId> = holders.iter().map(|candidate| candidate.id).collect();
        let records = self.get_many_records(&selection.scope.partition, &ids)?;
        let scored = records.iter().filter_map(|record| {
            literal_score(record, text).map(|score| Candidate { id: record.id, score })
        });
        Ok(best(scored, k))
    }

    fn get_many_records(&self, partition: &crate::scope::Partition, ids: &[RecordId]) -> Result<Vec<Record>> {
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, partition)? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for &id in ids {
            let key = keys::record(number, id);
            if let Some(sealed) = tree.get(&key)? {
                records.push(record_of(&tree, &key, &sealed)?);
            }
        }
        Ok(records)
    }

    /// One page of a scan, in the order of ids.
    pub(super) fn scan_page(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let compiled = selection.compile()?;
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, &selection.scope.partition)? else { return Ok(Vec::new()) };
        let slot = Encoders::of_tree(&tree)?.active_slot;
        let from = match after.map(|id| id.0.checked_add(1)) {
            None => keys::all(b'r', number),
            Some(Some(next)) => keys::record(number, RecordId(next)),
            Some(None) => return Ok(Vec::new()),
        };
        let now = Timestamp::now();
        let mut page = Vec::new();
        for pair in tree.scan(&keys::all(b'r', number), &from) {
            if page.len() >= limit {
                break;
            }
            let (key, sealed) = pair?;
            let record = record_of(&tree, &key, &sealed)?;
            let (expired, version) = (record.expired(now), record.version);
            let Some(record) = as_it_stood(&tree, number, record, as_of)? else { continue };
            if expired || !compiled.matches(&record) {
                continue;
            }
            let of_now = record.version == version;
            let vector_key = if of_now {
                keys::vector(slot, number, record.id)
            } else {
                keys::version_vector(number, record.id, record.version)
            };
            page.push(Stored { vector: vector(&tree, vector_key)?, record });
        }
        Ok(page)
    }
}

/// A filter that is asked about records by id; each is read from the store once a search.
struct Filtered<'a> {
    tree: &'a Tree,
    number: PartitionId,
    selection: &'a CompiledSelection,
    known: RefCell<HashMap<RecordId, bool>>,
    failed: RefCell<Option<crate::MemoryError>>,
}

impl<'a> Filtered<'a> {
    fn new(tree: &'a Tree, number: PartitionId, selection: &'a CompiledSelection) -> Self {
        Self { tree, number, selection, known: RefCell::default(), failed: RefCell::default() }
    }

    fn accepts(&self, id: RecordId) -> bool {
        if let Some(&known) = self.known.borrow().get(&id) {
            return known;
        }
        let key = keys::record(self.number, id);
        let read = self.tree.get(&key).map_err(crate::MemoryError::from).and_then(|sealed| match sealed {
            Some(sealed) => record_of(self.tree, &key, &sealed).map(|record| self.selection.matches(&record)),
            None => Ok(false),
        });
        let accepted = read.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            false
        });
        self.known.borrow_mut().insert(id, accepted);
        accepted
    }

    /// The first error of a read, if there was one: an index's question can only be answered yes or no.
    fn finish(self) -> Result<()> {
        self.failed.into_inner().map_or(Ok(()), Err)
    }
}

/// `record`, or the version of it that stood at `as_of`; `None` if it was not there yet.
pub fn as_it_stood(
    tree: &Tree,
    number: PartitionId,
    record: Record,
    as_of: Option<Timestamp>,
) -> Result<Option<Record>> {
    let Some(at) = as_of else { return Ok(Some(record)) };
    if record.created > at {
        return Ok(None);
    }
    if record.updated <= at {
        return Ok(Some(record).filter(|record| !record.expired(at)));
    }
    let mut stood: Option<Record> = None;
    for pair in tree.scan(&keys::versions(b'h', number, record.id), &[]) {
        let (key, sealed) = pair?;
        let version = record_of(tree, &key, &sealed)?;
        if version.updated > at {
            break;
        }
        stood = Some(version);
    }
    Ok(stood.filter(|record| !record.expired(at)))
}

/// The vector under `key`; empty if there is none, as for a version whose vector was of an earlier encoder.
pub fn vector(tree: &Tree, key: Vec<u8>) -> Result<Vec<f32>> {
    let Some(sealed) = tree.get(&key)? else { return Ok(Vec::new()) };
    Ok(value::unseal_vector(&key, &sealed).ok_or_else(|| tree.damaged(&key))?)
}

/// How exactly `text` is in a record; `None`: not at all.
fn literal_score(record: &Record, text: &str) -> Option<f32> {
    let symbol = record.provenance.symbol.as_deref().unwrap_or_default();
    let last = symbol.rsplit([':', '.', '#', '/']).next().unwrap_or_default();
    if symbol == text {
        Some(WHOLE_SYMBOL)
    } else if last == text {
        Some(LAST_PART)
    } else if symbol.to_lowercase() == text.to_lowercase() || last.to_lowercase() == text.to_lowercase() {
        Some(BUT_FOR_CASE)
    } else {
        record.content.contains(text).then_some(IN_CONTENT)
    }
}
