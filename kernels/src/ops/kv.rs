//! Writes to the paged KV cache.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};
use half::f16;

use super::Path;
use super::storage::{cache_mut, rows};
use crate::attention::{self as kernel, KvShape, int8_head_dim};
use crate::profile::{Kernel, running};

/// Slots in a row from which a copy of their own pays on an accelerator, against one scatter of all.
const RUN: usize = 4;

/// Shape of the cache that a tensor is: its last axis is a row of a head, of bytes where they are an int8 cache.
pub(super) fn kv_shape(layout: &Layout, dtype: DType) -> Result<KvShape> {
    let (num_blocks, kv_heads, block_size, row_len) = layout.shape().dims4()?;
    let head_dim = match dtype {
        DType::U8 => int8_head_dim(row_len),
        _ => Some(row_len),
    };
    let Some(head_dim) = head_dim else { bail!("rows of {row_len} bytes hold no values of an int8 KV cache") };
    Ok(KvShape { num_blocks, kv_heads, block_size, head_dim })
}

/// Refuses the cache that candle's own operations cannot read.
pub(super) fn check_plain(cache: &Tensor, op: &str) -> Result<()> {
    if cache.dtype() == DType::U8 {
        bail!("{op}: an int8 KV cache needs the CPU's kernels and packed weights; take f16 or f32 here")
    }
    Ok(())
}

struct WriteKv<'a> {
    slots: &'a [u32],
}

impl InplaceOp2 for WriteKv<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, tl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let _running = running(Kernel::KvWrite);
        let shape = kv_shape(tl, target.dtype())?;
        let x = rows(x, xl, "write-kv")?;
        kernel::write_kv(x, self.slots, shape, cache_mut(target, tl, "write-kv")?).map_err(candle_core::Error::wrap)
    }
}

/// Writes K and V of a step into the cache, in place; f16 and int8 caches hold at +-65504 instead of turning infinite.
///
/// k, v `[tokens, kv_heads, head_dim]` f32, perhaps views of wider rows; caches `[num_blocks, kv_heads, block_size, row]` as [`super::KvType`]
/// says, contiguous, on the same device; token i goes to slot `slot_mapping[i] = block * block_size + offset`, all slots different.
///
/// Sound though the caches are taken by `&`: candle holds the storage's write lock meanwhile, and the engine's thread
/// owns the caches and runs one pass at a time, so nobody waits for that lock or reads half a write.
pub fn write_kv(
    path: Path,
    k: &Tensor,
    v: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    slot_mapping: &[u32],
) -> Result<()> {
    for (x, target) in [(k, k_cache), (v, v_cache)] {
        let KvShape { num_blocks, kv_heads, block_size, head_dim } = kv_shape(target.layout(), target.dtype())?;
        let expected = (slot_mapping.len(), kv_heads, head_dim);
        if x.dims3()? != expected {
            bail!("write-kv: {} slots of the cache take {expected:?}, got {:?}", slot_mapping.len(), x.dims())
        }
        let slots = num_blocks * block_size;
        if let Some((token, slot)) = slot_mapping.iter().enumerate().find(|&(_, &slot)| slot as usize >= slots) {
            bail!("write-kv: token {token}: slot {slot} of a cache of {slots}")
        }
    }
    if slot_mapping.is_empty() {
        return Ok(());
    }
    for (x, target) in [(k, k_cache), (v, v_cache)] {
        match path {
            Path::Kernels => target.inplace_op2(x, &WriteKv { slots: slot_mapping })?,
            Path::Plain => plain_write(x, target, slot_mapping)?,
        }
    }
    Ok(())
}

/// In candle's ops: runs of slots within a block are copied (a prefill), the others scattered at once (decodes).
fn plain_write(x: &Tensor, target: &Tensor, slots: &[u32]) -> Result<()> {
    check_plain(target, "write-kv")?;
    let x = match target.dtype() {
        DType::F16 => x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())?,
        _ => x.clone(),
    };
    let x = x.to_dtype(target.dtype())?.contiguous()?;
    let block_size = target.dim(2)?;
    let mut single = Vec::new();
    let mut start = 0;
    while start < slots.len() {
        let (block, offset) = (slots[start] as usize / block_size, slots[start] as usize % block_size);
        let most = (block_size - offset).min(slots.len() - start);
        let len = (0..most).take_while(|&i| slots[start + i] as usize == slots[start] as usize + i).count();
        if len < RUN {
            single.extend(start as u32..(start + len) as u32);
        } else {
            // [run, kv_heads, head_dim] -> [1, kv_heads, run, head_dim]
            let run = x.narrow(0, start, len)?.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
            target.narrow(0, block, 1)?.slice_set(&run, 2, offset)?;
        }
        start += len;
    }
    if single.is_empty() { Ok(()) } else { scatter(&x, target, slots, &single) }
}

/// One scatter of the given tokens over the flattened cache.
fn scatter(x: &Tensor, target: &Tensor, slots: &[u32], tokens: &[u32]) -> Result<()> {
    let (num_blocks, kv_heads, block_size, head_dim) = target.dims4()?;
    // Cache rows are (block, head, offset); the row of (slot, head) in [num_blocks * kv_heads * block_size].
    let row = |slot: u32, head: usize| {
        let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
        ((block * kv_heads + head) * block_size + offset) as u32
    };
    let heads = |&token: &u32| (0..kv_heads).map(move |head| row(slots[token as usize], head));
    let rows: Vec<u32> = tokens.iter().flat_map(heads).collect();
    let count = rows.len();
    let index = Tensor::from_vec(rows, (count, 1), target.device())?.broadcast_as((count, head_dim))?.contiguous()?;
    let values = x.index_select(&Tensor::new(tokens, x.device())?, 0)?.reshape((count, head_dim))?;
    let flat = target.reshape((num_blocks * kv_heads * block_size, head_dim))?;
    flat.scatter_set(&index, &values, 0)
}
