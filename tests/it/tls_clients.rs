//! TLS with real clients: curl, and a client based on rustls where bytes matter.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::server::{ListenOptions, Server};
use kylin_lb::tls::{ClientCertificate, Identity, Roots, ServerTls, TlsConnection, TlsError, TlsVersion};
use kylin_lb::{Body, ClientAddr, Proxy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::front::endpoints;
use crate::support::http::Connection;
use crate::support::raw_node::{RawNode, ok, respond};
use crate::support::redis::on_path;
use crate::support::skip;
use crate::support::tls::{Certificate, openssl_installed};

fn installed() -> bool {
    openssl_installed() && skip::installed("curl", on_path("curl"))
}

pub(crate) fn identity(certificate: &Certificate) -> Identity {
    Identity::from_files(certificate.file(), certificate.key()).unwrap()
}

fn tls(certificate: &Certificate) -> ServerTls {
    ServerTls::builder(identity(certificate)).build().unwrap()
}

/// A server that responds with the facts about each request's connection, padded to a response of
/// `size` bytes.
fn describing(tls: &ServerTls, size: usize) -> Server {
    let handler = move |_: ClientAddr, request: Request<Body>| async move {
        let tls = request.extensions().get::<TlsConnection>();
        let facts = tls.map(|tls| {
            let name = tls.server_name.as_deref().unwrap_or("-").to_owned();
            format!("{:?} {name} {}", tls.version, tls.client_certificate.is_some())
        });
        let text = format!("{:?} {}\n", request.version(), facts.unwrap_or_default());
        request.into_body().collect().await.unwrap();
        Response::new(Body::from(text + &"x".repeat(size)))
    };
    Server::builder()
        .listen_with("127.0.0.1:0".parse().unwrap(), ListenOptions::new().tls(tls), handler)
        .threads(1.try_into().unwrap())
        .start()
        .unwrap()
}

async fn curl(trusted: &Certificate, arguments: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(trusted.file());
    curl.args(arguments).output().await.unwrap()
}

async fn text(trusted: &Certificate, arguments: &[&str]) -> String {
    let output = curl(trusted, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn curl_speaks_every_version() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let server = describing(&tls(&certificate), 0);
    let url = &format!("https://{}/", server.addresses()[0]);
    assert_eq!(text(&certificate, &["--http1.1", url]).await, "HTTP/1.1 Tls13 - false\n");
    assert_eq!(text(&certificate, &["--http2", url]).await, "HTTP/2.0 Tls13 - false\n");
    assert_eq!(text(&certificate, &["--http2", "--tls-max", "1.2", url]).await, "HTTP/2.0 Tls12 - false\n");
    let old = curl(&certificate, &["--tls-max", "1.1", url]).await;
    assert!(!old.status.success());
}

#[tokio::test]
async fn a_version_or_http2_can_be_left_out() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let only_13 = ServerTls::builder(identity(&certificate)).versions(&[TlsVersion::Tls13]).http2(false).build();
    let server = describing(&only_13.unwrap(), 0);
    let url = &format!("https://{}/", server.addresses()[0]);
    assert_eq!(text(&certificate, &["--http2", url]).await, "HTTP/1.1 Tls13 - false\n");
    assert!(!curl(&certificate, &["--tls-max", "1.2", url]).await.status.success());
    let none = ServerTls::builder(identity(&certificate)).versions(&[]).build();
    assert!(matches!(none, Err(TlsError::Invalid(_))));
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let server = describing(&tls(&certificate), 5_000_000);
    let url = &format!("https://{}/", server.addresses()[0]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'y'; 5_000_000]).unwrap();
    let upload = &format!("@{}", file.path().display());
    for version in ["--http1.1", "--http2"] {
        let body = text(&certificate, &[version, "--data-binary", upload, url, url]).await;
        assert_eq!(body.bytes().filter(|byte| *byte == b'x').count(), 10_000_000, "{version}");
    }
}

