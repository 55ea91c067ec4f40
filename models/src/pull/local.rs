//! A model that was given by path.

use std::path::{Path, PathBuf};

use crate::catalog::FileRole;

use super::error::PullError;
use super::select::{POOLING, is_split, select};

/// The files of the model at `path`: the GGUF itself, or what the folder holds.
pub(crate) fn open(path: &Path) -> Result<Vec<(FileRole, PathBuf)>, PullError> {
    if path.is_file() {
        return open_file(path);
    }
    if !path.is_dir() {
        return Err(PullError::NoSuchPath { path: path.to_path_buf() });
    }
    let mut names = Vec::new();
    for child in path.read_dir().map_err(PullError::io("list", path))? {
        let child = child.map_err(PullError::io("list", path))?;
        if let (Ok(name), true) = (child.file_name().into_string(), child.path().is_file()) {
            names.push(name);
        }
    }
    names.extend(Some(POOLING.to_string()).filter(|name| path.join(name).is_file()));
    names.sort();
    let is_gguf = |name: &&String| name.to_ascii_lowercase().ends_with(".gguf");
    let has_config = names.iter().any(|name| name == "config.json");
    let selected = if names.iter().filter(is_gguf).count() > 1 && !has_config {
        let found: Vec<&str> = names.iter().filter(is_gguf).map(String::as_str).collect();
        return Err(not_a_model(path, format!("several GGUF files, name one of them: {}", found.join(", "))));
    } else {
        let quant = has_config.then_some("safetensors").filter(|_| names.iter().any(|n| n.ends_with(".safetensors")));
        select(&path.display().to_string(), &names, quant)
    };
    match selected {
        Ok(selected) => Ok(selected.into_iter().map(|(role, name)| (role, path.join(name))).collect()),
        Err(PullError::NoMatchingFile { wanted, .. }) => Err(not_a_model(path, format!("no {wanted}"))),
        Err(error) => Err(error),
    }
}

fn open_file(path: &Path) -> Result<Vec<(FileRole, PathBuf)>, PullError> {
    if is_split(&path.to_string_lossy()) {
        return Err(PullError::SplitGguf { file: path.display().to_string() });
    }
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    if extension == "safetensors" {
        let reason = "safetensors need their config.json and tokenizer.json, name the folder".to_string();
        return Err(not_a_model(path, reason));
    }
    if extension != "gguf" {
        return Err(not_a_model(path, "a file with the ending .gguf or a folder is wanted".to_string()));
    }
    Ok(vec![(FileRole::Weights, path.to_path_buf())])
}

fn not_a_model(path: &Path, reason: String) -> PullError {
    PullError::NotAModel { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn check(names: &[&str], pick: &str, expected: Result<&[&str], &str>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in names {
            fs::write(folder.path().join(name), "x").expect("write");
        }
        let got = open(&folder.path().join(pick));
        match (got, expected) {
            (Ok(files), Ok(expected)) => {
                let names: Vec<_> = files.iter().filter_map(|(_, path)| path.file_name()?.to_str()).collect();
                assert_eq!(names, expected);
            }
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            (got, expected) => panic!("{names:?}/{pick}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn paths_are_read() {
        check(&["m.gguf"], "m.gguf", Ok(&["m.gguf"]));
        check(&["m.gguf", "README.md"], "", Ok(&["m.gguf"]));
        check(&["a.gguf", "b.gguf"], "", Err("several GGUF files, name one of them: a.gguf, b.gguf"));
        check(&["m-00001-of-00002.gguf"], "m-00001-of-00002.gguf", Err("split into several files"));
        check(&["config.json", "model.safetensors"], "", Ok(&["model.safetensors", "config.json"]));
        check(&["model.safetensors"], "", Err("no config.json"));
        check(&["model.safetensors"], "model.safetensors", Err("name the folder"));
        check(&["notes.txt"], "notes.txt", Err(".gguf or a folder is wanted"));
        check(&[], "absent.gguf", Err("no such file"));
    }
}
