//! `POST /v1/embeddings`: vectors of texts.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use engram_models::EncoderHandle;
use engram_models::embedding::Side;
use tokio::sync::oneshot;

use super::{JsonBody, blocking};
use crate::access::Facts;
use crate::app::AppState;
use crate::auth::Tenant;
use crate::drain::Phase;
use crate::error::{ApiError, ErrorCode};
use crate::openai::embedding::{EmbeddingList, EmbeddingRequest, EncodingFormat, Input};

/// Embeds inputs, together with whatever others ask for at the same time.
pub async fn create(
    State(state): State<AppState>,
    Extension(tenant): Extension<Tenant>,
    Extension(facts): Extension<Facts>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let deadline = state.deadline(Instant::now(), None);
    facts.expect_tokens(body.len(), Some(0), 1)?;
    let Prepared { handle, sequences, shape } = {
        let state = state.clone();
        blocking(move || prepare(&state, &tenant, &body)).await?
    };
    facts.add_tokens(shape.tokens, 0, 0);
    facts.served_locally(handle.encoder().name(), handle.encoder().name());
    let (send, receive) = oneshot::channel();
    // Lives as long as this request does: where the client has gone, its sequences are not encoded any more.
    let wanted = Arc::new(());
    let still_wanted = {
        let wanted = Arc::downgrade(&wanted);
        move || wanted.strong_count() > 0
    };
    handle.submit(sequences, still_wanted, move |encoded| drop(send.send(encoded)))?;
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let vectors = tokio::select! {
        encoded = receive => encoded.map_err(|_| ApiError::new(ErrorCode::EngineStopped, "the encoder has stopped"))??,
        () = late => {
            let message = "the deadline passed before the encoder had answered";
            return Err(ApiError::new(ErrorCode::DeadlineExceeded, message));
        }
        () = state.drain().reached(Phase::Stopping) => {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "the server is stopping"));
        }
    };
    let body = blocking(move || answer(&handle, vectors, &shape)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

struct Prepared {
    handle: EncoderHandle,
    sequences: Vec<Vec<u32>>,
    shape: Shape,
}

/// What the answer looks like.
struct Shape {
    format: EncodingFormat,
    dimensions: Option<usize>,
    tokens: usize,
}

/// Parses the body, finds the encoder, makes its sequences and checks them: all that needs no pass.
fn prepare(state: &AppState, tenant: &Tenant, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = EmbeddingRequest::from_slice(body)?;
    let handle = state.models().encoder_for(request.model.as_deref(), tenant)?;
    let encoder = handle.encoder();
    if let Some(dim) = request.dimensions {
        encoder.shorten(&mut [], dim)?; // no vector needs to be made to say that it cannot be cut
    }
    let side = if request.query { Side::Query } else { Side::Document };
    let sequence = |input: &Input| {
        let ids = match input {
            Input::Text(text) => encoder.tokens(text, side),
            Input::Ids(ids) => encoder.complete(ids),
        };
        if request.truncate { encoder.cut(ids) } else { ids }
    };
    let sequences: Vec<Vec<u32>> = request.inputs.iter().map(sequence).collect();
    encoder.check(&sequences)?;
    let tokens = sequences.iter().map(Vec::len).sum();
    let shape = Shape { format: request.format, dimensions: request.dimensions, tokens };
    Ok(Prepared { handle, sequences, shape })
}

fn answer(handle: &EncoderHandle, mut vectors: Vec<Vec<f32>>, shape: &Shape) -> Result<Bytes, ApiError> {
    if let Some(dim) = shape.dimensions {
        handle.encoder().shorten(&mut vectors, dim)?;
    }
    let list = EmbeddingList::new(handle.encoder().name().to_owned(), vectors, shape.format, shape.tokens);
    let text = serde_json::to_vec(&list).map_err(|error| ApiError::internal("the answer cannot be written", error))?;
    Ok(text.into())
}
