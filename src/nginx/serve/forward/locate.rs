//! Finds the destination of a request in the server that its host names.

use std::sync::Arc;

use http::{Extensions, Response, StatusCode, request};

use super::admit::{PassedChecks, Refused, admit};
use super::destination::{Destination, is_too_long};
use super::pages::{KeptRequest, OwnResponse};
use super::pass::{Admitted, Current, pass};
use super::redirects::{ClientRedirect, InternalRedirect};
use super::script::Rewritten;
use super::{Routed, inet};
use crate::kylin::NormalizedPath;
use crate::nginx::directives::location::{Action, Location, LocationMatch};
use crate::nginx::directives::server::Server;
use crate::nginx::readings::RequestPaths;
use crate::nginx::serve::SiteParts;
use crate::nginx::serve::access_log::WrittenLog;
use crate::nginx::serve::response::{self, BAD_PATH, NOT_FOUND};
use crate::nginx::serve::routes::Route;
use crate::nginx::uri::with_slash;
use crate::nginx::variables::{MapValues, Scope};
use crate::proxy::ErrorResponse;
use crate::{Body, ClientAddr};

const BODY_TOO_LARGE: ErrorResponse =
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too large");
const NO_HOST: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the variables of proxy_pass are empty");
const NO_UPSTREAM: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the variables of proxy_pass name no upstream");

/// A request and the server that its host names.
pub(super) struct ServerRequest<'s, 'r> {
    pub(super) site: &'s SiteParts,
    pub(super) server: &'s Server,
    pub(super) peer: ClientAddr,
    pub(super) head: &'r request::Parts,
    pub(super) paths: &'r RequestPaths<'r>,
    /// The internal redirect that led to this location, if any.
    pub(super) before: Option<&'r InternalRedirect<'s>>,
    /// Whether the path is valid. If not, `paths` are those of the root, for the error page.
    pub(super) is_readable: bool,
    /// The client, if an earlier location named it.
    pub(super) named: Option<ClientAddr>,
}

