//! Typical configurations, compared by requests: the nodes behind them, and the comparison.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};

use super::http::{Connection, RawResponse};

/// The nodes behind the front ends, and the requests that they got.
pub(crate) struct Nodes {
    servers: [Server; 2],
    seen: Seen,
}

/// The requests that nodes got: the method, the URI and the body bytes of each.
type Seen = Arc<Mutex<Vec<String>>>;

impl Nodes {
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.servers[node].addresses()[0]
    }

    /// Returns the requests since the last call.
    pub(crate) fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Compares each `.conf` file in a folder of the tests, which must have at least this many.
/// `compare` returns the differences from what a file states.
pub(crate) async fn compare_all(folder: &str, least: usize, compare: impl AsyncFn(&Path, &Nodes) -> Vec<String>) {
    let seen = Seen::default();
    let nodes = Nodes { servers: [node_that_tells(&seen), node_that_tells(&seen)], seen };
    let files = configurations(folder);
    assert!(files.len() >= least, "{} files", files.len());
    let mut differences = Vec::new();
    for file in files {
        let found = compare(&file, &nodes).await;
        differences.extend(found.into_iter().map(|text| format!("{}: {text}", file.display())));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for node in nodes.servers {
        node.stop(Duration::from_secs(5)).await;
    }
}

/// Returns the files in alphabetical order.
fn configurations(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    files.sort();
    files
}

/// Starts a node that responds with its path. Some paths redirect or set a session cookie, like
/// Kylin; `/told/NAME` shows the values of a request header.
pub(crate) fn node() -> Server {
    node_that_tells(&Seen::default())
}

fn node_that_tells(seen: &Seen) -> Server {
    let seen = Arc::clone(seen);
    let respond = move |_peer: ClientAddr, request: Request<Body>| respond(request, Arc::clone(&seen));
    Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), respond)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap()
}

async fn respond(request: Request<Body>, seen: Seen) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let uri = head.uri.to_string();
    seen.lock().unwrap().push(format!("{} {uri} {}", head.method, body.len()));
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut response = Response::builder().header("x-node", &uri);
    if let Some((_, name)) = uri.split_once("/told/") {
        let values: Vec<_> =
            head.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
        response = response.header("x-set", if values.is_empty() { "-".to_owned() } else { values.join(", ") });
    }
    if uri.contains("cookie") {
        response = response.header("set-cookie", "JSESSIONID=42; Path=/kylin; HttpOnly");
    }
    if uri.contains("accel") {
        response = response.header("x-accel-redirect", "/elsewhere");
    }
    if uri.contains("scoped") {
        response = response.header("set-cookie", "JSESSIONID=42; Domain=node1.internal; Path=/kylin");
    }
    if uri.contains("validators") {
        response = response.header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT").header("etag", "\"node\"");
    }
    let kinds = [
        ("json", "application/json"),
        ("plain", "text/plain"),
        ("utf", "text/html;charset=ISO-8859-1"),
        ("parameter", "text/html; a=b"),
        ("upper", "TEXT/HTML"),
    ];
    let kind = kinds.into_iter().find(|(name, _)| uri.ends_with(name)).map_or("text/html", |(_, kind)| kind);
    response = response.header("content-type", kind);
    // Values defined by the test.
    if let Some((_, path)) = uri.split_once("?path=") {
        response = response.header("set-cookie", format!("JSESSIONID=42; Path={path}"));
    }
    if let Some((_, length)) = uri.split_once("?head=") {
        response = response.header("x-long", "x".repeat(length.parse().unwrap()));
    }
    let status = match &uri {
        uri if uri.contains("?location=") => {
            let location = uri.split_once("?location=").unwrap().1.replace("own.host", host);
            response = response.header("location", location);
            302
        }
        uri if uri.contains("absolute") => {
            response = response.header("location", format!("http://{host}/kylin/login?a=b"));
            302
        }
        uri if uri.contains("network") => {
            response = response.header("location", "//other.example/login?a=b");
            302
        }
        uri if uri.contains("relative") => {
            response = response.header("location", "/kylin/login?a=b");
            302
        }
        uri => uri.split_once("status").and_then(|(_, status)| status.get(..3)?.parse().ok()).unwrap_or(200),
    };
    response.status(StatusCode::from_u16(status).unwrap()).body(Body::from(uri)).unwrap()
}

/// Sends a request `METHOD PATH [HTTP/1.0] [HEADER: VALUE] [| HEADER: VALUE]...`, with a body of
/// four bytes if it is a POST or PUT. Returns the response in one line, with its type if it is
/// `typed`.
pub(crate) async fn send(front: SocketAddr, request: &str, typed: bool) -> String {
    let mut connection = Connection::open(front).await.unwrap();
    let mut words = request.splitn(3, ' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers = words.next().map(|headers| headers.replace(" | ", "\r\n") + "\r\n").unwrap_or_default();
    let (version, headers) = match headers.strip_prefix("HTTP/1.0\r\n") {
        Some(headers) => ("HTTP/1.0", headers),
        None => ("HTTP/1.1", &*headers),
    };
    let host = if headers.contains("Host: ") || version == "HTTP/1.0" { "" } else { "Host: kylin.example\r\n" };
    let (length, body) = match method {
        "POST" | "PUT" => ("Content-Length: 4\r\n", "body"),
        _ => ("", ""),
    };
    connection.send(format!("{method} {path} {version}\r\n{host}{headers}{length}\r\n{body}")).await.unwrap();
    match connection.response().await {
        Ok(response) if typed => {
            format!("{} type={}", shown(&response), response.header("content-type").unwrap_or_default())
        }
        Ok(response) => shown(&response),
        Err(error) => format!("{error}"),
    }
}

fn shown(response: &RawResponse) -> String {
    let mut shown = vec![response.status().to_string()];
    shown.extend(response.header("x-node").map(str::to_owned));
    if let Some(location) = response.header("location") {
        // nginx and httpd name themselves.
        let own = location.strip_prefix("http://kylin.example").and_then(|url| Some(&url[url.find('/')?..]));
        shown.push(match own {
            // A client interprets `//x` alone as a host.
            Some(path) if path.starts_with("//") => format!("location=http://kylin.example{path}"),
            own => format!("location={}", own.unwrap_or(location)),
        });
    }
    shown.extend(
        response
            .head
            .all("set-cookie")
            .iter()
            .filter(|cookie| cookie.starts_with("JSESSIONID"))
            .map(|cookie| format!("cookie={cookie}")),
    );
    shown.extend(
        response.header("cache-control").filter(|value| *value != "no-store").map(|value| format!("cache={value}")),
    );
    for name in ["access-control-allow-origin", "access-control-max-age", "x-set", "www-authenticate"] {
        shown.extend(response.header(name).map(|value| format!("{name}={value}")));
    }
    if response.header("x-node").is_some_and(|uri| uri.starts_with("/validators")) {
        for name in ["last-modified", "etag"] {
            let values = response.head.all(name).into_iter();
            shown.extend(values.map(|value| format!("{name}={value}")));
        }
    }
    shown.join(" ")
}

pub(crate) fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from.as_bytes()) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
