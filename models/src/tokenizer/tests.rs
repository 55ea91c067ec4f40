use super::*;

/// A byte-level vocabulary: all bytes, the merges given, and special tokens after them.
pub(crate) fn byte_level(pre: &str, merges: &[&str], specials: &[(&str, i32)]) -> TokenizerParts {
    let mut tokens: Vec<String> = (0..=255u8).map(byte_text).collect();
    let mut token_types = vec![1; tokens.len()];
    for merge in merges {
        tokens.push(merge.replace(' ', ""));
        token_types.push(1);
    }
    for (text, kind) in specials {
        tokens.push((*text).to_owned());
        token_types.push(*kind);
    }
    TokenizerParts {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens,
        token_types,
        merges: merges.iter().map(|&merge| merge.to_owned()).collect(),
        ..TokenizerParts::default()
    }
}

fn byte_text(byte: u8) -> String {
    // Every byte has the letter `to_byte_level` writes for it; bytes from 0x80 have no `str` of their own.
    let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let before = (0..byte).filter(|byte| !matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)).count() as u32;
    char::from_u32(if printable { byte.into() } else { 0x100 + before }).unwrap().to_string()
}

fn small() -> Tokenizer {
    let specials = [("<|im_start|>", 3), ("<|im_end|>", 3), ("<tool_call>", 4), ("    ", 4)];
    Tokenizer::from_parts(byte_level("qwen2", &["h e", "l l", "he ll", "hell o", "Ġ w"], &specials)).unwrap()
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, all bytes, then pieces with falling scores.
fn sentence_piece(pieces: &[&str]) -> TokenizerParts {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut token_types = vec![2, 3, 3];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        token_types.push(6);
    }
    let mut scores = vec![0.0; tokens.len()];
    for (rank, piece) in pieces.iter().enumerate() {
        tokens.push((*piece).to_owned());
        token_types.push(1);
        scores.push(-(rank as f32));
    }
    let ids = SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() };
    TokenizerParts { model: "llama".to_owned(), tokens, token_types, scores, ids, ..TokenizerParts::default() }
}

#[test]
fn merges_run_inside_words() {
    let tokenizer = small();
    let hello = tokenizer.special_id("hello").unwrap();
    assert_eq!(tokenizer.encode("hello", Specials::AsText), [hello]);
    assert_eq!(tokenizer.encode("hello w", Specials::AsText), [hello, tokenizer.special_id("Ġw").unwrap()]);
}

#[test]
fn special_tokens_are_parsed_only_where_asked() {
    let tokenizer = small();
    let (end, call) = (tokenizer.special_id("<|im_end|>").unwrap(), tokenizer.special_id("<tool_call>").unwrap());
    assert!(tokenizer.encode("a<|im_end|><tool_call>", Specials::Parse).ends_with(&[end, call]));
    let text = "a<|im_end|><tool_call>\u{1F980}";
    let ids = tokenizer.encode(text, Specials::AsText);
    assert!(!ids.contains(&end) && !ids.contains(&call));
    assert_eq!(tokenizer.decode(&ids, false), text);
    // A token that is plain text is used in both.
    let spaces = tokenizer.special_id("    ").unwrap();
    assert!(tokenizer.encode("x    y", Specials::AsText).contains(&spaces));
}

#[test]
fn no_merge_forms_a_control_token() {
    let parts = byte_level("gpt-2", &["< |", "| >", "<| |>"], &[]);
    let tokenizer = Tokenizer::from_parts(parts).unwrap();
    let control = tokenizer.special_id("<||>");
    assert!(
        tokenizer.encode("<||>", Specials::AsText).iter().all(|&id| Some(id) != control || !tokenizer.is_control(id))
    );
    let mut parts = byte_level("gpt-2", &["e n", "en d"], &[]);
    let id = parts.tokens.iter().position(|text| text == "end").unwrap();
    parts.token_types[id] = 3;
    let tokenizer = Tokenizer::from_parts(parts).unwrap();
    assert!(!tokenizer.encode("end", Specials::AsText).contains(&(id as u32)));
    assert_eq!(tokenizer.encode("end", Specials::Parse), [id as u32]);
}

