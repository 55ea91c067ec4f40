//! The body of `POST /v1/embeddings`, and the answer to it.

use serde::Serialize;
use serde_json::Value;

use super::completion::read_ids;
use super::fields::{Fields, check_len, wrong_type};
use crate::error::{ApiError, ErrorCode};
use crate::limits::{MAX_EMBEDDING_DIMENSIONS, MAX_EMBEDDING_INPUTS, MAX_TOKEN_IDS};

/// One thing to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Text, still to be tokenised.
    Text(String),
    /// Ids of the encoder's own vocabulary.
    Ids(Vec<u32>),
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodingFormat {
    /// A list of numbers.
    Float,
    /// Base64 of little-endian f32.
    Base64,
}

/// An embeddings request, read and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// The encoder's name; without one, the one that is served.
    pub model: Option<String>,
    /// At least one.
    pub inputs: Vec<Input>,
    /// How vectors are written.
    pub format: EncodingFormat,
    /// Length the vectors are cut to.
    pub dimensions: Option<usize>,
    /// Inputs that are too long are cut instead of refused (extension `truncate`).
    pub truncate: bool,
    /// The inputs are what is looked for (extension `input_type`: `query`, else `document`).
    pub query: bool,
}

impl EmbeddingRequest {
    /// Reads OpenAI's parameters and the extensions `truncate` and `input_type`.
    pub fn from_slice(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::from_slice(body)?;
        let model = fields.string("model")?;
        let input = fields.raw("input");
        let inputs = read_inputs(fields.require("input", input)?)?;
        let format = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => EncodingFormat::Float,
            Some("base64") => EncodingFormat::Base64,
            Some(other) => return Err(one_of("encoding_format", other, "float, base64")),
        };
        let query = match fields.string("input_type")?.as_deref() {
            None | Some("document") => false,
            Some("query") => true,
            Some(other) => return Err(one_of("input_type", other, "document, query")),
        };
        let dimensions = fields.count("dimensions", 1..=MAX_EMBEDDING_DIMENSIONS)?;
        let truncate = fields.bool("truncate", false)?;
        // Whose request it is the API key says; OpenAI's clients may name their own user beside it.
        fields.string("user")?;
        fields.finish()?;
        Ok(Self { model, inputs, format, dimensions, truncate, query })
    }
}

fn one_of(name: &str, found: &str, known: &str) -> ApiError {
    let shown: String = found.chars().take(64).collect();
    ApiError::invalid_value(name, format!("`{name}` is {shown:?}, must be one of {known}"))
}

/// A string, strings, token ids, or lists of token ids.
fn read_inputs(input: Value) -> Result<Vec<Input>, ApiError> {
    let values = match input {
        Value::String(text) => return Ok(vec![text_input("input", text)?]),
        Value::Array(values) => values,
        other => return Err(wrong_type("input", &other, "a string, a list of strings, or token ids")),
    };
    match values.first() {
        None => Err(ApiError::invalid_value("input", "`input` is an empty list, at least one input is wanted")),
        Some(Value::Number(_)) => Ok(vec![Input::Ids(read_ids("input", &values)?)]),
        Some(_) => {
            check_len("input", values.len(), MAX_EMBEDDING_INPUTS)?;
            let mut ids = 0;
            let read = |(index, value)| {
                let path = format!("input[{index}]");
                match value {
                    Value::String(text) => text_input(&path, text),
                    Value::Array(values) if values.is_empty() => Err(empty(&path)),
                    Value::Array(values) => {
                        ids += values.len();
                        check_len("input", ids, MAX_TOKEN_IDS)?;
                        read_ids(&path, &values).map(Input::Ids)
                    }
                    other => Err(wrong_type(&path, &other, "a string or a list of token ids")),
                }
            };
            values.into_iter().enumerate().map(read).collect()
        }
    }
}

fn text_input(path: &str, text: String) -> Result<Input, ApiError> {
    if text.is_empty() { Err(empty(path)) } else { Ok(Input::Text(text)) }
}

fn empty(path: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidValue, format!("`{path}` is empty: there is nothing to embed")).with_param(path)
}

