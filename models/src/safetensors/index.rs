//! The index of a sharded model: which tensor lies in which file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::{SafetensorsError, error};
use crate::error::ModelError;

/// Bytes of an index file; the largest published ones are under 20 MiB.
const MAX_INDEX: u64 = 1 << 25;

/// A parsed `model.safetensors.index.json`.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Tensor names and the names of their files.
    pub(super) fn weight_map(&self) -> impl Iterator<Item = (&str, &str)> {
        self.weight_map.iter().map(|(name, file)| (name.as_str(), file.as_str()))
    }

    /// The shards beside the index at `path`, each once. Names that lead elsewhere and missing files are refused.
    pub(super) fn shard_paths(&self, path: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let files: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        if files.is_empty() {
            return Err(error(path, SafetensorsError::NoFiles));
        }
        if let Some(file) = files.iter().find(|file| !is_plain_name(file)) {
            return Err(error(path, SafetensorsError::ShardOutside { file: (*file).to_owned() }));
        }
        let beside = |file: &&str| path.with_file_name(file);
        let missing: Vec<String> =
            files.iter().filter(|file| !beside(file).is_file()).map(|file| (*file).to_owned()).collect();
        if !missing.is_empty() {
            return Err(error(path, SafetensorsError::MissingShards { shards: missing }));
        }
        Ok(files.iter().map(beside).collect())
    }
}

/// Reads and parses the index at `path`.
pub(super) fn read(path: &Path) -> Result<Index, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let bad = |reason| error(path, SafetensorsError::BadIndex { reason });
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > MAX_INDEX {
        return Err(bad(format!("it has {len} bytes, at most {MAX_INDEX} can be right")));
    }
    let text = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

fn is_plain_name(file: &str) -> bool {
    let mut components = Path::new(file).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) && !file.ends_with('/')
}

/// Where file names count themselves (`model-00001-of-00003.safetensors`), the names that are not among `files`.
pub(super) fn missing_by_number(files: &[&Path]) -> Option<Vec<String>> {
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let first = names.first()?;
    let (prefix, total) = first.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = prefix.rsplit_once('-')?;
    let count: usize = total.parse().ok().filter(|&count| count <= 10_000)?;
    number.parse::<usize>().ok()?;
    let width = number.len();
    let missing: Vec<String> = (1..=count)
        .map(|part| format!("{stem}-{part:0width$}-of-{total}.safetensors"))
        .filter(|name| !names.contains(name.as_str()))
        .collect();
    (!missing.is_empty()).then_some(missing)
}
