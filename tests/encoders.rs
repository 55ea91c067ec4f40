//! Sentence encoders: the real ones against their definitions, other families on small random weights against candle-transformers.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models as reference;
use engram_models::Encoder;
use engram_models::embedding::{Family, Precision, Side};
use engram_models::pull::{ModelFiles, PullOptions, resolve};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

fn files(name: &str) -> ModelFiles {
    resolve(name, &PullOptions::from_env()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Texts of this project, prose and source, and some that are odd.
fn texts() -> Vec<String> {
    let prose = [include_str!("../ARCHITECTURE.md"), include_str!("../CONTRIBUTING.md"), include_str!("../README.md")];
    let source = [include_str!("../models/src/catalog.rs"), include_str!("../inference/src/scheduler.rs")];
    let lines = prose.iter().flat_map(|text| text.lines()).filter(|line| line.len() > 30).map(str::to_owned);
    let functions = source.iter().flat_map(|text| text.split("\n\n")).map(str::to_owned);
    let queries = ["binary search", "how is a request cancelled", "where do KV blocks go?", "fn main() {}"];
    let odd =
        ["", " ", "\u{0}", "日本語のテキスト", "naïve Ünïcödé façade", "👩‍👩‍👧‍👦 emoji", "[CLS] [SEP] [MASK]", "a\tb\r\nc"];
    let long = [prose[0].to_owned(), "antidisestablishmentarianism".repeat(40), "x ".repeat(5000)];
    let mut texts: Vec<String> = queries.into_iter().chain(odd).map(str::to_owned).chain(long).collect();
    texts.extend(lines.take(160));
    texts.extend(functions.take(80));
    texts
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Mean over the rows `[tokens, hidden]`.
fn mean(rows: &Tensor) -> Vec<f32> {
    rows.mean(0).and_then(|mean| mean.to_vec1()).expect("a vector")
}

/// all-MiniLM-L6-v2 as candle-transformers runs it in f32, one sequence at a time.
fn minilm_reference(sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let files = files("all-minilm-l6-v2");
    let tensors = candle_core::safetensors::load(&files.weights.paths()[0], &Device::Cpu).expect("weights");
    let config = std::fs::read_to_string(files.config.expect("config.json")).expect("read");
    let config: reference::bert::Config = serde_json::from_str(&config).expect("a configuration");
    let model = reference::bert::BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config);
    let model = model.expect("a model");
    let encode = |ids: &Vec<u32>| {
        let ids = Tensor::new(ids.as_slice(), &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("ids");
        let types = ids.zeros_like().expect("zeros");
        mean(&model.forward(&ids, &types, None).and_then(|rows| rows.squeeze(0)).expect("a pass"))
    };
    sequences.iter().map(encode).collect()
}

#[test]
fn minilm_agrees_with_the_original_in_f32() {
    let files = files("all-minilm-l6-v2");
    let exact = Encoder::load(&files, Precision::Exact).expect("loads");
    assert_eq!((exact.name(), exact.dim(), exact.max_tokens()), ("all-minilm-l6-v2", 384, 256));
    let texts = texts();
    assert!(texts.len() >= 200, "{} texts", texts.len());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let sequences: Vec<Vec<u32>> = texts.iter().map(|text| exact.cut(exact.tokens(text, Side::Document))).collect();

    // The ids are those of the tokenizers crate, read from the same file; ours takes `[SEP]` in a text for text.
    let mut tokenizer =
        tokenizers::Tokenizer::from_file(files.tokenizer.as_ref().expect("a tokenizer")).expect("reads");
    let truncation = tokenizers::TruncationParams { max_length: 256, ..Default::default() };
    tokenizer.with_truncation(Some(truncation)).expect("truncates").with_padding(None);
    for (text, ids) in texts.iter().zip(&sequences).filter(|(text, _)| !text.contains('[')) {
        let expected = tokenizer.encode(*text, true).expect("ids");
        assert_eq!(ids, expected.get_ids(), "{text:?}");
    }

    let original = minilm_reference(&sequences);
    for (precision, bound) in [(Precision::Exact, 1e-5), (Precision::Mixed, 1e-3)] {
        let encoder = Encoder::load(&files, precision).expect("loads");
        let vectors = encoder.embed(&texts, Side::Document).expect("vectors");
        let mut distances: Vec<f64> = vectors.iter().zip(&original).map(|(a, b)| distance(a, b)).collect();
        distances.sort_by(f64::total_cmp);
        let worst = distances[distances.len() - 1];
        println!("{precision:?}: median {:.2e}, worst {worst:.2e} of {}", distances[distances.len() / 2], texts.len());
        assert!(worst < bound, "{precision:?}: {worst:e}");
        for (text, together) in texts.iter().zip(&vectors).step_by(7) {
            let alone = encoder.embed(&[text], Side::Document).expect("a vector");
            assert!(alone[0] == *together, "{precision:?}: batched differs from alone: {text:?}");
        }
    }
}

#[test]
fn meaning_is_near_and_its_absence_far() {
    for name in ["all-minilm-l6-v2", "wordllama"] {
        let encoder = Encoder::load(&files(name), Precision::default()).expect("loads");
        let texts = ["how to open a file in python", "reading files with python's open()", "the cat sat on the mat"];
        let vectors = encoder.embed(&texts, Side::Document).expect("vectors");
        let (near, far) = (distance(&vectors[0], &vectors[1]), distance(&vectors[0], &vectors[2]));
        assert!(near < 0.6 * far, "{name}: {near} and {far}");
    }
}

#[test]
fn wordllama_is_the_mean_of_its_table() {
    let files = files("wordllama");
    let encoder = Encoder::load(&files, Precision::default()).expect("loads");
    assert_eq!((encoder.family(), encoder.dim(), encoder.smallest_dim()), (Family::Static, 256, Some(64)));
    let tensors = candle_core::safetensors::load(&files.weights.paths()[0], &Device::Cpu).expect("weights");
    let table = tensors["embedding.weight"].to_dtype(DType::F32).expect("f32");
    let tokenizer = tokenizers::Tokenizer::from_file(files.tokenizer.expect("a tokenizer")).expect("reads");
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    let vectors = encoder.embed(&texts, Side::Document).expect("vectors");
    for (text, vector) in texts.iter().zip(&vectors) {
        let expected = tokenizer.encode(*text, false).expect("ids");
        assert_eq!(encoder.tokens(text, Side::Document), expected.get_ids(), "{text:?}");
        let rows = table.index_select(&Tensor::new(expected.get_ids(), &Device::Cpu).expect("ids"), 0).expect("rows");
        let far = distance(vector, &mean(&rows));
        assert!(far < 1e-6, "{text:?}: {far:e}");
    }
    assert_eq!(encoder.embed(&[""], Side::Document).expect("a vector"), [vec![0.0; 256]]);
}

const HIDDEN: usize = 64;
const FFN: usize = 96;
const VOCAB: usize = 160;
const LAYERS: usize = 3;

/// Seeded random tensors: norms near 1, the rest small.
fn draw(shapes: &[(String, Vec<usize>)]) -> HashMap<String, Tensor> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let mut tensor = |(name, shape): &(String, Vec<usize>)| {
        let center = if name.to_lowercase().contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| center + rng.random_range(-0.2..0.2)).collect();
        (name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).expect("a shape"))
    };
    shapes.iter().map(&mut tensor).collect()
}

