//! The built-in variables, and what each reads of a request.

use std::io::{Cursor, Write as _};
use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, Version, header};

use super::Scope;
use crate::nginx::uri::host_without_port;

/// Takes a value piece by piece, so that evaluating one needs no allocation.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8]);

/// Computes the value of a variable for a request.
pub(super) type Evaluate = fn(&Scope<'_>, Sink<'_>);

pub(super) static NAMES: &[(&str, Evaluate)] = &[
    ("args", |scope, sink| sink(scope.query())),
    ("binary_remote_addr", binary_remote_addr),
    ("content_length", |scope, sink| header(scope, &header::CONTENT_LENGTH, sink)),
    ("content_type", |scope, sink| header(scope, &header::CONTENT_TYPE, sink)),
    ("document_uri", |scope, sink| sink(scope.path)),
    ("host", host),
    ("https", |scope, sink| sink(if scope.tls.is_some() { b"on" } else { b"" })),
    ("is_args", |scope, sink| sink(if scope.query().is_empty() { b"" } else { b"?" })),
    ("proxy_add_x_forwarded_for", proxy_add_x_forwarded_for),
    ("proxy_host", |scope, sink| sink(scope.proxy_host.as_bytes())),
    ("query_string", |scope, sink| sink(scope.query())),
    ("realip_remote_addr", |scope, sink| ip(scope.peer, sink)),
    ("realip_remote_port", |scope, sink| port(scope.peer, sink)),
    ("remote_addr", |scope, sink| ip(scope.remote, sink)),
    ("remote_port", |scope, sink| port(scope.remote, sink)),
    ("request", request),
    ("request_method", |scope, sink| sink(scope.method.as_str().as_bytes())),
    ("request_uri", |scope, sink| sink(scope.request_uri.as_bytes())),
    ("scheme", |scope, sink| sink(if scope.tls.is_some() { b"https" } else { b"http" })),
    ("server_addr", |scope, sink| ip(scope.local, sink)),
    ("server_name", |scope, sink| sink(scope.server_name.as_bytes())),
    ("server_port", |scope, sink| port(scope.local, sink)),
    ("server_protocol", |scope, sink| sink(protocol(scope.version).as_bytes())),
    ("ssl_client_verify", |scope, sink| {
        sink(scope.tls.map_or(b"", |tls| if tls.has_certificate { b"SUCCESS" } else { b"NONE" }))
    }),
    ("ssl_protocol", |scope, sink| sink(scope.tls.map_or("", |tls| tls.protocol).as_bytes())),
    ("ssl_server_name", |scope, sink| sink(scope.tls.map_or("", |tls| tls.server_name).as_bytes())),
    ("uri", |scope, sink| sink(scope.path)),
];

/// `$http_NAME`: all headers of the name as one value.
pub(super) fn header(scope: &Scope<'_>, name: &HeaderName, sink: Sink<'_>) {
    // The first `Host` only: a client must not hide the one that was checked behind a second line.
    if name == header::HOST {
        return sink(scope.requested_host().unwrap_or_default());
    }
    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
    for (index, value) in scope.headers.get_all(name).iter().enumerate() {
        if index > 0 {
            sink(separator);
        }
        sink(value.as_bytes());
    }
}

fn binary_remote_addr(scope: &Scope<'_>, sink: Sink<'_>) {
    match scope.remote.map(|remote| remote.ip()) {
        Some(IpAddr::V4(ip)) => sink(&ip.octets()),
        Some(IpAddr::V6(ip)) => sink(&ip.octets()),
        None => {}
    }
}

/// `$host`: in lower case and without the port.
fn host(scope: &Scope<'_>, sink: Sink<'_>) {
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

fn proxy_add_x_forwarded_for(scope: &Scope<'_>, sink: Sink<'_>) {
    static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    header(scope, &X_FORWARDED_FOR, sink);
    if scope.headers.contains_key(&X_FORWARDED_FOR) {
        sink(b", ");
    }
    ip(scope.remote, sink);
}

fn request(scope: &Scope<'_>, sink: Sink<'_>) {
    for piece in [scope.method.as_str(), " ", scope.request_uri, " ", protocol(scope.version)] {
        sink(piece.as_bytes());
    }
}

/// A unix socket has no address; nginx writes `unix:` for it.
fn ip(address: Option<SocketAddr>, sink: Sink<'_>) {
    match address {
        Some(address) => display(address.ip(), sink),
        None => sink(b"unix:"),
    }
}

fn port(address: Option<SocketAddr>, sink: Sink<'_>) {
    if let Some(port) = address.map(|address| address.port()).filter(|&port| port != 0) {
        display(port, sink);
    }
}

/// Formats on the stack: the longest IPv6 address has 45 letters.
fn display(value: impl std::fmt::Display, sink: Sink<'_>) {
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

/// `$hostname`. The standard library cannot ask the system; Linux also has the name in files.
pub(super) fn hostname() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok().map(|name| name.trim().to_ascii_lowercase());
    let sources = [read("/proc/sys/kernel/hostname"), read("/etc/hostname"), std::env::var("HOSTNAME").ok()];
    sources.into_iter().flatten().find(|name| !name.is_empty())
}
