//! The less common parts of HTTP: interim responses, responses without bodies, trailers, early
//! responses, and other versions and forms of target.

use std::convert::Infallible;
use std::num::NonZero;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use serde_json::Value;

use crate::support::front::{Front, demo, refusal};
use crate::support::raw_node::{Act, RawNode, find, healthy, ok, respond};

#[tokio::test]
async fn an_expectation_gets_exactly_one_100() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    for length in [3, 3 << 20] {
        let mut client = front.connect().await;
        let head = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nExpect: 100-continue\r\nConnection: close\r\n";
        client.send(format!("{head}Content-Length: {length}\r\n\r\n")).await.unwrap();
        assert_eq!(client.head().await.unwrap().status, 100);
        client.send("x".repeat(length)).await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!(head.status, 200, "the next response is the final one");
        let mut body = client.body(&head).unwrap();
        let json: Value = serde_json::from_slice(&body.next().await.unwrap().unwrap()).unwrap();
        assert_eq!(json["bytes"], length);
        assert!(client.rest().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_refused_body_gets_no_100() {
    let (node, served) = demo("q1").await;
    let front = Front::with(&[served.addr()], |proxy| proxy.max_body(Some(1000)));
    let head = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n";
    let mut client = front.connect().await;
    client.send(head).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 413);

    let head = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nExpect: the-unexpected\r\nContent-Length: 3\r\n\r\n";
    let mut client = front.connect().await;
    client.send(head).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 417);

    let chunks = "POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = front.ask(format!("{chunks}3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001))).await.unwrap();
    refusal(&response, 413);
    assert_eq!(node.stats().requests, 0);
    assert_eq!(front.post("/demo/digest", &"x".repeat(1000)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_slow_body_gets_408() {
    let (node, served) = demo("q1").await;
    let front = Front::with(&[served.addr()], |proxy| proxy.body_timeout(Duration::from_millis(100)));
    let response =
        front.ask("POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
    refusal(&response, 408);
    assert_eq!(node.stats().requests, 0);
}

#[tokio::test]
async fn responses_without_bodies_keep_their_heads_and_the_connection() {
    let scripts = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n",
    ]
    .map(|bytes| vec![Act::Read, Act::Write(bytes.into()), Act::Read, Act::Write(ok("next"))]);
    for (script, (method, status)) in
        scripts.into_iter().zip([("HEAD", 200), ("HEAD", 200), ("GET", 204), ("GET", 304)])
    {
        let node = RawNode::start([script]).await;
        let front = Front::over(&[node.address()]);
        let mut client = front.connect().await;
        client.send(format!("{method} / HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        let head = client.head().await.unwrap();
        assert_eq!(head.status, status);
        if status == 204 {
            assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None));
        }
        client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(
            client.response().await.unwrap().text(),
            "next",
            "{method} {status}: what follows is the next response"
        );
        assert_eq!(node.seen().connections, 1, "{method} {status}: on the same connection");
    }
}

#[tokio::test]
async fn interim_responses_of_a_node_are_not_the_final_one() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints\r\nLink: </a>"] {
        let bytes = format!("HTTP/1.1 {interim}\r\n\r\n").repeat(3).into_bytes();
        let node = RawNode::start([vec![Act::Read, Act::Write([bytes, ok("final")].concat()), Act::UntilClosed]]).await;
        let front = Front::over(&[node.address()]);
        let mut client = front.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(client.head().await.unwrap().status, 200, "{interim}: dropped");
    }
    let node =
        RawNode::start([respond("HTTP/1.1 101 Switching Protocols\r\nUpgrade: ws\r\nConnection: upgrade\r\n\r\nraw")])
            .await;
    let front = Front::over(&[node.address()]);
    for extra in ["", "Connection: upgrade\r\nUpgrade: ws\r\n"] {
        let response = front.ask(format!("GET / HTTP/1.1\r\nHost: kylin\r\n{extra}\r\n")).await.unwrap();
        refusal(&response, 502);
    }
}

#[tokio::test]
async fn trailers_end_at_the_proxy_and_leave_bodies_whole() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
        Content-Length: 1\r\nSet-Cookie: a=1\r\nX-Sum: 9\r\n\r\n";
    let node = RawNode::start([vec![Act::Read, Act::Write(chunked.into()), Act::Read, Act::Write(ok("next"))]]).await;
    let front = Front::over(&[node.address()]);
    let request = "POST / HTTP/1.1\r\nHost: kylin\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
        Authorization: Basic eA==\r\nX-Forwarded-For: 6.6.6.6\r\nX-Trailer: 1\r\n\r\n";
    let mut client = front.connect().await;
    client.send(request).await.unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.text(), response.trailers.len()), ("hello", 0));
    assert_eq!((response.header("set-cookie"), response.header("x-sum")), (None, None));
    let seen = node.seen().texts().remove(0);
    assert!(seen.ends_with("\r\n\r\nabc") || seen.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{seen}");
    for gone in ["Basic", "6.6.6.6", "x-trailer"] {
        assert!(!seen.contains(gone), "{gone}: {seen}");
    }
    client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "next", "both connections are still good");
    assert_eq!(node.seen().connections, 1);
}

