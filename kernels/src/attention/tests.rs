use half::{bf16, f16};

use super::*;

/// Numbers between -1 and 1.
struct Draw(u32);

impl Draw {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    F32,
    F16,
    BF16,
    Int8,
}

/// The bytes of an int8 cache that holds these rows.
fn int8_cache(x: &[f32], head_dim: usize) -> Vec<u8> {
    let mut bytes = vec![0; x.len() / head_dim * int8_row_len(head_dim)];
    for (row, to) in x.chunks_exact(head_dim).zip(bytes.chunks_exact_mut(int8_row_len(head_dim))) {
        int8::quantize(Isa::Scalar, row, to);
    }
    bytes
}

/// The values of such a cache.
fn int8_values(bytes: &[u8], head_dim: usize) -> Vec<f32> {
    let rows = bytes.len() / int8_row_len(head_dim);
    (0..rows * head_dim).map(|i| int8::Int8Row::of(bytes, i / head_dim, head_dim).value(i % head_dim)).collect()
}

/// A cache full of numbers (also where no sequence wrote), and queries for spans of it.
struct Case {
    heads: usize,
    shape: KvShape,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    spans: Vec<SequenceSpan>,
    params: AttentionParams,
}

impl Case {
    /// `lens`: (query_len, context_len) of each sequence, one after the other in the batch.
    fn new(
        (heads, kv_heads, head_dim): (usize, usize, usize),
        block_size: usize,
        window: Option<usize>,
        lens: &[(usize, usize)],
    ) -> Self {
        let mut draw = Draw(7);
        let blocks: usize = lens.iter().map(|l| l.1.div_ceil(block_size)).sum();
        let shape = KvShape { num_blocks: blocks + 3, kv_heads, block_size, head_dim };
        // Blocks in an order of their own: 5 steps further each time, around a prime.
        let prime = (shape.num_blocks..).find(|&n| n > 5 && (2..n).all(|d| n % d > 0)).unwrap_or(7);
        let mut free = (0..prime).map(|i| i * 5 % prime).filter(|&b| b < shape.num_blocks);
        let (mut spans, mut row) = (Vec::new(), 0);
        for &(query_len, context_len) in lens {
            let table = free.by_ref().take(context_len.div_ceil(block_size));
            spans.push(SequenceSpan {
                query_start: row,
                query_len,
                context_len,
                block_table: table.map(|b| b as u32).collect(),
            });
            row += query_len;
        }
        let values = shape.values().unwrap();
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            heads,
            shape,
            k: draw.many(values, 2.0),
            v: draw.many(values, 1.0),
            q: draw.many(row * heads * head_dim, 3.0),
            spans,
            params: AttentionParams { scale, window },
        }
    }

    fn run(&self, kind: Kind, isa: Isa, pool: &Pool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let halves = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let brains = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        let codes = |x: &[f32]| int8_cache(x, self.shape.head_dim);
        let (hk, hv, bk, bv) = (halves(&self.k), halves(&self.v), brains(&self.k), brains(&self.v));
        let (ck, cv) = (codes(&self.k), codes(&self.v));
        let (k, v) = match kind {
            Kind::F32 => (KvSlice::F32(&self.k), KvSlice::F32(&self.v)),
            Kind::F16 => (KvSlice::F16(&hk), KvSlice::F16(&hv)),
            Kind::BF16 => (KvSlice::BF16(&bk), KvSlice::BF16(&bv)),
            Kind::Int8 => (KvSlice::Int8(&ck), KvSlice::Int8(&cv)),
        };
        let kv = PagedKv { k, v, shape: self.shape };
        let call = checked(
            Rows::dense(&self.q, self.heads * self.shape.head_dim),
            self.heads,
            kv,
            &self.spans,
            &self.params,
            out.len(),
        )
        .unwrap();
        attend(isa, pool, &call, &mut out);
        out
    }

    /// The textbook, in f64.
    fn expected(&self, kind: Kind) -> Vec<f64> {
        let (head_dim, group) = (self.shape.head_dim, self.heads / self.shape.kv_heads);
        let held = |x: &[f32]| -> Vec<f64> {
            match kind {
                Kind::F32 => x.iter().map(|&x| f64::from(x)).collect(),
                Kind::F16 => x.iter().map(|&x| f64::from(f16::from_f32(x).to_f32())).collect(),
                Kind::BF16 => x.iter().map(|&x| f64::from(bf16::from_f32(x).to_f32())).collect(),
                Kind::Int8 => int8_values(&int8_cache(x, head_dim), head_dim).into_iter().map(f64::from).collect(),
            }
        };
        let (k, v) = (held(&self.k), held(&self.v));
        let mut out = vec![0f64; self.q.len()];
        for span in &self.spans {
            for i in 0..span.query_len {
                let seen = plan::visible(span.context_len - span.query_len + i, self.params.window);
                for head in 0..self.heads {
                    let at = ((span.query_start + i) * self.heads + head) * head_dim;
                    let row = |key: usize| {
                        let block = span.block_table[key / self.shape.block_size] as usize;
                        self.shape.row(block, head / group, key % self.shape.block_size) * head_dim
                    };
                    let score = |key: usize| -> f64 {
                        let keys = &k[row(key)..][..head_dim];
                        let dot: f64 = self.q[at..].iter().zip(keys).map(|(q, k)| f64::from(*q) * k).sum();
                        dot * f64::from(self.params.scale)
                    };
                    let scores: Vec<f64> = seen.clone().map(score).collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                    for (key, s) in seen.clone().zip(&scores) {
                        let (weight, from) = ((s - most).exp() / total, row(key));
                        for d in 0..head_dim {
                            out[at + d] += weight * v[from + d];
                        }
                    }
                }
            }
        }
        out
    }
}

