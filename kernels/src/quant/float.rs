//! F32, F16 and BF16: values of their own, little-endian.

/// Reads little-endian f32.
pub(super) fn read_f32(data: &[u8], out: &mut [f32]) {
    for (bytes, value) in data.chunks_exact(4).zip(out) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

/// Reads IEEE half precision.
pub(super) fn read_f16(data: &[u8], out: &mut [f32]) {
    for (bytes, value) in data.chunks_exact(2).zip(out) {
        *value = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    }
}

/// Reads bfloat16: the upper half of an f32.
pub(super) fn read_bf16(data: &[u8], out: &mut [f32]) {
    for (bytes, value) in data.chunks_exact(2).zip(out) {
        *value = half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    }
}
