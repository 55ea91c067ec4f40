//! The collection of an encoder's vectors: made on open, checked every time.

use serde_json::{Value, json};

use super::client::Session;
use super::point::{MEANING, WORDS};
use super::{NAME, QdrantConfig};
use crate::error::{MemoryError, Result};

/// Oldest server that has `update_mode`, without which a change could bring a forgotten record back.
const OLDEST: (u32, u32) = (1, 17);

/// `prefix_encoder_dimension`; bytes of the encoder's name that a collection's may not have, and `_`, are `~` and
/// their hexadecimal number.
pub(super) fn name(prefix: &str, (encoder, dim): (&str, usize)) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let encoder: String = encoder
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("~{byte:02x}") })
        .collect();
    format!("{prefix}_{encoder}_{dim}")
}

/// The encoder and dimension that a collection of this prefix is of.
fn encoder(prefix: &str, collection: &str) -> Option<(String, usize)> {
    let (escaped, dim) = collection.strip_prefix(prefix)?.strip_prefix('_')?.rsplit_once('_')?;
    let mut bytes = Vec::new();
    let mut rest = escaped;
    while let Some((plain, escape)) = rest.split_once('~') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escape.get(..2)?, 16).ok()?);
        rest = &escape[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some((String::from_utf8(bytes).ok()?, dim.parse().ok()?))
}

/// The collection's name, once it is there and is as it should be.
pub(super) fn open(session: &mut Session<'_>, config: &QdrantConfig, wanted: (&str, usize)) -> Result<String> {
    let prefix = &config.collection;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(plain) {
        let message = "is 1 to 64 of A-Z, a-z, 0-9 and -".to_owned();
        return Err(MemoryError::Invalid { field: "collection".to_owned(), message });
    }
    check_version(session)?;
    let name = name(prefix, wanted);
    let all = session.get("/collections")?;
    let names = all["collections"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    let names: Vec<&str> = names.collect();
    if !names.contains(&name.as_str()) {
        if let Some((stored, stored_dim)) = names.iter().find_map(|other| encoder(prefix, other)) {
            let (configured, configured_dim) = (wanted.0.to_owned(), wanted.1);
            return Err(MemoryError::EncoderMismatch { stored, stored_dim, configured, configured_dim });
        }
        make(session, &name, wanted.1)?;
    }
    let there = session.get(&format!("/collections/{name}"))?;
    check(session, &name, &there, wanted.1)?;
    index(session, &name, &there)?;
    Ok(name)
}

fn check_version(session: &mut Session<'_>) -> Result<()> {
    let version = session.version()?;
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= OLDEST {
        return Ok(());
    }
    let (major, minor) = OLDEST;
    let message = format!("version {version:?} is too old: {major}.{minor} or newer has conditional updates");
    Err(session.failed(&message, false))
}

/// Links are built within each tenant only (`m` 0, `payload_m`), as no search leaves its tenant. Vectors have
/// length 1, so the dot product is the cosine, and they come back as they were written.
fn make(session: &mut Session<'_>, name: &str, dim: usize) -> Result<()> {
    let body = json!({
        "vectors": {MEANING: {"size": dim, "distance": "Dot"}},
        "sparse_vectors": {WORDS: {}},
        "hnsw_config": {"m": 0, "payload_m": 16, "ef_construct": 200},
    });
    match session.put(&format!("/collections/{name}"), &body.to_string()) {
        // Another node made it in between.
        Err(MemoryError::Backend { message, .. }) if message.contains("already exists") => Ok(()),
        other => other.map(drop),
    }
}

fn check(session: &Session<'_>, name: &str, there: &Value, dim: usize) -> Result<()> {
    let params = &there["config"]["params"];
    let meaning = &params["vectors"][MEANING];
    if meaning["size"].as_u64() == Some(dim as u64)
        && meaning["distance"] == "Dot"
        && params["sparse_vectors"].get(WORDS).is_some()
    {
        return Ok(());
    }
    let message =
        format!("collection `{name}` was not made by engram for {dim} dimensions: remove it or use another server");
    Err(session.failed(&message, false))
}

/// Makes the payload indexes that are missing. Only the tenant's has links of its own.
fn index(session: &mut Session<'_>, name: &str, there: &Value) -> Result<()> {
    let keyword = json!({"type": "keyword", "enable_hnsw": false});
    let lookup = json!({"type": "integer", "lookup": true, "range": false, "enable_hnsw": false});
    let range = json!({"type": "integer", "lookup": false, "range": true, "enable_hnsw": false});
    let fields = [
        ("tenant", &json!({"type": "keyword", "is_tenant": true})),
        ("domain", &keyword),
        ("project", &keyword),
        ("session", &keyword),
        ("kind", &keyword),
        ("facts", &lookup),
        ("terms", &lookup),
        ("stamp", &lookup),
        ("created", &range),
        ("updated", &range),
        ("version", &range),
        ("dies", &range),
    ];
    for (field, schema) in fields {
        if there["payload_schema"].get(field).is_none() {
            let body = json!({"field_name": field, "field_schema": schema});
            session.put(&format!("/collections/{name}/index?wait=true"), &body.to_string())?;
        }
    }
    Ok(())
}

/// Whether the collection answers.
pub(super) fn health(session: &mut Session<'_>, name: &str) -> Result<()> {
    let there = session.get(&format!("/collections/{name}/exists"))?;
    if there["exists"] == true {
        return Ok(());
    }
    Err(MemoryError::Backend {
        backend: NAME,
        message: format!("collection `{name}` is gone: restart engram to make it again, or restore it"),
        retryable: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_collections() {
        let check = |of: (&str, usize), expected: &str| {
            let name = name("engram", of);
            assert_eq!(name, expected);
            assert_eq!(encoder("engram", &name), Some((of.0.to_owned(), of.1)));
        };
        check(("all-minilm-l6-v2", 384), "engram_all-minilm-l6-v2_384");
        check(("BAAI/bge_small:é~", 8), "engram_BAAI~2fbge~5fsmall~3a~c3~a9~7e_8");
        check(("", 1), "engram__1");
        assert_eq!(encoder("engram", "engram2_a_8"), None);
        assert_eq!(encoder("engram", "engram_a"), None);
        assert_eq!(encoder("engram", "engram_~zz_8"), None);
    }
}
