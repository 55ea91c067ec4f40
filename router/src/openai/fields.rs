//! A JSON object read once, field by field: what is left over at the end is an unknown parameter.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorCode};

/// The fields of a JSON object, and the names that were asked for.
///
/// Every getter removes its field and remembers its name, so that [`Fields::finish`] can say what
/// nobody asked for, and which known name is nearest. `null` reads as absent.
#[derive(Debug)]
pub struct Fields {
    /// Path of this object in the body: empty at its root, else `messages[0]`.
    path: String,
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// The body itself, parsed; malformed JSON is told with line and column.
    pub fn from_slice(body: &[u8]) -> Result<Self, ApiError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::new(ErrorCode::InvalidJson, "the body is empty, a JSON object is expected"));
        }
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::new(ErrorCode::InvalidJson, format!("the body is not valid JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map, known: Vec::new() }),
            other => Err(ApiError::new(
                ErrorCode::InvalidJson,
                format!("the body is {}, a JSON object is expected", type_of(&other)),
            )),
        }
    }

    /// The body itself, parsed before.
    pub fn from_map(map: Map<String, Value>) -> Self {
        Self { path: String::new(), map, known: Vec::new() }
    }

    /// Names that were taken out before: what is misspelt may be one of them.
    pub fn know(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// What nobody has taken.
    pub fn into_rest(self) -> Map<String, Value> {
        self.map
    }

    /// An object inside the body, at `path`.
    pub fn at(path: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map, known: Vec::new() }),
            other => Err(wrong_type(&path, &other, "an object")),
        }
    }

    /// Path of one of this object's fields.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field as it is; `null` is absent.
    pub fn raw(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        // Order is kept for the error about what is left over: swap_remove would shuffle it.
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// The field as it is where `null` is a value of its own; `None` is absent.
    pub fn raw_or_null(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.shift_remove(name)
    }

    /// A string.
    pub fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(name), &other, "a string")),
        }
    }

    /// A boolean, with its default.
    pub fn bool(&mut self, name: &'static str, default: bool) -> Result<bool, ApiError> {
        match self.raw(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(wrong_type(&self.path(name), &other, "true or false")),
        }
    }

    /// A number.
    pub fn f64(&mut self, name: &'static str) -> Result<Option<f64>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong_type(&self.path(name), &value, "a number")),
            },
        }
    }

    /// A number in single precision; the range is the engine's to check.
    pub fn f32(&mut self, name: &'static str, default: f32) -> Result<f32, ApiError> {
        Ok(self.f64(name)?.map_or(default, |number| number as f32))
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.raw(name) else {
            return Ok(None);
        };
        let path = self.path(name);
        let number = whole(&value).ok_or_else(|| wrong_type(&path, &value, "an integer"))?;
        if !range.contains(&number) {
            let (low, high) = range.into_inner();
            return Err(ApiError::invalid_value(&path, format!("`{path}` is {number}, must be {}", within(low, high))));
        }
        Ok(Some(number))
    }

    /// A count within `range`.
    pub fn count(&mut self, name: &'static str, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let (low, high) = range.into_inner();
        let bound = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let number = self.integer(name, bound(low)..=bound(high))?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    /// A list of at most `max` values.
    pub fn list(&mut self, name: &'static str, max: usize) -> Result<Option<Vec<Value>>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let path = self.path(name);
                check_len(&path, values.len(), max)?;
                Ok(Some(values))
            }
            Some(other) => Err(wrong_type(&self.path(name), &other, "a list")),
        }
    }

    /// An object inside this one.
    pub fn object(&mut self, name: &'static str) -> Result<Option<Self>, ApiError> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => Self::at(self.path(name), value).map(Some),
        }
    }

    /// The value if it is there, an error that names it otherwise.
    pub fn require<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| {
            let path = self.path(name);
            ApiError::new(ErrorCode::MissingParameter, format!("`{path}` is missing")).with_param(path)
        })
    }

    /// A parameter that is known and refused: any value but `null` is an error with the reason.
    pub fn unsupported(&mut self, name: &'static str, why: &str) -> Result<(), ApiError> {
        match self.raw(name) {
            None => Ok(()),
            Some(_) => Err(ApiError::unsupported(self.path(name), why)),
        }
    }

    /// Nothing may be left over; `null`s may, for they mean absent.
    pub fn finish(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.map.iter().find(|(_, value)| !value.is_null()) else {
            return Ok(());
        };
        // A name from outside goes into the message cut to a length that a log line bears.
        let shown: String = name.chars().take(64).collect();
        let path = self.path(&shown);
        let near = nearest(&shown, &self.known)
            .map_or_else(String::new, |near| format!(", did you mean `{}`?", self.path(near)));
        Err(ApiError::new(ErrorCode::UnknownParameter, format!("unknown parameter `{path}`{near}")).with_param(path))
    }
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), candidate), *candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The JSON type of a value, with its article.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The error about a value of the wrong type.
pub fn wrong_type(path: &str, value: &Value, wanted: &str) -> ApiError {
    let found = match value {
        Value::Number(number) => number.to_string(),
        other => type_of(other).to_owned(),
    };
    ApiError::invalid_value(path, format!("`{path}` is {found}, must be {wanted}"))
}