#[test]
fn characters_are_composed_for_families_that_do() {
    let qwen = small();
    assert_eq!(qwen.encode("e\u{301}", Specials::AsText), qwen.encode("\u{e9}", Specials::AsText));
    let smollm = Tokenizer::from_parts(byte_level("smollm", &["h e"], &[])).unwrap();
    assert_eq!(smollm.decode(&smollm.encode("e\u{301}", Specials::AsText), false), "e\u{301}");
}

#[test]
fn sentence_piece_prefixes_falls_back_to_bytes_and_merges_by_score() {
    let pieces = ["▁a", "ab", "▁ab", "▁", "a", "b", "\n"];
    let tokenizer = Tokenizer::from_parts(sentence_piece(&pieces)).unwrap();
    let id = |text: &str| tokenizer.special_id(text).unwrap();
    // "▁a" outranks "ab", and then "▁ab" forms from it.
    assert_eq!(tokenizer.encode("ab", Specials::AsText), [id("▁ab")]);
    assert_eq!(tokenizer.encode_continuation("ab"), [id("ab")]);
    assert_eq!(tokenizer.encode("é", Specials::AsText), [id("▁"), id("<0xC3>"), id("<0xA9>")]);
    assert_eq!(tokenizer.decode(&tokenizer.encode(" é ab\n", Specials::AsText), true), " é ab\n");
    assert_eq!(tokenizer.encode_prompt("ab", Specials::AsText), [1, id("▁ab")]);
    assert_eq!(tokenizer.encode("</s>ab", Specials::Parse), [2, id("▁ab")]);
    assert!(!tokenizer.encode("</s>", Specials::AsText).contains(&2));
}

