//! From a text to the ids an encoder reads, with the ids that begin and end a sequence.
//!
//! WordPiece runs in the tokenizers crate (no regular expressions are in it); BPE is cut by our own tokenizer. Text never becomes a
//! control token, here as elsewhere: `[SEP]` in a text is five letters and brackets.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::Side;
use super::error::EncoderError;
use crate::tokenizer::{Specials, Tokenizer, TokenizerError};

/// Text to ids.
pub(super) struct EncoderText {
    words: Words,
    /// Ids before a sequence (`[CLS]`).
    begin: Vec<u32>,
    /// Ids after it (`[SEP]`).
    end: Vec<u32>,
    /// Written before a query.
    query_prefix: &'static str,
    /// An id that is left out (model2vec's unknown token).
    dropped: Option<u32>,
}

enum Words {
    WordPiece(Box<tokenizers::Tokenizer>),
    Bpe(Tokenizer),
}

impl EncoderText {
    /// Reads a tokenizer.json; `config` is tokenizer_config.json.
    pub fn load(path: &Path, config: Option<&Path>) -> Result<Self, EncoderError> {
        let refused = |source| EncoderError::Tokenizer { path: path.to_owned(), source: Arc::new(source) };
        let bad = |reason: String| refused(TokenizerError::BadJson { file: "tokenizer.json", reason });
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let words = match json["model"]["type"].as_str() {
            Some("WordPiece") => {
                let mut words: tokenizers::Tokenizer = text.parse().map_err(|error| bad(format!("{error}")))?;
                // The file's own limits and padding are for training; what is cut is decided here.
                words.with_truncation(None).map_err(|error| bad(format!("{error}")))?;
                words.with_padding(None).set_encode_special_tokens(true);
                Words::WordPiece(Box::new(words))
            }
            _ => {
                let config = config.and_then(|path| std::fs::read_to_string(path).ok());
                Words::Bpe(Tokenizer::from_json(&text, config.as_deref()).map_err(refused)?)
            }
        };
        let mut ends = Ends::default();
        ends.read(&json["post_processor"]);
        Ok(Self { words, begin: ends.begin, end: ends.end, query_prefix: "", dropped: None })
    }

    /// Without ids before and after, for tables whose rows are averaged.
    pub fn bare(mut self) -> Self {
        (self.begin, self.end) = (Vec::new(), Vec::new());
        self
    }

    /// With an instruction before each query.
    pub fn with_query_prefix(mut self, prefix: &'static str) -> Self {
        self.query_prefix = prefix;
        self
    }

    /// Leaving out the unknown token, as model2vec does.
    pub fn without_unknown(mut self) -> Self {
        self.dropped = match &self.words {
            Words::WordPiece(words) => words.token_to_id("[UNK]"),
            Words::Bpe(words) => words.special_id("<unk>"),
        };
        self
    }

    /// Ids of a text, whole.
    pub fn ids(&self, text: &str, side: Side) -> Vec<u32> {
        let prefixed;
        let text = match side {
            Side::Query if !self.query_prefix.is_empty() => {
                prefixed = format!("{}{text}", self.query_prefix);
                &prefixed
            }
            _ => text,
        };
        let mut ids = self.begin.clone();
        match &self.words {
            // Its errors are those of a model without an unknown token, which has no vector for the rest either.
            Words::WordPiece(words) => {
                if let Ok(encoding) = words.encode_fast(text, false) {
                    ids.extend(encoding.get_ids());
                }
            }
            Words::Bpe(words) => ids.extend(words.encode(text, Specials::AsText)),
        }
        if let Some(dropped) = self.dropped {
            ids.retain(|&id| id != dropped);
        }
        ids.extend(&self.end);
        ids
    }

    /// Ids that somebody else made, with what begins and ends a sequence if they do not have it.
    pub fn complete(&self, ids: &[u32]) -> Vec<u32> {
        if ids.len() >= self.begin.len() + self.end.len() && ids.starts_with(&self.begin) && ids.ends_with(&self.end) {
            return ids.to_vec();
        }
        [&self.begin, ids, &self.end].concat()
    }

    /// The first `limit` ids, the last of them those that end a sequence.
    pub fn cut(&self, mut ids: Vec<u32>, limit: usize) -> Vec<u32> {
        if ids.len() > limit {
            ids.truncate(limit.saturating_sub(self.end.len()));
            ids.extend(&self.end);
        }
        ids
    }
}

/// Ids that a post-processor puts around a sequence.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    begin: Vec<u32>,
    end: Vec<u32>,
}

impl Ends {
    /// Reads the processors of BERT, RoBERTa, templates, and a sequence of these; others put nothing around.
    fn read(&mut self, processor: &Value) {
        let id = |pair: &Value| pair[1].as_u64().and_then(|id| u32::try_from(id).ok());
        match processor["type"].as_str() {
            Some("Sequence") => {
                processor["processors"].as_array().into_iter().flatten().for_each(|processor| self.read(processor));
            }
            Some("BertProcessing" | "RobertaProcessing") => {
                self.begin.extend(id(&processor["cls"]));
                self.end.extend(id(&processor["sep"]));
            }
            Some("TemplateProcessing") => {
                let mut after = false;
                for piece in processor["single"].as_array().into_iter().flatten() {
                    after |= !piece["Sequence"].is_null();
                    let Some(token) = piece["SpecialToken"]["id"].as_str() else { continue };
                    let ids = processor["special_tokens"][token]["ids"].as_array().into_iter().flatten();
                    let ids = ids.filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
                    if after { self.end.extend(ids) } else { self.begin.extend(ids) }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_stands_around_a_sequence() {
        let template = json!({"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "special_tokens": {"[CLS]": {"ids": [101]}, "[SEP]": {"ids": [102]}}});
        let only_end = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<e>"}}], "special_tokens": {"<e>": {"ids": [9]}}}]});
        for (processor, begin, end) in [
            (template, vec![101], vec![102]),
            (only_end, vec![], vec![9]),
            (json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}), vec![0], vec![2]),
            (json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]}), vec![], vec![]),
            (json!(null), vec![], vec![]),
        ] {
            let mut ends = Ends::default();
            ends.read(&processor);
            assert_eq!(ends, Ends { begin, end }, "{processor}");
        }
    }
}