#[tokio::test]
async fn trailers_end_at_the_proxy_whatever_the_backend() {
    let node = Scripted::new(|_request: Request<Body>| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("set-cookie", HeaderValue::from_static("a=1"));
        let trailers = std::future::ready(Some(Ok::<_, Infallible>(trailers)));
        Ok(Response::new(Body::new(Full::new(Bytes::from_static(b"hello")).with_trailers(trailers))))
    });
    let cluster = Cluster::builder().endpoint(Endpoint::new("0", node).unwrap()).build().unwrap();
    let request = Request::get("/").header("host", "kylin").body(Body::empty()).unwrap();
    let response = Proxy::plain(cluster).build().unwrap().forward(ClientAddr::Unix, request).await;
    let whole = response.into_body().collect().await.unwrap();
    assert!(whole.trailers().is_none());
    assert_eq!(whole.to_bytes(), "hello");
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_reaches_the_client() {
    let (_node, served) = demo("q1").await;
    let closing = "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
    for length in [300 << 10, 8 << 20] {
        // One node reads a little more, and one closes at once, so that the kernel resets the
        // connection.
        let rude = RawNode::start([vec![Act::ReadHead, Act::Write(closing.into())]]).await;
        for node in [served.addr(), rude.address()] {
            let front = Front::over(&[node]);
            let mut client = front.connect().await;
            client
                .send(format!("POST /demo/early HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n\r\n"))
                .await
                .unwrap();
            // May fail, because the server may close before it has read everything.
            _ = client.send(vec![b'x'; length]).await;
            assert_eq!(client.response().await.unwrap().status(), 413, "{length} bytes");
            front.idle().await;
        }
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_its_response_and_the_connection_closes() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    for (path, length) in [("/demo/bytes?n=100000", 100_000), ("/demo/bytes?n=100000&chunked", 100_000)] {
        let mut client = front.connect().await;
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n")).await.unwrap();
        let bytes = client.rest().await.unwrap();
        let head = String::from_utf8_lossy(&bytes[..find(&bytes, b"\r\n\r\n").unwrap()]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(bytes.len() - head.len() - 4, length);
    }
    let node = RawNode::start([healthy("raw")]).await;
    let front = Front::over(&[node.address()]);
    assert_eq!(front.ask("GET / HTTP/1.0\r\n\r\n").await.unwrap().text(), "raw");
    let seen = node.seen().texts().remove(0).to_ascii_lowercase();
    assert!(seen.starts_with("get / http/1.1\r\n"), "{seen}");
    assert_eq!(seen.matches("\r\nhost:").count(), 1, "HTTP/1.1 cannot do without: {seen}");
}

#[tokio::test]
async fn an_absolute_target_names_the_host_and_never_where_to_connect() {
    let node = RawNode::start([healthy("node")]).await;
    let elsewhere = RawNode::start([healthy("elsewhere")]).await;
    let front = Front::over(&[node.address()]);
    let target = format!("http://{}/kylin/api?x=1", elsewhere.address());
    let response = front.ask(format!("GET {target} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
    assert_eq!(response.text(), "node");
    assert_eq!(elsewhere.seen().connections, 0);
    let seen = node.seen().texts().remove(0);
    assert!(seen.starts_with("GET /kylin/api?x=1 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains(&format!("\r\nhost: {}\r\n", elsewhere.address())), "{seen}");
    let response = front.ask("OPTIONS * HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    assert_eq!(response.text(), "node");
    assert!(node.seen().texts()[1].starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[tokio::test]
async fn pipelined_requests_get_their_responses_in_order() {
    let (node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = front.connect().await;
    let requests: String = (0..50)
        .map(|n| format!("POST /demo/echo HTTP/1.1\r\nHost: kylin\r\nContent-Length: 2\r\n\r\n{n:02}"))
        .collect();
    client.send(requests).await.unwrap();
    for n in 0..50 {
        assert_eq!(client.response().await.unwrap().text(), format!("{n:02}"));
    }
    assert_eq!(node.stats().connections, 1, "one connection is enough for one client");
}

#[tokio::test]
async fn a_node_is_reached_over_a_unix_socket_and_so_is_the_front_end() {
    use kylin_lb::server::{Listen, Server};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (_node, served) = demo("q1").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let inner = Front::over(&[served.addr()]);
    let listen = Listen::Unix(path.clone());
    let first = Server::builder()
        .listen(listen.clone(), inner.proxy.clone())
        .threads(NonZero::new(2).unwrap())
        .start()
        .unwrap();

    // The node of the outer front end is the inner front end, reached through its socket.
    let node = format!("unix:{}", path.display());
    let outer = Front::of([Endpoint::http("inner", &node).unwrap()], |proxy| proxy);
    let seen: Value = serde_json::from_slice(&outer.get("/demo/head").await.unwrap().body).unwrap();
    let fields = seen["headers"].as_array().unwrap();
    assert!(fields.iter().any(|field| field[0] == "x-forwarded-for" && field[1] == "unknown"), "{seen}");

    first.stop(Duration::from_secs(5)).await;
    refusal(&outer.get("/demo/head").await.unwrap(), 502);
    // A socket that an earlier server left at the path does no harm.
    let second =
        Server::builder().listen(listen, inner.proxy.clone()).threads(NonZero::new(1).unwrap()).start().unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /demo/bytes?n=3 HTTP/1.0\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(find(&bytes, b" 200 OK\r\n").is_some(), "{}", bytes.escape_ascii());
    second.stop(Duration::from_secs(5)).await;
}
