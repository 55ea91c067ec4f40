//! What any tokenizer file comes down to, checked before anything is built from it.
//!
//! The BPE builder of the tokenizers crate trusts its input (a merge longer than the longest token is a panic there),
//! so every token and merge is checked here first.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};

use super::error::TokenizerError;
use super::normalize::NormalizeStep;
use super::special::{SpecialToken, SpecialTokens, has_pipes, looks_like_control};
use super::split::SplitRule;
use super::table::TokenTable;

/// Token types of GGUF, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    pub(super) fn from_gguf(id: u32, found: i32) -> Result<Self, TokenizerError> {
        Ok(match found {
            // 0 is "undefined" in ggml and treated as normal there.
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return Err(TokenizerError::BadTokenType { id, found }),
        })
    }
}

/// Ids with a role of their own; all within the vocabulary once checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message (a turn that expects a tool result).
    pub eom: Option<u32>,
    /// Stands for text that has no token.
    pub unk: Option<u32>,
    /// Fills up batches; never generated.
    pub pad: Option<u32>,
    /// Fill-in-the-middle: before the text ahead of the cursor.
    pub fim_prefix: Option<u32>,
    /// Fill-in-the-middle: before the text behind the cursor.
    pub fim_suffix: Option<u32>,
    /// Fill-in-the-middle: where the answer starts.
    pub fim_middle: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Before the name of a repository.
    pub fim_repo: Option<u32>,
    /// Before each file of a repository.
    pub fim_file_sep: Option<u32>,
}

impl SpecialIds {
    fn check(&self, tokens: usize) -> Result<(), TokenizerError> {
        let all = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
            ("fim_pre_token_id", self.fim_prefix),
            ("fim_suf_token_id", self.fim_suffix),
            ("fim_mid_token_id", self.fim_middle),
            ("fim_pad_token_id", self.fim_pad),
            ("fim_rep_token_id", self.fim_repo),
            ("fim_sep_token_id", self.fim_file_sep),
        ];
        for (key, id) in all {
            if let Some(id) = id.filter(|&id| id as usize >= tokens) {
                return Err(TokenizerError::SpecialOutOfRange { key, id: id.into(), tokens });
            }
        }
        Ok(())
    }
}

/// White space that a special token takes with it (lstrip, rstrip of tokenizer.json).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Strips {
    pub(super) left: bool,
    pub(super) right: bool,
}

/// A tokenizer, not yet checked.
pub(super) struct Blueprint {
    /// Text of each id; empty where the vocabulary has a hole.
    pub(super) tokens: Vec<String>,
    /// Kind of each id, as long as `tokens`.
    pub(super) kinds: Vec<TokenKind>,
    /// Left and right side, the most wanted merge first.
    pub(super) merges: Vec<(String, String)>,
    pub(super) normalize: Vec<NormalizeStep>,
    pub(super) splits: Vec<SplitRule>,
    /// Token texts are bytes written as printable characters (GPT-2's alphabet).
    pub(super) byte_level: bool,
    /// Characters without a token become their bytes' tokens, `<0xE2>`.
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    pub(super) fuse_unk: bool,
    pub(super) strips: HashMap<u32, Strips>,
    pub(super) ids: SpecialIds,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
    /// Decoding drops the space that encoding put first.
    pub(super) drop_leading_space: bool,
    pub(super) chat_template: Option<String>,
}

/// Qwen 2.5 has 151,936 tokens, Gemma 262,144: four million is a broken file.
pub(super) const MAX_TOKENS: usize = 1 << 22;
const MAX_MERGES: usize = 1 << 23;
const LONGEST_TOKEN: usize = 4096;

