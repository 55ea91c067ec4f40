//! The commit that a working tree is at, read from the repository's files.

use std::fs;
use std::path::Path;

/// The commit of `HEAD` in the repository that `path` lies in, as hex digits; `None` outside of one, or before the
/// first commit. The files may differ from it. Layout: gitrepository-layout(5); worktrees and packed refs are followed.
pub fn head_commit(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let (base, dot_git) = path.ancestors().map(|dir| (dir, dir.join(".git"))).find(|(_, git)| git.exists())?;
    let dir = if dot_git.is_dir() {
        dot_git
    } else {
        base.join(fs::read_to_string(dot_git).ok()?.trim().strip_prefix("gitdir:")?.trim())
    };
    let common = fs::read_to_string(dir.join("commondir")).map_or(dir.clone(), |common| dir.join(common.trim()));
    let mut value = fs::read_to_string(dir.join("HEAD")).ok()?;
    for _ in 0..5 {
        let Some(name) = value.trim().strip_prefix("ref:").map(str::trim) else { break };
        value = reference(&dir, &common, name)?;
    }
    let commit = value.trim();
    let hex = matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| commit.to_owned())
}

fn reference(dir: &Path, common: &Path, name: &str) -> Option<String> {
    if name.split('/').any(|part| part == "..") {
        return None;
    }
    let loose = [dir, common].into_iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
    loose.or_else(|| {
        let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
        let found = packed.lines().filter_map(|line| line.split_once(' ')).find(|(_, packed)| *packed == name);
        found.map(|(commit, _)| commit.to_owned())
    })
}
