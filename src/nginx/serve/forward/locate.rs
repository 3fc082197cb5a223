//! Finds what serves a request, in the server that its host names.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Extensions, Response, StatusCode, request};

use super::admit::{Passed, admit};
use super::pages::{KeptRequest, OwnResponse};
use super::pass::{Admitted, Current, pass};
use super::redirects::{ClientRedirect, InternalRedirect};
use super::script::{Destination, Rewritten};
use super::{Routed, inet};
use crate::kylin::NormalizedPath;
use crate::nginx::directives::location::{Action, Location, LocationMatch};
use crate::nginx::directives::server::Server;
use crate::nginx::serve::SiteParts;
use crate::nginx::serve::access_log::WrittenLog;
use crate::nginx::serve::response::{self, BAD_PATH, NOT_FOUND};
use crate::nginx::serve::routes::Route;
use crate::nginx::variables::Scope;
use crate::proxy::ErrorResponse;
use crate::{Body, ClientAddr};

const NO_UPSTREAM: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the variables of proxy_pass name no upstream");

/// A request whose server was found.
pub(super) struct ServerRequest<'s, 'r> {
    pub(super) site: &'s SiteParts,
    pub(super) server: &'s Server,
    pub(super) peer: ClientAddr,
    pub(super) head: &'r request::Parts,
    /// The path as the node reads it.
    pub(super) path: &'r NormalizedPath<'r>,
    /// The path as nginx reads it, with its `;parameters`.
    pub(super) decoded: &'r [u8],
    /// What has led the request to another location.
    pub(super) before: Option<&'r InternalRedirect<'s>>,
}

