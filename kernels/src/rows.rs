//! Rows of a wider matrix: what q, k and v are of their joined projection.

/// `count` rows whose first values stand `stride` apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// From the first value of the first row on.
    pub values: &'a [f32],
    /// Distance of rows, in values.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values that follow each other without a gap; what is left over is no row.
    pub fn dense(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, count: values.len().checked_div(width).unwrap_or(0) }
    }

    /// Whether each row has `width` values within the slice.
    pub fn hold(&self, width: usize) -> bool {
        span(self.count, self.stride, width).is_some_and(|len| len <= self.values.len())
    }

    /// The first `width` values of a row. Panics where it has fewer.
    #[inline(always)]
    pub fn row(&self, index: usize, width: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..width]
    }
}

/// Values from the first of the first row to the last of the last; `None` where rows would overlap or the size overflows.
pub(crate) fn span(count: usize, stride: usize, width: usize) -> Option<usize> {
    match count {
        0 => Some(0),
        1 => Some(width),
        _ if stride < width => None,
        _ => (count - 1).checked_mul(stride)?.checked_add(width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_a_stride_apart() {
        let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let rows = Rows { values: &values, stride: 4, count: 3 };
        assert_eq!(rows.row(2, 2), [8.0, 9.0]);
        assert!(rows.hold(2) && !rows.hold(3) && !rows.hold(5));
        assert!(Rows { values: &[], stride: 4, count: 0 }.hold(4));
        assert_eq!(Rows::dense(&values, 5).count, 2);
        assert_eq!(Rows::dense(&values, 0).count, 0);
    }
}
