//! The parameters that chats and completions share.

use std::collections::HashMap;
use std::time::Duration;

use engram_inference::SamplingParams;
use serde_json::Value;

use super::fields::{Fields, check_len, token_id, wrong_type};
use crate::error::ApiError;
use crate::limits::{MAX_CHOICES, MAX_LOGIT_BIAS, MAX_STOP_CHARS, MAX_STOPS};

/// What both endpoints take, read and bounded; ranges of sampling are the engine's to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Model asked for; absent: the only one there is.
    pub model: Option<String>,
    /// How tokens are chosen; `logprobs` is filled by the endpoint.
    pub sampling: SamplingParams,
    /// Choices a prompt.
    pub n: usize,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Further ids that end generation (extension).
    pub stop_token_ids: Vec<u32>,
    /// Leave the stop string in the text (extension).
    pub include_stop: bool,
    /// Answer as an event stream.
    pub stream: bool,
    /// End the stream with a chunk of token counts.
    pub include_usage: bool,
    /// Time this request may take (extension, seconds on the wire).
    pub timeout: Option<Duration>,
    /// Larger runs first (extension).
    pub priority: i32,
}

impl Options {
    /// Takes the shared parameters out of the body.
    pub fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let sampling = read_sampling(fields)?;
        let n = fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1);
        let stop = read_stop(fields)?;
        let stop_token_ids = read_stop_ids(fields)?;
        let include_stop = fields.bool("include_stop_str_in_output", false)?;
        let (stream, include_usage) = read_stream(fields)?;
        let timeout = read_timeout(fields)?;
        let priority = fields.integer("priority", -1000..=1000)?.unwrap_or(0) as i32;
        read_harmless(fields)?;
        Ok(Self { model, sampling, n, stop, stop_token_ids, include_stop, stream, include_usage, timeout, priority })
    }
}

fn read_sampling(fields: &mut Fields) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    Ok(SamplingParams {
        temperature: fields.f32("temperature", default.temperature)?,
        // -1 and 0 both mean "all" in servers that clients were written against.
        top_k: fields
            .integer("top_k", -1..=i64::from(u32::MAX))?
            .and_then(|k| usize::try_from(k).ok())
            .filter(|&k| k > 0),
        top_p: fields.f32("top_p", default.top_p)?,
        min_p: fields.f32("min_p", default.min_p)?,
        repetition_penalty: fields.f32("repetition_penalty", default.repetition_penalty)?,
        presence_penalty: fields.f32("presence_penalty", default.presence_penalty)?,
        frequency_penalty: fields.f32("frequency_penalty", default.frequency_penalty)?,
        logit_bias: read_logit_bias(fields)?,
        seed: read_seed(fields)?,
        min_tokens: fields.count("min_tokens", 0..=usize::MAX)?.unwrap_or(0),
        ignore_eos: fields.bool("ignore_eos", false)?,
        logprobs: None,
    })
}

/// Any 64-bit integer, signed or not; a negative one keeps its bits.
fn read_seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.raw("seed") else {
        return Ok(None);
    };
    match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
        Some(seed) => Ok(Some(seed)),
        None => Err(wrong_type(&fields.path("seed"), &value, "a 64-bit integer")),
    }
}

/// `{"token id": bias}`.
fn read_logit_bias(fields: &mut Fields) -> Result<HashMap<u32, f32>, ApiError> {
    let Some(value) = fields.raw("logit_bias") else {
        return Ok(HashMap::new());
    };
    let path = fields.path("logit_bias");
    let Value::Object(map) = value else {
        return Err(wrong_type(&path, &value, "an object of token id and bias"));
    };
    check_len(&path, map.len(), MAX_LOGIT_BIAS)?;
    map.iter()
        .map(|(key, bias)| {
            let id: u32 = key.trim().parse().map_err(|_| {
                let shown: String = key.chars().take(64).collect();
                ApiError::invalid_value(&path, format!("`{path}` has the key `{shown}`, must be a token id"))
            })?;
            let bias = bias.as_f64().ok_or_else(|| wrong_type(&format!("{path}.{id}"), bias, "a number"))?;
            Ok((id, bias as f32))
        })
        .collect()
}

/// A string or a list of strings; empty ones are refused, for they would match at once.
fn read_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.raw("stop") else {
        return Ok(Vec::new());
    };
    let path = fields.path("stop");
    let values = match value {
        Value::Array(values) => values,
        single => vec![single],
    };
    check_len(&path, values.len(), MAX_STOPS)?;
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) if text.is_empty() => {
                Err(ApiError::invalid_value(&path, format!("`{path}` holds an empty string")))
            }
            Value::String(text) if text.chars().count() > MAX_STOP_CHARS => Err(ApiError::invalid_value(
                &path,
                format!(
                    "`{path}` holds a string of {} characters, at most {MAX_STOP_CHARS} are taken",
                    text.chars().count()
                ),
            )),
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&path, &other, "a string or a list of strings")),
        })
        .collect()
}

fn read_stop_ids(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    let path = fields.path("stop_token_ids");
    let values = fields.list("stop_token_ids", MAX_STOPS)?.unwrap_or_default();
    values.iter().map(|value| token_id(&path, value)).collect()
}

fn read_stream(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let stream = fields.bool("stream", false)?;
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok((stream, false));
    };
    let include_usage = options.bool("include_usage", false)?;
    if options.bool("include_obfuscation", false)? {
        return Err(ApiError::unsupported(options.path("include_obfuscation"), "events are not padded"));
    }
    options.finish()?;
    if !stream {
        return Err(ApiError::invalid_value(
            "stream_options",
            "`stream_options` is only allowed when `stream` is true",
        ));
    }
    Ok((stream, include_usage))
}

