//! The scalar definition of a tile's product: what every other instruction set must equal, bit for bit.
//!
//! Quantised: for each group of 16 or 32 columns, in order, `acc = fma(dot, scale * x.scale, acc)`, `dot` the exact integer
//! `sum(code * x.code) - zero * sum(x.code)`, then, where the format has minimums, `acc = fma(-min, x.scale * sum(x.code), acc)`.
//! Floats: for each 256 columns a sum by fma in column order from 0, the sums added in order.
//! BF16: the same with x rounded to bf16 ([`super::brains`]) and of each two columns the odd one first.

use super::format::{ROWS, TileFormat, UNIT, open_unit, read_scales};
use super::{FLOAT_CHUNK, TileJob};
use crate::quant::{GgmlType, OpenBlock};

/// `acc[row of x][row of tile]`, overwritten.
pub(super) fn quantised_tile<F: TileFormat>(job: &TileJob<'_>, acc: &mut [f32]) {
    let units = job.cols / UNIT;
    acc.fill(0.0);
    let mut codes = [0u8; 512];
    let mut opens = [const { OpenBlock::new() }; ROWS];
    for unit in 0..units {
        if unit.is_multiple_of(F::BLOCK_UNITS) {
            let scales = &job.data[unit / F::BLOCK_UNITS * F::SCALE_BYTES..][..F::SCALE_BYTES];
            opens.iter_mut().enumerate().for_each(|(row, open)| read_scales::<F>(scales, row, open));
        }
        open_unit::<F>(&job.data[job.layout.codes + unit * F::UNIT_BYTES..], &mut codes);
        let rows = job.blocks.clone().flat_map(|block| {
            let block = job.acts.block(block);
            (0..block.rows).map(move |row| (block, row))
        });
        for ((block, row), acc) in rows.zip(acc.chunks_exact_mut(ROWS)) {
            let info = &block.infos[unit * block.rows + row];
            let x_code = |column: usize| {
                let quad = unit * 8 + column / 4;
                i32::from(block.codes[(quad * block.rows + row) * 4 + column % 4])
            };
            for (row, acc) in acc.iter_mut().enumerate() {
                for index in 0..UNIT / F::GROUP {
                    let group = unit % F::BLOCK_UNITS * (UNIT / F::GROUP) + index;
                    let (scale, min) = F::group(&opens[row], group);
                    let sum = if F::GROUP == UNIT { info.sum } else { info.half_sums[index] };
                    let mut dot = -F::ZERO * sum;
                    for column in index * F::GROUP..(index + 1) * F::GROUP {
                        let code = codes[64 * (column / 4) + 4 * row + column % 4];
                        dot += i32::from(code) * x_code(column);
                    }
                    *acc = (dot as f32).mul_add(scale * info.scale, *acc);
                    if F::MINS {
                        *acc = (-min).mul_add(info.scale * sum as f32, *acc);
                    }
                }
            }
        }
    }
}

/// As [`quantised_tile`], for F32, F16 and BF16.
pub(super) fn float_tile(ty: GgmlType, job: &TileJob<'_>, acc: &mut [f32]) {
    acc.fill(0.0);
    let mut column = vec![0f32; job.cols];
    for row in 0..ROWS {
        super::pack::dequantize_floats(ty, job.data, row, &mut column);
        for (m, acc) in job.rows.clone().zip(acc.chunks_exact_mut(ROWS)) {
            let x = &job.floats(ty)[m * job.cols..][..job.cols];
            for (x, w) in x.chunks(FLOAT_CHUNK).zip(column.chunks(FLOAT_CHUNK)) {
                let order = |i: usize| if ty == GgmlType::BF16 && (i ^ 1) < x.len() { i ^ 1 } else { i };
                acc[row] += (0..x.len()).map(order).fold(0.0, |sum, i| x[i].mul_add(w[i], sum));
            }
        }
    }
}
