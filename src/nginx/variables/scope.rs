//! What a request knows of itself, and the value of each variable over it.

use std::io::{Cursor, Write as _};
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, Version, header};

use super::super::server_name::host_without_port;
use super::{Variable, lookup};

/// The groups of the regular expression that chose a location or server: `$1` to `$9`, at 0 the whole match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Captures<'r>(pub(crate) [Option<&'r [u8]>; 10]);

/// A request, borrowed, as variables see it.
///
/// Addresses are `None` for a unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'r> {
    /// The method.
    pub(crate) method: &'r Method,
    /// The protocol.
    pub(crate) version: Version,
    /// Path and query as received.
    pub(crate) request_uri: &'r str,
    /// The path after [`normalise`](crate::nginx::normalise).
    pub(crate) path: &'r [u8],
    /// The header fields. `Host` is what the request target said, where it said one (HTTP/2, absolute form of HTTP/1).
    pub(crate) headers: &'r HeaderMap,
    /// The client, after `set_real_ip_from`.
    pub(crate) remote: Option<SocketAddr>,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    /// This end of the connection.
    pub(crate) local: Option<SocketAddr>,
    /// `http` or `https`.
    pub(crate) scheme: &'r str,
    /// The first name of the server that was chosen.
    pub(crate) server_name: &'r str,
    /// The host of `proxy_pass`.
    pub(crate) proxy_host: &'r str,
    /// What the last regular expression found.
    pub(crate) captures: Captures<'r>,
}

impl<'r> Scope<'r> {
    /// A scope over a request's essentials; the other fields start out empty and are set directly.
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
            scheme: "http",
            server_name: "",
            proxy_host: "",
            captures: Captures::default(),
        }
    }

    /// The query, without its question mark.
    fn query(&self) -> &'r [u8] {
        let target = self.request_uri.split('#').next().unwrap_or_default();
        target.split_once('?').map_or(b"", |(_, query)| query.as_bytes())
    }

    /// The host that the client asked for, as it wrote it.
    pub(crate) fn requested_host(&self) -> Option<&'r [u8]> {
        self.headers.get(header::HOST).map(|host| host.as_bytes())
    }
}

impl Variable {
    pub(super) fn write(&self, scope: &Scope<'_>, sink: &mut dyn FnMut(&[u8])) {
        match self {
            Variable::Args => sink(scope.query()),
            Variable::Arg(name) => sink(lookup::arg(scope.query(), name.as_bytes()).unwrap_or_default()),
            Variable::BinaryRemoteAddr => match scope.remote.map(|remote| remote.ip()) {
                Some(IpAddr::V4(ip)) => sink(&ip.octets()),
                Some(IpAddr::V6(ip)) => sink(&ip.octets()),
                None => {}
            },
            Variable::Capture(group) => {
                sink(scope.captures.0.get(usize::from(*group)).copied().flatten().unwrap_or_default());
            }
            Variable::Cookie(name) => {
                let mut lines = scope.headers.get_all(header::COOKIE).iter();
                sink(lines.find_map(|line| lookup::cookie(line.as_bytes(), name.as_bytes())).unwrap_or_default());
            }
            Variable::Host => host(scope, sink),
            // One value, and the one that a client cannot hide behind a second line.
            Variable::Http(name) if name == header::HOST => sink(scope.requested_host().unwrap_or_default()),
            Variable::Http(name) => {
                joined(scope.headers, name, if name == header::COOKIE { b"; " } else { b", " }, sink);
            }
            Variable::IsArgs => sink(if scope.query().is_empty() { b"" } else { b"?" }),
            Variable::Mapped(map) => map.write(scope, sink),
            Variable::ProxyAddXForwardedFor => {
                if joined(scope.headers, "x-forwarded-for", b", ", sink) {
                    sink(b", ");
                }
                ip(scope.remote, sink);
            }
            Variable::ProxyHost => sink(scope.proxy_host.as_bytes()),
            Variable::RealipRemoteAddr => ip(scope.peer, sink),
            Variable::RealipRemotePort => port(scope.peer, sink),
            Variable::RemoteAddr => ip(scope.remote, sink),
            Variable::RemotePort => port(scope.remote, sink),
            Variable::Request => {
                for piece in [scope.method.as_str(), " ", scope.request_uri, " ", protocol(scope.version)] {
                    sink(piece.as_bytes());
                }
            }
            Variable::RequestMethod => sink(scope.method.as_str().as_bytes()),
            Variable::RequestUri => sink(scope.request_uri.as_bytes()),
            Variable::Scheme => sink(scope.scheme.as_bytes()),
            Variable::ServerAddr => ip(scope.local, sink),
            Variable::ServerName => sink(scope.server_name.as_bytes()),
            Variable::ServerPort => port(scope.local, sink),
            Variable::ServerProtocol => sink(protocol(scope.version).as_bytes()),
            Variable::Uri => sink(scope.path),
        }
    }
}

/// `$host`: lower-case and without the port.
fn host(scope: &Scope<'_>, sink: &mut dyn FnMut(&[u8])) {
    let Some(host) = scope.requested_host().map(host_without_port).filter(|host| !host.is_empty()) else {
        return sink(scope.server_name.as_bytes());
    };
    let mut lower = [0; 64];
    for chunk in host.chunks(lower.len()) {
        let lower = &mut lower[..chunk.len()];
        lower.copy_from_slice(chunk);
        lower.make_ascii_lowercase();
        sink(lower);
    }
}

/// All fields of a name as one value; false when there are none.
fn joined(headers: &HeaderMap, name: impl header::AsHeaderName, between: &[u8], sink: &mut dyn FnMut(&[u8])) -> bool {
    let mut any = false;
    for value in headers.get_all(name) {
        if any {
            sink(between);
        }
        sink(value.as_bytes());
        any = true;
    }
    any
}

/// A unix socket has no address; nginx calls it so.
fn ip(address: Option<SocketAddr>, sink: &mut dyn FnMut(&[u8])) {
    match address {
        Some(address) => display(address.ip(), sink),
        None => sink(b"unix:"),
    }
}

fn port(address: Option<SocketAddr>, sink: &mut dyn FnMut(&[u8])) {
    if let Some(port) = address.map(|address| address.port()).filter(|&port| port != 0) {
        display(port, sink);
    }
}

/// Formats on the stack: the longest IPv6 address has 45 letters.
fn display(value: impl std::fmt::Display, sink: &mut dyn FnMut(&[u8])) {
    let mut buffer = Cursor::new([0_u8; 64]);
    if write!(buffer, "{value}").is_ok() {
        let length = usize::try_from(buffer.position()).unwrap_or_default();
        sink(&buffer.get_ref()[..length]);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}
