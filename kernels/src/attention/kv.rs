//! The KV cache of one layer as slices, and the write into it.

use half::{bf16, f16};

use super::AttentionError;
use super::int8::{self, int8_row_len};
use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::isa;
use crate::lanes::{LANES, Lanes, lanes_entry};
use crate::rows::Rows;

/// Shape of K and of V of one layer: `[num_blocks, kv_heads, block_size, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks.
    pub num_blocks: usize,
    /// K and V heads.
    pub kv_heads: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Values of K, the same of V. Errors: [`AttentionError::Cache`].
    pub fn values(&self) -> Result<usize, AttentionError> {
        self.stored(self.head_dim)
    }

    /// Elements of K where a row of a head has `row_len` of them.
    pub(super) fn stored(&self, row_len: usize) -> Result<usize, AttentionError> {
        [self.kv_heads, self.block_size, row_len]
            .iter()
            .try_fold(self.num_blocks, |n, &d| n.checked_mul(d).filter(|_| d > 0 && self.head_dim > 0))
            .ok_or(AttentionError::Cache {
                num_blocks: self.num_blocks,
                kv_heads: self.kv_heads,
                block_size: self.block_size,
                head_dim: self.head_dim,
            })
    }

    /// Number of the row of a token and head: `block * block_size + offset` is the token's slot.
    #[inline(always)]
    pub(super) fn row(&self, block: usize, kv_head: usize, offset: usize) -> usize {
        (block * self.kv_heads + kv_head) * self.block_size + offset
    }
}

/// Values of a cache, read.
#[derive(Debug, Clone, Copy)]
pub enum KvSlice<'a> {
    /// 4 bytes a value.
    F32(&'a [f32]),
    /// 2 bytes a value, 11 bits of precision, up to 65504.
    F16(&'a [f16]),
    /// 2 bytes a value, 8 bits of precision.
    BF16(&'a [bf16]),
    /// A byte a value and four a row: codes from -127 to 127 of the row's largest, in rows of [`int8_row_len`] bytes.
    Int8(&'a [u8]),
}

impl KvSlice<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            KvSlice::F32(x) => x.len(),
            KvSlice::F16(x) => x.len(),
            KvSlice::BF16(x) => x.len(),
            KvSlice::Int8(x) => x.len(),
        }
    }

    /// Elements of a row of a head.
    pub(super) fn row_len(&self, head_dim: usize) -> usize {
        match self {
            KvSlice::Int8(_) => int8_row_len(head_dim),
            KvSlice::F32(_) | KvSlice::F16(_) | KvSlice::BF16(_) => head_dim,
        }
    }
}

/// Values of a cache, written.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    /// See [`KvSlice::F32`].
    F32(&'a mut [f32]),
    /// See [`KvSlice::F16`].
    F16(&'a mut [f16]),
    /// See [`KvSlice::BF16`].
    BF16(&'a mut [bf16]),
    /// See [`KvSlice::Int8`].
    Int8(&'a mut [u8]),
}

impl KvSliceMut<'_> {
    /// The same, read.
    fn read(&self) -> KvSlice<'_> {
        match self {
            KvSliceMut::F32(x) => KvSlice::F32(x),
            KvSliceMut::F16(x) => KvSlice::F16(x),
            KvSliceMut::BF16(x) => KvSlice::BF16(x),
            KvSliceMut::Int8(x) => KvSlice::Int8(x),
        }
    }
}

/// K and V of one layer.
#[derive(Debug, Clone, Copy)]
pub struct PagedKv<'a> {
    /// Keys, of `shape`.
    pub k: KvSlice<'a>,
    /// Values, of `shape`.
    pub v: KvSlice<'a>,
    /// Shape of each.
    pub shape: KvShape,
}

