//! The changes to a node's response, and the responses that a location gives itself.

mod headers;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, request};

use self::headers::{HeaderFilters, Variables};
use super::access_log::PendingRequest;
use crate::Body;
use crate::nginx::directives::location::{Location, ProxyPass, Redirects};
use crate::nginx::directives::reply::Reply;
use crate::nginx::directives::settings::{BlockSettings, CookieEdits, ErrorPage};
use crate::nginx::uri::escape;
use crate::nginx::variables::{Outcome, Scope, Unsendable};
use crate::observe::Termination;
use crate::proxy::ErrorResponse;

pub(super) const NOT_FOUND: ErrorResponse =
    ErrorResponse::new(StatusCode::NOT_FOUND, "no location is configured for the path");

pub(super) const BAD_PATH: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_REQUEST, "the path of the request is not valid");

const NOT_FOLLOWED: ErrorResponse = ErrorResponse::new(
    StatusCode::BAD_GATEWAY,
    "the node asks for another path with X-Accel-Redirect, which is not followed",
);

/// The changes to a node's response, computed before the request is sent.
pub(super) struct ResponseEdits<'s> {
    settings: &'s BlockSettings,
    filters: HeaderFilters<'s>,
    redirects: Redirects<'s>,
    /// The front end as the client names it.
    front: Front,
    cookies: CookieEdits<'s>,
}

/// The scheme and host of a request.
struct Front {
    is_tls: bool,
    host: Option<HeaderValue>,
}

impl Front {
    fn of(scope: &Scope<'_>) -> Self {
        Front { is_tls: scope.tls.is_some(), host: scope.headers.get(header::HOST).cloned() }
    }
}

impl<'s> ResponseEdits<'s> {
    pub(super) fn new(
        settings: &'s BlockSettings,
        pass: &'s ProxyPass,
        scope: &Scope<'_>,
    ) -> Result<Self, ErrorResponse> {
        Ok(ResponseEdits {
            settings,
            filters: HeaderFilters::new(settings, scope)?,
            redirects: pass.redirects(settings, scope),
            front: Front::of(scope),
            cookies: pass.cookies(settings, scope),
        })
    }

    /// Returns the `error_page` directive for a response of the proxy itself. With
    /// `proxy_intercept_errors`, also for a response of a node, whose errors otherwise reach the
    /// client.
    pub(super) fn page(&self, response: &Response<Body>) -> Option<&'s ErrorPage> {
        let status = response.status().as_u16();
        let mut pages = self.settings.error_pages.iter();
        match is_own_error(response) {
            false if self.intercepts() => pages.find(|page| page.is_of(status)),
            false => None,
            true => pages.find(|page| page.is_for(status)),
        }
    }

    /// Returns an error in place of a node's response with `X-Accel-Redirect`. Such a response asks
    /// nginx to serve another path, and is usually empty.
    pub(super) fn unserved(&self, response: &Response<Body>) -> Option<Response<Body>> {
        let leads_on = response.headers().contains_key("x-accel-redirect") && !self.settings.ignores_accel_redirect;
        if !leads_on || is_own_error(response) {
            return None;
        }
        tracing::warn!("a node's response has X-Accel-Redirect, which is not followed; the client gets a 502");
        Some(NOT_FOLLOWED.response_to(&Request::new(()).into_parts().0))
    }

    /// Removes the body of a request if the node gets none. The location has checked the declared
    /// length before.
    pub(super) fn without_body(&self, head: &mut request::Parts, body: Body) -> Body {
        if !self.settings.drops_body {
            return body;
        }
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::TRANSFER_ENCODING);
        Body::empty()
    }

    /// Returns whether error pages also replace responses of nodes.
    pub(super) fn intercepts(&self) -> bool {
        self.settings.intercept_errors == Some(true)
    }

    pub(super) fn apply(self, mut response: Response<Body>, pending: Option<&PendingRequest>) -> Response<Body> {
        let headers = response.headers_mut();
        let hidden: Vec<_> = headers.keys().filter(|name| self.settings.hides(name)).cloned().collect();
        for name in hidden {
            headers.remove(name);
        }
        if !self.cookies.is_empty() && headers.contains_key(header::SET_COOKIE) {
            let changed = headers.get_all(header::SET_COOKIE).iter().map(|cookie| match cookie.to_str() {
                Ok(text) => {
                    HeaderValue::from_maybe_shared(Bytes::from(self.cookies.apply(text))).unwrap_or(cookie.clone())
                }
                Err(_) => cookie.clone(),
            });
            let changed: Vec<_> = changed.collect();
            headers.remove(header::SET_COOKIE);
            for cookie in changed {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
        if let Some(location) = headers.get(header::LOCATION)
            && let Some(changed) = self.redirected(location.as_bytes())
        {
            headers.insert(header::LOCATION, changed);
        }
        self.filters.apply(&mut response, pending.map(Variables::OfNode));
        if let Some(pending) = pending {
            pending.sent(&response);
        }
        response
    }

    fn redirected(&self, location: &[u8]) -> Option<HeaderValue> {
        let mut rules = self.redirects.iter();
        let changed = rules.find_map(|change| change.apply(location));
        changed.and_then(|changed| redirect_target(changed, &self.front).ok())
    }
}

/// Returns whether a response is an error of the proxy itself, not one of a node.
pub(super) fn is_own_error(response: &Response<Body>) -> bool {
    response.extensions().get::<Termination>().is_some()
}

/// Sets a status that the file gives, if it is valid.
pub(super) fn set_status(response: &mut Response<Body>, status: u16) {
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
}

/// The content type of a redirect. nginx sends a page with this type, and a `map` may depend on it.
const OF_REDIRECTS: HeaderValue = HeaderValue::from_static("text/html");

/// Makes the response of a `return`, without added headers.
pub(super) fn reply(
    reply: &Reply,
    settings: &BlockSettings,
    scope: &Scope<'_>,
) -> Result<Response<Body>, ErrorResponse> {
    // nginx closes the connection without a response. Browsers and JDKs would then send the request
    // again.
    let status = if reply.closes() { Ok(StatusCode::FORBIDDEN) } else { StatusCode::from_u16(reply.status) };
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let scope = &with_status(scope, status);
    let text = reply.text.as_ref().map(|text| text.to_bytes(scope)).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let to = reply.location.as_ref().map(|location| location.to_bytes(scope)).unwrap_or_default();
    if !to.is_empty() {
        response.headers_mut().insert(header::LOCATION, redirect_target(to, &Front::of(scope))?);
    }
    let by_extension = settings.types.of(scope.path).filter(|_| reply.text.is_some() || reply.status < 300);
    let default_type = || settings.default_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok());
    let kind = by_extension.or_else(default_type);
    if reply.closes() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let kind = match reply.status {
        // Responses without a body have no type.
        204 | 304 | 444 => None,
        301 | 302 | 303 | 307 | 308 => Some(OF_REDIRECTS),
        _ => Some(kind.unwrap_or(HeaderValue::from_static("text/plain"))),
    };
    response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
    Ok(response)
}

