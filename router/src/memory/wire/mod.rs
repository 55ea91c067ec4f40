//! Bodies of `/v1/memory`, read strictly, and records as they are written.
//!
//! Times are milliseconds since 1970 (`created`, `as_of`), lifetimes are seconds (`ttl`). The tenant comes from the
//! key alone and stands in no body, neither in requests nor in answers.

mod forget;
mod index;
mod record;
mod reembed;
mod scope;
mod search;

pub use forget::read_forget;
pub use index::{read_manifest, read_moves};
pub use record::{read_patch, read_records, record_json, written_json};
pub use reembed::read_reembed;
pub(crate) use scope::read_kind;
pub use scope::{Where, read_kinds, read_scope};
pub use search::{SearchRequest, hit_json, read_search, recall_json};

use engram_memory::filter::Filter;
use serde_json::Value;

use crate::error::ApiError;
use crate::openai::Fields;

/// Most records in one request to remember.
pub const MAX_RECORDS: usize = 1000;
/// Longest content of a record, bytes.
pub const MAX_CONTENT: usize = 256 << 10;
/// Longest query, bytes.
pub const MAX_QUERY: usize = 1 << 16;
/// Most hits of a search.
pub const MAX_K: usize = 200;
/// Most records on one page of a listing.
pub const MAX_PAGE: usize = 1000;
/// Most ids in one request to forget, or to say where records are.
pub const MAX_IDS: usize = 10_000;
/// Longest lifetime that can be asked for, seconds: a hundred years.
pub const MAX_TTL: f64 = 3_155_760_000.0;

/// The body as any JSON, for endpoints that take an object or a list.
fn json(body: &[u8]) -> Result<Value, ApiError> {
    use crate::error::ErrorCode;
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ErrorCode::InvalidJson, format!("the body is not valid JSON: {error}")))
}

/// A filter; what is wrong with its form is told in the parser's words.
fn read_filter(fields: &mut Fields) -> Result<Option<Filter>, ApiError> {
    let Some(value) = fields.raw("filter") else {
        return Ok(None);
    };
    let path = fields.path("filter");
    serde_json::from_value(value).map(Some).map_err(|error| {
        let message = format!(
            "`{path}`: {error}; write for example {{\"eq\": {{\"field\": \"language\", \"value\": \"rust\"}}}}"
        );
        ApiError::invalid_value(path, message)
    })
}

#[cfg(test)]
#[path = "../wire_tests.rs"]
mod tests;
