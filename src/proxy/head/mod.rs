//! The head of a request: checked so that every HTTP parser reads it alike, and rewritten for the
//! node.
//!
//! The application's server may accept a head that Tomcat reads differently, which allows request
//! smuggling. The proxy refuses such heads.

mod edits;
mod forwarded;
mod hop_by_hop;
mod presence;
mod trusted;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

pub use self::edits::HeaderEdits;
pub(super) use self::forwarded::Forwarded;
pub(super) use self::hop_by_hop::{join_cookies, remove_hop_by_hop};
pub(super) use self::presence::HeaderPresence;
#[cfg(feature = "admin")]
pub(crate) use self::presence::is_named_by_proxies;
pub use self::trusted::TrustedProxies;
use super::error_response::{ALLOWED_METHODS, ErrorResponse};
use crate::backend::Backend;
use crate::backend::node_client::host_of_node;
use crate::body::Body;
use crate::cluster::Picked;
use crate::header_walk::walk;
use crate::observe::{BorrowedHeaders, ShownHeaders};

/// The maximum length of a method. The registered ones have at most 17 bytes (RFC 9110, 16.1).
pub(crate) const MAX_METHOD: usize = 64;

/// Checks the head of a request, converts its target to origin form, and moves the host of the
/// target into `Host`.
///
/// HTTP/1.0 allows a request without `Host`, and HTTP/1.1 an empty one. This function leaves such a
/// request unchanged, and the proxy sends the address of the node.
///
/// [`Proxy::forward`](crate::Proxy::forward) does this first. An application that routes by path or
/// host calls it before it reads them, so that it sees the same host and path as the node.
///
/// # Errors
/// [`ErrorResponse`] for a request that HTTP parsers may read differently (RFC 9112, 3.2 and 6), or
/// whose method is not supported.
///
/// ```
/// use http::Request;
/// use kylin_lb::proxy::check_head;
///
/// let mut request = Request::get("http://kylin.example/kylin/api/projects").body(())?;
/// check_head(&mut request)?;
/// assert_eq!(request.uri(), "/kylin/api/projects");
/// assert_eq!(request.headers()["host"], "kylin.example");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_head<T>(request: &mut Request<T>) -> Result<(), ErrorResponse> {
    check(request, None).map(drop)
}

/// Checks the head and brings its target into origin form. Returns which headers it has. `shown`
/// receives the headers that observers see.
pub(super) fn check<T>(
    request: &mut Request<T>,
    shown: Option<&mut ShownHeaders>,
) -> Result<HeaderPresence, ErrorResponse> {
    let refuse = |status, message| Err(ErrorResponse::new(status, message));
    let framing = FramingHeaders::of(request.headers(), shown.is_some());
    if let Some(shown) = shown {
        *shown = framing.shown.to_owned();
    }
    let method = request.method();
    if method.as_str().len() > MAX_METHOD {
        return refuse(StatusCode::NOT_IMPLEMENTED, "the method is not known");
    }
    if method == Method::CONNECT || method == Method::TRACE {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "the method is not served");
    }
    // Methods are case-sensitive, and no known one has a lower-case letter; a node might take
    // `post` for POST.
    if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return refuse(StatusCode::BAD_REQUEST, "the method is not valid");
    }
    framing.check_framing(request.version())?;
    let FramingHeaders { expects, presence, .. } = framing;
    let has_host = framing.check_host()?;
    set_host(request, has_host)?;
    if expects {
        let mut expectations = request.headers().get_all(header::EXPECT).iter();
        if !expectations.all(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return refuse(StatusCode::EXPECTATION_FAILED, "the only expectation met is 100-continue");
        }
        request.headers_mut().remove(header::EXPECT);
    }
    set_origin_form(request)?;
    Ok(presence)
}

