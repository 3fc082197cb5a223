//! The PROXY protocol, as a real HAProxy speaks it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::proxy::TrustedProxies;
use kylin_lb::server::{ListenOptions, Server};
use kylin_lb::{Body, ClientAddr};

use crate::support::http::Connection;
use crate::support::port::free_port;
use crate::support::process::Process;
use crate::support::redis::on_path;
use crate::support::skip;

const LONG: Duration = Duration::from_secs(60);
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// A server that responds with the client's address, for peers in `trusted`, which have this long
/// for their header.
fn server(trusted: &str, head_timeout: Duration) -> Server {
    let handler = |client: ClientAddr, _: Request<Body>| async move {
        Response::new(Body::from(client.ip().map(|ip| ip.to_string()).unwrap_or_default()))
    };
    let options = ListenOptions::new().proxy_protocol(TrustedProxies::new([trusted.parse().unwrap()]));
    Server::builder()
        .listen_with("127.0.0.1:0".parse().unwrap(), options, handler)
        .head_timeout(head_timeout)
        .start()
        .unwrap()
}

/// HAProxy, which passes connections on to `server` and names the clients in this form.
async fn haproxy(server: SocketAddr, form: &str) -> (Process, SocketAddr) {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen front\n bind 127.0.0.1:{port}\n server kylin {server} {form}\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut haproxy = Command::new("haproxy");
        let mut process = Process::spawn("haproxy", folder, haproxy.arg("-db").arg("-f").arg(&file)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ready = process.wait_ready(Duration::from_secs(60), |_| std::net::TcpStream::connect(address).is_ok());
        if ready.await.is_ok() {
            return (process, address);
        }
    }
    panic!("HAProxy does not start");
}

#[tokio::test]
async fn haproxy_names_the_client_in_both_versions() {
    if !skip::installed("haproxy", on_path("haproxy")) {
        return;
    }
    let server = server("127.0.0.1/32", LONG);
    for form in ["send-proxy", "send-proxy-v2"] {
        let (_haproxy, address) = haproxy(server.addresses()[0], form).await;
        for client in ["127.0.0.2", "127.0.0.77"] {
            let mut connection = Connection::open_from(client.parse().unwrap(), address).await.unwrap();
            for _ in 0..2 {
                connection.send(REQUEST).await.unwrap();
                assert_eq!(connection.response().await.unwrap().text(), client, "{form}");
            }
        }
    }
}

#[tokio::test]
async fn health_checks_of_haproxy_are_served() {
    if !skip::installed("haproxy", on_path("haproxy")) {
        return;
    }
    let server = server("127.0.0.1/32", LONG);
    let (_haproxy, address) = haproxy(server.addresses()[0], "send-proxy-v2 check inter 50ms").await;
    let mut connection = Connection::open(address).await.unwrap();
    connection.send(REQUEST).await.unwrap();
    assert_eq!(connection.response().await.unwrap().text(), "127.0.0.1");
}

#[tokio::test]
async fn the_header_and_the_request_may_arrive_in_any_pieces() {
    let server = server("127.0.0.1/32", LONG);
    let bytes = format!("PROXY TCP4 192.0.2.9 198.51.100.2 51000 443\r\n{REQUEST}");
    for size in [1, 7, bytes.len()] {
        let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
        for piece in bytes.as_bytes().chunks(size) {
            connection.send(piece).await.unwrap();
        }
        assert_eq!(connection.response().await.unwrap().text(), "192.0.2.9");
    }
}

#[tokio::test]
async fn connections_of_others_and_without_the_header_are_closed() {
    let named = format!("PROXY TCP4 192.0.2.9 198.51.100.2 51000 443\r\n{REQUEST}");
    for (trusted, bytes) in [
        ("192.0.2.0/24", named.as_str()),
        ("127.0.0.1/32", REQUEST),
        ("127.0.0.1/32", "PROXY TCP4 192.0.2.9\r\n"),
        ("127.0.0.1/32", "PROXY TCP"),
        ("127.0.0.1/32", ""),
    ] {
        let server = server(trusted, Duration::from_millis(300));
        let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
        // The server may have closed already.
        _ = connection.send(bytes).await;
        assert!(!matches!(connection.rest().await, Ok(rest) if !rest.is_empty()), "{bytes:?}");
    }
}
