//! Text to token ids and back, with the ids the model was trained on.
//!
//! - Built from GGUF metadata ([`Tokenizer::from_parts`]) or from a tokenizer.json ([`Tokenizer::from_json`]); merges run
//!   in the tokenizers crate, cutting and special tokens are done here, in time linear in the text.
//! - Text a user sent never becomes a control token: [`Specials::AsText`].
//! - Every id has raw bytes ([`Tokenizer::token_bytes`]), for grammars and for streaming ([`crate::detokenize`]).
//! - One tokenizer is shared by all threads; a clone is a reference count.

mod blueprint;
mod error;
#[cfg(test)]
pub(crate) mod golden;
mod json;
mod normalize;
mod parts;
mod special;
mod split;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::sync::Arc;

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

pub use blueprint::SpecialIds;
pub use error::TokenizerError;
pub use parts::TokenizerParts;
pub use special::Specials;
pub(crate) use special::{Segment, SpecialClass};

use crate::detokenize::{DecodeOptions, DecodeStream};
use blueprint::Blueprint;
use normalize::{NormalizeStep, Place};
use special::{END_OF_GENERATION, SpecialTokens};
use split::SplitRule;
use table::TokenTable;

/// Text to ids and back. Cheap to clone, `Send` and `Sync`.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    model: BPE,
    normalize: Vec<NormalizeStep>,
    splits: Vec<SplitRule>,
    byte_level: bool,
    specials: SpecialTokens,
    table: TokenTable,
    ids: SpecialIds,
    stop_ids: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    drop_leading_space: bool,
    chat_template: Option<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("ids", &self.0.ids)
            .field("stop_ids", &self.0.stop_ids)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// From the `tokenizer.ggml.*` metadata of a GGUF file.
    ///
    /// # Errors
    /// A [`TokenizerError`] that names the entry where the vocabulary contradicts itself or is of an unknown kind.
    pub fn from_parts(parts: TokenizerParts) -> Result<Self, TokenizerError> {
        Self::build(parts.blueprint()?)
    }

    /// From the texts of tokenizer.json and, for roles and the chat template, tokenizer_config.json.
    ///
    /// # Errors
    /// A [`TokenizerError`] for JSON that does not parse and for parts that could not be followed exactly.
    pub fn from_json(tokenizer: &str, config: Option<&str>) -> Result<Self, TokenizerError> {
        Self::build(json::blueprint(tokenizer, config)?)
    }

    /// From a folder that holds tokenizer.json and perhaps tokenizer_config.json and chat_template.jinja.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`]; a file that cannot be read is `BadJson` with the system's reason.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let tokenizer = std::fs::read_to_string(folder.join("tokenizer.json")).map_err(|error| {
            TokenizerError::BadJson { file: "tokenizer.json", reason: format!("{}: {error}", folder.display()) }
        })?;
        let config = std::fs::read_to_string(folder.join("tokenizer_config.json")).ok();
        let mut blueprint = json::blueprint(&tokenizer, config.as_deref())?;
        if let Ok(template) = std::fs::read_to_string(folder.join("chat_template.jinja")) {
            blueprint.chat_template = Some(template);
        }
        Self::build(blueprint)
    }

    fn build(mut blueprint: Blueprint) -> Result<Self, TokenizerError> {
        blueprint.check_sizes()?;
        blueprint.mark_roles();
        let specials = blueprint.specials()?;
        let table = blueprint.table()?;
        let model = blueprint.model()?;
        let stop_ids = stop_ids(&blueprint.ids, &specials);
        Ok(Tokenizer(Arc::new(Inner {
            model,
            normalize: blueprint.normalize,
            splits: blueprint.splits,
            byte_level: blueprint.byte_level,
            specials,
            table,
            ids: blueprint.ids,
            stop_ids,
            add_bos: blueprint.add_bos && blueprint.ids.bos.is_some(),
            add_eos: blueprint.add_eos && blueprint.ids.eos.is_some(),
            drop_leading_space: blueprint.drop_leading_space,
            chat_template: blueprint.chat_template,
        })))
    }

    /// Ids of `text`, without begin or end tokens.
    ///
    /// With [`Specials::AsText`] no id of the result is a control token, whatever the text.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_segments(&self.segments(text, specials), &mut ids);
        ids
    }

    /// Ids of `text` as a prompt of its own: [`Tokenizer::encode`] after the begin token, where the model wants one.
    pub fn encode_prompt(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = self.encode(text, specials);
        if let Some(bos) = self.bos().filter(|&bos| self.0.add_bos && ids.first() != Some(&bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Ids of a user's `text` that continues another: as [`Specials::AsText`], without SentencePiece's leading space.
    pub fn encode_continuation(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        for segment in self.segments(text, Specials::AsText) {
            match segment {
                Segment::Special(id) => ids.push(id),
                Segment::Text(text) => self.encode_text(text, Place::Continuation, &mut ids),
            }
        }
        ids
    }

    /// `text` cut at its special tokens.
    pub(crate) fn segments<'a>(&self, text: &'a str, specials: Specials) -> Vec<Segment<'a>> {
        self.0.specials.segments(text, specials)
    }

    /// Appends the ids of a text that is cut already; text segments are taken as they are.
    pub(crate) fn encode_segments(&self, segments: &[Segment<'_>], ids: &mut Vec<u32>) {
        let mut place = Place::Start;
        for segment in segments {
            match *segment {
                Segment::Special(id) => ids.push(id),
                Segment::Text(text) => self.encode_text(text, place, ids),
            }
            place = Place::AfterSpecial;
        }
    }

    fn encode_text(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        let text = normalize::normalize(text, &self.0.normalize, place);
        let mut word = String::new();
        for piece in split::cut(&text, &self.0.splits) {
            let piece = &text[piece];
            let piece = if self.0.byte_level {
                word.clear();
                table::to_byte_level(piece, &mut word);
                word.as_str()
            } else {
                piece
            };
            // The model's only error is an unknown token outside of its vocabulary; building it checked that.
            if let Ok(tokens) = self.0.model.tokenize(piece) {
                ids.extend(tokens.iter().map(|token| token.id));
            }
        }
    }

    /// Puts `mark` inside each special token of class `least` and above in `text`, so that none is left whole.
    pub(crate) fn broken(&self, text: &str, mark: char, least: SpecialClass) -> String {
        self.0.specials.broken(text, mark, least)
    }

    /// Text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids beyond the vocabulary are skipped.
    ///
    /// For a stream use [`Tokenizer::decode_stream`]: the text of a list is not the concatenation of its ids' texts.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let options = DecodeOptions { skip_special, text_start: true };
        let mut stream = self.decode_stream(options);
        let mut text = String::with_capacity(ids.len() * 4);
        for &id in ids {
            if let Some(part) = stream.push(id) {
                text.push_str(&part);
            }
        }
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids as they come.
    pub fn decode_stream(&self, options: DecodeOptions) -> DecodeStream {
        DecodeStream::new(self.clone(), options)
    }

    /// The bytes a token stands for (not always whole characters); a special token's are its text's.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.table.get(id)
    }

    /// Whether `id` is a control token: a turn, an end, fill-in-the-middle.
    pub fn is_control(&self, id: u32) -> bool {
        self.0.specials.class(id) == Some(SpecialClass::Control)
    }

    /// The id whose whole text is `text`, such as `<|im_end|>`.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.0.specials.id(text).or_else(|| self.0.model.token_to_id(text))
    }

    /// Every special token: id and text.
    pub fn special_tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        self.0.specials.iter()
    }

    /// Number of ids, holes counted. A model's logits may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.0.table.len()
    }

    /// Ids with a role.
    pub fn ids(&self) -> &SpecialIds {
        &self.0.ids
    }

    /// The begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.0.ids.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.0.ids.eos
    }

    /// The end-of-turn token.
    pub fn eot(&self) -> Option<u32> {
        self.0.ids.eot
    }

    /// Every id that ends a generation, in ascending order: end of sequence, of turn, of message, of text.
    pub fn stop_ids(&self) -> &[u32] {
        &self.0.stop_ids
    }

    /// Whether a prompt starts with [`Tokenizer::bos`] (chat templates write it themselves).
    pub fn add_bos(&self) -> bool {
        self.0.add_bos
    }

    /// Whether a finished text ends with [`Tokenizer::eos`] (never for a prompt that is to be continued).
    pub fn add_eos(&self) -> bool {
        self.0.add_eos
    }

    /// Whether the first space of a decoded text is one that encoding added.
    pub(crate) fn drops_leading_space(&self) -> bool {
        self.0.drop_leading_space
    }

    /// The chat template that came with the vocabulary.
    pub fn chat_template(&self) -> Option<&str> {
        self.0.chat_template.as_deref()
    }

    /// Text of a token, for templates that print it (`bos_token`); empty for an id without text.
    pub fn token_text(&self, id: u32) -> String {
        self.token_bytes(id).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }
}

fn stop_ids(ids: &SpecialIds, specials: &SpecialTokens) -> Vec<u32> {
    let roles = [ids.eos, ids.eot, ids.eom, ids.fim_pad];
    let names = END_OF_GENERATION.iter().chain(&["<|fim_pad|>", "<fim_pad>"]).map(|text| specials.id(text));
    let mut stops: Vec<u32> = roles.into_iter().chain(names).flatten().collect();
    stops.sort_unstable();
    stops.dedup();
    stops
}
