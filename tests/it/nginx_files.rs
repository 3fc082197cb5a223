//! Files as people have them, in `tests/nginx_files`: each is accepted and serves as a real nginx does, or refused with a clear error.
//!
//! The first lines of a file say what is expected:
//!
//! - `#? METHOD PATH [HEADER: VALUE] => STATUS [PATH AT THE NODE] [location=...] [cookie=...] [cache=...] [type=...]`: a request and
//!   its response, from this crate and from nginx;
//! - `#! ours only`: nginx as Debian has it does not read the file, or differs as documented;
//! - `#! error LINE:COLUMN MESSAGE ## EXPECTED`: the file is refused.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};

use crate::support::http::{Connection, RawResponse};
use crate::support::{Nginx, require_nginx};

/// Starts a node that responds with its path. Some paths redirect or set the cookie of a session, as Kylin does.
fn node() -> Server {
    let respond = |_peer: ClientAddr, request: Request<Body>| async move {
        let uri = request.uri().to_string();
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut response = Response::builder().header("x-node", &uri);
        if uri.contains("cookie") {
            response = response.header("set-cookie", "JSESSIONID=42; Path=/kylin; HttpOnly");
        }
        if uri.contains("scoped") {
            response = response.header("set-cookie", "JSESSIONID=42; Domain=node1.internal; Path=/kylin");
        }
        let kinds = [
            ("json", "application/json"),
            ("plain", "text/plain"),
            ("utf", "text/html;charset=ISO-8859-1"),
            ("parameter", "text/html; a=b"),
            ("upper", "TEXT/HTML"),
        ];
        let kind = kinds.into_iter().find(|(name, _)| uri.ends_with(name)).map_or("text/html", |(_, kind)| kind);
        response = response.header("content-type", kind);
        let status = match &uri {
            uri if uri.contains("absolute") => {
                response = response.header("location", format!("http://{host}/kylin/login?a=b"));
                302
            }
            uri if uri.contains("relative") => {
                response = response.header("location", "/kylin/login?a=b");
                302
            }
            uri => uri.split_once("status").and_then(|(_, status)| status.get(..3)?.parse().ok()).unwrap_or(200),
        };
        response.status(StatusCode::from_u16(status).unwrap()).body(Body::from(uri)).unwrap()
    };
    Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), respond)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap()
}

/// Sends a request. Returns the response in one line, with its type if that is `typed`.
async fn send(front: SocketAddr, request: &str, typed: bool) -> String {
    let mut connection = Connection::open(front).await.unwrap();
    let mut words = request.splitn(3, ' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers = words.next().map(|headers| headers.replace(" | ", "\r\n") + "\r\n").unwrap_or_default();
    let host = if headers.contains("Host: ") { "" } else { "Host: kylin.example\r\n" };
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    connection.send(format!("{method} {path} HTTP/1.1\r\n{host}{headers}{length}\r\n")).await.unwrap();
    match connection.response().await {
        Ok(response) if typed => {
            format!("{} type={}", shown(&response), response.header("content-type").unwrap_or_default())
        }
        Ok(response) => shown(&response),
        Err(error) => format!("{error}"),
    }
}

fn shown(response: &RawResponse) -> String {
    let mut shown = vec![response.status().to_string()];
    shown.extend(response.header("x-node").map(str::to_owned));
    if let Some(location) = response.header("location") {
        // nginx names itself, with its port.
        let own = location.strip_prefix("http://kylin.example").and_then(|url| Some(&url[url.find('/')?..]));
        shown.push(format!("location={}", own.unwrap_or(location)));
    }
    shown.extend(
        response
            .head
            .all("set-cookie")
            .iter()
            .filter(|cookie| cookie.starts_with("JSESSIONID"))
            .map(|cookie| format!("cookie={cookie}")),
    );
    shown.extend(
        response.header("cache-control").filter(|value| *value != "no-store").map(|value| format!("cache={value}")),
    );
    for name in ["access-control-allow-origin", "access-control-max-age", "x-set", "www-authenticate"] {
        shown.extend(response.header(name).map(|value| format!("{name}={value}")));
    }
    shown.join(" ")
}

#[tokio::test]
async fn files_as_people_have_them_serve_as_in_nginx_or_are_refused_clearly() {
    require_nginx!();
    let nodes = [node(), node()];
    let mut files: Vec<PathBuf> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nginx_files"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    assert!(files.len() >= 33, "{} files", files.len());
    let mut differences = Vec::new();
    for file in files {
        differences.extend(compare(&file, &nodes).await.into_iter().map(|text| format!("{}: {text}", file.display())));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for node in nodes {
        node.stop(Duration::from_secs(5)).await;
    }
}

/// Returns what is not as the file says.
async fn compare(file: &Path, nodes: &[Server; 2]) -> Vec<String> {
    let mut bytes = std::fs::read(file).unwrap();
    let folder = file.parent().unwrap().to_str().unwrap();
    for (name, value) in [("@node1@", &nodes[0]), ("@node2@", &nodes[1])] {
        bytes = replaced(&bytes, name, &value.addresses()[0].to_string());
    }
    bytes = replaced(&bytes, "@files@", folder);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let marked = |mark: &'static str| {
        text.lines().filter_map(move |line| line.trim_start_matches('\u{feff}').strip_prefix(mark))
    };
    let mut differences = Vec::new();
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("front.conf");
    if let Some(expected) = marked("#! error ").next() {
        let expected = expected.replace("@front@", "81");
        std::fs::write(&path, replaced(&bytes, "@front@", "81")).unwrap();
        let (message, instead) = expected.split_once(" ## ").unwrap();
        match Config::read(&path) {
            Ok(_) => differences.push("accepted".to_owned()),
            Err(error) => {
                let found = format!("{}:{} {}", error.line(), error.column(), error.message());
                if !found.starts_with(message) || !error.expected().contains(instead) {
                    differences.push(format!("{found} ## {}", error.expected()));
                }
            }
        }
        return differences;
    }
    let nginx = match marked("#! ours only").next() {
        Some(_) => None,
        None => Some(Nginx::start(&text).await),
    };
    std::fs::write(&path, replaced(&bytes, "@front@", "81")).unwrap();
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(error) => return vec![error.to_string()],
    };
    let site = Site::new(config).unwrap();
    let ours = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    if marked("#? ").next().is_none() {
        differences.push("no request".to_owned());
    }
    for line in marked("#? ") {
        let (request, expected) = line.trim().split_once(" => ").unwrap();
        let typed = expected.contains(" type=");
        let found = send(ours.addresses()[0], request, typed).await;
        if found != expected {
            differences.push(format!("{request}\n  expected {expected}\n  found    {found}"));
        }
        if let Some(nginx) = &nginx {
            let found = send(nginx.address("front"), request, typed).await;
            if found != expected {
                differences.push(format!("{request}\n  expected {expected}\n  nginx    {found}"));
            }
        }
    }
    ours.stop(Duration::from_secs(5)).await;
    differences
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from.as_bytes()) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
