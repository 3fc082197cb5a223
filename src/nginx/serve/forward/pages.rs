//! The front end's own responses: `error_page` and `add_header`.

use http::{Extensions, Method, Request, Response, StatusCode, header, request};

use super::redirects::{InternalRedirect, PageError, RedirectTarget};
use super::script::Rewritten;
use crate::Body;
use crate::nginx::directives::location::{Action, Location};
use crate::nginx::directives::rewrite::Step;
use crate::nginx::directives::server::Server;
use crate::nginx::directives::settings::{ErrorPage, PageTarget};
use crate::nginx::serve::response::{self, set_status, with_status};
use crate::nginx::variables::{Outcome, Scope, Snapshot};
use crate::observe::Termination;
use crate::proxy::{BodyCopy, ErrorResponse};

/// The outcome of a response that the front end makes itself.
pub(super) enum Finished<'s> {
    Response(Response<Body>),
    /// Another location responds instead.
    Redirected(InternalRedirect<'s>),
}

/// The request, kept for the location of an error page.
pub(super) struct KeptRequest<'s> {
    server: &'s Server,
    location: &'s Location,
    head: Box<request::Parts>,
    rewritten: Rewritten,
    /// The error that led to the location.
    before: Option<PageError>,
    /// The variables, if error pages need them.
    variables: Option<Box<Snapshot>>,
    /// The copy of the body, if the location of the page may pass the request to a node.
    body: BodyCopy,
}

/// A request that goes to the location of an error page.
pub(super) struct PageRequest<'s> {
    pub(super) redirect: InternalRedirect<'s>,
    pub(super) head: request::Parts,
    pub(super) body: Body,
}

impl<'s> KeptRequest<'s> {
    /// Keeps a request if an error of the proxy may lead it to another location.
    pub(super) fn of(
        server: &'s Server,
        location: &'s Location,
        head: &request::Parts,
        extensions: &mut Extensions,
        rewritten: &Rewritten,
        before: Option<&InternalRedirect<'_>>,
    ) -> Option<Self> {
        if before.is_some_and(InternalRedirect::is_last_page) {
            return None;
        }
        let leads_on = |page: &&ErrorPage| match &page.target {
            PageTarget::Named(name) => server.locations.named(name).is_some(),
            PageTarget::Path { path, .. } => server.serves_page(path),
            PageTarget::Redirect(_) | PageTarget::Computed(_) => true,
            PageTarget::Never => false,
        };
        let mut pages = location.settings.error_pages.iter().filter(leads_on).peekable();
        pages.peek()?;
        let needs_body = pages.any(|page| match page.named() {
            Some(name) => server.locations.named(name).is_some_and(passes),
            None => page.target.may_be_named(),
        });
        let body = BodyCopy::new();
        let mut head = Box::new(head.clone());
        head.extensions = extensions.clone();
        if needs_body {
            extensions.insert(body.clone());
        }
        let before = before.and_then(InternalRedirect::error).cloned();
        Some(KeptRequest { server, location, head, rewritten: rewritten.clone(), before, variables: None, body })
    }

    /// Also keeps the variables, if error pages need them.
    pub(super) fn with_variables(self, scope: &Scope<'_>) -> Self {
        let mut pages = self.location.settings.error_pages.iter();
        let needs_variables = pages.any(|page| page.target.variables().is_some());
        KeptRequest { variables: needs_variables.then(|| Box::new(Snapshot::of(scope))), ..self }
    }

    /// Returns the target of a page for an error with this status.
    fn target(&self, page: &'s ErrorPage, status: u16) -> Option<RedirectTarget<'s>> {
        let of = |scope: Option<&Scope<'_>>| RedirectTarget::of(page, self.server, Some(self.location), scope);
        match &self.variables {
            Some(variables) => variables.with(Outcome::of_site(status), |scope| of(Some(scope))),
            None => of(None),
        }
    }

    /// Returns the request for the page. `None` if the page is not served, or the request cannot be
    /// sent to another node. The client then gets `response`.
    ///
    /// # Errors
    /// The request has been led to too many locations.
    fn into_page(
        self,
        page: &'s ErrorPage,
        has_body: bool,
        response: &mut Response<Body>,
    ) -> Result<Option<PageRequest<'s>>, ErrorResponse> {
        let Some(target) = self.target(page, response.status().as_u16()) else { return Ok(None) };
        let body = match &target {
            RedirectTarget::Location(location) if passes(location) => match has_body {
                _ if !may_be_passed_on(&self.head.method, response) => None,
                true => self.body.body(),
                false => Some(Body::empty()),
            },
            RedirectTarget::Location(_) | RedirectTarget::Path { .. } | RedirectTarget::Client(_) => {
                Some(Body::empty())
            }
        };
        let Some(body) = body else { return Ok(None) };
        let settings = &self.location.settings;
        let before = self.before.as_ref();
        let redirect = InternalRedirect::to_page(target, page, settings, response, &self.rewritten, before)?;
        Ok(Some(PageRequest { redirect, head: *self.head, body }))
    }
}

