//! A hash of all that an answer depends on.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use super::Endpoint;

/// Fields of a body that change how an answer is sent, paid or logged, and not what it says.
const NOT_THE_ANSWERS: [&str; 14] = [
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "timeout",
    "priority",
    "deadline_ms",
    "ttft_ms",
    // Both choose who is asked, which the plan says.
    "route",
    "max_cost",
    "max_cost_usd",
];

/// SHA-256 of an endpoint, a tenant, a plan and a body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

/// What stands around a body and is part of the question.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Where it was sent.
    pub endpoint: Endpoint,
    /// Whose it is; two tenants never share an answer.
    pub tenant: &'a str,
    /// The models that may answer, in order of preference. Not the order of the moment, by load: that would change the key.
    pub plan: &'a [String],
}

impl CacheKey {
    /// The key of a body. The order of JSON's keys and the spelling of numbers do not matter, and `null` is absent.
    pub fn of(asker: Asker<'_>, body: &Map<String, Value>) -> Self {
        let mut hash = HashWriter(Sha256::new());
        // Hashing writes nowhere that could fail, and every key is a string.
        let _ = write_question(&mut hash, asker, body);
        Self(hash.0.finalize().into())
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As one JSON list, so that no part can run into the next.
fn write_question(out: &mut impl Write, asker: Asker<'_>, body: &Map<String, Value>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &(asker.endpoint.path(), asker.tenant, asker.plan))?;
    let asked = body.iter().filter(|(name, value)| !value.is_null() && !NOT_THE_ANSWERS.contains(&name.as_str()));
    write_object(out, asked.map(|(name, value)| (name.as_str(), value)).collect())
}

fn write_object(out: &mut impl Write, mut fields: Vec<(&str, &Value)>) -> io::Result<()> {
    fields.sort_unstable_by_key(|(name, _)| *name);
    out.write_all(b"{")?;
    for (name, value) in fields {
        serde_json::to_writer(&mut *out, name)?;
        out.write_all(b":")?;
        write_value(out, value)?;
        out.write_all(b",")?;
    }
    out.write_all(b"}")
}

/// Nesting ends where the parser's limit of 128 ended it.
fn write_value(out: &mut impl Write, value: &Value) -> io::Result<()> {
    match value {
        Value::Object(map) => write_object(out, map.iter().map(|(name, value)| (name.as_str(), value)).collect()),
        Value::Array(values) => {
            out.write_all(b"[")?;
            for value in values {
                write_value(out, value)?;
                out.write_all(b",")?;
            }
            out.write_all(b"]")
        }
        Value::Number(number) => write_number(out, number),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(serde_json::to_writer(out, value)?),
    }
}

/// `1`, `1.0` and `1e0` are one number; integers past 2^53, such as seeds, stay exact.
fn write_number(out: &mut impl Write, number: &Number) -> io::Result<()> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => {
            write!(out, "{}", float as i64)
        }
        _ => write!(out, "{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn key(body: &Value) -> CacheKey {
        let plan = ["m".to_owned()];
        CacheKey::of(Asker { endpoint: Endpoint::Chat, tenant: "acme", plan: &plan }, &map(body))
    }

    fn body() -> Value {
        json!({"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "temperature": 0, "top_p": 0.9, "seed": 9_007_199_254_740_993u64, "max_tokens": 5, "stop": ["a", "b"],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "a": 1}}}],
            "response_format": {"type": "text"}, "logit_bias": {"5": 1.5}})
    }

    #[test]
    fn spelling_does_not_matter() {
        let spelled = r#"{"seed": 9007199254740993, "stop": ["a", "b"], "max_tokens": 5.0, "temperature": -0.0, "top_p": 9e-1,
            "logit_bias": {"5": 15e-1}, "response_format": {"type": "t\u0065xt"}, "presence_penalty": null,
            "tools": [{"function": {"parameters": {"a": 1, "type": "object"}, "name": "f"}, "type": "function"}],
            "messages": [{"content": "s", "role": "system"}, {"content": "q", "role": "user"}], "model": "m"}"#;
        assert_eq!(key(&serde_json::from_str(spelled).expect("JSON")), key(&body()));
        for name in NOT_THE_ANSWERS {
            let mut body = body();
            body[name] = json!({"any": "thing"});
            assert_eq!(key(&body), key(&self::body()), "{name}");
        }
    }

    #[test]
    fn who_asks_whom_and_where_matters() {
        let plans = [vec!["m".to_owned()], vec!["m".to_owned(), "n".to_owned()], vec!["mn".to_owned()], vec![]];
        let mut keys = std::collections::HashSet::new();
        for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings] {
            for tenant in ["a", "b", "", "a\",[\"m\"]"] {
                for plan in &plans {
                    assert!(keys.insert(CacheKey::of(Asker { endpoint, tenant, plan }, &map(&body()))));
                }
            }
        }
    }

    #[test]
    fn seeds_are_exact() {
        let seeded = |seed: u64| key(&json!({"seed": seed}));
        assert_ne!(seeded(9_007_199_254_740_992), seeded(9_007_199_254_740_993));
        assert_ne!(seeded(u64::MAX), seeded(u64::MAX - 1));
        assert_ne!(key(&json!({"x": 0.1})), key(&json!({"x": 0.2})));
        assert_ne!(key(&json!({"x": "1"})), key(&json!({"x": 1})));
    }

    /// A value that is another one at exactly one place.
    fn changed(value: &Value, at: &mut usize) -> Value {
        let here = *at == 0;
        *at = at.wrapping_sub(1);
        if here {
            return match value {
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(number) => json!(number.as_f64().unwrap_or(0.0) / 2.0 + 0.125),
                Value::Bool(yes) => json!(!yes),
                Value::Null => json!(false),
                Value::Array(values) => values.iter().cloned().chain([json!(7)]).collect(),
                Value::Object(map) => {
                    let mut map = map.clone();
                    map.insert("another name".into(), json!(7));
                    map.into()
                }
            };
        }
        match value {
            Value::Array(values) => values.iter().map(|value| changed(value, at)).collect(),
            Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), changed(value, at))).collect(),
            other => other.clone(),
        }
    }

    fn size(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(size).sum::<usize>(),
            Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
            _ => 1,
        }
    }

    fn turned(value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(turned).collect(),
            Value::Object(map) => map.iter().rev().map(|(name, value)| (name.clone(), turned(value))).collect(),
            other => other.clone(),
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e6..1e6f64).prop_map(Value::from),
            "[a-z\"{}\\[\\],:\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever the body: another value, name or member anywhere is another key; another order of names is not.
        #[test]
        fn any_change_changes_the_key(value in json(), at in 0usize..40) {
            let mut body = body();
            body["response_format"] = json!({"schema": value});
            prop_assert_eq!(key(&turned(&body)), key(&body));
            let mut at = at % size(&body);
            let other = changed(&body, &mut at);
            prop_assert_ne!(key(&other), key(&body), "{} and {}", other, body);
        }
    }
}
