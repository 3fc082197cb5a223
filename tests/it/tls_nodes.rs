//! TLS with nodes, which are real nginx servers here.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::tls::{ClientTls, ClientTlsBuilder, Roots, TlsError, TlsVersion};
use kylin_lb::{Backend, Body, HttpBackend};

use crate::support::front::eventually;
use crate::support::redis::text;
use crate::support::tls::{Certificate, openssl_installed};
use crate::support::{Nginx, require_nginx};
use crate::tls_clients::identity;

/// nginx with a certificate, and with these further lines in its `server` block.
async fn nginx(certificate: &Certificate, more: &str) -> Nginx {
    let [file, key] = [certificate.file(), certificate.key()];
    Nginx::start(&format!(
        "client_max_body_size 20m;
        server {{
            listen 127.0.0.1:@tls@ ssl;
            ssl_protocols TLSv1.2 TLSv1.3;
            ssl_certificate {};
            ssl_certificate_key {};
            location /large {{ root @folder@; }}
            location /echo {{ proxy_pass http://127.0.0.1:@length@; }}
            location / {{ return 200 \"$ssl_protocol $ssl_server_name $ssl_client_verify $connection_requests\"; }}
            {more}
        }}
        server {{
            listen 127.0.0.1:@length@;
            location / {{ return 200 $content_length; }}
        }}",
        text(&file),
        text(&key),
    ))
    .await
}

fn trusting(certificate: &Certificate) -> ClientTlsBuilder {
    ClientTls::builder().roots(Roots::from_file(certificate.file()).unwrap())
}

fn backend(nginx: &Nginx, tls: ClientTlsBuilder) -> HttpBackend {
    let address = nginx.address("tls").to_string();
    HttpBackend::builder(&address).unwrap().tls(&tls.build().unwrap()).unwrap().build().unwrap()
}

async fn send(backend: &HttpBackend, path: &str, body: impl Into<Body>) -> String {
    let request = Request::post(path).header("host", "kylin").body(body.into()).unwrap();
    let response = backend.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn failure(backend: &HttpBackend) -> String {
    let error = backend.send(Request::get("/").body(Body::empty()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Connect, "{error}");
    assert!(backend.check_connect().await.is_err());
    std::error::Error::source(&error).unwrap().to_string()
}

#[tokio::test]
async fn a_connection_is_made_once_and_kept() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let nginx = nginx(&certificate, "").await;
    let node = backend(&nginx, trusting(&certificate));
    node.check_connect().await.unwrap();
    for count in 1..=20 {
        assert_eq!(send(&node, "/", "").await, format!("TLSv1.3  NONE {count}"));
        assert_eq!(node.connections(), 1);
    }
    let old = backend(&nginx, trusting(&certificate).versions(&[TlsVersion::Tls12]));
    assert_eq!(send(&old, "/", "").await, "TLSv1.2  NONE 1");
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let nginx = nginx(&certificate, "error_page 405 =200 $uri;").await;
    std::fs::write(nginx.folder().join("large"), vec![b'x'; 5_000_000]).unwrap();
    let node = backend(&nginx, trusting(&certificate));
    for _ in 0..3 {
        let request = Request::get("/large").header("host", "kylin").body(Body::empty()).unwrap();
        let response = node.send(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 5_000_000);
        assert_eq!(send(&node, "/echo", vec![b'y'; 5_000_000]).await, "5000000");
    }
    assert_eq!(node.connections(), 1);
}

#[tokio::test]
async fn connections_that_the_node_closes_are_not_used_again() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    // nginx closes without `Connection: close` if a kept connection is idle for long.
    let nginx = nginx(&certificate, "keepalive_timeout 50ms;").await;
    let node = backend(&nginx, trusting(&certificate));
    for _ in 0..5 {
        assert_eq!(send(&node, "/", "").await, "TLSv1.3  NONE 1");
        eventually(|| node.connections() == 0, || "nginx has closed the connection".to_owned()).await;
    }
}

#[tokio::test]
async fn the_name_and_the_authority_are_verified_unless_that_is_turned_off() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let [certificate, other] = ["DNS:kylin.example", "IP:127.0.0.1"].map(Certificate::for_names);
    let nginx = nginx(&certificate, "").await;
    let named = trusting(&certificate).server_name("kylin.example");
    assert_eq!(send(&backend(&nginx, named), "/", "").await, "TLSv1.3 kylin.example NONE 1");
    let unnamed = trusting(&certificate).server_name("kylin.example").sni(false);
    assert_eq!(send(&backend(&nginx, unnamed), "/", "").await, "TLSv1.3  NONE 1");
    let by_address = failure(&backend(&nginx, trusting(&certificate))).await;
    assert!(by_address.contains("not valid for name"), "{by_address}");
    let stranger = failure(&backend(&nginx, trusting(&other).server_name("kylin.example"))).await;
    assert!(stranger.contains("invalid peer certificate"), "{stranger}");
    assert_eq!(send(&backend(&nginx, ClientTls::builder().verify(false)), "/", "").await, "TLSv1.3  NONE 1");
}

#[tokio::test]
async fn the_front_end_shows_its_own_certificate() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let [certificate, own] = [(); 2].map(|()| Certificate::make());
    let trust = format!("ssl_verify_client optional; ssl_client_certificate {};", text(&own.file()));
    let nginx = nginx(&certificate, &trust).await;
    let showing = trusting(&certificate).identity(identity(&own));
    assert_eq!(send(&backend(&nginx, showing), "/", "").await, "TLSv1.3  SUCCESS 1");
    assert_eq!(send(&backend(&nginx, trusting(&certificate)), "/", "").await, "TLSv1.3  NONE 1");
}

#[tokio::test]
async fn a_node_without_tls_cannot_be_connected_to() {
    require_nginx!();
    if !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let nginx = nginx(&certificate, "").await;
    let plain = nginx.address("length").to_string();
    let tls = trusting(&certificate).build().unwrap();
    let node = HttpBackend::builder(&plain).unwrap().tls(&tls).unwrap().build().unwrap();
    let error = failure(&node).await;
    assert!(error.contains("InvalidContentType"), "{error}");
}

#[test]
fn a_name_is_needed_and_must_be_one() {
    if !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let tls = trusting(&certificate).build().unwrap();
    let unix = HttpBackend::builder("unix:/run/kylin.sock").unwrap();
    assert!(matches!(unix.tls(&tls), Err(TlsError::NoServerName)));
    let named = trusting(&certificate).server_name("kylin.example").build().unwrap();
    assert!(HttpBackend::builder("unix:/run/kylin.sock").unwrap().tls(&named).is_ok());
    let error = trusting(&certificate).server_name("not a name").build().unwrap_err();
    assert_eq!(error.to_string(), "\"not a name\" is not the name of a server: expected a host name or an IP address");
}
