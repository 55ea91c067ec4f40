//! What must not be kept is taken out before anything is stored or embedded.

use std::borrow::Cow;

use serde_json::Value;

/// Takes secrets out of a text.
pub trait Redactor: Send + Sync {
    /// The text without its secrets; borrowed where there was none.
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str>;
}

/// Keeps every text as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unredacted;

impl Redactor for Unredacted {
    fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(text)
    }
}

/// The strings inside a JSON value, redacted in place; keys stay. Its depth is that of a parsed document.
pub(crate) fn redact_json(redactor: &dyn Redactor, value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = redactor.redact(text) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact_json(redactor, item)),
        Value::Object(fields) => fields.values_mut().for_each(|field| redact_json(redactor, field)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
