//! The bytes of a model file: mapped, so that opening one costs no copy and no memory of ours.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::ModelError;

/// The bytes of a file, mapped read-only; or bytes that are in memory already (tests, fuzzing).
#[derive(Debug)]
pub struct FileBytes(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps `path` read-only.
    ///
    /// An empty file gives an empty slice. The mapping shows later writes to the file: a model file must not
    /// be changed or truncated in place while it is served (replace it by renaming another over it).
    pub fn map(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(io)?; // first: opening a pipe would wait for its writer
        if !meta.is_file() {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        if meta.len() == 0 {
            return Ok(Self(Bytes::Owned(Vec::new())));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is private to us, read-only and outlives every slice of it (they borrow `self`).
        // That nobody truncates the file in place is a condition stated above; files are replaced by rename,
        // which leaves our mapping on the old file. All readers take the bytes as untrusted.
        let map = unsafe { memmap2::MmapOptions::new().map(&file) }.map_err(io)?;
        Ok(Self(Bytes::Mapped(map)))
    }

    /// Bytes that are in memory already.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self(Bytes::Owned(bytes))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_a_file_an_empty_file_and_refuses_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(&*FileBytes::map(&path).unwrap(), b"abc");
        std::fs::write(&path, b"").unwrap();
        assert!(FileBytes::map(&path).unwrap().is_empty());
        assert!(matches!(FileBytes::map(dir.path()), Err(ModelError::Io { .. })));
        assert!(matches!(FileBytes::map(&dir.path().join("none")), Err(ModelError::Io { .. })));
    }
}
