//! TLS and the PROXY protocol in an nginx configuration, compared with a real nginx with the same
//! file.

use std::net::SocketAddr;
use std::path::Path;

use kylin_lb::nginx::{Config, Site, SiteError};
use kylin_lb::server::Server;
use tokio::process::Command;

use crate::support::http::Connection;
use crate::support::port::free_port;
use crate::support::redis::{on_path, text};
use crate::support::skip;
use crate::support::tls::{Certificate, openssl_installed};
use crate::support::{Nginx, require_nginx};

fn installed() -> bool {
    openssl_installed() && skip::installed("curl", on_path("curl"))
}

/// Starts our server with `http`, in which `@name@` is replaced by a free port.
fn ours(http: &str, folder: &Path) -> (Site, Server, SocketAddr) {
    let mut text = http.to_owned();
    while let Some(begin) = text.find('@') {
        let end = begin + 1 + text[begin + 1..].find('@').unwrap();
        let name = text[begin..=end].to_owned();
        text = text.replace(&name, &free_port().to_string());
    }
    let file = folder.join("front.conf");
    std::fs::write(&file, text).unwrap();
    let site = Site::builder(Config::read(&file).unwrap()).kylin(false).build().unwrap();
    let server = site.server().threads(1.try_into().unwrap()).start().unwrap();
    let address = server.addresses()[0];
    (site, server, address)
}

/// Requests `/x` from a server with a trusted certificate. Returns the body, the status and the
/// HTTP version, or curl's failure.
pub(crate) async fn curl(trusted: &Certificate, address: SocketAddr, name: &str, arguments: &[&str]) -> String {
    let port = address.port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(trusted.file());
    curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), "--write-out", " %{http_code} %{http_version}"]);
    let output = curl.args(arguments).arg(format!("https://{name}:{port}/x")).output().await.unwrap();
    match output.status.success() {
        true => String::from_utf8(output.stdout).unwrap(),
        false => format!("failed {}", output.status.code().unwrap_or_default()),
    }
}

#[tokio::test]
async fn servers_names_and_variables_are_as_in_nginx() {
    require_nginx!();
    if !installed() {
        return;
    }
    let of_two = "DNS:*.two.example,DNS:other,DNS:a.b.two.example,DNS:www.three.example,DNS:q7.example";
    let [one, two, client] = ["DNS:one.example,DNS:unknown", of_two, "DNS:client"].map(Certificate::for_names);
    let node = Nginx::start(
        "server { listen 127.0.0.1:@node@; return 200 \"$http_x_forwarded_proto $http_x_verify $http_x_sni\"; }",
    )
    .await;
    let [one_file, one_key, two_file, two_key] = [one.file(), one.key(), two.file(), two.key()];
    let front = format!(
        "ssl_protocols TLSv1.2 TLSv1.3;
        server {{
            listen 127.0.0.1:@front@ ssl http2;
            server_name one.example;
            ssl_certificate {}; ssl_certificate_key {};
            ssl_verify_client optional; ssl_client_certificate {client};
            location / {{
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_set_header X-Verify $ssl_client_verify;
                proxy_set_header X-Sni $ssl_server_name;
                proxy_pass http://{node};
            }}
        }}
        server {{
            listen 127.0.0.1:@front@ ssl http2;
            # The first server keeps the name that both have.
            server_name .two.example www.three.* ~^q\\d\\.example$ one.example;
            ssl_certificate {}; ssl_certificate_key {};
            ssl_verify_client optional; ssl_client_certificate {client};
            return 200 \"two $https $ssl_protocol\";
        }}",
        text(&one_file),
        text(&one_key),
        text(&two_file),
        text(&two_key),
        client = text(&client.file()),
        node = node.address("node"),
    );
    let nginx = Nginx::start(&front).await;
    let folder = tempfile::tempdir().unwrap();
    let (_site, _server, address) = ours(&front, folder.path());
    let [shown, key] = [client.file(), client.key()];
    let shown = ["--cert", text(&shown), "--key", text(&key)];
    let [stranger, stranger_key] = [two.file(), two.key()];
    let stranger = ["--cert", text(&stranger), "--key", text(&stranger_key)];
    for (trusted, name, arguments, expected) in [
        (&one, "one.example", &[][..], "https NONE one.example 200 2"),
        (&one, "one.example", &["--http1.1"], "https NONE one.example 200 1.1"),
        (&one, "one.example", &shown, "https SUCCESS one.example 200 2"),
        (&two, "a.two.example", &[], "two on TLSv1.3 200 2"),
        (&two, "a.two.example", &["--tls-max", "1.2"], "two on TLSv1.2 200 2"),
        (&two, "a.b.two.example", &[], "two on TLSv1.3 200 2"),
        (&two, "www.three.example", &[], "two on TLSv1.3 200 2"),
        (&two, "q7.example", &[], "two on TLSv1.3 200 2"),
        (&one, "unknown", &[], "https NONE unknown 200 2"),
        (&one, "a.two.example", &[], "failed 60"),
        (&two, "one.example", &[], "failed 60"),
    ] {
        let by_nginx = curl(trusted, nginx.address("front"), name, arguments).await;
        assert_eq!(by_nginx, expected, "nginx, {name} {arguments:?}");
        assert_eq!(curl(trusted, address, name, arguments).await, expected, "ours, {name} {arguments:?}");
    }
    // nginx responds to an unknown certificate with 400. Our server ends the handshake.
    assert!(curl(&one, nginx.address("front"), "one.example", &stranger).await.contains(" 400 "));
    assert!(curl(&one, address, "one.example", &stranger).await.starts_with("failed "));
}

