//! `POST /tokenize` and `POST /detokenize`: the ids a model would see.

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::{JsonBody, blocking};
use crate::app::AppState;
use crate::auth::Tenant;
use crate::error::{ApiError, ErrorCode};
use crate::openai::completion::Prompt;
use crate::openai::tokenize::{DetokenizeRequest, Tokenizable, TokenizeRequest};

/// Text or messages to ids.
pub async fn tokenize(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let request = TokenizeRequest::from_slice(&body)?;
        let model = state.models().find_for(request.model.as_deref(), &tenant)?;
        let tokens = match request.input {
            Tokenizable::Text { text, add_special, parse_special } => {
                model.completion_prompt(&Prompt::Text(text), add_special, parse_special)
            }
            Tokenizable::Chat { messages, tools } => model.chat_prompt(&messages, &tools, Map::new())?,
        };
        Ok(Json(json!({"tokens": tokens, "count": tokens.len(), "max_model_len": model.max_len})))
    })
    .await
}

/// Ids to text.
pub async fn detokenize(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let request = DetokenizeRequest::from_slice(&body)?;
        let model = state.models().find_for(request.model.as_deref(), &tenant)?;
        let vocab_size = model.tokenizer.vocab_size();
        if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ApiError::new(
                ErrorCode::InvalidValue,
                format!("token {id} is not in the vocabulary of {vocab_size}"),
            )
            .with_param("tokens"));
        }
        Ok(Json(json!({"prompt": model.tokenizer.decode(&request.tokens, request.skip_special)})))
    })
    .await
}
