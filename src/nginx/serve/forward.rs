//! Forwards one request: finds its server and location, and makes the request for the node.

mod admit;
mod pages;
mod pass;
mod prepare;
mod script;

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{Extensions, Request, Response, StatusCode, Uri, request};

use self::admit::{Passed, Pause, admit};
use self::pages::{Finished, KeptRequest, Named, Redirect};
use self::pass::{Admitted, Current, pass};
use self::script::{Destination, Rewritten};
use super::SiteParts;
use super::access_log::{PendingRequest, WrittenLog};
use super::response::{self, BAD_PATH, NOT_FOUND, ResponseEdits};
use super::routes::Route;
use crate::kylin::NormalizedPath;
use crate::nginx::config::Listener;
use crate::nginx::directives::location::{Action, Location, LocationMatch};
use crate::nginx::directives::reply::Reply;
use crate::nginx::directives::server::{ListenAddress, Server};
use crate::nginx::uri::normalise;
#[cfg(feature = "tls")]
use crate::nginx::variables::ScopeTls;
use crate::nginx::variables::{RequestId, Scope};
use crate::proxy::{ErrorResponse, Proxy, check_head};
use crate::{Body, ClientAddr};

pub(super) async fn forward(
    site: &SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, mut body) = request.into_parts();
    let (mut passed, mut named) = (Passed::default(), None);
    loop {
        let (proxy, edits, kept, pending) =
            match route(site, listener, peer, &mut head, checked, &mut passed, named.as_ref()) {
                Routed::Respond(response) => return *response,
                Routed::Pause(pause) => {
                    pause.wait(&mut passed).await;
                    continue;
                }
                Routed::Named(next) => {
                    next.prepare(&mut head, &mut body);
                    named = Some(*next);
                    continue;
                }
                Routed::Forward { proxy, edits, kept, pending } => (proxy, edits, kept, pending),
            };
        let has_body = !http_body::Body::is_end_stream(&body);
        let asked = edits.intercepts().then(|| pages::asked(&head));
        let mut response = proxy.forward(peer, Request::from_parts(head, body)).await;
        if let Some(pending) = &pending {
            pending.received(&response);
        }
        let may_have_page = !named.as_ref().is_some_and(Named::is_last_page);
        if let Some(page) = edits.page(&response).filter(|_| may_have_page) {
            if let Some((mut next, next_head, next_body)) = pages::lead_on(page, kept, has_body, asked, &mut response) {
                (head, body) = (next_head, next_body);
                next.prepare(&mut head, &mut body);
                next.pending = pending;
                named = Some(next);
                continue;
            }
            if let Some(pending) = &pending {
                pending.responded(&response);
            }
        }
        if let Some(named) = &named {
            let is_error = response::is_own_error(&response);
            named.mark(&mut response, is_error);
            if let Some(pending) = &pending {
                pending.marked(response.status());
            }
        }
        response = edits.apply(response, pending.as_deref());
        if let Some(in_flight) = passed.in_flight {
            response.body_mut().hold_until_end(in_flight);
        }
        return response;
    }
}

#[cfg(feature = "tls")]
fn scope_tls(connection: &crate::tls::TlsConnection) -> ScopeTls<'_> {
    use crate::tls::TlsVersion;

    ScopeTls {
        protocol: if connection.version == TlsVersion::Tls12 { "TLSv1.2" } else { "TLSv1.3" },
        server_name: connection.server_name.as_deref().unwrap_or_default(),
        has_certificate: connection.client_certificate.is_some(),
    }
}

/// The decision on a request.
enum Routed<'s> {
    Respond(Box<Response<Body>>),
    /// The request waits, and is then routed again.
    Pause(Pause),
    /// The named location of an error page responds.
    Named(Box<Named<'s>>),
    /// The head is ready for the proxy.
    Forward {
        proxy: &'s Proxy,
        edits: ResponseEdits<'s>,
        /// The request, if an error may lead it to another location.
        kept: Option<Box<KeptRequest<'s>>>,
        pending: Option<Arc<PendingRequest>>,
    },
}

const NO_UPSTREAM: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the variables of proxy_pass name no upstream");

const TOO_MANY_HEADERS: ErrorResponse =
    ErrorResponse::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has more headers than max_headers");

