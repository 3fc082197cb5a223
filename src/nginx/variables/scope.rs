//! The parts of a request that variables read.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Method, Version, header};

use crate::nginx::syntax::Captures;
use crate::observe::Attempt;
#[cfg(feature = "tls")]
pub(crate) use crate::tls::TlsConnection;

/// A connection over TLS, which does not exist without the feature.
#[cfg(not(feature = "tls"))]
#[derive(Debug, Clone)]
pub(crate) enum TlsConnection {}

/// A request, borrowed. Addresses are `None` for a unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'r> {
    pub(crate) method: &'r Method,
    pub(crate) version: Version,
    /// Path and query as received.
    pub(crate) request_uri: &'r str,
    /// The path, [normalised](crate::nginx::uri::normalise).
    pub(crate) path: &'r [u8],
    /// The headers; `Host` is that of the request target if the target names one (HTTP/2, absolute
    /// form).
    pub(crate) headers: &'r HeaderMap,
    /// The client, after `set_real_ip_from`.
    pub(crate) remote: Option<SocketAddr>,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    /// The local end of the connection.
    pub(crate) local: Option<SocketAddr>,
    /// The TLS connection; `None` for a connection without TLS.
    pub(crate) tls: Option<&'r TlsConnection>,
    /// The first name of the selected server.
    pub(crate) server_name: &'r str,
    /// The host of `proxy_pass`.
    pub(crate) proxy_host: &'r str,
    /// The default port of the scheme of `proxy_pass`, or an empty string.
    pub(crate) proxy_default_port: &'static str,
    /// The client that the PROXY protocol names.
    pub(crate) proxied: Option<SocketAddr>,
    /// The groups of the regular expression that selected the location or server.
    pub(crate) captures: Captures<'r>,
    /// The arguments, if `rewrite` changed them.
    pub(crate) args: Option<&'r [u8]>,
    /// The values of `set`, by their slot.
    pub(crate) sets: &'r [Vec<u8>],
    /// The values of `map` so far; `None` if the configuration keeps none.
    pub(crate) map_values: Option<&'r MapValues>,
    /// Whether a `rewrite` changed path or arguments.
    pub(crate) is_rewritten: bool,
    /// `$request_id`.
    pub(crate) id: Option<&'r RequestId>,
    /// The outcome; `None` before there is a response.
    pub(crate) outcome: Option<Outcome<'r>>,
}

/// The values of `map` variables at their first use, by their slot.
///
/// As in nginx, a request keeps them even if its path or arguments change later, unless the map is
/// `volatile`. Clones share the values.
#[derive(Debug, Clone, Default)]
pub(crate) struct MapValues(Option<Arc<[KeptValue]>>);

type KeptValue = OnceLock<Box<[u8]>>;

impl MapValues {
    pub(crate) fn new(slots: usize) -> Self {
        MapValues((slots > 0).then(|| (0..slots).map(|_| OnceLock::new()).collect()))
    }

    /// Returns the value of a slot, which `compute` makes on first use; `None` if there is no such
    /// slot.
    pub(super) fn get(&self, slot: usize, compute: impl FnOnce() -> Vec<u8>) -> Option<&[u8]> {
        let value = self.0.as_ref()?.get(slot)?;
        Some(value.get_or_init(|| compute().into()))
    }

    /// Returns a copy of the values so far, for a use that must not fix values for the request.
    pub(crate) fn fork(&self) -> Self {
        MapValues(self.0.as_ref().map(|values| values.iter().cloned().collect()))
    }
}

/// The attempts at an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamAttempts {
    pub(crate) attempts: Vec<Attempt>,
    /// The name of the upstream and the status of the response, if none of its servers was
    /// eligible.
    pub(crate) unserved: Option<(Box<str>, u16)>,
}

/// The facts of the response that are known at its head (`add_header`) or at its end (log).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome<'r> {
    /// The status; `None` if the client disconnected before there was one.
    pub(crate) status: Option<u16>,
    pub(crate) body_bytes: u64,
    pub(crate) elapsed: Duration,
    /// The attempts at upstreams of earlier locations, from which `error_page` led the request to
    /// this one.
    pub(crate) earlier: &'r [UpstreamAttempts],
    pub(crate) attempts: &'r [Attempt],
    /// The name of the upstream, if none of its servers was eligible.
    pub(crate) upstream: Option<&'r str>,
    /// The headers that the client gets.
    pub(crate) sent: Option<&'r HeaderMap>,
    /// The headers that the node sent.
    pub(crate) received: Option<&'r HeaderMap>,
}

impl Outcome<'_> {
    /// Returns the outcome of a request to which the site itself responds.
    pub(crate) fn of_site(status: u16) -> Self {
        Outcome {
            status: Some(status),
            body_bytes: 0,
            elapsed: Duration::ZERO,
            earlier: &[],
            attempts: &[],
            upstream: None,
            sent: None,
            received: None,
        }
    }
}