#[tokio::test]
async fn the_certificate_follows_the_name_that_the_client_asks_for() {
    if !installed() {
        return;
    }
    let default = Certificate::make();
    let [one, wild] = ["DNS:kylin.example", "DNS:*.bi.example,DNS:a.b.bi.example"].map(Certificate::for_names);
    let tls = ServerTls::builder(identity(&default))
        .identity_for("Kylin.example", identity(&one))
        .identity_for("*.bi.example", identity(&wild));
    let server = describing(&tls.build().unwrap(), 0);
    let port = server.addresses()[0].port();
    for (trusted, name) in [(&one, "kylin.example"), (&wild, "a.bi.example"), (&wild, "a.b.bi.example")] {
        let arguments = ["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")];
        assert_eq!(text(trusted, &arguments).await, format!("HTTP/2.0 Tls13 {name} false\n"));
        assert!(!curl(&default, &arguments).await.status.success(), "{name}");
    }
    assert!(text(&default, &[&format!("https://127.0.0.1:{port}/")]).await.starts_with("HTTP/2.0"));
}

#[tokio::test]
async fn client_certificates_are_verified() {
    if !installed() {
        return;
    }
    let [certificate, known, stranger] = [(); 3].map(|()| Certificate::make());
    let roots = || Roots::from_file(known.file()).unwrap();
    let with = |policy| ServerTls::builder(identity(&certificate)).client_roots(roots(), policy).build().unwrap();
    for (policy, without) in [(ClientCertificate::Required, false), (ClientCertificate::Optional, true)] {
        let server = describing(&with(policy), 0);
        let url = format!("https://{}/", server.addresses()[0]);
        let shown = |shown: &Certificate| {
            let [file, key] = [shown.file(), shown.key()].map(|path| path.to_str().unwrap().to_owned());
            vec!["--cert".to_owned(), file, "--key".to_owned(), key, url.clone()]
        };
        let shown = [&known, &stranger].map(shown);
        let [known, stranger] = shown.each_ref().map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(text(&certificate, &known).await.ends_with(" true\n"));
        assert!(!curl(&certificate, &stranger).await.status.success(), "{policy:?}");
        assert_eq!(curl(&certificate, &[&url]).await.status.success(), without, "{policy:?}");
    }
}

#[tokio::test]
async fn nodes_are_told_that_the_client_used_tls() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let node = RawNode::start([respond(ok("here"))]).await;
    let cluster = kylin_lb::Cluster::builder().endpoints(endpoints(&[node.address()])).build().unwrap();
    let options = ListenOptions::new().tls(&tls(&certificate));
    let server = Server::builder()
        .listen_with("127.0.0.1:0".parse().unwrap(), options, Proxy::plain(cluster).build().unwrap())
        .start()
        .unwrap();
    let url = &format!("https://{}/", server.addresses()[0]);
    assert_eq!(text(&certificate, &["--header", "X-Forwarded-Proto: http", url]).await, "here");
    let request = String::from_utf8(node.seen().requests.remove(0)).unwrap().to_ascii_lowercase();
    assert!(request.contains("\r\nx-forwarded-proto: https\r\n"), "{request}");
    assert!(!request.contains("x-forwarded-proto: http\r\n"), "{request}");
}

