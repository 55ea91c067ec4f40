//! Tokens as a backend counted them.

use serde_json::Value;

use crate::prices::TokenCount;

/// The `usage` object of an answer or a chunk, in OpenAI's shape; `None` where there is none.
pub fn of(answer: &Value) -> Option<TokenCount> {
    let usage = answer.get("usage")?.as_object()?;
    let count = |value: Option<&Value>| value.and_then(Value::as_u64);
    let prompt = count(usage.get("prompt_tokens"))?;
    let details = usage.get("prompt_tokens_details");
    // The second name is DeepSeek's.
    let cached = count(details.and_then(|details| details.get("cached_tokens")))
        .or_else(|| count(usage.get("prompt_cache_hit_tokens")))
        .unwrap_or(0);
    let completion = count(usage.get("completion_tokens")).unwrap_or(0);
    Some(TokenCount { prompt, cached: cached.min(prompt), completion })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_read_in_each_shape() {
        let count = |prompt, cached, completion| Some(TokenCount { prompt, cached, completion });
        let table = [
            (json!({}), None),
            (json!({"usage": null}), None),
            (json!({"usage": {"completion_tokens": 3}}), None),
            (json!({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}), count(7, 0, 3)),
            (json!({"usage": {"prompt_tokens": 7, "total_tokens": 7}}), count(7, 0, 0)),
            (
                json!({"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}}),
                count(7, 5, 3),
            ),
            (
                json!({"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_cache_hit_tokens": 9}}),
                count(7, 7, 3),
            ),
            (json!({"usage": {"prompt_tokens": -1}}), None),
        ];
        for (answer, expected) in table {
            assert_eq!(of(&answer), expected, "{answer}");
        }
    }
}
