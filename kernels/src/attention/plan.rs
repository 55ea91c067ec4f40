//! Spans cut into work for the pool.

use std::ops::Range;

use super::{AttentionError, AttentionParams, KvShape, PARTITION, SequenceSpan};

/// Query rows a tile aims at: enough that reading and turning K and V costs little beside the products,
/// few enough that its scores (2 KB a row) stay in the L2 cache.
const TILE_ROWS: usize = 96;

/// Queries of one span and one kv head that are answered together: all query heads of that kv head,
/// for consecutive tokens. Row r is token `r / group`, head `kv_head * group + r % group`.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub span: usize,
    pub kv_head: usize,
    /// Row of the batch where the tile's tokens begin.
    pub first_row: usize,
    /// Position of its first token in the sequence.
    pub first_position: usize,
    pub tokens: usize,
    /// Keys that any of its queries sees.
    pub visible: Range<usize>,
}

impl Tile {
    /// The fixed parts of the context that the tile sees something of.
    pub fn partitions(&self) -> Range<usize> {
        self.visible.start / PARTITION..self.visible.end.div_ceil(PARTITION)
    }
}

/// Keys a query at `position` sees.
#[inline(always)]
pub(crate) fn visible(position: usize, window: Option<usize>) -> Range<usize> {
    let end = position + 1;
    end - window.map_or(end, |w| w.min(end))..end
}

/// Tiles of all spans, those with most work first; they replace what `tiles` held.
pub(super) fn tiles(
    spans: &[SequenceSpan],
    kv_heads: usize,
    group: usize,
    params: &AttentionParams,
    tiles: &mut Vec<Tile>,
) {
    let tile_tokens = (TILE_ROWS / group).max(1);
    tiles.clear();
    for (index, span) in spans.iter().enumerate() {
        let first = span.context_len - span.query_len;
        for start in (0..span.query_len).step_by(tile_tokens) {
            let tokens = tile_tokens.min(span.query_len - start);
            let from = visible(first + start, params.window).start;
            tiles.extend((0..kv_heads).map(|kv_head| Tile {
                span: index,
                kv_head,
                first_row: span.query_start + start,
                first_position: first + start,
                tokens,
                visible: from..first + start + tokens,
            }));
        }
    }
    // The long ones first: what is left at the end is then short, and no thread waits long for another.
    let work = |t: &Tile| std::cmp::Reverse(t.tokens * t.visible.len());
    tiles.sort_unstable_by_key(|t| (work(t), t.first_row, t.kv_head));
}

/// Checks every size and id that the kernel will trust.
pub(super) fn check_spans(spans: &[SequenceSpan], tokens: usize, shape: KvShape) -> Result<(), AttentionError> {
    let mut in_order = true;
    let mut last_end = 0;
    for (index, span) in spans.iter().enumerate() {
        let end = span.query_start.checked_add(span.query_len);
        let Some(end) = end.filter(|&end| end <= tokens) else {
            return Err(AttentionError::Queries {
                span: index,
                query_start: span.query_start,
                query_len: span.query_len,
                tokens,
            });
        };
        if span.context_len < span.query_len {
            return Err(AttentionError::Context {
                span: index,
                context_len: span.context_len,
                query_len: span.query_len,
            });
        }
        let used = span.context_len.div_ceil(shape.block_size);
        let Some(table) = span.block_table.get(..used) else {
            return Err(AttentionError::TableTooShort {
                span: index,
                blocks: span.block_table.len(),
                block_size: shape.block_size,
                context_len: span.context_len,
            });
        };
        if let Some(&block) = table.iter().find(|&&b| b as usize >= shape.num_blocks) {
            return Err(AttentionError::Block { span: index, block, num_blocks: shape.num_blocks });
        }
        if span.query_len > 0 {
            in_order &= span.query_start >= last_end;
            last_end = end;
        }
    }
    if in_order { Ok(()) } else { check_overlaps(spans) }
}

/// Looks for spans that share rows, in whatever order they stand.
fn check_overlaps(spans: &[SequenceSpan]) -> Result<(), AttentionError> {
    let filled = spans.iter().enumerate().filter(|(_, span)| span.query_len > 0);
    let mut by_start: Vec<(usize, usize, usize)> =
        filled.map(|(index, span)| (span.query_start, span.query_start + span.query_len, index)).collect();
    by_start.sort_unstable();
    for pair in by_start.windows(2) {
        let ((_, reached, _), (query_start, _, span)) = (pair[0], pair[1]);
        if query_start < reached {
            return Err(AttentionError::Overlap { span, query_start, reached });
        }
    }
    Ok(())
}
