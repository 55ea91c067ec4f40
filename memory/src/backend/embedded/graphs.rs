//! Graphs of another encoder's vectors, kept in step with the store until they take over.

use std::collections::HashMap;
use std::sync::Arc;

use crate::index::VectorIndex;
use crate::store::batch::Op;
use crate::store::keys::{self, PartitionId, Slot};
use crate::store::value;

/// One a partition. A clone is the same graphs.
#[derive(Clone, Default)]
pub struct Graphs(Arc<HashMap<PartitionId, Arc<VectorIndex>>>);

impl Graphs {
    /// These.
    pub fn new(graphs: HashMap<PartitionId, Arc<VectorIndex>>) -> Self {
        Self(Arc::new(graphs))
    }

    /// A partition's.
    pub fn get(&self, id: PartitionId) -> Option<&Arc<VectorIndex>> {
        self.0.get(&id)
    }

    /// Takes a change of the store in, as far as it is about vectors of `slot`.
    pub fn note(&self, slot: Slot, (key, sealed): &Op) {
        let (partition, id) = match key.first() {
            Some(b'v') => match keys::parse_vector(key) {
                Some((of, partition, id)) if of == slot => (partition, id),
                _ => return,
            },
            Some(b'r') if sealed.is_none() => match keys::parse_id(key) {
                Some(name) => name,
                None => return,
            },
            _ => return,
        };
        let Some(graph) = self.0.get(&partition) else { return };
        match sealed.as_deref().and_then(|sealed| value::unseal_vector(key, sealed)) {
            // One that the index does not take was refused when it was made.
            Some(vector) => drop(graph.insert(id.0, &vector)),
            None => drop(graph.remove(id.0)),
        }
    }
}
