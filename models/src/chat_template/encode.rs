//! A chat as ids, with what users wrote kept apart from what the template wrote.
//!
//! A template mixes both into one text, in which a user's `<|im_end|>` looks like the template's own. So before the
//! template runs, one private-use character, drawn anew for each call and absent from the request, is put inside every
//! special token that a string of the request contains. After it ran, the special tokens still whole are the
//! template's; the text between them loses its marks and is encoded as text. Trims and conditions of the template work
//! as ever, on strings that differ from the user's only inside special tokens.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use serde_json::{Map, Value as Json};

use super::{ChatOptions, ChatTemplate, ChatTemplateError, TemplateSource};
use crate::chat_template::python::MARKS;
use crate::tokenizer::{Segment, SpecialClass, Specials, Tokenizer};

/// Ids of a chat prompt. No control token in it comes from the text of a message, a tool, a document or an option.
///
/// Markup that is no control token (`<tool_call>`, `<think>`) is kept from users too, unless the template looks for it
/// in their text (as Qwen 3's does for `</think>`); then it means what it means to the template.
/// Decoding the ids, special tokens shown, gives [`ChatTemplate::render`]'s text (composed, where the vocabulary
/// composes characters).
///
/// # Errors
/// As [`ChatTemplate::render`].
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &Json,
    tools: Option<&Json>,
    options: &ChatOptions,
) -> Result<Vec<u32>, ChatTemplateError> {
    let messages = in_template_form(messages)?;
    let mark = mark_for(&messages, tools, options, template)?;
    let render = |least: SpecialClass| {
        template.render_with(&messages, tools, options, &|text| tokenizer.broken(text, mark, least))
    };
    let lenient = render(SpecialClass::Control)?;
    let rendered = match render(SpecialClass::Markup) {
        // The same prompt either way: the template did not look at the markup, so it can be kept from the user.
        Ok(strict) if without(&strict, mark) == without(&lenient, mark) => strict,
        _ => lenient,
    };
    let mut ids = Vec::with_capacity(rendered.len() / 3 + 8);
    if let Some(bos) =
        tokenizer.bos().filter(|_| template.source() == TemplateSource::DefaultChatMl && tokenizer.add_bos())
    {
        ids.push(bos);
    }
    let segments = tokenizer.segments(&rendered, Specials::Parse);
    let texts: Vec<String> = segments
        .iter()
        .map(|segment| match segment {
            Segment::Text(text) => without(text, mark),
            Segment::Special(_) => String::new(),
        })
        .collect();
    let clean: Vec<Segment<'_>> = segments
        .iter()
        .zip(&texts)
        .map(|(segment, text)| match segment {
            Segment::Text(_) => Segment::Text(text),
            Segment::Special(id) => Segment::Special(*id),
        })
        .collect();
    tokenizer.encode_segments(&clean, &mut ids);
    Ok(ids)
}

fn without(text: &str, mark: char) -> String {
    text.replace(mark, "")
}

/// Draws tried before giving up; a request would have to hold nearly all 65,534 characters to fail one in ten.
const DRAWS: usize = 64;

/// A private-use character that neither the request nor the template contains.
fn mark_for(
    messages: &Json,
    tools: Option<&Json>,
    options: &ChatOptions,
    template: &ChatTemplate,
) -> Result<char, ChatTemplateError> {
    let contains = |mark: char| {
        template.text().contains(mark)
            || holds(messages, mark)
            || tools.is_some_and(|tools| holds(tools, mark))
            || options.documents.as_ref().is_some_and(|documents| holds(documents, mark))
            || options.kwargs.iter().any(|(name, value)| name.contains(mark) || holds(value, mark))
    };
    let random = RandomState::new(); // seeded by the system, once a thread, then counted on
    let span = u64::from(MARKS.end() - MARKS.start() + 1);
    for draw in 0..DRAWS {
        let offset = (random.hash_one(draw) % span) as u32;
        if let Some(mark) = char::from_u32(MARKS.start() + offset).filter(|&mark| !contains(mark)) {
            return Ok(mark);
        }
    }
    Err(ChatTemplateError::NoMark { tried: DRAWS })
}

fn holds(value: &Json, mark: char) -> bool {
    match value {
        Json::String(text) => text.contains(mark),
        Json::Array(items) => items.iter().any(|item| holds(item, mark)),
        Json::Object(fields) => fields.iter().any(|(key, item)| key.contains(mark) || holds(item, mark)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// OpenAI's messages as templates expect them: text parts joined into one string, call arguments as objects.
pub(super) fn in_template_form(messages: &Json) -> Result<Json, ChatTemplateError> {
    let Some(list) = messages.as_array() else {
        return Err(ChatTemplateError::BadMessage { index: 0, reason: "messages is not a list".to_owned() });
    };
    list.iter()
        .enumerate()
        .map(|(index, message)| message_in_form(index, message))
        .collect::<Result<Vec<Json>, _>>()
        .map(Json::Array)
}

fn message_in_form(index: usize, message: &Json) -> Result<Json, ChatTemplateError> {
    let bad = |reason: &str| ChatTemplateError::BadMessage { index, reason: reason.to_owned() };
    let fields = message.as_object().ok_or_else(|| bad("is not an object with `role` and `content`"))?;
    if !fields.get("role").is_some_and(Json::is_string) {
        return Err(bad("has no `role`, expected a string such as `user`"));
    }
    let mut fields: Map<String, Json> = fields.clone();
    if let Some(content) = fields.get_mut("content")
        && let Some(text) = joined_parts(content)
    {
        *content = Json::String(text);
    }
    if let Some(calls) = fields.get_mut("tool_calls").and_then(Json::as_array_mut) {
        for call in calls {
            parse_arguments(call);
        }
    }
    Ok(Json::Object(fields))
}

/// `[{"type": "text", "text": ..}, ..]` as one text; `None` where a part is no text.
fn joined_parts(content: &Json) -> Option<String> {
    let parts = content.as_array()?;
    parts.iter().map(|part| if part["type"] == "text" { part["text"].as_str() } else { None }).collect()
}

/// `"arguments": "{\"a\": 1}"`, as the API has it, becomes `{"a": 1}`, as templates want it.
fn parse_arguments(call: &mut Json) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(parsed) =
        arguments.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok()).filter(Json::is_object)
    {
        *arguments = parsed;
    }
}
