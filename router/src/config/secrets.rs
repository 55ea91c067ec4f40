//! Values that are never shown.

use std::path::Path;

pub use engram_memory::backend::Secret;

use super::file::read_capped;

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
