//! Finding records: by index with what is selected, by scanning, and in the past.

use std::cell::RefCell;
use std::collections::HashMap;

use super::encoder::Encoders;
use super::part::Part;
use super::{Embedded, record_of};
use crate::backend::{Candidate, CompiledSelection, Selection, Stored};
use crate::error::Result;
use crate::record::{Record, RecordId, Timestamp};
use crate::store::keys::{self, PartitionId};
use crate::store::tree::Tree;
use crate::store::value;

/// A project or session with up to this many records is searched by looking at each: about what a walk of the graph
/// looks at.
const FEW: usize = 1024;

impl Embedded {
    /// Asks an index of the selection's partition; `accept` knows which records are selected.
    pub(super) fn search(
        &self,
        selection: &Selection,
        ask: impl FnOnce(&Part, Everything, &dyn Fn(RecordId) -> bool) -> Result<Vec<Candidate>>,
    ) -> Result<Vec<Candidate>> {
        let compiled = selection.compile()?;
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, &selection.scope.partition)? else { return Ok(Vec::new()) };
        self.resident.with(&self.store, number, |part| {
            let now = Timestamp::now();
            let Some(wanted) = part.wanted(&selection.scope, &selection.kinds, now) else { return Ok(Vec::new()) };
            if selection.filter.is_none() {
                let everything = Everything(part.takes_all(&wanted));
                return ask(part, everything, &|id| part.accepts(&wanted, id));
            }
            let filter = Filtered::new(&tree, number, part, &compiled);
            let found = ask(part, Everything(false), &|id| part.accepts(&wanted, id) && filter.accepts(id))?;
            filter.finish()?;
            Ok(found)
        })
    }

    /// The nearest by the graph, or exactly: where the scope has few records those are looked at, and nothing else is asked.
    pub(super) fn find_nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        let ef = self.ef_search.max(k);
        self.search(selection, |part, everything, accept| {
            let by_number = |id| accept(RecordId(id));
            let found = match part.few(&selection.scope, FEW) {
                Some(members) => {
                    let ids: Vec<u128> = members.map(|id| id.0).filter(|&id| by_number(id)).collect();
                    part.vectors.search_among(vector, k, &ids)?
                }
                None if everything.0 => part.vectors.search(vector, k, ef, None)?,
                None => part.vectors.search(vector, k, ef, Some(&by_number))?,
            };
            let found = found.into_iter().map(|(id, score)| Candidate { id: RecordId(id), score });
            // Where nobody was asked, what has expired is left out here.
            Ok(found.filter(|candidate| !everything.0 || accept(candidate.id)).collect())
        })
    }

    /// Records that define a symbol or hold a literal of `text`.
    pub(super) fn find_literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, &selection.scope.partition)? else { return Ok(Vec::new()) };
        let content = |id| {
            let key = keys::record(number, id);
            let sealed = tree.get(&key).ok()??;
            value::unseal_json::<Record>(&key, &sealed).map(|record| record.content)
        };
        self.search(selection, |part, _, accept| Ok(part.literals.search(&part.words, text, k, accept, &content)))
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

/// Whether a search takes every record of its partition that has not expired.
pub(super) struct Everything(pub bool);

/// A filter that is asked about records by id; what the partition's facts do not decide is read from the store, once a
/// search.
struct Filtered<'a> {
    part: &'a Part,
    tree: &'a Tree,
    number: PartitionId,
    selection: &'a CompiledSelection,
    known: RefCell<HashMap<RecordId, bool>>,
    failed: RefCell<Option<crate::MemoryError>>,
}

impl<'a> Filtered<'a> {
    fn new(tree: &'a Tree, number: PartitionId, part: &'a Part, selection: &'a CompiledSelection) -> Self {
        Self { part, tree, number, selection, known: RefCell::default(), failed: RefCell::default() }
    }

    fn accepts(&self, id: RecordId) -> bool {
        if let Some(decided) = self.part.outline(id).and_then(|outline| self.selection.filter_decides(&outline)) {
            return decided;
        }
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