/// An encoder of these parts, loaded from a folder as from the hub. Its tokenizer is the static model's: ids are given here.
fn encoder(folder: &Path, tensors: &HashMap<String, Tensor>, config: &Value) -> Encoder {
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).expect("written");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    std::fs::copy(files("wordllama").tokenizer.expect("a tokenizer"), folder.join("tokenizer.json")).expect("copied");
    Encoder::load(&files(&folder.display().to_string()), Precision::Exact).expect("loads")
}

/// Sequences of several lengths; ids that end, as a last token that is pooled must be seen to be the last.
fn sequences() -> Vec<Vec<u32>> {
    [1usize, 2, 17, 70, 130].iter().map(|&len| (0..len).map(|i| ((i * 37 + len) % VOCAB) as u32).collect()).collect()
}

fn check(encoder: &Encoder, mut original: impl FnMut(&Tensor) -> candle_core::Result<Vec<f32>>) {
    let sequences = sequences();
    let vectors = encoder.encode(&sequences).expect("vectors");
    for (ids, vector) in sequences.iter().zip(&vectors) {
        let expected = Tensor::new(ids.as_slice(), &Device::Cpu).and_then(|ids| original(&ids.unsqueeze(0)?));
        let far = distance(vector, &expected.expect("the original runs"));
        assert!(far < 1e-6, "{} tokens: {far:e}", ids.len());
    }
}

