//! The body of a request, read as far as it is to be kept for another try.

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::builder::ProxySettings;
use super::error_response::ErrorResponse;
use super::resumed::Resumed;
use crate::body::{Body, BodyError};

/// Refuses what is said to be longer than a body may be.
pub(super) fn check(body: &Body, settings: &ProxySettings) -> Result<(), ErrorResponse> {
    match settings.max_body {
        Some(limit) if body.size_hint().lower() > limit => Err(TOO_LARGE),
        _ => Ok(()),
    }
}

/// Reads `body` whole when it is no longer than the replay limit; what is longer comes back as a stream that begins with
/// what was read.
///
/// Reading before sending also keeps a slow client from occupying a node, as nginx's request buffering does.
pub(super) async fn read(body: Body, settings: &ProxySettings) -> Result<Body, ErrorResponse> {
    if body.is_empty() {
        return Ok(Body::empty());
    }
    let declared = body.size_hint();
    let body = body.without_trailers().stall_after(settings.body_timeout);
    let mut body = match settings.max_body {
        Some(limit) => body.at_most(limit),
        None => body,
    };
    let keep = settings.replay_limit as u64;
    if declared.exact().is_some_and(|length| length > keep) {
        return Ok(body);
    }
    // One piece, which is the rule, is kept as it is. More are copied together: many small ones must not hold the large
    // buffers that they were cut from.
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| refusal(&error))?.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
        if first.len().max(joined.len()) as u64 > keep {
            return Ok(Resumed::new(whole(first, joined), body).into());
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(whole(first, joined).into())
}

/// A second request like this one; none when its body is not all here.
pub(super) fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

fn whole(first: Bytes, joined: BytesMut) -> Bytes {
    if joined.is_empty() { first } else { joined.freeze() }
}

const TOO_LARGE: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large");

/// What to tell a client whose body failed.
pub(super) fn refusal(error: &(dyn std::error::Error + 'static)) -> ErrorResponse {
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
}
