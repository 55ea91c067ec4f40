//! The nearest known name for a mistyped one.

use super::families::FAMILIES;
use super::keys::{KEYS, SECTIONS};

/// Longest name that is compared: the cost is quadratic, and nobody mistypes a novel.
const MAX_COMPARED: usize = 64;

/// The known name closest to `typed`, if it is close enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = typed.chars().count();
    if length > MAX_COMPARED {
        return None;
    }
    // About one slip in three letters.
    let limit = (length / 3).max(1);
    known
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The known key closest to `typed`; a key without or with the wrong section is found by its last part.
pub fn nearest_key(typed: &str) -> Option<String> {
    let families = FAMILIES.iter().map(|family| family.name);
    let full = nearest(typed, KEYS.iter().map(|key| key.name).chain(SECTIONS.iter().copied()).chain(families));
    if let Some(name) = full {
        return Some(name.to_owned());
    }
    let last = typed.rsplit('.').next().unwrap_or(typed);
    let short = nearest(last, KEYS.iter().map(|key| key.short()))?;
    KEYS.iter().find(|key| key.short() == short).map(|key| key.name.to_owned())
}

/// Text for a message: at most 60 characters of it.
pub fn shorten(text: &str) -> String {
    shorten_to(text, 60)
}

/// Text for a message: at most this many characters of it.
pub fn shorten_to(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    let head: String = text.chars().take(most.saturating_sub(3)).collect();
    format!("{head}...")
}
