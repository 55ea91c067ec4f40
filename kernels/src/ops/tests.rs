//! Each op in its two forms, one against the other.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use half::f16;

use super::*;
use crate::PackedMatrix;
use crate::quant::GgmlType;

fn draw(shape: &[usize], seed: f32) -> Tensor {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i as f32 * 12.9898 + seed).sin() * 437.585_45).fract() * 2.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn close(kernels: &Tensor, plain: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(kernels.dims(), plain.dims(), "{what}");
    for (i, (a, b)) in values(kernels).iter().zip(values(plain)).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}: value {i} is {a} and {b}");
    }
}

#[test]
fn norms_and_activations_agree() -> Result<()> {
    for (rows, cols) in [(1, 1), (1, 896), (3, 33), (17, 576), (64, 100), (0, 64)] {
        let what = format!("{rows} x {cols}");
        let (x, y) = (draw(&[rows, cols], 1.0), draw(&[rows, cols], 2.0));
        let (w, b) = (draw(&[cols], 3.0), draw(&[cols], 4.0));
        close(&rms_norm(Path::Kernels, &x, &w, 1e-6)?, &rms_norm(Path::Plain, &x, &w, 1e-6)?, 2e-6, &what);
        let (sum, normed) = add_rms_norm(Path::Kernels, &x, &y, &w, 1e-5)?;
        let (plain_sum, plain_normed) = add_rms_norm(Path::Plain, &x, &y, &w, 1e-5)?;
        close(&sum, &plain_sum, 0.0, &what);
        close(&normed, &plain_normed, 2e-6, &what);
        if cols > 1 {
            let (a, b) = (layer_norm(Path::Kernels, &x, &w, &b, 1e-5)?, layer_norm(Path::Plain, &x, &w, &b, 1e-5)?);
            close(&a, &b, 5e-6, &what);
        }
        let wide = (draw(&[rows, 2 * cols], 5.0) * 6.0)?;
        close(&silu_mul(Path::Kernels, &wide)?, &silu_mul(Path::Plain, &wide)?, 2e-6, &what);
        for form in [GeluForm::Tanh, GeluForm::Erf] {
            close(&gelu(Path::Kernels, &wide, form)?, &gelu(Path::Plain, &wide, form)?, 2e-6, &what);
        }
    }
    Ok(())
}

#[test]
fn attention_in_both_directions_agrees() -> Result<()> {
    let (heads, lengths) = (3, [1usize, 9, 0, 70]);
    let slopes = [0.5, 0.25, 0.125];
    let joined = draw(&[80, 3 * heads, 16], 1.0);
    // [tokens, q + k + v heads, head_dim] -> three views of some of the heads
    let part = |index: usize| joined.narrow(1, index * heads, heads);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    for slopes in [None, Some(&slopes[..])] {
        let [kernels, plain] =
            [Path::Kernels, Path::Plain].map(|path| full_attention(path, [&q, &k, &v], &lengths, 0.25, slopes));
        close(&kernels?, &plain?, 2e-6, &format!("{slopes:?}"));
    }
    assert!(full_attention(Path::Kernels, [&q, &k, &v], &[79], 0.25, None).is_err());
    Ok(())
}

#[test]
fn inputs_may_be_views() -> Result<()> {
    let wide = draw(&[5, 3 * 64], 1.0);
    let (view, w) = (wide.narrow(1, 64, 64)?, draw(&[64], 2.0));
    let whole = rms_norm(Path::Kernels, &view.contiguous()?, &w, 1e-6)?;
    assert_eq!(values(&rms_norm(Path::Kernels, &view, &w, 1e-6)?), values(&whole));
    let heads = view.reshape((5, 2, 32))?;
    let table = RopeTable::new(32, 1e4, 64, &RopeScaling::None).unwrap();
    let copied = rope(Path::Kernels, heads.copy()?, &[0, 1, 2, 3, 4], &table, RopeLayout::Neox)?;
    let turned =
        rope(Path::Kernels, wide.reshape((5, 6, 32))?.narrow(1, 2, 2)?, &[0, 1, 2, 3, 4], &table, RopeLayout::Neox)?;
    assert_eq!(values(&turned), values(&copied));
    // In place: the middle of each row has turned, its neighbours have not.
    assert_eq!(values(&wide.narrow(1, 64, 64)?), values(&copied));
    assert_eq!(values(&wide.narrow(1, 0, 64)?), values(&draw(&[5, 3 * 64], 1.0).narrow(1, 0, 64)?));
    let columns = draw(&[4, 5, 32], 1.0).transpose(0, 1)?;
    assert!(rope(Path::Kernels, columns.transpose(1, 2)?, &[0; 5], &table, RopeLayout::Neox).is_err());
    Ok(())
}

