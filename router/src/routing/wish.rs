//! What a request may say to the router, beside OpenAI's members.

use std::time::Duration;

use serde_json::Value;

use crate::error::ApiError;
use crate::money::Usd;
use crate::openai::Fields;
use crate::openai::fields::wrong_type;

/// Longest list of models in `route`.
const MAX_LIST: usize = 16;
/// Longest name.
const MAX_NAME: usize = 256;

/// Which backends, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The configured route of this name.
    Named(String),
    /// This node and its peers, nothing hosted.
    LocalOnly,
    /// Hosted models, nothing of one's own.
    HostedOnly,
    /// These models, in this order.
    List(Vec<String>),
}

impl Route {
    /// A word of a request.
    pub fn word(word: &str) -> Self {
        match word {
            "local_only" => Self::LocalOnly,
            "hosted_only" => Self::HostedOnly,
            name => Self::Named(name.to_owned()),
        }
    }
}

/// The router's members of a body: `route`, `task`, `max_cost`, `deadline_ms`, `ttft_ms`, `continue_mid_stream`, `cache`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    /// Backends and their order.
    pub route: Option<Route>,
    /// Class of the task, for the configured table of routes.
    pub task: Option<String>,
    /// Most it may cost, US dollars on the wire.
    pub max_cost: Option<Usd>,
    /// When the whole answer is wanted.
    pub deadline: Option<Duration>,
    /// When the first token is wanted.
    pub first_token: Option<Duration>,
    /// A stream that dies after its first token goes on elsewhere; absent: as configured.
    pub continue_mid_stream: Option<bool>,
    /// May be answered from the response cache; absent: as configured.
    pub cache: Option<bool>,
}

impl Wish {
    /// Takes the members out of a body.
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            route: route(fields)?,
            task: name(fields, "task")?,
            max_cost: max_cost(fields)?,
            deadline: milliseconds(fields, "deadline_ms")?,
            first_token: milliseconds(fields, "ttft_ms")?,
            continue_mid_stream: flag(fields, "continue_mid_stream")?,
            cache: flag(fields, "cache")?,
        })
    }
}

fn route(fields: &mut Fields) -> Result<Option<Route>, ApiError> {
    match fields.raw("route") {
        None => Ok(None),
        Some(Value::String(word)) => {
            check_name("route", &word)?;
            Ok(Some(Route::word(&word)))
        }
        Some(Value::Array(models)) if (1..=MAX_LIST).contains(&models.len()) => {
            let names = models.iter().map(|model| match model {
                Value::String(name) => check_name("route", name).map(|()| name.clone()),
                other => Err(wrong_type("route", other, "a word or a list of model names")),
            });
            names.collect::<Result<_, _>>().map(|names| Some(Route::List(names)))
        }
        Some(Value::Array(models)) => Err(ApiError::invalid_value(
            "route",
            format!("`route` has {} models, must have 1 to {MAX_LIST}", models.len()),
        )),
        Some(other) => Err(wrong_type("route", &other, "a word or a list of model names")),
    }
}

fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    if name.trim().is_empty() || name.len() > MAX_NAME {
        let message = format!("`{param}` holds a name of {} bytes, must be 1 to {MAX_NAME}", name.len());
        return Err(ApiError::invalid_value(param, message));
    }
    Ok(())
}

fn name(fields: &mut Fields, param: &'static str) -> Result<Option<String>, ApiError> {
    let name = fields.string(param)?;
    name.as_deref().map_or(Ok(()), |name| check_name(param, name))?;
    Ok(name)
}

fn max_cost(fields: &mut Fields) -> Result<Option<Usd>, ApiError> {
    let Some(dollars) = fields.f64("max_cost")? else {
        return Ok(None);
    };
    // Ten thousand dollars: far above any single answer, far below what integers of nano-dollars hold.
    if !(0.0..=10_000.0).contains(&dollars) {
        let message = format!("`max_cost` is {dollars}, must be US dollars between 0 and 10000");
        return Err(ApiError::invalid_value("max_cost", message));
    }
    Ok(Usd::from_dollars(dollars))
}

fn milliseconds(fields: &mut Fields, param: &'static str) -> Result<Option<Duration>, ApiError> {
    // A day.
    let count = fields.count(param, 1..=86_400_000)?;
    Ok(count.map(|count| Duration::from_millis(count as u64)))
}

fn flag(fields: &mut Fields, param: &'static str) -> Result<Option<bool>, ApiError> {
    match fields.raw(param) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(other) => Err(wrong_type(param, &other, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn take(body: Value) -> Result<Wish, ApiError> {
        Wish::take(&mut Fields::at("", body).expect("an object"))
    }

    #[test]
    fn every_member_arrives() {
        let wish = take(json!({"route": ["a", "b"], "task": "chat", "max_cost": 0.05, "deadline_ms": 1500,
            "ttft_ms": 200, "continue_mid_stream": true, "cache": false}))
        .expect("good");
        assert_eq!(
            wish,
            Wish {
                route: Some(Route::List(vec!["a".into(), "b".into()])),
                task: Some("chat".into()),
                max_cost: Usd::from_dollars(0.05),
                deadline: Some(Duration::from_millis(1500)),
                first_token: Some(Duration::from_millis(200)),
                continue_mid_stream: Some(true),
                cache: Some(false),
            }
        );
        assert_eq!(take(json!({"route": "local_only"})).expect("good").route, Some(Route::LocalOnly));
        assert_eq!(take(json!({})).expect("nothing"), Wish::default());
    }

    #[test]
    fn wrong_ones_are_named() {
        let table = [
            (json!({"route": 1}), "route", "a word or a list of model names"),
            (json!({"route": []}), "route", "must have 1 to 16"),
            (json!({"route": [""]}), "route", "0 bytes"),
            (json!({"route": "x".repeat(257)}), "route", "257 bytes"),
            (json!({"max_cost": -1}), "max_cost", "between 0 and 10000"),
            (json!({"max_cost": "free"}), "max_cost", "must be a number"),
            (json!({"deadline_ms": 0}), "deadline_ms", "between 1 and 86400000"),
            (json!({"ttft_ms": 1.5}), "ttft_ms", "an integer"),
            (json!({"cache": "yes"}), "cache", "true or false"),
        ];
        for (body, param, expected) in table {
            let error = take(body.clone()).expect_err("wrong");
            assert_eq!(error.param(), Some(param), "{body}: {error}");
            assert!(error.to_string().contains(expected), "{body}: {error}");
        }
    }
}
