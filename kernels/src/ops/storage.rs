//! Between candle's storages and the slices that kernels take.

use candle_core::{CpuStorage, Layout, Result, bail};

use crate::attention::{KvSlice, KvSliceMut};
use crate::rows::Rows;

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

/// The rows of an f32 tensor `[rows, ..]` whose other axes lie without gaps: all of it, or a part of each row.
pub(super) fn rows<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<Rows<'a>> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: takes f32, got {:?}", candle_core::backend::BackendStorage::dtype(storage))
    };
    let (count, stride) = row_stride(layout, op)?;
    Ok(Rows { values: &values[layout.start_offset()..], stride, count })
}

/// Number of rows and their distance, of a tensor `[rows, ..]` whose other axes lie without gaps.
pub(super) fn row_stride(layout: &Layout, op: &str) -> Result<(usize, usize)> {
    let mut expected = 1;
    for (&dim, &stride) in layout.dims().iter().zip(layout.stride()).skip(1).rev() {
        if dim != 1 && stride != expected {
            bail!("{op}: takes whole rows, got strides {:?} of shape {:?}", layout.stride(), layout.shape())
        }
        expected *= dim;
    }
    match (layout.dims().first(), layout.stride().first()) {
        (Some(&count), Some(&stride)) => Ok((count, stride)),
        _ => bail!("{op}: takes rows, got a scalar"),
    }
}

/// A vector of `len` numbers, each to be overwritten: clearing the outputs of a prefill took 7 % of it.
pub(super) fn unwritten(len: usize) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    // What no kernel has written shows in tests.
    #[cfg(debug_assertions)]
    values.resize(len, f32::NAN);
    // SAFETY: the capacity is there; an f32 may hold any bits, and the caller's kernel writes each before it is read.
    #[allow(clippy::uninit_vec)]
    unsafe {
        values.set_len(len);
    }
    values
}

/// The values of a KV cache.
pub(super) fn cache<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<KvSlice<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("{op}: takes a contiguous KV cache") };
    match storage {
        CpuStorage::F32(values) => Ok(KvSlice::F32(&values[start..end])),
        CpuStorage::F16(values) => Ok(KvSlice::F16(&values[start..end])),
        CpuStorage::BF16(values) => Ok(KvSlice::BF16(&values[start..end])),
        CpuStorage::U8(bytes) => Ok(KvSlice::Int8(&bytes[start..end])),
        _ => bail!("{op}: a KV cache is f32, f16, bf16 or int8 (u8)"),
    }
}

/// The values of a KV cache, to be written.
pub(super) fn cache_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout, op: &str) -> Result<KvSliceMut<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("{op}: takes a contiguous KV cache") };
    match storage {
        CpuStorage::F32(values) => Ok(KvSliceMut::F32(&mut values[start..end])),
        CpuStorage::F16(values) => Ok(KvSliceMut::F16(&mut values[start..end])),
        CpuStorage::BF16(values) => Ok(KvSliceMut::BF16(&mut values[start..end])),
        CpuStorage::U8(bytes) => Ok(KvSliceMut::Int8(&mut bytes[start..end])),
        _ => bail!("{op}: a KV cache is f32, f16, bf16 or int8 (u8)"),
    }
}
