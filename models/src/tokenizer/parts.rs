//! Tokenizers from GGUF metadata, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer>.

use std::collections::HashMap;

use crate::gguf::Metadata;

use super::blueprint::{Blueprint, MAX_TOKENS, SpecialIds, TokenKind};
use super::error::TokenizerError;
use super::normalize::{NormalizeStep, sentence_piece};
use super::split::PreTokenizer;

/// The `tokenizer.ggml.*` metadata of a GGUF file, as found; [`super::Tokenizer::from_parts`] checks it.
#[derive(Debug, Clone, Default)]
pub struct TokenizerParts {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `pre`: name of the rules that cut text into words.
    pub pre: Option<String>,
    /// `tokens`: text of each id.
    pub tokens: Vec<String>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty means all normal.
    pub token_types: Vec<i32>,
    /// `merges`: two texts with a space between, the most wanted first (`gpt2`).
    pub merges: Vec<String>,
    /// `scores`: how wanted each piece is (`llama`).
    pub scores: Vec<f32>,
    /// `bos_token_id` and its likes.
    pub ids: SpecialIds,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix` (`llama`).
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl TokenizerParts {
    /// Reads the `tokenizer.*` entries of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError::Metadata`] for an entry of the wrong type, [`TokenizerError::Missing`] without a vocabulary.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let missing = |part| TokenizerError::Missing { part, model: "GGUF" };
        let list = |key| metadata.strings(key).map(|list| list.unwrap_or_default().to_vec());
        let text = |key| metadata.str(key).map(|text| text.map(str::to_owned));
        Ok(TokenizerParts {
            model: text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?,
            pre: text("tokenizer.ggml.pre")?,
            tokens: list("tokenizer.ggml.tokens")?,
            token_types: metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default().to_vec(),
            merges: list("tokenizer.ggml.merges")?,
            scores: metadata.f32s("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            ids: ids(metadata)?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: text("tokenizer.chat_template")?,
        })
    }

    pub(super) fn blueprint(self) -> Result<Blueprint, TokenizerError> {
        if self.tokens.len() > MAX_TOKENS {
            return Err(TokenizerError::TooMany {
                part: "tokenizer.ggml.tokens",
                found: self.tokens.len(),
                limit: MAX_TOKENS,
            });
        }
        let kinds = self.kinds()?;
        match self.model.as_str() {
            "gpt2" => self.byte_level(kinds),
            "llama" => self.sentence_piece(kinds),
            _ => Err(TokenizerError::UnknownModel { found: self.model }),
        }
    }

    fn kinds(&self) -> Result<Vec<TokenKind>, TokenizerError> {
        if self.token_types.is_empty() {
            return Ok(vec![TokenKind::Normal; self.tokens.len()]);
        }
        if self.token_types.len() != self.tokens.len() {
            return Err(TokenizerError::LengthMismatch {
                part: "tokenizer.ggml.token_type",
                found: self.token_types.len(),
                tokens: self.tokens.len(),
            });
        }
        self.token_types.iter().enumerate().map(|(id, &found)| TokenKind::from_gguf(id as u32, found)).collect()
    }

    fn byte_level(self, kinds: Vec<TokenKind>) -> Result<Blueprint, TokenizerError> {
        if self.merges.is_empty() {
            return Err(TokenizerError::Missing { part: "tokenizer.ggml.merges", model: "gpt2" });
        }
        let pre = PreTokenizer::find(self.pre.as_deref())?;
        if self.pre.is_none() {
            tracing::warn!(
                "the file names no pre-tokenizer (tokenizer.ggml.pre); using `default`, ids may differ from the model's own"
            );
        }
        let merges =
            self.merges.into_iter().enumerate().map(|(index, text)| sides_of(index, text)).collect::<Result<_, _>>()?;
        Ok(Blueprint {
            tokens: self.tokens,
            kinds,
            merges,
            normalize: if pre.nfc { vec![NormalizeStep::Compose] } else { Vec::new() },
            splits: pre.rules()?,
            byte_level: true,
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            fuse_unk: false,
            strips: HashMap::new(),
            ids: self.ids,
            add_bos: self.add_bos.unwrap_or(pre.add_bos),
            add_eos: self.add_eos.unwrap_or(false),
            drop_leading_space: false,
            chat_template: self.chat_template,
        })
    }

    fn sentence_piece(self, kinds: Vec<TokenKind>) -> Result<Blueprint, TokenizerError> {
        if self.scores.len() != self.tokens.len() {
            return Err(TokenizerError::LengthMismatch {
                part: "tokenizer.ggml.scores",
                found: self.scores.len(),
                tokens: self.tokens.len(),
            });
        }
        let merges = merges_by_score(&self.tokens, &kinds, &self.scores)?;
        let add_space_prefix = self.add_space_prefix.unwrap_or(true);
        Ok(Blueprint {
            tokens: self.tokens,
            kinds,
            merges,
            normalize: sentence_piece(add_space_prefix),
            splits: Vec::new(),
            byte_level: false,
            byte_fallback: true,
            ignore_merges: false,
            fuse_unk: true,
            strips: HashMap::new(),
            ids: self.ids,
            add_bos: self.add_bos.unwrap_or(true),
            add_eos: self.add_eos.unwrap_or(false),
            drop_leading_space: add_space_prefix,
            chat_template: self.chat_template,
        })
    }
}

