//! Forwards one request: finds its server and `ProxyPass`, and makes the request for the node.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri, request};
use kylin_lb::endpoint::EndpointId;
use kylin_lb::kylin::NormalizedPath;
use kylin_lb::proxy::{ErrorResponse, check_head};
use kylin_lb::session::SessionRoute;
use kylin_lb::{Body, ClientAddr, Proxy};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Parts;
use super::response::ResponseEdits;
use super::session::Asked as AskedSession;
use crate::httpd::config::Listener;
use crate::httpd::directives::{
    Access, Asked, Matcher, Pass, Paths, Rewritten, Scope, Server, Settings, is_path, sent_path,
};
use crate::httpd::policy::AskedRoute;

const BAD_PATH: ErrorResponse = ErrorResponse::new(StatusCode::BAD_REQUEST, "the path of the request is not valid");
const NOT_FOUND: ErrorResponse = ErrorResponse::new(StatusCode::NOT_FOUND, "no ProxyPass is configured for the path");
const DENIED: ErrorResponse = ErrorResponse::new(StatusCode::FORBIDDEN, "the configuration denies the client the path");
const REFUSED: &str = "a rule of the configuration refuses the request";

/// The bytes that must be escaped in the query of a URI. A `#` would end the query.
const ESCAPED_IN_QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

pub async fn forward(
    parts: &Parts,
    listener: &Listener,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, body) = request.into_parts();
    if let Err(error) = checked {
        return error.response_to(&head);
    }
    let mut edits = ResponseEdits::default();
    match route(parts, listener, peer, &mut head, &mut edits) {
        Ok(Routed::Respond(response)) => edits.apply_to_own(*response),
        Ok(Routed::Forward(proxy)) => edits.apply(proxy.forward(peer, Request::from_parts(head, body)).await),
        Err(error) => edits.apply_to_own(error.response_to(&head)),
    }
}

enum Routed<'s> {
    Respond(Box<Response<Body>>),
    /// The head is ready for the proxy.
    Forward(&'s Proxy),
}

