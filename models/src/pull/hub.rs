//! The Hugging Face hub.
//!
//! `hf-hub` answers what a revision is and which files it has. The bytes are fetched by [`Http`] into the hub's own
//! cache layout, because `hf-hub` 1.0 starts an interrupted file again from its first byte and knows no time limit.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::{HFClientBuilder, HFClientSync, HFError};
use reqwest::Url;

use super::PullOptions;
use super::disk::{FolderLock, create_folder, ensure_room, publish, set_aside};
use super::error::{PullError, chain};
use super::http::{Http, Transfer, header, protocol, shown};
use super::hub_cache::HubCache;
use super::progress::Progress;
use super::spec::is_commit;
use super::verify::{Expected, Ledger, sha256_file};
use crate::catalog::FileRole;

/// A file wanted from a repository.
#[derive(Debug, Clone)]
pub(crate) struct WantedFile {
    pub(crate) role: FileRole,
    pub(crate) path: String,
    /// The checksum the catalog pins; otherwise the hub's own counts.
    pub(crate) sha256: Option<String>,
}

/// A session with the hub.
pub(crate) struct Hub<'a> {
    endpoint: Url,
    token: Option<String>,
    client: HFClientSync,
    http: &'a Http,
    cache: HubCache,
    ledger: &'a Ledger,
    progress: &'a dyn Progress,
}

/// The state of a repository at a commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) paths: Vec<String>,
}

/// What the hub says of one file.
struct Remote {
    etag: String,
    bytes: Option<u64>,
    /// Absent for small files, which are stored in git and have a git hash instead.
    sha256: Option<String>,
}

