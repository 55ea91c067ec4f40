//! How text is cut into words before byte-pair merges run inside each word.
//!
//! Every model was trained with its own cutting rules; other rules give other ids. The published patterns use a
//! look-ahead, `\s+(?!\S)`, which backtracking engines run in more than linear time and give up on (with a panic)
//! when a user sends megabytes of spaces. Here the look-ahead is taken out of the pattern and applied to the match
//! instead, so that each rule is a true regular expression: linear time, no give-up.

use std::ops::Range;

use regex::{Regex, RegexBuilder};

use super::error::TokenizerError;

/// One cutting rule: matches become pieces, and so does the text between them.
#[derive(Debug)]
pub(super) struct SplitRule {
    regex: Regex,
    /// The pattern ended in `\s+(?!\S)`: a run of spaces leaves its last one to the word that follows.
    leave_last_space: bool,
    /// An earlier alternative takes runs that end in a line break, which then stay whole.
    line_breaks_stay: bool,
}

impl SplitRule {
    /// Compiles a published pattern. `part` names its place for the error.
    pub(super) fn new(pattern: &str, part: &str) -> Result<Self, TokenizerError> {
        let base = pattern.strip_suffix(r"|\s+(?!\S)|\s+").or_else(|| pattern.strip_suffix(r"|\s+(?!\S)"));
        let regular = match base {
            Some(base) => format!(r"{base}|\s+"),
            None => pattern.to_owned(),
        };
        let regex = RegexBuilder::new(&regular).build().map_err(|error| TokenizerError::BadPattern {
            part: part.to_owned(),
            pattern: pattern.to_owned(),
            reason: error.to_string(),
        })?;
        let line_breaks_stay =
            base.is_some_and(|base| [r"\s*[\r\n]", "\\s*[\r\n]"].iter().any(|alternative| base.contains(alternative)));
        Ok(SplitRule { regex, leave_last_space: base.is_some(), line_breaks_stay })
    }

    /// Appends the pieces of `text[within]`, in order and without gaps; none is empty.
    fn cut(&self, text: &str, within: Range<usize>, pieces: &mut Vec<Range<usize>>) {
        let piece = &text[within.clone()];
        let mut cut_to = 0; // everything before is in `pieces`
        let mut from = 0;
        while let Some(found) = self.regex.find_at(piece, from) {
            let end = self.end_of(piece, found.range());
            if end == found.start() {
                // An empty match cuts nothing; step over one character.
                let Some(next) = piece[end..].chars().next() else {
                    break;
                };
                from = end + next.len_utf8();
                continue;
            }
            if cut_to < found.start() {
                pieces.push(within.start + cut_to..within.start + found.start());
            }
            pieces.push(within.start + found.start()..within.start + end);
            cut_to = end;
            from = end;
        }
        if cut_to < piece.len() {
            pieces.push(within.start + cut_to..within.end);
        }
    }

    /// Where a match ends once the look-ahead `\s+(?!\S)` has had its say.
    fn end_of(&self, piece: &str, found: Range<usize>) -> usize {
        let end = found.end;
        if !self.leave_last_space || end == piece.len() {
            return end;
        }
        let matched = &piece[found];
        let Some(last) = matched.chars().next_back() else {
            return end;
        };
        if !last.is_whitespace() || (self.line_breaks_stay && matches!(last, '\r' | '\n')) {
            return end;
        }
        // A single space has no shorter match: `\s+` (or the gap) takes it as it is.
        if matched.len() == last.len_utf8() || !matched.chars().all(char::is_whitespace) {
            return end;
        }
        end - last.len_utf8()
    }
}

/// Cuts `text` by each rule in turn, every rule working inside the pieces of the one before.
pub(super) fn cut(text: &str, rules: &[SplitRule]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    if !text.is_empty() {
        pieces.push(0..text.len());
    }
    for rule in rules {
        let mut finer = Vec::with_capacity(pieces.len() * 2);
        for piece in pieces {
            rule.cut(text, piece, &mut finer);
        }
        pieces = finer;
    }
    pieces
}

/// GPT-2's pattern, <https://github.com/openai/gpt-2/blob/master/src/encoder.py>.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// CJK ideographs and Hangul as DeepSeek's first tokenizers list them.
const DEEPSEEK_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
/// The cased letters DeepSeek-LLM lists one range after another: Unicode's \p{L} without the caseless scripts.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}",
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    r"]+",
);

/// What `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    /// Patterns, applied in turn.
    pub(super) patterns: &'static [&'static str],
    /// A word that is a token as it stands is taken whole, merges or not.
    pub(super) ignore_merges: bool,
    /// The family's own tokenizer.json composes characters (NFC) first. llama.cpp does not; the family's file wins.
    pub(super) nfc: bool,
    /// Whether a begin-of-sequence token is put first where the file does not say.
    pub(super) add_bos: bool,
}

const fn plain(names: &'static [&'static str], patterns: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, patterns, ignore_merges: false, nfc: false, add_bos: false }
}

