//! The two small matrix products of attention, tiles of them in registers.
//!
//! Scores: `S[row][key] = sum over d of Q[row][d] * K[d][key]`. Values: `O[row][d] += sum over keys of P[row][key] * V[key][d]`.
//! Either way lanes are output elements and each element's sum runs over one index in order, so a row's numbers do
//! not depend on the rows it shares a tile with.

use crate::lanes::{Columns, LANES, Lanes};

/// `C[MR rows][NV vectors of columns] (+)= A[row][i] * B[i][column]`, i from 0 to `depth` in order.
///
/// # Safety
/// `a` has MR rows of `depth` values `a_stride` apart, `b` has `depth` rows of NV vectors `b_stride` values apart,
/// `c` MR rows of NV vectors `c_stride` values apart, which nobody else reads or writes.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // the indices are the axes: r a row, v a vector of columns
unsafe fn tile<C: Columns, const MR: usize, const NV: usize, const ADD: bool>(
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    (c, c_stride): (*mut f32, usize),
    depth: usize,
) {
    let mut acc = [[C::splat(0.0); NV]; MR];
    // SAFETY: every address is one of those the caller promised.
    unsafe {
        if ADD {
            for r in 0..MR {
                for v in 0..NV {
                    acc[r][v] = C::load(c.add(r * c_stride + v * C::WIDTH));
                }
            }
        }
        for i in 0..depth {
            let b = b.add(i * b_stride);
            if MR >= NV {
                let mut columns = [C::splat(0.0); NV];
                for v in 0..NV {
                    columns[v] = C::load(b.add(v * C::WIDTH));
                }
                for r in 0..MR {
                    let x = C::splat(*a.add(r * a_stride + i));
                    for v in 0..NV {
                        acc[r][v] = x.mul_add(columns[v], acc[r][v]);
                    }
                }
            } else {
                let mut x = [C::splat(0.0); MR];
                for r in 0..MR {
                    x[r] = C::splat(*a.add(r * a_stride + i));
                }
                for v in 0..NV {
                    let column = C::load(b.add(v * C::WIDTH));
                    for r in 0..MR {
                        acc[r][v] = x[r].mul_add(column, acc[r][v]);
                    }
                }
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                acc[r][v].store(c.add(r * c_stride + v * C::WIDTH));
            }
        }
    }
}

/// MR rows of a product, `columns` (a multiple of 8) wide: as many vectors a tile as registers hold.
///
/// # Safety
/// As [`tile`], for `columns` columns.
#[inline(always)]
unsafe fn strip<L: Lanes, const MR: usize, const ADD: bool>(
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    depth: usize,
    columns: usize,
) {
    let mut at = 0;
    macro_rules! tiles {
        ($columns:ty, $nv:literal) => {
            while columns - at >= $nv * <$columns>::WIDTH {
                tile::<$columns, MR, $nv, ADD>(a, (b.0.add(at), b.1), (c.0.add(at), c.1), depth);
                at += $nv * <$columns>::WIDTH;
            }
        };
    }
    // SAFETY: `at` never passes the columns that the caller promised.
    unsafe {
        if L::Columns::WIDTH > LANES {
            // 32 registers: 24 sums, four vectors of columns.
            tiles!(L::Columns, 4);
            tiles!(L::Columns, 2);
            tiles!(L::Columns, 1);
        }
        if MR == 1 {
            tiles!(L, 8);
        }
        if MR <= 3 {
            tiles!(L, 4);
        }
        if MR == 4 {
            tiles!(L, 3);
        }
        tiles!(L, 2);
        tiles!(L, 1);
    }
}

/// Rows of the next strip when `left` are left: six where possible, and never a lone one if that can be helped.
pub(super) fn strip_rows(left: usize) -> usize {
    match left {
        7 => 4,
        5 => 3,
        _ => left.min(6),
    }
}

/// `rows` (1, 2, 3, 4 or 6) rows of a product.
///
/// # Safety
/// As [`tile`], for `rows` rows and `columns` (a multiple of 8) columns.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes, const ADD: bool>(
    rows: usize,
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    depth: usize,
    columns: usize,
) {
    // SAFETY: the caller's promise, handed on.
    unsafe {
        match rows {
            6 => strip::<L, 6, ADD>(a, b, c, depth, columns),
            4 => strip::<L, 4, ADD>(a, b, c, depth, columns),
            3 => strip::<L, 3, ADD>(a, b, c, depth, columns),
            2 => strip::<L, 2, ADD>(a, b, c, depth, columns),
            _ => strip::<L, 1, ADD>(a, b, c, depth, columns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::strip_rows;

    #[test]
    fn strips_cover_every_count_with_known_widths() {
        for rows in 1..200 {
            let mut left = rows;
            while left > 0 {
                let strip = strip_rows(left);
                assert!([1, 2, 3, 4, 6].contains(&strip), "{strip} of {left}");
                left -= strip;
            }
        }
    }
}
