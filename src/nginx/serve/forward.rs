//! Forwards one request: finds its server and location, and makes the request for the node.

mod admit;
mod destination;
mod limit;
mod locate;
mod pages;
mod pass;
mod prepare;
mod redirects;
mod script;

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, request};

use self::admit::{PassedChecks, Pause};
use self::locate::ServerRequest;
use self::pages::{Finished, KeptRequest, PageRequest};
use self::redirects::{InternalRedirect, PageError};
use self::script::Rewritten;
use super::SiteParts;
use super::access_log::PendingRequest;
use super::response::{self, BAD_PATH, ResponseEdits};
use crate::nginx::config::{Listener, ServerAddrUse};
use crate::nginx::directives::server::ListenAddress;
use crate::nginx::readings::RequestPaths;
use crate::nginx::uri::is_host;
use crate::nginx::variables::{MapValues, Outcome, RequestId, Scope, TlsConnection};
use crate::proxy::{ErrorResponse, Proxy, check_head};
use crate::{Body, ClientAddr, LocalAddr};

pub(super) async fn forward(
    site: &SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, mut body) = request.into_parts();
    let (mut passed, mut before) = (PassedChecks::default(), None);
    // Each pause is for a check that `passed` then records, and the number of internal redirects is
    // limited. So the loop ends.
    loop {
        let (proxy, edits, kept, pending) =
            match route(site, listener, peer, &mut head, checked, &mut passed, before.as_ref()) {
                Routed::Respond(response) => return *response,
                Routed::Pause(pause) => {
                    pause.wait(&mut passed).await;
                    continue;
                }
                Routed::Redirected(next) => {
                    next.prepare(&mut head, &mut body);
                    passed.named = passed.client;
                    before = Some(*next);
                    continue;
                }
                Routed::Forward { proxy, edits, kept, pending, uri } => {
                    head.uri = uri.map_or(head.uri, |uri| *uri);
                    (proxy, edits, kept, pending)
                }
            };
        body = edits.without_body(&mut head, body);
        let has_body = !http_body::Body::is_end_stream(&body);
        let asked = (edits.intercepts() || kept.is_some()).then(|| pages::asked(&head));
        let mut response = proxy.forward(peer, Request::from_parts(head, body)).await;
        if let Some(pending) = &pending {
            pending.received(&response);
        }
        if let Some(error) = edits.unserved(&response) {
            response = error;
        }
        let mut is_error = response::is_own_error(&response);
        if let Some(page) = edits.page(&response) {
            let is_last_page = before.as_ref().is_some_and(InternalRedirect::is_last_page);
            match pages::after_error(page, kept, is_last_page, has_body, asked.as_ref(), &mut response) {
                Some(PageRequest { redirect: mut next, head: next_head, body: next_body }) => {
                    (head, body) = (next_head, next_body);
                    next.prepare(&mut head, &mut body);
                    next.pending = pending;
                    passed.named = passed.client;
                    before = Some(next);
                    continue;
                }
                None => is_error = true,
            }
            if let Some(pending) = &pending {
                pending.responded(&response);
            }
        }
        if let Some(error) = before.as_ref().and_then(InternalRedirect::error) {
            error.mark(&mut response, is_error);
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

/// The decision on a request.
enum Routed<'s> {
    Respond(Box<Response<Body>>),
    /// The request waits, and is then routed again.
    Pause(Pause),
    /// Another location responds.
    Redirected(Box<InternalRedirect<'s>>),
    /// The head is ready for the proxy.
    Forward {
        proxy: &'s Proxy,
        edits: ResponseEdits<'s>,
        /// The request, kept if an error may lead it to another location.
        kept: Option<Box<KeptRequest<'s>>>,
        pending: Option<Arc<PendingRequest>>,
        /// The URI for the node, if it differs from that of the request.
        uri: Option<Box<Uri>>,
    },
}

const BAD_HOST: ErrorResponse = ErrorResponse::new(StatusCode::BAD_REQUEST, "the request names no valid host");
const TOO_MANY_HEADERS: ErrorResponse =
    ErrorResponse::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has more headers than max_headers");
const NO_LOCAL_ADDR: ErrorResponse = ErrorResponse::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "the address that the client reached is not known, and the configuration decides by it",
);

fn route<'s>(
    site: &'s SiteParts,
    listener: &Listener,
    peer: ClientAddr,
    head: &mut request::Parts,
    mut checked: Result<(), ErrorResponse>,
    passed: &mut PassedChecks,
    before: Option<&InternalRedirect<'s>>,
) -> Routed<'s> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let (number, captures, groups) = listener.server_for(host.as_deref());
    let server = &site.config.servers[number];
    if checked.is_ok() && host.as_deref().is_some_and(|host| !is_host(host.as_bytes())) {
        checked = Err(BAD_HOST);
    }
    if checked.is_ok() && server.settings.max_headers.is_some_and(|max| head.headers.len() > max) {
        checked = Err(TOO_MANY_HEADERS);
    }
    if server.settings.ignore_invalid_headers != Some(false) {
        drop_invalid(&mut head.headers, server.settings.underscores_in_headers == Some(true));
    }

    let request_uri = head.uri.path_and_query().cloned();
    let request_uri = request_uri.as_ref().map_or("/", |uri| uri.as_str());
    // The path as the node reads it selects the location. nginx's reading also has the
    // `;parameters`.
    let paths = RequestPaths::of(request_uri, server.settings.merge_slashes != Some(false));
    let is_readable = paths.is_some();
    let root = if is_readable { None } else { RequestPaths::of("/", true) };
    let reached = head.extensions.get::<LocalAddr>().copied();
    let local = match &listener.address {
        ListenAddress::Tcp(address) => Some(reached.map_or(*address, |LocalAddr(reached)| reached)),
        ListenAddress::Unix(_) => None,
    };
    // The connection was made before a reload, or by a server that does not tell the local address.
    let is_unknown = site.config.server_addr == ServerAddrUse::Decides && reached.is_none() && listener.is_wildcard();
    if checked.is_ok() && is_unknown {
        checked = Err(NO_LOCAL_ADDR);
    }
    // The proxy reads it too, so it stays in the extensions.
    let connection = head.extensions.get::<TlsConnection>().cloned();
    let id = RequestId::default();
    // The extensions are changed while the rest of the head is borrowed.
    let mut extensions = std::mem::take(&mut head.extensions);
    let mut scope = Scope {
        version: head.version,
        peer: inet(peer),
        remote: inet(peer),
        local,
        proxied: inet(peer).filter(|_| listener.proxy_protocol),
        tls: connection.as_ref(),
        server_name: &server.name,
        captures,
        id: Some(&id),
        outcome: before.and_then(InternalRedirect::error).and_then(PageError::status).map(Outcome::of_site),
        // Conditions and rewrites see the path that selects the location.
        ..Scope::new(&head.method, request_uri, paths.as_ref().map_or(b"", RequestPaths::path), &head.headers)
    };
    let mut rewritten = match before {
        Some(before) => before.rewritten().clone(),
        None => {
            let slots = if server.is_scripted { site.config.set_slots } else { 0 };
            Rewritten::new(slots, MapValues::new(site.config.map_slots), groups, &captures)
        }
    };
    let mut logs = &site.server_logs[number];
    let found = match (checked, paths.as_ref().or(root.as_ref())) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(paths)) => {
            let arrived = ServerRequest { site, server, peer, head, paths, before, is_readable, named: passed.named };
            arrived.locate(&mut scope, &mut rewritten, &mut logs, &mut extensions, passed)
        }
        (Ok(()), None) => Err(BAD_PATH),
    };
    let mut response = match found {
        Ok(Routed::Respond(response)) => response,
        Ok(routed) => {
            head.extensions = extensions;
            return routed;
        }
        Err(error) => Box::new(error.response_to(head)),
    };
    if is_unknown {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let pending = PendingRequest::begin(logs, &scope, &None, passed.waited, false);
    if let Some(before) = before.and_then(|before| before.pending.as_ref()) {
        before.yield_to(pending.as_deref());
    }
    if let Some(pending) = pending {
        pending.responded(&response);
    }
    Routed::Respond(response)
}

impl<'s> From<Finished<'s>> for Routed<'s> {
    fn from(finished: Finished<'s>) -> Self {
        match finished {
            Finished::Response(response) => Routed::Respond(Box::new(response)),
            Finished::Redirected(next) => Routed::Redirected(Box::new(next)),
        }
    }
}

/// Drops headers whose names are invalid for nginx, because servers may read `X_Name` or `X.Name`
/// as another header.
fn drop_invalid(headers: &mut HeaderMap, allows_underscores: bool) {
    let is_valid = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-') || (allows_underscores && byte == b'_');
    let is_invalid = |name: &&HeaderName| !name.as_str().bytes().all(is_valid);
    // Such headers are rare, and the check must not allocate.
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
