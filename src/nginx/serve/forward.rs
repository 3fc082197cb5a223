//! One request: which server and location it belongs to, and what is sent to the node.

mod pages;
mod prepare;
mod script;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Extensions, Request, Response, StatusCode, Uri, request};

use self::prepare::prepare;
use self::script::{Found, Rewritten};
use super::SiteParts;
use super::access_log::{PendingRequest, WrittenLog};
use super::response::{self, BAD_PATH, NOT_FOUND, ResponseEdits};
use super::routes::Route;
use crate::kylin::NormalizedPath;
use crate::nginx::config::Listener;
use crate::nginx::directives::location::{Action, Location, LocationMatch, PassUri};
use crate::nginx::directives::reply::Reply;
use crate::nginx::directives::server::{ListenAddress, Server};
use crate::nginx::directives::settings::LimitReq;
use crate::nginx::uri::normalise;
#[cfg(feature = "tls")]
use crate::nginx::variables::ScopeTls;
use crate::nginx::variables::{RequestId, Scope};
use crate::observe;
use crate::proxy::{ErrorResponse, Proxy, check_head};
use crate::{Body, ClientAddr};

pub(super) async fn forward(
    site: &SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, body) = request.into_parts();
    match route(site, listener, peer, &mut head, checked) {
        Routed::Respond(response) => *response,
        Routed::Forward { proxy, edits, wait, pending } => {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let response = proxy.forward(peer, Request::from_parts(head, body)).await;
            edits.apply(response, pending.as_deref())
        }
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

/// What is to be done with a request.
enum Routed<'s> {
    Respond(Box<Response<Body>>),
    /// The head is ready for the proxy.
    Forward {
        proxy: &'s Proxy,
        edits: ResponseEdits<'s>,
        /// How long `limit_req` delays the request.
        wait: Duration,
        pending: Option<Arc<PendingRequest>>,
    },
}

const NO_UPSTREAM: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_GATEWAY, "the variables of proxy_pass name no upstream");

const DENIED: ErrorResponse = ErrorResponse::new(StatusCode::FORBIDDEN, "the configuration denies the client the path");

const LEFT_OUT: ErrorResponse = ErrorResponse::new(
    StatusCode::NOT_FOUND,
    "what the configuration serves at this path is not served by this front end",
);

fn route<'s>(
    site: &'s SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    head: &mut request::Parts,
    checked: Result<(), ErrorResponse>,
) -> Routed<'s> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let (number, captures) = listener.server_for(host.as_deref());
    let server = &site.config.servers[number];
    if server.settings.underscores_in_headers != Some(true) {
        drop_underscored(&mut head.headers);
    }

    let request_uri = head.uri.path_and_query().cloned();
    let request_uri = request_uri.as_ref().map_or("/", |uri| uri.as_str());
    // Locations belong to what the node serves, so the node's reading of the path decides. nginx's has the `;parameters` too.
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
        tls,
        server_name: &server.name,
        captures,
        id: Some(&id),
        // Conditions and rewrites are for the path that the location is for.
        ..Scope::new(
            &head.method,
            request_uri,
            path.as_ref().map_or("", |path| path.as_str()).as_bytes(),
            &head.headers,
        )
    };
    let mut rewritten = Rewritten::new(if server.is_scripted { site.config.set_slots } else { 0 });
    let mut logs = &site.server_logs[number];
    let found = match (checked, &path, &decoded) {
        (Err(error), ..) => Err(error),
        (Ok(()), Some(path), Some(decoded)) => {
            let arrived = Arrived { site, server, peer, head, path, decoded };
            arrived.locate(&mut scope, &mut rewritten, &mut logs, &mut extensions)
        }
        _ => Err(BAD_PATH),
    };
    let response = match found {
        Ok((Routed::Respond(response), _)) => response,
        Ok((forward, uri)) => {
            if let Some(uri) = uri {
                head.uri = uri;
            }
            head.extensions = extensions;
            return forward;
        }
        Err(error) => Box::new(error.response_to(head)),
    };
    if let Some(pending) = PendingRequest::begin(logs, &scope, &None, Duration::ZERO, false) {
        pending.responded(&response);
    }
    Routed::Respond(response)
}

