//! The way of a request through a configuration.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri, request};

use super::build::{UpstreamKey, timeouts};
use super::{Inner, Route};
use crate::ClientAddr;
use crate::body::Body;
use crate::nginx::listen::ListenAddress;
use crate::nginx::location::{Action, Found, Location};
use crate::nginx::pass::{ProxyPass, Redirects};
use crate::nginx::reply::Reply;
use crate::nginx::settings::{AddHeader, Settings};
use crate::nginx::sticky::Sticky;
use crate::nginx::upstream::Method;
use crate::nginx::uri::{escape, normalise};
use crate::nginx::variables::{Scope, Unsendable};
use crate::proxy::{ErrorResponse, HeaderEdits, Proxy, check_head};
use crate::session::SessionRoute;

pub(super) async fn forward(
    site: &Inner,
    listener: usize,
    peer: ClientAddr,
    mut request: Request<Body>,
) -> Response<Body> {
    let checked = check_head(&mut request);
    let (mut head, body) = request.into_parts();
    if let Err(error) = checked {
        return error.response_to(&head);
    }
    match route(site, listener, peer, &mut head) {
        Ok(Step::Answer(answer)) => *answer,
        Ok(Step::Send(proxy, after)) => {
            let answer = proxy.forward(peer, Request::from_parts(head, body)).await;
            after.apply(answer)
        }
        Err(error) => error.response_to(&head),
    }
}

/// What is to be done with a request.
enum Step<'s> {
    Answer(Box<Response<Body>>),
    /// The head was made ready.
    Send(&'s Proxy, After<'s>),
}

/// `add_header` lines and their values for a request.
type Added<'s> = Vec<(&'s AddHeader, HeaderValue)>;

/// What is to be done with the answer.
struct After<'s> {
    settings: &'s Settings,
    added: Added<'s>,
    redirects: Redirects<'s>,
}

fn route<'s>(
    site: &'s Inner,
    listener: usize,
    peer: ClientAddr,
    head: &mut request::Parts,
) -> Result<Step<'s>, ErrorResponse> {
    let listener = &site.config.listeners[listener];
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let (number, captures) = listener.server_for(host.as_deref());
    let server = &site.config.servers[number];
    if server.settings.underscores_in_headers != Some(true) {
        drop_underscored(&mut head.headers);
    }

    let request_uri = head.uri.path_and_query().cloned();
    let request_uri = request_uri.as_ref().map_or("/", |uri| uri.as_str());
    let path = normalise(request_uri, server.settings.merge_slashes != Some(false)).map_err(|_| BAD_PATH)?;
    let local = match &listener.address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    };
    let mut scope = Scope {
        version: head.version,
        peer: inet(peer),
        remote: inet(peer),
        local,
        server_name: &server.name,
        captures,
        ..Scope::new(&head.method, request_uri, &path, &head.headers)
    };
    if let Some(reply) = &server.reply {
        scope.remote = inet(server.settings.real_ip.trusted_proxies().client(peer, &head.headers));
        return Ok(Step::Answer(answer(reply, &server.settings, &scope)?.into()));
    }
    let (location, found) = match server.locate(&path) {
        Some(Found::Location { location, captures }) => (location, captures),
        Some(Found::Redirect(to)) => {
            scope.remote = inet(site.routes[to.number].trusted.client(peer, &head.headers));
            return Ok(Step::Answer(redirect(to, &scope)?.into()));
        }
        None => return Err(NOT_FOUND),
    };
    let Route { trusted, proxy } = &site.routes[location.number];
    scope.captures = found.unwrap_or(captures);
    scope.remote = inet(trusted.client(peer, &head.headers));
    match (&location.action, proxy) {
        (Action::Proxy(pass), Some(proxy)) => {
            scope.proxy_host = &pass.host;
            let (changes, after) = prepare(site, location, pass, &scope)?;
            changes.apply(head);
            Ok(Step::Send(proxy, after))
        }
        (Action::Return(reply), _) => Ok(Step::Answer(answer(reply, &location.settings, &scope)?.into())),
        (Action::Proxy(_), None) => Err(NOT_FOUND),
    }
}

const NOT_FOUND: ErrorResponse = ErrorResponse::new(StatusCode::NOT_FOUND, "no location is configured for the path");
const BAD_PATH: ErrorResponse = ErrorResponse::new(StatusCode::BAD_REQUEST, "the path of the request is not valid");
const UNSENDABLE: ErrorResponse =
    ErrorResponse::new(StatusCode::BAD_REQUEST, "the request would make a header field that cannot be sent");

impl From<Unsendable> for ErrorResponse {
    fn from(_: Unsendable) -> Self {
        UNSENDABLE
    }
}

/// What changes in a request's head, computed while its variables still read the original.
struct Changes {
    edits: HeaderEdits,
    uri: Option<Uri>,
    key: Option<UpstreamKey>,
    given: Option<SessionRoute>,
    timeouts: Option<crate::backend::http1::Timeouts>,
}

