//! Scheduled sequences to one [`ForwardBatch`], and whose each row of logits will be.

use engram_models::forward::{ForwardBatch, SequenceSpan};

use crate::block_manager::BlockTable;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::SeqId;

/// What a row of logits is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowUse {
    /// It scores the prompt token after this position.
    Score {
        /// Whose prompt.
        id: SeqId,
        /// Position of the row's own token.
        position: usize,
    },
    /// The next token is sampled from it.
    Sample {
        /// Whose token.
        id: SeqId,
    },
}

/// The step's tokens, flattened, and the use of each row of logits, in the order of the rows.
pub fn build(plan: &Plan, scheduler: &Scheduler) -> (ForwardBatch, Vec<RowUse>) {
    let mut batch = ForwardBatch::default();
    let mut uses = Vec::new();
    for entry in &plan.entries {
        let Some(sequence) = scheduler.sequence(entry.id) else {
            continue;
        };
        let (start, end) = (entry.start, entry.start + entry.len);
        let query_start = batch.num_tokens();
        batch.token_ids.extend_from_slice(&sequence.tokens()[start..end]);
        push_places(&mut batch, sequence.table(), scheduler.block_size(), start..end);
        batch.spans.push(SequenceSpan {
            query_start,
            query_len: entry.len,
            context_len: end,
            block_table: block_ids(sequence.table(), end.div_ceil(scheduler.block_size())),
        });
        for position in sequence.scoring(start, entry.len) {
            batch.logit_rows.push((query_start + position - start) as u32);
            uses.push(RowUse::Score { id: entry.id, position });
        }
        if entry.samples {
            batch.logit_rows.push((query_start + entry.len - 1) as u32);
            uses.push(RowUse::Sample { id: entry.id });
        }
    }
    (batch, uses)
}

/// A pass over one token at the first slot of `table`, for health: no sequence takes part.
pub fn probe(table: &BlockTable, block_size: usize) -> ForwardBatch {
    let mut batch = ForwardBatch { token_ids: vec![0], logit_rows: vec![0], ..Default::default() };
    push_places(&mut batch, table, block_size, 0..1);
    batch.spans.push(SequenceSpan { query_start: 0, query_len: 1, context_len: 1, block_table: block_ids(table, 1) });
    batch
}

fn push_places(batch: &mut ForwardBatch, table: &BlockTable, block_size: usize, positions: std::ops::Range<usize>) {
    for position in positions {
        let block = table.blocks()[position / block_size].0 as usize;
        batch.positions.push(position as u32);
        batch.slot_mapping.push((block * block_size + position % block_size) as u32);
    }
}

fn block_ids(table: &BlockTable, len: usize) -> Vec<u32> {
    table.blocks()[..len].iter().map(|block| block.0).collect()
}