impl<'s: 'r, 'r> ServerRequest<'s, 'r> {
    /// Finds the destination of the request, and updates `scope` and `logs` for it.
    pub(super) fn locate(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &'r mut Rewritten,
        logs: &mut &'s Arc<[WrittenLog]>,
        extensions: &mut Extensions,
        passed: &mut PassedChecks,
    ) -> Result<Routed<'s>, ErrorResponse> {
        if !self.is_readable && self.before.is_none() {
            scope.remote = inet(self.client(None, logs, passed));
            return self.fail(BAD_PATH, None, scope, rewritten);
        }
        let (mut scope_as_written, mut as_written) =
            (*scope, self.is_read_differently(rewritten).then(|| rewritten.fork()));
        let mut found = self.destination(scope, rewritten, self.paths.path());
        let rewritten = &*rewritten;
        let new_uri = rewritten.uri(scope);
        *scope = self.scope(scope, rewritten);
        if let Some(as_written) = &mut as_written
            && self.check_readings(&mut found, scope, &mut scope_as_written, as_written).is_err()
        {
            scope.remote = inet(self.client(None, logs, passed));
            return self.fail(BAD_PATH, None, scope, rewritten);
        }
        let outer = found.as_ref().map_or(None, Destination::location);
        scope.remote = inet(self.client(found.as_ref().ok(), logs, passed));
        let found = match found {
            // nginx reads the variables of `proxy_pass` later, and only if the request is admitted.
            Ok(Destination::Location(location)) => {
                let values = location.by_host.as_ref().map(|_| rewritten.map_values().fork());
                self.of_host(location, &Scope { map_values: values.as_ref(), ..*scope })
            }
            Ok(other) => return self.respond(other, scope, rewritten),
            Err(error) => return self.fail(error, None, scope, rewritten),
        };
        let location = match found {
            Ok(location) => location,
            Err(error) => return self.fail(error, outer, scope, rewritten),
        };
        match &location.action {
            Action::Return(reply) => self.respond(Destination::Return(reply, Some(location)), scope, rewritten),
            Action::Named(name) => match admit(&location.settings, scope, passed) {
                Ok(Some(pause)) => Ok(Routed::Pause(pause)),
                Ok(None) => match InternalRedirect::to_files(self.server, name, rewritten, self.before) {
                    Ok(Some(next)) => Ok(Routed::Redirected(Box::new(next))),
                    Ok(None) => self.fail(NOT_FOUND, Some(location), scope, rewritten),
                    Err(error) => self.fail(error, Some(location), scope, rewritten),
                },
                Err(refused) => self.own(refused.response_to(self.head), Some(location), scope, rewritten),
            },
            Action::Proxy(_) | Action::LeftOut(_) => {
                let with_slash = new_uri.as_deref().map(with_slash);
                let new_paths = with_slash.as_ref().map(|uri| RequestPaths::of(uri, false));
                let paths = match &new_paths {
                    Some(Some(new)) => new,
                    Some(None) => return self.fail(BAD_PATH, Some(location), scope, rewritten),
                    None => self.paths,
                };
                let as_written = as_written.as_ref().filter(|_| self.paths.is_certain());
                let as_written = as_written.map(|rewritten| (rewritten, rewritten.scope(&scope_as_written)));
                let uri_as_written = as_written.as_ref().and_then(|(rewritten, scope)| rewritten.uri(scope));
                // With the `;parameters`, the node must read the same path.
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
                let routed = self.pass(location, &current, scope, rewritten, extensions, passed)?;
                if matches!(routed, Routed::Forward { .. }) {
                    // The request keeps the `map` values that name its upstream.
                    outer.and_then(|outer| self.of_host(outer, scope).ok());
                }
                Ok(routed)
            }
        }
    }

    /// Returns whether steps may change the request.
    fn is_scripted(&self) -> bool {
        self.server.is_scripted || self.before.is_some()
    }

    /// Returns whether the path is not rewritten, and nginx or some nodes read it differently.
    fn is_read_differently(&self, rewritten: &Rewritten) -> bool {
        let paths = self.paths;
        rewritten.path().is_none() && (paths.decoded() != paths.path() || !paths.others().is_empty())
    }

    /// Returns the request as variables see it after its steps.
    fn scope(&self, scope: &Scope<'r>, rewritten: &'r Rewritten) -> Scope<'r> {
        match self.is_scripted() {
            true => rewritten.scope(scope),
            false => Scope { map_values: Some(rewritten.map_values()), ..*scope },
        }
    }

    /// Checks that no other reading of the path leads to a rule that the request would bypass.
    ///
    /// `scope` is the request after its steps. `as_written` and its scope are the state before the
    /// steps, and become that of the path with its `;parameters`.
    ///
    /// # Errors
    /// The destination depends on how the path is read.
    fn check_readings(
        &self,
        found: &mut Result<Destination<'s>, ErrorResponse>,
        scope: &Scope<'_>,
        scope_as_written: &mut Scope<'r>,
        as_written: &mut Rewritten,
    ) -> Result<(), ErrorResponse> {
        let values = scope.map_values.map(MapValues::fork);
        let decided = |found: &Destination<'s>| self.decided(found, &Scope { map_values: values.as_ref(), ..*scope });
        for other in self.paths.others() {
            let (mut scope, mut rewritten) = (Scope { path: other, ..*scope_as_written }, as_written.fork());
            match (&*found, self.destination(&mut scope, &mut rewritten, other)) {
                (Ok(one), Ok(other)) if one.is_same(&other) => {
                    if decided(one) != self.decided(&other, &rewritten.scope(&scope)) {
                        return Err(BAD_PATH);
                    }
                }
                (Err(_), Err(_)) => {}
                (Ok(_) | Err(_), _) => return Err(BAD_PATH),
            }
        }
        scope_as_written.path = self.paths.decoded();
        match (found, self.destination(scope_as_written, as_written, self.paths.decoded())) {
            (Ok(Destination::Redirect(_, to, _)), Ok(Destination::Redirect(_, with_parameters, _)))
                if reads(to).is_some() && reads(to) == reads(&with_parameters) =>
            {
                *to = with_parameters;
            }
            (Ok(one), Ok(other)) if !one.is_same(&other) && other.protects() => return Err(BAD_PATH),
            (Ok(one), Ok(other)) => {
                let (asked, with_parameters) =
                    (decided(one), self.decided(&other, &as_written.scope(scope_as_written)));
                if with_parameters.0 && !asked.0 {
                    return Err(BAD_PATH);
                }
            }
            (Ok(_) | Err(_), _) => {}
        }
        Ok(())
    }

    /// Returns the decisions of variables at a destination: whether a password is needed, and which
    /// upstream serves.
    fn decided(&self, destination: &Destination<'s>, scope: &Scope<'_>) -> (bool, Option<*const Location>) {
        let Destination::Location(location) = destination else { return (false, None) };
        (location.settings.auth.question(scope).is_some(), self.of_host(location, scope).ok().map(std::ptr::from_ref))
    }

    /// Finds the destination of the request for one reading of its path.
    fn destination(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &mut Rewritten,
        path: &'r [u8],
    ) -> Result<Destination<'s>, ErrorResponse> {
        let ServerRequest { server, before, .. } = *self;
        if !self.is_scripted() {
            return find(server, path, scope);
        }
        scope.remote = inet(self.client_of_server());
        match before.and_then(InternalRedirect::client_redirect) {
            Some(ClientRedirect { status, to, location }) => Ok(Destination::Redirect(*status, to.clone(), *location)),
            None => rewritten.find(server, scope, path, before.and_then(InternalRedirect::location)),
        }
    }

    /// Returns the client as the destination sees it. The logs of the destination replace `logs`.
    ///
    /// As in nginx, a location's own rule applies after the steps, and only if no earlier rule has
    /// named the client.
    fn client(
        &self,
        destination: Option<&Destination<'s>>,
        logs: &mut &'s Arc<[WrittenLog]>,
        passed: &mut PassedChecks,
    ) -> ClientAddr {
        let route = destination.and_then(Destination::location).map(|location| &self.site.routes[location.number]);
        if let Some(Route { logs: of_location, .. }) = route {
            *logs = of_location;
        }
        let is_behind_steps = matches!(
            destination,
            Some(Destination::Location(location)) if !matches!(location.action, Action::Return(_))
        );
        let client = match route.filter(|_| is_behind_steps && self.named.is_none()) {
            Some(Route { trusted, .. }) => trusted.client(self.peer, &self.head.headers),
            None => self.client_of_server(),
        };
        passed.client = Some(client).filter(|client| *client != self.peer);
        client
    }

    /// Returns the client at the beginning of the steps.
    fn client_of_server(&self) -> ClientAddr {
        let by_rule = || self.server.settings.real_ip.trusted_proxies().client(self.peer, &self.head.headers);
        self.named.unwrap_or_else(by_rule)
    }

    /// Returns the variant of a location that the variables in the host of its `proxy_pass` select.
    ///
    /// # Errors
    /// The variables are empty, which nginx reports as an invalid host, or name no upstream.
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
            Destination::TooLong(location) => self.fail(BODY_TOO_LARGE, Some(location), scope, rewritten),
            Destination::Location(location) | Destination::Internal(location) => {
                self.fail(NOT_FOUND, Some(location), scope, rewritten)
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

    /// Responds with an error. If the path was refused, an error page may respond, but no node gets
    /// the request.
    fn fail(
        &self,
        error: ErrorResponse,
        location: Option<&'s Location>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let ServerRequest { server, before, head, .. } = *self;
        let (response, is_refused) = (error.response_to(head), error == BAD_PATH);
        let own = OwnResponse { response, is_error: true, is_refused, server, location, before };
        own.finish(scope, rewritten).map(Routed::from)
    }

    fn finish(
        &self,
        response: Response<Body>,
        is_error: bool,
        location: Option<&'s Location>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let own =
            OwnResponse { response, is_error, is_refused: false, server: self.server, location, before: self.before };
        own.finish(scope, rewritten).map(Routed::from)
    }

    /// Admits the request to a location, and passes it to a node.
    fn pass(
        &self,
        location: &'s Location,
        current: &Current<'_>,
        scope: &Scope<'_>,
        rewritten: &Rewritten,
        extensions: &mut Extensions,
        passed: &mut PassedChecks,
    ) -> Result<Routed<'s>, ErrorResponse> {
        let ServerRequest { site, server, head, before, .. } = *self;
        if before.is_some_and(|before| before.is_refused) {
            return self.fail(BAD_PATH, Some(location), scope, rewritten);
        }
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
            Err(Refused::Error(error)) => self.fail(error, Some(location), scope, rewritten),
            Err(refused) => self.own(refused.response_to(head), Some(location), scope, rewritten),
        }
    }
}

