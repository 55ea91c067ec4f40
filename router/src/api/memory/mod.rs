//! `/v1/memory`: records remembered, read, changed, searched and forgotten, all within the key's own tenant.
//!
//! A record of another tenant or domain is answered like one that never was: the partition is part of what is
//! looked up, so there is nothing to compare and no time to tell the two apart by.

mod forget;
pub mod index;
mod records;
pub mod reembed;
mod search;
mod snapshots;
mod stats;

pub use forget::forget;
pub use records::{create, delete, list, retrieve, update};
pub use search::search;
pub use snapshots::create as snapshot;
pub use stats::stats;

use engram_memory::RecordId;

use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::{ApiError, ErrorCode};
use crate::memory::wire::Where;
use crate::openai::fields::nearest;

/// Where a request of this tenant looks unless it says otherwise.
fn place(state: &AppState, tenant: &Tenant) -> Result<Where, ApiError> {
    Where::of(tenant, state.memory().settings())
}

fn record_id(field: &str, text: &str) -> Result<RecordId, ApiError> {
    let message = || format!("`{field}`: a record's id is 32 hexadecimal digits");
    text.parse().map_err(|_| ApiError::invalid_value(field, message()))
}

/// Parameters of a URL, read once: what is left over is unknown.
struct UrlParameters(Vec<(String, String)>);

impl UrlParameters {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    fn finish(self, known: &[&str]) -> Result<(), ApiError> {
        let Some((name, _)) = self.0.first() else {
            return Ok(());
        };
        let shown: String = name.chars().take(64).collect();
        let near = nearest(&shown, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        let message = format!("unknown parameter `{shown}`{near}");
        Err(ApiError::new(ErrorCode::UnknownParameter, message).with_param(shown))
    }
}
