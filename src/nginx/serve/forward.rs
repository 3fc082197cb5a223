//! One request: which server and location it belongs to, and what is sent to the node.

mod script;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Extensions, Request, Response, StatusCode, Uri, request};

use self::script::{Found, Rewritten};
use super::SiteParts;
use super::clusters::UpstreamKey;
use super::response::{self, BAD_PATH, NOT_FOUND, ResponseEdits};
use super::routes::Route;
use crate::kylin::NormalizedPath;
use crate::nginx::config::Listener;
use crate::nginx::directives::location::{Action, Location, LocationMatch, PassUri, ProxyPass};
use crate::nginx::directives::server::{ListenAddress, Server};
use crate::nginx::directives::settings::BlockSettings;
use crate::nginx::directives::upstream::{Method, Sticky, Upstream};
use crate::nginx::uri::normalise;
use crate::nginx::variables::Scope;
#[cfg(feature = "tls")]
use crate::nginx::variables::ScopeTls;
use crate::proxy::{ErrorResponse, HeaderEdits, Proxy, check_head};
use crate::session::SessionRoute;
use crate::{Body, ClientAddr};

pub(super) async fn forward(
    site: &SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, body) = request.into_parts();
    match checked.and_then(|()| route(site, listener, peer, &mut head)) {
        Ok(Routed::Respond(response)) => *response,
        Ok(Routed::Forward(proxy, edits, wait)) => {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            edits.apply(proxy.forward(peer, Request::from_parts(head, body)).await)
        }
        Err(error) => error.response_to(&head),
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
    /// The head is ready for the proxy, after a time if `limit_req` delays the request.
    Forward(&'s Proxy, ResponseEdits<'s>, Duration),
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
) -> Result<Routed<'s>, ErrorResponse> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let (number, captures) = listener.server_for(host.as_deref());
    let server = &site.config.servers[number];
    if server.settings.underscores_in_headers != Some(true) {
        drop_underscored(&mut head.headers);
    }

    let request_uri = head.uri.path_and_query().cloned();
    let request_uri = request_uri.as_ref().map_or("/", |uri| uri.as_str());
    // Locations belong to what the node serves, so the node's reading of the path decides. `$uri` is nginx's.
    let path = NormalizedPath::of(&head.uri).map_err(|_| BAD_PATH)?;
    let decoded = normalise(request_uri, server.settings.merge_slashes != Some(false)).map_err(|_| BAD_PATH)?;
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
    let mut scope = Scope {
        version: head.version,
        peer: inet(peer),
        remote: inet(peer),
        local,
        tls,
        server_name: &server.name,
        captures,
        ..Scope::new(&head.method, request_uri, &decoded, &head.headers)
    };
    let mut rewritten = Rewritten::new(if server.is_scripted { site.config.set_slots } else { 0 });
    let found = match server.is_scripted {
        true => {
            scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, scope.headers));
            rewritten.find(server, &scope, &path)?
        }
        false => find(server, &path, &mut scope)?,
    };
    let rewritten = &rewritten;
    let new_uri = rewritten.uri(&scope);
    let new_path = new_uri.as_deref().map(NormalizedPath::parse).transpose().map_err(|_| BAD_PATH)?;
    if server.is_scripted {
        scope = rewritten.scope(&scope);
    }
    let remote = |location: Option<&Location>| {
        inet(match location {
            Some(location) => site.routes[location.number].trusted.client(peer, &head.headers),
            None => server.settings.real_ip.trusted_proxies().client(peer, &head.headers),
        })
    };
    let location = match found {
        Found::Return(reply, location) => {
            scope.remote = remote(location);
            let settings = location.map_or(&server.settings, |location| &location.settings);
            return response::reply(reply, settings, &scope).map(Routed::respond);
        }
        Found::Redirect(status, to, location) => {
            scope.remote = remote(location);
            let settings = location.map_or(&server.settings, |location| &location.settings);
            return response::redirect_to(status, to, settings, &scope).map(Routed::respond);
        }
        Found::AddSlash(location) => {
            scope.remote = remote(Some(location));
            return response::redirect(location, &scope).map(Routed::respond);
        }
        Found::Location(location) => location,
    };
    let location = match &location.by_host {
        None => location,
        Some(by_host) => {
            let host = by_host.host.value(&scope);
            let named = by_host.locations.iter().find(|(value, _)| value.as_bytes().eq_ignore_ascii_case(&host));
            &named.ok_or(NO_UPSTREAM)?.1
        }
    };
    scope.remote = remote(Some(location));
    if let Action::Return(reply) = &location.action {
        return response::reply(reply, &location.settings, &scope).map(Routed::respond);
    }
    if !location.settings.admits(scope.remote, scope.method) {
        return Err(DENIED);
    }
    let mut wait = Duration::ZERO;
    for limit in location.settings.limit_reqs.iter() {
        let status = location.settings.limit_req_status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let refused = ErrorResponse::new(status, "the client sends too many requests");
        wait = wait.max(limit.admit(&scope).ok_or(refused)?);
    }
    let Route { proxy, timeouts, .. } = &site.routes[location.number];
    let Action::Proxy(pass) = &location.action else { return Err(LEFT_OUT) };
    let Some(proxy) = proxy else { return Err(NOT_FOUND) };
    scope.proxy_host = &pass.host;
    let upstream = &site.config.upstreams[pass.upstream];
    let current = new_uri.as_deref().unwrap_or(scope.request_uri);
    let sent = match &pass.uri {
        PassUri::Original => Cow::Borrowed(scope.request_uri),
        PassUri::Variables => Cow::Owned(pass.uri_of_variables(&scope).ok_or(BAD_PATH)?),
        PassUri::Replace { .. } if rewritten.ignores_pass_uri => Cow::Borrowed(current),
        PassUri::Unchanged | PassUri::Replace { .. } | PassUri::Normalised { .. } => {
            pass.upstream_uri(current, scope.path, new_path.as_ref().unwrap_or(&path)).ok_or(BAD_PATH)?
        }
    };
    let uri: Option<Uri> = match sent {
        Cow::Borrowed(same) if same == scope.request_uri => None,
        sent => Some(sent.parse().map_err(|_| BAD_PATH)?),
    };
    prepare(&location.settings, pass, upstream, &scope, &mut head.extensions)?;
    let edits = ResponseEdits::new(server, &location.settings, pass, &scope)?;
    if let Some(uri) = uri {
        head.uri = uri;
    }
    if let Some(timeouts) = timeouts {
        head.extensions.insert(*timeouts);
    }
    Ok(Routed::Forward(proxy, edits, wait))
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
    Ok(match server.locate(path) {
        Some(LocationMatch::Location { location, captures }) => {
            scope.captures = captures.unwrap_or(scope.captures);
            Found::Location(location)
        }
        Some(LocationMatch::Redirect(location)) => Found::AddSlash(location),
        None => return Err(NOT_FOUND),
    })
}

