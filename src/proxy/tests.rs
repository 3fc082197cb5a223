use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::backend::{HttpBackend, SendError};
use crate::endpoint::Endpoint;
use crate::header_walk::tests::walks;

/// Servers move the future of a request, and keep one per connection.
#[test]
fn the_future_of_a_request_is_small() {
    let proxy: Proxy = Proxy::builder(Cluster::builder().build().unwrap()).build().unwrap();
    let forwarded = proxy.forward(ClientAddr::Unix, Request::new(Body::empty()));
    // Of these, 190 bytes are for the flight of a query, 8 for a resource group, and 16 for the
    // timers of connections of observed requests.
    assert!(size_of_val(&forwarded) <= 2144, "{}", size_of_val(&forwarded));
}

#[test]
fn settings_that_make_no_sense_are_errors_of_build() {
    let build = |change: fn(ProxyBuilder<HttpBackend>) -> ProxyBuilder<HttpBackend>| {
        change(Proxy::builder(Cluster::builder().build().unwrap())).build().unwrap_err().to_string()
    };
    for (error, expected) in [
        (build(|proxy| proxy.unavailable_status(StatusCode::OK)), "200 OK is not an error status"),
        (build(|proxy| proxy.body_timeout(Duration::ZERO)), "the body_timeout 0ns is too short: expected at least 1ms"),
        (build(|proxy| proxy.retry(RetryPolicy::default().on_status(StatusCode::OK))), "on_status must be 400 to 599"),
        (
            build(|proxy| proxy.rules(KylinRules::default().read_your_writes(Some(Duration::ZERO)))),
            "read_your_writes must be over 0, or None to turn it off",
        ),
    ] {
        assert_eq!(error, expected);
    }
}

/// A backend that records how many passes over headers were made before and after the request was
/// sent.
struct Counting {
    inner: HttpBackend,
    counts: Arc<parking_lot::Mutex<Vec<(usize, usize)>>>,
}

impl Backend for Counting {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let before = walks();
        let response = self.inner.send(request).await;
        self.counts.lock().push((before, walks()));
        response
    }
}

/// A node that responds to one request on a connection.
async fn one_response(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut read = Vec::new();
    while !read.ends_with(b"}") {
        assert!(stream.read_buf(&mut read).await.expect("a read") > 0);
    }
    let response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(response).await.expect("a write");
}

/// One pass reads the headers, another writes them. All code in between uses the request context.
#[tokio::test]
async fn a_query_walks_its_headers_once_to_read_and_once_to_write_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = tokio::spawn(one_response(listener));
    let counts = Arc::new(parking_lot::Mutex::default());
    let inner = HttpBackend::new(&address.to_string()).unwrap();
    let endpoint = Endpoint::new("q1", Counting { inner, counts: Arc::clone(&counts) }).unwrap();
    let proxy = Proxy::builder(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap();
    let client: SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let body = "{\"sql\":\"select 1\",\"project\":\"p\"}";
    let request = Request::post("/kylin/api/query")
        .header("host", "kylin.example")
        .header("authorization", "Basic QURNSU46S1lMSU4=")
        .header("cookie", "theme=dark; JSESSIONID=0123456789ABCDEF")
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(Body::from(body))
        .unwrap();
    let before = walks();
    assert_eq!(proxy.forward(client, request).await.status(), 200);
    node.await.unwrap();
    let counts: Vec<_> = counts.lock().iter().map(|(sent, done)| (sent - before, done - before)).collect();
    assert_eq!(counts, [(1, 2)]);
}

/// The count above is right only if no code on the way iterates over a header map by other means.
#[test]
fn all_passes_over_headers_are_counted() {
    fn visit(path: &std::path::Path, found: &mut Vec<String>) {
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| visit(&entry.unwrap().path(), found));
            return;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("mod tests {").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let iterates = ["headers.iter()", "headers().iter()", "headers.keys()", "headers.values()"];
            let loops =
                line.trim_start().starts_with("for ") && (line.ends_with("headers {") || line.ends_with("headers() {"));
            if loops || iterates.iter().any(|pattern| line.contains(pattern)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    let mut found = Vec::new();
    for module in
        ["proxy", "request", "session/affinity.rs", "session/learn.rs", "kylin/class", "backend/http1/request_head.rs"]
    {
        visit(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut found);
    }
    found.retain(|line| !line.contains("proxy/tests.rs"));
    assert!(found.is_empty(), "use header_walk::walk: {found:#?}");
}