#[test]
fn rope_agrees_in_both_layouts_and_with_every_scaling() -> Result<()> {
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    for (heads, head_dim, rot_dim) in [(1, 32, 32), (14, 64, 64), (9, 64, 16), (3, 80, 20), (32, 128, 128)] {
        let factors = RopeScaling::Factors((0..rot_dim / 2).map(|i| 1.0 + i as f32).collect());
        let linear = RopeScaling::Linear { factor: 4.0 };
        for scaling in [&RopeScaling::None, &linear, &llama3, &factors, &RopeScaling::yarn(4.0, 2048)] {
            let table = RopeTable::new(rot_dim, 1e6, 10_000, scaling).unwrap();
            let positions = [0, 9_999, 17, 4_000, 17];
            let x = draw(&[5, heads, head_dim], 1.0);
            for layout in [RopeLayout::Neox, RopeLayout::Interleaved] {
                let kernels = rope(Path::Kernels, x.copy()?, &positions, &table, layout)?;
                let plain = rope(Path::Plain, x.clone(), &positions, &table, layout)?;
                close(&kernels, &plain, 1e-6, &format!("{layout:?} {heads} x {head_dim} {scaling:?}"));
            }
        }
    }
    let table = RopeTable::new(8, 1e4, 10, &RopeScaling::None).unwrap();
    for path in [Path::Kernels, Path::Plain] {
        assert!(rope(path, draw(&[1, 2, 8], 0.0), &[10], &table, RopeLayout::Neox).is_err());
        assert!(rope(path, draw(&[2, 2, 8], 0.0), &[1], &table, RopeLayout::Neox).is_err());
        assert!(rope(path, draw(&[1, 2, 6], 0.0), &[1], &table, RopeLayout::Neox).is_err());
        assert_eq!(rope(path, draw(&[0, 2, 8], 0.0), &[], &table, RopeLayout::Neox)?.dims(), [0, 2, 8]);
    }
    Ok(())
}

/// A cache and two ragged batches: prompts, then a chunk of one prompt beside decodes of the others.
fn two_steps(
    path: Path,
    kind: KvType,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    block_size: usize,
    window: Option<usize>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let cache = || Tensor::zeros((24, kv_heads, block_size, kind.row_len(head_dim)), kind.dtype(), &Device::Cpu);
    let (k_cache, v_cache) = (cache()?, cache()?);
    let tables: [&[u32]; 3] = [&[20, 3, 7, 11], &[0, 23], &[5, 6, 2, 9, 10]];
    let mut lens = [0usize; 3];
    let params = AttentionParams { scale: 1.0 / (head_dim as f32).sqrt(), window };
    let mut last = None;
    for (step, news) in [[2 * block_size + 3, 5, 1], [1, 1, 3 * block_size]].iter().enumerate() {
        let (mut spans, mut slots) = (Vec::new(), Vec::new());
        for (sequence, &new) in news.iter().enumerate() {
            let table = tables[sequence];
            let positions = lens[sequence]..lens[sequence] + new;
            spans.push(SequenceSpan {
                query_start: slots.len(),
                query_len: new,
                context_len: positions.end,
                block_table: table.to_vec(),
            });
            slots.extend(positions.map(|p| table[p / block_size] * block_size as u32 + (p % block_size) as u32));
            lens[sequence] += new;
        }
        let seed = step as f32 * 10.0;
        let kv = |add: f32| draw(&[slots.len(), kv_heads, head_dim], seed + add);
        write_kv(path, &kv(1.0), &kv(2.0), &k_cache, &v_cache, &slots)?;
        let q = (draw(&[slots.len(), heads, head_dim], seed) * 2.0)?;
        last = Some(paged_attention(path, &q, &k_cache, &v_cache, &spans, &params)?);
    }
    Ok((last.expect("two steps"), k_cache, v_cache))
}

#[test]
fn attention_and_cache_agree_over_ragged_batches() -> Result<()> {
    for shape in [(1, 1, 32), (3, 3, 64), (9, 3, 64), (14, 2, 64), (32, 8, 128), (4, 1, 80), (2, 2, 12)] {
        for (kind, block_size, window) in [
            (KvType::F16, 16, None),
            (KvType::F32, 16, Some(7)),
            (KvType::BF16, 16, Some(1)),
            (KvType::F16, 8, Some(1000)),
            (KvType::F32, 5, None),
        ] {
            let what = format!("{shape:?} {kind:?} block {block_size} window {window:?}");
            let (kernels, k, v) = two_steps(Path::Kernels, kind, shape, block_size, window)?;
            let (plain, plain_k, plain_v) = two_steps(Path::Plain, kind, shape, block_size, window)?;
            assert_eq!(values(&k), values(&plain_k), "keys, {what}");
            assert_eq!(values(&v), values(&plain_v), "values, {what}");
            close(&kernels, &plain, 1e-5, &what);
        }
    }
    Ok(())
}

