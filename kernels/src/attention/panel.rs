//! K and V of one chunk of keys, brought from their blocks into f32 panels in cache.

use super::CHUNK;
use super::kv::KvSlice;
use crate::lanes::{LANES, Lanes};

/// Where the rows of consecutive positions begin, in values.
pub(super) fn key_rows(table: &[u32], first: usize, shape: super::KvShape, kv_head: usize, rows: &mut [usize]) {
    let (mut block, mut offset) = (first / shape.block_size, first % shape.block_size);
    let mut at = 0;
    while at < rows.len() {
        let run = (shape.block_size - offset).min(rows.len() - at);
        let start = shape.row(table[block] as usize, kv_head, offset);
        for (i, row) in rows[at..at + run].iter_mut().enumerate() {
            *row = start + i * shape.head_dim;
        }
        at += run;
        (block, offset) = (block + 1, 0);
    }
}

/// Eight values of a row, whatever the cache holds.
///
/// # Safety
/// `at + 8` values are in the slice.
#[inline(always)]
unsafe fn load<L: Lanes>(kv: KvSlice<'_>, at: usize) -> L {
    debug_assert!(at + LANES <= kv.len());
    // SAFETY: the caller's promise.
    unsafe {
        match kv {
            KvSlice::F32(x) => L::load(x.as_ptr().add(at)),
            KvSlice::F16(x) => L::load_f16(x.as_ptr().add(at)),
            KvSlice::BF16(x) => L::load_bf16(x.as_ptr().add(at)),
        }
    }
}

/// The last `len` < 8 values of a row, zeros after them.
#[inline(always)]
fn load_tail<L: Lanes>(kv: KvSlice<'_>, at: usize, len: usize) -> L {
    let mut all = [0f32; LANES];
    for (i, value) in all[..len].iter_mut().enumerate() {
        *value = match kv {
            KvSlice::F32(x) => x[at + i],
            KvSlice::F16(x) => x[at + i].to_f32(),
            KvSlice::BF16(x) => x[at + i].to_f32(),
        };
    }
    L::load_at(&all, 0)
}

/// Dimensions `d .. d + 8` of a row, zeros past `head_dim`.
#[inline(always)]
fn load_part<L: Lanes>(kv: KvSlice<'_>, row: usize, d: usize, head_dim: usize) -> L {
    if d + LANES <= head_dim {
        assert!(row + head_dim <= kv.len());
        // SAFETY: within the row, and the row is within the slice by the check above.
        unsafe { load(kv, row + d) }
    } else {
        load_tail(kv, row + d, head_dim - d)
    }
}

/// Asks for the cache lines of rows that are read next.
#[inline(always)]
pub(super) fn prefetch<L: Lanes>(kv: KvSlice<'_>, rows: &[usize], head_dim: usize) {
    let (start, size) = match kv {
        KvSlice::F32(x) => (x.as_ptr().cast::<u8>(), 4),
        KvSlice::F16(x) => (x.as_ptr().cast::<u8>(), 2),
        KvSlice::BF16(x) => (x.as_ptr().cast::<u8>(), 2),
    };
    for &row in rows {
        for line in (0..head_dim * size).step_by(64) {
            L::prefetch(start.wrapping_add(row * size + line));
        }
    }
}

/// Keys of a chunk, turned: `panel[d][key]`, `[head_dim rounded up to 8, CHUNK]`; keys past `rows` are zero up to
/// the next eight, and are not touched from there.
#[inline(always)]
pub(super) fn gather_keys<L: Lanes>(k: KvSlice<'_>, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    assert!(rows.len() <= CHUNK && panel.len() >= head_dim.next_multiple_of(LANES) * CHUNK);
    for (group, rows) in rows.chunks(LANES).enumerate() {
        for d in (0..head_dim).step_by(LANES) {
            let mut eight = [L::zero(); LANES];
            if rows.len() == LANES {
                for i in 0..LANES {
                    eight[i] = load_part(k, rows[i], d, head_dim);
                }
            } else {
                for (i, &row) in rows.iter().enumerate() {
                    eight[i] = load_part(k, row, d, head_dim);
                }
            }
            let columns = L::transpose(eight);
            for (i, column) in columns.into_iter().enumerate() {
                // SAFETY: d + i is below head_dim rounded up and the group below CHUNK / 8: inside, by the check above.
                unsafe { column.store(panel.as_mut_ptr().add((d + i) * CHUNK + group * LANES)) };
            }
        }
    }
}

/// Values of a chunk: `panel[key][d]`, `[CHUNK, head_dim rounded up to 8]`, zeros past `head_dim`.
#[inline(always)]
pub(super) fn gather_values<L: Lanes>(v: KvSlice<'_>, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    let width = head_dim.next_multiple_of(LANES);
    assert!(panel.len() >= rows.len() * width);
    for (key, &row) in rows.iter().enumerate() {
        for d in (0..head_dim).step_by(LANES) {
            let part: L = load_part(v, row, d, head_dim);
            // SAFETY: d + 8 is at most the width, and `rows.len()` rows of it are inside, by the check above.
            unsafe { part.store(panel.as_mut_ptr().add(key * width + d)) };
        }
    }
}
