//! Models split over several GGUF files, as `gguf-split` makes them: `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

use super::limits::MAX_PARTS;
use super::{Gguf, GgufError, Metadata, gguf_error};
use crate::error::ModelError;
use crate::mmap::FileBytes;

/// Which part of how many a file says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Zero-based.
    part: u64,
    parts: u64,
}

impl Split {
    /// From `split.no` and `split.count`; `None` for a model in one file.
    pub(super) fn of(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let number = |key: &str| metadata.get(key).and_then(super::Value::as_u64);
        let parts = number("split.count").unwrap_or(1);
        if parts <= 1 {
            return Ok(None);
        }
        if parts > MAX_PARTS {
            return Err(GgufError::AbsurdCount { what: "`split.count`".into(), found: parts, limit: MAX_PARTS });
        }
        let split = Self { part: number("split.no").unwrap_or(0), parts };
        if split.part >= parts {
            return Err(split.error("there is no such part"));
        }
        Ok(Some(split))
    }

    fn error(self, reason: impl Into<String>) -> GgufError {
        GgufError::BadSplit { part: self.part.saturating_add(1), parts: self.parts, reason: reason.into() }
    }

    /// Opens the other parts beside `path`, whose part is `opened`, and joins them in order.
    pub(super) fn gather(self, path: &Path, opened: Gguf) -> Result<Gguf, ModelError> {
        let paths = self.paths(path).map_err(|source| gguf_error(path, source))?;
        let missing: Vec<String> =
            paths.iter().filter(|part| !part.is_file()).map(|part| part.display().to_string()).collect();
        if !missing.is_empty() {
            let reason = format!("missing: {}; fetch all parts into one directory", missing.join(", "));
            return Err(gguf_error(path, self.error(reason)));
        }
        let mut opened = Some(opened);
        let mut whole: Option<Gguf> = None;
        for (index, part_path) in paths.iter().enumerate() {
            let part = match opened.take_if(|_| index as u64 == self.part) {
                Some(part) => part,
                None => self.open_part(part_path, index as u64)?,
            };
            match whole.as_mut() {
                None => whole = Some(part),
                Some(whole) => whole.absorb(part).map_err(|source| gguf_error(part_path, source))?,
            }
        }
        whole.ok_or_else(|| gguf_error(path, self.error("there are no parts")))
    }

    fn open_part(self, path: &Path, index: u64) -> Result<Gguf, ModelError> {
        let part = Gguf::from_part(path, FileBytes::map(path)?)?;
        let wanted = Self { part: index, ..self };
        match Self::of(&part.metadata).map_err(|source| gguf_error(path, source))? {
            Some(found) if found == wanted => Ok(part),
            _ => {
                let reason = "its name says so, its metadata says otherwise: the parts are of different models";
                Err(gguf_error(path, wanted.error(reason)))
            }
        }
    }

    /// The paths of all parts, from the name of one.
    fn paths(self, path: &Path) -> Result<Vec<PathBuf>, GgufError> {
        let ending = format!("-{:05}-of-{:05}.gguf", self.part + 1, self.parts);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(stem) = name.strip_suffix(&ending) else {
            return Err(self.error(format!("its name has to end in `{ending}` for the others to be found")));
        };
        let part_name = |part| format!("{stem}-{part:05}-of-{:05}.gguf", self.parts);
        Ok((1..=self.parts).map(|part| path.with_file_name(part_name(part))).collect())
    }
}
