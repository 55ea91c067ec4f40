//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use super::fields::{Fields, wrong_type};
use super::message::{read_messages, read_tools};
use super::options::Options;
use crate::answer::Asked;
use crate::error::ApiError;
use crate::limits::MAX_TOP_LOGPROBS;

/// A chat request, read and bounded.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// What completions take too.
    pub options: Options,
    /// The messages, as the template takes them; at least one.
    pub messages: Vec<Value>,
    /// The tools to show in the prompt.
    pub tools: Vec<Value>,
    /// Most tokens to generate; absent: the room that the context leaves.
    pub max_tokens: Option<usize>,
    /// Alternatives a position, if log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// Further variables for the template (extension), such as `enable_thinking`.
    pub template_kwargs: Map<String, Value>,
    /// The text of a last message of the assistant's that the answer goes on from (extension `continue_final_message`).
    pub continues: Option<String>,
}

/// What OpenAI has and Engram has not, and why.
const UNSUPPORTED: [(&str, &str); 10] = [
    ("function_call", "use `tools` and `tool_choice`"),
    ("functions", "use `tools`"),
    ("audio", "models here write text"),
    ("prediction", "predicted outputs are not used"),
    ("reasoning_effort", "models here have no such setting"),
    ("verbosity", "models here have no such setting"),
    ("web_search_options", "this server searches nothing"),
    ("prompt_cache_key", "prefixes are cached by their content alone"),
    ("safety_identifier", "requests are not screened"),
    ("moderation", "requests are not screened"),
];

impl ChatRequest {
    /// Reads the body.
    pub fn from_map(body: Map<String, Value>) -> Result<Self, ApiError> {
        let mut fields = Fields::from_map(body);
        fields.know(&Asked::NAMES);
        let options = Options::read(&mut fields)?;
        let mut messages = read_messages(&mut fields)?;
        let continues = read_continuation(&mut fields, &mut messages)?;
        let tools = read_tools(&mut fields)?;
        let max_tokens = read_max_tokens(&mut fields)?;
        let logprobs = read_logprobs(&mut fields)?;
        let template_kwargs = read_template_kwargs(&mut fields)?;
        read_refused(&mut fields)?;
        fields.finish()?;
        Ok(Self { options, messages, tools, max_tokens, logprobs, template_kwargs, continues })
    }
}

/// `continue_final_message`, and its twin `add_generation_prompt`, in vLLM's words: the last message is taken out, and its
/// text is what the answer goes on from.
fn read_continuation(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<Option<String>, ApiError> {
    let continues = fields.bool("continue_final_message", false)?;
    let prompts = fields.bool("add_generation_prompt", !continues)?;
    if prompts == continues {
        let message = "`add_generation_prompt` must be true, or false beside `continue_final_message: true`";
        return Err(ApiError::invalid_value("add_generation_prompt", message));
    }
    if !continues {
        return Ok(None);
    }
    let text =
        messages.last().filter(|message| message["role"] == "assistant").and_then(|last| last["content"].as_str());
    match text.map(str::to_owned) {
        Some(text) if messages.len() > 1 => {
            messages.pop();
            Ok(Some(text))
        }
        _ => Err(ApiError::invalid_value(
            "continue_final_message",
            "`continue_final_message` needs a last message of the assistant's with text, behind another one",
        )),
    }
}

/// `max_completion_tokens`, or its older name.
fn read_max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.count("max_tokens", 1..=usize::MAX)?;
    let new = fields.count("max_completion_tokens", 1..=usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::invalid_value(
            "max_tokens",
            format!("`max_tokens` is {old} and `max_completion_tokens` is {new}: give one of them"),
        )),
        (old, new) => Ok(new.or(old)),
    }
}

