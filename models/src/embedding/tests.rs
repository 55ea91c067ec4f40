use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pull::{PullOptions, resolve};

const HIDDEN: usize = 64;
const FFN: usize = 96;
/// `[PAD] [UNK] [CLS] [SEP]`, then letters and their continuations.
const VOCAB: usize = 4 + 26 + 26;
const POSITIONS: usize = 40;

fn tokenizer_json() -> Value {
    let mut vocab = serde_json::Map::new();
    let letters = ('a'..='z').map(String::from).chain(('a'..='z').map(|letter| format!("##{letter}")));
    for (id, text) in ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from).into_iter().chain(letters).enumerate() {
        vocab.insert(text, id.into());
    }
    let special = |id: usize, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 128}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

/// A BERT of two layers with random weights, written to a folder as the hub would have it.
fn write_bert(folder: &Path, change: impl FnOnce(&mut Value, &mut HashMap<String, Tensor>)) {
    let mut state = 1u32;
    let mut draw = |shape: &[usize], center: f32| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                center + ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.2
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("a shape")
    };
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize], center| tensors.insert(name, draw(shape, center));
    add("embeddings.word_embeddings.weight".into(), &[VOCAB, HIDDEN], 0.0);
    add("embeddings.position_embeddings.weight".into(), &[POSITIONS, HIDDEN], 0.0);
    add("embeddings.token_type_embeddings.weight".into(), &[2, HIDDEN], 0.0);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..2 {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        for (part, rows, cols) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", FFN, HIDDEN),
            ("output.dense", HIDDEN, FFN),
        ] {
            add(name(&format!("{part}.weight")), &[rows, cols], 0.0);
            add(name(&format!("{part}.bias")), &[rows], 0.0);
        }
        norms.extend([name("attention.output.LayerNorm"), name("output.LayerNorm")]);
    }
    for norm in norms {
        add(format!("{norm}.weight"), &[HIDDEN], 1.0);
        add(format!("{norm}.bias"), &[HIDDEN], 0.0);
    }
    let mut config = json!({"model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "num_attention_heads": 4,
        "num_hidden_layers": 2, "intermediate_size": FFN, "vocab_size": VOCAB, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"});
    change(&mut config, &mut tensors);
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).expect("written");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    std::fs::write(folder.join("tokenizer.json"), tokenizer_json().to_string()).expect("written");
}

fn load(folder: &Path) -> Result<Encoder, EncoderError> {
    let files = resolve(&folder.display().to_string(), &PullOptions::new(folder)).expect("a folder with a model");
    Encoder::load(&files, Precision::Exact)
}

fn small() -> Encoder {
    let folder = tempfile::tempdir().expect("a folder");
    write_bert(folder.path(), |_, _| ());
    load(folder.path()).expect("loads")
}

#[test]
fn text_becomes_a_bounded_sequence() {
    let encoder = small();
    let tokens = |text: &str| encoder.tokens(text, Side::Document);
    assert_eq!(tokens("ab c"), [2, 4, 31, 6, 3]);
    assert_eq!(tokens("Éa"), tokens("ea"), "lower case, without accents");
    assert_eq!(tokens(""), [2, 3]);
    assert!(!tokens("a [SEP] b [CLS]")[1..7].iter().any(|id| [2, 3].contains(id)), "{:?}", tokens("a [SEP] b [CLS]"));
    let long = tokens(&"a ".repeat(100));
    assert_eq!(long.len(), 102);
    let cut = encoder.cut(long.clone());
    assert_eq!((cut.len(), cut[0], cut[POSITIONS - 1]), (POSITIONS, 2, 3));
    assert_eq!(encoder.complete(&[4, 5]), [2, 4, 5, 3]);
    assert_eq!(encoder.complete(&[2, 4, 5, 3]), [2, 4, 5, 3]);
    let refused = encoder.encode(&[vec![2, 3], long]).expect_err("too long").to_string();
    assert!(refused.contains("sequence 1 has 102 tokens") && refused.contains("at most 40"), "{refused}");
    let refused = encoder.encode(&[vec![VOCAB as u32]]).expect_err("unknown").to_string();
    assert!(refused.contains("holds token 56") && refused.contains("vocabulary of 56"), "{refused}");
}

