//! The largest of a row of logits and where it is, in one pass that also looks for NaN and infinities.

/// Values looked at before the best so far is: a block stays in the L1 cache, where it is searched for
/// the place of its largest only if that beats all before.
const BLOCK: usize = 1024;
/// Independent accumulators, so that the compiler may use vectors: two sets of sixteen are what the
/// registers of plain x86-64 hold (32 were half as fast there, and no faster with AVX2).
const LANES: usize = 16;

/// What one pass over a row found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Greatest {
    /// The largest value; NaN is passed over. Negative infinity if there is none.
    pub max: f32,
    /// The first place that holds a value equal to it; 0 if there is none.
    pub index: usize,
    /// Neither NaN nor an infinity was there.
    pub is_finite: bool,
}

/// Looks at `row` once. Reads each value once from memory; a block that holds a new maximum is read again from L1.
pub(crate) fn greatest(row: &[f32]) -> Greatest {
    let mut best = Greatest { max: f32::NEG_INFINITY, index: 0, is_finite: true };
    for (number, block) in row.chunks(BLOCK).enumerate() {
        let (max, is_finite) = max_of(block);
        best.is_finite &= is_finite;
        if max > best.max {
            best.max = max;
            best.index = number * BLOCK + block.iter().position(|x| *x == max).unwrap_or(0);
        }
    }
    best
}

/// The largest of a block, and whether all of it is finite.
fn max_of(block: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    // NaN and infinities survive addition: where the sum is finite, so was every term.
    let mut sum = [0.0f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for chunk in chunks {
        max = std::array::from_fn(|lane| larger(max[lane], chunk[lane]));
        sum = std::array::from_fn(|lane| sum[lane] + chunk[lane]);
    }
    for (lane, &x) in rest.iter().enumerate() {
        max[lane] = larger(max[lane], x);
        sum[lane] += x;
    }
    // Finite terms of enormous size may overflow a sum, so only a look at each tells.
    let is_finite = sum.iter().sum::<f32>().is_finite() || block.iter().all(|x| x.is_finite());
    (max.into_iter().fold(f32::NEG_INFINITY, larger), is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(row: &[f32]) -> Greatest {
        let max = row.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        Greatest {
            max,
            index: row.iter().position(|x| *x == max && max > f32::NEG_INFINITY).unwrap_or(0),
            is_finite: row.iter().all(|x| x.is_finite()),
        }
    }

    #[test]
    fn agrees_with_three_passes_on_odd_lengths() {
        for len in [0, 1, 2, 31, 32, 33, 1023, 1024, 1025, 5000] {
            // Few distinct values, so that the largest is there many times.
            let row: Vec<f32> = (0..len).map(|i| ((i * 2_654_435_761usize) >> 7 & 63) as f32 - 70.0).collect();
            assert_eq!(greatest(&row), plain(&row), "{len}");
            for at in [0, len / 3, len.saturating_sub(1)] {
                for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0] {
                    let mut row = row.clone();
                    if let Some(x) = row.get_mut(at) {
                        *x = odd;
                    }
                    assert_eq!(greatest(&row), plain(&row), "{odd} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        assert_eq!(greatest(&[-1.0, -0.0, 0.0]).index, 1);
        assert_eq!(greatest(&[-1.0, 0.0, -0.0]).index, 1);
    }

    #[test]
    fn enormous_is_not_infinite() {
        assert!(greatest(&[f32::MAX; 100]).is_finite);
        assert!(greatest(&[f32::MIN; 2000]).is_finite);
    }

    #[test]
    fn a_row_of_nothing_has_no_greatest() {
        let none = Greatest { max: f32::NEG_INFINITY, index: 0, is_finite: false };
        assert_eq!(greatest(&[f32::NEG_INFINITY; 40]), none);
        assert_eq!(greatest(&[f32::NAN; 1030]), none);
    }
}
