//! TLS in a configuration of Apache httpd, beside a real httpd with mod_ssl and the same file.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::nginx_tls::curl;
use crate::support::example::{address, check, run, spawn};
use crate::support::files::node;
use crate::support::httpd::{Httpd, require_httpd};
use crate::support::process::Process;
use crate::support::redis::on_path;
use crate::support::skip;
use crate::support::tls::{Certificate, openssl_installed};

fn installed() -> bool {
    openssl_installed() && skip::installed("curl", on_path("curl"))
}

/// Starts httpd and the front end with one configuration, in which `@port@` is the port.
async fn both(text: &str) -> (Httpd, Process, SocketAddr, TempDir) {
    let text = format!("Listen 127.0.0.1:@port@ https\n{text}");
    let httpd = Httpd::start(&text).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("httpd.conf");
    std::fs::write(&file, text.replace("@port@", "443")).unwrap();
    let process = spawn(&["--httpd", file.to_str().unwrap(), "--probe", "none", "--listen", "127.0.0.1:0"]).await;
    let front = address(&process, "listening on https://");
    (httpd, process, front, folder)
}

#[tokio::test]
async fn names_certificates_and_versions_are_as_in_httpd() {
    require_httpd!();
    if !installed() {
        return;
    }
    let node = node();
    let [one, two] = ["DNS:one.example", "DNS:*.two.example,DNS:two.example"].map(Certificate::for_names);
    let folder = TempDir::new().unwrap();
    // The key may be in the file of the certificate.
    let together = folder.path().join("two.pem");
    let parts = [std::fs::read(two.file()).unwrap(), std::fs::read(two.key()).unwrap()].concat();
    std::fs::write(&together, parts).unwrap();
    let node = node.addresses()[0];
    let text = format!(
        "SSLProtocol -all +TLSv1.2 +TLSv1.3
        SSLCipherSuite HIGH:!aNULL
        SSLSessionCache none
        <VirtualHost *:@port@>
            ServerName one.example
            SSLEngine on
            SSLCertificateFile {}
            SSLCertificateKeyFile {}
            ProxyPreserveHost On
            RewriteEngine On
            RewriteCond %{{HTTPS}} !=on
            RewriteRule ^ - [F]
            RewriteRule ^/x$ /one/%{{REQUEST_SCHEME}} [PT]
            ProxyPass / http://{node}/
        </VirtualHost>
        <VirtualHost *:@port@>
            ServerName two.example
            ServerAlias *.two.example
            SSLEngine on
            SSLCertificateFile {}
            ProxyPass / http://{node}/two/
        </VirtualHost>",
        one.file().display(),
        one.key().display(),
        together.display(),
    );
    let (httpd, _process, front, _folder) = both(&text).await;
    for (trusted, name, arguments, expected) in [
        (&one, "one.example", &[][..], "/one/https 200 1.1"),
        (&one, "one.example", &["--tls-max", "1.2"], "/one/https 200 1.1"),
        (&one, "one.example", &["--tls-max", "1.1"], "failed 35"),
        (&two, "two.example", &[], "/two/x 200 1.1"),
        (&two, "a.two.example", &[], "/two/x 200 1.1"),
        (&two, "one.example", &[], "failed 60"),
        // The first server is for names that no server has.
        (&one, "other.example", &[], "failed 60"),
        (&one, "other.example", &["--insecure"], "/one/https 200 1.1"),
    ] {
        let arguments = [&["--http1.1"], arguments].concat();
        for (server, address) in [("front end", front), ("httpd", httpd.address())] {
            assert_eq!(curl(trusted, address, name, &arguments).await, expected, "{server} {name} {arguments:?}");
        }
    }
}

#[tokio::test]
async fn members_at_https_are_verified_as_the_file_says() {
    require_httpd!();
    if !installed() {
        return;
    }
    let node = node();
    let [outer, inner, other] = ["DNS:one.example", "DNS:localhost", "DNS:localhost"].map(Certificate::for_names);
    let tls = |certificate: &Certificate| {
        format!(
            "ServerName one.example\nSSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}\n",
            certificate.file().display(),
            certificate.key().display()
        )
    };
    // The member is another httpd.
    let member = Httpd::start(&format!(
        "Listen 127.0.0.1:@port@ https\n<VirtualHost *:@port@>\n{}ProxyPass / http://{}/\n</VirtualHost>\n",
        tls(&inner),
        node.addresses()[0]
    ))
    .await;
    let port = member.address().port();
    let [right, wrong] = [&inner, &other].map(|certificate| certificate.file().display().to_string());
    for (lines, expected) in [
        (format!("SSLProxyVerify require\nSSLProxyCACertificateFile {right}\n"), "200"),
        (format!("SSLProxyVerify require\nSSLProxyCACertificateFile {wrong}\n"), "502"),
        ("SSLProxyVerify none\nSSLProxyCheckPeerName off\n".to_owned(), "200"),
        (format!("SSLProxyVerify none\nSSLProxyCACertificateFile {wrong}\n"), "200"),
    ] {
        let text = format!(
            "<VirtualHost *:@port@>\n{}SSLProxyEngine on\n{lines}ProxyPass /whole https://localhost:{port}/kylin\n\
             <Proxy balancer://k>\nBalancerMember https://localhost:{port}\n</Proxy>\nProxyPass / balancer://k/\n</VirtualHost>\n",
            tls(&outer)
        );
        let (httpd, _process, front, _folder) = both(&text).await;
        for (server, address) in [("front end", front), ("httpd", httpd.address())] {
            let found = curl(&outer, address, "one.example", &["--http1.1"]).await;
            let mut words = found.rsplit(' ');
            let (_, status) = (words.next(), words.next());
            // httpd responds with 500 if the member is not the one that it claims to be.
            assert_eq!(
                status.map(|status| status.replace("500", "502")).as_deref(),
                Some(expected),
                "{server} {lines}: {found}"
            );
        }
    }
}