#[test]
fn broken_folders_are_refused_by_name() {
    type Change = fn(&mut Value, &mut HashMap<String, Tensor>);
    let cases: [(&str, Change); 5] = [
        ("intermediate_size", |config, _| config["intermediate_size"] = 95.into()),
        ("encoder.layer.1.output.dense.weight", |_, tensors| {
            tensors.remove("encoder.layer.1.output.dense.weight");
        }),
        ("embeddings.word_embeddings.weight", |_, tensors| tensors.retain(|name, _| !name.contains("word"))),
        ("architecture `llava`", |config, _| config["model_type"] = "llava".into()),
        ("U32", |_, tensors| {
            let ids = Tensor::zeros(HIDDEN, candle_core::DType::U32, &Device::Cpu).expect("zeros");
            tensors.insert("embeddings.LayerNorm.bias".into(), ids);
        }),
    ];
    for (expected, change) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        write_bert(folder.path(), change);
        let mut error: &dyn std::error::Error = &load(folder.path()).expect_err(expected);
        let mut told = error.to_string();
        while let Some(source) = error.source() {
            told = format!("{told}: {source}");
            error = source;
        }
        // A wrong size is told by the tensor that has another.
        let expected = if expected == "intermediate_size" { "intermediate.dense.weight` has shape" } else { expected };
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    write_bert(folder.path(), |_, tensors| {
        let broken = Tensor::full(f32::NAN, HIDDEN, &Device::Cpu).expect("a tensor");
        tensors.insert("encoder.layer.1.output.LayerNorm.bias".into(), broken);
    });
    let refused = load(folder.path()).expect("loads").embed(&["a"], Side::Query).expect_err("refused");
    assert!(matches!(refused, EncoderError::NotFinite { index: 0, .. }), "{refused}");
}

