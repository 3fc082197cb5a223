//! Error responses of the proxy itself, in the form of Kylin.
//!
//! A Kylin node reports a failure as
//! `{"code":"999","data":null,"msg":...,"stacktrace":...,"exception":...,"url":...}`, according to
//! ErrorResponse.java. JDBC and ODBC show `msg` to the user. The proxy's responses name no address
//! and no endpoint.

use std::error::Error as _;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version, request};

use super::replay::TooManyStreams;
use crate::backend::{SendError, SendErrorKind};
use crate::body::Body;
use crate::observe::Termination;
use crate::request::{ClientAddr, RequestContext};
use crate::session::hook::LoginUnavailable;

/// The methods that the proxy forwards, besides others that are not registered.
pub(super) const ALLOWED_METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// A response that ended before a byte of it had reached the client.
pub(crate) const TRUNCATED: ErrorResponse = ErrorResponse::new(
    StatusCode::BAD_GATEWAY,
    "the response of the Kylin node ended early; the request may have been executed",
)
.because(Termination::ResponseTruncated);

/// The only node that has the session failed with a response that could not be kept, and the other
/// nodes do not know the session.
pub(super) const SESSION_NODE_FAILED: ErrorResponse = ErrorResponse::new(
    StatusCode::BAD_GATEWAY,
    "the Kylin node of the session failed at the request, which it may have executed",
)
.because(Termination::InvalidResponse);

/// The policy, the session store or the backend of the application panicked.
pub(super) const PANICKED: ErrorResponse = ErrorResponse::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "the front end failed within the request; it may have been executed",
)
.because(Termination::Panicked);

/// The client has stopped the query while the query waited for a slot or for the response to an
/// identical one.
pub(super) const STOPPED: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the query was stopped").because(Termination::Stopped);

/// The client has its maximum of requests in flight.
pub(super) const TOO_MANY_REQUESTS: ErrorResponse =
    ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, "the client has too many requests in flight");

/// Too many queries wait for a slot, and this is the costliest.
pub(super) const QUEUES_FULL: ErrorResponse =
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "too many queries wait for a Kylin node")
        .because(Termination::QueueFull);

/// The query has waited for a slot as long as it may.
pub(super) const WAITED_TOO_LONG: ErrorResponse =
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the query has waited too long for a Kylin node")
        .because(Termination::QueueTimeout);

/// The budget has no bytes left for the response of a node.
pub(super) const NO_MEMORY_FOR_RESPONSE: ErrorResponse = ErrorResponse::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "the front end has no memory for the responses of the Kylin nodes at present",
)
.because(Termination::Overflow);

/// An error response of the front end itself, in the form that Kylin's clients understand.
///
/// An application that refuses requests itself can respond with this, so that JDBC, ODBC and the
/// web page show its message as they show Kylin's own messages.
///
/// ```
/// use http::{Request, StatusCode};
/// use kylin_lb::proxy::ErrorResponse;
///
/// const CLOSED: ErrorResponse = ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "closed until 6 o'clock");
///
/// let (head, ()) = Request::get("/kylin/api/projects").body(())?.into_parts();
/// let response = CLOSED.response_to(&head);
/// assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
/// assert_eq!(response.headers()["retry-after"], "1");
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ErrorResponse {
    status: StatusCode,
    message: &'static str,
    /// `None` if the status implies it.
    termination: Option<Termination>,
}

impl ErrorResponse {
    /// Returns an error response with a message for the user.
    pub const fn new(status: StatusCode, message: &'static str) -> Self {
        ErrorResponse { status, message, termination: None }
    }

    /// Sets the termination that observers see for the request.
    pub(super) const fn because(mut self, termination: Termination) -> Self {
        self.termination = Some(termination);
        self
    }

    /// Returns the termination of a request that got this response.
    pub(super) fn termination(self) -> Termination {
        self.termination.unwrap_or(match self.status {
            StatusCode::FORBIDDEN => Termination::Denied,
            StatusCode::REQUEST_TIMEOUT => Termination::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Termination::RequestTooLarge,
            status if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED => Termination::Refused,
            _ => Termination::NoEndpoint,
        })
    }

    /// Returns the response to the request with this head. Its body names the request's URL without
    /// the query.
    pub fn response_to(self, request: &request::Parts) -> Response<Body> {
        self.response(&RequestContext::of_head(ClientAddr::Unix, &request.uri, &request.headers, request.version))
    }

    pub(super) const fn unavailable(status: StatusCode) -> Self {
        ErrorResponse::new(status, "no Kylin node can serve the request at present").because(Termination::NoEndpoint)
    }

    /// Returns the response to a request for which no endpoint is eligible. `is_empty`: the cluster
    /// has none.
    pub(super) const fn no_endpoint(is_empty: bool, status: StatusCode) -> Self {
        if !is_empty {
            return ErrorResponse::unavailable(status);
        }
        let message = "no Kylin node is known: their list is empty, or its source has not responded yet";
        ErrorResponse::new(status, message).because(Termination::NoEndpoint)
    }

    /// Returns the response to a request that reached only nodes without Kylin.
    pub(super) const fn not_running(status: StatusCode) -> Self {
        ErrorResponse::new(status, "Kylin does not run at the nodes that responded; the request was not executed")
            .because(Termination::NoEndpoint)
    }