fn route<'s>(
    parts: &'s Parts,
    listener: &Listener,
    peer: ClientAddr,
    head: &mut request::Parts,
    edits: &mut ResponseEdits<'s>,
) -> Result<Routed<'s>, ErrorResponse> {
    let host = head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_ascii_lowercase)
        .unwrap_or_default();
    let number = parts.config.server_for(listener, name_of(&host));
    let server = &parts.config.servers[number];
    let client = parts.trusted[number].client(peer, &head.headers).ip();
    let rewritten = rewrite(server, listener, head, &host, client)?;
    let is_changed = matches!(rewritten, Rewritten::Path { .. });
    let uri = match &rewritten {
        Rewritten::Path { passes: false, .. } => return Err(NOT_FOUND),
        Rewritten::Path { path, query, .. } => uri_of(path, query.as_deref(), "")?,
        _ => head.uri.clone(),
    };
    let raw = uri.path_and_query().map_or("/", |uri| uri.as_str());
    let read = NormalizedPath::of(&uri).map_err(|_| BAD_PATH)?;
    let path = read.as_str();
    let before = NormalizedPath::of(&head.uri).map_err(|_| BAD_PATH)?;
    let pass = match rewritten {
        Rewritten::Proxy { pass, .. } => Some(pass),
        _ => server.pass_of(path, before.as_str()),
    };
    let target = pass.and_then(|pass| pass.to.as_ref());
    let url = match (&rewritten, target) {
        (Rewritten::Proxy { path, .. }, Some(target)) if path.read.is_empty() => Some(target.url.clone()),
        (Rewritten::Proxy { .. }, Some(target)) => Some(format!("{}/", target.url)),
        _ => pass.and_then(|pass| pass.url(path)),
    };
    let is_for = |matcher: &Matcher| matcher.is_for(path, url.as_deref());
    let settings: Vec<&Settings> =
        server.sections.iter().filter(|section| is_for(&section.matcher)).map(|section| &section.settings).collect();
    let scope = Scope { client, is_tls: listener.is_tls, host: Cow::Owned(host), ..Scope::default() };
    *edits = ResponseEdits::new(settings.clone(), scope);
    match &rewritten {
        Rewritten::Respond(status) => return Err(ErrorResponse::new(*status, REFUSED)),
        Rewritten::Redirect(status, to) => {
            return Ok(Routed::Respond(Box::new(redirect_to(*status, to.clone(), edits.scope())?)));
        }
        Rewritten::Unchanged | Rewritten::Path { .. } | Rewritten::Proxy { .. } => {}
    }
    // The client must be allowed both possible paths: the one that nodes read, and the one with
    // parameters that httpd compares.
    let compared = Paths::compared(uri.path());
    for path in [Some(path), compared.as_deref()].into_iter().flatten() {
        let mut access = Access::default();
        let sections = server.sections.iter().filter(|section| section.matcher.is_for(path, url.as_deref()));
        sections.for_each(|section| access.replace(&section.settings.access));
        access.check(client, &head.method).map_err(|_| DENIED)?;
    }
    // A `ProxyPass` with `!` also counts for both paths.
    let is_left_out = |path: &String| server.pass_of(path, path).is_some_and(|pass| pass.to.is_none());
    let is_left_out = compared.as_ref().is_some_and(is_left_out) && !matches!(rewritten, Rewritten::Proxy { .. });
    let target = target.filter(|_| !is_left_out);
    let paths = [Some(Paths::of(uri.path(), path)), compared.map(|path| Paths { read: path.clone(), full: path })];
    if let Some(response) = redirect(server, &paths, uri.query(), target.is_some(), &is_for, edits.scope())? {
        return Ok(Routed::Respond(Box::new(response)));
    }
    let (Some(pass), Some(target)) = (pass, target) else { return Err(NOT_FOUND) };
    let (balancer, group) = parts.balancer(target.balancer);
    let Some(proxy) = &parts.proxies[number][target.balancer] else { return Err(NOT_FOUND) };
    let sent = match &rewritten {
        // The value would continue the host name.
        Rewritten::Proxy { path, .. } if !path.read.is_empty() && !path.read.starts_with('/') => return Err(BAD_PATH),
        Rewritten::Proxy { path, query, .. } => Some(uri_of(path, query.as_deref(), &balancer.path)?.to_string()),
        _ => sent_path(&pass.from, target, &balancer.path, raw, path).map_err(|()| BAD_PATH)?,
    };
    let sent = sent.or_else(|| is_changed.then(|| raw.to_owned()));
    let asked = AskedSession::of(balancer, sent.as_deref().unwrap_or(raw), &head.headers);
    if let Some(member) = asked.member(balancer, &group.cluster)
        && let Ok(id) = EndpointId::new(&member.address)
    {
        head.extensions.insert(SessionRoute::to_endpoint(id).required(balancer.no_failover));
        head.extensions.insert(AskedRoute(Arc::from(asked.route.as_deref().unwrap_or_default())));
    }
    edits.is_from(balancer, pass, target, asked);
    let is_trusted = parts.trusted[number].trusts(peer);
    let of_node = balancer.members.first().and_then(|member| HeaderValue::from_str(&member.address).ok());
    let changes = super::request::apply(server, &settings, &mut head.headers, is_trusted, of_node, edits.scope());
    if !changes.is_empty() {
        head.extensions.insert(changes);
    }
    if let Some(sent) = sent {
        head.uri = sent.parse::<Uri>().map_err(|_| BAD_PATH)?;
    }
    Ok(Routed::Forward(proxy))
}

