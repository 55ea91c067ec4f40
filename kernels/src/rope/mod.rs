//! Rotary position embedding: RoFormer, <https://arxiv.org/abs/2104.09864>.
//!
//! A pair of dimensions (a, b) turns by an angle of position times frequency:
//! `a' = a cos - b sin, b' = b cos + a sin`. Which dimensions make a pair is the [`RopeLayout`];
//! what the frequencies are, and how they stretch for long contexts, is the [`RopeScaling`].

mod scaling;
mod table;

pub use scaling::RopeScaling;
pub use table::{RopeError, RopeRows, RopeTable};

use crate::disjoint::{Disjoint, over_rows};
use crate::dispatch::isa;
use crate::lanes::{LANES, Lanes, lanes_entry};
use crate::rows::span;

/// Which dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Dimension i with i + rot_dim / 2: GPT-NeoX, Qwen, and Llama as Hugging Face stores it.
    Neox,
    /// Dimension 2i with 2i + 1: GPT-J, and Llama as GGUF stores it.
    Interleaved,
}

/// Turns the first `rot_dim` dimensions of each head to its token's position, in place; the others stay.
///
/// x: a row of `[heads, head_dim]` a token, the rows `stride` values apart; positions `[tokens]`.
/// Errors: [`RopeError::Shape`], [`RopeError::Dimension`], [`RopeError::Position`].
pub fn rope(
    x: &mut [f32],
    stride: usize,
    (heads, head_dim): (usize, usize),
    positions: &[u32],
    table: &RopeTable,
    layout: RopeLayout,
) -> Result<(), RopeError> {
    let row = heads * head_dim;
    let tokens = positions.len();
    if span(tokens, stride, row).is_none_or(|len| len > x.len()) {
        return Err(RopeError::Shape { tokens, heads, head_dim, stride, len: x.len() });
    }
    if table.rot_dim() > head_dim {
        return Err(RopeError::Dimension { rot_dim: table.rot_dim(), head_dim });
    }
    let Some(&last) = positions.iter().max() else {
        return Ok(());
    };
    let angles = table.rows_to(last)?;
    let x = Disjoint::new(x);
    over_rows(tokens, row, &|run| {
        for token in run {
            // SAFETY: each token is its own part: rows do not overlap (`span`).
            let x = unsafe { x.part(token * stride..token * stride + row) };
            let (cos, sin) = angles.row(positions[token]);
            match layout {
                RopeLayout::Neox => run_neox(isa(), x, head_dim, cos, sin),
                RopeLayout::Interleaved => run_interleaved(isa(), x, head_dim, cos, sin),
            }
        }
    });
    Ok(())
}

