use std::fmt::{self, Debug};
use std::net::IpAddr;

use http::HeaderName;

use crate::request::RequestView;

/// Where a hash policy gets its key from.
///
/// A key is fed in pieces, so that one made of several parts costs no allocation. No piece, or only empty ones, means that
/// the request has no key: the policy abstains.
pub trait HashKey: Debug + Send + Sync + 'static {
    /// Feeds the key of `request` to `sink`, the same pieces in the same order every time it is called.
    fn feed(&self, request: &RequestView<'_>, sink: &mut dyn FnMut(&[u8]));
}

/// A key that is one part of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestKey {
    /// The client's address as text (nginx: `$remote_addr`).
    ClientIp,
    /// A header field's first value (nginx: `$http_name`).
    Header(HeaderName),
    /// A cookie's value (nginx: `$cookie_name`). Note that hashing Kylin's session cookie loses logins: the node that
    /// issues a session is seldom the one that its id hashes to.
    Cookie(String),
    /// Path and query (nginx: `$request_uri`).
    PathAndQuery,
}

impl HashKey for RequestKey {
    fn feed(&self, request: &RequestView<'_>, sink: &mut dyn FnMut(&[u8])) {
        match self {
            RequestKey::ClientIp => match request.client().ip() {
                Some(ip) => text_of_ip(ip, sink),
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

/// A key from a closure, for anything that the host knows of a request.
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

fn text_of_ip(ip: IpAddr, sink: &mut dyn FnMut(&[u8])) {
    use std::io::Write;

    let mut text = [0_u8; 46];
    let mut rest = &mut text[..];
    if write!(rest, "{ip}").is_ok() {
        let unused = rest.len();
        sink(&text[..text.len() - unused]);
    }
}
