//! Export and import: one JSON object a line, with a record, its superseded versions and its vector.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::{Embedded, EncoderId, plan, record_of};
use crate::backend::vector::check_vector;
use crate::backend::{Backend, Selection, Stored};
use crate::embedder::{Embedder, Side};
use crate::error::{MemoryError, Result};
use crate::record::Record;
use crate::store::keys;

/// Records that are written or embedded together.
const BATCH: usize = 256;

/// A line. Without a vector, or with one of another encoder, the content is embedded on import.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    record: Record,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<Record>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoder: Option<EncoderId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vector: Option<Vec<f32>>,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    /// Records that were written.
    pub written: u64,
    /// Records that were there already, by id or by content, and were left as they are.
    pub there: u64,
}

impl Embedded {
    /// Writes the selected records to `out`, a line each, superseded versions and vectors with them if so wished. How many.
    ///
    /// # Errors
    /// [`MemoryError::Io`] if `out` takes no more; those of a scan.
    pub fn export(&self, selection: &Selection, history: bool, vectors: bool, out: &mut dyn Write) -> Result<u64> {
        let encoder = self.encoder()?;
        let mut written = 0;
        let mut after = None;
        loop {
            let page = self.scan(selection, None, after, BATCH)?;
            let Some(last) = page.last() else { return Ok(written) };
            after = Some(last.record.id);
            for Stored { record, vector } in page {
                let line = Line {
                    history: if history { self.history(&record)? } else { Vec::new() },
                    encoder: vectors.then(|| encoder.clone()),
                    vector: vectors.then_some(vector),
                    record,
                };
                let failed = |source| MemoryError::Io { action: "export to", path: "the output".into(), source };
                serde_json::to_writer(&mut *out, &line).map_err(|error| failed(error.into()))?;
                out.write_all(b"\n").map_err(failed)?;
                written += 1;
            }
        }
    }

    /// Reads what [`Embedded::export`] wrote. Ids, times and versions stay as they are; `embedder` makes the vectors that are
    /// missing or of another encoder.
    ///
    /// # Errors
    /// [`MemoryError::Invalid`] naming the line; what was read before it stays. Those of `embedder` and of a put.
    pub fn import(&self, input: &mut dyn BufRead, embedder: &dyn Embedder) -> Result<Imported> {
        let mut imported = Imported::default();
        let mut batch = Vec::new();
        for (index, text) in input.lines().enumerate() {
            let invalid = |message: String| MemoryError::Invalid { field: format!("line {}", index + 1), message };
            let text = text.map_err(|error| invalid(error.to_string()))?;
            if text.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
            if line.record.content_hash != crate::record::content_hash(&line.record.content) {
                return Err(invalid("`content_hash` is not that of `content`".to_owned()));
            }
            batch.push(line);
            if batch.len() == BATCH {
                self.import_batch(std::mem::take(&mut batch), embedder, &mut imported)?;
            }
        }
        self.import_batch(batch, embedder, &mut imported)?;
        Ok(imported)
    }

    fn import_batch(&self, mut batch: Vec<Line>, embedder: &dyn Embedder, imported: &mut Imported) -> Result<()> {
        let encoder = self.writing_encoder()?;
        for line in &mut batch {
            if line.encoder.as_ref() != Some(&encoder) {
                line.vector = None;
            }
        }
        let missing: Vec<usize> = (0..batch.len()).filter(|&at| batch[at].vector.is_none()).collect();
        if !missing.is_empty() {
            let texts: Vec<&str> = missing.iter().map(|&at| batch[at].record.content.as_str()).collect();
            let vectors = embedder.embed(&texts, Side::Document)?;
            missing.iter().zip(vectors).for_each(|(&at, vector)| batch[at].vector = Some(vector));
        }
        let mut rows = Vec::with_capacity(batch.len());
        for line in batch {
            let vector = line.vector.unwrap_or_default();
            check_vector(encoder.dim, &vector)?;
            rows.push((Stored { record: line.record, vector }, line.history));
        }
        let all = rows.len() as u64;
        let written = self.store.write(move |view| {
            let mut written = 0;
            for (stored, history) in &rows {
                written += u64::from(plan::import(view, stored, history)?);
            }
            Ok(written)
        })?;
        imported.written += written;
        imported.there += all - written;
        Ok(())
    }

    /// Superseded versions of a record, oldest first.
    fn history(&self, record: &Record) -> Result<Vec<Record>> {
        let tree = self.store.tree();
        let Some(number) = self.number(&tree, &record.scope.partition)? else { return Ok(Vec::new()) };
        let mut versions = Vec::new();
        for pair in tree.scan(&keys::versions(b'h', number, record.id), &[]) {
            let (key, sealed) = pair?;
            versions.push(record_of(&tree, &key, &sealed)?);
        }
        Ok(versions)
    }
}
