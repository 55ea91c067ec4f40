//! Records to points and back.
//!
//! A point holds one record as it stands and, in its payload, all that it was before: one write changes both.
//! Its id is the record's, which is a hash that takes in tenant and domain.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::filter::{bounded, facts};
use super::{NAME, words};
use crate::backend::Stored;
use crate::error::{MemoryError, Result};
use crate::record::{Record, RecordId, Timestamp};

/// The vector of a record's meaning.
pub(super) const MEANING: &str = "meaning";
/// The sparse vector of its words.
pub(super) const WORDS: &str = "words";

/// Stamps of writes that a point remembers: as many others may write it before one looks whether its own was done.
const TRAIL: usize = 64;

/// An id as Qdrant writes it: a UUID.
pub(super) fn uuid(id: RecordId) -> String {
    let digits = id.to_string();
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// A point as Qdrant answers it; what was not asked for is empty.
#[derive(Deserialize)]
pub(super) struct Answered {
    id: String,
    #[serde(default)]
    pub(super) score: f32,
    payload: Option<Payload>,
    vector: Option<Vectors>,
}

#[derive(Deserialize, Default)]
struct Vectors {
    #[serde(default)]
    meaning: Vec<f32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Payload {
    body: String,
    content: String,
    history: Vec<String>,
    stamp: i64,
    trail: Vec<i64>,
}

/// A version that stood until another took its place.
#[derive(Serialize, Deserialize)]
pub(super) struct Past {
    record: Record,
    until: Timestamp,
    vector: Vec<f32>,
}

/// A record as its point holds it.
pub(super) struct Held {
    pub(super) stored: Stored,
    /// Versions before, oldest first, each as JSON.
    pub(super) history: Vec<String>,
    /// Number of its last write.
    pub(super) stamp: i64,
    /// Numbers of its last writes.
    pub(super) trail: Vec<i64>,
}

impl Answered {
    /// The record's id.
    pub(super) fn id(&self) -> Result<RecordId> {
        let id = self.id.replace('-', "").parse();
        id.map_err(|_| damaged(&self.id, &"its id is none of engram's"))
    }

    /// Numbers of its last writes.
    pub(super) fn trail(&self) -> &[i64] {
        self.payload.as_ref().map_or(&[], |payload| &payload.trail)
    }

    /// All of it, as far as it was asked for.
    pub(super) fn held(self) -> Result<Held> {
        let payload = self.payload.unwrap_or_default();
        let mut record: Record = serde_json::from_str(&payload.body).map_err(|error| damaged(&self.id, &error))?;
        if self.id != uuid(record.id) {
            return Err(damaged(&self.id, &format!("it holds record {}", record.id)));
        }
        record.content = payload.content;
        let vector = self.vector.unwrap_or_default().meaning;
        let Payload { history, stamp, trail, .. } = payload;
        Ok(Held { stored: Stored { record, vector }, history, stamp, trail })
    }
}

impl Held {
    /// A record that was never written.
    pub(super) fn new(stored: Stored) -> Self {
        Self { stored, history: Vec::new(), stamp: 0, trail: Vec::new() }
    }

    /// Keeps the record as it stands among its past, until `until`.
    pub(super) fn archive(&mut self, until: Timestamp) {
        let past = Past { record: self.stored.record.clone(), until, vector: self.stored.vector.clone() };
        self.history.push(json!(past).to_string());
    }

    /// The version that stood at `then`.
    pub(super) fn stood(self, then: Timestamp) -> Result<Option<Stored>> {
        let id = self.stored.record.id;
        let mut stood = Some(self.stored).filter(|stored| stored.record.updated <= then);
        for past in self.history.iter().rev() {
            if stood.is_some() {
                break;
            }
            let past: Past = serde_json::from_str(past).map_err(|error| damaged(&uuid(id), &error))?;
            if past.record.updated <= then {
                if past.until <= then {
                    break;
                }
                stood = Some(Stored { record: past.record, vector: past.vector });
            }
        }
        Ok(stood.filter(|stored| !stored.record.expired(then)))
    }

    /// Gives it the number of a new write.
    pub(super) fn stamped(mut self, stamp: i64) -> Self {
        self.stamp = stamp;
        self.trail.push(stamp);
        self.trail.drain(..self.trail.len().saturating_sub(TRAIL));
        self
    }

    /// The point to be written, as JSON.
    pub(super) fn point(&self) -> String {
        let Stored { record, vector } = &self.stored;
        let bare = Record { content: String::new(), ..record.clone() };
        let scope = &record.scope;
        let mut payload = json!({
            "tenant": scope.partition.tenant,
            "domain": scope.partition.domain,
            "project": scope.project,
            "session": scope.session,
            "kind": record.kind,
            "created": bounded(record.created.0),
            "updated": bounded(record.updated.0),
            "version": record.version,
            "facts": facts(record),
            "terms": words::terms(record),
            "stamp": self.stamp,
            "trail": self.trail,
            "body": json!(bare).to_string(),
            "content": record.content,
            "history": self.history,
        });
        if let Some(expires) = record.expires.filter(|_| !record.pinned) {
            payload["dies"] = json!(bounded(expires.0));
        }
        let mut vectors = json!({ MEANING: vector });
        if let Some(sparse) = words::vector(record) {
            vectors[WORDS] = sparse;
        }
        json!({"id": uuid(record.id), "vector": vectors, "payload": payload}).to_string()
    }
}

fn damaged(point: &str, what: &dyn std::fmt::Display) -> MemoryError {
    MemoryError::Backend { backend: NAME, message: format!("point {point} is damaged: {what}"), retryable: false }
}

/// What is asked back of a point.
pub(super) fn fields(names: &[&str], with_vector: bool) -> Value {
    let vector = if with_vector { json!([MEANING]) } else { json!(false) };
    json!({"with_payload": names, "with_vector": vector})
}
