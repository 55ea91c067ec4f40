//! An index in a file, so that a start does not build the graph again.
//!
//! Little-endian: a header of [`MAGIC`], version and sizes; ids; tombstones; vectors; the base layer's lists; hubs and
//! their layers' lists; the SHA-256 of all before it. Codes are made anew from the vectors. The file is a copy of
//! what the store holds: a damaged one is thrown away and built again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::dead::Dead;
use super::links::Links;
use super::segment::Segment;
use super::vectors::Vectors;
use super::{IndexParams, VectorIndex, View, Writer, read};
use crate::error::{MemoryError, Result};

const MAGIC: &[u8; 8] = b"ENGRAMVX";
const VERSION: u32 = 1;
const DIGEST: usize = 32;

impl VectorIndex {
    /// Writes the index as it stands, rows that wait included, to `path`: whole and on disk, or not at all.
    ///
    /// # Errors
    /// [`MemoryError::DiskFull`], [`MemoryError::ReadOnly`], [`MemoryError::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let (view, dead) = {
            // No slots move while a build waits, and none dies while the writer does.
            let _no_build = self.inner.building.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let view = self.inner.seal();
            let _no_write = self.inner.lock_writer();
            let dead = self.inner.view.load().dead.grown(0);
            (view, dead)
        };
        let partial = partial_of(path);
        let written = write_file(&partial, |out| write_index(out, &view, &dead, self.dim()));
        let bytes = self.bytes() as u64;
        written.and_then(|()| std::fs::rename(&partial, path)).and_then(|()| sync_directory(path)).map_err(|source| {
            // What is left of it is of no use; that it may not be removable either says nothing new.
            let _ = std::fs::remove_file(&partial);
            failed(path, bytes, source)
        })
    }

    /// Reads what [`VectorIndex::save`] wrote.
    ///
    /// # Errors
    /// [`MemoryError::Corrupt`] for a file that is not what was written (build the index again),
    /// [`MemoryError::Format`] for one of a newer version, [`MemoryError::Io`] if it cannot be read.
    pub fn load(path: &Path, params: IndexParams) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|source| MemoryError::Io { action: "read", path: path.into(), source })?;
        let damaged = |detail: String| MemoryError::Corrupt { path: path.into(), detail };
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not begin as an index does".to_owned()))?;
        let found = body.first_chunk().map(|version| u32::from_le_bytes(*version));
        match found {
            Some(VERSION) => {}
            Some(found) => return Err(MemoryError::Format { path: path.into(), found, known: VERSION }),
            None => return Err(damaged("it ends in its header".to_owned())),
        }
        let (all, digest) = bytes.split_at_checked(bytes.len() - DIGEST).unwrap_or_default();
        if Sha256::digest(all).as_slice() != digest {
            return Err(damaged("its checksum is another".to_owned()));
        }
        let rest = all.get(MAGIC.len() + size_of::<u32>()..).unwrap_or_default();
        read_index(rest, params).ok_or_else(|| damaged("its parts do not fit together".to_owned()))
    }
}

/// Writes and hashes.
struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    fn number(&mut self, number: usize) -> io::Result<()> {
        self.bytes(&(number as u64).to_le_bytes())
    }

    /// Through a buffer: a hash of a few bytes at a time is slow.
    fn all<const N: usize>(&mut self, values: impl Iterator<Item = [u8; N]>) -> io::Result<()> {
        const AT_ONCE: usize = 1 << 16;
        let mut buffer = Vec::with_capacity(AT_ONCE + N);
        for value in values {
            buffer.extend_from_slice(&value);
            if buffer.len() >= AT_ONCE {
                self.bytes(&buffer)?;
                buffer.clear();
            }
        }
        self.bytes(&buffer)
    }

    fn links(&mut self, links: &Links) -> io::Result<()> {
        self.number(links.points())?;
        self.number(links.stride())?;
        self.all(links.entries().map(u32::to_le_bytes))
    }
}

