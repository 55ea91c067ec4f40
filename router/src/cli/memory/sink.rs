//! A server's memory as what an indexing run writes to.

use std::sync::Arc;

use engram_memory::ingest::{Manifest, ORIGIN, Sink};
use engram_memory::{MemoryError, NewRecord, Provenance, RecordId, Result, Scope};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::cli::client::Client;

/// Ids that one request may name.
const IDS: usize = 10_000;
/// Records on a page.
const PAGE: usize = 1000;
/// A manifest is sent in parts of about so many bytes: what a batch of records has, and far below what a server takes.
const PART: usize = 1 << 20;

/// Speaks the API from a thread that may block. The tenant is the key's: that of the scopes is not sent.
pub struct ApiSink {
    client: Arc<Client>,
    runtime: Handle,
    /// As the API takes it; every scope of a run is this one.
    scope: Value,
}

impl ApiSink {
    /// To `client`, with the scope as the API takes it; to be made on a thread of the runtime.
    pub fn new(client: Arc<Client>, scope: Value) -> Self {
        Self { client, runtime: Handle::current(), scope }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.runtime.block_on(self.client.send(method, path, body)).map_err(|error| failed(format!("{error:#}")))
    }

    /// `?domain=..&project=..` and more.
    fn parameters(&self, more: &[(&str, &str)]) -> String {
        let mut url = reqwest::Url::parse("http://x").expect("a constant");
        for name in ["domain", "project"] {
            if let Some(value) = self.scope[name].as_str() {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        url.query_pairs_mut().extend_pairs(more);
        format!("?{}", url.query().unwrap_or_default())
    }
}

fn failed(message: String) -> MemoryError {
    MemoryError::Backend { backend: "server", message, retryable: false }
}

/// A part of an answer as what it should be.
fn read<T: serde::de::DeserializeOwned>(value: &mut Value) -> Result<T> {
    serde_json::from_value(value.take()).map_err(|error| failed(format!("its answer is not what was asked: {error}")))
}

impl Sink for ApiSink {
    fn write(&mut self, records: Vec<NewRecord>) -> Result<Vec<RecordId>> {
        let body: Vec<Value> = records
            .into_iter()
            .map(|record| {
                json!({"content": record.content, "kind": record.kind, "scope": self.scope, "ttl": null,
                    "metadata": record.metadata, "provenance": record.provenance, "pinned": record.pinned})
            })
            .collect();
        let mut answer = self.ask("POST", "/v1/memory/records", &Value::Array(body))?;
        answer["data"].as_array_mut().into_iter().flatten().map(|written| read(&mut written["id"])).collect()
    }

    fn forget(&mut self, _: &Scope, ids: Vec<RecordId>) -> Result<()> {
        let scope = json!({"domain": self.scope["domain"]});
        for ids in ids.chunks(IDS) {
            self.ask("POST", "/v1/memory/forget", &json!({"ids": ids, "scope": scope}))?;
        }
        Ok(())
    }

    fn relocate(&mut self, _: &Scope, moved: Vec<(RecordId, Provenance)>) -> Result<()> {
        for moved in moved.chunks(PAGE) {
            let moved: Vec<Value> =
                moved.iter().map(|(id, provenance)| json!({"id": id, "provenance": provenance})).collect();
            self.ask("PATCH", "/v1/memory/index", &json!({"scope": self.scope, "moved": moved}))?;
        }
        Ok(())
    }

    fn indexed(&mut self, _: &Scope) -> Result<Vec<(RecordId, Provenance)>> {
        let filter = json!({"and": [
            {"eq": {"field": "metadata.origin", "value": ORIGIN}},
            {"not": {"exists": {"field": "session"}}},
        ]});
        let (filter, limit) = (filter.to_string(), PAGE.to_string());
        let mut found: Vec<(RecordId, Provenance)> = Vec::new();
        loop {
            let after = found.last().map(|(id, _)| id.to_string());
            let mut more = vec![("filter", filter.as_str()), ("limit", limit.as_str())];
            more.extend(after.as_deref().map(|after| ("after", after)));
            let path = format!("/v1/memory/records{}", self.parameters(&more));
            let mut answer = self.ask("GET", &path, &Value::Null)?;
            for record in answer["data"].as_array_mut().into_iter().flatten() {
                found.push((read(&mut record["id"])?, read(&mut record["provenance"])?));
            }
            if answer["has_more"] != true {
                return Ok(found);
            }
        }
    }

    fn load_manifest(&mut self, _: &Scope) -> Result<Option<Manifest>> {
        let path = format!("/v1/memory/index{}", self.parameters(&[]));
        read(&mut self.ask("GET", &path, &Value::Null)?["manifest"])
    }

    fn save_manifest(&mut self, _: &Scope, manifest: &Manifest) -> Result<()> {
        let parts = manifest.clone().into_parts(PART);
        let (upload, count) = (uuid::Uuid::new_v4().simple().to_string(), parts.len());
        for (number, manifest) in parts.into_iter().enumerate() {
            let mut body = json!({"scope": self.scope, "manifest": manifest});
            if count > 1 {
                body["part"] = json!({"upload": upload, "number": number, "last": number + 1 == count});
            }
            self.ask("PUT", "/v1/memory/index", &body)?;
        }
        Ok(())
    }
}
