//! The memory that holds K and V of every running and cached sequence.

use candle_core::{DType, Device, Tensor};
use engram_kernels::ops::KvType;
use engram_kernels::prefer_huge_pages;
use engram_models::forward::KvStore;
use half::vec::HalfBitsVecExt;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::forward::Geometry;

/// K and V of all layers, in blocks: per layer two tensors `[num_blocks, kv_heads, block_size, row]`, where a row is as
/// [`KvType::row_len`] says: `head_dim` values, or in int8 the codes and what one is worth.
///
/// Written in place by the model, at the slots of its batch. On the CPU the pages are the system's
/// zero pages until first written, so resident memory grows with use, not with the budget.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    num_blocks: usize,
    block_size: usize,
    bytes_per_block: usize,
}

impl KvCache {
    /// As many blocks as `config.kv_bytes` holds.
    pub fn new(geometry: &Geometry, config: &EngineConfig, device: &Device) -> Result<Self, EngineError> {
        check_device(config.kv_dtype, device)?;
        let bytes_per_block = bytes_per_block(geometry, config)?;
        // More blocks than a full house of longest sequences could ever hold would only lie about.
        let longest = config.max_model_len.unwrap_or(geometry.max_len).min(geometry.max_len);
        let useful = longest.div_ceil(config.block_size).saturating_mul(config.max_num_seqs).saturating_mul(2);
        let num_blocks = (config.kv_bytes / bytes_per_block).min(useful).min(u32::MAX as usize / config.block_size / 2);
        if num_blocks < 2 {
            return Err(EngineError::Start(format!(
                "`kv_bytes` is {}, two blocks of {} tokens need {}: raise it",
                config.kv_bytes,
                config.block_size,
                2 * bytes_per_block
            )));
        }
        let shape = [num_blocks, geometry.kv_heads, config.block_size, config.kv_dtype.row_len(geometry.head_dim)];
        let zeros = || zeros(shape, config.kv_dtype.dtype(), device);
        let layers =
            (0..geometry.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<candle_core::Result<Vec<_>>>().map_err(
                |e| EngineError::Start(format!("allocating {} bytes of KV cache: {e}", num_blocks * bytes_per_block)),
            )?;
        Ok(Self { layers, num_blocks, block_size: config.block_size, bytes_per_block })
    }

    /// Blocks there are.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens it holds.
    pub fn tokens(&self) -> usize {
        self.num_blocks * self.block_size
    }

    /// Bytes it takes once all blocks were written.
    pub fn bytes(&self) -> usize {
        self.num_blocks * self.bytes_per_block
    }
}

impl KvStore for KvCache {
    fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (k, v) = &self.layers[layer];
        (k, v)
    }

    fn block_size(&self) -> usize {
        self.block_size
    }
}

/// Only the CPU's kernels read int8.
fn check_device(kind: KvType, device: &Device) -> Result<(), EngineError> {
    if kind == KvType::Int8 && !device.is_cpu() {
        return Err(EngineError::Start(
            "`kv_dtype` is int8, which only the CPU's kernels read: take f16 on this device".into(),
        ));
    }
    Ok(())
}

fn bytes_per_block(geometry: &Geometry, config: &EngineConfig) -> Result<usize, EngineError> {
    let row_bytes = config.kv_dtype.row_bytes(geometry.head_dim);
    let factors = [geometry.layers, 2, geometry.kv_heads, config.block_size, row_bytes];
    factors
        .iter()
        .try_fold(1usize, |product, &factor| product.checked_mul(factor))
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| {
            EngineError::Start(format!("KV block of {} tokens for {geometry:?} has no size", config.block_size))
        })
}

/// Zeros that cost no memory before they are written, on huge pages where there are such: on the CPU through integer
/// vectors, which the allocator hands out as untouched zero pages (a vector of `f16` would be filled by hand).
fn zeros(shape: [usize; 4], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let len = shape.iter().product();
    let halves = || {
        let halves = vec![0u16; len];
        prefer_huge_pages(&halves);
        halves
    };
    match (device, dtype) {
        (Device::Cpu, DType::F16) => Tensor::from_vec(halves().reinterpret_into::<half::f16>(), &shape, device),
        (Device::Cpu, DType::BF16) => Tensor::from_vec(halves().reinterpret_into::<half::bf16>(), &shape, device),
        (Device::Cpu, DType::U8) => {
            let bytes = vec![0u8; len];
            prefer_huge_pages(&bytes);
            Tensor::from_vec(bytes, &shape, device)
        }
        _ => Tensor::zeros(&shape, dtype, device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { layers: 3, kv_heads: 2, head_dim: 8, vocab_size: 64, max_len: 1 << 20 };

    #[test]
    fn the_budget_decides_the_blocks() {
        // 3 layers x K and V x 2 heads x 16 tokens x 8 x 2 bytes = 3072
        let config = EngineConfig { kv_bytes: 10 * 3072 + 3071, ..Default::default() };
        let cache = KvCache::new(&GEOMETRY, &config, &Device::Cpu).unwrap();
        assert_eq!((cache.num_blocks(), cache.tokens(), cache.bytes()), (10, 160, 30720));
        for layer in 0..3 {
            let (k, v) = cache.layer(layer);
            assert_eq!((k.dims(), k.dtype()), (&[10, 2, 16, 8][..], DType::F16));
            assert_eq!(v.to_dtype(DType::F32).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        }
    }

    #[test]
    fn int8_takes_a_byte_a_value_and_four_a_row() {
        // 3 layers x K and V x 2 heads x 16 tokens x (8 + 4) bytes = 2304
        let config = EngineConfig { kv_bytes: 10 * 2304 + 2303, kv_dtype: KvType::Int8, ..Default::default() };
        let cache = KvCache::new(&GEOMETRY, &config, &Device::Cpu).unwrap();
        assert_eq!((cache.num_blocks(), cache.tokens(), cache.bytes()), (10, 160, 23040));
        let (k, v) = cache.layer(2);
        assert_eq!((k.dims(), k.dtype()), (&[10, 2, 16, 12][..], DType::U8));
        assert!(v.flatten_all().unwrap().to_vec1::<u8>().unwrap().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_budget_too_small_says_what_is_needed() {
        let config = EngineConfig { kv_bytes: 4000, ..Default::default() };
        let message = KvCache::new(&GEOMETRY, &config, &Device::Cpu).err().unwrap().to_string();
        assert!(message.contains("`kv_bytes` is 4000") && message.contains("6144"), "{message}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_unused_cache_takes_no_resident_memory() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        for kv_dtype in [KvType::F16, KvType::Int8] {
            let config = EngineConfig { kv_bytes: 1 << 30, kv_dtype, ..Default::default() };
            let before = resident();
            let cache = KvCache::new(&GEOMETRY, &config, &Device::Cpu).unwrap();
            let grown = resident().saturating_sub(before);
            assert!(cache.bytes() > 1_000_000_000 && grown < 1 << 28, "{grown} bytes resident for {}", cache.bytes());
        }
    }
}
