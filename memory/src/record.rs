//! What is remembered.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{MemoryError, Result};
use crate::scope::Scope;

/// Milliseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The clock of this machine.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What a record is about; lifetimes and cache times go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A piece of source.
    Code,
    /// A pattern or a decision.
    Knowledge,
    /// Something said in a chat.
    Conversation,
    /// Prose: a readme, a page, a ticket.
    Document,
    /// How something is done, step by step.
    Workflow,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Code, Self::Knowledge, Self::Conversation, Self::Document, Self::Workflow];

    /// The word on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Knowledge => "knowledge",
            Self::Conversation => "conversation",
            Self::Document => "document",
            Self::Workflow => "workflow",
        }
    }
}

impl FromStr for Kind {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| MemoryError::Invalid {
            field: "kind".to_owned(),
            message: format!("no kind `{text}`, known: code, knowledge, conversation, document, workflow"),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much a record's word counts: who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// A person wrote it, or it is the project's own source.
    #[default]
    User,
    /// A tool reported it.
    Tool,
    /// A model wrote it.
    Model,
    /// It came with an import.
    Imported,
}

/// Where a record comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provenance {
    /// Path inside the project, with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The commit it was read at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// First and last line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<(u32, u32)>,
    /// The symbol it defines, qualified (`Scheduler::schedule`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Programming language, lower case (`rust`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The request that brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Who said it.
    pub trust: Trust,
}

/// 128 bits, written as 32 hex digits: a hash of scope, kind and first content, so that the same content
/// in the same place is the same record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordId(pub u128);

impl RecordId {
    /// The id of `content` in `scope`; `salt` is 0 unless that id is held by a record whose content has
    /// changed since.
    pub fn of(scope: &Scope, kind: Kind, content: &str, salt: u32) -> Self {
        let mut hash = Sha256::new();
        let parts = [
            scope.partition.tenant.as_str(),
            scope.partition.domain.as_str(),
            scope.project.as_ref().map_or("", |name| name.as_str()),
            scope.session.as_ref().map_or("", |name| name.as_str()),
            kind.as_str(),
            content,
        ];
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(salt.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut head = [0; 16];
        head.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(head))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

impl FromStr for RecordId {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| digits).map(Self).ok_or_else(|| MemoryError::Invalid {
            field: "id".to_owned(),
            message: "a record's id is 32 hexadecimal digits".to_owned(),
        })
    }
}

impl TryFrom<String> for RecordId {
    type Error = MemoryError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<RecordId> for String {
    fn from(id: RecordId) -> Self {
        id.to_string()
    }
}

/// SHA-256 of a content, as 64 hex digits.
pub fn content_hash(content: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(content.as_bytes()).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What users said a record was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Feedback {
    /// Times it was called useful.
    pub useful: u32,
    /// Times it was called wrong.
    pub wrong: u32,
}

/// One thing that is remembered, in one of its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Stable through updates.
    pub id: RecordId,
    /// Where it is kept.
    pub scope: Scope,
    /// What it is about.
    pub kind: Kind,
    /// The text.
    pub content: String,
    /// What the client wants kept beside it.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Where it comes from.
    #[serde(default)]
    pub provenance: Provenance,
    /// When it was first written.
    pub created: Timestamp,
    /// When this version was written.
    pub updated: Timestamp,
    /// When it is forgotten; `None`: never.
    pub expires: Option<Timestamp>,
    /// [`content_hash`] of `content`.
    pub content_hash: String,
    /// 1 at first, one more with each update.
    pub version: u32,
    /// How often the same content was written.
    pub seen: u32,
    /// Pinned records do not expire and are not dropped as near-copies.
    pub pinned: bool,
    /// What users said.
    #[serde(default)]
    pub feedback: Feedback,
}

impl Record {
    /// A record of `now` with nothing but its content: seen once, never changed, kept until it is forgotten.
    pub fn new(scope: Scope, kind: Kind, content: String, now: Timestamp) -> Self {
        Self {
            id: RecordId::of(&scope, kind, &content, 0),
            content_hash: content_hash(&content),
            scope,
            kind,
            content,
            metadata: Map::new(),
            provenance: Provenance::default(),
            created: now,
            updated: now,
            expires: None,
            version: 1,
            seen: 1,
            pinned: false,
            feedback: Feedback::default(),
        }
    }

    /// Whether it is past its time at `now`.
    pub fn expired(&self, now: Timestamp) -> bool {
        !self.pinned && self.expires.is_some_and(|expires| expires <= now)
    }
}
