//! The kernels as operations on candle tensors, each said twice: once as our CPU kernel, once in candle's own ops.
//!
//! [`Path::Kernels`] runs the slice kernels of this crate as candle custom ops. [`Path::Plain`] says the same in
//! candle's own operations: it runs on any device (CUDA, until our kernels have twins there), and it is the
//! straightforward form that the kernels are tested against.

mod attention;
mod kv;
mod kv_type;
mod linear;
pub mod pass;
mod pointwise;
mod rope;
mod storage;
#[cfg(test)]
mod tests;

pub use attention::{full_attention, paged_attention};
pub use kv::write_kv;
pub use kv_type::KvType;
pub use linear::{LinearWeight, embedding, linear, select_rows, swiglu};
pub use pointwise::{GeluForm, add_rms_norm, gelu, gelu_tanh, layer_norm, rms_norm, silu_mul};
pub use rope::rope;

pub use crate::attention::{AttentionParams, SequenceSpan};
pub use crate::rope::{RopeError, RopeLayout, RopeScaling, RopeTable};

/// Which of its two forms an operation runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Our kernels; tensors on the CPU.
    Kernels,
    /// Candle's own operations, on any device.
    Plain,
}
