//! Between candle's storages and the slices that kernels take.

use candle_core::{CpuStorage, Layout, Result, bail};

use crate::attention::{KvSlice, KvSliceMut};

/// The values of a contiguous f32 tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: takes f32, got {:?}", candle_core::backend::BackendStorage::dtype(storage))
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => {
            bail!("{op}: takes a contiguous tensor, got strides {:?} of shape {:?}", layout.stride(), layout.shape())
        }
    }
}

/// The values of a KV cache.
pub(super) fn cache<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<KvSlice<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("{op}: takes a contiguous KV cache") };
    match storage {
        CpuStorage::F32(values) => Ok(KvSlice::F32(&values[start..end])),
        CpuStorage::F16(values) => Ok(KvSlice::F16(&values[start..end])),
        CpuStorage::BF16(values) => Ok(KvSlice::BF16(&values[start..end])),
        _ => bail!("{op}: a KV cache is f32, f16 or bf16"),
    }
}

/// The values of a KV cache, to be written.
pub(super) fn cache_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout, op: &str) -> Result<KvSliceMut<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("{op}: takes a contiguous KV cache") };
    match storage {
        CpuStorage::F32(values) => Ok(KvSliceMut::F32(&mut values[start..end])),
        CpuStorage::F16(values) => Ok(KvSliceMut::F16(&mut values[start..end])),
        CpuStorage::BF16(values) => Ok(KvSliceMut::BF16(&mut values[start..end])),
        _ => bail!("{op}: a KV cache is f32, f16 or bf16"),
    }
}
