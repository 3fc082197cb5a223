//! The path of a request through the node: faults, access check, handler, counters.

use std::future::pending;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;

use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::{Body, BodyError};
use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::api::access::admit;
use crate::testing::kylin::api::call::Call;
use crate::testing::kylin::api::catalog::request_id;
use crate::testing::kylin::api::path::{Params, normalise};
use crate::testing::kylin::api::response::{html, no_such_path, redirect, start_page};
use crate::testing::kylin::api::{demo, routes};
use crate::testing::kylin::data::stats::InFlight;
use crate::testing::kylin::faults::{Fault, ResetSwitch};
use crate::testing::kylin::settings::Settings;

/// The maximum length of a request body that is read into memory. Bodies below `/demo/` are
/// streamed.
const MAX_BODY: u64 = 16 * 1024 * 1024;

/// The `Set-Cookie` value of a logout. Kylin 5 deletes `JSESSIONID`, which is not its cookie.
const DELETE_COOKIE: HeaderValue =
    HeaderValue::from_static("JSESSIONID=; Max-Age=0; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/kylin");

impl Backend for KylinNode {
    /// Responds to `request`, and counts it until the body of the response has ended.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let path = normalise(request.uri().path());
        let fault = self.faults().strike(path.as_deref().unwrap_or(""));
        if fault == Some(Fault::Unreachable) {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(SendError::new(SendErrorKind::Connect, refused).with_request(request));
        }
        let in_flight = InFlight::begin(&self.inner.counts);
        if let Some(id) = request_id(request.headers()) {
            self.inner.counts.saw_id(id);
        }
        if request.headers().contains_key("routed") {
            self.inner.counts.add(|stats| stats.routed += 1);
        }
        let switch = request.extensions().get::<ResetSwitch>().cloned();
        let is_head = request.method() == Method::HEAD;
        let mut response = match (fault, path) {
            (Some(Fault::Stall), _) => pending().await,
            (Some(Fault::Html(status)), _) => html(status),
            (_, None) => html(StatusCode::BAD_REQUEST),
            (_, Some(path)) if path.starts_with("/demo/") => demo::respond(&path, request).await?,
            (_, Some(path)) => self.web(path, request).await?,
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.inner.counts.add(|stats| stats.unauthorized += 1);
        }
        match fault {
            Some(Fault::Hang) => pending().await,
            Some(fault @ (Fault::Close | Fault::ResetAfter(_) | Fault::TruncateAfter(_))) => {
                in_flight.end();
                let closed = || SendError::new(SendErrorKind::Broken, io::Error::from(io::ErrorKind::UnexpectedEof));
                response = fault.cut(response, is_head, switch).ok_or_else(closed)?;
            }
            Some(Fault::Stall | Fault::Html(_) | Fault::Unreachable) | None => {}
        }
        if is_head {
            response = without_body(response);
        }
        Ok(response.map(|body| body.on_end(in_flight)))
    }
}

impl KylinNode {
    /// Responds as the web server. Reads the request's body; `path` leads to the REST interface or
    /// to a page.
    async fn web(&self, path: String, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let settings = self.settings();
        let (parts, body) = request.into_parts();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(|authority| authority.as_str())).unwrap_or("localhost:7070");
        let origin = format!("http://{host}");
        let body = match body.collect_up_to(MAX_BODY).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => return Ok(html(StatusCode::PAYLOAD_TOO_LARGE)),
            Err(error) => return Err(SendError::new(SendErrorKind::RequestBody, error)),
        };
        Ok(match path.as_str() {
            "/kylin/login" if parts.method == Method::POST => self.log_in_by_form(&settings, &body),
            "/kylin/j_spring_security_logout" | "/kylin/api/j_spring_security_logout" => {
                self.log_out(&settings, &parts.headers, &origin)
            }
            // Tomcat before 8.5 makes an absolute address from `Host`, later versions a relative
            // one.
            "/kylin" if settings.dialect.facts().is_tomcat_7 => redirect(&format!("{origin}/kylin/")),
            "/kylin" => redirect("/kylin/"),
            "/kylin/" | "/kylin/index.html" => start_page(StatusCode::OK),
            _ => match path.strip_prefix("/kylin/api/") {
                Some(call) => {
                    let call = call.trim_end_matches('/').to_owned();
                    self.rest(call, parts, body, settings, &format!("{origin}{path}")).await
                }
                None if path.starts_with("/kylin/") => start_page(StatusCode::NOT_FOUND),
                None => html(StatusCode::NOT_FOUND),
            },
        })
    }

    /// Responds to a call of the REST interface: first the access check, then the handler.
    async fn rest(
        &self,
        path: String,
        parts: Parts,
        body: Bytes,
        settings: Arc<Settings>,
        url: &str,
    ) -> Response<Body> {
        let version = settings.version();
        let login = parts.method == Method::POST && path == "user/authentication";
        let (user, set_cookie) = match self.identify(&settings, &parts.headers, login) {
            Ok(identified) => identified,
            Err(denied) => return denied.render(version, url),
        };
        if let Err(denied) = admit(routes::access(settings.dialect, &path), user.as_ref()) {
            let mut response = denied.render(version, url);
            let cookie = settings.cookie();
            if version == KylinVersion::V5 && user.is_none() && cookie.ids(&parts.headers).is_empty() {
                // Spring keeps the refused request in a session, to continue with it after the
                // login.
                response.headers_mut().insert(header::SET_COOKIE, cookie.set(&settings.new_session_id()));
            }
            return response;
        }
        // A handler sees HEAD as GET. `send` removes the body.
        let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
        let params = Params::parse(parts.uri.query().unwrap_or(""));
        let call = Call { node: self.clone(), settings, method, path, params, headers: parts.headers, body, user };
        let mut response = match routes::route(&call).await {
            Some(Ok(response)) => response,
            Some(Err(failure)) => failure.render(version, url),
            None => no_such_path(version, url),
        };
        if let Some(set_cookie) = set_cookie {
            response.headers_mut().insert(header::SET_COOKIE, set_cookie);
        }
        response
    }

    /// Responds to Spring's login form. Success and failure are both redirected, and both set a
    /// session cookie.
    fn log_in_by_form(&self, settings: &Settings, body: &[u8]) -> Response<Body> {
        let form = Params::parse(&String::from_utf8_lossy(body));
        let (name, password) = (form.value("username").unwrap_or(""), form.value("password").unwrap_or(""));
        let checked = self.check_password(settings, name, password);
        if let (Err(denied), KylinVersion::V5) = (&checked, settings.version()) {
            return denied.render(settings.version(), "/kylin/login");
        }
        let user = checked.unwrap_or_default();
        let mut response = redirect(if user.is_some() { "/kylin/" } else { "/kylin/login?error" });
        let id = settings.new_session_id();
        response.headers_mut().insert(header::SET_COOKIE, settings.cookie().set(&id));
        if let Some(user) = user {
            self.session_table(settings).open(user, id);
        }
        response
    }

    fn log_out(&self, settings: &Settings, headers: &HeaderMap, origin: &str) -> Response<Body> {
        let sessions = self.session_table(settings);
        for id in settings.cookie().ids(headers) {
            sessions.end(&id);
        }
        let mut response = redirect(&format!("{origin}/kylin/"));
        response.headers_mut().insert(header::SET_COOKIE, DELETE_COOKIE);
        response
    }
}

/// Returns the response to HEAD: the length stays, but the body is removed.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}