/// Makes the redirect of a `rewrite`, without added headers.
pub(super) fn redirect_to(status: u16, to: Vec<u8>, scope: &Scope<'_>) -> Result<Response<Body>, ErrorResponse> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    response.headers_mut().insert(header::LOCATION, redirect_target(to, &Front::of(scope))?);
    response.headers_mut().insert(header::CONTENT_TYPE, OF_REDIRECTS);
    Ok(response)
}

/// Returns the `Location` of a redirect.
///
/// A client reads `//x` and `/\x` as the host `x`. So such a path is sent with scheme and host, as
/// nginx does with every path.
fn redirect_target(mut to: Vec<u8>, front: &Front) -> Result<HeaderValue, ErrorResponse> {
    // Clients drop tabs.
    if let [b'/', b'/' | b'\\' | b'\t', ..] = to[..] {
        let scheme: &[u8] = if front.is_tls { b"https://" } else { b"http://" };
        let host = front.host.as_ref().map(HeaderValue::as_bytes).filter(|host| !host.is_empty());
        to = [scheme, host.ok_or(BAD_PATH)?, &to].concat();
    }
    HeaderValue::from_maybe_shared(Bytes::from(to)).map_err(|_| Unsendable.into())
}

/// Redirects a path that lacks the trailing slash of the location.
///
/// The redirect is relative, because the client knows the scheme and port.
pub(super) fn redirect(location: &Location, scope: &Scope<'_>) -> Result<Response<Body>, ErrorResponse> {
    let path = escape(location.matcher.text().as_bytes());
    let query = scope.query();
    let to = if query.is_empty() { path.into_bytes() } else { [path.as_bytes(), b"?", query].concat() };
    redirect_to(301, to, scope)
}

/// Adds the headers of a block to a response of the front end.
pub(super) fn add_headers(
    settings: &BlockSettings,
    scope: &Scope<'_>,
    response: &mut Response<Body>,
) -> Result<(), ErrorResponse> {
    HeaderFilters::new(settings, scope)?.apply(response, Some(Variables::OfSite(scope)));
    Ok(())
}

/// Returns the scope of a request that gets a response of the site itself.
pub(super) fn with_status<'r>(scope: &Scope<'r>, status: StatusCode) -> Scope<'r> {
    Scope { outcome: Some(Outcome::of_site(status.as_u16())), ..*scope }
}

impl From<Unsendable> for ErrorResponse {
    fn from(_: Unsendable) -> Self {
        ErrorResponse::new(StatusCode::BAD_REQUEST, "the request would make a header that cannot be sent")
    }
}