/// SentencePiece's own definition: again and again, merge the neighbours whose piece scores best, leftmost first.
fn by_definition(text: &str, parts: &TokenizerParts) -> Vec<u32> {
    let id_of =
        |piece: &str| parts.tokens.iter().position(|token| token == piece).filter(|&id| parts.token_types[id] == 1);
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 0..symbols.len().saturating_sub(1) {
            if let Some(id) = id_of(&format!("{}{}", symbols[at], symbols[at + 1]))
                && best.is_none_or(|(score, _)| parts.scores[id] > score)
            {
                best = Some((parts.scores[id], at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at + 1);
        symbols[at].push_str(&right);
    }
    symbols
        .iter()
        .flat_map(|symbol| match id_of(symbol) {
            Some(id) => vec![id as u32],
            None => symbol.bytes().map(|byte| 3 + u32::from(byte)).collect(),
        })
        .collect()
}

#[test]
fn derived_merges_equal_the_definition() {
    let pieces = ["▁a", "ab", "▁b", "bab", "aa", "ba", "▁ab", "abab", "▁▁", "b▁", "aba", "▁", "a", "b", "aaa", "baba"];
    let parts = sentence_piece(&pieces);
    let tokenizer = Tokenizer::from_parts(parts.clone()).unwrap();
    let mut state = 7u32;
    for _ in 0..2000 {
        let mut text = String::new();
        for _ in 0..14 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push(['a', 'b', ' ', 'b', 'a', 'é'][(state >> 24) as usize % 6]);
        }
        assert_eq!(tokenizer.encode(&text, Specials::AsText), by_definition(&text, &parts), "{text:?}");
    }
}

#[test]
fn hostile_vocabularies_get_named_errors() {
    #[track_caller]
    fn check(parts: TokenizerParts, expected: &str) {
        let error = Tokenizer::from_parts(parts).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let good = || byte_level("qwen2", &["h e"], &[("<|im_end|>", 3)]);
    check(TokenizerParts { model: "rwkv".into(), ..good() }, "`rwkv`");
    check(TokenizerParts { pre: Some("nonesuch".into()), ..good() }, "`nonesuch`");
    check(TokenizerParts { tokens: Vec::new(), token_types: Vec::new(), ..good() }, "token list");
    check(TokenizerParts { merges: Vec::new(), ..good() }, "tokenizer.ggml.merges is missing");
    check(TokenizerParts { token_types: vec![1; 3], ..good() }, "3 entries");
    check(TokenizerParts { merges: vec!["nospace".into()], ..good() }, "merge 0");
    check(TokenizerParts { merges: vec!["a ".into()], ..good() }, "merge 0");
    check(TokenizerParts { merges: vec![String::new()], ..good() }, "merge 0");
    check(TokenizerParts { merges: vec!["h e".into(), "he zz".into()], ..good() }, "`zz`");
    check(TokenizerParts { merges: vec!["a b".into()], ..good() }, "`ab`");
    // Longer together than any token: a panic in the tokenizers crate, were it asked.
    check(TokenizerParts { merges: vec!["<|im_end|> <|im_end|>".into()], ..good() }, "which the vocabulary lacks");
    let mut twice = good();
    twice.tokens[3] = twice.tokens[4].clone();
    check(twice, "same text");
    let mut twice = byte_level("qwen2", &["h e"], &[("<|a|>", 3), ("<|a|>", 3)]);
    check(twice.clone(), "same text");
    twice.tokens.pop();
    twice.token_types.pop();
    twice.tokens[9] = "x".repeat(5000);
    check(twice, "5000 bytes");
    let mut kind = good();
    kind.token_types[7] = 99;
    check(kind, "type 99");
    let ids = SpecialIds { eos: Some(100_000), ..SpecialIds::default() };
    check(TokenizerParts { ids, ..good() }, "eos_token_id is 100000");
    check(TokenizerParts { scores: Vec::new(), ..sentence_piece(&["a"]) }, "tokenizer.ggml.scores");
    let mut byte = sentence_piece(&["a"]);
    byte.tokens[5] = "<0xZZ>".into();
    check(byte, "<0xZZ>");
    let mut nan = sentence_piece(&["a", "b", "ab", "▁"]);
    nan.scores.iter_mut().for_each(|score| *score = f32::NAN);
    assert!(Tokenizer::from_parts(nan).unwrap().encode("abab", Specials::AsText).len() >= 2);
}

#[test]
fn breaking_leaves_no_special_token_whole() {
    let tokenizer = small();
    let mark = '\u{F0000}';
    for text in [
        "<|im_end|>",
        "a<|im_end|>b",
        "<|im_end|><|im_end|>",
        "<<|im_end|>>",
        "x <|im_",
        "nd|> y",
        "<|im_end|",
        "|im_end|>",
        "plain",
        "",
        "<",
        ">",
        "a < b > c",
        "<|im_<|im_end|>end|>",
        "<tool_call>",
        " <|im_ ",
        "日本<|im_start|>語",
    ] {
        let broken = tokenizer.broken(text, mark, SpecialClass::Markup);
        assert_eq!(broken.replace(mark, ""), text);
        for (_, special) in tokenizer.special_tokens().filter(|(_, special)| special.contains('<')) {
            assert!(!broken.contains(special), "{broken:?} has {special}");
            for neighbour in ["<|im_end|>", "<|im_start|>", "<tool_call>"] {
                for at in 2..neighbour.len() - 1 {
                    let (head, tail) = neighbour.split_at(at);
                    let glued = if special == neighbour {
                        [format!("{broken}{tail}"), format!("{head}{broken}")]
                    } else {
                        continue;
                    };
                    if head.len() > 1 && tail.len() > 1 {
                        assert!(glued.iter().all(|glued| !glued.contains(special)), "{glued:?}");
                    }
                }
            }
        }
    }
    assert_eq!(tokenizer.broken("a <tool_call> b", mark, SpecialClass::Control), "a <tool_call> b");
}

fn json_of(extra: &str, added: &str) -> String {
    let vocab: Vec<String> =
        (0..=255u8).map(|byte| format!("{}: {byte}", serde_json::to_string(&byte_text(byte)).unwrap())).collect();
    format!(
        r#"{{"added_tokens": [{added}], "normalizer": null,
            "pre_tokenizer": {{"type": "Sequence", "pretokenizers": [{{"type": "Digits", "individual_digits": true}},
                {{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}}]}},
            "decoder": {{"type": "ByteLevel"}},
            "model": {{"type": "BPE", "vocab": {{{}, "he": 256, "hel": 257}}, "merges": ["h e", ["he", "l"]]{extra}}}}}"#,
        vocab.join(",")
    )
}

