//! The TLS options of the example, each one with its effect on the process.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::example_options::nodes;
use crate::support::example::{TIMEOUT, address, check, run, spawn};
use crate::support::front::{closed_port, eventually, until};
use crate::support::http::{Connection, get};
use crate::support::process::Process;
use crate::support::redis::on_path;
use crate::support::skip;
use crate::support::tls::{Certificate, openssl_installed};

fn installed() -> bool {
    openssl_installed() && skip::installed("curl", on_path("curl"))
}

/// Requests the bytes that a demo node sends. Returns the status, or curl's error.
async fn curl(trusted: &Certificate, address: SocketAddr, more: &[&str]) -> String {
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(trusted.file());
    curl.args(["--output", "/dev/null", "--write-out", "%{http_code}"]).args(more);
    let output = curl.arg(format!("https://{address}/demo/bytes?n=5")).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Starts a front end with a certificate, at an address that the system chooses.
async fn spawn_with_tls(nodes: &str, certificate: &str, key: &str, more: &[&str]) -> Process {
    let tls = ["--nodes", nodes, "--listen", "127.0.0.1:0", "--tls-certificate", certificate, "--tls-key", key];
    spawn(&[&tls[..], more].concat()).await
}

fn text(path: std::path::PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn it_speaks_https_redirects_http_and_reads_certificates_again() {
    if !installed() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let [file, key] = ["front.crt", "front.key"].map(|name| text(folder.path().join(name)));
    let [one, two] = [(); 2].map(|()| Certificate::make());
    let install = |certificate: &Certificate| {
        std::fs::copy(certificate.file(), &file).unwrap();
        std::fs::copy(certificate.key(), &key).unwrap();
    };
    install(&one);
    let (_nodes, named) = nodes(1).await;
    let redirect = closed_port();
    let mut process = spawn_with_tls(&named, &file, &key, &["--redirect", &redirect.to_string()]).await;
    let front = address(&process, "listening on https://");
    assert_eq!(curl(&one, front, &[]).await, "200");
    assert_eq!(curl(&two, front, &[]).await, "000", "another certificate is not trusted");
    let response = get(redirect, "/kylin/api?x=1", &[]).await.unwrap();
    let to = format!("https://127.0.0.1:{}/kylin/api?x=1", front.port());
    assert_eq!((response.status(), response.header("location")), (308, Some(to.as_str())));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let mut plain = Connection::open(redirect).await.unwrap();
    plain.send(format!("OPTIONS * HTTP/1.1\r\nHost: {redirect}\r\n\r\n")).await.unwrap();
    let response = plain.response().await.unwrap();
    let to = format!("https://127.0.0.1:{}/", front.port());
    assert_eq!((response.status(), response.header("location")), (308, Some(to.as_str())));

    std::fs::write(&file, "no certificate").unwrap();
    process.signal("HUP");
    let log = |process: &Process| process.file("stderr");
    process.wait_ready(TIMEOUT, |process| log(process).contains("not reloaded")).await.unwrap();
    assert!(log(&process).contains(&format!("--tls-certificate {file}")), "{}", log(&process));
    assert_eq!(curl(&one, front, &[]).await, "200");
    install(&two);
    process.signal("HUP");
    until("the new certificate", async || curl(&two, front, &[]).await == "200").await;
    assert_eq!(curl(&one, front, &[]).await, "000");
}

#[tokio::test]
async fn clients_show_certificates_and_nodes_are_verified_unless_an_option_says_otherwise() {
    if !installed() {
        return;
    }
    let (front_certificate, client, other) = (Certificate::make(), Certificate::make(), Certificate::make());
    let (_nodes, named) = nodes(1).await;
    let [file, key, ca] = [front_certificate.file(), front_certificate.key(), client.file()].map(text);
    let node = spawn_with_tls(&named, &file, &key, &["--tls-client-ca", &ca]).await;
    let node = address(&node, "listening on https://");
    assert_eq!(curl(&front_certificate, node, &[]).await, "000", "no certificate");
    let [shown, shown_key] = [client.file(), client.key()].map(text);
    assert_eq!(curl(&front_certificate, node, &["--cert", &shown, "--key", &shown_key]).await, "200");

    // A front end with TLS is the node of another one.
    let inner = spawn_with_tls(&named, &file, &key, &[]).await;
    let https = format!("n1@https://{}", address(&inner, "listening on https://"));
    let [ca, wrong] = [front_certificate.file(), other.file()].map(text);
    for (options, status) in
        [(&["--node-ca", &ca][..], 200), (&["--node-ca", &wrong], 502), (&["--node-verify", "off"], 200), (&[], 502)]
    {
        let all = [&["--nodes", &https, "--probe", "none", "--listen", "127.0.0.1:0"][..], options].concat();
        let process = spawn(&all).await;
        let outer = address(&process, "listening on http://");
        assert_eq!(get(outer, "/demo/bytes?n=5", &[]).await.unwrap().status(), status, "{options:?}");
    }
    let warned = check(&["--nodes", &https, "--node-verify", "off"]);
    assert!(warned.contains("nodes are not verified"), "{warned}");
    assert!(!check(&["--nodes", &https]).contains("not verified"));
}

#[tokio::test]
async fn balancers_of_connections_in_front_name_the_client_and_others_are_refused() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("access.log");
    let start = async |networks: &str| {
        let log = log.to_str().unwrap();
        let process =
            spawn(&["--nodes", &named, "--listen", "127.0.0.1:0", "--proxy-protocol", networks, "--access-log", log])
                .await;
        let front = address(&process, "listening on http://");
        (process, front)
    };
    let request = "GET /demo/bytes?n=5 HTTP/1.1\r\nHost: kylin\r\n\r\n";
    let named = format!("PROXY TCP4 203.0.113.7 127.0.0.1 4000 80\r\n{request}");
    let response = async |front: SocketAddr, sent: &str| {
        let mut connection = Connection::open(front).await.unwrap();
        connection.send(sent).await.unwrap();
        connection.response().await.ok().map(|response| response.status())
    };
    let (_process, front) = start("127.0.0.0/8").await;
    assert_eq!(response(front, &named).await, Some(200));
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(|| lines().lines().count() == 1, || format!("a line in {}", lines())).await;
    assert!(lines().starts_with("203.0.113.7 - "), "{}", lines());
    assert_eq!(response(front, request).await, None, "without the protocol");
    let (_process, front) = start("10.0.0.0/8").await;
    assert_eq!(response(front, &named).await, None, "by another than the balancers");
}

#[test]
fn options_of_tls_are_checked() {
    for (args, why) in [
        (&["--tls-certificate", "a"][..], "--tls-certificate needs --tls-key"),
        (&["--tls-key", "a"], "--tls-key needs --tls-certificate"),
        (&["--tls-client-ca", "a"], "--tls-client-ca needs --tls-certificate"),
        (&["--redirect", "127.0.0.1:1"], "--redirect needs --tls-certificate"),
        (&["--node-verify", "maybe"], "--node-verify maybe: expected on, off"),
        (&["--config=x", "--proxy-protocol=10.0.0.1"], "--config and --proxy-protocol exclude each other"),
        (&["--proxy-protocol=10.0.0.x"], "--proxy-protocol 10.0.0.x: expected addresses"),
        (&["--config=x", "--node-ca=y"], "--config and --node-ca exclude each other"),
        (&["--nodes=q1:7070", "--node-ca=y"], "--node-ca is for nodes at https://, and --nodes names none"),
        (&["--zookeeper=q1:2181", "--node-ca=y"], "--node-ca is for nodes at https://"),
        (&["--nodes-file=x", "--node-verify=off"], "--node-verify is for nodes at https://"),
        (&["--node-verify=off"], "--node-verify is for nodes at https://"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(why), "{args:?}: {stderr}");
    }
}
