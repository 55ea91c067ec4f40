//! What a write sees while it is planned: the tree, with the writes before it in the same group laid over.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::Op;
use super::fault::Fault;
use super::tree::Tree;
use super::{keys, value};

/// What becomes of a key: a value, or `None` where it goes.
type NewValue = Option<Vec<u8>>;

/// A tree with changes that are not yet committed.
pub struct View<'a> {
    tree: &'a Tree,
    changes: BTreeMap<Vec<u8>, NewValue>,
    /// What the running plan replaced in `changes`, so that a failed plan leaves nothing behind.
    undo: Vec<(Vec<u8>, Option<NewValue>)>,
    bytes: usize,
    purges: bool,
}

impl<'a> View<'a> {
    /// Nothing changed yet.
    pub fn new(tree: &'a Tree) -> Self {
        Self { tree, changes: BTreeMap::new(), undo: Vec::new(), bytes: 0, purges: false }
    }

    /// The value under `key` as the group will leave it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => Ok(self.tree.get(key)?.map(|value| value.to_vec())),
        }
    }

    /// A sealed JSON value.
    pub fn get_json<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Fault> {
        let Some(sealed) = self.get(key)? else { return Ok(None) };
        value::unseal_json(key, &sealed).map(Some).ok_or_else(|| self.tree.damaged(key))
    }

    /// Sets a value that is sealed already.
    pub fn set(&mut self, key: Vec<u8>, sealed: Vec<u8>) {
        self.change(key, Some(sealed));
    }

    /// Sets a value as sealed JSON.
    pub fn set_json<T: Serialize>(&mut self, key: Vec<u8>, value: &T) {
        let sealed = value::seal_json(&key, value);
        self.change(key, Some(sealed));
    }

    /// Removes a key.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.change(key, None);
    }

    /// Calls `each` for the pairs under `prefix`, in order within the tree, then those the group adds.
    pub fn scan(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<(), Fault> {
        for pair in self.tree.scan(prefix, prefix) {
            let (key, value) = pair?;
            if !self.changes.contains_key(key.as_ref()) && each(&key, &value)?.is_break() {
                return Ok(());
            }
        }
        for (key, change) in self.changes.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
            if let Some(value) = change
                && each(key, value)?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Keys under `prefix` that the group sets, the running plan's own included.
    pub fn changed<'v>(&'v self, prefix: &'v [u8]) -> impl Iterator<Item = &'v [u8]> {
        let under = self.changes.range(prefix.to_vec()..).take_while(move |(key, _)| key.starts_with(prefix));
        under.filter_map(|(key, change)| change.is_some().then_some(key.as_slice()))
    }

    /// The tree's fault for a value that fails its checksum.
    pub fn damaged(&self, key: &[u8]) -> Fault {
        self.tree.damaged(key)
    }

    /// What this plan removes must also leave the disk, after `purge_after`.
    pub fn purge(&mut self) {
        self.set(keys::PURGE.to_vec(), value::seal(keys::PURGE, &[]));
        self.purges = true;
    }

    pub(super) fn purges(&self) -> bool {
        self.purges
    }

    /// Bytes of all changes so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The plan succeeded: its changes stay.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// The plan failed: its changes go.
    pub(super) fn take_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(change) => self.changes.insert(key, change),
                None => self.changes.remove(&key),
            };
        }
    }

    /// Everything the group changes.
    pub(super) fn into_ops(self) -> Vec<Op> {
        self.changes.into_iter().collect()
    }

    fn change(&mut self, key: Vec<u8>, change: Option<Vec<u8>>) {
        self.bytes += key.len() + change.as_ref().map_or(0, Vec::len);
        let before = self.changes.insert(key.clone(), change);
        self.undo.push((key, before));
    }
}