fn route<'s>(
    site: &'s SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    head: &mut request::Parts,
    mut checked: Result<(), ErrorResponse>,
    passed: &mut Passed,
    named: Option<&Named<'s>>,
) -> Routed<'s> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let (number, captures, groups) = listener.server_for(host.as_deref());
    let server = &site.config.servers[number];
    if checked.is_ok() && server.settings.max_headers.is_some_and(|max| head.headers.len() > max) {
        checked = Err(TOO_MANY_HEADERS);
    }
    if server.settings.ignore_invalid_headers != Some(false) {
        drop_invalid(&mut head.headers, server.settings.underscores_in_headers == Some(true));
    }

    let request_uri = head.uri.path_and_query().cloned();
    let request_uri = request_uri.as_ref().map_or("/", |uri| uri.as_str());
    // The path as the node reads it decides the location. As nginx reads it, it has the `;parameters` too.
    let path = NormalizedPath::of(&head.uri).ok();
    let decoded = normalise(request_uri, server.settings.merge_slashes != Some(false)).ok();
    let local = match &listener.address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    };
    // The proxy reads it too, so it stays in the extensions.
    #[cfg(feature = "tls")]
    let connection = head.extensions.get::<crate::tls::TlsConnection>().cloned();
    #[cfg(feature = "tls")]
    let tls = connection.as_ref().map(scope_tls);
    #[cfg(not(feature = "tls"))]
    let tls = None;
    let id = RequestId::default();
    // The head is read meanwhile.
    let mut extensions = std::mem::take(&mut head.extensions);
    let mut scope = Scope {
        version: head.version,
        peer: inet(peer),
        remote: inet(peer),
        local,
        proxied: inet(peer).filter(|_| listener.proxy_protocol),
        tls,
        server_name: &server.name,
        captures,
        id: Some(&id),
        // Conditions and rewrites see the same path as the location.
        ..Scope::new(
            &head.method,
            request_uri,
            path.as_ref().map_or("", |path| path.as_str()).as_bytes(),
            &head.headers,
        )
    };
    let mut rewritten = match named {
        Some(named) => named.rewritten.clone(),
        None => Rewritten::new(if server.is_scripted { site.config.set_slots } else { 0 }, groups, &captures),
    };
    let mut logs = &site.server_logs[number];
    let found = match (checked, &path, &decoded) {
        (Err(error), ..) => Err(error),
        (Ok(()), Some(path), Some(decoded)) => {
            let arrived = ServerRequest { site, server, peer, head, path, decoded, named };
            arrived.locate(&mut scope, &mut rewritten, &mut logs, &mut extensions, passed)
        }
        _ => Err(BAD_PATH),
    };
    let response = match found {
        Ok((Routed::Respond(response), _)) => response,
        Ok((routed, uri)) => {
            if let Some(uri) = uri {
                head.uri = uri;
            }
            head.extensions = extensions;
            return routed;
        }
        Err(error) => Box::new(error.response_to(head)),
    };
    match named.and_then(|named| named.pending.as_ref()) {
        Some(pending) => pending.responded(&response),
        None => {
            if let Some(pending) = PendingRequest::begin(logs, &scope, &None, passed.waited, false) {
                pending.responded(&response);
            }
        }
    }
    Routed::Respond(response)
}

/// A request whose server was found.
struct ServerRequest<'s, 'r> {
    site: &'s SiteParts,
    server: &'s Server,
    peer: ClientAddr,
    head: &'r request::Parts,
    /// The path as the node reads it.
    path: &'r NormalizedPath<'r>,
    /// The path as nginx reads it, with its `;parameters`.
    decoded: &'r [u8],
    /// The location that an error or `try_files` has led it to.
    named: Option<&'r Named<'s>>,
}