impl<'s: 'r, 'r> ServerRequest<'s, 'r> {
    /// Finds what serves the request, and updates `scope` and `logs` for it.
    pub(super) fn locate(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &'r mut Rewritten,
        logs: &mut &'s Arc<[WrittenLog]>,
        extensions: &mut Extensions,
        passed: &mut Passed,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let found = self.destination(scope, rewritten);
        let rewritten = &*rewritten;
        let new_uri = rewritten.uri(scope);
        let new_path = new_uri.as_deref().map(NormalizedPath::parse).transpose().map_err(|_| BAD_PATH)?;
        if self.is_scripted() {
            *scope = rewritten.scope(scope);
        }
        let location = found.as_ref().map_or(None, Destination::location);
        scope.remote = self.client(location, logs);
        let found = match found {
            Ok(Destination::Location(location)) => self.of_host(location, scope),
            Ok(other) => return self.respond(other, scope, rewritten),
            Err(error) => return self.own(error.response_to(self.head), None, scope, rewritten),
        };
        let Some(location) = found else {
            return self.own(NO_UPSTREAM.response_to(self.head), location, scope, rewritten);
        };
        match &location.action {
            Action::Return(reply) => self.respond(Destination::Return(reply, Some(location)), scope, rewritten),
            Action::Named(name) => match admit(&location.settings, scope, passed) {
                Ok(Some(pause)) => Ok(Routed::Pause(pause)),
                Ok(None) => {
                    let next = InternalRedirect::to_files(self.server, name, rewritten, self.before)?;
                    Ok(Routed::Redirected(Box::new(next.ok_or(NOT_FOUND)?)))
                }
                Err(refused) => self.own(refused.response_to(self.head), Some(location), scope, rewritten),
            },
            Action::Proxy(_) | Action::LeftOut(_) => {
                let current = Current {
                    uri: new_uri.as_deref().unwrap_or(scope.request_uri),
                    decoded: rewritten.path().unwrap_or(self.decoded),
                    path: new_path.as_ref().unwrap_or(self.path),
                    ignores_pass_uri: rewritten.ignores_pass_uri,
                };
                self.pass(location, &current, scope, rewritten, extensions, passed)
            }
        }
    }

    /// Returns whether steps may change the request.
    fn is_scripted(&self) -> bool {
        self.server.is_scripted || self.before.is_some()
    }

    /// Finds the destination of the request.
    fn destination(&self, scope: &mut Scope<'r>, rewritten: &mut Rewritten) -> Result<Destination<'s>, ErrorResponse> {
        let ServerRequest { server, peer, path, before, .. } = *self;
        if !self.is_scripted() {
            return find(server, path, scope);
        }
        scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, scope.headers));
        match before.and_then(InternalRedirect::client_redirect) {
            Some(ClientRedirect { status, to, location }) => Ok(Destination::Redirect(*status, to.clone(), *location)),
            None => rewritten.find(server, scope, path, before.and_then(InternalRedirect::location)),
        }
    }

    /// Returns the client as a location sees it, whose logs replace `logs`. Without a location it is the server that sees the client.
    fn client(&self, location: Option<&Location>, logs: &mut &'s Arc<[WrittenLog]>) -> Option<SocketAddr> {
        let (peer, headers) = (self.peer, &self.head.headers);
        inet(match location {
            Some(location) => {
                let Route { trusted, logs: of_location, .. } = &self.site.routes[location.number];
                *logs = of_location;
                trusted.client(peer, headers)
            }
            None => self.server.settings.real_ip.trusted_proxies().client(peer, headers),
        })
    }

    /// Returns the form of a location for the variables in the host of its `proxy_pass`; `None` if they name no upstream.
    fn of_host(&self, location: &'s Location, scope: &Scope<'_>) -> Option<&'s Location> {
        let Some(by_host) = &location.by_host else { return Some(location) };
        let host = by_host.host.value(scope);
        let found = by_host.locations.iter().find(|(value, _)| value.as_bytes().eq_ignore_ascii_case(&host));
        found.map(|(_, location)| location)
    }

    /// Responds without a node.
    fn respond(
        &self,
        destination: Destination<'s>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
    ) -> Result<Routed<'s>, ErrorResponse> {
        match destination {
            Destination::Return(reply, location) => {
                let settings = location.map_or(&self.server.settings, |location| &location.settings);
                let response = response::reply(reply, settings, scope)?;
                match reply.closes() {
                    true => Ok(Routed::Respond(Box::new(response))),
                    false => self.finish(response, reply.is_error(), location, scope, rewritten),
                }
            }
            Destination::Redirect(status, to, location) => {
                self.own(response::redirect_to(status, to, scope)?, location, scope, rewritten)
            }
            Destination::AddSlash(location) => {
                self.own(response::redirect(location, scope)?, Some(location), scope, rewritten)
            }
            Destination::Location(location) => {
                self.own(NOT_FOUND.response_to(self.head), Some(location), scope, rewritten)
            }
        }
    }

    /// Responds with an error or a redirect of the front end.
    fn own(
        &self,
        response: Response<Body>,
        location: Option<&'s Location>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
    ) -> Result<Routed<'s>, ErrorResponse> {
        self.finish(response, true, location, scope, rewritten)
    }

    fn finish(
        &self,
        response: Response<Body>,
        is_error: bool,
        location: Option<&'s Location>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let own = OwnResponse { response, is_error, server: self.server, location, before: self.before };
        own.finish(scope, rewritten).map(Routed::from)
    }

    /// Has a location admit the request and pass it to a node.
    fn pass(
        &self,
        location: &'s Location,
        current: &Current<'_>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
        extensions: &mut Extensions,
        passed: &mut Passed,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let ServerRequest { site, server, head, before, .. } = *self;
        let kept = KeptRequest::of(server, location, head, extensions, rewritten, before);
        match pass(site, location, current, scope, extensions, passed) {
            Ok(Admitted::Pause(pause)) => Ok(Routed::Pause(pause)),
            Ok(Admitted::Forward { proxy, edits, pending, uri }) => {
                if let Some(before) = before.and_then(|before| before.pending.as_ref()) {
                    before.yield_to(pending.as_deref());
                }
                let kept = kept.map(|kept| Box::new(kept.with_variables(scope)));
                Ok(Routed::Forward { proxy, edits, kept, pending, uri })
            }
            Err(refused) => self.own(refused.response_to(head), Some(location), scope, rewritten),
        }
    }
}

/// Finds the destination of a path that nothing rewrites.
fn find<'s, 'r>(
    server: &'s Server,
    path: &'r NormalizedPath<'_>,
    scope: &mut Scope<'r>,
) -> Result<Destination<'s>, ErrorResponse> {
    if let Some(reply) = &server.reply {
        return Ok(Destination::Return(reply, None));
    }
    match server.locate(path) {
        Some(LocationMatch::Location { location, captures, .. }) if !location.settings.internal => {
            scope.captures = captures.unwrap_or(scope.captures);
            Ok(Destination::Location(location))
        }
        Some(LocationMatch::Redirect(location)) if !location.settings.internal => Ok(Destination::AddSlash(location)),
        Some(_) | None => Err(NOT_FOUND),
    }
}
