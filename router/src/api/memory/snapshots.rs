//! `POST /v1/memory/snapshots`.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::api::JsonBody;
use crate::app::AppState;
use crate::error::ApiError;
use crate::memory::Operation;
use crate::openai::Fields;
use crate::openai::response::unix_now;

/// Writes the whole memory, all keys' of it, into a file in the server's own directory; only its name is told,
/// and nothing here reads it back: `engram memory restore` does, on the server's machine.
pub async fn create(State(state): State<AppState>, JsonBody(body): JsonBody) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::from_slice(&body)?;
    let name = match fields.string("name")? {
        Some(name) => checked(name)?,
        None => format!("memory-{}", unix_now()),
    };
    fields.finish()?;
    let dir = state.memory().snapshots_dir();
    let path = dir.join(format!("{name}.snapshot"));
    let taken = path.clone();
    let write = move |store: &dyn crate::memory::MemoryStore| {
        let failed = |action, path: &std::path::Path, source| engram_memory::MemoryError::Io {
            action,
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(|source| failed("create", &dir, source))?;
        if taken.exists() {
            return Err(engram_memory::MemoryError::Invalid {
                field: "name".into(),
                message: "a snapshot of this name is there already".into(),
            });
        }
        store.snapshot(&taken)
    };
    let report = state.memory().run(Operation::any("snapshot"), write).await?;
    Ok(Json(json!({
        "object": "memory.snapshot",
        "name": name,
        "records": report.records,
        "bytes": report.bytes,
    })))
}

/// A name that is safe as a file's.
fn checked(name: String) -> Result<String, ApiError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(good) {
        let message = "`name` must be 1 to 100 letters, digits and `._-`, and not begin with a dot";
        return Err(ApiError::invalid_value("name", message));
    }
    Ok(name)
}