/// The error about a list that is too long.
pub fn check_len(path: &str, len: usize, max: usize) -> Result<(), ApiError> {
    if len > max {
        return Err(ApiError::invalid_value(path, format!("`{path}` has {len} entries, at most {max} are taken")));
    }
    Ok(())
}

/// A token id, as an integer of the body.
pub fn token_id(path: &str, value: &Value) -> Result<u32, ApiError> {
    whole(value).and_then(|number| u32::try_from(number).ok()).ok_or_else(|| wrong_type(path, value, "a token id"))
}

/// An integer, or a float that is one (`16.0`): some clients' JSON writers make no difference.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        // 2^53: beyond it a float names no single integer.
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
    })
}

fn within(low: i64, high: i64) -> String {
    match (low, high) {
        (low, i64::MAX) => format!("at least {low}"),
        (i64::MIN, high) => format!("at most {high}"),
        (low, high) => format!("between {low} and {high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::from_slice(text.as_bytes()).expect("an object")
    }

    #[test]
    fn malformed_bodies_tell_line_and_column() {
        let table = [
            ("", "the body is empty, a JSON object is expected"),
            ("  \n", "the body is empty, a JSON object is expected"),
            ("[1]", "the body is a list, a JSON object is expected"),
            ("{\n \"a\": tru }", "line 2 column"),
            ("{\"a\": 1", "line 1 column 7"),
            ("{\"a\": 1e999}", "number out of range"),
            ("\u{0}", "line 1 column 1"),
        ];
        for (body, expected) in table {
            let error = Fields::from_slice(body.as_bytes()).expect_err(body);
            assert_eq!(error.code(), ErrorCode::InvalidJson);
            assert!(error.to_string().contains(expected), "{body:?}: {error}");
        }
        // Deep nesting ends in an error, not in a stack overflow.
        let deep = "[".repeat(1 << 20);
        assert!(Fields::from_slice(deep.as_bytes()).is_err());
    }

    #[test]
    fn what_nobody_asked_for_is_named_with_its_neighbour() {
        let mut body = fields(r#"{"temperature": 1, "top_pp": 0.5}"#);
        body.f64("temperature").expect("a number");
        body.f64("top_p").expect("absent");
        let error = body.finish().expect_err("left over");
        assert_eq!(error.code(), ErrorCode::UnknownParameter);
        assert_eq!(error.param(), Some("top_pp"));
        assert!(error.to_string().contains("did you mean `top_p`?"), "{error}");

        let mut inner = Fields::at("messages[1]", serde_json::json!({"rolle": "user"})).expect("object");
        inner.string("role").expect("absent");
        let error = inner.finish().expect_err("left over");
        assert_eq!(error.param(), Some("messages[1].rolle"));
        assert!(error.to_string().contains("`messages[1].role`"), "{error}");
    }

    #[test]
    fn null_is_absent_everywhere() {
        let mut body = fields(r#"{"a": null, "b": null, "zzz": null}"#);
        assert_eq!(body.string("a").expect("absent"), None);
        body.unsupported("b", "because").expect("absent");
        body.finish().expect("nothing is left");
    }

    #[test]
    fn types_and_ranges() {
        let mut body = fields(r#"{"a": 16.0, "b": 1.5, "c": "1", "d": 99, "e": [1, 2, 3], "f": 7}"#);
        assert_eq!(body.count("a", 1..=16).expect("whole"), Some(16));
        for (result, expected) in [
            (body.count("b", 1..=16).err(), "`b` is 1.5, must be an integer"),
            (body.count("c", 1..=16).err(), "`c` is a string, must be an integer"),
            (body.count("d", 1..=16).err(), "`d` is 99, must be between 1 and 16"),
            (body.list("e", 2).err(), "`e` has 3 entries, at most 2 are taken"),
            (body.object("f").err(), "`f` is 7, must be an object"),
        ] {
            let error = result.expect("an error");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
