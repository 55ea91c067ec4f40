//! The body of `POST /v1/completions`.

use serde_json::{Map, Value};

use super::fields::{Fields, check_len, token_id, type_of, wrong_type};
use super::options::Options;
use crate::answer::Asked;
use crate::error::ApiError;
use crate::limits::{MAX_CHOICES, MAX_FIM_FILES, MAX_PROMPTS, MAX_SEQUENCES, MAX_TOKEN_IDS, MAX_TOP_LOGPROBS};

/// Tokens generated when `max_tokens` is absent: OpenAI's default for this endpoint.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// One prompt, as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, still to be tokenised.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// A file of the repository around the place to fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// Path in the repository.
    pub path: String,
    /// Content.
    pub text: String,
}

/// What makes a completion a fill-in-the-middle one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fim {
    /// What follows the gap.
    pub suffix: String,
    /// Other files (extension `fim_context`).
    pub context: Vec<ContextFile>,
    /// Name of the repository (extension `fim_repo`).
    pub repo: Option<String>,
    /// Path of the file with the gap (extension `fim_path`).
    pub path: Option<String>,
}

/// A completion request, read and bounded.
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    /// What chats take too.
    pub options: Options,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Fill the gap between prompt and suffix.
    pub fim: Option<Fim>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Give the prompt back before the text.
    pub echo: bool,
    /// Sequences to generate a prompt, of which the best `n` are returned.
    pub best_of: usize,
    /// Alternatives a position, if log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// Read control tokens in the prompt's text as such (extension; off: they are plain text).
    pub parse_special: bool,
    /// Put the model's beginning-of-sequence id before a text, where it wants one (extension).
    pub add_special: bool,
}

impl CompletionRequest {
    /// Reads the body.
    pub fn from_map(body: Map<String, Value>) -> Result<Self, ApiError> {
        let mut fields = Fields::from_map(body);
        fields.know(&Asked::NAMES);
        let options = Options::read(&mut fields)?;
        let prompts = read_prompts(&mut fields)?;
        let fim = read_fim(&mut fields)?;
        let echo = fields.bool("echo", false)?;
        // 0 is of use only to score a prompt.
        let least = usize::from(!echo);
        let max_tokens = fields.count("max_tokens", least..=usize::MAX)?.unwrap_or(DEFAULT_MAX_TOKENS);
        let best_of = fields.count("best_of", 1..=MAX_CHOICES)?.unwrap_or(options.n);
        let logprobs = fields.count("logprobs", 0..=MAX_TOP_LOGPROBS)?;
        let parse_special = fields.bool("parse_special", false)?;
        let add_special = fields.bool("add_special", true)?;
        fields.finish()?;
        let request = Self { options, prompts, fim, max_tokens, echo, best_of, logprobs, parse_special, add_special };
        request.check()?;
        Ok(request)
    }

    /// What no single parameter shows.
    fn check(&self) -> Result<(), ApiError> {
        if self.best_of < self.options.n {
            return Err(ApiError::invalid_value(
                "best_of",
                format!("`best_of` is {}, must be at least `n`, which is {}", self.best_of, self.options.n),
            ));
        }
        if self.options.stream && self.best_of > self.options.n {
            return Err(ApiError::invalid_value(
                "best_of",
                "`best_of` above `n` cannot be streamed: which choices are best is known at the end only",
            ));
        }
        let sequences = self.prompts.len() * self.best_of;
        if sequences > MAX_SEQUENCES {
            return Err(ApiError::invalid_value(
                "prompt",
                format!(
                    "{} prompts with {} choices each are {sequences} sequences, at most {MAX_SEQUENCES} are taken",
                    self.prompts.len(),
                    self.best_of
                ),
            ));
        }
        if self.fim.is_some() {
            if self.echo {
                return Err(ApiError::invalid_value(
                    "echo",
                    "`echo` cannot be combined with `suffix` or `fim_context`: the prompt is not one text",
                ));
            }
            if self.prompts.iter().any(|prompt| matches!(prompt, Prompt::Ids(_))) {
                return Err(ApiError::invalid_value(
                    "prompt",
                    "`suffix` and `fim_context` need the prompt as text, not as token ids",
                ));
            }
        }
        Ok(())
    }
}

/// A string, a list of strings, token ids, or a list of lists of token ids.
fn read_prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    let value = fields.raw("prompt");
    let value = fields.require("prompt", value)?;
    let values = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(values) if values.is_empty() => {
            return Err(ApiError::invalid_value("prompt", "`prompt` is an empty list"));
        }
        Value::Array(values) if values[0].is_number() => {
            return Ok(vec![Prompt::Ids(read_ids("prompt", &values)?)]);
        }
        Value::Array(values) => values,
        other => {
            return Err(wrong_type("prompt", &other, "a string, a list of strings or token ids"));
        }
    };
    check_len("prompt", values.len(), MAX_PROMPTS)?;
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            let path = format!("prompt[{index}]");
            match value {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(ids) if ids.is_empty() => {
                    Err(ApiError::invalid_value(&path, format!("`{path}` is an empty list")))
                }
                Value::Array(ids) => Ok(Prompt::Ids(read_ids(&path, &ids)?)),
                other => Err(ApiError::invalid_value(
                    &path,
                    format!("`{path}` is {}, must be a string or token ids", type_of(&other)),
                )),
            }
        })
        .collect()
}

/// A list of token ids.
pub fn read_ids(path: &str, values: &[Value]) -> Result<Vec<u32>, ApiError> {
    check_len(path, values.len(), MAX_TOKEN_IDS)?;
    values.iter().map(|value| token_id(path, value)).collect()
}

