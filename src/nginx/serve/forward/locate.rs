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
use crate::nginx::readings::RequestPaths;
use crate::nginx::serve::SiteParts;
use crate::nginx::serve::access_log::WrittenLog;
use crate::nginx::serve::response::{self, BAD_PATH, NOT_FOUND};
use crate::nginx::serve::routes::Route;
use crate::nginx::variables::Scope;
use crate::proxy::ErrorResponse;
use crate::{Body, ClientAddr};

const NO_HOST: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the variables of proxy_pass are empty");
const NO_UPSTREAM: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the variables of proxy_pass name no upstream");

/// A request whose server was found.
pub(super) struct ServerRequest<'s, 'r> {
    pub(super) site: &'s SiteParts,
    pub(super) server: &'s Server,
    pub(super) peer: ClientAddr,
    pub(super) head: &'r request::Parts,
    pub(super) paths: &'r RequestPaths<'r>,
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
        let (mut scope_as_written, mut as_written) =
            (*scope, self.is_read_differently(rewritten).then(|| rewritten.clone()));
        let mut found = self.destination(scope, rewritten, self.paths.path());
        if let Some(as_written) = &mut as_written {
            self.check_readings(&mut found, &mut scope_as_written, as_written)?;
        }
        let rewritten = &*rewritten;
        let new_uri = rewritten.uri(scope);
        let new_paths = match &new_uri {
            Some(uri) => Some(RequestPaths::of(uri, false).ok_or(BAD_PATH)?),
            None => None,
        };
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
        let location = match found {
            Ok(location) => location,
            Err(error) => return self.own(error.response_to(self.head), location, scope, rewritten),
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
                let paths = new_paths.as_ref().unwrap_or(self.paths);
                let as_written = as_written.as_ref().filter(|_| self.paths.is_certain());
                let as_written = as_written.map(|rewritten| (rewritten, rewritten.scope(&scope_as_written)));
                let uri_as_written = as_written.as_ref().and_then(|(rewritten, scope)| rewritten.uri(scope));
                // The node must read the same path with the `;parameters`.
                let is_read_alike = |uri: &&String| {
                    RequestPaths::of(uri, false).is_some_and(|with| with.is_certain() && with.path() == paths.path())
                };
                let with_parameters = uri_as_written.as_ref().filter(is_read_alike);
                let path = match (with_parameters, &as_written) {
                    (Some(_), Some((as_written, _))) => as_written.path(),
                    _ => rewritten.path(),
                };
                let current = Current {
                    uri: with_parameters.or(new_uri.as_ref()).map_or(scope.request_uri, String::as_str),
                    decoded: path.unwrap_or(self.paths.decoded()),
                    paths,
                    ignores_pass_uri: rewritten.ignores_pass_uri,
                    raw_uri: rewritten.raw_uri(),
                    as_written: as_written.as_ref().map(|(_, scope)| scope),
                };
                self.pass(location, &current, scope, rewritten, extensions, passed)
            }
        }
    }

    /// Returns whether steps may change the request.
    fn is_scripted(&self) -> bool {
        self.server.is_scripted || self.before.is_some()
    }

    /// Returns whether the path of the request counts, and has another form as nginx reads it or for some nodes.
    fn is_read_differently(&self, rewritten: &Rewritten) -> bool {
        let paths = self.paths;
        rewritten.path().is_none() && (paths.decoded() != paths.path() || !paths.others().is_empty())
    }

    /// Checks that other readings of the path lead to no rule that the request would get past. `scope` and `rewritten` are those before
    /// its steps, and become those of the path with its `;parameters`.
    ///
    /// # Errors
    /// The nodes that the path leads to depend on how it is read.
    fn check_readings(
        &self,
        found: &mut Result<Destination<'s>, ErrorResponse>,
        scope: &mut Scope<'r>,
        rewritten: &mut Rewritten,
    ) -> Result<(), ErrorResponse> {
        for other in self.paths.others() {
            let (mut scope, mut rewritten) = (Scope { path: other, ..*scope }, rewritten.clone());
            match (&*found, self.destination(&mut scope, &mut rewritten, other)) {
                (Ok(one), Ok(other)) if one.is_same(&other) => {}
                (Err(_), Err(_)) => {}
                (Ok(_) | Err(_), _) => return Err(BAD_PATH),
            }
        }
        scope.path = self.paths.decoded();
        match (found, self.destination(scope, rewritten, self.paths.decoded())) {
            (Ok(Destination::Redirect(_, to, _)), Ok(Destination::Redirect(_, with_parameters, _)))
                if reads(to).is_some() && reads(to) == reads(&with_parameters) =>
            {
                *to = with_parameters;
            }
            (Ok(one), Ok(other)) if !one.is_same(&other) && other.protects() => return Err(BAD_PATH),
            (Ok(_) | Err(_), _) => {}
        }
        Ok(())
    }

    /// Finds the destination of the request, which the node reads with this path.
    fn destination(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &mut Rewritten,
        path: &'r [u8],
    ) -> Result<Destination<'s>, ErrorResponse> {
        let ServerRequest { server, peer, before, .. } = *self;
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

    /// Returns the form of a location for the variables in the host of its `proxy_pass`.
    ///
    /// # Errors
    /// They are empty, which nginx takes for a mistake of the file, or name no upstream.
    fn of_host(&self, location: &'s Location, scope: &Scope<'_>) -> Result<&'s Location, ErrorResponse> {
        let Some(by_host) = &location.by_host else { return Ok(location) };
        let host = by_host.host.value(scope);
        let found = by_host.locations.iter().find(|(value, _)| value.as_bytes().eq_ignore_ascii_case(&host));
        match found {
            Some((_, location)) => Ok(location),
            None if host.is_empty() || host.ends_with(b"://") => Err(NO_HOST),
            None => Err(NO_UPSTREAM),
        }
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
            Destination::Location(location) | Destination::Internal(location) => {
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

/// Returns the path that the target of a redirect within the site has for a node, and the rest of the target.
fn reads(to: &[u8]) -> Option<(String, &str)> {
    let to = std::str::from_utf8(to).ok().filter(|to| to.starts_with('/'))?;
    let (path, query) = to.split_at(to.find('?').unwrap_or(to.len()));
    Some((NormalizedPath::parse(path).ok()?.as_str().to_owned(), query))
}

/// Finds the destination of a path that nothing rewrites.
fn find<'s, 'r>(server: &'s Server, path: &'r [u8], scope: &mut Scope<'r>) -> Result<Destination<'s>, ErrorResponse> {
    if let Some(reply) = &server.reply {
        return Ok(Destination::Return(reply, None));
    }
    match server.locate_decoded(path) {
        Some(LocationMatch::Location { location, captures, .. }) if !location.settings.internal => {
            scope.captures = captures.unwrap_or(scope.captures);
            Ok(Destination::Location(location.for_method(scope.method)))
        }
        Some(LocationMatch::Redirect(location)) if !location.settings.internal => Ok(Destination::AddSlash(location)),
        Some(found) => Ok(Destination::Internal(found.location())),
        None => Err(NOT_FOUND),
    }
}