#[test]
fn plain_attention_in_parts_is_the_whole() -> Result<()> {
    let len = PLAIN_TOKENS;
    let params = AttentionParams { scale: 0.2, window: Some(300) };
    let (k, v) = (draw(&[40, 2, 16, 16], 1.0), draw(&[40, 2, 16, 16], 2.0));
    let q = draw(&[len, 4, 16], 3.0);
    let span = SequenceSpan { query_start: 0, query_len: len, context_len: len, block_table: (0..40).rev().collect() };
    let spans = [span];
    let kernels = paged_attention(Path::Kernels, &q, &k, &v, &spans, &params)?;
    let plain = paged_attention(Path::Plain, &q, &k, &v, &spans, &params)?;
    close(&kernels, &plain, 1e-5, "600 queries");
    Ok(())
}

/// More queries than the plain form holds scores of at once.
const PLAIN_TOKENS: usize = 600;

#[test]
fn large_keys_hold_in_half_precision() -> Result<()> {
    for path in [Path::Kernels, Path::Plain] {
        let cache = || Tensor::zeros((2, 1, 4, 8), DType::F16, &Device::Cpu);
        let (k_cache, v_cache) = (cache()?, cache()?);
        let x = (draw(&[5, 1, 8], 1.0) * 1e6)?;
        write_kv(path, &x, &x, &k_cache, &v_cache, &[0, 1, 2, 3, 7])?;
        let most = f16::MAX.to_f32();
        assert!(values(&k_cache).iter().all(|x| x.abs() <= most));
        assert!(values(&v_cache).contains(&most));
    }
    Ok(())
}

#[test]
fn an_int8_cache_is_for_our_kernels() -> Result<()> {
    let shape = (14, 2, 20);
    let (int8, keys, _) = two_steps(Path::Kernels, KvType::Int8, shape, 16, None)?;
    assert_eq!((keys.dtype(), keys.dims()), (DType::U8, &[24, 2, 16, 24][..]));
    // Off by half a step of keys and values: see the kernel's own tests.
    close(&int8, &two_steps(Path::Kernels, KvType::F32, shape, 16, None)?.0, 0.03, "int8 beside f32");
    let error = two_steps(Path::Plain, KvType::Int8, shape, 16, None).unwrap_err().to_string();
    assert!(error.contains("write-kv: an int8 KV cache needs the CPU's kernels"), "{error}");
    let params = AttentionParams { scale: 1.0, window: None };
    let error = paged_attention(Path::Plain, &draw(&[0, 14, 20], 0.0), &keys, &keys, &[], &params).unwrap_err();
    assert!(error.to_string().contains("paged-attention: an int8 KV cache"), "{error}");
    let short = Tensor::zeros((1, 1, 4, 4), DType::U8, &Device::Cpu)?;
    let x = draw(&[1, 1, 4], 0.0);
    let error = write_kv(Path::Kernels, &x, &x, &short, &short, &[0]).unwrap_err().to_string();
    assert!(error.contains("rows of 4 bytes hold no values"), "{error}");
    for kind in KvType::ALL {
        assert_eq!(KvType::from_name(kind.name()), Some(kind));
    }
    assert_eq!((KvType::Int8.row_bytes(64), KvType::F16.row_bytes(64), KvType::from_name("q8")), (68, 128, None));
    Ok(())
}

