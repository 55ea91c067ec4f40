//! Cosines and sines of all positions, computed once.

use std::sync::{Arc, Mutex, RwLock};

use candle_core::{Device, DeviceLocation, Tensor};

use super::RopeScaling;

/// Rows computed at first; the table doubles from here as positions come.
const FIRST_ROWS: usize = 2048;
/// More values than this in one table are a mistake in a model's metadata (4 GiB of cosines and sines).
const MOST_VALUES: usize = 1 << 29;

/// A table that cannot be built, or a call that leaves it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RopeError {
    /// Pairs need an even number of dimensions.
    #[error("rope over {rot_dim} dimensions, needs an even number above 0")]
    OddDimension {
        /// Dimensions asked for.
        rot_dim: usize,
    },
    /// No finite frequency comes of it.
    #[error("rope base {base} must be a finite number above 0")]
    Base {
        /// The base.
        base: f64,
    },
    /// A number of the scaling that gives no finite angle.
    #[error("rope scaling: `{name}` is {value}, must be a finite number above 0")]
    Scaling {
        /// Which number.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// One factor a pair.
    #[error("{actual} frequency factors for {expected} pairs of dimensions")]
    Factors {
        /// Pairs of the table.
        expected: usize,
        /// Factors given.
        actual: usize,
    },
    /// No memory holds such a table.
    #[error("a rope table of {max_positions} positions x {rot_dim} dimensions is too large")]
    TooLarge {
        /// Positions asked for.
        max_positions: usize,
        /// Dimensions that turn.
        rot_dim: usize,
    },
    /// A position past the model's context.
    #[error("position {position}, the rope table ends at {max_positions} positions")]
    Position {
        /// Position asked for.
        position: u32,
        /// Positions there are.
        max_positions: usize,
    },
    /// More dimensions turn than a head has.
    #[error("rope turns {rot_dim} dimensions, a head has {head_dim}")]
    Dimension {
        /// Dimensions of the table.
        rot_dim: usize,
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// The slices are not of the shape.
    #[error("rope of {tokens} tokens x {heads} heads x {head_dim}, {stride} values apart: {len} values given")]
    Shape {
        /// Positions given.
        tokens: usize,
        /// Heads.
        heads: usize,
        /// Dimensions of a head.
        head_dim: usize,
        /// Distance of tokens, in values.
        stride: usize,
        /// Values given.
        len: usize,
    },
}

/// Cosines and sines, `[positions, rot_dim / 2]` each, of the positions seen so far.
#[derive(Debug)]
pub struct RopeRows {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeRows {
    fn new(frequencies: &[f64], attention_factor: f64, rows: usize) -> Self {
        let half = frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(rows * half), Vec::with_capacity(rows * half));
        for position in 0..rows {
            for f in frequencies {
                let (s, c) = (position as f64 * f).sin_cos();
                cos.push((c * attention_factor) as f32);
                sin.push((s * attention_factor) as f32);
            }
        }
        Self { half, cos, sin }
    }

    fn len(&self) -> usize {
        self.cos.len() / self.half
    }

    /// `(cos, sin)` of a position, `[rot_dim / 2]` each. Panics past the rows that [`RopeTable::rows_to`] was asked for.
    pub fn row(&self, position: u32) -> (&[f32], &[f32]) {
        let at = position as usize * self.half..(position as usize + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

/// Rope angles of a model, computed in f64 and kept in f32.
///
/// Rows are made as positions come, doubling: a long `max_positions` costs nothing before it is used.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: Vec<f64>,
    attention_factor: f64,
    max_positions: usize,
    // Read by every call, written a dozen times in a life.
    rows: RwLock<Arc<RopeRows>>,
    // The same rows on an accelerator: touched by the engine's thread alone.
    on_device: Mutex<Option<DeviceRows>>,
}

#[derive(Debug)]
struct DeviceRows {
    location: DeviceLocation,
    len: usize,
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// The table of frequencies `base^(-2i / rot_dim)`, stretched by `scaling`.
    ///
    /// Errors: [`RopeError::OddDimension`], [`RopeError::Base`], [`RopeError::Scaling`], [`RopeError::Factors`],
    /// [`RopeError::TooLarge`].
    pub fn new(rot_dim: usize, base: f64, max_positions: usize, scaling: &RopeScaling) -> Result<Self, RopeError> {
        if rot_dim == 0 || !rot_dim.is_multiple_of(2) {
            return Err(RopeError::OddDimension { rot_dim });
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(RopeError::Base { base });
        }
        Self::check_size(rot_dim, max_positions)?;
        let mut frequencies: Vec<f64> = (0..rot_dim / 2).map(|i| base.powf(-2.0 * i as f64 / rot_dim as f64)).collect();
        let attention_factor = scaling.apply(base, &mut frequencies)?;
        Self::from_inverse_frequencies(frequencies, attention_factor, max_positions)
    }

    /// The table of given frequencies in radians per token, one a pair; cos and sin are multiplied by `attention_factor`.
    ///
    /// Errors: [`RopeError::OddDimension`], [`RopeError::Scaling`], [`RopeError::TooLarge`].
    pub fn from_inverse_frequencies(
        frequencies: Vec<f64>,
        attention_factor: f64,
        max_positions: usize,
    ) -> Result<Self, RopeError> {
        let rot_dim = 2 * frequencies.len();
        if rot_dim == 0 {
            return Err(RopeError::OddDimension { rot_dim });
        }
        Self::check_size(rot_dim, max_positions)?;
        if let Some(&value) = frequencies.iter().find(|f| !f.is_finite()) {
            return Err(RopeError::Scaling { name: "frequency", value });
        }
        let first = RopeRows::new(&frequencies, attention_factor, FIRST_ROWS.min(max_positions));
        Ok(Self {
            frequencies,
            attention_factor,
            max_positions,
            rows: RwLock::new(Arc::new(first)),
            on_device: Mutex::new(None),
        })
    }

    fn check_size(rot_dim: usize, max_positions: usize) -> Result<(), RopeError> {
        match rot_dim.checked_mul(max_positions) {
            Some(values) if values <= MOST_VALUES => Ok(()),
            _ => Err(RopeError::TooLarge { max_positions, rot_dim }),
        }
    }

    /// Dimensions of a head that turn.
    pub fn rot_dim(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Positions there are: 0 .. max_positions.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Rows that reach `position` at least. Errors: [`RopeError::Position`].
    pub fn rows_to(&self, position: u32) -> Result<Arc<RopeRows>, RopeError> {
        let needed = position as usize + 1;
        if needed > self.max_positions {
            return Err(RopeError::Position { position, max_positions: self.max_positions });
        }
        // A panic while the lock is held cannot leave half a table: the Arc is replaced whole.
        let rows = self.rows.read().unwrap_or_else(|e| e.into_inner()).clone();
        if rows.len() >= needed {
            return Ok(rows);
        }
        let mut slot = self.rows.write().unwrap_or_else(|e| e.into_inner());
        if slot.len() < needed {
            let len = needed.next_power_of_two().min(self.max_positions);
            *slot = Arc::new(RopeRows::new(&self.frequencies, self.attention_factor, len));
        }
        Ok(slot.clone())
    }

    /// `(cos, sin)` of each position, `[positions, rot_dim / 2]`, on `device`.
    pub(crate) fn select(&self, positions: &[u32], device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
        let half = self.frequencies.len();
        let last = positions.iter().copied().max().unwrap_or(0);
        let rows = self.rows_to(last).map_err(candle_core::Error::wrap)?;
        let mut slot = self.on_device.lock().unwrap_or_else(|e| e.into_inner());
        let fits = |d: &DeviceRows| d.location == device.location() && d.len > last as usize;
        if !slot.as_ref().is_some_and(fits) {
            let shape = (rows.len(), half);
            *slot = Some(DeviceRows {
                location: device.location(),
                len: rows.len(),
                cos: Tensor::from_slice(&rows.cos, shape, device)?,
                sin: Tensor::from_slice(&rows.sin, shape, device)?,
            });
        }
        let Some(table) = slot.as_ref() else { candle_core::bail!("rope table is gone") };
        let index = Tensor::from_slice(positions, positions.len(), device)?;
        Ok((table.cos.index_select(&index, 0)?, table.sin.index_select(&index, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_as_positions_come() {
        let table = RopeTable::new(64, 1e6, 1_000_000, &RopeScaling::None).unwrap();
        assert_eq!(table.rows_to(0).unwrap().len(), FIRST_ROWS);
        let early = table.rows_to(100).unwrap();
        let grown = table.rows_to(5000).unwrap();
        assert_eq!(grown.len(), 8192);
        assert_eq!(early.row(100), grown.row(100));
        assert_eq!(table.rows_to(0).unwrap().len(), 8192);
        assert!(table.rows_to(999_999).is_ok() && table.rows_to(1_000_000).is_err());
    }

    #[test]
    fn tables_without_sense_are_refused() {
        let none = RopeScaling::None;
        for (rot_dim, base, max, part) in [
            (0, 1e4, 10, "even number"),
            (7, 1e4, 10, "even number"),
            (8, 0.0, 10, "rope base 0"),
            (8, f64::NAN, 10, "rope base NaN"),
            (8, 1e4, usize::MAX, "too large"),
        ] {
            let message = RopeTable::new(rot_dim, base, max, &none).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
