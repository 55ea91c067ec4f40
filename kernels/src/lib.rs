//! CPU kernels of Engram: slices and sizes in, numbers out. Knows no model.
//!
//! Every kernel has a scalar definition and twins per instruction set ([`dispatch`]); work is split over one [`pool`].
//! On the CPU an output element has one order of accumulation, whatever the number of rows, the batch or the threads:
//! a request's numbers are bit-equal alone and in any batch.

pub mod dispatch;
pub mod error;
pub mod matmul;
pub mod pool;
pub mod quant;

pub use dispatch::{Isa, isa};
pub use error::KernelError;
pub use matmul::{PackedMatrix, matmul};
pub use pool::{Pool, pool};
pub use quant::{GgmlType, dequantize};