fn read_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.bool("logprobs", false)?;
    let top = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match (wanted, top) {
        (false, Some(_)) => {
            Err(ApiError::invalid_value("top_logprobs", "`top_logprobs` is only allowed when `logprobs` is true"))
        }
        (false, None) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

fn read_template_kwargs(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    const OURS: [&str; 4] = ["messages", "tools", "add_generation_prompt", "documents"];
    let map = match fields.raw("chat_template_kwargs") {
        None => return Ok(Map::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong_type("chat_template_kwargs", &other, "an object")),
    };
    match OURS.iter().find(|name| map.contains_key(**name)) {
        Some(name) => Err(ApiError::invalid_value(
            format!("chat_template_kwargs.{name}"),
            format!("`chat_template_kwargs` may not set `{name}`"),
        )),
        None => Ok(map),
    }
}

/// Parameters that are known and refused, unless their value asks for what happens anyway.
fn read_refused(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, why) in UNSUPPORTED {
        fields.unsupported(name, why)?;
    }
    if let Some(mut format) = fields.object("response_format")? {
        let kind = format.string("type")?;
        let kind = format.require("type", kind)?;
        if kind != "text" {
            return Err(ApiError::unsupported(
                "response_format",
                "answers cannot be held to a JSON schema, only `{\"type\": \"text\"}` is taken",
            ));
        }
        format.finish()?;
    }
    if let Some(modalities) = fields.list("modalities", 8)?
        && modalities != ["text"]
    {
        return Err(ApiError::unsupported("modalities", "only `[\"text\"]` is taken"));
    }
    match fields.string("service_tier")?.as_deref() {
        None | Some("auto" | "default") => Ok(()),
        Some(_) => Err(ApiError::unsupported("service_tier", "use `priority`; `auto` and `default` are taken")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use serde_json::json;

    fn read(body: Value) -> Result<ChatRequest, ApiError> {
        ChatRequest::from_map(body.as_object().expect("an object").clone())
    }

    fn with(extra: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().expect("an object") {
            body[key] = value.clone();
        }
        body
    }

    #[test]
    fn messages_become_what_templates_take() {
        let request = read(json!({"messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ada", "content": [
                {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [
                {"id": "c1", "type": "function",
                 "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ]}))
        .expect("good");
        assert_eq!(
            request.messages,
            [
                json!({"role": "system", "content": "be brief"}),
                json!({"role": "user", "content": "one\ntwo", "name": "ada"}),
                json!({"role": "assistant", "content": "", "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}, "id": "c1"}]}),
                json!({"role": "tool", "content": "3", "tool_call_id": "c1"}),
            ]
        );
        assert_eq!((request.max_tokens, request.logprobs), (None, None));
    }

    #[test]
    fn tools_are_shown_unless_the_choice_is_none() {
        let tool = json!({"type": "function", "function": {
            "name": "get", "description": "d", "parameters": {"type": "object"}, "strict": false}});
        let shown = json!({"type": "function", "function": {
            "name": "get", "description": "d", "parameters": {"type": "object"}}});
        for choice in [json!(null), json!("auto")] {
            let request = read(with(json!({"tools": [tool], "tool_choice": choice}))).expect("good");
            assert_eq!(request.tools, std::slice::from_ref(&shown));
        }
        let request = read(with(json!({"tools": [tool], "tool_choice": "none"}))).expect("good");
        assert!(request.tools.is_empty());
    }

    #[test]
    fn values_that_ask_for_what_happens_anyway_pass() {
        read(with(json!({"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto",
            "parallel_tool_calls": true, "tools": [], "tool_choice": "none", "logprobs": false,
            "max_tokens": 5, "max_completion_tokens": 5, "audio": null,
            "chat_template_kwargs": {"enable_thinking": false}})))
        .expect("all of it");
    }

    #[test]
    fn bad_bodies_are_named() {
        use ErrorCode::{InvalidValue, MissingParameter, UnknownParameter, UnsupportedParameter};
        let messages = |message: Value| json!({"messages": [message]});
        let tool = |function: Value| with(json!({"tools": [{"type": "function", "function": function}]}));
        let table = [
            (json!({}), "messages", MissingParameter),
            (json!({"messages": []}), "messages", InvalidValue),
            (json!({"messages": "hi"}), "messages", InvalidValue),
            (messages(json!("hi")), "messages[0]", InvalidValue),
            (messages(json!({"content": "hi"})), "messages[0].role", MissingParameter),
            (messages(json!({"role": "user"})), "messages[0].content", MissingParameter),
            (messages(json!({"role": "user", "content": 7})), "messages[0].content", InvalidValue),
            (messages(json!({"role": "robot", "content": ""})), "messages[0].role", InvalidValue),
            (messages(json!({"role": "function", "content": ""})), "messages[0].role", UnsupportedParameter),
            (
                messages(json!({"role": "user", "content": "", "contents": ""})),
                "messages[0].contents",
                UnknownParameter,
            ),
            (
                messages(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
                "messages[0].content[0].type",
                UnsupportedParameter,
            ),
            (
                messages(json!({"role": "user", "content": [{"type": "text"}]})),
                "messages[0].content[0].text",
                MissingParameter,
            ),
            (
                messages(json!({"role": "user", "content": "", "tool_calls": [{"function": {"name": "f"}}]})),
                "messages[0].tool_calls",
                InvalidValue,
            ),
            (
                messages(json!({"role": "assistant", "tool_calls": [{"id": "x"}]})),
                "messages[0].tool_calls[0].function",
                MissingParameter,
            ),
            (tool(json!({"name": "bad name"})), "tools[0].function.name", InvalidValue),
            (tool(json!({"name": "f", "strict": true})), "tools[0].function.strict", UnsupportedParameter),
            (tool(json!({"name": "f", "parameters": 1})), "tools[0].function.parameters", InvalidValue),
            (with(json!({"tools": [{"type": "web_search"}]})), "tools[0].type", UnsupportedParameter),
            (with(json!({"tool_choice": "auto"})), "tool_choice", InvalidValue),
            (
                with(json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"})),
                "tool_choice",
                UnsupportedParameter,
            ),
            (with(json!({"parallel_tool_calls": false})), "parallel_tool_calls", UnsupportedParameter),
            (with(json!({"response_format": {"type": "json_object"}})), "response_format", UnsupportedParameter),
            (with(json!({"response_format": {}})), "response_format.type", MissingParameter),
            (with(json!({"modalities": ["text", "audio"]})), "modalities", UnsupportedParameter),
            (with(json!({"service_tier": "flex"})), "service_tier", UnsupportedParameter),
            (with(json!({"function_call": "auto"})), "function_call", UnsupportedParameter),
            (with(json!({"functions": []})), "functions", UnsupportedParameter),
            (with(json!({"reasoning_effort": "low"})), "reasoning_effort", UnsupportedParameter),
            (with(json!({"top_logprobs": 3})), "top_logprobs", InvalidValue),
            (with(json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs", InvalidValue),
            (with(json!({"logprobs": 3})), "logprobs", InvalidValue),
            (with(json!({"max_tokens": 0})), "max_tokens", InvalidValue),
            (with(json!({"max_tokens": 4, "max_completion_tokens": 5})), "max_tokens", InvalidValue),
            (with(json!({"max_tokns": 4})), "max_tokns", UnknownParameter),
            (with(json!({"chat_template_kwargs": {"messages": []}})), "chat_template_kwargs.messages", InvalidValue),
            (with(json!({"prompt": "x"})), "prompt", UnknownParameter),
        ];
        for (body, param, code) in table {
            let error = read(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.param(), error.code()), (Some(param), code), "{body}: {error}");
            assert_eq!(error.status().as_u16(), 400);
        }
    }
}
