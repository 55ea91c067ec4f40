//! Ids of real vocabularies against the reference's. Cases whose model file is not on this machine say so and pass.

use std::path::PathBuf;

use super::*;
use crate::gguf::Gguf;

/// The tokenizer of the model file under `$ENGRAM_HOME/models` (or the user's data folder), where it has been pulled.
pub(crate) fn real_tokenizer(model: &str) -> Option<Tokenizer> {
    let home = std::env::var_os("ENGRAM_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share/engram")))?;
    let folder = std::fs::read_dir(home.join("models").join(model)).ok()?;
    let path =
        folder.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "gguf"));
    let Some(path) = path else {
        eprintln!("skipped: {model} has not been pulled");
        return None;
    };
    let gguf = Gguf::open(&path).unwrap();
    Some(Tokenizer::from_parts(TokenizerParts::from_metadata(gguf.metadata()).unwrap()).unwrap())
}

#[track_caller]
fn check_golden(model: &str, golden: &str) {
    let Some(tokenizer) = real_tokenizer(model) else { return };
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let ids_of = |case: &serde_json::Value| -> Vec<u32> {
        case.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let mut wrong = Vec::new();
    let cases = golden["cases"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for (key, specials) in [("parsed", Specials::Parse), ("as_text", Specials::AsText)] {
            let ids = tokenizer.encode(text, specials);
            if case.get(key).is_some_and(|expected| ids_of(expected) != ids) {
                wrong.push(format!("{key} {text:?}\n  here      {ids:?}\n  reference {}", case[key]));
            }
            let decoded = tokenizer.decode(&ids, false);
            if golden["pre"] != "qwen2" {
                assert_eq!(decoded, text);
            }
            let mut stream = tokenizer.decode_stream(DecodeOptions { skip_special: false, text_start: true });
            let mut streamed: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            streamed.push_str(&stream.finish());
            assert_eq!(streamed, decoded);
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), 2 * cases.len(), wrong.join("\n"));
}

#[test]
fn qwen_ids_equal_the_reference() {
    check_golden("qwen2.5-coder-0.5b-instruct", include_str!("../../tests/golden/tokenizer_qwen2.5-coder.json"));
}

#[test]
fn smollm_ids_equal_the_reference() {
    check_golden("smollm2-135m-instruct", include_str!("../../tests/golden/tokenizer_smollm2.json"));
}

#[test]
fn roles_of_the_real_vocabularies() {
    if let Some(qwen) = real_tokenizer("qwen2.5-coder-0.5b-instruct") {
        let id = |text: &str| qwen.special_id(text).unwrap();
        assert_eq!((qwen.eos(), qwen.add_bos()), (Some(id("<|im_end|>")), false));
        assert_eq!(qwen.stop_ids(), [id("<|endoftext|>"), id("<|im_end|>"), id("<|fim_pad|>")]);
        let fim = crate::fim::FimTokens::find(&qwen).unwrap();
        assert_eq!(
            (fim.prefix, fim.suffix, fim.middle),
            (id("<|fim_prefix|>"), id("<|fim_suffix|>"), Some(id("<|fim_middle|>")))
        );
        assert_eq!(fim.stop_ids().len(), 8);
    }
    if let Some(smollm) = real_tokenizer("smollm2-135m-instruct") {
        assert_eq!(smollm.stop_ids(), [0, 2]);
        assert_eq!(crate::fim::FimTokens::find(&smollm), None);
    }
}

/// Every vocabulary llama.cpp keeps for its own tests, against the ids it keeps beside them.
/// Set `ENGRAM_GGML_VOCABS` to the `models` folder of a llama.cpp checkout.
#[test]
fn llama_cpp_vocabularies() {
    let Some(folder) = std::env::var_os("ENGRAM_GGML_VOCABS").map(PathBuf::from) else {
        eprintln!("skipped: ENGRAM_GGML_VOCABS is not set");
        return;
    };
    let names = [
        "qwen2",
        "qwen35",
        "llama-bpe",
        "llama-spm",
        "phi-3",
        "deepseek-coder",
        "deepseek-llm",
        "starcoder",
        "refact",
        "gpt-2",
        "command-r",
        "mpt",
        "falcon",
    ];
    for name in names {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let gguf = Gguf::open(&path).unwrap();
        let tokenizer = Tokenizer::from_parts(TokenizerParts::from_metadata(gguf.metadata()).unwrap()).expect(name);
        let inputs = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let outputs = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let (mut cases, mut failures) = (0, 0);
        for (text, expected) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(text, Specials::AsText);
            cases += 1;
            if ids != expected {
                failures += 1;
                eprintln!("{name}: {text:?}\n  here      {ids:?}\n  llama.cpp {expected:?}");
            }
        }
        eprintln!("{name}: {} of {cases} texts equal", cases - failures);
        assert_eq!(failures, 0, "{name}");
    }
}

/// Speed of encoding and streaming on the real vocabulary; run with `--ignored --nocapture` in the release profile.
#[test]
#[ignore = "a measurement, not a check"]
fn throughput() {
    let Some(qwen) = real_tokenizer("qwen2.5-coder-0.5b-instruct") else { return };
    let text = include_str!("special.rs").repeat(20);
    let start = std::time::Instant::now();
    let ids = qwen.encode(&text, Specials::AsText);
    let encoding = start.elapsed();
    let start = std::time::Instant::now();
    let mut stream = qwen.decode_stream(DecodeOptions::GENERATED);
    let streamed: usize = ids.iter().filter_map(|&id| stream.push(id)).map(|part| part.len()).sum();
    let decoding = start.elapsed();
    assert_eq!(streamed, text.len());
    eprintln!(
        "{} bytes, {} tokens: encoded at {:.1} MB/s, streamed at {:.0} ns a token",
        text.len(),
        ids.len(),
        text.len() as f64 / encoding.as_secs_f64() / 1e6,
        decoding.as_nanos() as f64 / ids.len() as f64
    );
}
