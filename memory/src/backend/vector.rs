//! What may be a record's vector.

use crate::error::{MemoryError, Result};

/// Refuses what an encoder of vectors of `dim` values does not make.
///
/// # Errors
/// [`MemoryError::Invalid`] for another length, a value that is not finite, or zeros alone.
pub(in crate::backend) fn check_vector(dim: usize, vector: &[f32]) -> Result<()> {
    let problem = if vector.len() != dim {
        format!("has {} values, this memory's encoder makes {dim}", vector.len())
    } else if vector.iter().any(|x| !x.is_finite()) {
        "holds a value that is not a number".to_owned()
    } else if vector.iter().all(|&x| x == 0.0) {
        "holds only zeros, which is no direction".to_owned()
    } else {
        return Ok(());
    };
    Err(MemoryError::Invalid { field: "vector".to_owned(), message: problem })
}
