//! Values: what a layer wrote ([`Raw`]), what a key takes ([`Kind`]), what came of it ([`Value`]).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderName;

use super::outgoing::{headers, json_object, url};
use super::suggest::shorten;
use super::{Origin, Secret, format_size, parse_size};

/// A value as written; environment and flags only know text.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<Raw>),
    /// What no key takes: a table or a date, by its TOML name.
    Other(&'static str),
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if this build and machine have one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

/// Shape of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Objects for machines.
    Json,
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing was said, and that is fine.
    Unset,
    /// A string.
    Text(String),
    /// A count or a port.
    Number(u64),
    /// A number with a fraction: dollars, a share.
    Float(f64),
    /// Bytes.
    Size(u64),
    /// `true` or `false`.
    Flag(bool),
    /// A time.
    Seconds(Duration),
    /// Several strings.
    Strings(Vec<String>),
    /// Several secrets.
    Secrets(Vec<Secret>),
    /// One secret.
    Secret(Secret),
    /// Header names with values, which often are secrets.
    Headers(Vec<(HeaderName, Secret)>),
    /// A path.
    Path(PathBuf),
    /// A device.
    Device(Device),
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text but the empty one.
    Text,
    /// An address or a host name.
    Host,
    /// 0 to 65535.
    Port,
    /// A whole number in a range.
    Count {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A number in a range, with or without a fraction.
    Float {
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// A power of two in a range.
    PowerOfTwo {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A size in a range of bytes.
    Size {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A time in a range of seconds.
    Seconds {
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// Yes or no.
    Flag,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// `auto`, `cpu`, `cuda`, `cuda:N`.
    Device,
    /// A level or a tracing filter.
    LogFilter,
    /// Strings: a list, or text split at commas.
    Strings,
    /// The same, and never shown.
    Secrets,
    /// One secret, commas and all.
    Secret,
    /// An address that begins with `http://` or `https://`, without user, password, query or fragment.
    Url,
    /// `name: value` lines that are sent along; their values are never shown.
    Headers,
    /// A JSON object of short strings.
    JsonObject,
    /// A path; in a file relative to that file, else to the working directory; `~/` is the home.
    Path,
}

impl Kind {
    /// Checks `raw`; the error names the value and what would be right.
    pub fn parse(self, raw: &Raw, origin: &Origin) -> Result<Value, String> {
        match self {
            Self::Text => text_of(raw, "a string").map(|text| Value::Text(text.to_owned())),
            Self::Host => host(raw),
            Self::Port => whole(raw, 0, 65535, "a port; write 0 to 65535").map(Value::Number),
            Self::Count { min, max } => {
                whole(raw, min, max, &format!("a whole number from {min} to {max}")).map(Value::Number)
            }
            Self::Float { min, max } => float(raw, min, max),
            Self::PowerOfTwo { min, max } => {
                let expected = format!("a power of two from {min} to {max}");
                let number = whole(raw, min, max, &expected)?;
                if number.is_power_of_two() { Ok(Value::Number(number)) } else { Err(is_not(raw, &expected)) }
            }
            Self::Size { min, max } => size(raw, min, max),
            Self::Seconds { min, max } => seconds(raw, min, max),
            Self::Flag => flag(raw),
            Self::Choice(words) => choice(raw, words),
            Self::Device => device(raw),
            Self::LogFilter => log_filter(raw),
            Self::Strings => list(raw).map(Value::Strings),
            Self::Secrets => list(raw)
                .map(|texts| Value::Secrets(texts.into_iter().map(Secret::new).collect()))
                // The value itself must not end up in a log.
                .map_err(|_| "is not a list of strings; write for example [\"key-1\", \"key-2\"]".into()),
            // A URL with a password in it must not end up in a log either.
            Self::Secret => match raw {
                Raw::Text(text) if !text.trim().is_empty() => Ok(Value::Secret(Secret::new(text.trim()))),
                _ => Err("is not a string with something in it".into()),
            },
            Self::Url => url(raw),
            Self::Headers => headers(raw),
            Self::JsonObject => json_object(raw),
            Self::Path => path(raw, origin),
        }
    }
}

/// The value as a message quotes it.
fn quote(raw: &Raw) -> String {
    match raw {
        Raw::Text(text) => format!("{:?}", shorten(text)),
        Raw::Integer(number) => number.to_string(),
        Raw::Float(number) => number.to_string(),
        Raw::Bool(flag) => flag.to_string(),
        Raw::List(items) => format!("a list of {}", items.len()),
        Raw::Other(name) => format!("a {name}"),
    }
}

pub(super) fn is_not(raw: &Raw, expected: &str) -> String {
    format!("{} is not {expected}", quote(raw))
}

pub(super) fn text_of<'a>(raw: &'a Raw, expected: &str) -> Result<&'a str, String> {
    match raw {
        Raw::Text(text) if !text.trim().is_empty() => Ok(text.trim()),
        Raw::Text(_) => Err(format!("is empty; {expected} is needed")),
        other => Err(is_not(other, expected)),
    }
}

fn whole(raw: &Raw, min: u64, max: u64, expected: &str) -> Result<u64, String> {
    let number = match raw {
        Raw::Integer(number) => u64::try_from(*number).ok(),
        Raw::Text(text) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    };
    number.filter(|number| (min..=max).contains(number)).ok_or_else(|| is_not(raw, expected))
}

fn float(raw: &Raw, min: f64, max: f64) -> Result<Value, String> {
    let number = match raw {
        Raw::Integer(number) => Some(*number as f64),
        Raw::Float(number) => Some(*number),
        Raw::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    // NaN is in no range.
    number
        .filter(|number| (min..=max).contains(number))
        .map(Value::Float)
        .ok_or_else(|| is_not(raw, &format!("a number from {min} to {max}")))
}

fn size(raw: &Raw, min: u64, max: u64) -> Result<Value, String> {
    let bytes = match raw {
        Raw::Integer(number) => u64::try_from(*number).ok(),
        Raw::Text(text) => parse_size(text),
        _ => None,
    };
    let Some(bytes) = bytes else {
        return Err(is_not(raw, "a size; write for example \"2GiB\""));
    };
    if (min..=max).contains(&bytes) {
        Ok(Value::Size(bytes))
    } else {
        Err(format!("{} is out of range; {} to {} is possible", quote(raw), format_size(min), format_size(max)))
    }
}

fn seconds(raw: &Raw, min: f64, max: f64) -> Result<Value, String> {
    let number = match raw {
        Raw::Integer(number) => Some(*number as f64),
        Raw::Float(number) => Some(*number),
        Raw::Text(text) => parse_seconds(text),
        _ => None,
    };
    number
        .filter(|seconds| (min..=max).contains(seconds))
        .map(|seconds| Value::Seconds(Duration::from_secs_f64(seconds)))
        .ok_or_else(|| is_not(raw, &format!("a time from {min} to {max} seconds; write for example 30 or \"2m\"")))
}

/// `30`, `1.5`, `30s`, `500ms`, `2m`, `1h`, `7d`.
pub fn parse_seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().map(|number| number * factor)
}

fn flag(raw: &Raw) -> Result<Value, String> {
    match raw {
        Raw::Bool(flag) => Ok(Value::Flag(*flag)),
        Raw::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Flag(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Flag(false)),
            _ => Err(is_not(raw, "true or false")),
        },
        _ => Err(is_not(raw, "true or false")),
    }
}

fn choice(raw: &Raw, words: &[&str]) -> Result<Value, String> {
    let expected = format!("one of {}", words.join(", "));
    let text = text_of(raw, &expected)?.to_ascii_lowercase();
    if words.contains(&text.as_str()) { Ok(Value::Text(text)) } else { Err(is_not(raw, &expected)) }
}

fn device(raw: &Raw) -> Result<Value, String> {
    let expected = "a device; write auto, cpu or cuda:N";
    let text = text_of(raw, expected)?.to_ascii_lowercase();
    let device = match text.as_str() {
        "auto" => Some(Device::Auto),
        "cpu" => Some(Device::Cpu),
        "cuda" => Some(Device::Cuda(0)),
        other => other
            .strip_prefix("cuda:")
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|number| number.parse().ok())
            .filter(|number| *number < 1024)
            .map(Device::Cuda),
    };
    device.map(Value::Device).ok_or_else(|| is_not(raw, expected))
}

fn log_filter(raw: &Raw) -> Result<Value, String> {
    let expected =
        "a log level; write error, warn, info, debug, trace or off, or a filter such as \"engram_router=debug,info\"";
    let text = text_of(raw, expected)?;
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // A filter takes a bare word for the name of a module; from a person it is a misspelt level.
    let bare = |part: &str| !part.contains(['=', '[']) && !levels.contains(&part.to_ascii_lowercase().as_str());
    if text.split(',').any(|part| bare(part.trim())) || tracing_subscriber::EnvFilter::try_new(text).is_err() {
        return Err(is_not(raw, expected));
    }
    Ok(Value::Text(text.to_owned()))
}

fn host(raw: &Raw) -> Result<Value, String> {
    let expected = "a host; write an address such as 127.0.0.1, ::1 or 0.0.0.0, or a name, without scheme and port";
    let text = text_of(raw, expected)?;
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name = || {
        text.len() <= 253
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            // 1.2.3 and 999.1.1.1 are misspelt addresses.
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    if text.parse::<IpAddr>().is_ok() || is_name() {
        Ok(Value::Text(text.to_owned()))
    } else {
        Err(is_not(raw, expected))
    }
}

pub(super) fn list(raw: &Raw) -> Result<Vec<String>, String> {
    let expected = "a list of strings; write for example [\"a\", \"b\"]";
    match raw {
        Raw::Text(text) => {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }
        Raw::List(items) => items
            .iter()
            .map(|item| match item {
                Raw::Text(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
                other => Err(format!("{} in the list is not a non-empty string", quote(other))),
            })
            .collect(),
        other => Err(is_not(other, expected)),
    }
}

fn path(raw: &Raw, origin: &Origin) -> Result<Value, String> {
    let text = text_of(raw, "a path")?;
    if text.contains('\0') {
        return Err(is_not(raw, "a path: it holds a NUL"));
    }
    if let Some(rest) = text.strip_prefix("~/")
        && let Some(home) = std::env::home_dir()
    {
        return Ok(Value::Path(home.join(rest)));
    }
    let path = PathBuf::from(text);
    Ok(Value::Path(match origin {
        Origin::File { path: file, .. } => file.parent().map(|parent| parent.join(&path)).unwrap_or(path),
        _ => path,
    }))
}
