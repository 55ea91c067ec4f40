//! Whose vectors a store holds.

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};
use crate::store::fault::Fault;
use crate::store::keys::{self, Slot};
use crate::store::tree::Tree;
use crate::store::value;
use crate::store::view::View;

/// An encoder as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderId {
    /// Its name (`all-minilm-l6-v2`).
    pub name: String,
    /// Length of its vectors.
    pub dim: usize,
}

/// An encoder and where its vectors lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slotted {
    /// The encoder.
    pub encoder: EncoderId,
    /// Its slot.
    pub slot: Slot,
}

/// The encoder in use and the one that records are being embedded with anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoders {
    /// Whose vectors are searched; `None` in a store that is being made.
    pub active: Option<EncoderId>,
    /// Their slot.
    pub active_slot: Slot,
    /// Whose vectors are being made.
    pub pending: Option<Slotted>,
}

/// The slots there are: one is searched, the other is filled while records are embedded anew.
pub fn vector_slots() -> impl Iterator<Item = Slot> {
    0..2
}

impl Encoders {
    /// As a plan sees them.
    pub fn read(view: &View<'_>) -> Result<Self> {
        Ok(Self::from_parts(view.get_json(keys::ENCODER)?, view.get_json(keys::REEMBED)?))
    }

    /// As the tree holds them.
    pub fn of_tree(tree: &Tree) -> Result<Self> {
        let read = |key: &[u8]| -> std::result::Result<Option<Slotted>, Fault> {
            let Some(sealed) = tree.get(key)? else { return Ok(None) };
            value::unseal_json(key, &sealed).map(Some).ok_or_else(|| tree.damaged(key))
        };
        Ok(Self::from_parts(read(keys::ENCODER)?, read(keys::REEMBED)?))
    }

    fn from_parts(active: Option<Slotted>, pending: Option<Slotted>) -> Self {
        let active_slot = active.as_ref().map_or(0, |active| active.slot);
        Self { active: active.map(|active| active.encoder), active_slot, pending }
    }

    /// Whether `configured` made the vectors.
    ///
    /// # Errors
    /// [`MemoryError::EncoderMismatch`] if another did.
    pub fn check(&self, configured: &EncoderId) -> Result<()> {
        match &self.active {
            Some(stored) if stored != configured => Err(MemoryError::EncoderMismatch {
                stored: stored.name.clone(),
                stored_dim: stored.dim,
                configured: configured.name.clone(),
                configured_dim: configured.dim,
            }),
            _ => Ok(()),
        }
    }
}
