use std::fmt::{self, Debug};
use std::net::IpAddr;

use http::HeaderName;

use crate::request::RequestView;

/// The source of the key of a hash policy.
///
/// A key is fed in pieces, so a key of several parts costs no allocation. If there is no piece, or
/// only empty ones, the request has no key and the policy abstains.
pub trait HashKey: Debug + Send + Sync + 'static {
    /// Feeds the key of `request` to `sink`. Every call must feed the same pieces in the same
    /// order.
    fn feed(&self, request: &RequestView<'_>, sink: &mut dyn FnMut(&[u8]));
}

/// A key that is one part of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey {
    /// The client's address as text (nginx: `$remote_addr`).
    ClientIp,
    /// The first value of a header (nginx: `$http_name`).
    Header(HeaderName),
    /// A cookie's value (nginx: `$cookie_name`). Do not hash Kylin's session cookie: logins would
    /// be lost, since the id of a session rarely hashes to the node that issued it.
    Cookie(String),
    /// Path and query (nginx: `$request_uri`).
    PathAndQuery,
}

impl HashKey for RequestKey {
    fn feed(&self, request: &RequestView<'_>, sink: &mut dyn FnMut(&[u8])) {
        match self {
            RequestKey::ClientIp => match request.client().ip() {
                Some(ip) => feed_ip_text(ip, sink),
                None => sink(b"unix:"),
            },
            RequestKey::Header(name) => sink(request.headers().get(name).map_or(b"", |value| value.as_bytes())),
            RequestKey::Cookie(name) => sink(request.cookie(name).unwrap_or(b"")),
            RequestKey::PathAndQuery => {
                sink(request.uri().path_and_query().map_or(b"/", |path| path.as_str().as_bytes()))
            }
        }
    }
}

/// Returns a key that a closure computes, for anything that the application knows about a request.
///
/// ```
/// use kylin_lb::balance::{HashKeyed, key_fn};
///
/// struct Tenant(&'static str);
///
/// let by_tenant = HashKeyed::consistent(key_fn("tenant", |request, sink| {
///     if let Some(Tenant(name)) = request.extensions().get() {
///         sink(name.as_bytes());
///     }
/// }));
/// ```
pub fn key_fn<F>(name: &'static str, feed: F) -> impl HashKey
where
    F: Fn(&RequestView<'_>, &mut dyn FnMut(&[u8])) + Send + Sync + 'static,
{
    KeyFn { name, feed }
}

struct KeyFn<F> {
    name: &'static str,
    feed: F,
}

impl<F> Debug for KeyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F> HashKey for KeyFn<F>
where
    F: Fn(&RequestView<'_>, &mut dyn FnMut(&[u8])) + Send + Sync + 'static,
{
    fn feed(&self, request: &RequestView<'_>, sink: &mut dyn FnMut(&[u8])) {
        (self.feed)(request, sink);
    }
}

fn feed_ip_text(ip: IpAddr, sink: &mut dyn FnMut(&[u8])) {
    use std::io::Write;

    let mut text = [0_u8; 46];
    let mut rest = &mut text[..];
    if write!(rest, "{ip}").is_ok() {
        let unused = rest.len();
        sink(&text[..text.len() - unused]);
    }
}