/// A connection of a client that trusts these certificates, and the certificate that the server has
/// shown.
async fn connect(address: SocketAddr, trusted: &[&Certificate]) -> (TlsStream<TcpStream>, Vec<u8>) {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(CertificateDer::from_pem_file(certificate.file()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    (stream, certificate)
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    let mut read = vec![0; 1000];
    let length = stream.read(&mut read).await.unwrap();
    String::from_utf8(read[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn new_certificates_are_used_without_losing_connections() {
    if !installed() {
        return;
    }
    let [before, after] = [(); 2].map(|()| Certificate::make());
    let trusted = [&before, &after];
    let serving = tls(&before);
    let server = describing(&serving, 0);
    let (mut open, first) = connect(server.addresses()[0], &trusted).await;
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
    serving.replace(&tls(&after));
    let (_, second) = connect(server.addresses()[0], &trusted).await;
    assert_ne!(first, second);
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_that_was_parked_serves_again_and_is_closed_with_an_alert_at_the_stop() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let trusted = [&certificate];
    let server = describing(&tls(&certificate), 0);
    let (mut stream, _) = connect(server.addresses()[0], &trusted).await;
    for _ in 0..3 {
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
        // Longer than the 50 ms after which a connection is parked. On a slow machine it may not be
        // parked yet, and all of this must hold in that case too. A test in
        // `src/server/connection.rs`, with a manual clock, checks that it is parked.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let stop = tokio::spawn(server.stop(Duration::from_secs(30)));
    // Without the alert, which ends TLS, this is an error (RFC 8446, 6.1).
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    drop(stream);
    stop.await.unwrap();
}

#[tokio::test]
async fn plain_http_on_a_tls_port_gets_400_and_other_bytes_a_close() {
    if !installed() {
        return;
    }
    let certificate = Certificate::make();
    let trusted = [&certificate];
    let server = describing(&tls(&certificate), 0);
    let mut plain = Connection::open(server.addresses()[0]).await.unwrap();
    plain.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    let response = plain.response().await.unwrap();
    assert_eq!((response.status(), response.text()), (400, "The plain HTTP request was sent to an HTTPS port.\n"));
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"\0\0\0", b"\x16\xff\xff\xff\xff\xff\xff"] {
        let mut stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // The end, or a reset because bytes were left unread.
        _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP"));
    }
    let (mut open, _) = connect(server.addresses()[0], &trusted).await;
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_closed() {
    if !installed() {
        return;
    }
    let handler = |_: ClientAddr, _: Request<Body>| async { Response::new(Body::empty()) };
    let options = ListenOptions::new().tls(&tls(&Certificate::make()));
    let server = Server::builder()
        .listen_with("127.0.0.1:0".parse().unwrap(), options, handler)
        .head_timeout(Duration::from_millis(200))
        .start()
        .unwrap();
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 10])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_errors() {
    if !openssl_installed() {
        return;
    }
    let [one, other] = [(); 2].map(|()| Certificate::make());
    let read = |path| std::fs::read(path).unwrap();
    let (certificate, key) = (read(one.file()), read(one.key()));
    let both = [&certificate[..], &key].concat();
    assert!(Identity::from_pem(&both, &both).is_ok());
    let error = |certificate: &[u8], key: &[u8]| Identity::from_pem(certificate, key).unwrap_err();
    assert!(matches!(error(&certificate, &read(other.key())), TlsError::KeyMismatch));
    assert!(matches!(error(&key, &key), TlsError::NoCertificate));
    assert!(matches!(error(&certificate, &certificate), TlsError::NoKey));
    assert!(matches!(error(b"", b""), TlsError::NoCertificate));
    let cut = &certificate[..certificate.len() / 2];
    assert!(matches!(error(cut, &key), TlsError::Pem(_)), "{}", error(cut, &key));
    let missing = Identity::from_files("/nowhere/front.crt", one.key()).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /nowhere/front.crt");
    // An error about the content names the file.
    for (certificate, key, wanted) in [(one.key(), one.key(), one.key()), (one.file(), one.file(), one.file())] {
        match Identity::from_files(certificate, key).unwrap_err() {
            TlsError::InFile { path, .. } => assert_eq!(path, wanted),
            error => panic!("{error}"),
        }
    }
    assert!(matches!(Identity::from_files(one.file(), other.key()).unwrap_err(), TlsError::KeyMismatch));
    assert!(!format!("{:?}", identity(&one)).contains("PRIVATE"));
    assert!(Roots::from_pem(&key).is_err());
}