fn read_timeout(fields: &mut Fields) -> Result<Option<Duration>, ApiError> {
    let Some(seconds) = fields.f64("timeout")? else {
        return Ok(None);
    };
    // A day: longer than any configured bound, and short enough for every clock.
    if seconds > 0.0 && seconds <= 86_400.0 {
        return Ok(Some(Duration::from_secs_f64(seconds)));
    }
    Err(ApiError::invalid_value(
        "timeout",
        format!("`timeout` is {seconds}, must be seconds above 0 and at most 86400"),
    ))
}

/// Parameters that clients send by habit and that change no answer: `user` and `metadata` are
/// the caller's own notes, `store: false` is what happens anyway.
fn read_harmless(fields: &mut Fields) -> Result<(), ApiError> {
    fields.string("user")?;
    fields.object("metadata")?;
    if fields.bool("store", false)? {
        return Err(ApiError::unsupported("store", "answers are not stored, leave it out or say false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, ApiError> {
        let mut fields = Fields::from_slice(text.as_bytes())?;
        let options = Options::read(&mut fields)?;
        fields.finish()?;
        Ok(options)
    }

    #[test]
    fn every_parameter_arrives() {
        let options = read(
            r#"{"model": "m", "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05,
                "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.2,
                "logit_bias": {"7": -100, "8": 1.5}, "seed": -1, "min_tokens": 3, "ignore_eos": true,
                "n": 2, "stop": "\n\n", "stop_token_ids": [5], "stream": true,
                "stream_options": {"include_usage": true}, "timeout": 1.5, "priority": -3,
                "user": "u", "metadata": {"a": "b"}, "store": false, "include_stop_str_in_output": true}"#,
        )
        .expect("all known");
        assert_eq!(options.model.as_deref(), Some("m"));
        assert_eq!(options.sampling.temperature, 0.5);
        assert_eq!(options.sampling.top_k, Some(40));
        assert_eq!(options.sampling.logit_bias, HashMap::from([(7, -100.0), (8, 1.5)]));
        assert_eq!(options.sampling.seed, Some(u64::MAX));
        assert_eq!(options.sampling.min_tokens, 3);
        assert!(options.sampling.ignore_eos && options.stream && options.include_usage);
        assert_eq!((options.n, options.priority), (2, -3));
        assert_eq!(options.stop, ["\n\n"]);
        assert_eq!(options.stop_token_ids, [5]);
        assert_eq!(options.timeout, Some(Duration::from_millis(1500)));
        assert!(options.include_stop);
    }

    #[test]
    fn the_defaults_are_openais() {
        let options = read(r#"{"top_k": -1, "stop": null, "seed": 18446744073709551615}"#).expect("good");
        assert_eq!(options.sampling, SamplingParams { seed: Some(u64::MAX), ..Default::default() });
        assert_eq!((options.n, options.stream, options.stop.len()), (1, false, 0));
    }

    #[test]
    fn bad_values_are_named() {
        let long = format!(r#"{{"stop": "{}"}}"#, "x".repeat(257));
        let many = format!(r#"{{"stop": [{}]}}"#, vec!["\"a\""; 17].join(","));
        let table = [
            (r#"{"temperature": "hot"}"#, "temperature", "must be a number"),
            (r#"{"n": 0}"#, "n", "between 1 and 16"),
            (r#"{"n": 17}"#, "n", "between 1 and 16"),
            (r#"{"top_k": -2}"#, "top_k", "must be between -1"),
            (r#"{"seed": 1.5}"#, "seed", "a 64-bit integer"),
            (r#"{"logit_bias": {"the": 1}}"#, "logit_bias", "must be a token id"),
            (r#"{"logit_bias": {"3": "x"}}"#, "logit_bias.3", "must be a number"),
            (r#"{"logit_bias": [1]}"#, "logit_bias", "an object of token id and bias"),
            (r#"{"stop": ""}"#, "stop", "an empty string"),
            (r#"{"stop": [1]}"#, "stop", "a string or a list of strings"),
            (&long, "stop", "257 characters"),
            (&many, "stop", "17 entries"),
            (r#"{"stop_token_ids": [-1]}"#, "stop_token_ids", "a token id"),
            (r#"{"stream": "yes"}"#, "stream", "true or false"),
            (r#"{"stream_options": {"include_usage": true}}"#, "stream_options", "only allowed"),
            (r#"{"stream": true, "stream_options": {"usage": 1}}"#, "stream_options.usage", "unknown"),
            (r#"{"timeout": 0}"#, "timeout", "above 0"),
            (r#"{"timeout": -1}"#, "timeout", "above 0"),
            (r#"{"timeout": 1e300}"#, "timeout", "above 0"),
            (r#"{"priority": 1001}"#, "priority", "between -1000 and 1000"),
            (r#"{"store": true}"#, "store", "not supported"),
            (r#"{"metadata": 1}"#, "metadata", "an object"),
            (r#"{"min_tokens": -1}"#, "min_tokens", "at least 0"),
        ];
        for (body, param, expected) in table {
            let error = read(body).expect_err(body);
            assert_eq!(error.param(), Some(param), "{body}: {error}");
            assert!(error.to_string().contains(expected), "{body}: {error}");
            assert_eq!(error.status().as_u16(), 400, "{body}");
        }
    }
}
