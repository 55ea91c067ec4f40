//! Values that are never shown.

use std::fmt;
use std::path::Path;

use super::file::read_capped;

/// A key or password: printed as `***` wherever it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The plain text; call it only where it is compared or sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "***")
    }
}

/// Reads a file of keys: one a line; empty lines and lines that begin with `#` do not count.
pub(super) fn read_keys_file(path: &Path) -> Result<Vec<Secret>, String> {
    let text = read_capped(path).map_err(|reason| format!("cannot read {}: {reason}", path.display()))?;
    let keys: Vec<Secret> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Secret::new)
        .collect();
    if keys.is_empty() {
        // An empty file would quietly open the server to everyone.
        return Err(format!("{} holds no key; write one a line", path.display()));
    }
    Ok(keys)
}
