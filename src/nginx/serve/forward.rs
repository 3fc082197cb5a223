//! One request: which server and location it belongs to, and what is sent to the node.

use std::borrow::Cow;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Extensions, Request, Response, StatusCode, request};

use super::SiteParts;
use super::clusters::UpstreamKey;
use super::response::{self, BAD_PATH, ResponseEdits};
use super::routes::Route;
use crate::kylin::NormalizedPath;
use crate::nginx::config::Listener;
use crate::nginx::directives::location::{Action, LocationMatch, ProxyPass};
use crate::nginx::directives::server::ListenAddress;
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
        Ok(Routed::Forward(proxy, edits)) => edits.apply(proxy.forward(peer, Request::from_parts(head, body)).await),
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
    /// The head is ready for the proxy.
    Forward(&'s Proxy, ResponseEdits<'s>),
}

const NOT_FOUND: ErrorResponse = ErrorResponse::new(StatusCode::NOT_FOUND, "no location is configured for the path");

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
    if let Some(reply) = &server.reply {
        scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, &head.headers));
        return response::reply(reply, &server.settings, &scope).map(Routed::respond);
    }
    let (location, captures) = match server.locate(&path) {
        Some(LocationMatch::Location { location, captures }) => (location, captures),
        Some(LocationMatch::Redirect(location)) => {
            scope.remote = inet(site.routes[location.number].trusted.client(peer, &head.headers));
            return response::redirect(location, &scope).map(Routed::respond);
        }
        None => return Err(NOT_FOUND),
    };
    let Route { trusted, proxy, timeouts } = &site.routes[location.number];
    scope.captures = captures.unwrap_or(scope.captures);
    scope.remote = inet(trusted.client(peer, &head.headers));
    match (&location.action, proxy) {
        (Action::Proxy(pass), Some(proxy)) => {
            scope.proxy_host = &pass.host;
            let upstream = &site.config.upstreams[pass.upstream];
            let uri = pass.upstream_uri(scope.request_uri, scope.path, &path).ok_or(BAD_PATH)?;
            let uri = match uri {
                Cow::Borrowed(_) => None,
                Cow::Owned(uri) => Some(uri.parse().map_err(|_| BAD_PATH)?),
            };
            prepare(&location.settings, pass, upstream, &scope, &mut head.extensions)?;
            let edits = ResponseEdits::new(&location.settings, pass, &scope)?;
            if let Some(uri) = uri {
                head.uri = uri;
            }
            if let Some(timeouts) = timeouts {
                head.extensions.insert(*timeouts);
            }
            Ok(Routed::Forward(proxy, edits))
        }
        (Action::Return(reply), _) => response::reply(reply, &location.settings, &scope).map(Routed::respond),
        (Action::LeftOut(_), _) => Err(LEFT_OUT),
        (Action::Proxy(_), None) => Err(NOT_FOUND),
    }
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