impl<'a> Hub<'a> {
    pub(crate) fn connect(options: &'a PullOptions, http: &'a Http, ledger: &'a Ledger) -> Result<Self, PullError> {
        let endpoint = options.hub.endpoint.trim_end_matches('/').to_string();
        let refused = |reason: String| PullError::Hub { repo: "the hub's address".to_string(), reason };
        let url = Url::parse(&endpoint).map_err(|error| refused(format!("not an address: {error}")))?;
        let limits = options.timeouts;
        let inner = reqwest::Client::builder()
            .user_agent(concat!("engram/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .read_timeout(limits.idle)
            .timeout(limits.idle + limits.connect + Duration::from_secs(20)) // a listing is small
            .build()
            .map_err(|error| refused(chain(&error)))?;
        let mut builder = HFClientBuilder::new()
            .endpoint(&endpoint)
            .client(inner)
            .cache_dir(&options.hub.cache)
            .retry_max_attempts(1);
        if let Some(token) = &options.hub.token {
            builder = builder.token(token);
        }
        Ok(Self {
            client: builder.build_sync().map_err(|error| refused(chain(&error)))?,
            endpoint: url,
            token: options.hub.token.clone(),
            http,
            cache: HubCache::new(options.hub.cache.clone()),
            ledger,
            progress: options.progress.as_ref(),
        })
    }

    /// Which commit `revision` is, and which files it has.
    pub(crate) fn list(&self, repo: &str, revision: &str) -> Result<Listing, PullError> {
        let (owner, name) = hf_hub::split_id(repo);
        let info = self.client.model(owner, name).info().revision(revision.to_string()).send();
        let info = info.map_err(|error| hub_error(repo, &error))?;
        let no_commit = || PullError::Hub { repo: repo.to_string(), reason: format!("no commit for {revision}") };
        let commit = info.sha.filter(|sha| is_commit(sha)).ok_or_else(no_commit)?;
        let siblings = info.siblings.unwrap_or_default().into_iter();
        let paths = siblings.map(|sibling| sibling.rfilename).filter(|path| is_harmless(path)).collect();
        Ok(Listing { commit, paths })
    }

    /// Fetches the files into the cache; `revision` is then known to be `commit` there.
    pub(crate) fn fetch(
        &self,
        repo: &str,
        revision: &str,
        commit: &str,
        files: &[WantedFile],
    ) -> Result<Vec<(FileRole, PathBuf)>, PullError> {
        let mut fetched = Vec::with_capacity(files.len());
        for file in files {
            fetched.push((file.role, self.fetch_file(repo, commit, file)?));
        }
        self.cache.write_ref(repo, revision, commit)?;
        Ok(fetched)
    }

    fn fetch_file(&self, repo: &str, commit: &str, file: &WantedFile) -> Result<PathBuf, PullError> {
        let url = self.resolve_url(repo, commit, &file.path)?;
        let remote = self.inspect(&url)?;
        if let (Some(pinned), Some(announced)) = (&file.sha256, &remote.sha256)
            && !pinned.eq_ignore_ascii_case(announced)
        {
            let reason = format!("{} has sha256 {announced} there, the catalog pins {pinned}", file.path);
            return Err(PullError::Hub { repo: repo.to_string(), reason });
        }
        let expected = match file.sha256.as_deref().or(remote.sha256.as_deref()) {
            Some(sha256) => Expected::Sha256(sha256),
            None => Expected::FirstUse,
        };
        let blob = self.cache.blob(repo, &remote.etag);
        let _lock = FolderLock::acquire(&self.cache.lock(repo, &remote.etag), &file.path, self.progress)?;
        if blob.is_file() {
            match self.ledger.verify(&blob, expected) {
                Ok(_) => return self.cache.link(repo, commit, &file.path, &remote.etag),
                Err(error @ PullError::Corrupt { .. }) => {
                    set_aside(&blob);
                    self.progress.note(&error.chain());
                }
                Err(error) => return Err(error),
            }
        }
        self.download(&url, &file.path, &remote, expected, &blob)?;
        self.cache.link(repo, commit, &file.path, &remote.etag)
    }

    /// Fetches, checks and publishes one blob. Bytes left by an earlier attempt that spoil the sum are fetched anew once.
    fn download(
        &self,
        url: &Url,
        name: &str,
        remote: &Remote,
        expected: Expected<'_>,
        blob: &std::path::Path,
    ) -> Result<(), PullError> {
        let part = blob.with_file_name(format!("{}.incomplete", remote.etag));
        let folder = blob.parent().unwrap_or(blob);
        create_folder(folder)?;
        let transfer = Transfer { name, url, token: self.token.as_deref(), bytes: remote.bytes };
        for last_try in [false, true] {
            let here = part.metadata().map_or(0, |metadata| metadata.len());
            ensure_room(folder, remote.bytes.unwrap_or(0).saturating_sub(here))?;
            self.http.fetch(&transfer, &part, self.progress)?;
            let (found, bytes) = sha256_file(&part)?;
            match expected {
                Expected::Sha256(wanted) if !wanted.eq_ignore_ascii_case(&found) => {
                    let error = PullError::Corrupt { path: part.clone(), expected: wanted.to_string(), found, bytes };
                    let _ = std::fs::remove_file(&part);
                    if here == 0 || last_try {
                        return Err(error);
                    }
                    self.progress.note(&format!("{name}: the resumed file does not match, fetching it anew"));
                }
                _ => {
                    publish(&part, blob)?;
                    self.ledger.record(blob, &found);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn inspect(&self, url: &Url) -> Result<Remote, PullError> {
        let headers = self.http.head(url, self.token.as_deref())?;
        let etag = header(&headers, "x-linked-etag").or_else(|| header(&headers, "etag"));
        let etag = etag.unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if etag.is_empty() || etag.len() > 128 || !etag.chars().all(harmless) {
            return Err(protocol(url, format!("ETag {etag:?} is no name for a file")));
        }
        let length = header(&headers, "x-linked-size").or_else(|| header(&headers, "content-length"));
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(Remote {
            bytes: length.and_then(|length| length.parse().ok()),
            sha256: is_sha256.then(|| etag.to_ascii_lowercase()),
            etag,
        })
    }

    /// `{endpoint}/{owner}/{name}/resolve/{commit}/{path}`
    fn resolve_url(&self, repo: &str, commit: &str, path: &str) -> Result<Url, PullError> {
        let mut url = self.endpoint.clone();
        let refused = || PullError::UnsafeName { from: shown(&self.endpoint), name: path.to_string() };
        if !is_harmless(path) {
            return Err(refused());
        }
        url.path_segments_mut()
            .map_err(|()| refused())?
            .pop_if_empty()
            .extend(repo.split('/'))
            .extend(["resolve", commit])
            .extend(path.split('/'));
        Ok(url)
    }
}

/// Whether a path from a server stays below the folder it is joined to.
fn is_harmless(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    !path.is_empty() && path.split('/').all(part)
}

fn hub_error(repo: &str, error: &HFError) -> PullError {
    let reason = match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => format!(
            "{} (set HF_TOKEN; a gated model's terms must be accepted on the hub; a mistyped name is answered the same)",
            chain(error)
        ),
        // The outer layers repeat the address; the cause is what a person can act on.
        HFError::Request { source, .. } => match std::error::Error::source(source) {
            Some(cause) => format!("cannot be reached: {}", chain(cause)),
            None => format!("cannot be reached: {source}"),
        },
        other => chain(other),
    };
    PullError::Hub { repo: repo.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::is_harmless;

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["a.gguf", "Q4/a.gguf", "1_Pooling/config.json"] {
            assert!(is_harmless(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "c:\\x", "a\0"] {
            assert!(!is_harmless(bad), "{bad:?}");
        }
    }
}
