//! The tables, and how an older database becomes a newer one.

use postgres::Client;

use super::connect::Connector;
use crate::error::{MemoryError, Result};

/// Each step is applied once, in order; a step that was released is never edited.
const STEPS: [&str; 1] = [include_str!("schema_1.sql")];

/// Longest vector that pgvector indexes; longer ones are searched exactly.
/// <https://github.com/pgvector/pgvector#hnsw>
const MAX_INDEXED_DIM: usize = 2000;

/// Brings the schema `name` up to date and checks that it holds vectors of `encoder`.
///
/// Many processes may open at once: an advisory lock lets one of them work.
pub(super) fn migrate(client: &mut Client, by: &Connector, name: &str, encoder: (&str, usize)) -> Result<()> {
    let failed = |error| by.failed(&error);
    let mut transaction = client.transaction().map_err(failed)?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('engram', 0))", &[]).map_err(failed)?;
    // A database that was prepared by its owner needs no right to create.
    let there =
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'), to_regnamespace($1::text) IS NOT NULL";
    let row = transaction.query_one(there, &[&name]).map_err(failed)?;
    if !row.get::<_, bool>(0) {
        transaction
            .batch_execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
            .map_err(|error| extension(by, &error))?;
    }
    if !row.get::<_, bool>(1) {
        transaction.batch_execute(&format!("CREATE SCHEMA {name}")).map_err(failed)?;
    }
    let versions = "CREATE TABLE IF NOT EXISTS engram_schema (version int NOT NULL)";
    transaction.batch_execute(versions).map_err(failed)?;
    let found: i32 =
        transaction.query_one("SELECT coalesce(max(version), 0) FROM engram_schema", &[]).map_err(failed)?.get(0);
    let known = STEPS.len();
    let applied = usize::try_from(found).unwrap_or(0);
    if applied > known {
        let message = format!("schema `{name}` has version {applied}, this engram knows {known}: use the newer engram");
        return Err(MemoryError::Backend { backend: super::NAME, message, retryable: false });
    }
    for (i, step) in STEPS.iter().enumerate().skip(applied) {
        transaction.batch_execute(step).map_err(failed)?;
        let version = i32::try_from(i + 1).unwrap_or(i32::MAX);
        transaction.execute("INSERT INTO engram_schema VALUES ($1)", &[&version]).map_err(failed)?;
    }
    let (encoder, dim) = encoder;
    let row = transaction.query_opt("SELECT name, dim FROM encoder", &[]).map_err(failed)?;
    match row {
        Some(row) => same_encoder((row.get(0), row.get(1)), encoder, dim)?,
        None => {
            let stored = i32::try_from(dim).unwrap_or(i32::MAX);
            transaction.execute("INSERT INTO encoder VALUES ($1, $2)", &[&encoder, &stored]).map_err(failed)?;
            if dim <= MAX_INDEXED_DIM {
                transaction.batch_execute(&index(dim)).map_err(failed)?;
            }
        }
    }
    transaction.commit().map_err(failed)
}

/// Vectors have length 1, so the inner product is the cosine, and is cheaper.
fn index(dim: usize) -> String {
    format!(
        "CREATE INDEX records_nearest ON records USING hnsw ((embedding::vector({dim})) vector_ip_ops) \
         WITH (m = 16, ef_construction = 200)"
    )
}

fn same_encoder((stored, stored_dim): (String, i32), configured: &str, configured_dim: usize) -> Result<()> {
    let stored_dim = usize::try_from(stored_dim).unwrap_or(0);
    if stored == configured && stored_dim == configured_dim {
        return Ok(());
    }
    Err(MemoryError::EncoderMismatch { stored, stored_dim, configured: configured.to_owned(), configured_dim })
}

fn extension(by: &Connector, error: &postgres::Error) -> MemoryError {
    match by.failed(error) {
        MemoryError::Backend { backend, message, retryable } => {
            let message =
                format!("{message}: install pgvector 0.8 or newer, or have its owner run `CREATE EXTENSION vector`");
            MemoryError::Backend { backend, message, retryable }
        }
        other => other,
    }
}