    /// Returns the response to a request whose last attempt failed.
    pub(super) fn of_failure(error: &SendError, unavailable: StatusCode) -> Self {
        let termination = match error.kind() {
            SendErrorKind::Limit | SendErrorKind::Shortage => Termination::Overflow,
            SendErrorKind::ConnectTimeout => Termination::ConnectTimeout,
            SendErrorKind::HeadTimeout => Termination::ResponseTimeout,
            SendErrorKind::RequestBody => Termination::RequestAborted,
            SendErrorKind::Connect | SendErrorKind::Refused => Termination::ConnectFailed,
            SendErrorKind::Broken | SendErrorKind::Stale => Termination::ConnectionBroken,
            SendErrorKind::Invalid | SendErrorKind::HeadTooLarge => Termination::InvalidResponse,
        };
        let response = match error.kind() {
            SendErrorKind::Limit if error.source().is_some_and(|cause| cause.is::<LoginUnavailable>()) => {
                ErrorResponse::new(
                    unavailable,
                    "no Kylin node can check the login of the session at present; it is kept",
                )
            }
            SendErrorKind::Limit if error.source().is_some_and(|cause| cause.is::<TooManyStreams>()) => {
                ErrorResponse::new(
                    unavailable,
                    "too many request bodies are on their way to the Kylin nodes at present; this one was not sent",
                )
            }
            SendErrorKind::Limit => ErrorResponse::unavailable(unavailable),
            SendErrorKind::Shortage => ErrorResponse::new(
                unavailable,
                "the front end is short of descriptors, ports or memory; the request was not sent",
            ),
            SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout => {
                ErrorResponse::new(StatusCode::GATEWAY_TIMEOUT, "the Kylin node did not respond in time")
            }
            SendErrorKind::RequestBody => {
                ErrorResponse::new(StatusCode::BAD_REQUEST, "the body of the request ended early")
            }
            SendErrorKind::Connect | SendErrorKind::Refused => ErrorResponse::new(
                StatusCode::BAD_GATEWAY,
                "the Kylin node could not be reached; the request was not sent",
            ),
            SendErrorKind::Broken | SendErrorKind::Stale => ErrorResponse::new(
                StatusCode::BAD_GATEWAY,
                "the connection to the Kylin node broke after the request was sent; it may have been executed",
            ),
            SendErrorKind::HeadTooLarge => ErrorResponse::new(
                StatusCode::BAD_GATEWAY,
                "the head of the Kylin node's response is over the limits of the front end; the request may have been executed",
            ),
            SendErrorKind::Invalid => {
                ErrorResponse::new(StatusCode::BAD_GATEWAY, "the response of the Kylin node is not valid HTTP")
            }
        };
        response.because(termination)
    }

    /// Returns whether the connection must close. Either the end of the request is unclear (also
    /// after CONNECT), or reading the rest of the request would serve no purpose.
    fn ends_connection(self) -> bool {
        use StatusCode as S;
        matches!(
            self.status,
            S::BAD_REQUEST | S::METHOD_NOT_ALLOWED | S::REQUEST_TIMEOUT | S::PAYLOAD_TOO_LARGE | S::NOT_IMPLEMENTED
        )
    }

    /// Returns the status.
    pub fn status(self) -> StatusCode {
        self.status
    }

    /// Returns the response to a request.
    pub(super) fn response(self, context: &RequestContext) -> Response<Body> {
        self.response_saying(self.message, context)
    }

    /// Returns the response to a request, with another message.
    pub(super) fn response_saying(self, message: &str, context: &RequestContext) -> Response<Body> {
        self.response_about(message, &context.url(), context.version())
    }

    /// Returns the response to a request whose head the caller does not have.
    #[cfg(feature = "server")]
    pub(crate) fn response_without_url(self) -> Response<Body> {
        self.response_about(self.message, "", Version::HTTP_11)
    }

    fn response_about(self, message: &str, url: &str, version: Version) -> Response<Body> {
        tracing::debug!(status = self.status.as_u16(), message, "error response of the proxy");
        let url = json_string(url);
        let message = json_string(message);
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let body = format!(
            "{{\"code\":\"999\",\"data\":null,\"msg\":{message},\"stacktrace\":\"\",\"exception\":\"{reason}\",\"url\":{url}}}"
        );
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        // Says whether a node may have executed the request.
        response.extensions_mut().insert(self.termination());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                _ = headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            // Required by RFC 9110, 15.5.6.
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, ALLOWED_METHODS);
            }
            _ => {}
        }
        if self.ends_connection() && version <= Version::HTTP_11 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Returns `text` as a JSON string (RFC 8259, 7). Host and path come from the client.
fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            // These could end a script element if an application embeds the response in a page.
            c if c.is_control() || matches!(c, '<' | '>' | '&') => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_client_stays_inside_its_string() {
        let hostile = "a\"b\\c</script>\u{1}\u{7f}é";
        let json = json_string(hostile);
        assert_eq!(json, "\"a\\\"b\\\\c\\u003c/script\\u003e\\u0001\\u007fé\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn a_timeout_is_504_and_a_full_cluster_has_the_configured_status() {
        let of = |kind| ErrorResponse::of_failure(&SendError::new(kind, "x"), StatusCode::INTERNAL_SERVER_ERROR).status;
        assert_eq!(of(SendErrorKind::ConnectTimeout), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(of(SendErrorKind::HeadTimeout), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(of(SendErrorKind::Broken), StatusCode::BAD_GATEWAY);
        assert_eq!(of(SendErrorKind::Limit), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(of(SendErrorKind::Shortage), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
