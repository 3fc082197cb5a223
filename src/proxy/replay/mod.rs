//! Reads the bodies of requests before they are sent, so that they can be sent again.

mod copy;
mod streams;

use http::StatusCode;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

pub use self::copy::BodyCopy;
pub(super) use self::copy::copy_body;
pub(super) use self::streams::{DEFAULT_STREAMS, StreamLimit, TooManyStreams};
use super::ErrorResponse;
use super::builder::ProxySettings;
use crate::body::{Body, BodyError};
use crate::buffer::GrowingBuffer;
use crate::client_key::ClientKey;
use crate::observe::Termination;

const TOO_LARGE: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large");

/// Refuses a body whose declared length is over the limit.
pub(super) fn check_length(body: &Body, settings: &ProxySettings) -> Result<(), ErrorResponse> {
    match settings.max_body {
        Some(max) if body.size_hint().lower() > max => Err(TOO_LARGE),
        _ => Ok(()),
    }
}

/// Reads the whole body if it is within the replay limit and the budget has bytes for it. Any other
/// body becomes a stream that begins with the bytes already read.
///
/// Reading before sending also prevents a slow client from occupying a node, like nginx's request
/// buffering.
pub(super) async fn read(
    body: Body,
    client: Option<ClientKey>,
    settings: &ProxySettings,
) -> Result<Body, ErrorResponse> {
    if body.is_empty() {
        return Ok(Body::empty());
    }
    let declared = body.size_hint().exact();
    let body = body.without_trailers();
    let body = match settings.body_min_rate {
        Some(rate) => body.paced(settings.body_timeout, rate),
        None => body.stall_after(settings.body_timeout),
    };
    let mut body = match settings.max_body {
        Some(limit) => body.at_most(limit),
        None => body,
    };
    let limit = settings.replay_limit as u64;
    if declared.is_some_and(|length| length > limit) {
        return Ok(body);
    }
    let max = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(settings.replay_limit);
    let mut read = GrowingBuffer::new(settings.buffers.reservation(client), max);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| body_error(&error))?.into_data() else { continue };
        let fits = read.len() + data.len() <= settings.replay_limit && read.push(&data).await;
        if !fits {
            read.push_anyway(&data);
            return Ok(body.put_back(read.into_bytes()));
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(read.into_bytes().into())
}

/// Returns the error response for a request whose body failed.
pub(super) fn body_error(error: &(dyn std::error::Error + 'static)) -> ErrorResponse {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(BodyError::TooLarge) => return TOO_LARGE,
            Some(BodyError::Stalled(_)) => {
                return ErrorResponse::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not come in time");
            }
            _ => {}
        }
        cause = error.source();
    }
    ErrorResponse::new(StatusCode::BAD_REQUEST, "the body of the request ended early")
        .because(Termination::RequestAborted)
}