lanes_entry! {
    fn run_neox / run_neox_avx2 / run_neox_avx512(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = neox_lanes
}
lanes_entry! {
    fn run_interleaved / run_interleaved_avx2 / run_interleaved_avx512(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = interleaved_lanes
}

#[inline(always)]
fn neox_lanes<L: Lanes>(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for x in x.chunks_exact_mut(head_dim) {
        let (x_a, x_b) = x[..2 * half].split_at_mut(half);
        for at in (0..half).step_by(LANES) {
            let (a, b) = (L::load_at(x_a, at), L::load_at(x_b, at));
            let (c, s) = (L::load_at(cos, at), L::load_at(sin, at));
            let minus_s = L::zero().sub(s);
            a.mul_add(c, b.mul(minus_s)).store_at(x_a, at);
            b.mul_add(c, a.mul(s)).store_at(x_b, at);
        }
    }
}

/// Plain loops: compiled with the lanes' instruction set, the compiler does the shuffles.
#[inline(always)]
fn interleaved_lanes<L: Lanes>(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let rot_dim = 2 * cos.len();
    for x in x.chunks_exact_mut(head_dim) {
        for (i, x) in x[..rot_dim].chunks_exact_mut(2).enumerate() {
            let (a, b) = (x[0], x[1]);
            x[0] = a.mul_add(cos[i], b * -sin[i]);
            x[1] = b.mul_add(cos[i], a * sin[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Isa;

    #[test]
    fn both_layouts_turn_pairs_by_position_times_frequency() {
        for (heads, head_dim, rot_dim) in [(1, 2, 2), (3, 64, 64), (2, 80, 32), (5, 20, 18)] {
            let table = RopeTable::new(rot_dim, 10_000.0, 5000, &RopeScaling::None).unwrap();
            let positions = [0u32, 1, 77, 4999];
            let row = heads * head_dim;
            let x: Vec<f32> = (0..row * 4).map(|i| (i as f32 * 0.31).sin()).collect();
            for layout in [RopeLayout::Neox, RopeLayout::Interleaved] {
                let mut out = x.clone();
                rope(&mut out, row, (heads, head_dim), &positions, &table, layout).unwrap();
                // The same as the middle of wider rows, whose rest stays.
                let mut wide = vec![7.0; 4 * (row + 3)];
                for (wide, x) in wide.chunks_exact_mut(row + 3).zip(x.chunks_exact(row)) {
                    wide[1..=row].copy_from_slice(x);
                }
                rope(&mut wide[1..], row + 3, (heads, head_dim), &positions, &table, layout).unwrap();
                for (wide, out) in wide.chunks_exact(row + 3).zip(out.chunks_exact(row)) {
                    assert_eq!((wide[0], &wide[1..=row], &wide[row + 1..]), (7.0, out, &[7.0, 7.0][..]));
                }
                for (token, head, i) in (0..4)
                    .flat_map(|t| (0..heads).map(move |h| (t, h)))
                    .flat_map(|(t, h)| (0..rot_dim / 2).map(move |i| (t, h, i)))
                {
                    let (a, b) = match layout {
                        RopeLayout::Neox => (i, i + rot_dim / 2),
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let base = token * row + head * head_dim;
                    let angle = f64::from(positions[token]) / 10_000f64.powf(2.0 * i as f64 / rot_dim as f64);
                    let (xa, xb) = (f64::from(x[base + a]), f64::from(x[base + b]));
                    let expected = (xa * angle.cos() - xb * angle.sin(), xb * angle.cos() + xa * angle.sin());
                    assert!((f64::from(out[base + a]) - expected.0).abs() < 3e-7);
                    assert!((f64::from(out[base + b]) - expected.1).abs() < 3e-7);
                }
                let untouched = (0..x.len()).filter(|i| i % head_dim >= rot_dim);
                untouched.for_each(|i| assert_eq!(x[i], out[i]));
            }
            let (mut scalar, mut best) = (x[..row].to_vec(), x[..row].to_vec());
            let rows = table.rows_to(77).unwrap();
            let (cos, sin) = rows.row(77);
            run_neox(Isa::Scalar, &mut scalar, head_dim, cos, sin);
            run_neox(Isa::best(), &mut best, head_dim, cos, sin);
            assert_eq!(scalar, best);
            run_interleaved(Isa::Scalar, &mut scalar, head_dim, cos, sin);
            run_interleaved(Isa::best(), &mut best, head_dim, cos, sin);
            assert_eq!(scalar, best);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let table = RopeTable::new(8, 10_000.0, 100, &RopeScaling::None).unwrap();
        let call = |x: &[f32], head_dim, position: u32, table: &RopeTable| {
            rope(&mut x.to_vec(), 8, (1, head_dim), &[position], table, RopeLayout::Neox).unwrap_err().to_string()
        };
        assert_eq!(call(&[0.0; 8], 8, 100, &table), "position 100, the rope table ends at 100 positions");
        assert!(call(&[0.0; 7], 8, 0, &table).contains("1 tokens x 1 heads x 8"));
        let overlapping = rope(&mut [0.0; 20], 7, (1, 8), &[0, 1], &table, RopeLayout::Neox);
        assert!(overlapping.unwrap_err().to_string().contains("7 values apart"));
        let wide = RopeTable::new(16, 10_000.0, 100, &RopeScaling::None).unwrap();
        assert_eq!(call(&[0.0; 8], 8, 0, &wide), "rope turns 16 dimensions, a head has 8");
        assert!(rope(&mut [], 8, (1, 8), &[], &table, RopeLayout::Neox).is_ok());
    }
}
