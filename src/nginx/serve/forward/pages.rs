//! The front end's own responses: `error_page` and `add_header`.

use std::sync::Arc;

use http::{Extensions, HeaderValue, Method, Request, Response, StatusCode, header, request};

use super::script::Rewritten;
use crate::Body;
use crate::nginx::directives::location::{Action, Location};
use crate::nginx::directives::rewrite::Step;
use crate::nginx::directives::server::Server;
use crate::nginx::directives::settings::{ErrorPage, PageTarget};
use crate::nginx::serve::access_log::PendingRequest;
use crate::nginx::serve::response;
use crate::nginx::variables::{Scope, Template};
use crate::observe::Termination;
use crate::proxy::{BodyCopy, ErrorResponse};

/// Where a request goes after an error, or because of `try_files`.
pub(super) struct Named<'s> {
    to: To<'s>,
    error: Option<NamedError<'s>>,
    /// The changes that earlier steps made to the request.
    pub(super) rewritten: Rewritten,
    /// The facts of the request that logs need, if a proxy had it before.
    pub(super) pending: Option<Arc<PendingRequest>>,
    /// The number of error pages so far.
    pages: u8,
}

/// The target of an error page.
enum To<'s> {
    Location(&'s Location),
    /// The location for the path that the request has now.
    Path,
    Redirect(Redirect<'s>),
}

/// A redirect in place of an error.
#[derive(Clone, Copy)]
pub(super) struct Redirect<'s> {
    pub(super) status: u16,
    pub(super) to: &'s Template,
    /// The location with the error; `None` for the server itself.
    pub(super) location: Option<&'s Location>,
}

/// The error that has led a request to a named location, and its `error_page` line.
struct NamedError<'s> {
    page: &'s ErrorPage,
    status: u16,
    challenge: Option<HeaderValue>,
    /// `recursive_error_pages on` where it occurred.
    is_recursive: bool,
}

/// The number of error pages that may follow each other, as in nginx.
const MAX_PAGES: u8 = 10;

/// The outcome of a response without a node.
pub(super) enum Finished<'s> {
    Response(Response<Body>),
    /// A named location responds in its place.
    Named(Named<'s>),
}

/// The request, kept for the location of an error page.
pub(super) struct KeptRequest<'s> {
    server: &'s Server,
    location: &'s Location,
    head: Box<request::Parts>,
    rewritten: Rewritten,
    /// The number of error pages so far.
    pages: u8,
    /// Receives the body, if the location of the page may pass the request to a node.
    body: BodyCopy,
}

impl<'s> Named<'s> {
    /// Leads a request with an error to its page; `None` if the page is not served.
    fn new(
        page: &'s ErrorPage,
        server: &'s Server,
        location: Option<&'s Location>,
        response: &mut Response<Body>,
        mut rewritten: Rewritten,
        pages: u8,
    ) -> Option<Self> {
        let to = To::of(page, server, location)?;
        if let (To::Path, PageTarget::Path { path, args }) = (&to, &page.target) {
            rewritten.lead_to(path, args);
        }
        let challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
        let settings = location.map_or(&server.settings, |location| &location.settings);
        let is_recursive = settings.recursive_error_pages == Some(true);
        let error = Some(NamedError { page, status: response.status().as_u16(), challenge, is_recursive });
        Some(Named { to, error, rewritten, pending: None, pages: pages + 1 })
    }

    /// Leads a request to the location of `try_files`; `None` if there is none of this name.
    pub(super) fn of_files(server: &'s Server, name: &str, rewritten: Rewritten) -> Option<Self> {
        let to = To::Location(server.locations.named(name)?);
        Some(Named { to, error: None, rewritten, pending: None, pages: 0 })
    }

    /// Returns the named location.
    pub(super) fn location(&self) -> Option<&'s Location> {
        if let To::Location(location) = self.to { Some(location) } else { None }
    }

    pub(super) fn redirect(&self) -> Option<Redirect<'s>> {
        if let To::Redirect(redirect) = self.to { Some(redirect) } else { None }
    }

    /// Makes the request what nginx makes it for a page with a path: a GET without a body.
    pub(super) fn prepare(&self, head: &mut request::Parts, body: &mut Body) {
        if let To::Path = self.to {
            if head.method != Method::HEAD {
                head.method = Method::GET;
            }
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove(header::TRANSFER_ENCODING);
            *body = Body::empty();
        }
    }

    /// Returns whether another error has no page, as in nginx.
    pub(super) fn is_last_page(&self) -> bool {
        self.pages >= MAX_PAGES || self.error.as_ref().is_some_and(|error| !error.is_recursive)
    }

    /// Gives a response the challenge of the error, and the status that the line asks for. As in nginx, an error on the way to the
    /// page keeps its own status.
    pub(super) fn mark(&self, response: &mut Response<Body>, is_error: bool) {
        let Some(NamedError { page, status, challenge, .. }) = &self.error else { return };
        if !is_error {
            let status = page.status(*status, response.status().as_u16());
            set_status(response, status);
        }
        if let Some(challenge) = challenge {
            response.headers_mut().entry(header::WWW_AUTHENTICATE).or_insert_with(|| challenge.clone());
        }
    }
}

