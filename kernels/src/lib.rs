//! CPU kernels of Engram: slices and sizes in, numbers out. Knows no model.
//!
//! Every kernel has a scalar definition and twins per instruction set ([`dispatch`]); work is split over one [`pool`].
//! On the CPU an output element has one order of accumulation, whatever the number of rows, the batch or the threads:
//! a request's numbers are bit-equal alone and in any batch.

pub mod activation;
mod affinity;
pub mod attention;
mod disjoint;
pub mod dispatch;
pub mod distance;
pub mod error;
mod lanes;
pub mod matmul;
pub mod norm;
pub mod ops;
mod pages;
pub mod peak;
pub mod pool;
pub mod profile;
pub mod quant;
pub mod rope;
mod rows;
pub mod softmax;

pub use attention::SequenceSpan;
pub use dispatch::{Isa, isa};
pub use error::KernelError;
pub use matmul::{GatedMatrix, PackedMatrix, matmul};
pub use pages::prefer_huge_pages;
pub use pool::{Pool, pool};
pub use quant::{GgmlType, dequantize};
pub use rows::Rows;