fn ids(metadata: &Metadata) -> Result<SpecialIds, TokenizerError> {
    let id = |names: &[&str]| -> Result<Option<u32>, TokenizerError> {
        for name in names {
            // Some writers put 2^32 - 1 for "none".
            if let Some(id) = metadata.u32(&format!("tokenizer.ggml.{name}_token_id"))?.filter(|&id| id != u32::MAX) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    };
    Ok(SpecialIds {
        bos: id(&["bos"])?,
        eos: id(&["eos"])?,
        eot: id(&["eot"])?,
        eom: id(&["eom"])?,
        unk: id(&["unknown"])?,
        pad: id(&["padding"])?,
        // The second names are those that files from before August 2024 use.
        fim_prefix: id(&["fim_pre", "prefix"])?,
        fim_suffix: id(&["fim_suf", "suffix"])?,
        fim_middle: id(&["fim_mid", "middle"])?,
        fim_pad: id(&["fim_pad"])?,
        fim_repo: id(&["fim_rep"])?,
        fim_file_sep: id(&["fim_sep"])?,
    })
}

/// `Ġthe re` is `Ġthe` and `re`; a leading space belongs to the left side.
fn sides_of(index: usize, text: String) -> Result<(String, String), TokenizerError> {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let Some(space) = text[first..].find(' ').map(|at| at + first) else {
        return Err(TokenizerError::BadMerge { index, text });
    };
    let (left, right) = (text[..space].to_owned(), text[space + 1..].to_owned());
    Ok((left, right))
}

/// Work allowed in [`merges_by_score`], in bytes compared; Gemma's 256k pieces need a thousandth of it.
const MERGE_WORK_LIMIT: usize = 1 << 32;

/// The merges a SentencePiece vocabulary implies: any two pieces whose concatenation is a piece, the best score first.
///
/// SentencePiece (<https://arxiv.org/abs/1808.06226>) merges the pair whose result scores highest, the leftmost of equals.
fn merges_by_score(
    tokens: &[String],
    kinds: &[TokenKind],
    scores: &[f32],
) -> Result<Vec<(String, String)>, TokenizerError> {
    let work: usize = tokens.iter().map(|text| text.len() * text.len()).sum();
    if work > MERGE_WORK_LIMIT {
        return Err(TokenizerError::TooMany {
            part: "tokenizer.ggml.tokens (squared lengths)",
            found: work,
            limit: MERGE_WORK_LIMIT,
        });
    }
    let usable = |kind: &TokenKind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused);
    let pieces: HashMap<&str, u32> = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (text, kind))| usable(kind) && !text.is_empty())
        .map(|(id, (text, _))| (text.as_str(), id as u32))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (&piece, &id) in &pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                merges.push((scores[id as usize], left, right));
            }
        }
    }
    // Among ways to form one piece any order gives the same pieces unless they overlap; the ids of the sides settle it.
    merges
        .sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (pieces[a.1], pieces[a.2]).cmp(&(pieces[b.1], pieces[b.2]))));
    Ok(merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
}
