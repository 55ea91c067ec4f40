//! K and V of one chunk of keys, brought from their blocks into f32 panels in cache.

use half::{bf16, f16};

use super::CHUNK;
use super::int8::{Int8Row, int8_row_len};
use super::kv::KvSlice;
use crate::lanes::{LANES, Lanes};

/// Numbers of the rows of consecutive positions.
pub(super) fn key_rows(table: &[u32], first: usize, shape: super::KvShape, kv_head: usize, rows: &mut [usize]) {
    let (mut block, mut offset) = (first / shape.block_size, first % shape.block_size);
    let mut at = 0;
    while at < rows.len() {
        let run = (shape.block_size - offset).min(rows.len() - at);
        let start = shape.row(table[block] as usize, kv_head, offset);
        for (i, row) in rows[at..at + run].iter_mut().enumerate() {
            *row = start + i;
        }
        at += run;
        (block, offset) = (block + 1, 0);
    }
}

/// A value of a cache.
trait KvValue: Copy {
    /// # Safety
    /// Eight values can be read at `src`.
    unsafe fn load<L: Lanes>(src: *const Self) -> L;
    fn to_f32(self) -> f32;
}

impl KvValue for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(src: *const f32) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(src) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl KvValue for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(src: *const f16) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(src) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl KvValue for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(src: *const bf16) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(src) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// A row of a cache.
trait KvRow: Copy {
    /// Values `d .. d + 8`.
    ///
    /// # Safety
    /// `d + 8` is at most the length of the row.
    unsafe fn load<L: Lanes>(self, d: usize) -> L;
    fn value(self, d: usize) -> f32;
}

impl<T: KvValue> KvRow for &[T] {
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, d: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { T::load(self.as_ptr().add(d)) }
    }

    #[inline(always)]
    fn value(self, d: usize) -> f32 {
        self[d].to_f32()
    }
}

impl KvRow for Int8Row<'_> {
    #[inline(always)]
    unsafe fn load<L: Lanes>(self, d: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { Int8Row::load(self, d) }
    }

    #[inline(always)]
    fn value(self, d: usize) -> f32 {
        Int8Row::value(self, d)
    }
}

/// Row `row` of a cache of plain values.
#[inline(always)]
fn plain<T>(values: &[T], row: usize, head_dim: usize) -> &[T] {
    &values[row * head_dim..][..head_dim]
}

/// The last, fewer than eight, values of a row; zeros after them.
#[inline(always)]
fn load_tail<R: KvRow, L: Lanes>(row: R, tail: std::ops::Range<usize>) -> L {
    let mut all = [0f32; LANES];
    for (value, d) in all.iter_mut().zip(tail) {
        *value = row.value(d);
    }
    L::load_at(&all, 0)
}

/// Asks for the cache lines of rows that are read next.
#[inline(always)]
pub(super) fn prefetch<L: Lanes>(kv: KvSlice<'_>, rows: &[usize], head_dim: usize) {
    let (start, row_bytes) = match kv {
        KvSlice::F32(x) => (x.as_ptr().cast::<u8>(), head_dim * 4),
        KvSlice::F16(x) => (x.as_ptr().cast::<u8>(), head_dim * 2),
        KvSlice::BF16(x) => (x.as_ptr().cast::<u8>(), head_dim * 2),
        KvSlice::Int8(x) => (x.as_ptr(), int8_row_len(head_dim)),
    };
    for &row in rows {
        for line in (0..row_bytes).step_by(64) {
            L::prefetch(start.wrapping_add(row * row_bytes + line));
        }
    }
}

