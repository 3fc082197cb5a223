//! The built-in variables, and how each is computed from a request.

#[cfg(feature = "tls")]
mod certificate;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use http::header::{self, HeaderValue};
use http::{HeaderName, Version};

use self::tls::TlsVariable;
use super::sink::{Sink, display};
use super::{Scope, is_built_in, is_name_letter, outcome};
use crate::nginx::syntax::{Fault, Pattern, Word};
use crate::nginx::uri::host_without_port;
use crate::observe::{Timestamp, basic_user};

/// Computes the value of a variable for a request.
pub(super) type Evaluate = fn(&Scope<'_>, Sink<'_>);

pub(super) static NAMES: &[(&str, Evaluate)] = &[
    ("args", |scope, sink| sink(scope.query())),
    ("binary_remote_addr", binary_remote_addr),
    ("body_bytes_sent", outcome::body_bytes_sent),
    ("bytes_sent", outcome::bytes_sent),
    ("content_length", |scope, sink| header(scope, &header::CONTENT_LENGTH, sink)),
    ("content_type", |scope, sink| header(scope, &header::CONTENT_TYPE, sink)),
    ("document_uri", |scope, sink| sink(scope.path)),
    ("host", host),
    ("http2", |scope, sink| {
        sink(match scope.version == Version::HTTP_2 {
            true if scope.tls.is_some() => b"h2",
            true => b"h2c",
            false => b"",
        });
    }),
    ("http3", |_, _| {}),
    ("https", |scope, sink| sink(if scope.tls.is_some() { b"on" } else { b"" })),
    ("is_args", |scope, sink| sink(if scope.query().is_empty() { b"" } else { b"?" })),
    ("msec", |_, sink| display(format_args!("{:.3}", now().unix_seconds()), sink)),
    ("proxy_add_x_forwarded_for", proxy_add_x_forwarded_for),
    // The address of the PROXY protocol, if the connection has one.
    ("proxy_protocol_addr", |scope, sink| scope.proxied.iter().for_each(|peer| display(peer.ip(), sink))),
    ("proxy_protocol_port", |scope, sink| scope.proxied.iter().for_each(|peer| display(peer.port(), sink))),
    ("proxy_host", |scope, sink| sink(scope.proxy_host.as_bytes())),
    ("proxy_port", proxy_port),
    ("query_string", |scope, sink| sink(scope.query())),
    ("realip_remote_addr", |scope, sink| ip(scope.peer, sink)),
    ("realip_remote_port", |scope, sink| port(scope.peer, sink)),
    ("remote_addr", |scope, sink| ip(scope.remote, sink)),
    ("remote_port", |scope, sink| port(scope.remote, sink)),
    ("remote_user", remote_user),
    ("request", request),
    ("request_completion", outcome::request_completion),
    ("request_id", |scope, sink| sink(scope.id.map_or(&b""[..], |id| id.get()))),
    ("request_length", outcome::request_length),
    ("request_method", |scope, sink| sink(scope.method.as_str().as_bytes())),
    ("request_time", outcome::request_time),
    ("request_uri", |scope, sink| sink(scope.request_uri.as_bytes())),
    ("scheme", |scope, sink| sink(if scope.tls.is_some() { b"https" } else { b"http" })),
    ("server_addr", |scope, sink| ip(scope.local, sink)),
    ("server_name", |scope, sink| sink(scope.server_name.as_bytes())),
    ("server_port", |scope, sink| port(scope.local, sink)),
    ("server_protocol", |scope, sink| sink(protocol(scope.version).as_bytes())),
    // Responses are not cached, so a range reaches the node as it is.
    ("slice_range", |scope, sink| header(scope, &header::RANGE, sink)),
    ("ssl_cipher", |scope, sink| tls::write(TlsVariable::Cipher, scope, sink)),
    ("ssl_client_escaped_cert", |scope, sink| tls::write(TlsVariable::EscapedCertificate, scope, sink)),
    ("ssl_client_i_dn", |scope, sink| tls::write(TlsVariable::Issuer, scope, sink)),
    ("ssl_client_s_dn", |scope, sink| tls::write(TlsVariable::Subject, scope, sink)),
    ("ssl_client_serial", |scope, sink| tls::write(TlsVariable::Serial, scope, sink)),
    ("ssl_client_verify", |scope, sink| tls::write(TlsVariable::Verify, scope, sink)),
    // Early data is not accepted.
    ("ssl_early_data", |_, _| {}),
    ("ssl_protocol", |scope, sink| tls::write(TlsVariable::Protocol, scope, sink)),
    ("ssl_server_name", |scope, sink| tls::write(TlsVariable::ServerName, scope, sink)),
    ("ssl_session_reused", |scope, sink| tls::write(TlsVariable::SessionReused, scope, sink)),
    ("status", outcome::status),
    ("time_iso8601", |_, sink| display(now().iso8601(), sink)),
    ("time_local", |_, sink| display(now().common_log(), sink)),
    ("upstream_addr", outcome::upstream_addr),
    ("upstream_bytes_received", outcome::upstream_response_length),
    // Empty, as in nginx without a cache.
    ("upstream_cache_status", |_, _| {}),
    ("upstream_connect_time", outcome::upstream_connect_time),
    ("upstream_header_time", outcome::upstream_header_time),
    ("upstream_response_length", outcome::upstream_response_length),
    ("upstream_response_time", outcome::upstream_response_time),
    ("upstream_status", outcome::upstream_status),
    ("uri", |scope, sink| sink(scope.path)),
];

