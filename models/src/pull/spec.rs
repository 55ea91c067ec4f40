//! What a user may write to name a model.

use std::path::PathBuf;

use crate::catalog::{self, CatalogEntry};

use super::error::PullError;

/// A model as it was named: a path, a catalog name, or a repository of the hub.
#[derive(Debug, Clone)]
pub(crate) enum Spec {
    /// A GGUF file, or a folder with one or with `config.json` and safetensors.
    Path(PathBuf),
    /// `NAME[:QUANT][@REVISION]`.
    Catalog { entry: &'static CatalogEntry, quant: Option<String>, revision: Option<String> },
    /// `OWNER/REPO[:QUANT][@REVISION]`.
    Hub { repo: String, quant: Option<String>, revision: Option<String> },
}

impl Spec {
    /// Reads a name. The order is the documented one: path, catalog, hub.
    pub(crate) fn parse(text: &str) -> Result<Self, PullError> {
        let text = text.trim();
        if let Some(path) = as_path(text)? {
            return Ok(Self::Path(path));
        }
        let (rest, revision) = split_suffix(text, '@');
        let (name, quant) = split_suffix(rest, ':');
        if let Some(entry) = catalog::find(name) {
            return Ok(Self::Catalog { entry, quant, revision });
        }
        if is_repo(name) && revision.as_deref().is_none_or(is_revision) {
            return Ok(Self::Hub { repo: name.to_string(), quant, revision });
        }
        Err(PullError::UnknownModel {
            spec: text.to_string(),
            nearest: catalog::nearest(name).into_iter().map(str::to_string).collect(),
        })
    }
}

/// The path that `text` is, if it is one: something that exists and can hold a model, or that can only be a path.
fn as_path(text: &str) -> Result<Option<PathBuf>, PullError> {
    let path = match text.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest))) {
        Some(path) => path,
        None => PathBuf::from(text),
    };
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let unmistakable = is_gguf || text.starts_with(['/', '.', '~']) || text.contains('\\');
    // A folder that merely shares its name with a model is no reason to refuse the model.
    let holds_model = path.is_dir() && (path.join("config.json").is_file() || has_gguf(&path));
    if holds_model || (unmistakable && path.exists()) {
        return Ok(Some(path));
    }
    if unmistakable { Err(PullError::NoSuchPath { path }) } else { Ok(None) }
}

fn has_gguf(folder: &std::path::Path) -> bool {
    let Ok(children) = folder.read_dir() else {
        return false;
    };
    children.flatten().any(|child| child.path().extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
}

fn split_suffix(text: &str, mark: char) -> (&str, Option<String>) {
    match text.rsplit_once(mark) {
        Some((head, tail)) if !head.is_empty() && !tail.is_empty() => (head, Some(tail.to_string())),
        _ => (text, None),
    }
}

/// Whether this is `owner/name` in the hub's alphabet.
pub(crate) fn is_repo(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(allowed)
            && !part.starts_with('.')
            && !part.contains("..")
    };
    matches!(text.split_once('/'), Some((owner, name)) if part(owner) && part(name))
}

/// Whether this can be a branch, tag or commit, and is harmless as a path below `refs`.
pub(crate) fn is_revision(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
    };
    text.len() <= 200 && text.split('/').all(part)
}

/// Whether this is a full commit hash, which never moves.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let got = match Spec::parse(text) {
            Ok(Spec::Path(path)) => format!("path {}", path.display()),
            Ok(Spec::Catalog { entry, quant, revision }) => format!("catalog {} {quant:?} {revision:?}", entry.id),
            Ok(Spec::Hub { repo, quant, revision }) => format!("hub {repo} {quant:?} {revision:?}"),
            Err(PullError::NoSuchPath { .. }) => "no such path".to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn names_are_told_apart() {
        check("smollm2-135m-instruct", "catalog smollm2-135m-instruct None None");
        check(" SmolLM2 ", "catalog smollm2-135m-instruct None None");
        check("smollm2:Q8_0", "catalog smollm2-135m-instruct Some(\"Q8_0\") None");
        check("smollm2:Q8_0@main", "catalog smollm2-135m-instruct Some(\"Q8_0\") Some(\"main\")");
        check("Qwen/Qwen3-0.6B", "hub Qwen/Qwen3-0.6B None None");
        check("a/b:Q4_K_M@refs/pr/1", "hub a/b Some(\"Q4_K_M\") Some(\"refs/pr/1\")");
        check("./nothing-here.gguf", "no such path");
        check("nothing-here.gguf", "no such path");
        check("/nothing/here", "no such path");
        for wrong in ["", "a/b/c", "a/", "/b/../c:x", "../../etc", "a/..", "owner/repo@../../x", "a b"] {
            assert!(Spec::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest() {
        let error = Spec::parse("qwen2.5-coder-0.5b-instuct").expect_err("mistyped");
        let text = error.to_string();
        assert!(text.contains("nearest known: `qwen2.5-coder-0.5b-instruct`"), "{text}");
    }
}