/// heads, kv heads, head_dim
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 32), (3, 3, 64), (9, 3, 64), (14, 2, 64), (32, 8, 128), (4, 2, 80), (4, 1, 20), (2, 1, 256)];
const LENS: [(usize, usize); 8] = [(1, 1), (5, 5), (1, 77), (13, 64), (40, 130), (1, 513), (3, 1030), (7, 520)];

#[test]
fn answers_are_those_of_the_textbook() {
    let pool = Pool::new(2);
    for shape in SHAPES {
        for (block_size, window) in [(16, None), (16, Some(50)), (7, Some(1)), (32, Some(600))] {
            let case = Case::new(shape, block_size, window, &LENS);
            for kind in [Kind::F16, Kind::Int8, Kind::F32, Kind::BF16] {
                let expected = case.expected(kind);
                let got = case.run(kind, Isa::best(), &pool);
                for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
                    assert!(
                        (f64::from(*g) - e).abs() < 2e-5,
                        "{shape:?} block {block_size} window {window:?} value {i}: {g} {e}"
                    );
                }
                if shape.0 * shape.2 > 1000 && matches!(kind, Kind::Int8) {
                    break;
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_isa_or_threads() {
    let (one, four) = (Pool::new(1), Pool::new(4));
    for shape in [(9, 3, 64), (14, 2, 64), (4, 1, 20), (2, 1, 80), (6, 2, 11)] {
        let case = Case::new(shape, 16, Some(700), &LENS);
        for kind in [Kind::F16, Kind::Int8] {
            let reference = case.run(kind, Isa::best(), &one);
            assert!(reference == case.run(kind, Isa::best(), &four), "{shape:?} {kind:?} threads");
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                assert!(reference == case.run(kind, isa, &four), "{shape:?} {kind:?} {}", isa.name());
            }
        }
    }
}

#[test]
fn chunks_and_single_tokens_give_the_bits_of_the_whole() {
    let pool = Pool::new(3);
    for (kind, shape, window) in [
        (Kind::F16, (14, 2, 64), None),
        (Kind::F16, (9, 3, 64), Some(100)),
        (Kind::F16, (4, 4, 24), None),
        (Kind::F16, (8, 1, 64), Some(520)),
        (Kind::Int8, (14, 2, 64), None),
        (Kind::Int8, (6, 2, 13), Some(520)),
    ] {
        let len = 1100;
        let case = Case::new(shape, 16, window, &[(len, len)]);
        let whole = case.run(kind, Isa::best(), &pool);
        let row = case.heads * case.shape.head_dim;
        for chunk in [1, 2, 3, 17, 64, 511, 512, 700] {
            // All chunks at once, as spans of one batch that share the sequence's blocks.
            let mut chunked = Case::new(shape, 16, window, &[(len, len)]);
            let table = &case.spans[0].block_table;
            chunked.spans = (0..len)
                .step_by(chunk)
                .map(|start| {
                    let query_len = chunk.min(len - start);
                    SequenceSpan {
                        query_start: start,
                        query_len,
                        context_len: start + query_len,
                        block_table: table.clone(),
                    }
                })
                .collect();
            assert!(chunked.run(kind, Isa::best(), &pool) == whole, "{shape:?} in chunks of {chunk}");
            // And one decode alone, whose context then splits over the threads.
            let last = chunked.spans.len() - 1;
            let mut alone = Case::new(shape, 16, window, &[(len, len)]);
            alone.spans = vec![chunked.spans.swap_remove(last)];
            let at = alone.spans[0].query_start * row;
            let got = alone.run(kind, Isa::best(), &pool);
            assert!(got[at..] == whole[at..], "{shape:?} last chunk of {chunk} alone");
        }
    }
}

#[test]
fn large_numbers_stay_finite() {
    let pool = Pool::new(2);
    for scale in [1e3, 1e10, 1e30, 3e38] {
        let mut case = Case::new((6, 2, 64), 16, None, &[(30, 30), (1, 600)]);
        case.k.iter_mut().for_each(|x| *x *= 30_000.0);
        case.v.iter_mut().for_each(|x| *x *= 60_000.0);
        case.q.iter_mut().for_each(|x| *x *= scale / 3.0);
        case.q[..64].fill(0.0);
        for kind in [Kind::F16, Kind::Int8] {
            let out = case.run(kind, Isa::best(), &pool);
            assert!(out.iter().all(|x| x.is_finite()), "{kind:?}, queries of {scale}");
        }
    }
}

/// Keys and values are off by half a step at most, 1/254 of their row's largest; scores then by a few hundredths.
#[test]
fn an_int8_cache_answers_nearly_as_one_of_f32() {
    let pool = Pool::new(2);
    for shape in SHAPES {
        let case = Case::new(shape, 16, Some(600), &LENS);
        let (exact, int8) = (case.run(Kind::F32, Isa::best(), &pool), case.run(Kind::Int8, Isa::best(), &pool));
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = exact.iter().zip(&int8).map(|(a, b)| square(a - b)).sum();
        let all: f64 = exact.iter().map(|&a| square(a)).sum();
        assert!((off / all).sqrt() < 0.01, "{shape:?}: {}", (off / all).sqrt());
        let worst = exact.iter().zip(&int8).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 0.03, "{shape:?}: {worst}");
    }
}

#[test]
fn a_row_that_is_no_number_reaches_only_who_sees_it() {
    let pool = Pool::new(2);
    let sound = Case::new((4, 2, 20), 16, None, &[(5, 5), (3, 70)]);
    let expected = sound.run(Kind::Int8, Isa::best(), &pool);
    let mut case = Case::new((4, 2, 20), 16, None, &[(5, 5), (3, 70)]);
    // The value at position 3 of the first sequence, kv head 1: query heads 2 and 3 of positions 3 and 4 see it.
    let at = case.shape.row(case.spans[0].block_table[0] as usize, 1, 3) * 20;
    case.v[at + 7] = f32::NAN;
    let got = case.run(Kind::Int8, Isa::best(), &pool);
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let (token, head) = (i / 80, i / 20 % 4);
        match (token == 3 || token == 4) && head >= 2 {
            true => assert!(got.is_nan(), "token {token} head {head}"),
            false => assert!(got == expected, "token {token} head {head}: {got} {expected}"),
        }
    }
}

#[test]
fn nothing_to_do_is_fine_and_rows_of_no_span_are_zero() {
    let case = Case::new((4, 2, 8), 4, None, &[(2, 6)]);
    let kv = PagedKv { k: KvSlice::F32(&case.k), v: KvSlice::F32(&case.v), shape: case.shape };
    paged_attention(Rows::dense(&[], 32), 4, kv, &[], &case.params, &mut []).unwrap();
    let empty = SequenceSpan::default();
    paged_attention(Rows::dense(&[], 32), 4, kv, &[empty], &case.params, &mut []).unwrap();
    let q = vec![1.0; 3 * 4 * 8];
    let mut out = vec![f32::NAN; q.len()];
    paged_attention(Rows::dense(&q, 32), 4, kv, &case.spans, &case.params, &mut out).unwrap();
    assert!(out[2 * 32..].iter().all(|&x| x == 0.0) && out.iter().all(|x| x.is_finite()));
}

#[test]
fn every_wrong_size_and_id_is_named() {
    let check = |change: &dyn Fn(&mut Case), expected: &str| {
        let mut case = Case::new((4, 2, 8), 4, None, &[(2, 6), (1, 3)]);
        change(&mut case);
        let kv = PagedKv { k: KvSlice::F32(&case.k), v: KvSlice::F32(&case.v), shape: case.shape };
        let mut out = vec![0.0; case.q.len()];
        let q = Rows { values: &case.q, stride: 32, count: 3 };
        let result = paged_attention(q, case.heads, kv, &case.spans, &case.params, &mut out);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(&|c| c.heads = 3, "3 query heads cannot share 2");
    check(&|c| c.heads = 0, "0 query heads");
    check(&|c| c.shape.head_dim = 0, "cannot be");
    check(&|c| c.shape.num_blocks = usize::MAX, "cannot be");
    check(&|c| c.k.truncate(10), "keys of the cache: expected 384 values, got 10");
    check(&|c| c.v.truncate(10), "values of the cache");
    check(&|c| c.q.truncate(95), "attention queries: expected 96 values, got 95");
    check(&|c| c.params.window = Some(0), "window of 0");
    check(&|c| c.spans[1].query_start = 3, "span 1: queries 3 .. 3 + 1 of 3 tokens");
    check(&|c| c.spans[1].query_start = usize::MAX, "span 1: queries");
    check(&|c| c.spans[1].query_start = 1, "span 1 starts at row 1, a span before it reaches row 2");
    check(&|c| c.spans[0].context_len = 1, "context of 1 tokens with 2 queries");
    check(&|c| c.spans[0].block_table.truncate(1), "span 0: 1 blocks of 4 tokens for a context of 6");
    check(&|c| c.spans[1].block_table[0] = 6, "span 1: block 6 of a cache of 6");
}

#[test]
fn rows_land_in_their_slots_and_nowhere_else() {
    let shape = KvShape { num_blocks: 3, kv_heads: 2, block_size: 4, head_dim: 11 };
    let slots = [0u32, 11, 6];
    let mut x = Draw(1).many(3 * 2 * 11, 100.0);
    (x[0], x[1], x[10]) = (1e6, -1e6, f32::NAN);
    let len = shape.values().unwrap();
    let (mut full, mut half, mut brain) =
        (vec![7f32; len], vec![f16::from_f32(7.0); len], vec![bf16::from_f32(7.0); len]);
    let mut codes = int8_cache(&full, 11);
    write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::F32(&mut full)).unwrap();
    write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::F16(&mut half)).unwrap();
    write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::BF16(&mut brain)).unwrap();
    write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::Int8(&mut codes)).unwrap();
    let (from_codes, rows) = (int8_values(&codes, 11), int8_values(&int8_cache(&x, 11), 11));
    for (block, head, offset, d) in (0..3)
        .flat_map(|b| (0..2).map(move |h| (b, h)))
        .flat_map(|(b, h)| (0..4).map(move |o| (b, h, o)))
        .flat_map(|(b, h, o)| (0..11).map(move |d| (b, h, o, d)))
    {
        let at = shape.row(block, head, offset) * 11 + d;
        let slot = (block * 4 + offset) as u32;
        let from = slots.iter().position(|&s| s == slot);
        let expected = from.map_or(7.0, |token| x[(token * 2 + head) * 11 + d]);
        let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
        assert!(same(full[at], expected));
        assert!(same(brain[at].to_f32(), bf16::from_f32(expected).to_f32()));
        let held = f16::from_f32(expected.clamp(-65504.0, 65504.0)).to_f32();
        assert!(same(half[at].to_f32(), held), "{} {held}", half[at]);
        let coded = from.map_or(7.0, |token| rows[(token * 2 + head) * 11 + d]);
        assert!(same(from_codes[at], coded), "{} {coded}", from_codes[at]);
    }
    let error = write_kv(Rows::dense(&x, 22), &[0, 12, 1], shape, KvSliceMut::F32(&mut full)).unwrap_err();
    assert_eq!(error.to_string(), "token 1: slot 12 of a cache of 12");
    assert!(write_kv(Rows::dense(&x, 22), &[0], shape, KvSliceMut::F32(&mut full)).is_err());
    assert!(write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::F32(&mut full[1..])).is_err());
    assert!(write_kv(Rows::dense(&x, 22), &slots, shape, KvSliceMut::Int8(&mut codes[1..])).is_err());
}