/// Returns the response of the first `Redirect` for a path. Those of the server apply only if no
/// `ProxyPass` leads to a node.
///
/// `paths` has the path as nodes read it, and as httpd compares it if that differs.
fn redirect(
    server: &Server,
    paths: &[Option<Paths>; 2],
    query: Option<&str>,
    is_passed: bool,
    is_for: &dyn Fn(&Matcher) -> bool,
    scope: &Scope<'_>,
) -> Result<Option<Response<Body>>, ErrorResponse> {
    let of_path = |section: &&super::super::directives::Section| match section.matcher {
        Matcher::All => !is_passed,
        Matcher::Proxied(_) => false,
        Matcher::Below(_) | Matcher::Pattern(_) => is_for(&section.matcher),
    };
    // The most specific section comes first.
    for redirect in server.sections.iter().rev().filter(of_path).flat_map(|section| &section.settings.redirects) {
        // A directive that refuses counts for both forms of the path.
        let count = if redirect.status.is_redirection() { 1 } else { 2 };
        let mut locations = paths[..count].iter().flatten().filter_map(|path| redirect.location(path, query));
        let Some(location) = locations.next() else { continue };
        return redirect_to(redirect.status, location, scope).map(Some);
    }
    Ok(None)
}

fn redirect_to(status: StatusCode, mut to: String, scope: &Scope<'_>) -> Result<Response<Body>, ErrorResponse> {
    if to.starts_with('/') && !is_path(&to) {
        to = format!("{}://{}{to}", if scope.is_tls { "https" } else { "http" }, scope.host);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status.is_redirection() {
        response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(to).map_err(|_| BAD_PATH)?);
    }
    Ok(response)
}

/// Runs the rules of a server.
fn rewrite<'s>(
    server: &'s Server,
    listener: &Listener,
    head: &request::Parts,
    host: &str,
    client: Option<IpAddr>,
) -> Result<Rewritten<'s>, ErrorResponse> {
    if !server.rewrites.is_on {
        return Ok(Rewritten::Unchanged);
    }
    let read = NormalizedPath::of(&head.uri).map_err(|_| BAD_PATH)?;
    // As in httpd, the port is that of the virtual host if the client names none.
    let port = match (server.addresses.is_empty(), listener.is_tls) {
        (false, _) => listener.port(),
        (true, true) => 443,
        (true, false) => 80,
    };
    Ok(server.rewrites.apply(&Asked {
        path: Paths::of(head.uri.path(), read.as_str()),
        compared: Paths::compared(head.uri.path()),
        raw: head.uri.path_and_query().map_or("/", |uri| uri.as_str()),
        query: head.uri.query(),
        method: &head.method,
        version: head.version,
        headers: &head.headers,
        client,
        is_tls: listener.is_tls,
        host,
        port,
    }))
}

/// Returns the URI of a path, which is appended to the path of all members.
fn uri_of(path: &Paths, query: Option<&str>, prefix: &str) -> Result<Uri, ErrorResponse> {
    let path = path.escaped(prefix).map_err(|()| BAD_PATH)?;
    let uri = query.map_or(path.clone(), |query| format!("{path}?{}", utf8_percent_encode(query, ESCAPED_IN_QUERY)));
    uri.parse().map_err(|_| BAD_PATH)
}

/// Returns the name that selects a virtual host: without the port, and without trailing dots.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.')
}

impl Server {
    /// Returns the `ProxyPass` of a path: that of the last matching location, else the first one
    /// that covers the path.
    ///
    /// As in httpd, a location must match both the path and the path `before` the rules.
    pub fn pass_of(&self, path: &str, before: &str) -> Option<&Pass> {
        let of_location = self.sections.iter().rev().filter(|section| section.matcher.is_for(before, None));
        let of_location = of_location.filter_map(|section| section.settings.pass.as_ref()).next();
        let of_location = of_location.filter(|pass| before == path || pass.from.covers(path).is_some());
        of_location.or_else(|| self.passes.iter().find(|pass| pass.from.covers(path).is_some()))
    }
}
