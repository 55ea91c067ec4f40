//! Tokenizers from a Hugging Face tokenizer.json, with tokenizer_config.json for roles and the chat template.
//!
//! The pipelines of generative models are read: BPE over GPT-2's byte alphabet, and BPE with byte fallback
//! (SentencePiece). Anything that could not be followed exactly is refused by name.

use std::collections::HashMap;

use serde_json::Value;

use super::blueprint::{Blueprint, MAX_TOKENS, SpecialIds, Strips, TokenKind};
use super::error::TokenizerError;
use super::normalize::{NormalizeStep, VISIBLE_SPACE};
use super::special::looks_like_control;
use super::split::{GPT2, SplitRule};

fn bad(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::BadJson { file: "tokenizer.json", reason: reason.into() }
}

fn unsupported(part: impl Into<String>, found: &Value, known: &'static str) -> TokenizerError {
    let found = found["type"].as_str().map_or_else(|| found.to_string().chars().take(200).collect(), str::to_owned);
    TokenizerError::Unsupported { part: part.into(), found, known }
}

/// Reads both files' texts.
pub(super) fn blueprint(tokenizer: &str, config: Option<&str>) -> Result<Blueprint, TokenizerError> {
    let file: Value = serde_json::from_str(tokenizer).map_err(|error| bad(error.to_string()))?;
    let config: Value = match config {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| TokenizerError::BadJson { file: "tokenizer_config.json", reason: error.to_string() })?,
        None => Value::Null,
    };
    let model = &file["model"];
    // Old files leave the type out; BPE is the kind that has merges.
    if model["type"].as_str().unwrap_or(if model["merges"].is_array() { "BPE" } else { "" }) != "BPE" {
        return Err(unsupported("model", model, "BPE"));
    }
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[affix].as_str().is_some_and(|text| !text.is_empty()) {
            return Err(unsupported(format!("model.{affix}"), &model[affix], "none"));
        }
    }
    let mut vocabulary = Vocabulary::default();
    vocabulary.read_model(model)?;
    vocabulary.read_added(&file["added_tokens"])?;
    let mut pipeline = Pipeline::default();
    pipeline.read_normalizer(&file["normalizer"], "normalizer")?;
    pipeline.read_pre_tokenizer(&file["pre_tokenizer"], "pre_tokenizer")?;
    let ids = vocabulary.roles(&config, model);
    let (add_bos, add_eos) = added_ends(&file["post_processor"], &config, &ids, &vocabulary);
    Ok(Blueprint {
        merges: merges(model)?,
        normalize: pipeline.normalize,
        splits: pipeline.splits,
        byte_level: pipeline.byte_level,
        byte_fallback: model["byte_fallback"].as_bool().unwrap_or(false),
        ignore_merges: model["ignore_merges"].as_bool().unwrap_or(false),
        fuse_unk: model["fuse_unk"].as_bool().unwrap_or(false),
        strips: vocabulary.strips,
        tokens: vocabulary.tokens,
        kinds: vocabulary.kinds,
        ids,
        add_bos,
        add_eos,
        drop_leading_space: drops_leading_space(&file["decoder"]),
        chat_template: chat_template(&config["chat_template"]),
    })
}

