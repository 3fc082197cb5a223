//! The front end's own responses: `error_page` and `add_header`.

use std::sync::Arc;

use http::{Extensions, HeaderValue, Method, Request, Response, StatusCode, header, request};

use super::script::Rewritten;
use crate::Body;
use crate::nginx::directives::location::{Action, Location};
use crate::nginx::directives::rewrite::Step;
use crate::nginx::directives::server::Server;
use crate::nginx::directives::settings::{BlockSettings, ErrorPage};
use crate::nginx::serve::access_log::PendingRequest;
use crate::nginx::serve::response;
use crate::nginx::variables::Scope;
use crate::observe::Termination;
use crate::proxy::{BodyCopy, ErrorResponse};

/// The named location that a request goes to after an error, or because of `try_files`.
pub(super) struct Named<'s> {
    pub(super) location: &'s Location,
    error: Option<NamedError<'s>>,
    /// The changes that earlier steps made to the request.
    pub(super) rewritten: Rewritten,
    /// The facts of the request that logs need, if a proxy had it before.
    pub(super) pending: Option<Arc<PendingRequest>>,
}

/// The error that has led a request to a named location, and its `error_page` line.
struct NamedError<'s> {
    page: &'s ErrorPage,
    status: u16,
    challenge: Option<HeaderValue>,
}

/// The outcome of a response without a node.
pub(super) enum Finished<'s> {
    Response(Response<Body>),
    /// A named location responds in its place.
    Named(Named<'s>),
}

/// The request, kept for the location of an error page.
pub(super) struct KeptRequest<'s> {
    server: &'s Server,
    head: Box<request::Parts>,
    rewritten: Rewritten,
    /// Receives the body, if the location of the page may pass the request to a node.
    body: BodyCopy,
}

impl<'s> Named<'s> {
    pub(super) fn new(
        page: &'s ErrorPage,
        location: &'s Location,
        response: &mut Response<Body>,
        rewritten: Rewritten,
    ) -> Self {
        let challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
        let error = Some(NamedError { page, status: response.status().as_u16(), challenge });
        Named { location, error, rewritten, pending: None }
    }

    /// Leads a request to the location of `try_files`; `None` if there is none of this name.
    pub(super) fn of_files(server: &'s Server, name: &str, rewritten: Rewritten) -> Option<Self> {
        Some(Named { location: server.locations.named(name)?, error: None, rewritten, pending: None })
    }

    /// Returns whether an error has led the request here. As in nginx, another error on the way has no page.
    pub(super) fn is_after_error(&self) -> bool {
        self.error.is_some()
    }

    /// Gives a response the challenge of the error, and the status that the line asks for. As in nginx, an error on the way to the
    /// page keeps its own status.
    pub(super) fn mark(&self, response: &mut Response<Body>, is_error: bool) {
        let Some(NamedError { page, status, challenge }) = &self.error else { return };
        if !is_error {
            set_status(response, page, *status);
        }
        if let Some(challenge) = challenge {
            response.headers_mut().entry(header::WWW_AUTHENTICATE).or_insert_with(|| challenge.clone());
        }
    }
}

impl<'s> KeptRequest<'s> {
    /// Keeps a request if an error of the proxy may lead it to another location.
    pub(super) fn of(
        server: &'s Server,
        settings: &BlockSettings,
        head: &request::Parts,
        extensions: &mut Extensions,
        rewritten: &Rewritten,
    ) -> Option<Self> {
        let mut locations = settings.error_pages.iter().filter_map(|page| location(page, server)).peekable();
        locations.peek()?;
        let body = BodyCopy::new();
        let mut head = Box::new(head.clone());
        head.extensions = extensions.clone();
        if locations.any(passes) {
            extensions.insert(body.clone());
        }
        Some(KeptRequest { server, head, rewritten: rewritten.clone(), body })
    }

    /// Returns the location of a page with head and body of its request. `None` if the line has no location, or the request cannot be sent
    /// to another node; then the client gets `response`.
    pub(super) fn into_location(
        self,
        page: &'s ErrorPage,
        has_body: bool,
        response: &mut Response<Body>,
    ) -> Option<(Named<'s>, request::Parts, Body)> {
        let Some(location) = location(page, self.server) else {
            let status = response.status().as_u16();
            set_status(response, page, status);
            return None;
        };
        let body = match passes(location) {
            false => Body::empty(),
            true if !may_be_passed_on(&self.head.method, response) => return None,
            true if has_body => self.body.body()?,
            true => Body::empty(),
        };
        Some((Named::new(page, location, response, self.rewritten), *self.head, body))
    }
}

const INTERCEPTED: &str = "the node's error response is kept back by proxy_intercept_errors";

/// Returns the facts of a request that its error response shows.
pub(super) fn asked(head: &request::Parts) -> request::Parts {
    let (mut asked, ()) = Request::new(()).into_parts();
    (asked.uri, asked.version) = (head.uri.clone(), head.version);
    asked.headers.extend(head.headers.get(header::HOST).map(|host| (header::HOST, host.clone())));
    asked
}

/// Replaces a node's error response by one of the front end, with the same status and challenge.
pub(super) fn replace(response: &mut Response<Body>, asked: &request::Parts) {
    let challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
    let mut own = ErrorResponse::new(response.status(), INTERCEPTED).response_to(asked);
    own.headers_mut().extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    *own.extensions_mut() = std::mem::take(response.extensions_mut());
    *response = own;
}

/// Decides what the client gets for a response without a node: that of the page for its status if there is one, else the response
/// itself with the headers of `settings`. `is_error` is as of [`Reply::is_error`](crate::nginx::directives::reply::Reply::is_error),
/// `named` the location that an error has led to.
pub(super) fn finish<'s>(
    mut response: Response<Body>,
    server: &'s Server,
    settings: &'s BlockSettings,
    scope: &Scope<'_>,
    rewritten: &Rewritten,
    is_error: bool,
    named: Option<&Named<'_>>,
) -> Result<Finished<'s>, ErrorResponse> {
    let status = response.status().as_u16();
    match named.filter(|named| named.is_after_error()) {
        // As in nginx, an error on the way to a page has no page.
        Some(named) => named.mark(&mut response, is_error),
        None => {
            if let Some(page) = settings.error_pages.iter().find(|page| is_error && page.is_of(status)) {
                if let Some(location) = location(page, server) {
                    return Ok(Finished::Named(Named::new(page, location, &mut response, rewritten.clone())));
                }
                set_status(&mut response, page, status);
            }
        }
    }
    response::add_headers(settings, scope, &mut response)?;
    Ok(Finished::Response(response))
}

/// Returns the named location of a page.
fn location<'s>(page: &ErrorPage, server: &'s Server) -> Option<&'s Location> {
    server.locations.named(page.named.as_ref()?)
}

/// Returns whether a location may pass requests to a node.
fn passes(location: &Location) -> bool {
    location.forms().iter().any(|form| matches!(form.action, Action::Proxy(_)))
        || !location.script.iter().all(Step::stays)
}

/// Returns whether a request may go to another node after an error of the proxy: no node can have executed it, or it changes nothing.
fn may_be_passed_on(method: &Method, response: &Response<Body>) -> bool {
    use Termination as T;

    let termination = response.extensions().get::<Termination>();
    method.is_safe() || matches!(termination, Some(T::NoEndpoint | T::Overflow | T::ConnectFailed | T::ConnectTimeout))
}

pub(super) fn set_status(response: &mut Response<Body>, page: &ErrorPage, of_error: u16) {
    let status = page.status(of_error, response.status().as_u16());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
}
