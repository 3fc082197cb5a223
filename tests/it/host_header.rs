//! `Host` of requests whose client names no host: the node's own, because HTTP/1.1 requires the
//! header.

use std::net::SocketAddr;

use http::{Request, Version};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

use crate::support::front::{Front, closed_port, endpoints};
use crate::support::http::Connection;
use crate::support::kylin::ask;
use crate::support::raw_node::{Act, RawNode, healthy};

/// Heads without a host.
const NAMELESS: [&str; 3] =
    ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nHost: \r\n\r\n"];

/// Returns the values of a header in the last request that the node got.
fn last(node: &RawNode, name: &str) -> Vec<String> {
    let text = node.seen().texts().pop().unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

async fn send(front: SocketAddr, bytes: &str) -> u16 {
    let mut connection = Connection::open(front).await.unwrap();
    connection.send(bytes).await.unwrap();
    connection.response().await.unwrap().status()
}

#[tokio::test]
async fn a_request_that_names_no_host_gets_the_address_of_the_node() {
    let node = RawNode::start([healthy("node")]).await;
    for front in [Front::over(&[node.address()]), Front::kylin(endpoints(&[node.address()]), |proxy| proxy)] {
        for bytes in NAMELESS {
            assert_eq!(send(front.address(), bytes).await, 200, "{bytes:?}");
            assert_eq!(last(&node, "host"), [node.address().to_string()], "{bytes:?}");
            assert!(last(&node, "x-forwarded-host").is_empty(), "{bytes:?}");
        }
        for (bytes, host) in [
            ("GET / HTTP/1.0\r\nHost: kylin:80\r\n\r\n", "kylin:80"),
            ("GET http://kylin/ HTTP/1.0\r\n\r\n", "kylin"),
            ("GET http://kylin/ HTTP/1.1\r\nHost:\r\n\r\n", "kylin"),
        ] {
            assert_eq!(send(front.address(), bytes).await, 200, "{bytes:?}");
            assert_eq!((last(&node, "host"), last(&node, "x-forwarded-host")), (vec![host.into()], vec![host.into()]));
        }
        for bytes in
            ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "GET / HTTP/1.0\r\nHost: :80\r\n\r\n"]
        {
            assert_eq!(send(front.address(), bytes).await, 400, "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_to_the_address_of_the_node_is_relative() {
    // As Tomcat before 8.5.
    let node = Scripted::new(|request: Request<Body>| async move {
        let host = request.headers()["host"].to_str().unwrap();
        let location = request.headers()["x-to"].to_str().unwrap().replace("HOST", host);
        Ok(http::Response::builder().status(302).header("location", location).body(Body::empty()).unwrap())
    });
    let cluster = Cluster::builder().endpoint(Endpoint::new("127.0.0.1:7070", node).unwrap()).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    for (host, to, expected) in [
        ("", "http://HOST/kylin/", "/kylin/"),
        ("", "https://HOST/kylin/?a=b", "/kylin/?a=b"),
        ("", "http://HOST", "/"),
        ("", "http://HOST0/kylin/", "http://127.0.0.1:70700/kylin/"),
        ("", "http://HOST//evil/", "http://127.0.0.1:7070//evil/"),
        ("", "http://other/kylin/", "http://other/kylin/"),
        ("kylin:80", "http://HOST/kylin/", "http://kylin:80/kylin/"),
        ("kylin:80", "http://127.0.0.1:7070/kylin/login", "/kylin/login"),
        ("kylin:80", "http://127.0.0.1:7071/kylin/login", "http://127.0.0.1:7071/kylin/login"),
    ] {
        let request = Request::get("/kylin").version(Version::HTTP_10).header("host", host).header("x-to", to);
        let response = proxy.forward(ClientAddr::Unix, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()["location"], expected, "{host} {to}");
    }
}

#[tokio::test]
async fn a_redirect_of_a_request_for_all_nodes_is_relative_too() {
    let node = || {
        Scripted::new(|request: Request<Body>| async move {
            let location = format!("http://{}/kylin/", request.headers()["host"].to_str().unwrap());
            Ok(http::Response::builder().status(302).header("location", location).body(Body::empty()).unwrap())
        })
    };
    let endpoints = ["127.0.0.1:7070", "127.0.0.1:7071"].map(|id| Endpoint::new(id, node()).unwrap());
    let proxy = Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap()).build().unwrap();
    for (host, expected) in [("", "/kylin/"), ("kylin:80", "http://kylin:80/kylin/")] {
        let request = Request::get("/kylin/j_spring_security_logout").version(Version::HTTP_10);
        let request = request.header("host", host).header("cookie", "JSESSIONID=0123456789ABCDEF");
        let response = proxy.forward(ClientAddr::Unix, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()["location"], expected, "{host}");
    }
}

#[tokio::test]
async fn each_node_of_a_request_gets_its_own_address() {
    let (bad, good) = (RawNode::start([vec![Act::Read]]).await, RawNode::start([healthy("good")]).await);
    let front = Front::over(&[bad.address(), closed_port(), good.address()]);
    assert_eq!(send(front.address(), NAMELESS[0]).await, 200);
    for node in [&bad, &good] {
        assert_eq!(last(node, "host"), [node.address().to_string()]);
    }
    // A request for all nodes is sent to each.
    let (one, two) = (RawNode::start([healthy("[1]")]).await, RawNode::start([healthy("[2]")]).await);
    let front = Front::kylin(endpoints(&[one.address(), two.address()]), |proxy| proxy);
    assert_eq!(send(front.address(), "GET /kylin/api/query/runningQueries HTTP/1.0\r\n\r\n").await, 200);
    for node in [&one, &two] {
        assert_eq!(last(node, "host"), [node.address().to_string()]);
    }
}

#[tokio::test]
async fn a_backend_without_an_address_gets_the_placement_name() {
    for (placement, host) in [("q1.example:7070", "q1.example:7070"), ("no/authority", "localhost")] {
        let node = Scripted::new(|request: Request<Body>| {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            async move { Ok(http::Response::new(Body::from(host))) }
        });
        let endpoint = Endpoint::new("q1", node).unwrap().placement(placement);
        let proxy = Proxy::plain(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap();
        let request = Request::get("/").version(Version::HTTP_10).body(Body::empty()).unwrap();
        assert_eq!(ask(&proxy, request).await.1, host);
    }
}

#[tokio::test]
async fn an_nginx_configuration_sends_the_name_of_the_upstream() {
    let node = RawNode::start([healthy("node")]).await;
    let address = node.address().to_string();
    for (pass, lines, host) in [
        ("nodes", "", "nodes"),
        (&*address, "", &*address),
        ("nodes", "proxy_set_header Host $http_host;", "nodes"),
        ("nodes", "proxy_set_header Host \"\";", "nodes"),
        ("nodes", "proxy_set_header Host $proxy_host;", "nodes"),
        ("nodes", "proxy_set_header Host kylin.example;", "kylin.example"),
        ("nodes", "proxy_set_header Host first; proxy_set_header Host kylin.example;", "kylin.example"),
        ("nodes", "proxy_set_header Host first; proxy_set_header Host $http_host;", "nodes"),
    ] {
        let upstream = format!("upstream nodes {{ server {address}; }}");
        let location = format!("location / {{ proxy_pass http://{pass}; {lines} }}");
        let text = format!("{upstream} server {{ listen 127.0.0.1:1; server_name front; {location} }}");
        let site = Site::new(Config::parse("front.conf", &text).unwrap()).unwrap();
        let server = site.server_on("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let [nameless, empty @ ..] = NAMELESS;
        assert_eq!(send(server.addresses()[0], nameless).await, 200, "{lines}");
        assert_eq!(last(&node, "host"), [host], "{lines}");
        for bytes in empty {
            assert_eq!(send(server.addresses()[0], bytes).await, 400, "as nginx: {lines} {bytes:?}");
        }
    }
}