#[test]
fn tokenizer_json() {
    let added = r#"{"id": 258, "content": "<|im_end|>", "special": false}, {"id": 259, "content": "<s>", "special": true, "rstrip": true}"#;
    let config =
        r#"{"eos_token": "<|im_end|>", "bos_token": {"content": "<s>"}, "add_bos_token": true, "chat_template": "x"}"#;
    let tokenizer = Tokenizer::from_json(&json_of("", added), Some(config)).unwrap();
    assert_eq!(tokenizer.encode("hel", Specials::AsText), [257]);
    assert_eq!(tokenizer.encode("<s>  hel<|im_end|>", Specials::Parse), [259, 257, 258]);
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.add_bos()), (Some(258), Some(259), true));
    assert_eq!(tokenizer.stop_ids(), [258]);
    assert_eq!((tokenizer.chat_template(), tokenizer.vocab_size()), (Some("x"), 260));
    let text = "a 12\té<|im_end|>";
    let ids = tokenizer.encode(text, Specials::AsText);
    assert!(!ids.contains(&258));
    assert_eq!(tokenizer.decode(&ids, true), text);
}

#[test]
fn hostile_json_gets_named_errors() {
    #[track_caller]
    fn check(json: &str, expected: &str) {
        let error = Tokenizer::from_json(json, None).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    check("{", "tokenizer.json");
    check("{}", "`model`");
    check(r#"{"model": {"type": "WordPiece"}}"#, "WordPiece");
    check(r#"{"model": {"type": "BPE"}}"#, "model.vocab");
    check(r#"{"model": {"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}}"#, "99999999999");
    check(r#"{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}"#, "-1");
    check(r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}"#, "both");
    check(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}}"#, "merge 0");
    check(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#, "`b`");
    check(
        r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "continuing_subword_prefix": "a longer one"}}"#,
        "continuing_subword_prefix",
    );
    let with_pre = |pre: &str| {
        format!(r#"{{"model": {{"type": "BPE", "vocab": {{"a": 0}}, "merges": []}}, "pre_tokenizer": {pre}}}"#)
    };
    check(&with_pre(r#"{"type": "BertPreTokenizer"}"#), "BertPreTokenizer");
    check(&with_pre(r#"{"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}"#), "(a");
    check(
        &with_pre(r#"{"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}"#),
        "MergedWithPrevious",
    );
    check(&json_of("", r#"{"id": 7, "content": "<s>"}"#), "both");
}

#[test]
fn streams_never_split_a_character() {
    let tokenizer = small();
    let text = "añ 中文 🦀 e\u{301} 👩‍💻 \u{10FFFF}";
    let ids: Vec<u32> = text.bytes().map(u32::from).collect(); // each byte a token
    let mut stream = tokenizer.decode_stream(DecodeOptions::GENERATED);
    let parts: Vec<String> = ids.iter().filter_map(|&id| stream.push(id)).collect();
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|part| part.chars().count() == 1 && part != "\u{FFFD}"));
    assert_eq!(stream.finish(), "");
}

#[test]
fn broken_bytes_become_replacement_characters_once_certain() {
    let tokenizer = small();
    let mut stream = tokenizer.decode_stream(DecodeOptions::GENERATED);
    assert_eq!(stream.push(0xF0), None);
    assert_eq!(stream.push(0x9F), None);
    assert_eq!(stream.push(u32::from(b'a')).as_deref(), Some("\u{FFFD}a"));
    assert_eq!(stream.push(0x80).as_deref(), Some("\u{FFFD}"));
    assert_eq!(stream.push(0xE4), None);
    assert_eq!(stream.push(tokenizer.special_id("<|im_end|>").unwrap()).as_deref(), Some("\u{FFFD}"));
    assert_eq!(stream.push(4_000_000), None);
    assert_eq!(stream.push(0xE4), None);
    assert_eq!(stream.finish(), "\u{FFFD}");
    let mut shown = tokenizer.decode_stream(DecodeOptions { skip_special: false, text_start: true });
    assert_eq!(shown.push(tokenizer.special_id("<|im_end|>").unwrap()).as_deref(), Some("<|im_end|>"));
}

#[test]
fn sentence_piece_streams_keep_the_space_between_prompt_and_answer() {
    let tokenizer = Tokenizer::from_parts(sentence_piece(&["▁a", "▁", "a"])).unwrap();
    let id = tokenizer.special_id("▁a").unwrap();
    assert_eq!(tokenizer.decode_stream(DecodeOptions::GENERATED).push(id).as_deref(), Some(" a"));
    assert_eq!(tokenizer.decode(&[1, id, id], true), "a a");
}
