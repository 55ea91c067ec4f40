//! What can be wrong with a call into the kernels: always a size, a name or a missing resource.

use crate::quant::GgmlType;

/// A refused call. Nothing is read or written past a slice: sizes are checked before the work starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A row of this type must be whole blocks.
    #[error("{} rows are blocks of {} columns, {cols} columns do not fill them", ty.name(), ty.block_len())]
    ColumnsNotBlocks {
        /// Type of the data.
        ty: GgmlType,
        /// Columns asked for.
        cols: usize,
    },
    /// The bytes at hand are not those of the shape.
    #[error("{} data of {rows} x {cols} is {expected} bytes, got {actual}", ty.name())]
    DataLength {
        /// Type of the data.
        ty: GgmlType,
        /// Rows (output features).
        rows: usize,
        /// Columns (input features).
        cols: usize,
        /// Bytes of that shape.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A slice has another length than its shape says.
    #[error("{what}: expected {expected} values, got {actual}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Values of its shape.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// A row past the end.
    #[error("row {row} of a matrix of {rows} rows")]
    RowOutOfRange {
        /// Row asked for.
        row: usize,
        /// Rows there are.
        rows: usize,
    },
    /// Weights of one call must take the same activations.
    #[error("weight {index} has {actual} columns, the first has {expected}")]
    ColumnsDiffer {
        /// Which weight of the call.
        index: usize,
        /// Columns of the first.
        expected: usize,
        /// Columns of this one.
        actual: usize,
    },
    /// A matrix without rows or columns.
    #[error("a matrix of {rows} x {cols} has nothing to multiply")]
    EmptyMatrix {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The sizes overflow the address space.
    #[error("{rows} x {cols} values do not fit in memory")]
    TooLarge {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The allocator refused.
    #[error("no memory for {bytes} bytes of packed weights")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// `ENGRAM_ISA` names no instruction set we know.
    #[error("ENGRAM_ISA=`{value}` is not known, choose one of: scalar, avx2, avxvnni, avx512, neon")]
    UnknownIsa {
        /// The variable's value.
        value: String,
    },
    /// `ENGRAM_ISA` names an instruction set this processor lacks.
    #[error("ENGRAM_ISA={name}, but this processor lacks it; unset the variable or choose scalar")]
    MissingIsa {
        /// The instruction set.
        name: &'static str,
    },
    /// `ENGRAM_THREADS` is not a number of threads.
    #[error("ENGRAM_THREADS=`{value}` is not a whole number from 1 to {max}")]
    BadThreads {
        /// The variable's value.
        value: String,
        /// The largest accepted count.
        max: usize,
    },
}