/// Brings the target into origin form, or leaves the `*` of OPTIONS (RFC 9112, 3.2).
fn set_origin_form<T>(request: &mut Request<T>) -> Result<(), ErrorResponse> {
    let refuse = |message| Err(ErrorResponse::new(StatusCode::BAD_REQUEST, message));
    let uri = request.uri();
    let is_path = uri.path().starts_with('/');
    let is_asterisk = || uri.path() == "*" && uri.query().is_none() && request.method() == Method::OPTIONS;
    if !is_path && !is_asterisk() {
        return refuse("the target is not a path");
    }
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return refuse("the scheme of the target is not served");
    }
    if uri.authority().is_some() || uri.scheme().is_some() {
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    Ok(())
}

/// Whether a request with `Max-Forwards` may be forwarded.
pub(super) enum Hops {
    /// The request may be forwarded. Its `Max-Forwards`, if any, is one lower now.
    Left,
    /// The proxy is the last recipient and responds itself.
    Used,
}

/// Counts down `Max-Forwards` of an OPTIONS request. The header has no meaning with other methods,
/// and TRACE is not supported (RFC 9110, 7.6.2).
///
/// # Errors
/// [`ErrorResponse`] if the value is not one number.
pub(super) fn count_hop<T>(request: &mut Request<T>) -> Result<Hops, ErrorResponse> {
    if *request.method() != Method::OPTIONS {
        return Ok(Hops::Left);
    }
    let mut values = request.headers().get_all(header::MAX_FORWARDS).iter();
    let Some(value) = values.next() else { return Ok(Hops::Left) };
    let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    if !is_number || values.next().is_some() {
        return Err(ErrorResponse::new(StatusCode::BAD_REQUEST, "max-forwards is not one number"));
    }
    // A number that is too large for the type is lowered to one that fits.
    let hops = value.to_str().ok().and_then(|value| value.parse::<u32>().ok()).unwrap_or(u32::MAX);
    if hops == 0 {
        return Ok(Hops::Used);
    }
    request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(hops - 1));
    Ok(Hops::Left)
}

/// Returns the proxy's own response to an OPTIONS request: the methods that it forwards.
pub(super) fn options_response() -> Response<Body> {
    let mut response = Response::default();
    response.headers_mut().insert(header::ALLOW, ALLOWED_METHODS);
    response
}

/// The headers of a request that must be unambiguous. One pass over all headers costs less than a
/// lookup for each.
#[derive(Default)]
struct FramingHeaders<'h> {
    coding: Option<&'h HeaderValue>,
    codings: usize,
    length: Option<&'h HeaderValue>,
    lengths: usize,
    host: Option<&'h HeaderValue>,
    hosts: usize,
    expects: bool,
    shown: BorrowedHeaders<'h>,
    presence: HeaderPresence,
}

impl<'h> FramingHeaders<'h> {
    /// `is_observed`: also records the headers that events show.
    fn of(headers: &'h HeaderMap, is_observed: bool) -> Self {
        let mut found = FramingHeaders::default();
        for (name, value) in walk(headers) {
            found.presence.note(name);
            match *name {
                header::TRANSFER_ENCODING => (found.coding, found.codings) = (Some(value), found.codings + 1),
                header::CONTENT_LENGTH => (found.length, found.lengths) = (Some(value), found.lengths + 1),
                header::HOST => (found.host, found.hosts) = (Some(value), found.hosts + 1),
                header::EXPECT => found.expects = true,
                _ if is_observed => found.shown.note(name, value),
                _ => {}
            }
        }
        found
    }

    /// Checks that there is at most one `Host` and that it is valid. Returns whether there is one.
    fn check_host(&self) -> Result<bool, ErrorResponse> {
        match self.host {
            Some(host) if self.hosts > 1 || !is_host(host.as_bytes()) => Err(NO_HOST),
            host => Ok(host.is_some()),
        }
    }

