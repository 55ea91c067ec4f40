//! Every type, odd sizes, against f64 dot products of the dequantised weights; every instruction set against scalar; a row alone
//! against any batch.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::activations::{MAX_PLANES, Part, UnitInfo, quantize_part};
use super::format::UNIT;
use super::*;
use crate::quant::dequantize;

const WIDTHS: [usize; 5] = [32, 64, 256, 896, 4864];

/// ggml bytes of random weights, quantised by candle.
fn random_weights(ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let dtype = match ty {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
    };
    let values = Tensor::randn(0.1f32, 1f32, (rows, cols), &Device::Cpu).expect("random weights");
    let quantised = QTensor::quantize(&values, dtype).expect("candle quantises");
    quantised.data().expect("bytes").to_vec()
}

fn random_rows(m: usize, cols: usize) -> Vec<f32> {
    let mut seed = (m * 31 + cols) as u64 + 1;
    (0..m * cols)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let unit = (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            unit * unit * unit * 20.0
        })
        .collect()
}

fn product(isa: Isa, pool: &Pool, x: &[f32], m: usize, weights: &[&PackedMatrix]) -> Vec<f32> {
    let rows: usize = weights.iter().map(|w| w.rows()).sum();
    let mut out = vec![f32::MAX; m * rows];
    linear_on(isa, pool, x, m, weights, None, &mut out).expect("sizes agree");
    out
}

/// Those that this processor runs, beside the definition.
fn vector_isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|&isa| isa != Isa::Scalar && isa.available())
}

/// What weights of a type meet: the activations as they are, as bf16 or as int8.
fn as_met(ty: GgmlType, x: &[f32]) -> Vec<f64> {
    match ty {
        GgmlType::BF16 => x.iter().map(|&v| half::bf16::from_f32(v).to_f64()).collect(),
        _ if ty.is_float() => x.iter().map(|&v| f64::from(v)).collect(),
        _ => rounded(x),
    }
}

/// What the activations are after rounding to int8.
fn rounded(x: &[f32]) -> Vec<f64> {
    let mut codes = vec![0i8; x.len()];
    let mut infos = vec![UnitInfo::default(); x.len() / UNIT];
    let planes = [const { None }; MAX_PLANES];
    quantize_part(&mut Part { x, cols: x.len(), rows: 1, codes: &mut codes, infos: &mut infos, planes });
    codes.iter().enumerate().map(|(i, &c)| f64::from(c) * f64::from(infos[i / UNIT].scale)).collect()
}