impl<'s: 'r, 'r> ServerRequest<'s, 'r> {
    /// Finds the destination of the request, and updates `scope` and `logs` for it. Also returns the URI for the node, if it
    /// differs from that of the request.
    fn locate(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &'r mut Rewritten,
        logs: &mut &'s Arc<[WrittenLog]>,
        extensions: &mut Extensions,
        passed: &mut Passed,
    ) -> Result<(Routed<'s>, Option<Uri>), ErrorResponse> {
        let ServerRequest { site, server, peer, head, path, decoded, named } = *self;
        let is_scripted = server.is_scripted || named.is_some();
        let found = match is_scripted {
            true => {
                scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, scope.headers));
                match named.and_then(Named::redirect) {
                    Some(Redirect { status, to, location }) => {
                        Ok(Destination::Redirect(status, to.to_bytes(&rewritten.scope(scope)), location))
                    }
                    None => rewritten.find(server, scope, path, named.and_then(Named::location)),
                }
            }
            false => find(server, path, scope),
        };
        let rewritten = &*rewritten;
        let new_uri = rewritten.uri(scope);
        let new_path = new_uri.as_deref().map(NormalizedPath::parse).transpose().map_err(|_| BAD_PATH)?;
        if is_scripted {
            *scope = rewritten.scope(scope);
        }
        let mut remote = |location: Option<&Location>| {
            inet(match location {
                Some(location) => {
                    let Route { trusted, logs: of_location, .. } = &site.routes[location.number];
                    *logs = of_location;
                    trusted.client(peer, &head.headers)
                }
                None => server.settings.real_ip.trusted_proxies().client(peer, &head.headers),
            })
        };
        let own = |response, location, scope: &Scope<'_>| {
            let finished = pages::finish(response, server, location, scope, rewritten, true, named)?;
            Ok((Routed::from(finished), None))
        };
        let returned = |reply: &Reply, location: Option<&'s Location>, scope: &Scope<'_>| {
            let settings = location.map_or(&server.settings, |location| &location.settings);
            let (response, is_error) = (response::reply(reply, settings, scope)?, reply.is_error());
            let finished = match reply.closes() {
                true => Finished::Response(response),
                false => pages::finish(response, server, location, scope, rewritten, is_error, named)?,
            };
            Ok((Routed::from(finished), None))
        };
        let location = match found {
            Ok(Destination::Return(reply, location)) => {
                scope.remote = remote(location);
                return returned(reply, location, scope);
            }
            Ok(Destination::Redirect(status, to, location)) => {
                scope.remote = remote(location);
                return own(response::redirect_to(status, to, scope)?, location, scope);
            }
            Ok(Destination::AddSlash(location)) => {
                scope.remote = remote(Some(location));
                return own(response::redirect(location, scope)?, Some(location), scope);
            }
            Ok(Destination::Location(location)) => location,
            Err(error) => {
                scope.remote = remote(None);
                return own(error.response_to(head), None, scope);
            }
        };
        scope.remote = remote(Some(location));
        let location = match &location.by_host {
            None => location,
            Some(by_host) => {
                let host = by_host.host.value(scope);
                let found = by_host.locations.iter().find(|(value, _)| value.as_bytes().eq_ignore_ascii_case(&host));
                match found {
                    Some((_, location)) => location,
                    None => return own(NO_UPSTREAM.response_to(head), Some(location), scope),
                }
            }
        };
        match &location.action {
            Action::Return(reply) => return returned(reply, Some(location), scope),
            Action::Named(name) => {
                return match admit(&location.settings, scope, passed) {
                    Ok(Some(pause)) => Ok((Routed::Pause(pause), None)),
                    Ok(None) => {
                        let named = Named::of_files(server, name, rewritten.clone()).ok_or(NOT_FOUND)?;
                        Ok((Routed::Named(Box::new(named)), None))
                    }
                    Err(refused) => own(refused.response_to(head), Some(location), scope),
                };
            }
            Action::Proxy(_) | Action::LeftOut(_) => {}
        }
        let current = Current {
            uri: new_uri.as_deref().unwrap_or(scope.request_uri),
            decoded: rewritten.path().unwrap_or(decoded),
            path: new_path.as_ref().unwrap_or(path),
            ignores_pass_uri: rewritten.ignores_pass_uri,
        };
        let kept = KeptRequest::of(server, location, head, extensions, rewritten, named).map(Box::new);
        match pass(site, location, &current, scope, extensions, passed) {
            Ok(Admitted::Pause(pause)) => Ok((Routed::Pause(pause), None)),
            Ok(Admitted::Forward { proxy, edits, pending, uri }) => {
                if let Some(before) = named.and_then(|named| named.pending.as_ref()) {
                    before.yield_to(pending.as_deref());
                }
                Ok((Routed::Forward { proxy, edits, kept, pending }, uri))
            }
            Err(refused) => own(refused.response_to(head), Some(location), scope),
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

impl<'s> From<Finished<'s>> for Routed<'s> {
    fn from(finished: Finished<'s>) -> Self {
        match finished {
            Finished::Response(response) => Routed::Respond(Box::new(response)),
            Finished::Named(named) => Routed::Named(Box::new(named)),
        }
    }
}

/// Drops headers whose names nginx takes for invalid: servers may read `X_Name` or `X.Name` as another header.
fn drop_invalid(headers: &mut HeaderMap, allows_underscores: bool) {
    let is_valid = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-') || (allows_underscores && byte == b'_');
    let is_invalid = |name: &&HeaderName| !name.as_str().bytes().all(is_valid);
    // Nearly no request has one, and the check must not allocate.
    if headers.keys().any(|name| is_invalid(&name)) {
        let names: Vec<_> = headers.keys().filter(is_invalid).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

fn inet(client: ClientAddr) -> Option<SocketAddr> {
    if let ClientAddr::Inet(address) = client { Some(address) } else { None }
}
