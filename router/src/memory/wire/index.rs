//! What `engram memory index` keeps beside the records of a project: what was indexed, and where it stands now.

use engram_memory::ingest::{Manifest, Part};
use engram_memory::{Provenance, RecordId, Scope};
use serde::Deserialize;

use super::MAX_IDS;
use super::scope::{Where, read_scope};
use crate::error::ApiError;
use crate::openai::Fields;

/// Longest name of an upload, bytes.
const MAX_UPLOAD: usize = 64;

/// Reads `{scope, manifest, part: {upload, number, last}}`; without `part` the manifest is whole.
pub fn read_manifest(body: &[u8], place: &Where) -> Result<(Scope, Manifest, Option<Part>), ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let (scope, _) = read_scope(&mut fields, place)?;
    let manifest = fields.raw("manifest");
    let manifest = fields.require("manifest", manifest)?;
    let part = fields.raw("part");
    fields.finish()?;
    let part: Option<Part> = part
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| ApiError::invalid_value("part", format!("`part`: {error}")))?;
    if part.as_ref().is_some_and(|part| part.upload.is_empty() || part.upload.len() > MAX_UPLOAD) {
        let message = format!("`part.upload` is a name of 1 to {MAX_UPLOAD} bytes, the same for all parts");
        return Err(ApiError::invalid_value("part.upload", message));
    }
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
    Ok((scope, manifest, part))
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
