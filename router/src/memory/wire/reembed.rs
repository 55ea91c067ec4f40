//! The body of `POST /v1/admin/memory/reembed`.

use crate::error::ApiError;
use crate::openai::Fields;

/// Reads `{encoder}`; absent: the configured one.
pub fn read_reembed(body: &[u8]) -> Result<Option<String>, ApiError> {
    let mut fields = Fields::from_slice(body)?;
    let encoder = fields.string("encoder")?;
    fields.finish()?;
    Ok(encoder)
}