#[test]
fn products_equal_exact_dots_and_the_scalar_definition() {
    let (one, three) = (Pool::new(1), Pool::new(3));
    for ty in GgmlType::ALL {
        for cols in WIDTHS.into_iter().filter(|cols| cols % ty.block_len() == 0) {
            for (rows, m) in [(1, 1), (15, 2), (16, 3), (17, 5), (33, 4), (33, 9), (49, 13), (17, 33), (15, 70)] {
                let data = random_weights(ty, rows, cols);
                let packed = PackedMatrix::pack(ty, rows, cols, &data).expect("packs");
                let x = random_rows(m, cols);
                let scalar = product(Isa::Scalar, &one, &x, m, &[&packed]);
                for isa in vector_isas() {
                    let fast = product(isa, &three, &x, m, &[&packed]);
                    let same = scalar.iter().zip(&fast).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{ty} {rows}x{cols} m {m}: {} differs from scalar", isa.name());
                }

                let mut w = vec![0f32; rows * cols];
                dequantize(ty, &data, &mut w).expect("sizes agree");
                let exact_x = as_met(ty, &x);
                for i in 0..m {
                    for row in 0..rows {
                        let pairs = exact_x[i * cols..][..cols].iter().zip(&w[row * cols..][..cols]);
                        let (mut dot, mut size) = (0f64, 0f64);
                        for (x, &w) in pairs {
                            dot += x * f64::from(w);
                            size += (x * f64::from(w)).abs();
                        }
                        let got = f64::from(scalar[i * rows + row]);
                        assert!(
                            (got - dot).abs() <= 1e-6 * size,
                            "{ty} {rows}x{cols} [{i}, {row}]: {got}, exactly {dot}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bf16_meets_bf16_in_any_number_of_rows_and_columns() {
    let ty = GgmlType::BF16;
    let (one, three) = (Pool::new(1), Pool::new(3));
    for (rows, cols) in [(1, 1), (17, 7), (50, 255), (33, 257), (40, 575), (70, 1030)] {
        let data = random_weights(ty, rows, cols);
        let packed = PackedMatrix::pack(ty, rows, cols, &data).expect("packs");
        let mut w = vec![0f32; rows * cols];
        dequantize(ty, &data, &mut w).expect("sizes agree");
        let x = random_rows(40, cols);
        let met = as_met(ty, &x);
        let alone: Vec<f32> = x.chunks(cols).flat_map(|row| product(Isa::Scalar, &one, row, 1, &[&packed])).collect();
        for (at, &got) in alone.iter().enumerate() {
            let pairs = || met[at / rows * cols..][..cols].iter().zip(&w[at % rows * cols..][..cols]);
            let exact: f64 = pairs().map(|(x, &w)| x * f64::from(w)).sum();
            let size: f64 = pairs().map(|(x, &w)| (x * f64::from(w)).abs()).sum();
            assert!((f64::from(got) - exact).abs() <= 1e-6 * size, "{rows}x{cols} {at}: {got}, exactly {exact}");
        }
        for (isa, m) in vector_isas().flat_map(|isa| (1..=40).map(move |m| (isa, m))) {
            let batch = product(isa, &three, &x[..m * cols], m, &[&packed]);
            let same = batch.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{rows}x{cols} m {m} {}", isa.name());
        }
    }
}

#[test]
fn bf16_so_small_that_sums_could_be_subnormal_counts_as_zero_everywhere() {
    // Rows from 2^-52 down, of x and of weights: products to where `vdpbf16ps` would flush them and others would not.
    let tiny = |rows: usize, cols: usize| -> Vec<f32> {
        let scaled = |(i, v): (usize, f32)| v * 2f32.powi(-52 - (i / cols) as i32);
        random_rows(rows, cols).into_iter().enumerate().map(scaled).collect()
    };
    let (rows, cols, m) = (33, 257, 20);
    let x = tiny(m, cols);
    let data: Vec<u8> = tiny(rows, cols).iter().flat_map(|&w| half::bf16::from_f32(w).to_le_bytes()).collect();
    let packed = PackedMatrix::pack(GgmlType::BF16, rows, cols, &data).expect("packs");
    let pool = Pool::new(1);
    let scalar = product(Isa::Scalar, &pool, &x, m, &[&packed]);
    assert!(scalar.contains(&0.0) && scalar.iter().any(|v| v.abs() > 0.0) && !scalar.iter().any(|v| v.is_subnormal()));
    for isa in vector_isas() {
        let fast = product(isa, &pool, &x, m, &[&packed]);
        assert!(scalar.iter().zip(&fast).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", isa.name());
    }
    let mut row = vec![0f32; cols];
    packed.dequantize_row(4, &mut row).expect("row is there");
    assert!(
        row.contains(&0.0)
            && row.iter().any(|&v| v != 0.0)
            && row.iter().all(|&v| v == 0.0 || v.abs() >= 2f32.powi(-56))
    );
}

/// AVX-512 without BF16, on a processor that has it: the kernels of pairs and of floats, from the same rows.
#[test]
#[cfg(target_arch = "x86_64")]
fn bf16_in_pairs_and_one_by_one_are_the_same() {
    let (rows, cols, m) = (32, 575, 29);
    let packed = PackedMatrix::pack(GgmlType::BF16, rows, cols, &random_weights(GgmlType::BF16, rows, cols));
    let (packed, x, pool) = (packed.expect("packs"), random_rows(m, cols), Pool::new(1));
    let sums = |isa: Isa, in_pairs: bool| {
        let (mut brains, blocks) = (Brains::default(), RowBlocks::new(m, 6));
        brains.round(isa, in_pairs, &pool, &x, (m, cols));
        let job = TileJob {
            data: packed.bytes_of_tiles(),
            tiles: 2,
            more: false,
            layout: packed.layout(),
            cols,
            x: &x,
            acts: &Activations::default(),
            brains: &brains,
            rows: 3..m,
            blocks: 0..blocks.count(),
        };
        let mut acc = vec![f32::MAX; (m - 3) * rows];
        job::tile_kernel(isa, GgmlType::BF16, in_pairs)(&job, &mut acc);
        acc
    };
    let expected = product(Isa::Scalar, &pool, &x, m, &[&packed]);
    for in_pairs in [false, true] {
        if Isa::Avx512.available() && (!in_pairs || brains::in_pairs(Isa::Avx512)) {
            assert_eq!(sums(Isa::Avx512, in_pairs), expected[3 * rows..], "in pairs: {in_pairs}");
        }
    }
}

#[test]
fn a_row_alone_equals_itself_in_any_batch() {
    let (one, three) = (Pool::new(1), Pool::new(3));
    for ty in GgmlType::ALL {
        let cols = 1024 - 256 * usize::from(ty == GgmlType::Q6K);
        let packed: Vec<_> = [40, 7, 129]
            .into_iter()
            .map(|rows| PackedMatrix::pack(ty, rows, cols, &random_weights(ty, rows, cols)).expect("packs"))
            .collect();
        let weights: Vec<_> = packed.iter().collect();
        let x = random_rows(150, cols);
        let mut alone = Vec::new();
        for row in x.chunks(cols) {
            // Each weight in a call of its own, then side by side.
            for weight in &weights {
                alone.extend(product(isa(), &one, row, 1, &[weight]));
            }
        }
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 33, 63, 64, 65, 150] {
            for pool in [&one, &three] {
                let batch = product(isa(), pool, &x[..m * cols], m, &weights);
                let same = batch.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{ty}, m {m}, {} threads", pool.threads());
            }
        }
    }
}

#[test]
fn a_gated_product_is_its_parts() {
    let pool = Pool::new(3);
    for ty in GgmlType::ALL {
        for (rows, cols, m) in [(1, 256, 1), (40, 512, 3), (16, 256, 7), (100, 768, 13), (33, 256, 300)] {
            let (gate, up) = (random_weights(ty, rows, cols), random_weights(ty, rows, cols));
            let apart = [&gate, &up].map(|data| PackedMatrix::pack(ty, rows, cols, data).expect("packs"));
            let paired = GatedMatrix::pack(ty, rows, cols, &gate, &up).expect("packs");
            let x = random_rows(m, cols);
            let mut expected = vec![f32::MAX; m * rows];
            let both = product(Isa::Scalar, &pool, &x, m, &apart.each_ref());
            crate::activation::silu_mul(&both, rows, &mut expected).expect("sizes agree");
            for isa in vector_isas().chain([Isa::Scalar]) {
                let mut out = vec![f32::MAX; m * rows];
                swiglu_on(isa, &pool, Input::Rows(&x), m, &paired, &mut out).expect("sizes agree");
                let same = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{ty} {rows}x{cols} m {m} {}", isa.name());
            }
        }
    }
}

#[test]
fn a_norm_within_a_product_is_the_norm_before_it() {
    let pool = Pool::new(3);
    for types in [&[GgmlType::Q4_1][..], &[GgmlType::Q8_0, GgmlType::Q6K], &[GgmlType::Q5_0, GgmlType::F16]] {
        for (cols, m) in [(256, 1), (768, 5), (512, 13), (256, 300)] {
            let weights: Vec<PackedMatrix> = types
                .iter()
                .map(|&ty| PackedMatrix::pack(ty, 40, cols, &random_weights(ty, 40, cols)).expect("packs"))
                .collect();
            let weights: Vec<&PackedMatrix> = weights.iter().collect();
            let (residual, add, gains) = (random_rows(m, cols), random_rows(m, cols), random_rows(1, cols));
            let (mut sum, mut normed) = (vec![0f32; m * cols], vec![0f32; m * cols]);
            crate::norm::add_rms_norm(&residual, &add, &gains, 1e-6, &mut sum, &mut normed).expect("sizes agree");
            let expected = product(isa(), &pool, &normed, m, &weights);
            let mut stream = residual.clone();
            let input = Input::Normed(Normed { residual: &mut stream, add: Some(&add), weight: &gains, eps: 1e-6 });
            let mut out = vec![f32::MAX; expected.len()];
            product_on(isa(), &pool, (input, m), &weights, None, &mut out).expect("sizes agree");
            assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{types:?} {cols} m {m}");
            assert!(stream.iter().zip(&sum).all(|(a, b)| a.to_bits() == b.to_bits()), "{types:?} {cols} m {m}");
        }
    }
    let weight = PackedMatrix::pack(GgmlType::F32, 1, 2, &[0; 8]).expect("packs");
    let short = Normed { residual: &mut [0.0; 2], add: Some(&[0.0]), weight: &[1.0; 2], eps: 1e-6 };
    let refused = super::product(Input::Normed(short), 1, &[weight], None, &mut [0.0]);
    assert_eq!(refused.unwrap_err().to_string(), "what is added to the residual: expected 2 values, got 1");
}

#[test]
fn packed_rows_dequantise_as_the_blocks_do() {
    for ty in GgmlType::ALL {
        for (rows, cols) in [(1, 256), (15, 512), (33, 1280)] {
            let data = random_weights(ty, rows, cols);
            let packed = PackedMatrix::pack(ty, rows, cols, &data).expect("packs");
            let mut expected = vec![0f32; rows * cols];
            dequantize(ty, &data, &mut expected).expect("sizes agree");
            let mut row_values = vec![0f32; cols];
            for row in 0..rows {
                packed.dequantize_row(row, &mut row_values).expect("row is there");
                assert_eq!(row_values, expected[row * cols..][..cols], "{ty} row {row}");
            }
        }
    }
}

#[test]
fn packing_adds_little() {
    for ty in GgmlType::ALL {
        let (rows, cols) = (64, 1024);
        let packed = PackedMatrix::pack(ty, rows, cols, &random_weights(ty, rows, cols)).expect("packs");
        let ggml = ty.row_bytes(cols).expect("whole blocks") * rows;
        assert!(packed.bytes() as f64 <= ggml as f64 * 1.05, "{ty}: {} bytes from {ggml}", packed.bytes());
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    // Every code, scale and activation at its largest: what the i16 sums must hold.
    let pool = Pool::new(1);
    for ty in GgmlType::ALL.into_iter().filter(|ty| !ty.is_float()) {
        for fill in [0x00u8, 0xff, 0x7f, 0x80] {
            let mut data = vec![fill; ty.row_bytes(256).expect("one block") * 16];
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                // f16 1.0 wherever a format keeps its scales.
                let at: &[usize] = match ty {
                    GgmlType::Q2K => &[80, 82],
                    GgmlType::Q3K => &[108],
                    GgmlType::Q6K => &[208],
                    GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
                    _ => &[0, 2],
                };
                at.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&0x3c00u16.to_le_bytes()));
            }
            let packed = PackedMatrix::pack(ty, 16, 256, &data).expect("packs");
            for x in [vec![3.0f32; 256], vec![-3.0; 256]] {
                let scalar = product(Isa::Scalar, &pool, &x, 1, &[&packed]);
                for isa in vector_isas() {
                    assert_eq!(product(isa, &pool, &x, 1, &[&packed]), scalar, "{ty} {fill:#x} {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn activations_round_the_same_everywhere() {
    let pool = Pool::new(1);
    let mut x = random_rows(40, 320);
    x[3] = f32::NAN;
    x[40] = f32::INFINITY;
    x[70] = -f32::INFINITY;
    x[96..128].fill(0.0);
    x[128..160].fill(1e-38);
    x[160..192].fill(f32::MAX);
    let held = |isa: Isa, most: usize| {
        let mut acts = Activations::default();
        assert!(acts.plan(PLANES.into_iter()));
        acts.quantize(isa, &pool, &Source::Rows(&x), RowBlocks::new(40, most), 320);
        acts
    };
    const PLANES: [Plane; 5] = [
        Plane::Scale,
        Plane::Weighted { halves: false },
        Plane::Weighted { halves: true },
        Plane::Start { zero: 16, halves: false },
        Plane::Start { zero: 32, halves: true },
    ];
    let scalar = held(Isa::Scalar, 1);
    for (isa, most) in vector_isas().flat_map(|isa| [1, 3, 4, 6].map(|most| (isa, most))) {
        let fast = held(isa, most);
        for row in 0..40 {
            let what = format!("{} row {row} in blocks of {most}", isa.name());
            let alone = scalar.block(row);
            let block = fast.blocks().block_of(row);
            let start = fast.blocks().rows_of(block..block + 1).start;
            let at = row - start;
            let block = fast.block(block);
            let number = |plane: Plane, unit: usize, group: usize, groups: usize| {
                fast.plane(plane)[(start * 10 + unit * block.rows) * groups + group * block.rows + at]
            };
            for unit in 0..320 / UNIT {
                let (a, b) = (&alone.infos[unit], &block.infos[unit * block.rows + at]);
                let same = |a: f32, b: u32| a.to_bits() == b || a.is_nan() && f32::from_bits(b).is_nan();
                assert_eq!(a.scale.is_nan(), row == 0 && unit < 3, "{what} unit {unit}");
                // Kernels of AVX-512 read planes alone, and its infos are left as they were; only AVX2's need the sums in i16.
                let read =
                    |info: &UnitInfo| (info.scale, info.weighted, info.weighted_halves, info.sum, info.half_sums);
                assert!(
                    isa == Isa::Avx512 || a.scale.is_nan() || read(a) == read(b),
                    "{what} unit {unit}: {a:?} {b:?}"
                );
                assert!(isa != Isa::Avx2 || a.scale.is_nan() || a == b, "{what} unit {unit}: {a:?} {b:?}");
                assert!(same(a.scale, number(PLANES[0], unit, 0, 1)), "{what} unit {unit}");
                assert!(same(a.weighted, number(PLANES[1], unit, 0, 1)), "{what} unit {unit}");
                assert_eq!(number(PLANES[3], unit, 0, 1) as i32, -16 * a.sum, "{what} unit {unit}");
                for half in 0..2 {
                    let weighted = number(PLANES[2], unit, half, 2);
                    assert!(same(a.weighted_halves[half], weighted), "{what} unit {unit}");
                    assert_eq!(number(PLANES[4], unit, half, 2) as i32, -32 * a.half_sums[half], "{what} unit {unit}");
                }
            }
            for quad in 0..320 / 4 {
                let (a, b) = (&alone.codes[4 * quad..][..4], &block.codes[4 * (quad * block.rows + at)..][..4]);
                assert_eq!(a, b, "{what} quad {quad}");
                assert!(a.iter().all(|&code| code != i8::MIN), "{what}");
            }
        }
    }
}

#[test]
fn more_formats_side_by_side_than_planes_are_kept_for() {
    let pool = Pool::new(2);
    let packed = GgmlType::ALL.map(|ty| PackedMatrix::pack(ty, 20, 256, &random_weights(ty, 20, 256)).expect("packs"));
    let x = random_rows(9, 256);
    let all = product(isa(), &pool, &x, 9, &packed.each_ref());
    for (index, weight) in packed.iter().enumerate() {
        let alone = product(isa(), &pool, &x, 9, &[weight]);
        for (row, alone) in alone.chunks_exact(20).enumerate() {
            assert_eq!(&all[row * 260 + index * 20..][..20], alone, "{} row {row}", weight.ggml_type());
        }
    }
}

#[test]
fn what_is_not_finite_shows() {
    for ty in GgmlType::ALL.into_iter().filter(|ty| *ty != GgmlType::F32) {
        let packed = PackedMatrix::pack(ty, 16, 256, &random_weights(ty, 16, 256)).expect("packs");
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1f32; 512];
            x[270] = bad;
            let mut out = vec![0f32; 32];
            matmul(&x, 2, &[&packed], &mut out).expect("sizes agree");
            assert!(out[..16].iter().all(|v| v.is_finite()) && out[16..].iter().all(|v| !v.is_finite()), "{ty}");
        }
    }
}

#[test]
fn bad_sizes_are_named() {
    let ty = GgmlType::Q4_0;
    let refused = |rows, cols, len: usize| PackedMatrix::pack(ty, rows, cols, &vec![0; len]).map(|_| ());
    assert_eq!(refused(0, 32, 0), Err(KernelError::EmptyMatrix { rows: 0, cols: 32 }));
    assert_eq!(refused(1, 0, 0), Err(KernelError::EmptyMatrix { rows: 1, cols: 0 }));
    assert_eq!(refused(1, 33, 18), Err(KernelError::ColumnsNotBlocks { ty, cols: 33 }));
    assert!(matches!(refused(2, 32, 35), Err(KernelError::DataLength { expected: 36, actual: 35, .. })));
    assert!(matches!(refused(usize::MAX, 32, 35), Err(KernelError::TooLarge { .. })));
    let packed = PackedMatrix::pack(ty, 2, 32, &[0; 36]).expect("packs");
    let wider = PackedMatrix::pack(ty, 2, 64, &[0; 72]).expect("packs");
    let mut out = [0f32; 4];
    assert!(matches!(matmul(&[0.0; 31], 1, &[&packed], &mut out[..2]), Err(KernelError::Length { .. })));
    assert!(matches!(matmul(&[0.0; 32], 1, &[&packed], &mut out[..3]), Err(KernelError::Length { .. })));
    assert!(matches!(
        matmul(&[0.0; 32], 1, &[&packed, &wider], &mut out),
        Err(KernelError::ColumnsDiffer { index: 1, expected: 32, actual: 64 })
    ));
    assert!(matches!(packed.dequantize_row(2, &mut [0.0; 32]), Err(KernelError::RowOutOfRange { row: 2, rows: 2 })));
    assert!(matches!(packed.dequantize_row(1, &mut [0.0; 31]), Err(KernelError::Length { .. })));
    assert_eq!(matmul(&[], 0, &[&packed], &mut []), Ok(()));
    assert_eq!(matmul(&[], 0, &[], &mut []), Ok(()));
}