/// Returns whether the value of a variable is known only when there is a response.
pub(super) fn needs_outcome(name: &str) -> bool {
    name.starts_with("upstream_")
        || matches!(name, "body_bytes_sent" | "bytes_sent" | "request_completion" | "request_time" | "status")
}

/// Returns whether the value of a variable may change while a request is served.
pub(super) fn may_change(name: &str) -> bool {
    matches!(name, "args" | "document_uri" | "is_args" | "query_string" | "request_method" | "uri")
}

/// Returns the names of an expression's groups in lower case, each with its number.
///
/// # Errors
/// A group has the name of a built-in variable.
pub(super) fn named_groups(pattern: &Pattern, word: &Word) -> Result<Vec<(String, u8)>, Fault> {
    pattern.name_groups(word, |name| may_be_group(name).then(|| name.to_owned()))
}

/// Returns the names of the groups in an expression, in lower case.
pub(super) fn groups_of(text: &str) -> impl Iterator<Item = String> {
    let starts = text.split("(?").skip(1).map(|rest| rest.strip_prefix('P').unwrap_or(rest));
    starts.filter_map(|rest| {
        let (name, _) = rest.strip_prefix('<')?.split_once('>')?;
        let is_name = !name.is_empty() && name.chars().all(is_name_letter);
        is_name.then(|| name.to_ascii_lowercase())
    })
}

/// Returns whether a group of an expression may have this name, in lower case.
///
/// As in nginx, the name may be that of an argument, cookie or header, whose variable the group
/// then replaces.
pub(super) fn may_be_group(name: &str) -> bool {
    const PREFIXES: [&str; 5] = ["arg_", "cookie_", "http_", "sent_http_", "upstream_http_"];
    !is_built_in(name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !OWN_HEADERS.contains(&name)
}

/// Returns whether nginx accepts `set` for this built-in variable. `name` is in lower case.
pub(crate) fn may_be_set(name: &str) -> bool {
    matches!(name, "args" | "http3" | "proxy_host" | "proxy_port")
        || name.starts_with("ssl_")
        || name.bytes().all(|byte| byte.is_ascii_digit())
        || may_be_group(name)
}

/// The header variables that nginx defines one by one (`ngx_http_core_variables`).
const OWN_HEADERS: [&str; 16] = [
    "http_cookie",
    "http_forwarded",
    "http_host",
    "http_referer",
    "http_user_agent",
    "http_via",
    "http_x_forwarded_for",
    "sent_http_cache_control",
    "sent_http_connection",
    "sent_http_content_length",
    "sent_http_content_type",
    "sent_http_keep_alive",
    "sent_http_last_modified",
    "sent_http_link",
    "sent_http_location",
    "sent_http_transfer_encoding",
];

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn remote_user(scope: &Scope<'_>, sink: Sink<'_>) {
    if let Some(user) = basic_user(scope.headers) {
        sink(user.as_bytes());
    }
}

/// Writes `$http_NAME`: all headers of this name as one value.
pub(super) fn header(scope: &Scope<'_>, name: &HeaderName, sink: Sink<'_>) {
    // Only the first `Host` counts: a second header must not hide the checked one.
    if name == header::HOST {
        return sink(scope.requested_host().unwrap_or_default());
    }
    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
    let mut is_first = true;
    let mut put = |value: &HeaderValue| {
        if !std::mem::take(&mut is_first) {
            sink(separator);
        }
        sink(value.as_bytes());
    };
    if !name.as_str().contains('-') {
        return scope.headers.get_all(name).iter().for_each(put);
    }
    // With `underscores_in_headers`, `X_Name` is also a header of this name.
    let is_alike = |other: &HeaderName| {
        let fold = |byte| if byte == b'_' { b'-' } else { byte };
        other.as_str().len() == name.as_str().len()
            && other.as_str().bytes().map(fold).eq(name.as_str().bytes().map(fold))
    };
    scope.headers.iter().filter(|(other, _)| is_alike(other)).for_each(|(_, value)| put(value));
}

/// Writes `$proxy_port`: the port of `proxy_pass`, or the default port of its scheme.
fn proxy_port(scope: &Scope<'_>, sink: Sink<'_>) {
    let written = scope.proxy_host.rsplit_once(':').map(|(_, port)| port);
    let is_port = |port: &&str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    sink(written.filter(is_port).unwrap_or(scope.proxy_default_port).as_bytes());
}

fn binary_remote_addr(scope: &Scope<'_>, sink: Sink<'_>) {
    match scope.remote.map(|remote| remote.ip()) {
        Some(IpAddr::V4(ip)) => sink(&ip.octets()),
        Some(IpAddr::V6(ip)) => sink(&ip.octets()),
        None => {}
    }
}

/// Writes `$host`: the host in lower case and without the port.
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

/// Writes an IP address, or `unix:` for a unix socket, as nginx does.
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

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// Returns `$hostname`. The standard library cannot ask the system for it, so it is read from files
/// of Linux.
pub(super) fn hostname() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok().map(|name| name.trim().to_ascii_lowercase());
    let sources = [read("/proc/sys/kernel/hostname"), read("/etc/hostname"), std::env::var("HOSTNAME").ok()];
    sources.into_iter().flatten().find(|name| !name.is_empty())
}