/// A request at its server.
struct Arrived<'s, 'r> {
    site: &'s SiteParts,
    server: &'s Server,
    peer: ClientAddr,
    head: &'r request::Parts,
    /// The path as the node reads it.
    path: &'r NormalizedPath<'r>,
    /// The path as nginx reads it, with its `;parameters`.
    decoded: &'r [u8],
}

impl<'s: 'r, 'r> Arrived<'s, 'r> {
    /// Finds what serves the request, and sets `scope` and `logs` to what they are there. Also returns the URI for the node if it is
    /// not that of the request.
    fn locate(
        &self,
        scope: &mut Scope<'r>,
        rewritten: &'r mut Rewritten,
        logs: &mut &'s Arc<[WrittenLog]>,
        extensions: &mut Extensions,
    ) -> Result<(Routed<'s>, Option<Uri>), ErrorResponse> {
        let Arrived { site, server, peer, head, path, decoded } = *self;
        let found = match server.is_scripted {
            true => {
                scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, scope.headers));
                rewritten.find(server, scope, path)
            }
            false => find(server, path, scope),
        };
        let rewritten = &*rewritten;
        let new_uri = rewritten.uri(scope);
        let new_path = new_uri.as_deref().map(NormalizedPath::parse).transpose().map_err(|_| BAD_PATH)?;
        if server.is_scripted {
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
        let own = |response, location: Option<&Location>, scope: &Scope<'_>| {
            let settings = location.map_or(&server.settings, |location| &location.settings);
            pages::finish(response, server, settings, scope, true).map(Routed::respond)
        };
        let returned = |reply: &Reply, location: Option<&Location>, scope: &Scope<'_>| {
            let settings = location.map_or(&server.settings, |location| &location.settings);
            let response = response::reply(reply, settings, scope)?;
            pages::finish(response, server, settings, scope, reply.may_have_page()).map(Routed::respond)
        };
        let location = match found {
            Ok(Found::Return(reply, location)) => {
                scope.remote = remote(location);
                return returned(reply, location, scope);
            }
            Ok(Found::Redirect(status, to, location)) => {
                scope.remote = remote(location);
                return own(response::redirect_to(status, to, scope)?, location, scope);
            }
            Ok(Found::AddSlash(location)) => {
                scope.remote = remote(Some(location));
                return own(response::redirect(location, scope)?, Some(location), scope);
            }
            Ok(Found::Location(location)) => location,
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
                let named = by_host.locations.iter().find(|(value, _)| value.as_bytes().eq_ignore_ascii_case(&host));
                match named {
                    Some((_, location)) => location,
                    None => return own(NO_UPSTREAM.response_to(head), Some(location), scope),
                }
            }
        };
        if let Action::Return(reply) = &location.action {
            return returned(reply, Some(location), scope);
        }
        let current = Current {
            uri: new_uri.as_deref().unwrap_or(scope.request_uri),
            decoded: rewritten.path().unwrap_or(decoded),
            path: new_path.as_ref().unwrap_or(path),
            ignores_pass_uri: rewritten.ignores_pass_uri,
        };
        pass(site, server, location, &current, scope, extensions)
            .or_else(|error| own(error.response_to(head), Some(location), scope))
    }
}

/// The target of a request after the steps of its server and location.
struct Current<'r> {
    uri: &'r str,
    /// The path as nginx reads it, with its `;parameters`.
    decoded: &'r [u8],
    /// The path as the node reads it.
    path: &'r NormalizedPath<'r>,
    ignores_pass_uri: bool,
}