fn jina_config(layers: usize) -> Value {
    json!({"model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "num_attention_heads": 4,
        "num_hidden_layers": layers, "intermediate_size": FFN, "vocab_size": VOCAB, "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "alibi",
        "initializer_range": 0.02, "pad_token_id": 0})
}

fn jina_shapes(layer: &[(&str, Vec<usize>)]) -> Vec<(String, Vec<usize>)> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![VOCAB, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".into(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".into(), vec![HIDDEN]),
    ];
    let square =
        |part: &str| [(format!("{part}.weight"), vec![HIDDEN, HIDDEN]), (format!("{part}.bias"), vec![HIDDEN])];
    for index in 0..LAYERS {
        let parts = ["self.query", "self.key", "self.value", "output.dense"].map(|part| format!("attention.{part}"));
        let mut own: Vec<(String, Vec<usize>)> = parts.iter().flat_map(|part| square(part)).collect();
        own.extend(["weight", "bias"].map(|part| (format!("attention.output.LayerNorm.{part}"), vec![HIDDEN])));
        own.extend(layer.iter().map(|(name, shape)| ((*name).to_owned(), shape.clone())));
        shapes.extend(own.into_iter().map(|(name, shape)| (format!("encoder.layer.{index}.{name}"), shape)));
    }
    shapes
}

#[test]
fn jina_bert_agrees_on_random_weights() {
    let tensors = draw(&jina_shapes(&[
        ("mlp.gated_layers.weight", vec![2 * FFN, HIDDEN]),
        ("mlp.wo.weight", vec![HIDDEN, FFN]),
        ("mlp.wo.bias", vec![HIDDEN]),
        ("mlp.layernorm.weight", vec![HIDDEN]),
        ("mlp.layernorm.bias", vec![HIDDEN]),
    ]));
    let config = jina_config(LAYERS);
    let folder = tempfile::tempdir().expect("a folder");
    let encoder = encoder(folder.path(), &tensors, &config);
    assert_eq!(encoder.family(), Family::JinaBert);
    let config: reference::jina_bert::Config = serde_json::from_value(config).expect("a configuration");
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = reference::jina_bert::BertModel::new(vb, &config).expect("a model");
    check(&encoder, |ids| Ok(mean(&model.forward(ids)?.squeeze(0)?)));
}