/// A vector as it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Embedding {
    /// Numbers, the shortest that read back as the same f32.
    Float(Vec<f32>),
    /// Base64 of little-endian f32.
    Base64(String),
}

impl Embedding {
    /// Writes a vector.
    pub fn new(vector: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes))
            }
        }
    }
}

/// One entry of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingObject {
    /// `embedding`
    pub object: &'static str,
    /// Which input it is of.
    pub index: usize,
    /// The vector.
    pub embedding: Embedding,
}

/// Token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs, as the encoder read them.
    pub prompt_tokens: usize,
    /// The same: nothing is generated.
    pub total_tokens: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingList {
    /// `list`
    pub object: &'static str,
    /// One entry an input, in order.
    pub data: Vec<EmbeddingObject>,
    /// The encoder's name.
    pub model: String,
    /// Token counts.
    pub usage: EmbeddingUsage,
}

impl EmbeddingList {
    /// Vectors of `tokens` tokens in all, made by `model`.
    pub fn new(model: String, vectors: Vec<Vec<f32>>, format: EncodingFormat, tokens: usize) -> Self {
        let object =
            |(index, vector)| EmbeddingObject { object: "embedding", index, embedding: Embedding::new(vector, format) };
        Self {
            object: "list",
            data: vectors.into_iter().enumerate().map(object).collect(),
            model,
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_input() {
        let text = |text: &str| Input::Text(text.into());
        for (input, expected) in [
            (r#""a""#, vec![text("a")]),
            (r#"["a", "b"]"#, vec![text("a"), text("b")]),
            ("[1, 2]", vec![Input::Ids(vec![1, 2])]),
            ("[[1], [2, 3]]", vec![Input::Ids(vec![1]), Input::Ids(vec![2, 3])]),
        ] {
            let body = format!(r#"{{"input": {input}, "model": "m", "user": "u"}}"#);
            let request = EmbeddingRequest::from_slice(body.as_bytes()).expect(input);
            assert_eq!(request.inputs, expected);
            assert_eq!((request.format, request.truncate, request.query), (EncodingFormat::Float, false, false));
        }
    }

    #[test]
    fn bad_bodies_are_named() {
        let many = format!(r#"{{"input": [{}]}}"#, vec![r#""a""#; 2049].join(","));
        for (body, param) in [
            ("{}", "input"),
            (r#"{"input": ""}"#, "input"),
            (r#"{"input": []}"#, "input"),
            (r#"{"input": ["a", ""]}"#, "input[1]"),
            (r#"{"input": ["a", 1]}"#, "input[1]"),
            (r#"{"input": [1, "a"]}"#, "input"),
            (r#"{"input": [[]]}"#, "input[0]"),
            (r#"{"input": [-1]}"#, "input"),
            (r#"{"input": {"text": "a"}}"#, "input"),
            (r#"{"input": "a", "encoding_format": "int8"}"#, "encoding_format"),
            (r#"{"input": "a", "dimensions": 0}"#, "dimensions"),
            (r#"{"input": "a", "input_type": "passage"}"#, "input_type"),
            (r#"{"input": "a", "dimension": 3}"#, "dimension"),
            (&many, "input"),
        ] {
            let error = EmbeddingRequest::from_slice(body.as_bytes()).expect_err(body);
            assert_eq!((error.status().as_u16(), error.param()), (400, Some(param)), "{body}: {error}");
        }
    }

    #[test]
    fn base64_is_the_same_numbers() {
        let vector = vec![0.1f32, -1.5e-7, 0.0, 1.0];
        let float = serde_json::to_value(Embedding::new(vector.clone(), EncodingFormat::Float)).expect("JSON");
        let read: Vec<f32> =
            float.as_array().expect("a list").iter().map(|v| v.as_f64().expect("number") as f32).collect();
        assert_eq!(read, vector);
        // 0.1 as f32 is 0x3dcccccd.
        let Embedding::Base64(text) = Embedding::new(vec![0.1], EncodingFormat::Base64) else { panic!("base64") };
        assert_eq!(text, "zczMPQ==");
    }
}
