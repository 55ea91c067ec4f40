//! The definition: what every instruction set must give.

use super::codes::Gather;

/// `sums[i] = sum(row ids[i] * query)`, rows unsigned, the query signed.
pub(super) fn gather(job: Gather<'_>) {
    let stride = job.query.len();
    for (sum, &id) in job.sums.iter_mut().zip(job.ids) {
        let row = &job.rows[id as usize * stride..][..stride];
        *sum = row
            .iter()
            .zip(job.query)
            .flat_map(|(row, query)| row.0.iter().zip(&query.0))
            .map(|(&row, &query)| i32::from(row) * i32::from(query as i8))
            .sum();
    }
}
