//! Chat messages: checked on the wire, then plain values for the model's own template.

use serde_json::{Map, Value, json};

use super::fields::{Fields, check_len, type_of, wrong_type};
use crate::error::{ApiError, ErrorCode};
use crate::limits::{MAX_MESSAGES, MAX_PARTS, MAX_TOOLS};

/// Reads `messages` into what templates take: `role`, `content` as one string, and where they
/// are there `name`, `tool_calls` (arguments parsed) and `tool_call_id`.
pub fn read_messages(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let messages = fields.list("messages", MAX_MESSAGES)?;
    let messages = fields.require("messages", messages)?;
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "`messages` is empty: at least one is needed"));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(index, value)| read_message(Fields::at(format!("messages[{index}]"), value)?))
        .collect()
}

fn read_message(mut fields: Fields) -> Result<Value, ApiError> {
    let role = fields.string("role")?;
    let role = fields.require("role", role)?;
    // Templates know no `developer`: it is the newer name of `system`.
    let role = match role.as_str() {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role.as_str(),
        "function" => {
            return Err(ApiError::unsupported(fields.path("role"), "use the role `tool` instead of `function`"));
        }
        other => {
            let path = fields.path("role");
            let shown: String = other.chars().take(64).collect();
            return Err(ApiError::invalid_value(
                &path,
                format!("`{path}` is `{shown}`, must be system, developer, user, assistant or tool"),
            ));
        }
    };
    let content = read_content(&mut fields)?;
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    let calls = read_tool_calls(&mut fields)?;
    if content.is_none() && calls.is_none() {
        fields.require("content", content.as_ref())?;
    }
    message.insert("content".into(), content.unwrap_or_default().into());
    if let Some(calls) = calls {
        if role != "assistant" {
            let path = fields.path("tool_calls");
            return Err(ApiError::invalid_value(&path, format!("`{path}`: only an assistant calls tools")));
        }
        message.insert("tool_calls".into(), calls);
    }
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.string(name)? {
            message.insert(name.into(), text.into());
        }
    }
    // What answers of this and other servers carry, sent back by clients that keep whole messages.
    if fields.list("annotations", 0)?.is_some() { /* an empty list says nothing */ }
    fields.unsupported("refusal", "this server makes none")?;
    fields.unsupported("audio", "models here read and write text")?;
    fields.unsupported("function_call", "use `tool_calls`")?;
    fields.finish()?;
    Ok(Value::Object(message))
}

/// A string, or a list of text parts, which are joined by newlines.
fn read_content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let path = fields.path("content");
    let parts = match fields.raw("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong_type(&path, &other, "a string or a list of parts")),
    };
    check_len(&path, parts.len(), MAX_PARTS)?;
    let texts = parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| {
            let mut part = Fields::at(format!("{path}[{index}]"), part)?;
            let kind = part.string("type")?;
            let kind = part.require("type", kind)?;
            if kind != "text" {
                return Err(ApiError::unsupported(
                    part.path("type"),
                    "models here read text: only parts of type `text` are taken",
                ));
            }
            let text = part.string("text")?;
            let text = part.require("text", text)?;
            part.finish()?;
            Ok(text)
        })
        .collect::<Result<Vec<String>, ApiError>>()?;
    Ok(Some(texts.join("\n")))
}

/// The calls of an earlier answer. `arguments` comes as a JSON string and goes to the template as
/// the object it holds, for templates write it out with `tojson`.
fn read_tool_calls(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let path = fields.path("tool_calls");
    let Some(calls) = fields.list("tool_calls", MAX_TOOLS)? else {
        return Ok(None);
    };
    if calls.is_empty() {
        return Ok(None);
    }
    let calls = calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| {
            let mut call = Fields::at(format!("{path}[{index}]"), call)?;
            let id = call.string("id")?;
            check_type_is_function(&mut call)?;
            call.raw("index"); // left there by clients that keep stream deltas
            let function = call.object("function")?;
            let mut function = call.require("function", function)?;
            call.finish()?;
            let name = function.string("name")?;
            let name = function.require("name", name)?;
            let arguments = match function.raw("arguments") {
                None => json!({}),
                Some(Value::String(text)) => match serde_json::from_str(&text) {
                    Ok(object @ Value::Object(_)) => object,
                    _ => Value::String(text),
                },
                Some(object @ Value::Object(_)) => object,
                Some(other) => {
                    let path = function.path("arguments");
                    return Err(wrong_type(&path, &other, "a JSON string"));
                }
            };
            function.finish()?;
            let mut value = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
            if let Some(id) = id {
                value["id"] = id.into();
            }
            Ok(value)
        })
        .collect::<Result<Vec<Value>, ApiError>>()?;
    Ok(Some(Value::Array(calls)))
}

fn check_type_is_function(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.string("type")?.as_deref() {
        None | Some("function") => Ok(()),
        Some(_) => Err(ApiError::unsupported(fields.path("type"), "only `function` is known")),
    }
}

/// Reads `tools` and `tool_choice`: the tools that the template is to show, none if the client
/// says `tool_choice: "none"`. A choice that forces a call is refused: nothing here could hold
/// the model to it.
pub fn read_tools(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let tools = fields.list("tools", MAX_TOOLS)?.unwrap_or_default();
    let tools = tools
        .into_iter()
        .enumerate()
        .map(|(index, tool)| read_tool(Fields::at(format!("tools[{index}]"), tool)?))
        .collect::<Result<Vec<Value>, ApiError>>()?;
    let choice = fields.raw("tool_choice");
    if !fields.bool("parallel_tool_calls", true)? {
        return Err(ApiError::unsupported("parallel_tool_calls", "the number of calls cannot be bounded"));
    }
    match choice {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(_) if tools.is_empty() => {
            Err(ApiError::invalid_value("tool_choice", "`tool_choice` is of use only with `tools`"))
        }
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(_) => {
            Err(ApiError::unsupported("tool_choice", "a call cannot be forced, only `auto` and `none` are taken"))
        }
    }
}

fn read_tool(mut tool: Fields) -> Result<Value, ApiError> {
    let kind = tool.string("type")?;
    tool.require("type", kind.as_ref())?;
    if kind.as_deref() != Some("function") {
        return Err(ApiError::unsupported(tool.path("type"), "only tools of type `function` are known"));
    }
    let function = tool.object("function")?;
    let mut function = tool.require("function", function)?;
    tool.finish()?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(good) {
        let path = function.path("name");
        return Err(ApiError::invalid_value(
            &path,
            format!("`{path}` must be 1 to 128 of the characters a-z, A-Z, 0-9, `_`, `-`, `.`"),
        ));
    }
    let mut shown = Map::new();
    shown.insert("name".into(), name.into());
    if let Some(description) = function.string("description")? {
        shown.insert("description".into(), description.into());
    }
    match function.raw("parameters") {
        None => {}
        Some(schema @ Value::Object(_)) => {
            shown.insert("parameters".into(), schema);
        }
        Some(other) => {
            let path = function.path("parameters");
            let message = format!("`{path}` is {}, must be a JSON schema object", type_of(&other));
            return Err(ApiError::invalid_value(path, message));
        }
    }
    if function.bool("strict", false)? {
        return Err(ApiError::new(
            ErrorCode::UnsupportedParameter,
            "`strict` is not supported: arguments are the model's own, not held to the schema",
        )
        .with_param(function.path("strict")));
    }
    function.finish()?;
    Ok(json!({"type": "function", "function": Value::Object(shown)}))
}
