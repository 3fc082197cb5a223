//! The way of one request through the node: faults, filter chain, handler, and what is counted on the way.

use std::future::pending;
use std::io;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};

use crate::backend::{Backend, SendError, SendErrorKind};
use crate::body::{Body, BoxError};
use crate::kylin::KylinVersion;
use crate::testing::kylin::KylinNode;
use crate::testing::kylin::api::access::{Caller, Denied, Rejection, admit};
use crate::testing::kylin::api::call::{self, Call};
use crate::testing::kylin::api::catalog::request_id;
use crate::testing::kylin::api::demo;
use crate::testing::kylin::api::path::{Params, normalise};
use crate::testing::kylin::api::response::{self, Failure, html, redirect, start_page};
use crate::testing::kylin::data::sessions::Cookie;
use crate::testing::kylin::data::stats::InFlight;
use crate::testing::kylin::faults::{Fault, ResetSwitch};
use crate::testing::kylin::settings::Settings;

/// The largest request body that is read into memory; those below `/demo/` are streamed.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Why a request is left without an answer.
pub(crate) enum NoAnswer {
    /// [`Fault::Unreachable`]: nothing was done.
    Unreachable(Box<Request<Body>>),
    /// [`Fault::Close`]: it was done.
    Closed,
    /// The sender broke the request's body off.
    RequestBody(BoxError),
}

impl Backend for KylinNode {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        self.answer(request).await.map_err(|reason| match reason {
            NoAnswer::Unreachable(request) => {
                SendError::new(SendErrorKind::Connect, io::Error::from(io::ErrorKind::ConnectionRefused))
                    .with_request(*request)
            }
            NoAnswer::Closed => SendError::new(SendErrorKind::Broken, io::Error::from(io::ErrorKind::UnexpectedEof)),
            NoAnswer::RequestBody(error) => SendError::new(SendErrorKind::RequestBody, error),
        })
    }
}

impl KylinNode {
    /// Answers `request`, and counts it until the answer's body has ended.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, NoAnswer> {
        let path = normalise(request.uri().path());
        let fault = self.faults().strike(path.as_deref().unwrap_or(""));
        if fault == Some(Fault::Unreachable) {
            return Err(NoAnswer::Unreachable(Box::new(request)));
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
            (_, Some(path)) if path.starts_with("/demo/") => demo::answer(&path, request).await?,
            (_, Some(path)) => self.web(path, request).await?,
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.inner.counts.add(|stats| stats.unauthorized += 1);
        }
        match fault {
            Some(Fault::Hang) => pending().await,
            Some(fault) if fault.cuts() => {
                in_flight.end();
                response = fault.cut(response, is_head, switch).ok_or(NoAnswer::Closed)?;
            }
            _ => {}
        }
        if is_head {
            response = without_body(response);
        }
        Ok(response.map(|body| body.on_end(in_flight)))
    }

    /// Answers for the web server: the request's body is read, and `path` leads to the REST interface or to the pages.
    async fn web(&self, path: String, request: Request<Body>) -> Result<Response<Body>, NoAnswer> {
        let settings = self.settings();
        let (parts, body) = request.into_parts();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(|authority| authority.as_str())).unwrap_or("localhost:7070");
        let origin = format!("http://{host}");
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Ok(html(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Err(error) => return Err(NoAnswer::RequestBody(error)),
        };
        if path == "/kylin/login" && parts.method == Method::POST {
            return Ok(self.log_in_by_form(&settings, &body));
        }
        let Some(call) = path.strip_prefix("/kylin/api/") else {
            return Ok(self.page(&settings, &path, &parts.headers, &origin));
        };
        if call == "j_spring_security_logout" {
            return Ok(self.log_out(&settings, &parts.headers, &origin));
        }
        let url = format!("{origin}{path}");
        let call = call.trim_end_matches('/').to_owned();
        Ok(self.rest(call, parts, body, settings, &url).await)
    }

    /// Answers a call of the REST interface: first the filter chain, then the handler.
    async fn rest(
        &self,
        path: String,
        parts: Parts,
        body: bytes::Bytes,
        settings: std::sync::Arc<Settings>,
        url: &str,
    ) -> Response<Body> {
        let dialect = settings.version;
        let login = parts.method == Method::POST && path == "user/authentication";
        let (user, cookie) = match self.identify(&settings, &parts.headers, login) {
            Caller::Nobody => (None, None),
            Caller::Known(user, cookie) => (Some(user), cookie),
            Caller::Unwritten => return response::unwritten_session(),
            Caller::Rejected(Rejection::Credentials) => return Denied::Unauthorized.render(dialect, url),
            Caller::Rejected(Rejection::MetastoreDown) => return Failure::metastore_down().render(dialect, url),
        };
        let needed = call::access(dialect, &path);
        if let Err(denied) = admit(needed, user.as_ref()) {
            let mut response = denied.render(dialect, url);
            if dialect == KylinVersion::V5 && user.is_none() && settings.cookie().ids(&parts.headers).is_empty() {
                // Spring keeps what was asked for in a session, to go on with it after the login.
                let cookie = settings.cookie();
                response.headers_mut().insert(header::SET_COOKIE, cookie.set(&cookie.new_id()));
            }
            return response;
        }
        // A handler sees HEAD as GET; the body is taken off at the end.
        let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
        let params = Params::parse(parts.uri.query().unwrap_or(""));
        let call = Call { node: self.clone(), settings, method, path, params, headers: parts.headers, body, user };
        let mut response = match call::route(&call).await {
            Some(Ok(response)) => response,
            Some(Err(failure)) => failure.render(dialect, url),
            None => start_page(StatusCode::NOT_FOUND),
        };
        if let Some(cookie) = cookie {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }

    /// Pages outside of the REST interface.
    fn page(&self, settings: &Settings, path: &str, headers: &HeaderMap, origin: &str) -> Response<Body> {
        match path {
            // Tomcat before 8.5 makes an absolute address out of `Host`, later ones a relative one.
            "/kylin" if settings.version == KylinVersion::V4 => redirect(&format!("{origin}/kylin/")),
            "/kylin" => redirect("/kylin/"),
            "/kylin/" | "/kylin/index.html" => start_page(StatusCode::OK),
            "/kylin/j_spring_security_logout" => self.log_out(settings, headers, origin),
            _ if path.starts_with("/kylin/") => start_page(StatusCode::NOT_FOUND),
            _ => html(StatusCode::NOT_FOUND),
        }
    }

    /// Spring's login form: success and failure are both redirected, and a failure leaves a session behind as well.
    fn log_in_by_form(&self, settings: &Settings, body: &[u8]) -> Response<Body> {
        let form = Params::parse(&String::from_utf8_lossy(body));
        let (name, password) = (form.value("username").unwrap_or(""), form.value("password").unwrap_or(""));
        let user = settings.metastore.check_password(name, password);
        self.inner.counts.add(|stats| match user {
            Some(_) => stats.logins += 1,
            None => stats.wrong_passwords += 1,
        });
        let mut response = redirect(if user.is_some() { "/kylin/" } else { "/kylin/login?error" });
        let id = settings.cookie().new_id();
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
        response.headers_mut().insert(header::SET_COOKIE, Cookie::DELETE);
        response
    }
}

/// The head of an answer to HEAD: the length stays, the body goes.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| Body::empty())
}
