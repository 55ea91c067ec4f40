//! The plainest backend there can be: a list of versions that every question is put to in full. What a memory
//! answers over it is what it should answer over any other.

use std::collections::BTreeMap;
use std::sync::Mutex;

use engram_memory::backend::{Backend, BackendStats, Candidate, Change, Forget, Selection, Stored, Written};
use engram_memory::lexical::{LexicalIndex, LexicalParams, Words};
use engram_memory::literal::LiteralIndex;
use engram_memory::mmr::dot;
use engram_memory::{MemoryError, Partition, Record, RecordId, Result, Timestamp, content_hash};

/// All versions of each record, oldest first.
#[derive(Default)]
pub(crate) struct Plain {
    records: Mutex<BTreeMap<(Partition, RecordId), Vec<Stored>>>,
}

impl Plain {
    fn standing(&self, selection: &Selection, at: Option<Timestamp>) -> Result<Vec<Stored>> {
        let selected = selection.compile()?;
        let records = self.records.lock().unwrap();
        let now = at.unwrap_or_else(Timestamp::now);
        let versions = records.values().filter_map(|versions| {
            versions.iter().rev().find(|version| at.is_none_or(|at| version.record.updated <= at))
        });
        Ok(versions
            .filter(|version| !version.record.expired(now) && selected.matches(&version.record))
            .cloned()
            .collect())
    }

    fn words(&self, selection: &Selection) -> Result<(LexicalIndex, LiteralIndex, BTreeMap<RecordId, String>)> {
        let standing = self.standing(selection, None)?;
        let words: Vec<_> = standing.iter().map(|stored| (stored.record.id, Words::from(&stored.record))).collect();
        let mut literals = LiteralIndex::default();
        words.iter().for_each(|(id, words)| literals.insert(*id, *words));
        let contents = standing.iter().map(|stored| (stored.record.id, stored.record.content.clone())).collect();
        Ok((LexicalIndex::build(LexicalParams::default(), &words), literals, contents))
    }
}

impl Backend for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn put(&self, new: Vec<Stored>) -> Result<Vec<Written>> {
        let mut records = self.records.lock().unwrap();
        let mut put = |mut stored: Stored| {
            for salt in 0.. {
                if salt > 0 {
                    let record = &stored.record;
                    stored.record.id = RecordId::of(&record.scope, record.kind, &record.content, salt);
                }
                let key = (stored.record.scope.partition.clone(), stored.record.id);
                match records.get_mut(&key).and_then(|versions| versions.last_mut()) {
                    None => {
                        records.insert(key, vec![stored.clone()]);
                        break;
                    }
                    Some(there) if there.record.content_hash == stored.record.content_hash => {
                        there.record.seen += 1;
                        return Written::SeenAgain(there.record.clone());
                    }
                    Some(_) => {}
                }
            }
            Written::Created(stored.record)
        };
        Ok(new.into_iter().map(&mut put).collect())
    }

    fn get(&self, partition: &Partition, id: RecordId, as_of: Option<Timestamp>) -> Result<Option<Record>> {
        let records = self.records.lock().unwrap();
        let versions = records.get(&(partition.clone(), id)).map(Vec::as_slice).unwrap_or_default();
        let version = versions.iter().rev().find(|version| as_of.is_none_or(|at| version.record.updated <= at));
        Ok(version.map(|version| version.record.clone()))
    }

    fn get_many(&self, partition: &Partition, ids: &[RecordId]) -> Result<Vec<Stored>> {
        let records = self.records.lock().unwrap();
        Ok(ids.iter().filter_map(|id| records.get(&(partition.clone(), *id))?.last().cloned()).collect())
    }

    fn change(&self, partition: &Partition, id: RecordId, change: Change) -> Result<Record> {
        let mut records = self.records.lock().unwrap();
        let versions = records.get_mut(&(partition.clone(), id)).ok_or(MemoryError::NotFound(id))?;
        let mut next = versions.last().cloned().ok_or(MemoryError::NotFound(id))?;
        let new_version = change.content.is_some() || change.metadata.is_some();
        if let Some((content, vector)) = change.content {
            next.record.content_hash = content_hash(&content);
            (next.record.content, next.vector) = (content, vector);
        }
        next.record.metadata = change.metadata.unwrap_or(next.record.metadata);
        next.record.expires = change.expires.unwrap_or(next.record.expires);
        next.record.pinned = change.pinned.unwrap_or(next.record.pinned);
        let feedback = change.feedback.unwrap_or_default();
        next.record.feedback.useful += feedback.useful;
        next.record.feedback.wrong += feedback.wrong;
        if new_version {
            next.record.version += 1;
            next.record.updated = Timestamp::now();
        } else {
            versions.pop();
        }
        versions.push(next.clone());
        Ok(next.record)
    }

    fn forget(&self, what: &Forget) -> Result<u64> {
        let selected = if let Forget::Matching(selection) = what { Some(selection.compile()?) } else { None };
        let mut records = self.records.lock().unwrap();
        let before = records.len();
        records.retain(|(partition, id), versions| match what {
            Forget::Ids(of, ids) => partition != of || !ids.contains(id),
            Forget::Tenant(tenant) => partition.tenant != *tenant,
            Forget::Matching(_) => {
                let last = versions.last();
                !last.is_some_and(|last| selected.as_ref().is_some_and(|selected| selected.matches(&last.record)))
            }
        });
        Ok((before - records.len()) as u64)
    }

    fn expire(&self, now: Timestamp) -> Result<u64> {
        let mut records = self.records.lock().unwrap();
        let before = records.len();
        records.retain(|_, versions| !versions.last().is_some_and(|last| last.record.expired(now)));
        Ok((before - records.len()) as u64)
    }

    fn nearest(&self, selection: &Selection, vector: &[f32], k: usize) -> Result<Vec<Candidate>> {
        let standing = self.standing(selection, None)?;
        let score = |stored: &Stored| Candidate { id: stored.record.id, score: dot(&stored.vector, vector) };
        let mut all: Vec<Candidate> = standing.iter().map(score).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        all.truncate(k);
        Ok(all)
    }

    fn lexical(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        Ok(self.words(selection)?.0.search(text, k, &|_| true))
    }

    fn literal(&self, selection: &Selection, text: &str, k: usize) -> Result<Vec<Candidate>> {
        let (words, literals, contents) = self.words(selection)?;
        Ok(literals.search(&words, text, k, &|_| true, &|id| contents.get(&id).cloned()))
    }

    fn scan(
        &self,
        selection: &Selection,
        as_of: Option<Timestamp>,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let mut standing = self.standing(selection, as_of)?;
        standing.sort_by_key(|stored| stored.record.id);
        standing.retain(|stored| after.is_none_or(|after| stored.record.id > after));
        standing.truncate(limit);
        Ok(standing)
    }

    fn stats(&self, _partition: Option<&Partition>) -> Result<BackendStats> {
        let mut stats = BackendStats::default();
        for versions in self.records.lock().unwrap().values() {
            stats.vectors += 1;
            *stats.records.entry(versions[0].record.kind.to_string()).or_default() += 1;
        }
        Ok(stats)
    }

    fn health(&self) -> Result<()> {
        Ok(())
    }
}