/// Begins a handshake with `openssl s_client`. Returns the number of the alert that ends it, or
/// `accepted`.
async fn handshake(address: SocketAddr, arguments: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address.to_string()]).args(arguments.split(' '));
    let output = openssl.stdin(std::process::Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match said.split_once("alert number ") {
        Some((_, number)) => number.chars().take_while(char::is_ascii_digit).collect(),
        None if output.status.success() => "accepted".to_owned(),
        None => said,
    }
}

#[tokio::test]
async fn handshakes_are_refused_by_name_as_in_nginx() {
    require_nginx!();
    if !installed() {
        return;
    }
    let [default, one] = ["DNS:default.example,DNS:bare.example", "DNS:one.example"].map(Certificate::for_names);
    let certificate = |certificate: &Certificate| {
        let [file, key] = [certificate.file(), certificate.key()];
        format!("ssl_certificate {}; ssl_certificate_key {};", text(&file), text(&key))
    };
    let server =
        |name: &str, lines: &str| format!("server {{ listen 127.0.0.1:@front@ ssl; server_name {name}; {lines} }}\n");
    let one_server = server("one.example", &format!("{} return 200 one;", certificate(&one)));
    let reject = |more: &str| {
        format!("server {{ listen 127.0.0.1:@front@ ssl default_server; ssl_reject_handshake on; {more} }}\n")
    };
    let both = [("one.example", "accepted"), ("unknown", "112"), ("", "112")];
    let named = [("one.example", "accepted"), ("old.example", "112"), ("unknown", "accepted"), ("", "accepted")];
    let old_server = server("old.example", "ssl_reject_handshake on;");
    let open = format!("server {{ listen 127.0.0.1:@front@ ssl; {} return 200 default; }}\n", certificate(&default));
    let bare = server("bare.example", "return 200 bare;");
    for (front, handshakes) in [
        (format!("{}{one_server}", reject("")), &both[..]),
        (format!("{one_server}{}", reject("server_name _; return 444;")), &both),
        (format!("{}{one_server}", reject(&certificate(&default))), &both),
        (format!("{}{one_server}{bare}", reject(&certificate(&default))), &both),
        (
            format!(
                "ssl_reject_handshake on; {}",
                one_server.replace("return", "ssl_reject_handshake off; return") + &reject("")
            ),
            &both,
        ),
        (format!("{open}{one_server}{old_server}{bare}"), &named),
    ] {
        // Older versions of nginx speak only the older version by default.
        let front = format!("ssl_protocols TLSv1.2 TLSv1.3;\n{front}");
        let nginx = Nginx::start(&front).await;
        let folder = tempfile::tempdir().unwrap();
        let (_site, _server, address) = ours(&front, folder.path());
        for (name, expected) in handshakes {
            let name = if name.is_empty() { "-noservername".to_owned() } else { format!("-servername {name}") };
            for version in ["-tls1_2", "-tls1_3"] {
                for (who, address) in [("nginx", nginx.address("front")), ("ours", address)] {
                    let found = handshake(address, &format!("{version} {name}")).await;
                    assert_eq!(found, *expected, "{who}, {version} {name}\n{front}");
                }
            }
        }
        let [plain, unknown] = [&["--http1.1"][..], &["--http1.1", "-H", "Host: unknown"]];
        let without_host = &["--http1.0", "-H", "Host:"];
        for (trusted, name, arguments, expected) in [
            (&one, "one.example", plain, "one"),
            (&one, "one.example", without_host, "default"),
            (&one, "one.example", unknown, "default"),
            (&default, "bare.example", plain, "bare"),
        ] {
            let serves = format!("return 200 {expected};");
            if front.contains(&serves) {
                for (who, address) in [("nginx", nginx.address("front")), ("ours", address)] {
                    let found = curl(trusted, address, name, arguments).await;
                    assert!(
                        found.starts_with(&format!("{expected} 200 ")),
                        "{who}, {name} {arguments:?}: {found}\n{front}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn variables_of_tls_have_the_values_of_nginx() {
    require_nginx!();
    if !installed() {
        return;
    }
    let one = Certificate::for_names("DNS:one.example");
    let client =
        Certificate::of_subject(r"/C=DE/O=Straße, B\+C/OU=#x+OU= y /serialNumber=7/CN=client <1>", "DNS:client");
    let [file, key, authority] = [one.file(), one.key(), client.file()];
    let values = "$ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused $ssl_client_verify $ssl_client_serial
        $ssl_client_s_dn
        $ssl_client_i_dn
        $ssl_client_escaped_cert";
    let front = format!(
        "ssl_protocols TLSv1.2 TLSv1.3;
        server {{
            listen 127.0.0.1:@front@ ssl;
            ssl_certificate {}; ssl_certificate_key {};
            ssl_verify_client optional; ssl_client_certificate {};
            return 200 \"{values}\";
        }}",
        text(&file),
        text(&key),
        text(&authority),
    );
    let nginx = Nginx::start(&front).await;
    let folder = tempfile::tempdir().unwrap();
    let (_site, _server, address) = ours(&front, folder.path());
    let client_key = client.key();
    let shown = ["--cert", text(&authority), "--key", text(&client_key)];
    let old = |cipher| ["--tls-max", "1.2", "--ciphers", cipher];
    let [aes, chacha] = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"].map(old);
    let tls13 = ["--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"];
    for (arguments, contains) in [
        (&[][..], "TLSv1.3 TLS_AES_256_GCM_SHA384 one.example . NONE \n"),
        (&shown, "SUCCESS"),
        (&shown, "CN=client \\<1\\>,"),
        (&aes, "TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 "),
        (&chacha, "ECDHE-ECDSA-CHACHA20-POLY1305 "),
        (&tls13, "TLS_CHACHA20_POLY1305_SHA256 "),
    ] {
        let arguments = [&["--http1.1"], arguments].concat();
        let by_nginx = curl(&one, nginx.address("front"), "one.example", &arguments).await;
        assert!(by_nginx.contains(contains), "{contains}: {by_nginx}");
        assert_eq!(curl(&one, address, "one.example", &arguments).await, by_nginx, "{arguments:?}");
    }
    // The client resumes a session.
    for address in [nginx.address("front"), address] {
        let session = folder.path().join(address.port().to_string());
        for (option, reused) in [("-sess_out", " one.example . "), ("-sess_in", " one.example r ")] {
            let command = format!(
                "(printf 'GET / HTTP/1.1\\r\\nHost: one.example\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) | \
                openssl s_client -connect {address} -servername one.example -ign_eof -quiet {option} {}",
                text(&session)
            );
            let output = Command::new("sh").args(["-c", &command]).output().await.unwrap();
            let found = String::from_utf8_lossy(&output.stdout);
            assert!(found.contains(reused), "{address} {option}: {found}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[tokio::test]
async fn nodes_behind_https_are_verified_unless_the_file_turns_it_off() {
    require_nginx!();
    if !installed() {
        return;
    }
    let [node_certificate, other] = ["DNS:kylin.example,IP:127.0.0.1", "DNS:x"].map(Certificate::for_names);
    let [file, key] = [node_certificate.file(), node_certificate.key()];
    let node = Nginx::start(&format!(
        "server {{ listen 127.0.0.1:@node@ ssl; ssl_certificate {}; ssl_certificate_key {};
            return 200 \"$https $http_host $ssl_server_name\"; }}",
        text(&file),
        text(&key)
    ))
    .await;
    let trusted = format!("proxy_ssl_trusted_certificate {};", text(&file));
    let other_file = other.file();
    let not_trusted = format!("proxy_ssl_trusted_certificate {};", text(&other_file));
    let node = node.address("node");
    for (lines, nginx_status, our_status) in [
        (trusted.clone(), "200", "200"),
        (
            format!("{trusted} proxy_ssl_verify on; proxy_ssl_name kylin.example; proxy_ssl_server_name on;"),
            "200",
            "200",
        ),
        // nginx then verifies the name of the upstream.
        (format!("{trusted} proxy_ssl_verify on;"), "502", "502"),
        (format!("{trusted} proxy_ssl_verify on; proxy_ssl_name wrong.example;"), "502", "502"),
        (format!("{not_trusted} proxy_ssl_verify on; proxy_ssl_name kylin.example;"), "502", "502"),
        ("proxy_ssl_verify off;".to_owned(), "200", "200"),
        // The difference is that nginx does not verify by default.
        (not_trusted.clone(), "200", "502"),
    ] {
        let front = format!(
            "upstream kylin {{ server {node}; }}
            server {{ listen 127.0.0.1:@front@; {lines} location / {{ proxy_pass https://kylin; }} }}"
        );
        let nginx = Nginx::start(&front).await;
        let folder = tempfile::tempdir().unwrap();
        let (site, _server, address) = ours(&front, folder.path());
        for (address, expected) in [(nginx.address("front"), nginx_status), (address, our_status)] {
            let mut connection = Connection::open(address).await.unwrap();
            connection.send("GET / HTTP/1.1\r\nHost: front\r\n\r\n").await.unwrap();
            let response = connection.response().await.unwrap();
            assert_eq!(response.status().to_string(), expected, "{address} {lines}");
            if expected == "200" {
                assert!(response.text().starts_with("on "), "{}", response.text());
            }
        }
        let report = Config::read(folder.path().join("front.conf")).unwrap().report().to_string();
        let is_noted = report.contains("nodes are verified, where nginx does not");
        assert_eq!(is_noted, !lines.contains("proxy_ssl_verify"), "{report}");
        assert_eq!(report.contains("reads every login"), lines.contains("verify off"), "{report}");
        drop(site);
    }
}

#[tokio::test]
async fn certificates_are_read_again_while_the_site_serves() {
    if !installed() {
        return;
    }
    let [before, after] = [(); 2].map(|()| Certificate::for_names("DNS:front.example"));
    let folder = tempfile::tempdir().unwrap();
    let copy = |certificate: &Certificate| {
        std::fs::copy(certificate.file(), folder.path().join("front.crt")).unwrap();
        std::fs::copy(certificate.key(), folder.path().join("front.key")).unwrap();
    };
    copy(&before);
    // File names are relative to the configuration file, as in nginx.
    let front = "server { listen 127.0.0.1:@front@ ssl; ssl_certificate front.crt; ssl_certificate_key front.key; return 200 ok; }";
    let (site, _server, address) = ours(front, folder.path());
    assert_eq!(curl(&before, address, "front.example", &[]).await, "ok 200 2");
    copy(&after);
    assert_eq!(curl(&before, address, "front.example", &[]).await, "ok 200 2");
    site.reload_certificates().unwrap();
    assert_eq!(curl(&after, address, "front.example", &[]).await, "ok 200 2");
    assert_eq!(curl(&before, address, "front.example", &[]).await, "failed 60");
    std::fs::write(folder.path().join("front.key"), "nothing").unwrap();
    let error = site.reload_certificates().unwrap_err();
    assert!(matches!(&error, SiteError::Tls { place, .. } if place.starts_with("listen 127.0.0.1:")), "{error:?}");
    assert_eq!(curl(&after, address, "front.example", &[]).await, "ok 200 2");
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client_as_in_nginx() {
    require_nginx!();
    let front = "server {
        listen 127.0.0.1:@front@ proxy_protocol;
        set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
        return 200 \"$remote_addr $http_x_forwarded_for\";
    }";
    let nginx = Nginx::start(front).await;
    let folder = tempfile::tempdir().unwrap();
    let (_site, _server, address) = ours(front, folder.path());
    for address in [nginx.address("front"), address] {
        let mut connection = Connection::open(address).await.unwrap();
        let request = "PROXY TCP4 192.0.2.9 198.51.100.2 51000 443\r\n\
            GET / HTTP/1.1\r\nHost: front\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n";
        connection.send(request).await.unwrap();
        assert_eq!(connection.response().await.unwrap().text(), "192.0.2.9 203.0.113.1");
    }
}

#[test]
fn mistakes_say_where_and_what_to_write() {
    let upstream = "upstream kylin { server 127.0.0.1:7070; }\n";
    for (text, line, expected) in [
        ("server { listen 443 ssl; return 200; }", 2, "ssl_certificate FILE; ssl_certificate_key FILE;"),
        (
            "server { listen 443 ssl; ssl_certificate a; ssl_certificate_key b; ssl_verify_client on; return 200; }",
            2,
            "ssl_client_certificate FILE;",
        ),
        ("ssl_protocols TLSv1.1;\nserver { return 200; }", 2, "TLSv1.2 TLSv1.3"),
        (
            "server { ssl_certificate $ssl_server_name.crt; return 200; }",
            2,
            "the name of a PEM file, without variables",
        ),
        ("server { ssl_crl x; return 200; }", 2, "certificates of short life"),
        ("ssl_ocsp on;\nserver { return 200; }", 2, "ssl_ocsp off;"),
        ("server { ssl_ocsp leaf; return 200; }", 2, "ssl_ocsp off;"),
        (
            "server { listen 443 ssl default_server; ssl_reject_handshake on; }
            server { listen 443 ssl; server_name a; return 200; }",
            3,
            "ssl_certificate FILE; ssl_certificate_key FILE;",
        ),
        (
            "server { location / { proxy_set_header X-Client $ssl_client_cert; proxy_pass http://kylin; } }",
            2,
            "$ssl_client_escaped_cert",
        ),
        ("server { add_header X-Tls $ssl_curves; return 200; }", 2, "$ssl_protocol, $ssl_cipher"),
        ("server { ssl_certificate_by_lua_block x; return 200; }", 2, "unknown directive"),
        ("server { ssl_conf_command MinProtocol TLSv1.3; return 200; }", 2, "ssl_protocols"),
        (
            "server { location / { proxy_ssl_conf_command Protocol -TLSv1.2; proxy_pass https://kylin; } }",
            2,
            "ssl_protocols",
        ),
        ("server { location / { proxy_ssl_unknown on; proxy_pass https://kylin; } }", 2, "unknown directive"),
        (
            "server { listen 443 ssl; ssl_certificate a; ssl_certificate_key b; ssl_verify_client on;
            ssl_client_certificate c; ssl_trusted_certificate d; return 200; }",
            2,
            "one file of all authorities",
        ),
        (
            "server { location /a { proxy_pass http://kylin; }\nlocation / { proxy_pass https://kylin; } }",
            3,
            "two upstreams",
        ),
        (
            "server { location / { proxy_ssl_name $host; proxy_pass https://kylin; } }",
            2,
            "the name in the certificates",
        ),
    ] {
        let error = Config::parse("front.conf", &format!("{upstream}{text}")).unwrap_err().to_string();
        assert!(error.contains(&format!("front.conf:{line}")) && error.contains(expected), "{error}");
    }
    let harmless = "ssl_ocsp off; ssl_stapling on; ssl_trusted_certificate a; ssl_session_cache shared:a:1m;
        ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384; ssl_verify_depth 2; ssl_early_data on; ssl_dhparam x;
        proxy_ssl_session_reuse off; proxy_ssl_ciphers HIGH;";
    let config = Config::parse("front.conf", &format!("{harmless} {upstream} server {{ return 200; }}")).unwrap();
    assert!(config.report().to_string().contains("ssl_verify_depth: a chain"), "{}", config.report());
}
