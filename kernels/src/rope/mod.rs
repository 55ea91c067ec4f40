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

/// Which dimensions of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Dimension i with i + rot_dim / 2: GPT-NeoX, Qwen, and Llama as Hugging Face stores it.
    Neox,
    /// Dimension 2i with 2i + 1: GPT-J, and Llama as GGUF stores it.
    Interleaved,
}

/// Turns the first `rot_dim` dimensions of each head to its token's position; the others are copied.
///
/// x, out `[tokens, heads, head_dim]`; positions `[tokens]`.
/// Errors: [`RopeError::Shape`], [`RopeError::Dimension`], [`RopeError::Position`].
pub fn rope(
    x: &[f32],
    (heads, head_dim): (usize, usize),
    positions: &[u32],
    table: &RopeTable,
    layout: RopeLayout,
    out: &mut [f32],
) -> Result<(), RopeError> {
    let row = heads * head_dim;
    if x.len() != positions.len() * row || out.len() != x.len() {
        return Err(RopeError::Shape { tokens: positions.len(), heads, head_dim, input: x.len(), output: out.len() });
    }
    if table.rot_dim() > head_dim {
        return Err(RopeError::Dimension { rot_dim: table.rot_dim(), head_dim });
    }
    let Some(&last) = positions.iter().max() else {
        return Ok(());
    };
    let angles = table.rows_to(last)?;
    let out = Disjoint::new(out);
    over_rows(positions.len(), row, &|run| {
        for token in run {
            let at = token * row..(token + 1) * row;
            // SAFETY: each token is its own part.
            let out = unsafe { out.part(at.clone()) };
            let (cos, sin) = angles.row(positions[token]);
            match layout {
                RopeLayout::Neox => run_neox(isa(), &x[at], head_dim, cos, sin, out),
                RopeLayout::Interleaved => run_interleaved(isa(), &x[at], head_dim, cos, sin, out),
            }
        }
    });
    Ok(())
}

lanes_entry! {
    fn run_neox / run_neox_avx2(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32], out: &mut [f32]) = neox_lanes
}
lanes_entry! {
    fn run_interleaved / run_interleaved_avx2(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32], out: &mut [f32]) = interleaved_lanes
}

#[inline(always)]
fn neox_lanes<L: Lanes>(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        out[2 * half..].copy_from_slice(&x[2 * half..]);
        let (out_a, out_b) = out[..2 * half].split_at_mut(half);
        for at in (0..half).step_by(LANES) {
            let (a, b) = (L::load_at(&x[..half], at), L::load_at(&x[half..2 * half], at));
            let (c, s) = (L::load_at(cos, at), L::load_at(sin, at));
            let minus_s = L::zero().sub(s);
            a.mul_add(c, b.mul(minus_s)).store_at(out_a, at);
            b.mul_add(c, a.mul(s)).store_at(out_b, at);
        }
    }
}

/// Plain loops: compiled with the lanes' instruction set, the compiler does the shuffles.
#[inline(always)]
fn interleaved_lanes<L: Lanes>(x: &[f32], head_dim: usize, cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let rot_dim = 2 * cos.len();
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        out[rot_dim..].copy_from_slice(&x[rot_dim..]);
        let pairs = x[..rot_dim].chunks_exact(2);
        for (i, (x, out)) in pairs.zip(out[..rot_dim].chunks_exact_mut(2)).enumerate() {
            out[0] = x[0].mul_add(cos[i], x[1] * -sin[i]);
            out[1] = x[1].mul_add(cos[i], x[0] * sin[i]);
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
            let mut out = vec![0.0; x.len()];
            for layout in [RopeLayout::Neox, RopeLayout::Interleaved] {
                rope(&x, (heads, head_dim), &positions, &table, layout, &mut out).unwrap();
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
            let (mut scalar, mut best) = (vec![0.0; row], vec![0.0; row]);
            let rows = table.rows_to(77).unwrap();
            let (cos, sin) = rows.row(77);
            run_neox(Isa::Scalar, &x[..row], head_dim, cos, sin, &mut scalar);
            run_neox(Isa::best(), &x[..row], head_dim, cos, sin, &mut best);
            assert_eq!(scalar, best);
            run_interleaved(Isa::Scalar, &x[..row], head_dim, cos, sin, &mut scalar);
            run_interleaved(Isa::best(), &x[..row], head_dim, cos, sin, &mut best);
            assert_eq!(scalar, best);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let table = RopeTable::new(8, 10_000.0, 100, &RopeScaling::None).unwrap();
        let mut out = [0.0; 8];
        let mut call = |x: &[f32], head_dim, position: u32, table: &RopeTable| {
            rope(x, (1, head_dim), &[position], table, RopeLayout::Neox, &mut out).unwrap_err().to_string()
        };
        assert_eq!(call(&[0.0; 8], 8, 100, &table), "position 100, the rope table ends at 100 positions");
        assert!(call(&[0.0; 7], 8, 0, &table).contains("1 tokens x 1 heads x 8"));
        let wide = RopeTable::new(16, 10_000.0, 100, &RopeScaling::None).unwrap();
        assert_eq!(call(&[0.0; 8], 8, 0, &wide), "rope turns 16 dimensions, a head has 8");
        assert!(rope(&[], (1, 8), &[], &table, RopeLayout::Neox, &mut []).is_ok());
    }
}