/// Keys of a chunk, turned: `panel[d][key]`, `[head_dim rounded up to 8, CHUNK]`, in whole groups of eight keys;
/// columns past `rows` hold numbers that mean nothing.
#[inline(always)]
pub(super) fn gather_keys<L: Lanes>(k: KvSlice<'_>, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    match k {
        KvSlice::F32(k) => turn::<_, L>(|row| plain(k, row, head_dim), rows, head_dim, panel),
        KvSlice::F16(k) => turn::<_, L>(|row| plain(k, row, head_dim), rows, head_dim, panel),
        KvSlice::BF16(k) => turn::<_, L>(|row| plain(k, row, head_dim), rows, head_dim, panel),
        KvSlice::Int8(k) => turn::<_, L>(|row| Int8Row::of(k, row, head_dim), rows, head_dim, panel),
    }
}

/// Values of a chunk: `panel[key][d]`, `[CHUNK, head_dim rounded up to 8]`, zeros past `head_dim`.
#[inline(always)]
pub(super) fn gather_values<L: Lanes>(v: KvSlice<'_>, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    match v {
        KvSlice::F32(v) => widen::<_, L>(|row| plain(v, row, head_dim), rows, head_dim, panel),
        KvSlice::F16(v) => widen::<_, L>(|row| plain(v, row, head_dim), rows, head_dim, panel),
        KvSlice::BF16(v) => widen::<_, L>(|row| plain(v, row, head_dim), rows, head_dim, panel),
        KvSlice::Int8(v) => widen::<_, L>(|row| Int8Row::of(v, row, head_dim), rows, head_dim, panel),
    }
}

#[inline(always)]
fn turn<R: KvRow, L: Lanes>(key: impl Fn(usize) -> R, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    assert!(rows.len() <= CHUNK && panel.len() >= head_dim.next_multiple_of(LANES) * CHUNK);
    let whole = head_dim / LANES * LANES;
    for (group, rows) in rows.chunks(LANES).enumerate() {
        // Short of eight keys the last one stands in for the others, whose scores nobody reads.
        let keys: [R; LANES] = std::array::from_fn(|i| key(rows[i.min(rows.len() - 1)]));
        for d in (0..whole).step_by(LANES) {
            let mut eight = [L::zero(); LANES];
            for i in 0..LANES {
                // SAFETY: d + 8 is at most head_dim, the length of the key.
                eight[i] = unsafe { keys[i].load(d) };
            }
            // SAFETY: see `store_columns`.
            unsafe { store_columns(L::transpose(eight), d, group, panel) };
        }
        if whole < head_dim {
            let mut eight = [L::zero(); LANES];
            for i in 0..LANES {
                eight[i] = load_tail(keys[i], whole..head_dim);
            }
            // SAFETY: see `store_columns`.
            unsafe { store_columns(L::transpose(eight), whole, group, panel) };
        }
    }
}

/// Dimensions `d .. d + 8` of one group of eight keys.
///
/// # Safety
/// `d + 8` rows of CHUNK are in the panel, and the group is below CHUNK / 8.
#[inline(always)]
unsafe fn store_columns<L: Lanes>(columns: [L; LANES], d: usize, group: usize, panel: &mut [f32]) {
    debug_assert!((d + LANES) * CHUNK <= panel.len());
    for (i, column) in columns.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { column.store(panel.as_mut_ptr().add((d + i) * CHUNK + group * LANES)) };
    }
}

#[inline(always)]
fn widen<R: KvRow, L: Lanes>(value: impl Fn(usize) -> R, rows: &[usize], head_dim: usize, panel: &mut [f32]) {
    let (width, whole) = (head_dim.next_multiple_of(LANES), head_dim / LANES * LANES);
    for (&row, panel) in rows.iter().zip(panel.chunks_exact_mut(width)) {
        let row = value(row);
        for d in (0..whole).step_by(LANES) {
            // SAFETY: d + 8 is at most head_dim, the length of the row, and that at most the panel row's.
            unsafe { row.load::<L>(d).store(panel.as_mut_ptr().add(d)) };
        }
        if whole < head_dim {
            load_tail::<R, L>(row, whole..head_dim).store_at(panel, whole);
        }
    }
}
