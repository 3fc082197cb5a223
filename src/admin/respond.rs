//! Routes the requests, and responds to them.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::json;

use super::action::{Action, Done};
use super::refusal::Refusal;
use super::{Shared, page, status};
use crate::body::{Body, BodyError};
use crate::request::ClientAddr;

/// The maximum length of an action, in bytes. An action has a few hundred bytes.
const MAX_BODY: u64 = 4096;
/// The timeout for the body of an action.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn respond(shared: &Shared, peer: ClientAddr, request: Request<Body>) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let mut response = secured(route(shared, peer, request).await.unwrap_or_else(refuse));
    if is_head {
        *response.body_mut() = Body::empty();
    }
    response
}

#[allow(clippy::result_large_err, reason = "the response is about to be sent")]
pub(super) fn authorize_read<R>(shared: &Shared, peer: ClientAddr, request: &Request<R>) -> Result<(), Response<Body>> {
    let checked = shared.check_host(request).and_then(|()| shared.check_reader(peer, request));
    checked.map_err(|refusal| secured(refuse(refusal)))
}

#[allow(clippy::result_large_err, reason = "the response is about to be sent")]
pub(super) fn authorize_origin<R>(shared: &Shared, request: &Request<R>) -> Result<(), Response<Body>> {
    let checked = shared.check_host(request).and_then(|()| shared.check_origin(request, true));
    checked.map_err(|refusal| secured(refuse(refusal)))
}

/// Adds the headers that keep a response out of caches, frames and other pages.
fn secured(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

async fn route(shared: &Shared, peer: ClientAddr, request: Request<Body>) -> Result<Response<Body>, Refusal> {
    // Paths must match exactly; another form of the same path gets 404.
    let below = request.uri().path().strip_prefix(&*shared.path).map(str::to_owned);
    let not_found =
        || Refusal::new(StatusCode::NOT_FOUND, "the paths are those of the page, and status and action below it");
    let below = below.ok_or_else(not_found)?;
    shared.check_host(&request)?;
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match &*below {
        "" | "/" if is_read => Ok(page::response()),
        "/status" if is_read => {
            shared.check_reader(peer, &request)?;
            Ok(json_response(StatusCode::OK, status::json(shared)))
        }
        "/action" if request.method() == Method::POST => {
            shared.check_operator(&request)?;
            let done = shared.perform(peer, action(request).await?).await?;
            Ok(done_response(&done))
        }
        "" | "/" | "/status" => Ok(not_allowed("GET, HEAD")),
        "/action" => Ok(not_allowed("POST")),
        _ => Err(not_found()),
    }
}

/// Reads an action.
async fn action(request: Request<Body>) -> Result<Action, Refusal> {
    if !is_json(request.headers()) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an action is application/json"));
    }
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "an action has at most 4096 bytes");
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, request.into_body().collect_up_to(MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(BodyError::TooLarge)) => return Err(too_large()),
        Ok(Err(_)) => return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body ended early")),
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    };
    serde_json::from_slice(&body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("not an action: {error}")))
}

/// Returns whether the type is JSON. A form on another page cannot send that type without a
/// preflight request (CORS).
fn is_json(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let of = |value: &HeaderValue| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    };
    all.next().is_some_and(of) && all.next().is_none()
}

fn done_response(done: &Done) -> Response<Body> {
    json_response(StatusCode::OK, serde_json::to_string(done).unwrap_or_default())
}

fn json_response(status: StatusCode, mut json: String) -> Response<Body> {
    json.push('\n');
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refuse(refusal: Refusal) -> Response<Body> {
    let mut response = json_response(refusal.status, json!({ "error": refusal.message }).to_string());
    if refusal.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let message = format!("the methods are {methods}");
    let mut response = refuse(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
