//! The address that a client connected to, which requests and `$server_addr` show.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::proxy::TrustedProxies;
use kylin_lb::server::{ListenOptions, Server};
use kylin_lb::{Body, ClientAddr, LocalAddr};

use crate::support::http::Connection;

const GET: &str = "GET /x HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// Starts a server at all addresses that responds with the address of each request.
fn server(options: ListenOptions) -> Server {
    let handler = |_: ClientAddr, request: Request<Body>| async move {
        let local = request.extensions().get::<LocalAddr>();
        Response::new(Body::from(local.map(|local| local.0.to_string()).unwrap_or_default()))
    };
    let builder = Server::builder().listen_with("0.0.0.0:0".parse().unwrap(), options, handler);
    builder.threads(NonZero::new(1).unwrap()).start().unwrap()
}

/// Sends requests on one connection to an address of this machine, and returns the texts of the
/// responses.
async fn texts(server: &Server, last: u8, before: &str) -> [String; 2] {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), server.addresses()[0].port());
    let mut connection = Connection::open(address).await.unwrap();
    connection.send(format!("{before}{GET}")).await.unwrap();
    let first = connection.response().await.unwrap().text().to_owned();
    connection.send(GET).await.unwrap();
    [first, connection.response().await.unwrap().text().to_owned()]
}

#[tokio::test]
async fn requests_have_the_address_that_the_client_reached_if_a_listener_asks_for_it() {
    let told = server(ListenOptions::new().local_addr());
    let port = told.addresses()[0].port();
    assert_eq!(texts(&told, 1, "").await, [format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")]);
    assert_eq!(texts(&told, 2, "").await, [format!("127.0.0.2:{port}"), format!("127.0.0.2:{port}")]);
    told.stop(Duration::from_secs(5)).await;
    let untold = server(ListenOptions::new());
    assert_eq!(texts(&untold, 1, "").await, [String::new(), String::new()]);
    untold.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_proxy_protocol_does_not_change_the_address_that_the_client_reached() {
    let trusted = TrustedProxies::new(["127.0.0.0/8".parse().unwrap()]);
    let server = server(ListenOptions::new().proxy_protocol(trusted).local_addr());
    let port = server.addresses()[0].port();
    let texts = texts(&server, 1, "PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n").await;
    assert_eq!(texts, [format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")]);
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_decision_by_an_address_that_an_application_does_not_tell_refuses_the_request() {
    let text = "map $server_addr $is_open { 127.0.0.1 1; default 0; }
        server { listen 81; location / { if ($is_open) { return 200 open; } return 403; } }";
    let site = Site::new(Config::parse("front.conf", text).unwrap()).unwrap();
    let listener = site.listeners().next().unwrap();
    let peer: SocketAddr = "127.0.0.1:5".parse().unwrap();
    for (local, expected) in [(None, 503), (Some("127.0.0.1:81"), 200), (Some("127.0.0.2:81"), 403)] {
        let mut request = Request::get("/x").header("host", "kylin").body(Body::empty()).unwrap();
        if let Some(local) = local {
            request.extensions_mut().insert(LocalAddr(local.parse().unwrap()));
        }
        let response = listener.forward(peer, request).await;
        assert_eq!(response.status(), expected, "{local:?}");
        assert_eq!(response.headers().contains_key("connection"), local.is_none(), "a new connection is told");
    }
}