/// Returns the request for the error page of a response of the proxy.
///
/// If there is none, `response` becomes the response to the client. `kept` is `None` if no page
/// leads to a location. `asked` is `None` if `response` is never replaced.
pub(super) fn after_error<'s>(
    page: &'s ErrorPage,
    kept: Option<Box<KeptRequest<'s>>>,
    is_last_page: bool,
    has_body: bool,
    asked: Option<&request::Parts>,
    response: &mut Response<Body>,
) -> Option<PageRequest<'s>> {
    let is_of_node = !response::is_own_error(response);
    match kept.map(|kept| kept.into_page(page, has_body, response)) {
        Some(Ok(Some(led))) => return Some(led),
        Some(Err(error)) => replace(response, error, asked),
        Some(Ok(None)) | None => {
            if let Some(status) = page.status_without_page().filter(|_| !is_last_page) {
                set_status(response, status);
            }
            if is_of_node {
                replace(response, ErrorResponse::new(response.status(), INTERCEPTED), asked);
            }
        }
    }
    None
}

const INTERCEPTED: &str = "the node's error response is kept back by proxy_intercept_errors";

/// Returns the parts of a request that its error response uses.
pub(super) fn asked(head: &request::Parts) -> request::Parts {
    let (mut asked, ()) = Request::new(()).into_parts();
    (asked.uri, asked.version) = (head.uri.clone(), head.version);
    asked.headers.extend(head.headers.get(header::HOST).map(|host| (header::HOST, host.clone())));
    asked
}

/// Replaces a response by an error of the front end, with the same challenge.
fn replace(response: &mut Response<Body>, error: ErrorResponse, asked: Option<&request::Parts>) {
    let Some(asked) = asked else { return };
    let challenge = response.headers_mut().remove(header::WWW_AUTHENTICATE);
    let mut own = error.response_to(asked);
    own.headers_mut().extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    *own.extensions_mut() = std::mem::take(response.extensions_mut());
    *response = own;
}

/// A response that the front end makes itself, and its origin.
pub(super) struct OwnResponse<'s, 'r> {
    pub(super) response: Response<Body>,
    /// Whether nginx treats it as an error: see
    /// [`Reply::is_error`](crate::nginx::directives::reply::Reply::is_error).
    pub(super) is_error: bool,
    /// Whether the response refuses the path of the request.
    pub(super) is_refused: bool,
    pub(super) server: &'s Server,
    pub(super) location: Option<&'s Location>,
    /// The internal redirect that led the request there, if any.
    pub(super) before: Option<&'r InternalRedirect<'s>>,
}

impl<'s> OwnResponse<'s, '_> {
    /// Finishes the response: leads to the error page for its status, or adds the headers of the
    /// location.
    ///
    /// # Errors
    /// A header cannot be sent, or the request has been led to too many locations.
    pub(super) fn finish(self, scope: &Scope<'_>, rewritten: &Rewritten) -> Result<Finished<'s>, ErrorResponse> {
        let OwnResponse { mut response, is_error, is_refused, server, location, before } = self;
        let settings = location.map_or(&server.settings, |location| &location.settings);
        let status = response.status();
        let may_have_page = is_error && !before.is_some_and(InternalRedirect::is_last_page);
        let page = settings.error_pages.iter().find(|page| may_have_page && page.is_of(status.as_u16()));
        let before_error = before.and_then(InternalRedirect::error);
        if let Some(page) = page
            && let Some(target) = RedirectTarget::of(page, server, location, Some(&with_status(scope, status)))
        {
            let mut next = InternalRedirect::to_page(target, page, settings, &mut response, rewritten, before_error)?;
            next.pending = before.and_then(|before| before.pending.clone());
            next.is_refused = is_refused || before.is_some_and(|before| before.is_refused);
            return Ok(Finished::Redirected(next));
        }
        if let Some(status) = page.and_then(ErrorPage::status_without_page) {
            set_status(&mut response, status);
        }
        if let Some(error) = before_error {
            error.mark(&mut response, is_error);
        }
        response::add_headers(settings, scope, &mut response)?;
        Ok(Finished::Response(response))
    }
}

/// Returns whether a location may pass requests to a node.
fn passes(location: &Location) -> bool {
    location.forms().iter().any(|form| matches!(form.action, Action::Proxy(_)))
        || !location.script.iter().all(Step::stays)
}

/// Returns whether a request may go to another node after an error: no node can have executed it,
/// or its method is safe.
fn may_be_passed_on(method: &Method, response: &Response<Body>) -> bool {
    use Termination as T;

    match response.extensions().get::<Termination>() {
        _ if method.is_safe() => true,
        Some(termination) => matches!(
            termination,
            T::NoEndpoint | T::Overflow | T::QueueFull | T::QueueTimeout | T::ConnectFailed | T::ConnectTimeout
        ),
        // The node says that it has nothing that could execute the request (RFC 9110, 15.5 and
        // 15.6).
        None => matches!(
            response.status(),
            StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::MISDIRECTED_REQUEST
                | StatusCode::NOT_IMPLEMENTED
        ),
    }
}