/// The template named `default`, where there are several.
fn chat_template(field: &Value) -> Option<String> {
    match field {
        Value::String(text) => Some(text.clone()),
        Value::Array(several) => {
            let named = several.iter().find(|entry| entry["name"] == "default").or(several.first())?;
            named["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

#[derive(Default)]
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
    by_text: HashMap<String, u32>,
    strips: HashMap<u32, Strips>,
}

impl Vocabulary {
    fn place(&mut self, text: &str, id: &Value, kind: TokenKind) -> Result<u32, TokenizerError> {
        let id = id.as_u64().ok_or_else(|| bad(format!("the id of `{text}` is {id}, expected a number")))?;
        let index = usize::try_from(id).ok().filter(|&index| index < MAX_TOKENS);
        let Some(index) = index else {
            return Err(TokenizerError::SpecialOutOfRange { key: "an id of the vocabulary", id, tokens: MAX_TOKENS });
        };
        if index >= self.tokens.len() {
            self.tokens.resize(index + 1, String::new());
            self.kinds.resize(index + 1, TokenKind::Unused);
        }
        let there = &self.tokens[index];
        if !there.is_empty() && there != text {
            return Err(bad(format!("id {id} is both `{there}` and `{text}`")));
        }
        self.tokens[index] = text.to_owned();
        self.kinds[index] = kind;
        self.by_text.insert(text.to_owned(), index as u32);
        Ok(index as u32)
    }

    fn read_model(&mut self, model: &Value) -> Result<(), TokenizerError> {
        let Some(vocabulary) = model["vocab"].as_object() else {
            return Err(TokenizerError::Missing { part: "model.vocab", model: "tokenizer.json BPE" });
        };
        if vocabulary.len() > MAX_TOKENS {
            return Err(TokenizerError::TooMany { part: "model.vocab", found: vocabulary.len(), limit: MAX_TOKENS });
        }
        for (text, id) in vocabulary {
            self.place(text, id, TokenKind::Normal)?;
        }
        Ok(())
    }

    fn read_added(&mut self, added: &Value) -> Result<(), TokenizerError> {
        for token in added.as_array().map_or(&[][..], Vec::as_slice) {
            let Some(text) = token["content"].as_str() else {
                return Err(bad(format!("added_tokens: {token} has no content")));
            };
            let flag = |name: &str| token[name].as_bool().unwrap_or(false);
            let control = flag("special") || looks_like_control(text);
            let kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
            let id = self.place(text, &token["id"], kind)?;
            let strips = Strips { left: flag("lstrip"), right: flag("rstrip") };
            if strips.left || strips.right {
                self.strips.insert(id, strips);
            }
        }
        Ok(())
    }

    /// Ids of the roles that tokenizer_config.json names; the unknown token is the model's.
    fn roles(&self, config: &Value, model: &Value) -> SpecialIds {
        let named = |role: &str| {
            let field = &config[role];
            let text = field.as_str().or_else(|| field["content"].as_str())?;
            self.by_text.get(text).copied()
        };
        let unk = model["unk_token"].as_str().and_then(|text| self.by_text.get(text).copied());
        SpecialIds {
            bos: named("bos_token"),
            eos: named("eos_token"),
            pad: named("pad_token"),
            unk,
            ..SpecialIds::default()
        }
    }
}

fn merges(model: &Value) -> Result<Vec<(String, String)>, TokenizerError> {
    let Some(lines) = model["merges"].as_array() else {
        return Err(TokenizerError::Missing { part: "model.merges", model: "tokenizer.json BPE" });
    };
    let sides = |line: &Value| -> Option<(String, String)> {
        if let Some(text) = line.as_str() {
            let (left, right) = text.split_once(' ')?;
            return Some((left.to_owned(), right.to_owned()));
        }
        match line.as_array()?.as_slice() {
            [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
            _ => None,
        }
    };
    let merge = |(index, line): (usize, &Value)| {
        sides(line)
            .ok_or_else(|| TokenizerError::BadMerge { index, text: line.to_string().chars().take(200).collect() })
    };
    lines.iter().enumerate().map(merge).collect()
}

#[derive(Default)]
struct Pipeline {
    normalize: Vec<NormalizeStep>,
    splits: Vec<SplitRule>,
    byte_level: bool,
}

impl Pipeline {
    fn read_normalizer(&mut self, step: &Value, part: &str) -> Result<(), TokenizerError> {
        const KNOWN: &str = "NFC, Prepend, Replace of a literal, Sequence of these";
        if step.is_null() {
            return Ok(());
        }
        let step = match (step["type"].as_str(), step["pattern"]["String"].as_str(), step["content"].as_str()) {
            (Some("Sequence"), ..) => {
                for (index, inner) in step["normalizers"].as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
                    if inner["type"] == "Sequence" {
                        return Err(unsupported(format!("{part}[{index}]"), inner, KNOWN));
                    }
                    self.read_normalizer(inner, &format!("{part}[{index}]"))?;
                }
                return Ok(());
            }
            (Some("NFC"), ..) => NormalizeStep::Compose,
            (Some("Replace"), Some(from), Some(to)) if !from.is_empty() => {
                NormalizeStep::Replace { from: from.to_owned(), to: to.to_owned() }
            }
            (Some("Prepend"), ..) => {
                let text = step["prepend"].as_str().ok_or_else(|| unsupported(part, step, KNOWN))?;
                NormalizeStep::Prefix { text: text.to_owned(), unless_there: false, first_only: false }
            }
            _ => return Err(unsupported(part, step, KNOWN)),
        };
        self.normalize.push(step);
        Ok(())
    }

    fn read_pre_tokenizer(&mut self, step: &Value, part: &str) -> Result<(), TokenizerError> {
        const KNOWN: &str = "ByteLevel, Split (isolated), Digits, Metaspace, Sequence of these";
        if step.is_null() {
            return Ok(());
        }
        match step["type"].as_str() {
            Some("Sequence") => {
                for (index, inner) in step["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice).iter().enumerate()
                {
                    if inner["type"] == "Sequence" || self.byte_level {
                        return Err(unsupported(format!("{part}[{index}]"), inner, KNOWN));
                    }
                    self.read_pre_tokenizer(inner, &format!("{part}[{index}]"))?;
                }
            }
            Some("ByteLevel") => {
                if step["add_prefix_space"].as_bool().unwrap_or(true) {
                    if !self.splits.is_empty() {
                        return Err(unsupported(format!("{part}.add_prefix_space after a split"), step, KNOWN));
                    }
                    self.normalize.push(NormalizeStep::Prefix {
                        text: " ".to_owned(),
                        unless_there: true,
                        first_only: false,
                    });
                }
                if step["use_regex"].as_bool().unwrap_or(true) {
                    self.splits.push(SplitRule::new(GPT2, part)?);
                }
                self.byte_level = true;
            }
            Some("Digits") => {
                let each = step["individual_digits"].as_bool().unwrap_or(false);
                self.splits.push(SplitRule::new(if each { r"\p{N}" } else { r"\p{N}+" }, part)?);
            }
            Some("Split") => {
                let isolated = step["behavior"] == "Isolated";
                let (regex, literal) = (step["pattern"]["Regex"].as_str(), step["pattern"]["String"].as_str());
                let pattern = regex.map(str::to_owned).or_else(|| literal.map(regex::escape));
                match pattern.filter(|_| isolated) {
                    Some(pattern) => self.splits.push(SplitRule::new(&pattern, part)?),
                    None => {
                        return Err(unsupported(format!("{part} with behavior {}", step["behavior"]), step, KNOWN));
                    }
                }
            }
            Some("Metaspace") => self.read_metaspace(step, part)?,
            _ => return Err(unsupported(part, step, KNOWN)),
        }
        Ok(())
    }

    fn read_metaspace(&mut self, step: &Value, part: &str) -> Result<(), TokenizerError> {
        let space = step["replacement"].as_str().unwrap_or(VISIBLE_SPACE);
        self.normalize.push(NormalizeStep::Replace { from: " ".to_owned(), to: space.to_owned() });
        // Files before `prepend_scheme` say `add_prefix_space`.
        let before = if step["add_prefix_space"].as_bool().unwrap_or(true) { "always" } else { "never" };
        let scheme = step["prepend_scheme"].as_str().unwrap_or(before);
        if scheme != "never" {
            let first_only = scheme == "first";
            self.normalize.push(NormalizeStep::Prefix { text: space.to_owned(), unless_there: true, first_only });
        }
        if step["split"].as_bool().unwrap_or(true) {
            let space = regex::escape(space);
            self.splits.push(SplitRule::new(&format!("{space}[^{space}]*"), part)?);
        }
        Ok(())
    }
}

/// Whether the decoder takes away the space that encoding put first.
fn drops_leading_space(decoder: &Value) -> bool {
    let drops = |step: &Value| match step["type"].as_str() {
        Some("Strip") => step["content"] == " " && step["start"].as_u64().unwrap_or(0) > 0,
        Some("Metaspace") => step["prepend_scheme"] != "never",
        _ => false,
    };
    drops(decoder) || decoder["decoders"].as_array().is_some_and(|steps| steps.iter().any(drops))
}

/// Whether begin and end tokens are added: as tokenizer_config.json says, else as the post-processor's template does.
fn added_ends(post: &Value, config: &Value, ids: &SpecialIds, vocabulary: &Vocabulary) -> (bool, bool) {
    let steps: Vec<&Value> = match post["processors"].as_array() {
        Some(processors) => processors.iter().collect(),
        None => vec![post],
    };
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing").map(|step| &step["single"]);
    let special_at = |entry: Option<&Value>| {
        let text = entry?["SpecialToken"]["id"].as_str()?;
        vocabulary.by_text.get(text).copied()
    };
    let entries = template.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let first = special_at(entries.first()).is_some_and(|id| ids.bos.is_none_or(|bos| bos == id));
    let last = special_at(entries.last()).is_some_and(|id| ids.eos == Some(id));
    (config["add_bos_token"].as_bool().unwrap_or(first), config["add_eos_token"].as_bool().unwrap_or(last))
}
