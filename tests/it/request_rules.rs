//! Rules of RFC 9110 and 9112 about methods, targets, expectations and sizes, in one table, over
//! HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;
use std::num::NonZero;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, Request};
use http_body_util::Full;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kylin_lb::proxy::KylinRules;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::front::{Front, endpoints};
use crate::support::raw_node::{RawNode, healthy};

struct Case {
    name: String,
    method: String,
    /// As an HTTP/1.1 client writes it.
    target: String,
    /// The URI of the HTTP/2 request; `None` if HTTP/2 cannot express the case.
    uri: Option<Uri>,
    headers: Vec<(&'static str, String)>,
    expected: Expected,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    /// The node gets a request that begins with this.
    Forwarded(&'static str),
    /// The client gets this status, and nothing reaches the node.
    Responded(u16),
}
use Expected::{Forwarded, Responded};

fn case(name: &str, method: &str, target: &str, expected: Expected) -> Case {
    let uri = match target {
        "*" => with_path("*"),
        target if target.starts_with('/') && !target.contains('#') => with_path(target),
        target if target.contains("://") => target.parse().ok(),
        target if method == "CONNECT" => target.parse().ok(),
        _ => None,
    };
    let (name, method, target) = (name.to_owned(), method.to_owned(), target.to_owned());
    Case { name, method, target, uri, headers: Vec::new(), expected }
}

/// Returns a URI with this path. `Uri` does not parse `http://kylin*`.
fn with_path(path: &str) -> Option<Uri> {
    let mut parts = Uri::from_static("http://kylin/").into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

impl Case {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn table() -> Vec<Case> {
    let long = "x".repeat(70_000);
    let options = |hops: &str, expected| case("max-forwards", "OPTIONS", "/a", expected).header("max-forwards", hops);
    vec![
        case("origin form", "GET", "/a?b=c", Forwarded("GET /a?b=c HTTP/1.1\r\n")),
        case("absolute form", "GET", "http://kylin/a?b=c", Forwarded("GET /a?b=c HTTP/1.1\r\n")),
        case("absolute form, https", "GET", "https://kylin/a", Forwarded("GET /a HTTP/1.1\r\n")),
        case("absolute form, only a query", "GET", "http://kylin?b=c", Forwarded("GET /?b=c HTTP/1.1\r\n")),
        case("absolute form, no path", "GET", "http://kylin", Forwarded("GET / HTTP/1.1\r\n")),
        case("absolute form, user", "GET", "http://u@kylin/a", Responded(400)),
        case("absolute form, other scheme", "GET", "ftp://kylin/a", Responded(400)),
        case("authority form", "GET", "kylin:80", Responded(400)),
        case("authority form, no port", "GET", "kylin", Responded(400)),
        case("asterisk form", "OPTIONS", "*", Forwarded("OPTIONS * HTTP/1.1\r\n")),
        case("asterisk form, GET", "GET", "*", Responded(400)),
        case("asterisk form, a query", "OPTIONS", "*?a=b", Responded(400)),
        case("asterisk form, more", "OPTIONS", "*a", Responded(400)),
        case("fragment", "GET", "/a#b", Responded(400)),
        case("fragment after a query", "GET", "/a?b#c", Responded(400)),
        case("space", "GET", "/a b", Responded(400)),
        case("control", "GET", "/a\x01b", Responded(400)),
        case("delete", "GET", "/a\x7fb", Responded(400)),
        case("connect", "CONNECT", "kylin:80", Responded(405)),
        case("trace", "TRACE", "/a", Responded(405)),
        case("trace, last hop", "TRACE", "/a", Responded(405)).header("max-forwards", "0"),
        options("0", Responded(200)),
        options("000", Responded(200)),
        options("1", Forwarded("OPTIONS /a HTTP/1.1\r\n")),
        options("99999999999999999999", Forwarded("OPTIONS /a HTTP/1.1\r\n")),
        options("-1", Responded(400)),
        options("1, 2", Responded(400)),
        options("", Responded(400)),
        options("0", Responded(400)).header("max-forwards", "1"),
        case("max-forwards, *", "OPTIONS", "*", Responded(200)).header("max-forwards", "0"),
        case("max-forwards, GET", "GET", "/a", Forwarded("GET /a HTTP/1.1\r\n")).header("max-forwards", "0"),
        case("expect 100", "POST", "/a", Forwarded("POST /a HTTP/1.1\r\n")).header("expect", "100-Continue"),
        case("expect", "GET", "/a", Responded(417)).header("expect", "200-ok"),
        case("expect a list", "GET", "/a", Responded(417)).header("expect", "100-continue, 200-ok"),
        case("expect twice", "GET", "/a", Responded(417)).header("expect", "100-continue").header("expect", "200-ok"),
        case("unknown method", "REPORT", "/a", Forwarded("REPORT /a HTTP/1.1\r\n")),
        case("lower case", "get", "/a", Responded(400)),
        case("method of 64 bytes", &"M".repeat(64), "/a", Forwarded("MMMM")),
        case("method of 65 bytes", &"M".repeat(65), "/a", Responded(501)),
        case("method of 9 KB", &"M".repeat(9_000), "/a", Responded(501)),
        case("target of 15 KB", "GET", &format!("/{}", &long[..15_000]), Forwarded("GET /xxx")),
        case("target of 17 KB", "GET", &format!("/{}", &long[..17_000]), Responded(414)),
        // `Uri` has at most 65,534 bytes, so this client cannot send such a target over HTTP/2.
        case("target of 70 KB", "GET", &format!("/{long}"), Responded(414)),
        case("header of 15 KB", "GET", "/a", Forwarded("GET /a")).header("x-a", &long[..15_000]),
        case("header of 17 KB", "GET", "/a", Responded(431)).header("x-a", &long[..17_000]),
        // Over HTTP/2, hyper responds. It closes the connection of a client that sends much more
        // than the limit.
        case("header of 40 KB", "GET", "/a", Responded(431)).header("x-a", &long[..40_000]),
        case("both of 10 KB", "GET", &format!("/{}", &long[..10_000]), Responded(431)).header("x-a", &long[..10_000]),
        (0..101).fold(case("101 headers", "GET", "/a", Responded(431)), |case, _| case.header("x-a", "1")),
    ]
}

/// Returns the status that an HTTP/1.1 client gets.
async fn over_http1(front: &Front, case: &Case) -> u16 {
    let headers: String = case.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{} {} HTTP/1.1\r\nHost: kylin\r\n{headers}\r\n", case.method, case.target);
    let mut client = front.connect().await;
    // May fail, because the server responds as soon as it has seen enough.
    _ = client.send(head).await;
    client.response().await.unwrap_or_else(|error| panic!("{}: {error}", case.name)).status()
}

/// Returns the status that an HTTP/2 client gets.
async fn over_http2(front: SocketAddr, case: &Case, uri: &Uri) -> u16 {
    let stream = TcpStream::connect(front).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = case.method.parse().unwrap();
    *request.uri_mut() = uri.clone();
    let mut headers = HeaderMap::new();
    for (name, value) in &case.headers {
        headers.append(*name, value.parse().unwrap());
    }
    *request.headers_mut() = headers;
    let response = sender.send_request(request).await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    connection.abort();
    response.status().as_u16()
}

#[tokio::test]
async fn requests_follow_the_rules_of_http_in_both_protocols() {
    let node = RawNode::start([healthy("node")]).await;
    let proxy = Front::over(&[node.address()]).proxy;
    let front = Front::serving(proxy, |server| server.max_head_bytes(NonZero::new(16 * 1024).unwrap()));
    let mut wrong = Vec::new();
    for case in table() {
        for is_http2 in [false, true] {
            let before = node.seen().requests.len();
            let status = match &case.uri {
                None if is_http2 => continue,
                Some(uri) if is_http2 => over_http2(front.address(), &case, uri).await,
                _ => over_http1(&front, &case).await,
            };
            front.idle().await;
            let forwarded = node.seen().texts().split_off(before);
            let is_right = match case.expected {
                Forwarded(start) => status == 200 && forwarded.len() == 1 && forwarded[0].starts_with(start),
                Responded(expected) => status == expected && forwarded.is_empty(),
            };
            if !is_right {
                let protocol = if is_http2 { "HTTP/2" } else { "HTTP/1.1" };
                let (name, expected) = (&case.name, case.expected);
                wrong.push(format!("{name} over {protocol}: {status}, the node saw {forwarded:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// nginx's buffers: no line is longer than a buffer.
#[tokio::test]
async fn lines_longer_than_the_head_buffers_get_the_status_of_nginx_in_both_protocols() {
    let node = RawNode::start([healthy("node")]).await;
    let proxy = Front::over(&[node.address()]).proxy;
    let [first, count, size] = [1024, 2, 2048].map(|value| NonZero::new(value).unwrap());
    let front = Front::serving(proxy, |server| server.head_buffers(first, count, size));
    // The bytes of the target and of each header.
    for (target, headers, expected) in [
        (10, &[][..], 200),
        (1_500, &[1_500], 200),
        (2_100, &[], 414),
        (3_000, &[1_000], 414),
        (10, &[2_100], 400),
        (10, &[3_000], 400),
        (10, &[1_500, 1_500, 1_500, 1_500], 400),
    ] {
        let case = case("lines", "GET", &format!("/{}", "x".repeat(target - 1)), Responded(expected));
        let case = headers.iter().fold(case, |case, length| case.header("x-a", "x".repeat(*length)));
        let uri = case.uri.clone().unwrap();
        assert_eq!(over_http1(&front, &case).await, expected, "HTTP/1.1: {target}, {headers:?}");
        assert_eq!(over_http2(front.address(), &case, &uri).await, expected, "HTTP/2: {target}, {headers:?}");
    }
    assert_eq!(node.seen().requests.len(), 2 * 2, "two cases are within the limits");
}

#[tokio::test]
async fn a_path_that_is_closed_to_clients_gets_403_in_both_protocols() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::kylin(endpoints(&[node.address()]), |proxy| proxy);
    for path in ["/kylin/api/cache/x", "/kylin/api/%63ache/x", "/kylin/web/../api/cache/x", "/kylin/api/cache;a=b/x"] {
        let case = case("guard", "GET", path, Responded(403));
        let uri = case.uri.clone().unwrap();
        assert_eq!(over_http1(&front, &case).await, 403, "HTTP/1.1: {path}");
        assert_eq!(over_http2(front.address(), &case, &uri).await, 403, "HTTP/2: {path}");
    }
    assert!(node.seen().requests.is_empty(), "{:?}", node.seen().texts());
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_the_last_recipient_names_its_methods() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::over(&[node.address()]);
    let options = |hops: &str| format!("OPTIONS * HTTP/1.1\r\nHost: kylin\r\nMax-Forwards: {hops}\r\n\r\n");
    let response = front.ask(options("0")).await.unwrap();
    assert_eq!((response.status(), response.header("content-length")), (200, Some("0")));
    assert!(response.header("allow").unwrap().contains("GET"));
    for (hops, left) in [("1", "0"), ("7", "6"), ("99999999999999999999", "4294967294")] {
        front.ask(options(hops)).await.unwrap();
        let seen = node.seen().texts().pop().unwrap().to_ascii_lowercase();
        assert!(seen.contains(&format!("\r\nmax-forwards: {left}\r\n")), "{seen}");
    }
}

#[tokio::test]
async fn an_absolute_target_about_the_server_as_a_whole_is_an_asterisk() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::over(&[node.address()]);
    for (target, seen) in
        [("http://kylin", "OPTIONS * "), ("http://kylin/", "OPTIONS / "), ("http://kylin?a", "OPTIONS /?a ")]
    {
        front.ask(format!("OPTIONS {target} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        assert!(node.seen().texts().pop().unwrap().starts_with(seen), "{target}: {:?}", node.seen().texts());
    }
}

/// Behind hyper's codec, nothing shows that there was a fragment, so such a request cannot be
/// refused as over HTTP/1.1.
#[tokio::test]
async fn over_http2_the_rules_and_the_node_see_a_target_without_its_fragment() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::kylin(endpoints(&[node.address()]), |proxy| proxy);
    for (path, is_open) in [("/kylin/api/projects#/../cache", true), ("/kylin/api/cache/x#/../../projects", false)] {
        let mut stream = TcpStream::connect(front.address()).await.unwrap();
        // GET, http, `:path` as a literal and `:authority: k` (RFC 7541, appendix A).
        let block =
            [&[0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()][..], path.as_bytes(), b"\x01\x01k"].concat();
        let headers = [&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1][..], &block].concat();
        let bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &headers].concat();
        stream.write_all(&bytes).await.unwrap();
        let first = loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == 1 {
                // The status may follow a change of the size of the table.
                break payload.into_iter().find(|byte| *byte & 0xe0 != 0x20).unwrap();
            }
        };
        assert_eq!(first == 0x88, is_open, "{path}: 200 is the index 8");
    }
    let seen = node.seen().texts();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].starts_with("GET /kylin/api/projects HTTP/1.1\r\n"), "{seen:?}");
}

#[tokio::test]
async fn a_value_with_a_blank_at_an_end_is_refused_over_http2_and_trimmed_over_http1() {
    let node = RawNode::start([healthy("node")]).await;
    let front = Front::over(&[node.address()]);
    for (value, expected) in [(" x", 400), ("x ", 400), ("\tx", 400), (" ", 400), ("x y", 200), ("", 200)] {
        let case = case("blank", "GET", "/a", Responded(expected)).header("x-a", value);
        let uri = case.uri.clone().unwrap();
        assert_eq!(over_http2(front.address(), &case, &uri).await, expected, "{value:?}");
        assert_eq!(over_http1(&front, &case).await, 200, "{value:?}");
    }
    let seen = node.seen().texts();
    assert_eq!(seen.len(), 8, "{seen:?}");
    assert!(seen.iter().all(|head| !head.contains("x-a:  ") && !head.contains("x \r\n")), "{seen:?}");
}

#[tokio::test]
async fn a_request_about_the_server_as_a_whole_passes_the_rules_of_kylin() {
    let node = RawNode::start([healthy("node")]).await;
    for other_paths in [true, false] {
        let rules = KylinRules::default().other_paths(other_paths);
        let front = Front::kylin(endpoints(&[node.address()]), |proxy| proxy.rules(rules));
        let before = node.seen().requests.len();
        let last = front.ask("OPTIONS * HTTP/1.1\r\nHost: kylin\r\nMax-Forwards: 0\r\n\r\n").await.unwrap();
        assert_eq!((last.status(), node.seen().requests.len()), (200, before));
        assert!(last.header("allow").unwrap().contains("GET"));
        for hops in ["", "Max-Forwards: 1\r\n"] {
            let request = format!("OPTIONS * HTTP/1.1\r\nHost: kylin\r\n{hops}\r\n");
            assert_eq!(front.ask(request).await.unwrap().status(), 200);
            assert!(node.seen().texts().pop().unwrap().starts_with("OPTIONS * HTTP/1.1\r\n"));
        }
        assert_eq!(node.seen().requests.len(), before + 2);
        for target in ["*a", "*?a", "**"] {
            let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: kylin\r\nMax-Forwards: 0\r\n\r\n");
            assert_eq!(front.ask(request).await.unwrap().status(), 400, "{target}");
        }
    }
}