impl Changes {
    fn apply(self, head: &mut request::Parts) {
        if let Some(uri) = self.uri {
            head.uri = uri;
        }
        if !self.edits.is_empty() {
            head.extensions.insert(self.edits);
        }
        if let Some(key) = self.key {
            head.extensions.insert(key);
        }
        if let Some(given) = self.given {
            head.extensions.insert(given);
        }
        if let Some(timeouts) = self.timeouts {
            head.extensions.insert(timeouts);
        }
    }
}

fn prepare<'s>(
    site: &'s Inner,
    location: &'s Location,
    pass: &'s ProxyPass,
    scope: &Scope<'_>,
) -> Result<(Changes, After<'s>), ErrorResponse> {
    let settings = &location.settings;
    let mut edits = HeaderEdits::default();
    for field in settings.set_headers.iter() {
        edits = match field.value.to_header(scope)? {
            Some(value) => edits.set(field.name.clone(), value),
            None => edits.remove(field.name.clone()),
        };
    }
    let uri = match pass.upstream_uri(scope.request_uri, scope.path) {
        Cow::Borrowed(_) => None,
        Cow::Owned(uri) => Some(uri.parse().map_err(|_| BAD_PATH)?),
    };
    let key = match &site.config.upstreams[pass.upstream].method {
        Method::Hash { key, .. } => Some(UpstreamKey(Bytes::from(key.to_bytes(scope)))),
        _ => None,
    };
    let given = match &site.config.upstreams[pass.upstream].sticky {
        Some(Sticky::Route(variables)) => {
            let mut values = variables.iter().map(|variable| variable.value(scope));
            values.find(|value| !value.is_empty()).map(|route| SessionRoute::new(&route))
        }
        _ => None,
    };
    let after = After { settings, added: added(settings, scope)?, redirects: pass.redirects(scope) };
    Ok((Changes { edits, uri, key, given, timeouts: timeouts(settings) }, after))
}

fn added<'s>(settings: &'s Settings, scope: &Scope<'_>) -> Result<Added<'s>, ErrorResponse> {
    let mut added = Vec::new();
    for field in settings.add_headers.iter() {
        if let Some(value) = field.value.to_header(scope)? {
            added.push((field, value));
        }
    }
    Ok(added)
}

impl After<'_> {
    fn apply(self, mut answer: Response<Body>) -> Response<Body> {
        let headers = answer.headers_mut();
        let hidden: Vec<_> = headers.keys().filter(|name| self.settings.hides(name)).cloned().collect();
        for name in hidden {
            headers.remove(name);
        }
        if let Some(location) = headers.get(header::LOCATION)
            && let Some(changed) = self.redirected(location.as_bytes())
        {
            headers.insert(header::LOCATION, changed);
        }
        add(self.added, &mut answer);
        answer
    }

    fn redirected(&self, location: &[u8]) -> Option<HeaderValue> {
        let mut rules = self.redirects.iter();
        let changed = rules.find_map(|(from, to)| location.strip_prefix(&**from).map(|rest| [&**to, rest].concat()));
        changed.and_then(|changed| HeaderValue::from_maybe_shared(Bytes::from(changed)).ok())
    }
}

fn add(added: Added<'_>, answer: &mut Response<Body>) {
    let status = answer.status().as_u16();
    for (field, value) in added.into_iter().filter(|(field, _)| field.applies_to(status)) {
        answer.headers_mut().append(field.name.clone(), value);
    }
}

/// `return`.
fn answer(reply: &Reply, settings: &Settings, scope: &Scope<'_>) -> Result<Response<Body>, ErrorResponse> {
    let text = reply.text.as_ref().map(|text| text.to_bytes(scope)).unwrap_or_default();
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(location) = &reply.location
        && let Some(location) = location.to_header(scope)?
    {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    let kind = settings.default_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok());
    answer.headers_mut().insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/plain")));
    add(added(settings, scope)?, &mut answer);
    Ok(answer)
}

/// For a path that lacks the slash at the end of the location's. The address stays relative, which leaves scheme and port
/// to the client, who knows them.
fn redirect(to: &Location, scope: &Scope<'_>) -> Result<Response<Body>, ErrorResponse> {
    let path = escape(to.matcher.text().as_bytes());
    let query = scope.request_uri.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(path + &query).map_err(|_| BAD_PATH)?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    answer.headers_mut().insert(header::LOCATION, location);
    add(added(&to.settings, scope)?, &mut answer);
    Ok(answer)
}

fn drop_underscored(headers: &mut HeaderMap) {
    // Nearly no request has one; the check must not cost an allocation.
    if headers.keys().any(|name| name.as_str().contains('_')) {
        let names: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

fn inet(client: ClientAddr) -> Option<std::net::SocketAddr> {
    if let ClientAddr::Inet(address) = client { Some(address) } else { None }
}
