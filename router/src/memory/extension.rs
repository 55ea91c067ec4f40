//! The `memory` member of chats and completions: what is recalled for the request, and where it is remembered.

use engram_memory::{Kind, Scope};
use serde_json::Value;

use super::wire::{Where, read_kinds, read_scope};
use crate::auth::doors::require;
use crate::auth::{self, Tenant};
use crate::config::{KeyDefaults, MemorySettings, RecallDefault, Remember};
use crate::error::{ApiError, ErrorCode};
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// Most records that one request recalls.
const MAX_RECALL: usize = 100;

/// `memory`, as the body has it; the defaults of the key are not in it yet.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryMember(Value);

/// How much is recalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallWish {
    /// Records at most.
    pub k: usize,
    /// Their tokens at most.
    pub budget_tokens: usize,
    /// Kinds; empty: all.
    pub kinds: Vec<Kind>,
}

/// What one request wants of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryWish {
    /// Where it looks and remembers.
    pub scope: Scope,
    /// What it recalls, if anything.
    pub recall: Option<RecallWish>,
    /// Where it is remembered.
    pub remember: Remember,
}

impl MemoryMember {
    /// Takes the member out of the body.
    pub fn read(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        match fields.raw("memory") {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(Self(value))),
            Some(other) => Err(wrong_type("memory", &other, "an object")),
        }
    }
}

impl MemoryWish {
    /// What the body says over what its key's defaults say; `None`: nothing of the memory is wanted.
    ///
    /// # Errors
    /// A member that does not read, or asks to remember in a session or project that it does not name. One at all,
    /// where the key is not for the memory; its defaults then want nothing.
    pub fn resolve(
        member: Option<MemoryMember>,
        tenant: &Tenant,
        settings: &MemorySettings,
    ) -> Result<Option<Self>, ApiError> {
        if !tenant.scopes.allow(auth::Scope::Memory) {
            require(member.is_none(), auth::Scope::Memory)?;
            return Ok(None);
        }
        let defaults = settings.defaults_of(&tenant.name);
        if member.is_none() && defaults.recall == RecallDefault::Off && defaults.remember == Remember::Off {
            return Ok(None);
        }
        let place = Where::of(tenant, settings)?;
        // A project belongs to its domain: it does not follow a key into another.
        let elsewhere = KeyDefaults { project: None, ..defaults.clone() };
        let defaults = if place.domain == defaults.domain { defaults } else { &elsewhere };
        let wish = match member {
            Some(MemoryMember(value)) => read(Fields::at("memory", value)?, &place, defaults, settings)?,
            None => {
                let scope =
                    Scope { partition: place.partition(None)?, project: defaults.project.clone(), session: None };
                let remember = possible(defaults.remember, &scope);
                Self { scope, recall: default_recall(defaults, settings), remember }
            }
        };
        Ok((wish.recall.is_some() || wish.remember != Remember::Off).then_some(wish))
    }
}

fn read(
    mut fields: Fields,
    place: &Where,
    defaults: &KeyDefaults,
    settings: &MemorySettings,
) -> Result<MemoryWish, ApiError> {
    let (mut scope, named_domain) = read_scope(&mut fields, place)?;
    // The key's project belongs to its domain: it does not follow a request into another.
    if scope.project.is_none() && !named_domain {
        scope.project = defaults.project.clone();
    }
    let recall = match fields.raw("recall") {
        None => default_recall(defaults, settings),
        Some(Value::String(word)) if word == "off" => None,
        Some(Value::String(word)) if word == "auto" => Some(auto(settings)),
        Some(value @ Value::Object(_)) => Some(read_recall(Fields::at("memory.recall", value)?, settings)?),
        Some(other) => return Err(wrong_type("memory.recall", &other, "\"auto\", \"off\" or an object")),
    };
    let remember = match fields.string("remember")? {
        None => possible(defaults.remember, &scope),
        Some(word) => asked(&word, &scope)?,
    };
    fields.finish()?;
    Ok(MemoryWish { scope, recall, remember })
}

fn read_recall(mut fields: Fields, settings: &MemorySettings) -> Result<RecallWish, ApiError> {
    let k = fields.count("k", 1..=MAX_RECALL)?.unwrap_or(settings.recall_k);
    let budget_tokens = fields.count("budget_tokens", 1..=1 << 20)?.unwrap_or(settings.recall_budget_tokens);
    let kinds = read_kinds(&mut fields)?;
    fields.finish()?;
    Ok(RecallWish { k, budget_tokens, kinds })
}

fn auto(settings: &MemorySettings) -> RecallWish {
    RecallWish { k: settings.recall_k, budget_tokens: settings.recall_budget_tokens, kinds: Vec::new() }
}

fn default_recall(defaults: &KeyDefaults, settings: &MemorySettings) -> Option<RecallWish> {
    (defaults.recall == RecallDefault::Auto).then(|| auto(settings))
}

/// A default of the key holds only where the request names what it needs.
fn possible(remember: Remember, scope: &Scope) -> Remember {
    match remember {
        Remember::Session if scope.session.is_none() => Remember::Off,
        Remember::Project if scope.project.is_none() => Remember::Off,
        other => other,
    }
}

/// What the request itself asks for must be possible.
fn asked(word: &str, scope: &Scope) -> Result<Remember, ApiError> {
    let Some(remember) = Remember::parse(word) else {
        let shown: String = word.chars().take(64).collect();
        let known = Remember::WORDS.join(", ");
        let message = format!("`memory.remember` is `{shown}`, must be one of {known}");
        return Err(ApiError::invalid_value("memory.remember", message));
    };
    let missing = match remember {
        Remember::Session if scope.session.is_none() => "session",
        Remember::Project if scope.project.is_none() => "project",
        _ => return Ok(remember),
    };
    let message = format!("`memory.scope.{missing}` is missing: `remember: \"{word}\"` needs it");
    Err(ApiError::new(ErrorCode::MissingParameter, message).with_param(format!("memory.scope.{missing}")))
}

#[cfg(test)]
#[path = "extension_tests.rs"]
mod tests;
