//! What `engram memory index` keeps beside the records of a project: what was indexed, and where it stands now.

use engram_memory::ingest::Manifest;
use engram_memory::{Provenance, RecordId, Scope};
use serde::Deserialize;

use super::MAX_IDS;
use super::scope::{Where, read_scope};
use crate::error::ApiError;
use crate::openai::Fields;

/// Reads `{scope, manifest}`.
pub fn read_manifest(body: &[u8], place: &Where) -> Result<(Scope, Manifest), ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let (scope, _) = read_scope(&mut fields, place)?;
    let manifest = fields.raw("manifest");
    let manifest = fields.require("manifest", manifest)?;
    fields.finish()?;
    let manifest: Manifest = serde_json::from_value(manifest)
        .map_err(|error| ApiError::invalid_value("manifest", format!("`manifest`: {error}")))?;
    // A first run marks an empty one of no format before it writes.
    if manifest.format > Manifest::FORMAT {
        let message = format!(
            "`manifest.format` is {}, this server takes up to {}: use an engram of its version",
            manifest.format,
            Manifest::FORMAT
        );
        return Err(ApiError::invalid_value("manifest.format", message));
    }
    Ok((scope, manifest))
}

/// Reads `{scope, moved: [{id, provenance}]}`.
pub fn read_moves(body: &[u8], place: &Where) -> Result<(Scope, Vec<(RecordId, Provenance)>), ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Move {
        id: RecordId,
        provenance: Provenance,
    }
    let mut fields = Fields::from_slice(body)?;
    let (scope, _) = read_scope(&mut fields, place)?;
    let moved = fields.list("moved", MAX_IDS)?;
    let moved = fields.require("moved", moved)?;
    fields.finish()?;
    let moved = moved.into_iter().enumerate().map(|(index, value)| {
        let path = format!("moved[{index}]");
        match serde_json::from_value::<Move>(value) {
            Ok(Move { id, provenance }) => Ok((id, provenance)),
            Err(error) => Err(ApiError::invalid_value(&path, format!("`{path}`: {error}"))),
        }
    });
    Ok((scope, moved.collect::<Result<_, _>>()?))
}