    /// Accepts what all parsers read alike: one `chunked`, or one length of at most 63 bits.
    /// Several equal lengths are legal too, but parsers differ on them.
    fn check_framing(&self, version: Version) -> Result<(), ErrorResponse> {
        let number =
            |length: &HeaderValue| matches!(length.len(), 1..=18) && length.as_bytes().iter().all(u8::is_ascii_digit);
        if self.coding.is_some() && (version < Version::HTTP_11 || self.codings > 1 || self.lengths > 0) {
            return Err(ErrorResponse::new(StatusCode::BAD_REQUEST, "the framing of the body is ambiguous"));
        }
        if self.coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(ErrorResponse::new(StatusCode::NOT_IMPLEMENTED, "the only transfer coding is chunked"));
        }
        if self.lengths > 1 || self.length.is_some_and(|length| !number(length)) {
            return Err(ErrorResponse::new(StatusCode::BAD_REQUEST, "content-length is not one number"));
        }
        Ok(())
    }
}

const NO_HOST: ErrorResponse = ErrorResponse::new(StatusCode::BAD_REQUEST, "the request does not name one valid host");

/// Sets `Host` to the host of the target, if it has one (RFC 9112, 3.2.2). Otherwise `Host` stays.
fn set_host<T>(request: &mut Request<T>, has_host: bool) -> Result<(), ErrorResponse> {
    match request.uri().authority() {
        Some(authority) if !is_host(authority.as_str().as_bytes()) => return Err(NO_HOST),
        Some(authority) => {
            let host = host_value(authority).ok_or(NO_HOST)?;
            request.headers_mut().insert(header::HOST, host);
        }
        // HTTP/1.0 and HTTP/2 requests may lack `Host`; those of HTTP/1.1 may not.
        None if !has_host && request.version() == Version::HTTP_11 => return Err(NO_HOST),
        None => {}
    }
    Ok(())
}

/// Puts the address of the node into `Host`, for a request that names no host: HTTP/1.1 requires
/// the header (RFC 9112, 3.2), and servers refuse an empty one.
pub(super) fn set_host_of<B: Backend>(picked: &Picked<B>, request: &mut Request<Body>) {
    request.headers_mut().insert(header::HOST, host_of(picked));
}

fn host_of<B: Backend>(picked: &Picked<B>) -> HeaderValue {
    picked.backend().host().unwrap_or_else(|| host_of_node(picked.lease.placement()))
}

/// Makes a `Location` relative that names the host of [`set_host_of`]. That host is the node
/// itself, which the client may be unable to reach.
pub(super) fn hide_host_of<B: Backend>(picked: &Picked<B>, headers: &mut HeaderMap) {
    let path = headers.get(header::LOCATION).and_then(|location| {
        let location = location.as_bytes();
        let rest = location.strip_prefix(b"http://").or_else(|| location.strip_prefix(b"https://"))?;
        let path = rest.strip_prefix(host_of(picked).as_bytes())?;
        match path {
            [] => Some(HeaderValue::from_static("/")),
            // Two slashes would begin the name of a host.
            [b'/', b'/', ..] => None,
            [b'/', ..] => HeaderValue::from_bytes(path).ok(),
            _ => None,
        }
    });
    if let Some(path) = path {
        headers.insert(header::LOCATION, path);
    }
}

