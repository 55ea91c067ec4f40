//! Going on with an answer that broke off: what is asked of the next backend, and who can be asked.

use serde_json::{Value, json};

use super::Endpoint;
use super::begin::Begun;
use super::serve::Way;
use crate::drain::Phase;
use crate::prices::TokenCount;
use crate::routing::{Bill, Candidate, Refusal, Report, Target};

impl Way {
    /// Whether another backend may go on with this answer: it must be wanted, and the answer must be one plain text.
    pub(super) fn may_continue(&self) -> bool {
        let wanted = self.asked.wish.continue_mid_stream;
        let plain = ["tools", "logprobs", "top_logprobs", "response_format", "echo", "suffix"]
            .iter()
            .all(|name| matches!(self.asked.body.get(*name), None | Some(Value::Null | Value::Bool(false))));
        wanted.unwrap_or_else(|| self.state.routing().table().settings.continue_mid_stream)
            && self.asked.choices == 1
            && plain
            && (self.asked.endpoint == Endpoint::Chat || self.asked.prompt().is_some())
    }

    /// Has the first candidate that can do it go on from `text`, about `tokens` tokens long.
    pub(super) async fn continue_from(
        &mut self,
        text: &str,
        tokens: usize,
        report: &mut Report,
    ) -> Option<(Begun, Bill)> {
        if text.is_empty() || self.state.drain().phase() == Phase::Stopping {
            return None;
        }
        self.first_by = None;
        let before = self.asked.body.clone();
        self.extend(text, tokens);
        let mut found = None;
        while let Some((candidate, placed)) = self.next_candidate() {
            if !self.can_continue(&candidate) {
                continue;
            }
            match self.attempt(&candidate, placed, report).await {
                Ok(answer) => {
                    found = Some(answer);
                    break;
                }
                Err(Refusal::LeftOut(out)) => report.left_out.push(*out),
                Err(Refusal::Failed(attempt) | Refusal::Local(attempt, _)) => report.failed.push(*attempt),
                Err(Refusal::Fatal(error)) => error.log(),
            }
        }
        // A second break begins again from the request as it came, with all the text.
        self.asked.body = before;
        found
    }

    /// The request with the text so far as the beginning of its answer.
    fn extend(&mut self, text: &str, tokens: usize) {
        let body = &mut self.asked.body;
        match self.asked.endpoint {
            Endpoint::Chat => {
                if let Some(Value::Array(messages)) = body.get_mut("messages") {
                    messages.push(json!({"role": "assistant", "content": text}));
                }
                body.insert("continue_final_message".into(), true.into());
                body.insert("add_generation_prompt".into(), false.into());
            }
            _ => {
                let prompt = format!("{}{text}", body.get("prompt").and_then(first_text).unwrap_or_default());
                body.insert("prompt".into(), prompt.into());
            }
        }
        for name in ["max_tokens", "max_completion_tokens"] {
            if let Some(bound) = body.get(name).and_then(Value::as_u64) {
                body.insert(name.into(), bound.saturating_sub(tokens as u64).max(1).into());
            }
        }
    }

    /// Any backend goes on with a prompt. With a chat only those do that are known to: the engine here, other Engrams, and
    /// models that the catalog says so of.
    fn can_continue(&self, candidate: &Candidate) -> bool {
        if self.asked.endpoint != Endpoint::Chat {
            return true;
        }
        match &candidate.target {
            Target::Local(_) => true,
            Target::Remote { backend, .. } => {
                let table = self.state.routing().table();
                backend.is_engram() || table.model(&candidate.model).is_some_and(|model| model.continues)
            }
        }
    }

    /// Tokens of an answer whose maker did not count them.
    pub(super) fn estimated_usage(&self, bytes: usize) -> TokenCount {
        TokenCount { prompt: self.asked.prompt_tokens as u64, cached: 0, completion: bytes.div_ceil(4) as u64 }
    }
}

fn first_text(prompt: &Value) -> Option<&str> {
    match prompt {
        Value::String(text) => Some(text),
        Value::Array(texts) => texts.first()?.as_str(),
        _ => None,
    }
}