#[test]
fn vectors_are_cut_only_where_they_may_be() {
    let mut encoder = small();
    let refused = encoder.shorten(&mut [], 32).expect_err("not trained for it").to_string();
    assert!(refused.contains("leave `dimensions` out"), "{refused}");
    encoder.smallest_dim = Some(16);
    let mut vectors = encoder.embed(&["abc"], Side::Query).expect("a vector");
    let whole = vectors[0].clone();
    encoder.shorten(&mut vectors, 16).expect("allowed");
    let length: f32 = vectors[0].iter().map(|value| value * value).sum();
    assert!(vectors[0].len() == 16 && (length - 1.0).abs() < 1e-6);
    assert!((vectors[0][3] / vectors[0][0] - whole[3] / whole[0]).abs() < 1e-4, "the direction stays");
    assert!(encoder.shorten(&mut [], 15).is_err() && encoder.shorten(&mut [], HIDDEN + 1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_sequence_is_the_same_alone_and_in_any_pass(lengths in prop::collection::vec(0usize..=POSITIONS, 1..12), seed: u32) {
        let encoder = small();
        let id = |i: usize| (seed as usize + i * 7) % VOCAB;
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|&len| (0..len).map(|i| id(i + len) as u32).collect()).collect();
        let together = encoder.encode(&sequences).expect("vectors");
        for (ids, vector) in sequences.iter().zip(&together) {
            let alone = &encoder.encode(std::slice::from_ref(ids)).expect("a vector")[0];
            prop_assert!(alone == vector, "{} tokens", ids.len());
            let length: f32 = vector.iter().map(|value| value * value).sum();
            let expected = if ids.is_empty() { 0.0 } else { 1.0 };
            prop_assert!((length - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn many_threads_get_what_they_would_get_alone() {
    let encoder = small();
    let text = |i: usize| (0..i % 9 + 1).map(|j| char::from(b'a' + ((i + j) % 26) as u8)).collect::<String>();
    let alone: Vec<Vec<f32>> =
        (0..64).map(|i| encoder.embed(&[&text(i)], Side::Query).expect("a vector").remove(0)).collect();
    let handle =
        EncoderHandle::start(encoder, QueueLimits { pass_tokens: 64, ..QueueLimits::default() }).expect("starts");
    std::thread::scope(|scope| {
        for first in 0..8 {
            let (handle, alone) = (&handle, &alone);
            scope.spawn(move || {
                for i in (first..64).step_by(8) {
                    let (a, b) = (text(i), text((i + 1) % 64));
                    let vectors = handle.embed(&[&a, &b], Side::Query).expect("vectors");
                    assert!(vectors[0] == alone[i] && vectors[1] == alone[(i + 1) % 64], "text {i}");
                }
            });
        }
    });
    assert_eq!(handle.waiting_tokens(), 0);
}

/// A handle whose thread is held in an answer until the sender is dropped.
fn held(limits: QueueLimits) -> (EncoderHandle, mpsc::Sender<()>) {
    let handle = EncoderHandle::start(small(), limits).expect("starts");
    let (release, wait) = mpsc::channel::<()>();
    let (begun, running) = mpsc::channel();
    let answer = move |_| {
        begun.send(()).expect("somebody waits");
        let _ = wait.recv();
    };
    handle.submit(vec![vec![2, 3]], || true, answer).expect("taken");
    running.recv().expect("the thread is in the answer");
    (handle, release)
}

#[test]
fn a_query_does_not_wait_behind_a_thousand_documents() {
    let (handle, release) = held(QueueLimits { pass_tokens: 40, ..QueueLimits::default() });
    let (send, order) = mpsc::channel();
    for (name, count) in [("documents", 1000), ("query", 1)] {
        let send = send.clone();
        let answer = move |encoded: super::batcher::Encoded| {
            send.send((name, encoded.expect("vectors").len())).expect("somebody waits");
        };
        handle.submit(vec![vec![2, 4, 3]; count], || true, answer).expect("taken");
    }
    drop(release);
    let wait = Duration::from_secs(60);
    assert_eq!(order.recv_timeout(wait).expect("an answer"), ("query", 1));
    assert_eq!(order.recv_timeout(wait).expect("an answer"), ("documents", 1000));
}

#[test]
fn too_much_is_refused_and_what_nobody_wants_is_dropped() {
    let (handle, release) = held(QueueLimits { pass_tokens: 40, waiting_tokens: 100 });
    let wanted = Arc::new(AtomicBool::new(true));
    let (send, answers) = mpsc::channel();
    let still_wanted = {
        let wanted = Arc::clone(&wanted);
        move || wanted.load(Ordering::SeqCst)
    };
    let unwanted = send.clone();
    handle
        .submit(vec![vec![2, 3]; 200], still_wanted, move |_| unwanted.send("unwanted").unwrap_or(()))
        .expect("it finds none waiting");
    let refused = handle.submit(vec![vec![2, 3]], || true, |_| ()).expect_err("refused");
    assert!(matches!(refused, EncoderError::Overloaded { waiting: 400, limit: 100 }), "{refused}");
    wanted.store(false, Ordering::SeqCst);
    drop(release);
    while handle.waiting_tokens() > 0 {
        std::thread::yield_now();
    }
    handle.submit(vec![vec![2, 3]], || true, move |_| send.send("wanted").unwrap_or(())).expect("taken");
    assert_eq!(answers.recv().expect("an answer"), "wanted");
    assert!(answers.recv().is_err(), "the request that nobody wanted was answered");
}

#[test]
fn the_last_handle_answers_what_it_was_given() {
    let handle = EncoderHandle::start(small(), QueueLimits::default()).expect("starts");
    let (send, answers) = mpsc::channel();
    for _ in 0..20 {
        let send = send.clone();
        handle.submit(vec![vec![2, 9, 3]; 5], || true, move |encoded| drop(send.send(encoded))).expect("taken");
    }
    drop((handle, send));
    let vectors: usize = answers.iter().map(|encoded| encoded.expect("vectors").len()).sum();
    assert_eq!(vectors, 100);
}