/// Jina's code model, which candle-transformers does not have, said in candle's ops after the model's own description.
#[test]
fn jina_code_agrees_with_its_formula_on_random_weights() {
    let norms = ["attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"];
    let norms: Vec<String> = norms.iter().flat_map(|norm| [format!("{norm}.weight"), format!("{norm}.bias")]).collect();
    let mut layer: Vec<(&str, Vec<usize>)> = norms.iter().map(|norm| (norm.as_str(), vec![HIDDEN])).collect();
    layer.extend([
        ("mlp.up_gated_layer.weight", vec![2 * FFN, HIDDEN]),
        ("mlp.down_layer.weight", vec![HIDDEN, FFN]),
        ("mlp.down_layer.bias", vec![HIDDEN]),
    ]);
    let tensors = draw(&jina_shapes(&layer));
    let folder = tempfile::tempdir().expect("a folder");
    let encoder = encoder(folder.path(), &tensors, &jina_config(LAYERS));
    let slopes = Tensor::new(&[0.25f32, 0.0625, 0.015_625, 0.003_906_25], &Device::Cpu).expect("slopes");
    let t = |name: &str| &tensors[name];
    let norm = |x: &Tensor, name: &str| -> candle_core::Result<Tensor> {
        candle_nn::ops::layer_norm_slow(x, t(&format!("{name}.weight")), t(&format!("{name}.bias")), 1e-12)
    };
    check(&encoder, |ids| {
        let ids = ids.squeeze(0)?;
        let len = ids.dim(0)?;
        let linear = |x: &Tensor, name: &str| -> candle_core::Result<Tensor> {
            let y = x.matmul(&t(&format!("{name}.weight")).t()?)?;
            tensors.get(&format!("{name}.bias")).map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
        };
        let words = t("embeddings.word_embeddings.weight").index_select(&ids, 0)?;
        let kind = t("embeddings.token_type_embeddings.weight").narrow(0, 0, 1)?;
        let mut x = norm(&words.broadcast_add(&kind)?, "embeddings.LayerNorm")?;
        let places = Tensor::arange(0, len as i64, &Device::Cpu)?.to_dtype(DType::F32)?;
        let apart = places.reshape((1, len))?.broadcast_sub(&places.reshape((len, 1))?)?.abs()?.unsqueeze(0)?;
        let bias = apart.broadcast_mul(&slopes.reshape((4, 1, 1))?)?;
        for index in 0..LAYERS {
            let at = |part: &str| format!("encoder.layer.{index}.{part}");
            // [len, hidden] -> [heads, len, head_dim]
            let heads = |x: Tensor| x.reshape((len, 4, HIDDEN / 4))?.transpose(0, 1)?.contiguous();
            let q = heads(norm(&linear(&x, &at("attention.self.query"))?, &at("attention.self.layer_norm_q"))?)?;
            let k = heads(norm(&linear(&x, &at("attention.self.key"))?, &at("attention.self.layer_norm_k"))?)?;
            let v = heads(linear(&x, &at("attention.self.value"))?)?;
            let scores = ((q.matmul(&k.transpose(1, 2)?)? * 0.25)? - &bias)?;
            let seen = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            let seen = seen.transpose(0, 1)?.contiguous()?.reshape((len, HIDDEN))?;
            let seen = (linear(&seen, &at("attention.output.dense"))? + &x)?;
            let seen = norm(&seen, &at("attention.output.LayerNorm"))?;
            let h = norm(&(seen + &x)?, &at("layer_norm_1"))?;
            let up = linear(&h, &at("mlp.up_gated_layer"))?;
            let gated = (up.narrow(1, 0, FFN)? * up.narrow(1, FFN, FFN)?.gelu_erf()?)?;
            x = norm(&(linear(&gated, &at("mlp.down_layer"))? + &h)?, &at("layer_norm_2"))?;
        }
        Ok(mean(&x))
    });
}

#[test]
fn qwen3_embedding_agrees_on_random_weights() {
    let (heads, kv_heads, head_dim) = (4, 2, 16);
    let mut shapes =
        vec![("embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]), ("norm.weight".to_owned(), vec![HIDDEN])];
    for index in 0..LAYERS {
        for (part, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![heads * head_dim, HIDDEN]),
            ("self_attn.k_proj", vec![kv_heads * head_dim, HIDDEN]),
            ("self_attn.v_proj", vec![kv_heads * head_dim, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, heads * head_dim]),
            ("self_attn.q_norm", vec![head_dim]),
            ("self_attn.k_norm", vec![head_dim]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ] {
            shapes.push((format!("layers.{index}.{part}.weight"), shape));
        }
    }
    let tensors = draw(&shapes);
    let config = json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_dim, "attention_bias": false, "max_position_embeddings": 512, "sliding_window": null,
        "max_window_layers": LAYERS, "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "use_sliding_window": false, "hidden_act": "silu"});
    let folder = tempfile::tempdir().expect("a folder");
    let encoder = encoder(folder.path(), &tensors, &config);
    assert_eq!((encoder.family(), encoder.dim()), (Family::Qwen3, HIDDEN));
    assert!(
        encoder.tokens("x", Side::Query).len() > encoder.tokens("x", Side::Document).len(),
        "the instruction is missing"
    );
    let config: reference::qwen3::Config = serde_json::from_value(config).expect("a configuration");
    // candle-transformers knows the names of a checkpoint that generates.
    let named = tensors.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
    let vb = VarBuilder::from_tensors(named, DType::F32, &Device::Cpu);
    check(&encoder, |ids| {
        // A model of its own each time: it keeps what it has read.
        let rows = reference::qwen3::Model::new(&config, vb.clone())?.forward(ids, 0)?.squeeze(0)?;
        rows.get(rows.dim(0)? - 1)?.to_vec1()
    });
}