#[test]
fn wrong_shapes_are_told_by_both_paths() -> Result<()> {
    let (k, v) = (draw(&[4, 2, 4, 8], 1.0), draw(&[4, 2, 4, 8], 2.0));
    let params = AttentionParams { scale: 1.0, window: None };
    let span = |query_len, context_len, block_table: &[u32]| SequenceSpan {
        query_start: 0,
        query_len,
        context_len,
        block_table: block_table.to_vec(),
    };
    for path in [Path::Kernels, Path::Plain] {
        let fails = |q: &[usize], span: SequenceSpan, part: &str| {
            let error = paged_attention(path, &draw(q, 0.0), &k, &v, &[span], &params).unwrap_err().to_string();
            assert!(error.contains(part), "{path:?}: {error}");
        };
        fails(&[1, 4, 16], span(1, 1, &[0]), "queries [1, 4, 16] over keys [4, 2, 4, 8]");
        fails(&[1, 3, 8], span(1, 1, &[0]), "3 query heads");
        fails(&[1, 4, 8], span(2, 2, &[0]), "span 0: queries");
        fails(&[1, 4, 8], span(1, 5, &[0]), "1 blocks of 4 tokens");
        fails(&[1, 4, 8], span(1, 1, &[4]), "block 4 of a cache of 4");
        let x = draw(&[1, 2, 8], 0.0);
        assert!(write_kv(path, &x, &x, &k, &v, &[16]).unwrap_err().to_string().contains("slot 16 of a cache of 16"));
        assert!(write_kv(path, &x, &x, &k, &v, &[]).is_err());
        let empty = draw(&[0, 2, 8], 0.0);
        write_kv(path, &empty, &empty, &k, &v, &[])?;
        let none = paged_attention(path, &draw(&[0, 4, 8], 0.0), &k, &v, &[], &params)?;
        assert_eq!(none.dims(), [0, 4, 8]);
        let unclaimed = paged_attention(path, &draw(&[2, 4, 8], 0.0), &k, &v, &[span(1, 1, &[0])], &params)?;
        assert!(values(&unclaimed)[32..].iter().all(|&x| x == 0.0));
    }
    let w = draw(&[3], 0.0);
    assert!(rms_norm(Path::Kernels, &draw(&[2, 6], 0.0), &w, 1e-6).is_err());
    assert!(layer_norm(Path::Kernels, &draw(&[2, 6], 0.0), &w, &w, 1e-6).is_err());
    assert!(add_rms_norm(Path::Kernels, &draw(&[2, 6], 0.0), &draw(&[2, 6], 0.0), &w, 1e-6).is_err());
    assert!(silu_mul(Path::Kernels, &draw(&[2, 7], 0.0)).is_err());
    assert!(gelu_tanh(Path::Kernels, &draw(&[2], 0.0).to_dtype(DType::F64)?).is_err());
    Ok(())
}

#[test]
fn linear_layers_agree_in_every_form() -> Result<()> {
    let (cols, outs) = (96, [40, 17]);
    let mut forms: [Vec<LinearWeight>; 3] = Default::default();
    for rows in outs {
        let weight = QTensor::quantize(&draw(&[rows, cols], rows as f32), GgmlDType::Q8_0)?;
        let packed = PackedMatrix::pack(GgmlType::Q8_0, rows, cols, &weight.data()?).unwrap();
        forms[0].push(LinearWeight::Dense(weight.dequantize(&Device::Cpu)?));
        forms[1].push(LinearWeight::Packed(Arc::new(packed)));
        forms[2].push(LinearWeight::Quantized(QMatMul::from_qtensor(weight)?));
    }
    let bias = draw(&[57], 9.0);
    for tokens in [1, 2, 5, 33] {
        let x = draw(&[tokens, cols], 7.0);
        for bias in [None, Some(&bias)] {
            let dense = linear(&x, &forms[0], bias)?;
            assert_eq!(dense.dims(), [tokens, 57]);
            for form in &forms[1..] {
                // Activations are rounded to 8 bits: an error of 1/250 of the largest a value, averaged over 96.
                close(&linear(&x, form, bias)?, &dense, 0.08, "linear");
            }
            let mixed = [forms[1][0].clone(), forms[0][1].clone()];
            close(&linear(&x, &mixed, bias)?, &dense, 0.08, "mixed forms");
        }
    }
    assert!(linear(&draw(&[2, 64], 0.0), &forms[1], None).is_err());
    assert!(linear(&draw(&[2, cols], 0.0), &forms[1], Some(&draw(&[56], 0.0))).is_err());

    let ids = [3u32, 0, 39, 3];
    let dense = embedding(&ids, &forms[0][0], &Device::Cpu)?;
    assert_eq!(values(&embedding(&ids, &forms[1][0], &Device::Cpu)?), values(&dense));
    assert_eq!(embedding(&[], &forms[1][0], &Device::Cpu)?.dims(), [0, cols]);
    for form in &forms {
        assert!(embedding(&[40], &form[0], &Device::Cpu).is_err());
    }
    Ok(())
}

#[test]
fn rows_are_selected_in_the_order_asked() -> Result<()> {
    let x = draw(&[5, 7], 1.0);
    let rows = |ids: &[usize]| -> Vec<f32> { ids.iter().flat_map(|&i| values(&x)[i * 7..][..7].to_vec()).collect() };
    assert_eq!(values(&select_rows(&x, &[4, 1, 1])?), rows(&[4, 1, 1]));
    assert_eq!(values(&select_rows(&x, &[0, 1, 2, 3, 4])?), values(&x));
    assert_eq!(select_rows(&x, &[])?.dims(), [0, 7]);
    assert!(select_rows(&x, &[5]).is_err());
    Ok(())
}