impl Blueprint {
    /// Every list as long as it must be, every text and id within bounds.
    pub(super) fn check_sizes(&self) -> Result<(), TokenizerError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(TokenizerError::Missing { part: "the token list", model: "BPE" });
        }
        if count > MAX_TOKENS {
            return Err(TokenizerError::TooMany { part: "the token list", found: count, limit: MAX_TOKENS });
        }
        if self.merges.len() > MAX_MERGES {
            return Err(TokenizerError::TooMany {
                part: "the merge list",
                found: self.merges.len(),
                limit: MAX_MERGES,
            });
        }
        for (id, text) in self.tokens.iter().enumerate() {
            if text.len() > LONGEST_TOKEN {
                return Err(TokenizerError::TokenTooLong { id: id as u32, bytes: text.len(), limit: LONGEST_TOKEN });
            }
        }
        self.ids.check(count)
    }

    /// A token with a role, or a control token's text, is a control token whatever its type says.
    pub(super) fn mark_roles(&mut self) {
        let ids = self.ids;
        let roles = [
            ids.bos,
            ids.eos,
            ids.eot,
            ids.eom,
            ids.fim_prefix,
            ids.fim_suffix,
            ids.fim_middle,
            ids.fim_pad,
            ids.fim_repo,
            ids.fim_file_sep,
        ];
        for id in roles.into_iter().flatten() {
            self.kinds[id as usize] = TokenKind::Control;
        }
        for (text, kind) in self.tokens.iter().zip(&mut self.kinds) {
            let promoted = match kind {
                TokenKind::UserDefined => looks_like_control(text),
                // A plain token named like one (`</s>` in a vocabulary of HTML) stays plain, unless it has the pipes.
                TokenKind::Normal | TokenKind::Unused => has_pipes(text),
                TokenKind::Control | TokenKind::Unknown | TokenKind::Byte => false,
            };
            if promoted {
                *kind = TokenKind::Control;
            }
        }
    }

    /// The special tokens; two with one text are refused.
    pub(super) fn specials(&self) -> Result<SpecialTokens, TokenizerError> {
        let mut seen: HashMap<&str, u32> = HashMap::new();
        let mut specials = Vec::new();
        for (id, (text, &kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let id = id as u32;
            let Some(class) = SpecialToken::class_of(kind, text) else {
                continue;
            };
            if let Some(first) = seen.insert(text, id) {
                return Err(TokenizerError::DuplicateToken { first, second: id, text: text.clone() });
            }
            let strips = self.strips.get(&id).copied().unwrap_or_default();
            specials.push(SpecialToken { id, text: text.clone(), class, lstrip: strips.left, rstrip: strips.right });
        }
        SpecialTokens::new(specials)
    }

    /// Raw bytes of every token.
    pub(super) fn table(&self) -> Result<TokenTable, TokenizerError> {
        TokenTable::new(&self.tokens, &self.kinds, self.byte_level, self.byte_fallback)
    }

    /// The tokens that text may become: control tokens are left out, so that no merge can form one.
    fn vocabulary(&self) -> Result<Vocab, TokenizerError> {
        let mut vocabulary = Vocab::default();
        for (id, (text, &kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let id = id as u32;
            let unk = !self.byte_level && self.ids.unk == Some(id);
            if text.is_empty() || (matches!(kind, TokenKind::Control | TokenKind::Unknown) && !unk) {
                continue;
            }
            if let Some(first) = vocabulary.insert(text.clone(), id) {
                return Err(TokenizerError::DuplicateToken { first, second: id, text: text.clone() });
            }
        }
        Ok(vocabulary)
    }

    /// The BPE model; consumes the merges.
    pub(super) fn model(&mut self) -> Result<BPE, TokenizerError> {
        let vocabulary = self.vocabulary()?;
        let merges = self.checked_merges(&vocabulary)?;
        let mut builder = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .byte_fallback(self.byte_fallback)
            .fuse_unk(self.fuse_unk)
            .ignore_merges(self.ignore_merges)
            // Words remembered per thread; code repeats itself, and a thread's share stays under a megabyte.
            .cache_capacity(4096);
        if let Some(unk) = self.ids.unk.filter(|_| !self.byte_level) {
            builder = builder.unk_token(self.tokens[unk as usize].clone());
        }
        builder.build().map_err(|error| TokenizerError::Build { reason: error.to_string() })
    }

    /// The merges that text may use. A side or result that is no token at all is an error; one that is a control token
    /// is left out, because user text must not become it.
    fn checked_merges(&mut self, vocabulary: &Vocab) -> Result<Vec<(String, String)>, TokenizerError> {
        let withheld: std::collections::HashSet<&str> = self
            .tokens
            .iter()
            .zip(&self.kinds)
            .filter(|(_, kind)| matches!(kind, TokenKind::Control | TokenKind::Unknown))
            .map(|(text, _)| text.as_str())
            .collect();
        let mut checked = Vec::with_capacity(self.merges.len());
        let mut merged = String::new();
        for (index, (left, right)) in std::mem::take(&mut self.merges).into_iter().enumerate() {
            if left.is_empty() || right.is_empty() {
                return Err(TokenizerError::BadMerge { index, text: format!("{left} {right}") });
            }
            merged.clear();
            merged.push_str(&left);
            merged.push_str(&right);
            let needed = [&left, &right, &merged];
            let unknown =
                needed.iter().find(|text| !vocabulary.contains_key(text.as_str()) && !withheld.contains(text.as_str()));
            if let Some(&missing) = unknown {
                let missing = missing.clone();
                return Err(TokenizerError::MergeUnknownToken { index, left, right, missing });
            }
            if needed.iter().all(|text| vocabulary.contains_key(text.as_str())) {
                checked.push((left, right));
            }
        }
        Ok(checked)
    }
}