/// Writes one row a token and head: K or V of a step, at `slots[token] = block * block_size + offset`.
///
/// x rows of `[kv_heads, head_dim]`, one a token; cache of `shape`. f16 rounds to nearest even and holds at +-65504 instead of
/// turning infinite; so does int8, in codes of the row's largest, where a NaN makes its row NaN throughout and no other.
/// Where two tokens have one slot the later one stays.
/// Errors, before anything is written: [`AttentionError::Length`], [`AttentionError::Slot`], [`AttentionError::Cache`].
pub fn write_kv(x: Rows<'_>, slots: &[u32], shape: KvShape, cache: KvSliceMut<'_>) -> Result<(), AttentionError> {
    let length = |what, expected, actual| {
        if expected == actual { Ok(()) } else { Err(AttentionError::Length { what, expected, actual }) }
    };
    let (row_len, held) = (cache.read().row_len(shape.head_dim), cache.read().len());
    length("KV cache", shape.stored(row_len)?, held)?;
    let row = shape.kv_heads * shape.head_dim;
    length("tokens of K or V", slots.len(), x.count)?;
    if !x.hold(row) {
        length("K or V of the step", slots.len() * row, x.values.len())?;
    }
    let capacity = shape.num_blocks * shape.block_size;
    if let Some((token, &slot)) = slots.iter().enumerate().find(|&(_, &slot)| slot as usize >= capacity) {
        return Err(AttentionError::Slot { token, slot, slots: capacity });
    }
    match cache {
        KvSliceMut::F32(cache) => each_row(x, slots, shape, (cache, row_len), |row, to| to.copy_from_slice(row)),
        KvSliceMut::F16(cache) => each_row(x, slots, shape, (cache, row_len), |row, to| run_to_f16(isa(), row, to)),
        KvSliceMut::BF16(cache) => each_row(x, slots, shape, (cache, row_len), |row, to| {
            to.iter_mut().zip(row).for_each(|(to, &from)| *to = bf16::from_f32(from));
        }),
        KvSliceMut::Int8(cache) => {
            each_row(x, slots, shape, (cache, row_len), |row, to| int8::quantize(isa(), row, to));
        }
    }
    Ok(())
}

/// Writes each head of each token to its row of `row_len` elements in the cache; heads are shared out over the pool, tokens keep their order.
fn each_row<T: Send>(
    x: Rows<'_>,
    slots: &[u32],
    shape: KvShape,
    (cache, row_len): (&mut [T], usize),
    write: impl Fn(&[f32], &mut [T]) + Sync,
) {
    let head_dim = shape.head_dim;
    let cache = Disjoint::new(cache);
    over_rows(shape.kv_heads, slots.len() * head_dim, &|heads| {
        for (token, &slot) in slots.iter().enumerate() {
            let row = x.row(token, shape.kv_heads * head_dim);
            let (block, offset) = (slot as usize / shape.block_size, slot as usize % shape.block_size);
            for head in heads.clone() {
                let at = shape.row(block, head, offset) * row_len;
                // SAFETY: no place belongs to two heads, and a head is one task's.
                let to = unsafe { cache.part(at..at + row_len) };
                write(&row[head * head_dim..][..head_dim], to);
            }
        }
    });
}

lanes_entry! { fn run_to_f16 / run_to_f16_avx2 / run_to_f16_avx512(x: &[f32], out: &mut [f16]) = to_f16_lanes }

#[inline(always)]
fn to_f16_lanes<L: Lanes>(x: &[f32], out: &mut [f16]) {
    let most = f16::MAX.to_f32_const();
    let whole = out.len() / LANES * LANES;
    for (x, out) in x.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)) {
        // SAFETY: each part has eight values.
        unsafe {
            let held = L::splat(most).min(L::load(x.as_ptr()));
            L::splat(-most).max(held).store_f16(out.as_mut_ptr());
        }
    }
    for (x, out) in x[whole..].iter().zip(&mut out[whole..]) {
        *out = f16::from_f32(x.clamp(-most, most));
    }
}