/// `suffix`, or `fim_context` alone (then nothing follows the gap).
fn read_fim(fields: &mut Fields) -> Result<Option<Fim>, ApiError> {
    let suffix = fields.string("suffix")?;
    let files = fields.list("fim_context", MAX_FIM_FILES)?;
    let repo = fields.string("fim_repo")?;
    let path = fields.string("fim_path")?;
    if suffix.is_none() && files.is_none() {
        return match repo.map(|_| "fim_repo").or(path.map(|_| "fim_path")) {
            None => Ok(None),
            Some(name) => {
                Err(ApiError::invalid_value(name, format!("`{name}` is of use only with `suffix` or `fim_context`")))
            }
        };
    }
    let context = files
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            let mut file = Fields::at(format!("fim_context[{index}]"), value)?;
            let path = file.string("path")?;
            let path = file.require("path", path)?;
            let text = file.string("text")?;
            let text = file.require("text", text)?;
            file.finish()?;
            Ok(ContextFile { path, text })
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    Ok(Some(Fim { suffix: suffix.unwrap_or_default(), context, repo, path }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn read(text: &str) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::from_map(Fields::from_slice(text.as_bytes())?.into_rest())
    }

    #[test]
    fn every_form_of_prompt() {
        let text = |text: &str| Prompt::Text(text.into());
        let table = [
            (r#"{"prompt": "a"}"#, vec![text("a")]),
            (r#"{"prompt": ["a", "b"]}"#, vec![text("a"), text("b")]),
            (r#"{"prompt": [1, 2]}"#, vec![Prompt::Ids(vec![1, 2])]),
            (r#"{"prompt": [[1], [2, 3]]}"#, vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]),
            (r#"{"prompt": ["a", [2]]}"#, vec![text("a"), Prompt::Ids(vec![2])]),
        ];
        for (body, prompts) in table {
            let request = read(body).expect(body);
            assert_eq!(request.prompts, prompts, "{body}");
            assert_eq!((request.max_tokens, request.best_of), (16, 1));
        }
    }

    #[test]
    fn fill_in_the_middle() {
        let request = read(
            r#"{"prompt": "def f(", "suffix": "return x", "fim_repo": "r", "fim_path": "b.py",
                "fim_context": [{"path": "a.py", "text": "A = 1"}]}"#,
        )
        .expect("good");
        let fim = request.fim.expect("fim");
        assert_eq!(
            (fim.suffix.as_str(), fim.repo.as_deref(), fim.path.as_deref()),
            ("return x", Some("r"), Some("b.py"))
        );
        assert_eq!(fim.context, [ContextFile { path: "a.py".into(), text: "A = 1".into() }]);
        assert!(read(r#"{"prompt": "x", "suffix": ""}"#).expect("good").fim.is_some());
        assert!(read(r#"{"prompt": "x", "suffix": null}"#).expect("good").fim.is_none());
    }

    #[test]
    fn bad_bodies_are_named() {
        let many = format!(r#"{{"prompt": [{}]}}"#, vec!["\"a\""; 65].join(","));
        let table = [
            (r#"{}"#, "prompt", ErrorCode::MissingParameter),
            (r#"{"prompt": []}"#, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": 7}"#, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": [1, "a"]}"#, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": ["a", 1]}"#, "prompt[1]", ErrorCode::InvalidValue),
            (r#"{"prompt": [[]]}"#, "prompt[0]", ErrorCode::InvalidValue),
            (r#"{"prompt": [[-1]]}"#, "prompt[0]", ErrorCode::InvalidValue),
            (r#"{"prompt": [4294967296]}"#, "prompt", ErrorCode::InvalidValue),
            (&many, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": ["a","a","a","a","a","a","a","a","a"], "n": 16}"#, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "max_tokens": 0}"#, "max_tokens", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "max_tokens": -5}"#, "max_tokens", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "max_token": 5}"#, "max_token", ErrorCode::UnknownParameter),
            (r#"{"prompt": "a", "n": 2, "best_of": 1}"#, "best_of", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "best_of": 2, "stream": true}"#, "best_of", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "logprobs": 21}"#, "logprobs", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "logprobs": true}"#, "logprobs", ErrorCode::InvalidValue),
            (r#"{"prompt": [1], "suffix": "x"}"#, "prompt", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "suffix": "x", "echo": true}"#, "echo", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "fim_repo": "x"}"#, "fim_repo", ErrorCode::InvalidValue),
            (r#"{"prompt": "a", "fim_context": [{"path": "x"}]}"#, "fim_context[0].text", ErrorCode::MissingParameter),
            (
                r#"{"prompt": "a", "fim_context": [{"path": "x", "text": "y", "z": 1}]}"#,
                "fim_context[0].z",
                ErrorCode::UnknownParameter,
            ),
            (r#"{"prompt": "a", "messages": []}"#, "messages", ErrorCode::UnknownParameter),
        ];
        for (body, param, code) in table {
            let error = read(body).expect_err(body);
            assert_eq!((error.param(), error.code()), (Some(param), code), "{body}: {error}");
        }
    }

    #[test]
    fn a_prompt_may_be_scored_without_generating() {
        let request = read(r#"{"prompt": "a", "echo": true, "max_tokens": 0, "logprobs": 3}"#).expect("good");
        assert_eq!((request.max_tokens, request.logprobs, request.echo), (0, Some(3), true));
    }
}