fn write_file(path: &Path, body: impl FnOnce(&mut Hashed<BufWriter<File>>) -> io::Result<()>) -> io::Result<()> {
    let mut out = Hashed { out: BufWriter::new(File::create(path)?), hash: Sha256::new() };
    body(&mut out)?;
    let digest = out.hash.finalize();
    out.out.write_all(&digest)?;
    out.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn write_index(out: &mut Hashed<impl Write>, view: &View, dead: &Dead, dim: usize) -> io::Result<()> {
    let graph = &view.graph;
    // The last batch is of those that came after.
    let sealed: Vec<_> = view.waiting.iter().take(view.waiting.len() - 1).map(|batch| read(batch)).collect();
    let waiting: usize = sealed.iter().map(|batch| batch.len()).sum();
    let slots = graph.len() + waiting;
    out.bytes(MAGIC)?;
    out.bytes(&VERSION.to_le_bytes())?;
    for number in [dim, graph.len(), waiting, graph.hubs_of, graph.hubs.layers.len()] {
        out.number(number)?;
    }
    let waiting_ids = sealed.iter().flat_map(|batch| batch.ids.iter());
    out.all(graph.ids.iter().chain(waiting_ids).map(|id| id.to_le_bytes()))?;
    out.all(dead.words().chain(std::iter::repeat(0)).take(slots.div_ceil(64)).map(u64::to_le_bytes))?;
    let in_graph = (0..graph.len() as u32).map(|row| graph.vectors.row(row));
    let rows = in_graph.chain(sealed.iter().flat_map(|batch| batch.rows().map(|(_, row)| row)));
    out.all(rows.flatten().map(|value| value.to_le_bytes()))?;
    out.links(&graph.base)?;
    out.number(graph.hubs.points.len())?;
    out.all(graph.hubs.points.iter().map(|point| point.to_le_bytes()))?;
    graph.hubs.layers.iter().try_for_each(|layer| out.links(layer))
}

/// What is left to read. Every step is `None` where the file has less, or other things, than its numbers say.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(size_of::<u64>())?;
        usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()
    }

    fn all<const N: usize>(&mut self, count: usize) -> Option<impl Iterator<Item = [u8; N]> + 'a> {
        let (chunks, _) = self.take(count.checked_mul(N)?)?.as_chunks();
        Some(chunks.iter().copied())
    }

    /// Lists of at most `points` points, every neighbour one of them.
    fn links(&mut self, most: usize) -> Option<Links> {
        let (points, stride) = (self.number()?, self.number()?);
        let entries = || (points <= most).then_some(points)?.checked_mul(stride);
        let entries: Vec<u32> = self.all(entries()?)?.map(u32::from_le_bytes).collect();
        let known = |&entry: &u32| entry == u32::MAX || (entry as usize) < points;
        (stride > 0 && entries.iter().all(known)).then(|| Links::from_entries(entries.iter().copied(), stride))
    }
}

fn read_index(bytes: &[u8], params: IndexParams) -> Option<VectorIndex> {
    let mut rest = Rest(bytes);
    let (dim, in_graph, waiting) = (rest.number()?, rest.number()?, rest.number()?);
    let (hubs_of, layers) = (rest.number()?, rest.number()?);
    let slots = in_graph.checked_add(waiting).filter(|&slots| slots <= VectorIndex::MAX_SLOTS)?;
    let ids: Vec<u128> = rest.all(slots)?.map(u128::from_le_bytes).collect();
    let dead = Dead::from_words(rest.all(slots.div_ceil(64))?.map(u64::from_le_bytes));
    let mut row = Vec::with_capacity(dim.min(1 << 16));
    let mut vectors = Vectors::new(dim);
    let mut late = Vec::new();
    for (slot, id) in ids.iter().enumerate() {
        row.clear();
        row.extend(rest.all(dim)?.map(f32::from_le_bytes));
        if slot < in_graph { vectors.push(&row) } else { late.push((*id, row.clone())) }
    }
    let base = rest.links(in_graph).filter(|links| links.points() == in_graph)?;
    let hubs = rest.number().filter(|&hubs| hubs <= in_graph)?;
    let points: Vec<u32> = rest.all(hubs)?.map(u32::from_le_bytes).collect();
    let layers: Vec<Links> = (0..layers).map(|_| rest.links(hubs)).collect::<Option<_>>()?;
    let fits = points.iter().all(|&point| (point as usize) < in_graph)
        && layers.first().map_or(0, Links::points) == hubs
        && layers.iter().all(|layer| layer.points() > 0);
    let live = (0u32..).zip(&ids).filter(|&(slot, _)| !dead.has(slot));
    let slots: HashMap<u128, u32> = live.map(|(slot, id)| (*id, slot)).collect();
    if !fits || !rest.0.is_empty() || slots.len() + dead.count() != ids.len() {
        return None;
    }
    let params = params.sane();
    let graph = Segment::restore(ids[..in_graph].to_vec(), vectors, base, (points, layers, hubs_of), dim);
    let writer = Writer { slots, next: ids.len() as u32 };
    let index = VectorIndex::of(graph, dead.grown(ids.len()), writer, dim, params);
    let view = index.inner.view.load();
    let open = view.waiting.last()?;
    let mut open = open.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    late.iter().for_each(|(id, row)| open.push(*id, row));
    drop(open);
    drop(view);
    Some(index)
}

/// Where a file is written before it takes its name.
fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// Makes a rename last.
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn failed(path: &Path, bytes: u64, source: io::Error) -> MemoryError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MemoryError::DiskFull { path: path.into(), bytes },
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            MemoryError::ReadOnly { path: path.parent().unwrap_or(path).into() }
        }
        _ => MemoryError::Io { action: "write", path: path.into(), source },
    }
}
