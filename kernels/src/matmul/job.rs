//! What a kernel is handed: some tiles, some rows; and which kernel that is.

use std::ops::Range;

use super::activations::Activations;
use super::brains::Brains;
use super::format::ROWS;
use super::pack::TileLayout;
use crate::dispatch::Isa;
use crate::quant::GgmlType;

/// One tile, or as many as the kernel takes at once, times some rows of activations.
pub(super) struct TileJob<'a> {
    /// The tiles, one after the other.
    pub data: &'a [u8],
    pub tiles: usize,
    /// There are tiles behind these, which the thread most likely takes next.
    pub more: bool,
    pub layout: TileLayout,
    pub cols: usize,
    /// All rows, `[m, cols]`.
    pub x: &'a [f32],
    /// The same as codes; empty where no weight of the call is quantised.
    pub acts: &'a Activations,
    /// The same as bf16; empty where no weight of the call is.
    pub brains: &'a Brains,
    pub rows: Range<usize>,
    /// The blocks that are these rows.
    pub blocks: Range<usize>,
}

impl TileJob<'_> {
    /// What the unsafe kernels rely on; cheap beside a tile.
    pub(super) fn check(&self, ty: GgmlType, acc_len: usize) {
        let fits = TileLayout::of(ty, self.cols).is_some_and(|layout| {
            self.tiles > 0 && self.tiles * layout.bytes == self.data.len() && layout.codes == self.layout.codes
        });
        assert!(fits && self.cols.is_multiple_of(ty.block_len()), "{} tiles of {ty} x {}", self.tiles, self.cols);
        assert!(acc_len == self.rows.len() * self.tiles * ROWS, "{acc_len} sums for {:?}", self.rows);
        if ty == GgmlType::BF16 {
            let (m, cols) = self.brains.shape();
            assert!(self.rows.end <= m && self.cols == cols, "rows {:?} of {m}", self.rows);
        } else if ty.is_float() {
            assert!(self.rows.end * self.cols <= self.x.len(), "rows {:?}", self.rows);
        } else {
            let blocks = self.acts.blocks();
            assert!(self.blocks.end <= blocks.count() && self.cols == self.acts.cols(), "blocks {:?}", self.blocks);
            assert!(blocks.rows_of(self.blocks.clone()) == self.rows, "rows {:?} of {:?}", self.rows, self.blocks);
        }
    }

    /// The rows that weights of a type of floats meet, `[m, cols]`, where they are not taken in pairs.
    pub(super) fn floats(&self, ty: GgmlType) -> &[f32] {
        if ty == GgmlType::BF16 { self.brains.rows() } else { self.x }
    }
}

/// `acc[row of x][row of the tiles]`, overwritten.
pub(super) type TileKernel = fn(&TileJob<'_>, &mut [f32]);

/// The table of kernels: instruction set by type; bf16 has one more, of pairs.
pub(super) fn tile_kernel(isa: Isa, ty: GgmlType, in_pairs: bool) -> TileKernel {
    #[cfg(target_arch = "x86_64")]
    if ty == GgmlType::BF16 && in_pairs {
        return super::brain_zmm::tiles;
    }
    macro_rules! table {
        ($quantised:path, $float:path) => {
            match ty {
                GgmlType::F32 => |job, acc| $float(GgmlType::F32, job, acc),
                GgmlType::F16 => |job, acc| $float(GgmlType::F16, job, acc),
                GgmlType::BF16 => |job, acc| $float(GgmlType::BF16, job, acc),
                _ => super::for_quantised!(ty, F => { use $quantised as kernel; kernel::<F> }, else unreachable!("floats are above")),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => table!(super::avx2::quantised_tile, super::avx2::float_tile),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => table!(super::vnni::quantised_tiles_ymm, super::vnni::float_tiles_ymm),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => table!(super::vnni::quantised_tiles_zmm, super::vnni::float_tiles_zmm),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => table!(super::neon::quantised_tile, super::neon::float_tile),
        _ => table!(super::scalar::quantised_tile, super::scalar::float_tile),
    }
}