fn host_value(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

/// Returns whether `host` is a name or an address with an optional port. Users, paths and
/// delimiters would confuse a log or a `Location`. An empty value is legal (RFC 9112, 3.2), a port
/// without a name is not (RFC 9110, 4.2.1).
fn is_host(host: &[u8]) -> bool {
    let end = host.iter().position(|byte| !NAME[usize::from(*byte)]).unwrap_or(host.len());
    match &host[end..] {
        [] => true,
        [b':', port @ ..] if end > 0 => is_port(port),
        [b'[', rest @ ..] if end == 0 => is_literal(rest),
        _ => false,
    }
}

/// Returns whether `rest`, which follows a bracket, ends an address of IPv6 with an optional port.
fn is_literal(rest: &[u8]) -> bool {
    let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
    let (literal, port) = (&rest[..end], &rest[end + 1..]);
    let port = match port {
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    };
    port && literal.iter().all(|byte| byte.is_ascii_hexdigit() || b":.%".contains(byte))
}

/// The bytes of a host name. A table, because every host is checked.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+;=";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use http::request;

    use super::*;

    fn checked(request: request::Builder) -> Result<request::Parts, StatusCode> {
        let mut request = request.body(()).unwrap();
        check(&mut request, None).map(|_| request.into_parts().0).map_err(|error| error.status())
    }

    fn get(target: &str) -> request::Builder {
        http::Request::get(target).header("host", "kylin")
    }

    #[test]
    fn transfer_encoding_is_one_chunked_or_nothing() {
        assert!(checked(get("/").header("transfer-encoding", "Chunked")).is_ok());
        for bad in ["chunked, chunked", "gzip, chunked", ",chunked", "identity", "xchunked", "\"chunked\"", ""] {
            assert_eq!(
                checked(get("/").header("transfer-encoding", bad)).unwrap_err(),
                StatusCode::NOT_IMPLEMENTED,
                "{bad}"
            );
        }
        let twice = get("/").header("transfer-encoding", "chunked").header("transfer-encoding", "chunked");
        assert_eq!(checked(twice).unwrap_err(), StatusCode::BAD_REQUEST);
        let both = get("/").header("transfer-encoding", "chunked").header("content-length", "3");
        assert_eq!(checked(both).unwrap_err(), StatusCode::BAD_REQUEST);
        let old = get("/").version(Version::HTTP_10).header("transfer-encoding", "chunked");
        assert_eq!(checked(old).unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn content_length_is_one_number() {
        assert!(checked(get("/").header("content-length", "3")).is_ok());
        for bad in ["+3", "-1", "0x3", "3,3", "", "3 3", "9223372036854775809"] {
            assert_eq!(checked(get("/").header("content-length", bad)).unwrap_err(), StatusCode::BAD_REQUEST, "{bad}");
        }
        let twice = get("/").header("content-length", "3").header("content-length", "3");
        assert_eq!(checked(twice).unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_request_needs_exactly_one_valid_host() {
        for good in ["kylin", "kylin:7070", "10.0.0.1", "[::1]:80", "[::1]", "a_b.example", ""] {
            assert!(checked(http::Request::get("/").header("host", good)).is_ok(), "{good}");
        }
        for bad in [
            "a@b", ":80", "a/b", "a b", "a,b", "a:b", "a:123456", "[::1", "a\"b", "a<b", "[x]", "[::1]x", "[::1]:x",
            "a[::1]", "a:1:2",
        ] {
            let status = checked(http::Request::get("/").header("host", bad)).unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(checked(http::Request::get("/")).is_err());
        assert!(checked(http::Request::get("/").version(Version::HTTP_10)).is_ok());
        assert_eq!(checked(http::Request::get("http://kylin/").header("host", "")).unwrap().headers["host"], "kylin");
        assert!(checked(get("/").header("host", "kylin")).is_err());
    }

    #[test]
    fn the_host_of_an_absolute_target_wins_and_is_never_connected_to() {
        let head = checked(get("http://elsewhere:81/kylin/api?x=1")).unwrap();
        assert_eq!(head.uri, "/kylin/api?x=1");
        assert_eq!(head.headers["host"], "elsewhere:81");
        assert_eq!(checked(get("http://user@elsewhere/")).unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn unserved_methods_targets_and_expectations_are_refused() {
        assert_eq!(checked(get("/").method("TRACE")).unwrap_err(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(checked(get("kylin:80").method("CONNECT")).unwrap_err(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(checked(get("*")).unwrap_err(), StatusCode::BAD_REQUEST);
        assert!(checked(get("*").method("OPTIONS")).is_ok());
        assert_eq!(checked(get("/").header("expect", "200-ok")).unwrap_err(), StatusCode::EXPECTATION_FAILED);
        assert!(!checked(get("/").header("expect", "100-Continue")).unwrap().headers.contains_key("expect"));
    }

    proptest::proptest! {
        #[test]
        fn a_host_that_passes_has_no_separator(host in "[ -~]{0,40}") {
            if is_host(host.as_bytes()) {
                proptest::prop_assert!(!host.contains(['/', '@', '?', '#', ' ', ',', '"', '<', '\\']));
            }
        }
    }
}
