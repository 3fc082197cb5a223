//! Internal redirects, which lead a request to another location (`ngx_http_internal_redirect`,
//! `ngx_http_named_location`).

use std::sync::Arc;

use http::{HeaderValue, Method, Response, header, request};

use super::script::Rewritten;
use crate::Body;
use crate::nginx::directives::location::Location;
use crate::nginx::directives::server::Server;
use crate::nginx::directives::settings::{BlockSettings, ErrorPage, PageTarget};
use crate::nginx::serve::access_log::PendingRequest;
use crate::nginx::serve::response::set_status;
use crate::nginx::uri::{escape, has_dots};
use crate::nginx::variables::{Scope, Template};
use crate::proxy::ErrorResponse;

/// An internal redirect, by an error page or `try_files`.
pub(super) struct InternalRedirect<'s> {
    to: RedirectTarget<'s>,
    /// The request as earlier steps changed it, from [`Rewritten::redirected`].
    rewritten: Rewritten,
    /// The last error that led to a page.
    error: Option<PageError>,
    /// Whether a further error gets no page.
    is_last_page: bool,
    /// Whether the path of the request was refused, so that no node may get it.
    pub(super) is_refused: bool,
    /// The record of the request for logs, if a proxy has handled it before.
    pub(super) pending: Option<Arc<PendingRequest>>,
}

/// The destination of an internal redirect.
pub(super) enum RedirectTarget<'s> {
    Location(&'s Location),
    /// The location for this decoded path, with these arguments.
    Path {
        path: Vec<u8>,
        args: Vec<u8>,
    },
    /// The client is redirected instead of getting an error.
    Client(ClientRedirect<'s>),
}

/// A redirect of the client instead of an error.
pub(super) struct ClientRedirect<'s> {
    pub(super) status: u16,
    pub(super) to: Vec<u8>,
    /// The location with the error; `None` for the server itself.
    pub(super) location: Option<&'s Location>,
}

/// An error that has led a request to its page.
#[derive(Clone)]
pub(super) struct PageError {
    /// The status of the response to the client; `None` for the status of the page.
    status: Option<u16>,
    challenge: Option<HeaderValue>,
}

impl<'s> InternalRedirect<'s> {
    /// Leads a request with an error to its page. `before` is the error of the page on which this
    /// one occurred.
    ///
    /// # Errors
    /// The request has been led to too many locations.
    pub(super) fn to_page(
        to: RedirectTarget<'s>,
        page: &ErrorPage,
        settings: &BlockSettings,
        response: &mut Response<Body>,
        rewritten: &Rewritten,
        before: Option<&PageError>,
    ) -> Result<Self, ErrorResponse> {
        let mut rewritten = rewritten.redirected()?;
        if let RedirectTarget::Path { path, args } = &to {
            rewritten.set_path(path.clone(), args.clone());
        }
        let own = response.headers_mut().remove(header::WWW_AUTHENTICATE);
        let challenge = own.or_else(|| before.and_then(|before| before.challenge.clone()));
        let error = PageError { status: page.status(response.status().as_u16()), challenge };
        let is_last_page = settings.recursive_error_pages != Some(true) || matches!(to, RedirectTarget::Client(_));
        Ok(InternalRedirect { to, rewritten, error: Some(error), is_last_page, is_refused: false, pending: None })
    }

    /// Leads a request to the location of `try_files`; `None` if no location has the name. An error
    /// that led here is kept.
    ///
    /// # Errors
    /// The request has been led to too many locations.
    pub(super) fn to_files(
        server: &'s Server,
        name: &str,
        rewritten: &Rewritten,
        before: Option<&Self>,
    ) -> Result<Option<Self>, ErrorResponse> {
        let Some(location) = server.locations.named(name) else { return Ok(None) };
        Ok(Some(InternalRedirect {
            to: RedirectTarget::Location(location),
            rewritten: rewritten.redirected()?,
            error: before.and_then(|before| before.error.clone()),
            is_last_page: before.is_some_and(|before| before.is_last_page),
            is_refused: before.is_some_and(|before| before.is_refused),
            pending: before.and_then(|before| before.pending.clone()),
        }))
    }

    /// Returns the named location.
    pub(super) fn location(&self) -> Option<&'s Location> {
        if let RedirectTarget::Location(location) = self.to { Some(location) } else { None }
    }

    pub(super) fn client_redirect(&self) -> Option<&ClientRedirect<'s>> {
        if let RedirectTarget::Client(redirect) = &self.to { Some(redirect) } else { None }
    }

    pub(super) fn rewritten(&self) -> &Rewritten {
        &self.rewritten
    }

    pub(super) fn error(&self) -> Option<&PageError> {
        self.error.as_ref()
    }

    /// Returns whether a further error gets no page, as in nginx.
    pub(super) fn is_last_page(&self) -> bool {
        self.is_last_page
    }

    /// Changes the request for a page with a path: to a GET, as in nginx, and without a body.
    pub(super) fn prepare(&self, head: &mut request::Parts, body: &mut Body) {
        if let RedirectTarget::Path { .. } = self.to {
            if head.method != Method::HEAD {
                head.method = Method::GET;
            }
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove(header::TRANSFER_ENCODING);
            *body = Body::empty();
        }
    }
}

impl PageError {
    /// Returns the status of the response to the client; `None` for that of the page.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Gives a response the challenge of the error, and the status that the directive sets. As in
    /// nginx, a further error keeps its own status.
    pub(super) fn mark(&self, response: &mut Response<Body>, is_error: bool) {
        if let Some(status) = self.status.filter(|_| !is_error) {
            set_status(response, status);
        }
        if let Some(challenge) = &self.challenge {
            response.headers_mut().entry(header::WWW_AUTHENTICATE).or_insert_with(|| challenge.clone());
        }
    }
}

impl<'s> RedirectTarget<'s> {
    /// Returns the target of a page; `None` if it is not served. A target with variables needs the
    /// `scope`.
    pub(super) fn of(
        page: &'s ErrorPage,
        server: &'s Server,
        location: Option<&'s Location>,
        scope: Option<&Scope<'_>>,
    ) -> Option<Self> {
        let named = |name: &str| server.locations.named(name).map(RedirectTarget::Location);
        let value = |value: &Template| match value.as_literal() {
            Some(text) => Some(text.into()),
            None => Some(value.to_bytes(scope?)),
        };
        let client = |to| RedirectTarget::Client(ClientRedirect { status: page.redirect_status(), to, location });
        match &page.target {
            PageTarget::Named(name) => named(name),
            PageTarget::Path { path, args } => server
                .serves_page(path)
                .then(|| RedirectTarget::Path { path: path.clone().into(), args: args.clone().into() }),
            PageTarget::Redirect(to) => Some(client(value(to)?)),
            PageTarget::Computed(to) => {
                let to = value(to)?;
                match to.first() {
                    Some(b'/') => {
                        let at = to.iter().position(|byte| *byte == b'?');
                        let (path, args) = at.map_or((&to[..], &b""[..]), |at| (&to[..at], &to[at + 1..]));
                        // The path may go to a node, so it must not have dot segments.
                        let is_served = !has_dots(path) && server.responds_to(&escape(path));
                        is_served.then(|| RedirectTarget::Path { path: path.to_vec(), args: args.to_vec() })
                    }
                    Some(b'@') => named(&String::from_utf8_lossy(&to)),
                    Some(_) | None => Some(client(to)),
                }
            }
            PageTarget::Never => None,
        }
    }
}
