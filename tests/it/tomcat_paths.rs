//! Paths as a real Tomcat interprets them. If Tomcat resolves a path to a closed or another
//! location, the front end does too, or refuses the path.

use std::net::SocketAddr;
use std::num::NonZero;

use http::Uri;
use kylin_lb::Endpoint;
use kylin_lb::kylin::{AmbiguousPath, NormalizedPath};
use kylin_lb::nginx::{Config, Site};

use crate::support::front::Front;
use crate::support::http::{Connection, RawResponse};
use crate::support::tomcat::Tomcat;

/// Spellings of a segment, both ordinary and unusual.
const SEGMENTS: [&str; 30] = [
    "",
    ".",
    "..",
    "bi",
    "guard",
    "cache",
    "..;",
    "..;x=1",
    ".;x",
    ";x",
    "bi;x",
    "guard;a=b;c",
    "%2e",
    "%2e%2E",
    ".%2e",
    "%2e%2e;x",
    "%62i",
    "gu%61rd",
    "cach%65",
    "...",
    "..a",
    "bi..",
    "a%20b",
    "%c3%a9",
    "%252e%252e",
    "%2f",
    "bi%2fx",
    "%5c",
    "%3bx",
    "%ff",
];
/// Segments that change the location of a path.
const STEPS: [&str; 10] = ["", ".", "..", "..;", ".%2e;x", "bi", "%62i;x", "gu%61rd", "bi..", "x"];
/// Beginnings of Kylin's calls, so that the guard has something to close.
const CALLS: [&str; 4] = ["/kylin/api/", "/kylin/x/..;/api/", "/x/../kylin//api/./", "/kylin;x/%61pi/"];

fn paths() -> Vec<String> {
    let pairs = SEGMENTS.iter().flat_map(|a| SEGMENTS.iter().map(move |b| format!("/{a}/{b}")));
    let triples = STEPS.iter().flat_map(|a| STEPS.iter().flat_map(move |b| STEPS.iter().map(move |c| (a, b, c))));
    let triples = triples.map(|(a, b, c)| format!("/{a}/{b}/{c}/y"));
    let calls = CALLS.iter().flat_map(|call| SEGMENTS.iter().map(move |segment| format!("{call}{segment}/config")));
    pairs.chain(triples).chain(calls).collect()
}

async fn get(front: SocketAddr, path: &str) -> RawResponse {
    let mut connection = Connection::open(front).await.unwrap();
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\nConnection: close\r\n\r\n")).await.unwrap();
    connection.response().await.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the path that Tomcat serves; `None` if it refuses the request.
fn served(response: &RawResponse) -> Option<String> {
    (response.status() == 200).then(|| response.text().strip_prefix("path ").unwrap_or_default().to_owned())
}

const CONFIGURATION: &str = "
    upstream nodes { server NODE; }
    server {
        listen 127.0.0.1:1;
        location / { proxy_pass http://nodes; }
        location /guard { return 403 closed; }
        location /bi/ { proxy_pass http://nodes/base/; }
    }";

#[tokio::test(flavor = "multi_thread")]
async fn what_tomcat_resolves_to_another_location_the_front_end_does_too() {
    if !Tomcat::required() {
        return;
    }
    let tomcat = Tomcat::start_echo().await;
    let site = Site::new(Config::parse("x", &CONFIGURATION.replace("NODE", &tomcat.address().to_string())).unwrap());
    let site = site.unwrap().server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap());
    let site = site.start().unwrap();
    let node = Endpoint::http("n1", &tomcat.address().to_string()).unwrap();
    let kylin = Front::kylin([node], |proxy| proxy);

    let (mut faults, mut resolved, mut refused, mut ambiguous) = (Vec::new(), 0, 0, 0);
    for path in paths() {
        let theirs = served(&get(tomcat.address(), &path).await);
        let uri: Uri = path.parse().unwrap();
        let ours = NormalizedPath::of(&uri);
        let (by_location, by_guard) = (get(site.addresses()[0], &path).await, get(kylin.address(), &path).await);
        let statuses = (by_location.status(), by_guard.status());
        // A location passes on a path that applications interpret differently, if no interpretation
        // bypasses a rule.
        let is_open = |path: String| !path.starts_with("/guard") && !path.starts_with("/kylin/api/cache");
        let is_kept = [200, 400, 403].contains(&statuses.0) && served(&by_location).is_none_or(is_open);
        let is_right = match (&theirs, &ours) {
            // The front end of Kylin refuses the paths that Tomcat refuses.
            (None, Err(_)) => statuses.1 == 400 && is_kept,
            (None, Ok(_)) => false,
            // Paths that Tomcat accepts and that are refused here, because versions or settings of
            // Tomcat, or other parsers, interpret them differently.
            (Some(_), Err(error)) => {
                refused += 1;
                let is_known = matches!(
                    error,
                    AmbiguousPath::Twice | AmbiguousPath::Utf8 | AmbiguousPath::Semicolon | AmbiguousPath::DotAtEnd
                );
                statuses.1 == 400 && is_known && is_kept
            }
            (Some(theirs), Ok(ours)) => {
                resolved += 1;
                let is_closed = theirs.starts_with("/kylin/api/cache");
                let location = if theirs.starts_with("/guard") || is_closed {
                    by_location.status() == 403
                } else if theirs == "/bi" {
                    by_location.status() == 301
                } else {
                    let at_node = theirs.strip_prefix("/bi/").map_or(theirs.clone(), |rest| format!("/base/{rest}"));
                    served(&by_location) == Some(at_node)
                };
                let guard =
                    if is_closed { by_guard.status() == 403 } else { served(&by_guard).as_ref() == Some(theirs) };
                // Another application would interpret it as a path with other rules.
                let is_ambiguous = statuses.0 == 400 && path.contains("..") | path.contains(".%2e");
                ambiguous += u32::from(is_ambiguous);
                ours.as_str() == theirs && (location || is_ambiguous) && guard
            }
        };
        if !is_right {
            faults.push(format!("{path}: Tomcat {theirs:?}, the front end {ours:?}, responses {statuses:?}"));
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
    assert!(resolved > 900 && refused < 250, "resolved {resolved}, refused {refused}");
    assert!(ambiguous < 50, "{ambiguous} readable paths are refused");
    site.stop(std::time::Duration::from_secs(5)).await;
}
