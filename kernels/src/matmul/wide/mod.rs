//! Sixteen lanes, one a row of a tile: what the VNNI kernels are written in, once, for two register widths.
//!
//! A kernel is an `#[inline(always)]` function generic over [`Wide`]; its entries compile it with the features of the
//! width. Every operation is exact or rounds as IEEE says, so both widths give the same bits.

mod ymm;
mod zmm;

pub(super) use ymm::Ymm;
pub(super) use zmm::Zmm;

/// Sixteen i32 or f32, or the 64 codes of a quad, and what a tile needs done to them.
///
/// # Safety
/// Every function may only run where the processor has the width's instructions; pointers are good for the sixteen
/// lanes (64 bytes of codes) that the function's name says. No alignment is asked for.
pub(super) trait Wide {
    /// Sixteen i32, or 64 bytes.
    type Int: Copy;
    /// Sixteen f32.
    type Float: Copy;
    /// Rows of activations whose sums fit the registers for [`Wide::TILES`] tiles.
    const BLOCK_ROWS: usize;
    /// The same for one tile: so many rows are one stream, whose codes are opened in registers as they come.
    const STREAM_ROWS: usize;
    /// Tiles that are multiplied at once where several blocks of rows meet them.
    const TILES: usize;

    unsafe fn zero() -> Self::Int;
    unsafe fn splat(x: i32) -> Self::Int;
    unsafe fn load(src: *const u8) -> Self::Int;
    unsafe fn store(self_: Self::Int, dst: *mut u8);
    /// Adds to each i32 the products of its four u8 `codes` with the four i8 in `x`. No saturation.
    unsafe fn dot(sums: Self::Int, codes: Self::Int, x: Self::Int) -> Self::Int;
    /// The bits `mask << from` of each byte, moved to `mask << to`.
    unsafe fn bits(bytes: Self::Int, from: u32, to: u32, mask: u8) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn to_float(x: Self::Int) -> Self::Float;

    unsafe fn zero_float() -> Self::Float;
    unsafe fn splat_float(x: f32) -> Self::Float;
    unsafe fn load_float(src: *const f32) -> Self::Float;
    unsafe fn store_float(x: Self::Float, dst: *mut f32);
    /// Sixteen f16, widened.
    unsafe fn load_half(src: *const u8) -> Self::Float;
    /// Sixteen pairs of bf16, widened: the even columns, then the odd.
    unsafe fn load_brains(src: *const u8) -> [Self::Float; 2];
    /// Sixteen u8 as numbers.
    unsafe fn load_unsigned(src: *const u8) -> Self::Float;
    /// Sixteen i8 as numbers.
    unsafe fn load_signed(src: *const u8) -> Self::Float;
    /// The lower halves of sixteen bytes as numbers, then the upper.
    unsafe fn load_nibbles(src: *const u8) -> [Self::Float; 2];
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn negate(a: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn sub_mul(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}