/// The `$request_id`: 16 random bytes in hexadecimal digits, made at its first use.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestId(OnceCell<[u8; 32]>);

impl RequestId {
    /// Returns the id, if it has been used.
    pub(crate) fn made(&self) -> Option<&str> {
        std::str::from_utf8(self.0.get()?).ok()
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.made_now()
    }

    fn made_now(&self) -> &[u8; 32] {
        self.0.get_or_init(|| {
            let random = fastrand::u128(..);
            std::array::from_fn(|index| b"0123456789abcdef"[(random >> (4 * index)) as usize & 15])
        })
    }
}

impl<'r> Scope<'r> {
    /// Makes a scope from the essential parts of a request; the caller sets the rest.
    pub(crate) fn new(method: &'r Method, request_uri: &'r str, path: &'r [u8], headers: &'r HeaderMap) -> Self {
        Scope {
            method,
            version: Version::HTTP_11,
            request_uri,
            path,
            headers,
            remote: None,
            peer: None,
            local: None,
            tls: None,
            server_name: "",
            proxy_host: "",
            proxy_default_port: "",
            proxied: None,
            captures: Captures::default(),
            args: None,
            sets: &[],
            map_values: None,
            is_rewritten: false,
            id: None,
            outcome: None,
        }
    }

    /// Returns the arguments without the question mark.
    pub(crate) fn query(&self) -> &'r [u8] {
        if let Some(args) = self.args {
            return args;
        }
        let target = self.request_uri.split('#').next().unwrap_or_default();
        target.split_once('?').map_or(b"", |(_, query)| query.as_bytes())
    }

    /// Returns the host that the client asked for, as the client wrote it.
    pub(super) fn requested_host(&self) -> Option<&'r [u8]> {
        self.headers.get(header::HOST).map(|host| host.as_bytes())
    }
}

/// A [`Scope`] that outlives the head of its request.
#[derive(Debug)]
pub(crate) struct Snapshot {
    method: Method,
    version: Version,
    request_uri: Box<str>,
    path: Box<[u8]>,
    headers: HeaderMap,
    remote: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tls: Option<TlsConnection>,
    server_name: Box<str>,
    proxy_host: Box<str>,
    proxy_default_port: &'static str,
    proxied: Option<SocketAddr>,
    captures: Box<[Option<Box<[u8]>>]>,
    args: Option<Box<[u8]>>,
    sets: Box<[Vec<u8>]>,
    map_values: MapValues,
    is_rewritten: bool,
    /// The id, computed when the snapshot is made, because threads share the snapshot.
    id: [u8; 32],
}

impl Snapshot {
    pub(crate) fn of(scope: &Scope<'_>) -> Self {
        let has_captures = scope.captures.0.iter().any(Option::is_some);
        let captures = scope.captures.0.iter().filter(|_| has_captures);
        Snapshot {
            method: scope.method.clone(),
            version: scope.version,
            request_uri: scope.request_uri.into(),
            path: scope.path.into(),
            headers: scope.headers.clone(),
            remote: scope.remote,
            peer: scope.peer,
            local: scope.local,
            tls: scope.tls.cloned(),
            server_name: scope.server_name.into(),
            proxy_host: scope.proxy_host.into(),
            proxy_default_port: scope.proxy_default_port,
            proxied: scope.proxied,
            captures: captures.map(|capture| capture.map(Into::into)).collect(),
            args: scope.args.map(Into::into),
            sets: scope.sets.into(),
            map_values: scope.map_values.cloned().unwrap_or_default(),
            is_rewritten: scope.is_rewritten,
            id: scope.id.map_or([b'0'; 32], |id| *id.made_now()),
        }
    }

    /// Calls `read` with the scope as it was and with the outcome.
    pub(crate) fn with<R>(&self, outcome: Outcome<'_>, read: impl FnOnce(&Scope<'_>) -> R) -> R {
        let mut captures = Captures::default();
        for (capture, owned) in captures.0.iter_mut().zip(&self.captures) {
            *capture = owned.as_deref();
        }
        let id = RequestId(OnceCell::from(self.id));
        read(&Scope {
            version: self.version,
            remote: self.remote,
            peer: self.peer,
            local: self.local,
            tls: self.tls.as_ref(),
            server_name: &self.server_name,
            proxy_host: &self.proxy_host,
            proxy_default_port: self.proxy_default_port,
            proxied: self.proxied,
            captures,
            args: self.args.as_deref(),
            sets: &self.sets,
            map_values: Some(&self.map_values),
            is_rewritten: self.is_rewritten,
            id: Some(&id),
            outcome: Some(outcome),
            ..Scope::new(&self.method, &self.request_uri, &self.path, &self.headers)
        })
    }
}
