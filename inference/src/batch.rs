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
///
/// Filled anew each step in the memory of the last: no allocation once it has seen the largest step.
#[derive(Debug, Default)]
pub struct StepBatch {
    /// What the model is given.
    pub forward: ForwardBatch,
    /// What its rows of logits are for.
    pub uses: Vec<RowUse>,
    /// Block tables that no span holds at present.
    spare_tables: Vec<Vec<u32>>,
}

impl StepBatch {
    /// Lays out what `plan` says.
    pub fn fill(&mut self, plan: &Plan, scheduler: &Scheduler) {
        let Self { forward, uses, spare_tables } = self;
        forward.token_ids.clear();
        forward.positions.clear();
        forward.slot_mapping.clear();
        forward.logit_rows.clear();
        spare_tables.extend(forward.spans.drain(..).map(|span| span.block_table));
        uses.clear();
        for entry in &plan.entries {
            let Some(sequence) = scheduler.sequence(entry.id) else {
                continue;
            };
            let (start, end) = (entry.start, entry.start + entry.len);
            let query_start = forward.num_tokens();
            forward.token_ids.extend_from_slice(&sequence.tokens()[start..end]);
            push_places(forward, sequence.table(), scheduler.block_size(), start..end);
            let mut block_table = spare_tables.pop().unwrap_or_default();
            fill_block_ids(&mut block_table, sequence.table(), end.div_ceil(scheduler.block_size()));
            forward.spans.push(SequenceSpan { query_start, query_len: entry.len, context_len: end, block_table });
            for position in sequence.scoring(start, entry.len) {
                forward.logit_rows.push((query_start + position - start) as u32);
                uses.push(RowUse::Score { id: entry.id, position });
            }
            if entry.samples {
                forward.logit_rows.push((query_start + entry.len - 1) as u32);
                uses.push(RowUse::Sample { id: entry.id });
            }
        }
    }
}

/// A pass over one token at the first slot of `table`, for health: no sequence takes part.
pub fn probe(table: &BlockTable, block_size: usize) -> ForwardBatch {
    let mut batch = ForwardBatch { token_ids: vec![0], logit_rows: vec![0], ..Default::default() };
    push_places(&mut batch, table, block_size, 0..1);
    let mut block_table = Vec::new();
    fill_block_ids(&mut block_table, table, 1);
    batch.spans.push(SequenceSpan { query_start: 0, query_len: 1, context_len: 1, block_table });
    batch
}

/// Positions and slots, block by block.
fn push_places(batch: &mut ForwardBatch, table: &BlockTable, block_size: usize, positions: std::ops::Range<usize>) {
    batch.positions.extend(positions.start as u32..positions.end as u32);
    let mut at = positions.start;
    while at < positions.end {
        let (block, offset) = (at / block_size, at % block_size);
        let len = (block_size - offset).min(positions.end - at);
        let slot = (table.blocks()[block].0 as usize * block_size + offset) as u32;
        batch.slot_mapping.extend(slot..slot + len as u32);
        at += len;
    }
}

fn fill_block_ids(ids: &mut Vec<u32>, table: &BlockTable, len: usize) {
    ids.clear();
    ids.extend(table.blocks()[..len].iter().map(|block| block.0));
}