/// Returns the path that a node reads in the target of a redirect within the site, and the rest of
/// the target.
fn reads(to: &[u8]) -> Option<(String, &str)> {
    let to = std::str::from_utf8(to).ok().filter(|to| to.starts_with('/'))?;
    let (path, query) = to.split_at(to.find('?').unwrap_or(to.len()));
    Some((NormalizedPath::parse(path).ok()?.as_str().to_owned(), query))
}

/// Finds the destination of a path that no step rewrites.
fn find<'s, 'r>(server: &'s Server, path: &'r [u8], scope: &mut Scope<'r>) -> Result<Destination<'s>, ErrorResponse> {
    if let Some(reply) = &server.reply {
        return Ok(Destination::Return(reply, None));
    }
    match server.locate_decoded(path) {
        Some(found) if found.location().settings.internal => Ok(Destination::Internal(found.location())),
        Some(found) if is_too_long(found.location(), scope) => Ok(Destination::TooLong(found.location())),
        Some(LocationMatch::Location { location, captures, .. }) => {
            scope.captures = captures.unwrap_or(scope.captures);
            Ok(Destination::Location(location.for_method(scope.method)))
        }
        Some(LocationMatch::Redirect(location)) => Ok(Destination::AddSlash(location)),
        None => Err(NOT_FOUND),
    }
}