impl<'s> To<'s> {
    /// Returns the target of a page; `None` if it is not served.
    fn of(page: &'s ErrorPage, server: &'s Server, location: Option<&'s Location>) -> Option<Self> {
        match &page.target {
            PageTarget::Named(name) => server.locations.named(name).map(To::Location),
            PageTarget::Path { path, .. } => server.serves_page(path).then_some(To::Path),
            PageTarget::Redirect(status, to) => Some(To::Redirect(Redirect { status: *status, to, location })),
            PageTarget::Never => None,
        }
    }
}

impl<'s> KeptRequest<'s> {
    /// Keeps a request if an error of the proxy may lead it to another location.
    pub(super) fn of(
        server: &'s Server,
        location: &'s Location,
        head: &request::Parts,
        extensions: &mut Extensions,
        rewritten: &Rewritten,
        named: Option<&Named<'_>>,
    ) -> Option<Self> {
        if named.is_some_and(Named::is_last_page) {
            return None;
        }
        let pages = location.settings.error_pages.iter();
        let mut targets = pages.filter_map(|page| To::of(page, server, Some(location))).peekable();
        targets.peek()?;
        let body = BodyCopy::new();
        let mut head = Box::new(head.clone());
        head.extensions = extensions.clone();
        if targets.any(|to| matches!(to, To::Location(location) if passes(location))) {
            extensions.insert(body.clone());
        }
        let pages = named.map_or(0, |named| named.pages);
        Some(KeptRequest { server, location, head, rewritten: rewritten.clone(), pages, body })
    }

    /// Returns where a page leads with head and body of its request. `None` if the page is not served, or the request cannot be sent
    /// to another node; then the client gets `response`.
    fn into_page(
        self,
        page: &'s ErrorPage,
        has_body: bool,
        response: &mut Response<Body>,
    ) -> Option<(Named<'s>, request::Parts, Body)> {
        let body = match To::of(page, self.server, Some(self.location))? {
            To::Location(location) if passes(location) => match has_body {
                _ if !may_be_passed_on(&self.head.method, response) => return None,
                true => self.body.body()?,
                false => Body::empty(),
            },
            To::Location(_) | To::Path | To::Redirect(_) => Body::empty(),
        };
        let named = Named::new(page, self.server, Some(self.location), response, self.rewritten, self.pages)?;
        Some((named, *self.head, body))
    }
}

/// Returns where the page for a response of the proxy leads, with head and body of its request. Without that, the client gets `response`
/// with the status of the page. `asked` is the request where nodes' errors are kept back.
pub(super) fn lead_on<'s>(
    page: &'s ErrorPage,
    kept: Option<Box<KeptRequest<'s>>>,
    has_body: bool,
    asked: Option<request::Parts>,
    response: &mut Response<Body>,
) -> Option<(Named<'s>, request::Parts, Body)> {
    let is_of_node = !response::is_own_error(response);
    if let Some(led) = kept.and_then(|kept| kept.into_page(page, has_body, response)) {
        return Some(led);
    }
    if let Some(status) = page.status_without_page() {
        set_status(response, status);
    }
    if let Some(asked) = asked.filter(|_| is_of_node) {
        replace(response, &asked);
    }
    None
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
fn replace(response: &mut Response<Body>, asked: &request::Parts) {
    let challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
    let mut own = ErrorResponse::new(response.status(), INTERCEPTED).response_to(asked);
    own.headers_mut().extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    *own.extensions_mut() = std::mem::take(response.extensions_mut());
    *response = own;
}

/// Decides what the client gets for a response without a node: that of the page for its status if there is one, else the response
/// itself with the headers of the location. `is_error` is as of [`Reply::is_error`](crate::nginx::directives::reply::Reply::is_error),
/// `named` where an error has led to.
pub(super) fn finish<'s>(
    mut response: Response<Body>,
    server: &'s Server,
    location: Option<&'s Location>,
    scope: &Scope<'_>,
    rewritten: &Rewritten,
    is_error: bool,
    named: Option<&Named<'_>>,
) -> Result<Finished<'s>, ErrorResponse> {
    let settings = location.map_or(&server.settings, |location| &location.settings);
    let status = response.status().as_u16();
    let may_have_page = is_error && !named.is_some_and(Named::is_last_page);
    let page = settings.error_pages.iter().find(|page| may_have_page && page.is_of(status));
    if let Some(page) = page {
        let pages = named.map_or(0, |named| named.pages);
        if let Some(next) = Named::new(page, server, location, &mut response, rewritten.clone(), pages) {
            return Ok(Finished::Named(next));
        }
    }
    match named.filter(|named| named.error.is_some()) {
        Some(named) => named.mark(&mut response, is_error),
        None => {
            if let Some(status) = page.and_then(ErrorPage::status_without_page) {
                set_status(&mut response, status);
            }
        }
    }
    response::add_headers(settings, scope, &mut response)?;
    Ok(Finished::Response(response))
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

fn set_status(response: &mut Response<Body>, status: u16) {
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
}