impl Routed<'_> {
    fn respond(response: Response<Body>) -> Self {
        Routed::Respond(Box::new(response))
    }
}

/// Adds the extensions that the proxy and the policy read.
fn prepare(
    settings: &BlockSettings,
    pass: &ProxyPass,
    upstream: &Upstream,
    scope: &Scope<'_>,
    extensions: &mut Extensions,
) -> Result<(), ErrorResponse> {
    let mut edits = HeaderEdits::default();
    let mut has_host = scope.headers.get(header::HOST).is_some_and(|host| !host.is_empty());
    for header in settings.set_headers.iter() {
        let value = header.value.to_header(scope)?;
        if header.name == header::HOST {
            has_host = value.is_some();
        }
        edits = match value {
            Some(value) => edits.set(header.name.clone(), value),
            None => edits.remove(header.name.clone()),
        };
    }
    // HTTP/1.1 requires the header.
    if !has_host && let Ok(host) = HeaderValue::from_str(&pass.host) {
        edits = edits.set(header::HOST, host);
    }
    if !edits.is_empty() {
        extensions.insert(edits);
    }
    if let Method::Hash { key, .. } = &upstream.method {
        extensions.insert(UpstreamKey(Bytes::from(key.to_bytes(scope))));
    }
    if let Some(Sticky::Route(variables)) = &upstream.sticky {
        let mut values = variables.iter().map(|variable| variable.value(scope));
        if let Some(route) = values.find(|value| !value.is_empty()) {
            extensions.insert(SessionRoute::new(route));
        }
    }
    Ok(())
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