/// Admits a request to a location, in the order of nginx's phases, and prepares it for the proxy. Also returns the URI for the node if
/// it is not that of the request.
fn pass<'s>(
    site: &'s SiteParts,
    server: &'s Server,
    location: &'s Location,
    current: &Current<'_>,
    scope: &Scope<'_>,
    extensions: &mut Extensions,
) -> Result<(Routed<'s>, Option<Uri>), ErrorResponse> {
    let settings = &location.settings;
    let wait = LimitReq::admit(&settings.limit_reqs, scope).ok_or_else(|| {
        let status = settings.limit_req_status.and_then(|status| StatusCode::from_u16(status).ok());
        ErrorResponse::new(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "the client sends too many requests")
    })?;
    if !settings.admits(scope.remote, scope.method) {
        return Err(DENIED);
    }
    let Route { proxy, timeouts, logs, addresses, shows_outcome, .. } = &site.routes[location.number];
    let Action::Proxy(pass) = &location.action else { return Err(LEFT_OUT) };
    let Some(proxy) = proxy else { return Err(NOT_FOUND) };
    let scope = Scope { proxy_host: &pass.host, ..*scope };
    let upstream = &site.config.upstreams[pass.upstream];
    let sent = match &pass.uri {
        PassUri::Original => Cow::Borrowed(scope.request_uri),
        PassUri::Variables => Cow::Owned(pass.uri_of_variables(&scope).ok_or(BAD_PATH)?),
        PassUri::Replace { .. } if current.ignores_pass_uri => Cow::Borrowed(current.uri),
        PassUri::Unchanged | PassUri::Replace { .. } | PassUri::Normalised { .. } => {
            pass.upstream_uri(current.uri, current.decoded, current.path).ok_or(BAD_PATH)?
        }
    };
    let uri: Option<Uri> = match sent {
        Cow::Borrowed(same) if same == scope.request_uri => None,
        sent => Some(sent.parse().map_err(|_| BAD_PATH)?),
    };
    prepare(settings, pass, upstream, &scope, extensions)?;
    let pages = pages::of_proxy(server, settings, &scope)?;
    let edits = ResponseEdits::new(settings, pass, pages, &scope)?;
    if let Some(timeouts) = timeouts {
        extensions.insert(*timeouts);
    }
    // Of a header that shows the id, so that logs show it too.
    let is_shown = scope.id.is_some_and(|id| id.made().is_some());
    let pending = PendingRequest::begin(logs, &scope, addresses, wait, *shows_outcome);
    let made = scope.id.and_then(|id| observe::RequestId::new(id.made()?));
    if let Some(id) = made.filter(|_| is_shown || !scope.headers.contains_key("x-request-id")) {
        extensions.insert(id);
    }
    if let Some(pending) = &pending {
        pending.observe(extensions);
    }
    Ok((Routed::Forward { proxy, edits, wait, pending }, uri))
}

/// Finds what serves a path where nothing rewrites it.
fn find<'s, 'r>(
    server: &'s Server,
    path: &'r NormalizedPath<'_>,
    scope: &mut Scope<'r>,
) -> Result<Found<'s>, ErrorResponse> {
    if let Some(reply) = &server.reply {
        return Ok(Found::Return(reply, None));
    }
    match server.locate(path) {
        Some(LocationMatch::Location { location, captures }) if !location.settings.internal => {
            scope.captures = captures.unwrap_or(scope.captures);
            Ok(Found::Location(location))
        }
        Some(LocationMatch::Redirect(location)) if !location.settings.internal => Ok(Found::AddSlash(location)),
        Some(_) | None => Err(NOT_FOUND),
    }
}

impl Routed<'_> {
    fn respond(response: Response<Body>) -> (Self, Option<Uri>) {
        (Routed::Respond(Box::new(response)), None)
    }
}

fn drop_underscored(headers: &mut HeaderMap) {
    // Nearly no request has one, and the check must not allocate.
    if headers.keys().any(|name| name.as_str().contains('_')) {
        let names: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

fn inet(client: ClientAddr) -> Option<SocketAddr> {
    if let ClientAddr::Inet(address) = client { Some(address) } else { None }
}
