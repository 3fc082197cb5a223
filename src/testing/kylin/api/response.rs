//! The forms of a response: bare JSON, envelopes, errors, and the HTML that Tomcat sends.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;
use crate::kylin::KylinVersion;

/// The result of a handler.
pub(crate) type CallResult = Result<Response<Body>, Failure>;

/// How lists and results are wrapped. The client chooses with `Accept`; the default depends on the
/// version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// Apache Kylin 2.x-4.x: the value itself.
    Bare,
    /// KAP 2.x-3.x: an envelope, lists under their own name.
    V2,
    /// Kylin 5: an envelope, lists under `value`.
    V4,
}

impl Envelope {
    pub(crate) fn of(version: KylinVersion, headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        match version {
            _ if accept.contains("apache.kylin-v2") => Envelope::V2,
            _ if accept.contains("apache.kylin-v4") => Envelope::V4,
            KylinVersion::V4 => Envelope::Bare,
            KylinVersion::V5 => Envelope::V4,
        }
    }

    pub(crate) fn wrap(self, value: Value) -> Value {
        match self {
            Envelope::Bare => value,
            Envelope::V2 | Envelope::V4 => json!({"code": "000", "data": value, "msg": ""}),
        }
    }

    /// Wraps a whole list, under `name` if lists have names.
    pub(crate) fn wrap_list(self, name: &str, items: Vec<Value>) -> Value {
        let size = items.len();
        self.wrap(match self {
            Envelope::Bare => Value::Array(items),
            Envelope::V2 => json!({name: items, "size": size}),
            Envelope::V4 => json!({"value": items, "offset": 0, "limit": size, "total_size": size}),
        })
    }
}

/// Kylin's `ErrorResponse`, before it is written for a version.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
    exception: &'static str,
    code: Option<&'static str>,
}

impl Failure {
    /// Returns the error of an invalid request.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        let exception = "org.apache.kylin.rest.exception.BadRequestException";
        Failure { status: StatusCode::BAD_REQUEST, message: message.into(), exception, code: None }
    }

    /// Returns the error of a request that failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let exception = "org.apache.kylin.rest.exception.InternalErrorException";
        Failure { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into(), exception, code: None }
    }

    /// Returns the error of every call that needs the metastore while it is down.
    pub(crate) fn metastore_down() -> Self {
        Failure::internal("the metadata store cannot be reached: Communications link failure")
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Failure { status, ..self }
    }

    /// Gives the error one of Kylin 5's codes.
    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Failure { message: format!("{code}: {}", self.message), code: Some(code), ..self }
    }

    pub(crate) fn render(self, version: KylinVersion, url: &str) -> Response<Body> {
        let Failure { status, message, exception, code } = self;
        let trace = format!("{exception}: {message}\n\tat org.apache.kylin.rest.controller.BasicController");
        let mut error = json!({
            "code": "999", "data": null, "msg": message, "stacktrace": trace, "exception": exception, "url": url,
        });
        if version == KylinVersion::V5 {
            error["suggestion"] = Value::Null;
            error["error_code"] = code.into();
        }
        json_response(status, &error)
    }
}

pub(crate) fn ok(value: &Value) -> Response<Body> {
    json_response(StatusCode::OK, value)
}

pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    typed(status, "application/json;charset=UTF-8", value.to_string())
}

/// Returns the page for a status as Tomcat, or a gateway in front of it, generates it.
pub(crate) fn html(status: StatusCode) -> Response<Body> {
    let page = format!("<html><head><title>{status}</title></head><body><h1>HTTP Status {status}</h1></body></html>");
    typed(status, "text/html;charset=utf-8", page)
}

/// Returns the page that Tomcat generates for an exception of tomcat-redis-session-manager
/// (RedisSessionManager.java:388).
pub(crate) fn unwritten_session() -> Response<Body> {
    let page = "<html><body><h1>HTTP Status 500</h1><pre>java.lang.IllegalStateException: Race condition encountered: \
                attempted to load session which has been created but not yet serialized.</pre></body></html>";
    typed(StatusCode::INTERNAL_SERVER_ERROR, "text/html;charset=utf-8", page)
}

/// Returns the start page of the web application, which Kylin also sends for wrong paths.
pub(crate) fn start_page(status: StatusCode) -> Response<Body> {
    let page =
        "<!doctype html><html lang=\"en\"><head><title>Kylin</title></head><body ng-app=\"kylin\"></body></html>";
    typed(status, "text/html", page)
}

/// Returns the response to a path of the REST interface that does not exist.
///
/// Tomcat sends the start page (the `error-page` of Kylin's `web.xml`), Spring Boot in Kylin 5
/// sends JSON.
pub(crate) fn no_such_path(version: KylinVersion, url: &str) -> Response<Body> {
    match version {
        KylinVersion::V4 => start_page(StatusCode::NOT_FOUND),
        KylinVersion::V5 => {
            let error = json!({"status": 404, "error": "Not Found", "message": "No message available", "path": url});
            json_response(StatusCode::NOT_FOUND, &error)
        }
    }
}

pub(crate) fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(to) = HeaderValue::try_from(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