const PRE_TOKENIZERS: &[PreTokenizer] = &[
    // A file that names none is cut as llama.cpp cuts it.
    plain(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    PreTokenizer { nfc: true, ..plain(&["qwen2"], &[QWEN2]) },
    plain(&["qwen35"], &[QWEN35]),
    plain(&["deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "kormo", "grok-2"], &[QWEN2]),
    PreTokenizer {
        ignore_merges: true,
        add_bos: true,
        ..plain(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[LLAMA3])
    },
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    PreTokenizer { ignore_merges: true, ..plain(&["glm4", "glm5"], &[LLAMA3]) },
    plain(&["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], &[r"\p{N}", GPT2]),
    PreTokenizer { nfc: true, ..plain(&["command-r"], &[r"\p{N}", GPT2]) },
    plain(
        &[
            "gpt-2",
            "phi-2",
            "mellum",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "exaone4",
            "modern-bert",
        ],
        &[GPT2],
    ),
    PreTokenizer { nfc: true, ..plain(&["mpt", "olmo"], &[GPT2]) },
    plain(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
    plain(
        &["deepseek-llm"],
        &[
            "[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        &[r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", DEEPSEEK3],
    ),
    plain(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    PreTokenizer { ignore_merges: true, add_bos: true, ..plain(&["tekken"], &[TEKKEN]) },
    plain(&["gpt-4o", "llama4", "kanana2"], &[GPT4O]),
    plain(&["seed-coder"], &[SEED_CODER]),
];

impl PreTokenizer {
    /// The rules for the name in `tokenizer.ggml.pre`; no name means `default`.
    pub(super) fn find(name: Option<&str>) -> Result<&'static Self, TokenizerError> {
        let name = name.unwrap_or("default");
        PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
            TokenizerError::UnknownPreTokenizer { found: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Its patterns, compiled.
    pub(super) fn rules(&self) -> Result<Vec<SplitRule>, TokenizerError> {
        self.patterns.iter().map(|pattern| SplitRule::new(pattern, "tokenizer.ggml.pre")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pre: &str, text: &str, expected: &[&str]) {
        let rules = PreTokenizer::find(Some(pre)).unwrap().rules().unwrap();
        let pieces: Vec<&str> = cut(text, &rules).into_iter().map(|piece| &text[piece]).collect();
        assert_eq!(pieces, expected, "{pre}: {text:?}");
    }

    #[test]
    fn every_pre_tokenizer_compiles_and_loses_no_byte() {
        let text = "fn f() -> i32 {\r\n\t\tlet x1 = 12345;   // it's 中文 한글 🦀 e\u{301}\n\n  }\n   ";
        for pre in PRE_TOKENIZERS {
            let rules = pre.rules().unwrap();
            let pieces = cut(text, &rules);
            let joined: String = pieces.iter().map(|piece| &text[piece.clone()]).collect();
            assert_eq!(joined, text, "{:?}", pre.names);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn a_run_of_spaces_leaves_its_last_to_the_word() {
        for pre in ["qwen2", "llama-bpe", "smollm", "gpt-2", "deepseek-v3", "tekken"] {
            check(pre, "a    b", &["a", "   ", " b"]);
            check(pre, "a    ", &["a", "    "]);
        }
        check("gpt-2", "a\t\tb", &["a", "\t", "\t", "b"]);
        check("qwen2", "a\t\tb", &["a", "\t", "\tb"]);
    }

    #[test]
    fn line_breaks() {
        check("qwen2", "a;\n\n  b", &["a", ";\n\n", " ", " b"]);
        check("qwen2", "a \n \n  b", &["a", " \n \n", " ", " b"]);
        check("gpt-2", "a\n\nb", &["a", "\n", "\n", "b"]);
        check("smollm", "a\r\n  b", &["a", "\r\n ", " b"]);
        check("deepseek-coder", "a\r\n  b", &["a", "\r", "\n", " ", " b"]);
    }

    #[test]
    fn digits() {
        check("qwen2", "x = 12345", &["x", " =", " ", "1", "2", "3", "4", "5"]);
        check("llama-bpe", "x12345", &["x", "123", "45"]);
        check("smollm", "x 12345", &["x", " ", "1", "2", "3", "4", "5"]);
        check("starcoder", " 12", &[" ", "1", "2"]);
        check("gpt-2", "x 12345", &["x", " 12345"]);
        check("deepseek-coder", "a12", &["a", "1", "2"]);
        check("deepseek-llm", "a 12", &["a", " ", "12"]);
        check("deepseek-v3", "12345", &["123", "45"]);
        check("tekken", "1234", &["1", "2", "3", "4"]);
    }

    #[test]
    fn contractions_and_letters() {
        check("qwen2", "IT'S it's", &["IT", "'S", " it", "'s"]);
        check("gpt-2", "IT'S it's", &["IT", "'", "S", " it", "'s"]);
        check("qwen2", "fooBar(x)", &["fooBar", "(x", ")"]);
        check("tekken", "fooBar", &["foo", "Bar"]);
        check("gpt-4o", "fooBar's", &["foo", "Bar's"]);
        check("deepseek-coder", " 여기中文", &[" ", "여기中文"]);
        check("deepseek-v3", "中文abc", &["中文", "abc"]);
    }

    #[test]
    fn megabytes_of_spaces_are_cut_in_linear_time() {
        let text = format!("{}x", " ".repeat(4 << 20));
        for pre in PRE_TOKENIZERS {
            let pieces = cut(&text, &pre.rules().unwrap());
            assert!(pieces.len() <= 3, "{:?}: {} pieces", pre.names, pieces.len());
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = PreTokenizer::find(Some("nonesuch")).err().unwrap().to_string();
        assert!(error.contains("`nonesuch`") && error.contains("qwen2") && error.contains("smollm"), "{error}");
    }
}