#[test]
fn what_a_file_says_of_tls_is_checked() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("httpd.conf");
    let file = file.to_str().unwrap();
    let member = "ProxyPass / https://node1:7443/\n";
    for (text, said) in [
        (
            "Listen 443 https\nProxyPass / http://node1:7070/\n",
            "httpd.conf:1:8: https, and no SSLEngine On for this port",
        ),
        (
            "Listen 8443\n<VirtualHost *:8443>\nSSLEngine On\nProxyPass / http://node1:7070/\n</VirtualHost>\n",
            "SSLCertificateFile FILE",
        ),
        (
            "Listen 8443\nSSLProxyVerify optional\nProxyPass / https://node1:7443/\n",
            "httpd.conf:2:16: SSLProxyVerify optional",
        ),
        ("Listen 8443\nSSLVerifyClient require\nProxyPass / http://node1:7070/\n", "SSLVerifyClient is not supported"),
        ("Listen 8443\nSSLProxyMachineCertificateFile a\nProxyPass / https://node1:7443/\n", "is not supported"),
    ] {
        std::fs::write(file, text).unwrap();
        let output = run(&["--httpd", file, "--check"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(said), "{text}: {stderr}");
    }
    for (text, is_noted) in [
        (format!("Listen 80\nSSLProxyEngine On\n{member}"), true),
        (format!("Listen 80\nSSLProxyEngine On\nSSLProxyVerify none\n{member}"), false),
        (format!("Listen 80\nSSLProxyEngine On\nSSLProxyVerify require\n{member}"), false),
        ("Listen 80\nProxyPass / http://node1:7070/\n".to_owned(), false),
    ] {
        std::fs::write(file, &text).unwrap();
        let report = check(&["--httpd", file]);
        assert_eq!(report.contains("certificates of members are verified"), is_noted, "{text}: {report}");
    }
}

#[test]
fn virtual_hosts_that_share_members_verify_them_alike() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("httpd.conf");
    let file = file.to_str().unwrap();
    let (none, require) = ("SSLProxyVerify none\n", "SSLProxyVerify require\n");
    let roots = |name: &str| format!("{require}SSLProxyCACertificateFile {name}\n");
    for (outer, one, two, is_refused) in [
        ("", require, none, true),
        ("", none, require, true),
        ("", "", none, true),
        (none, require, "", true),
        ("", &roots("a.pem"), &roots("b.pem"), true),
        ("", &roots("a.pem"), require, true),
        ("", none, none, false),
        ("", "", require, false),
        (none, "", none, false),
        (require, "", "", false),
        // The server around the virtual hosts serves nothing.
        (require, none, none, false),
        (&roots("a.pem"), require, "", false),
    ] {
        for pass in [
            "ProxyPass / https://node1:7443/\n",
            "<Proxy balancer://k>\nBalancerMember https://node1:7443\n</Proxy>\nProxyPass / balancer://k/\n",
        ] {
            let host = |lines: &str| format!("<VirtualHost *:80>\n{lines}{pass}</VirtualHost>\n");
            let text = format!("Listen 80\n{outer}ProxyPass /outer https://node1:7443/\n{}{}", host(one), host(two));
            std::fs::write(file, &text).unwrap();
            let output = run(&["--httpd", file, "--check"]);
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_said = stderr.contains("another virtual host verifies its members otherwise")
                && stderr.contains("the same SSLProxyVerify");
            assert_eq!(is_said, is_refused, "{text}{stderr}");
            // The files do not exist.
            assert_eq!(output.status.success(), !is_said && !text.contains(".pem"), "{text}{stderr}");
        }
    }
}

#[tokio::test]
async fn tls_of_the_server_around_virtual_hosts_is_inherited() {
    require_httpd!();
    if !installed() {
        return;
    }
    let node = node();
    let certificate = Certificate::for_names("DNS:one.example");
    let text = format!(
        "SSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}\n<VirtualHost *:@port@>\nServerName one.example\n\
         ProxyPass / http://{}/\n</VirtualHost>\n",
        certificate.file().display(),
        certificate.key().display(),
        node.addresses()[0]
    );
    let (httpd, _process, front, _folder) = both(&text).await;
    for (server, address) in [("front end", front), ("httpd", httpd.address())] {
        let found = curl(&certificate, address, "one.example", &["--http1.1"]).await;
        assert_eq!(found, "/x 200 1.1", "{server}");
    }
}
