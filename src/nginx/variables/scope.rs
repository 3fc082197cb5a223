//! A request as variables see it.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Version, header};

use crate::nginx::syntax::Captures;

/// A request, borrowed. Addresses are `None` for a unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'r> {
    pub(crate) method: &'r Method,
    pub(crate) version: Version,
    /// Path and query as received.
    pub(crate) request_uri: &'r str,
    /// The [normalised](crate::nginx::uri::normalise) path.
    pub(crate) path: &'r [u8],
    /// The headers; `Host` is that of the request target if the target names one (HTTP/2, absolute
    /// form).
    pub(crate) headers: &'r HeaderMap,
    /// The client, after `set_real_ip_from`.
    pub(crate) remote: Option<SocketAddr>,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    /// This end of the connection.
    pub(crate) local: Option<SocketAddr>,
    /// The connection came over TLS.
    pub(crate) tls: Option<ScopeTls<'r>>,
    /// The first name of the chosen server.
    pub(crate) server_name: &'r str,
    /// The host of `proxy_pass`.
    pub(crate) proxy_host: &'r str,
    /// The groups of the regular expression that chose the location or server.
    pub(crate) captures: Captures<'r>,
    /// The arguments, if `rewrite` changed them.
    pub(crate) args: Option<&'r [u8]>,
    /// The values of `set`, by their slot.
    pub(crate) sets: &'r [Vec<u8>],
}

/// The TLS of a client's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScopeTls<'r> {
    /// `TLSv1.2` or `TLSv1.3`.
    pub(crate) protocol: &'static str,
    /// The server that the client asked for.
    pub(crate) server_name: &'r str,
    /// The client has shown a certificate, which was verified.
    pub(crate) has_certificate: bool,
}

impl<'r> Scope<'r> {
    /// Makes a scope of a request's essentials; the caller sets the rest.
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
            captures: Captures::default(),
            args: None,
            sets: &[],
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
