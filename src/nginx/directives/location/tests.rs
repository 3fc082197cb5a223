use super::*;
use crate::kylin::NormalizedPath;
use crate::nginx::Config;
use crate::nginx::readings::RequestPaths;

fn config(locations: &str) -> Config {
    Config::parse("x", &format!("upstream k {{ server 1.1.1.1; }} server {{ listen 80; {locations} }}")).unwrap()
}

fn choice(config: &Config, path: &str) -> String {
    match config.servers[0].locate(&NormalizedPath::parse(path).unwrap()) {
        None => "404".into(),
        Some(LocationMatch::Redirect(to)) => format!("301 {}", to.matcher.text()),
        Some(LocationMatch::Location { location, captures, .. }) => {
            let capture =
                captures.and_then(|captures| captures.0[1]).map(|one| format!(" $1={}", String::from_utf8_lossy(one)));
            format!("{}{}", location.matcher, capture.unwrap_or_default())
        }
    }
}

#[test]
fn the_location_is_nginxs() {
    // Confirmed with nginx 1.22, where each location responds with its name.
    let config = config(
        "location = / { return 200; } location / { return 200; } location /images { return 200; }
         location ^~ /images/raw { return 200; } location ~ ^/(im.*)\\.png$ { return 200; } location ~* \\.PNG$ { return 200; }
         location /kylin/ { proxy_pass http://k; location = /kylin/x.png { return 200; } location ~ /q(\\d) { return 200; }
             location /kylin/api { return 200; } }",
    );
    for (path, expected) in [
        ("/", "= /"),
        ("/x", "/"),
        ("/images/a", "/images"),
        ("/images/a.png", "~ ^/(im.*)\\.png$ $1=images/a"),
        ("/x.png", "~* \\.PNG$"),
        ("/images/raw/a.png", "^~ /images/raw"),
        ("/kylin", "301 /kylin/"),
        ("/kylin/", "/kylin/"),
        ("/kylin/x.png", "= /kylin/x.png"),
        ("/kylin/y.png", "~* \\.PNG$"),
        ("/kylin/q7.png", "~ /q(\\d) $1=7"),
        ("/kylin/api/q", "/kylin/api"),
        ("/kylinx", "/"),
    ] {
        assert_eq!(choice(&config, path), expected, "{path}");
    }
}

#[test]
fn a_path_without_a_location_is_404() {
    assert_eq!(choice(&config("location /a { return 200; }"), "/b"), "404");
}

#[test]
fn the_uri_for_the_node_is_nginxs() {
    // Confirmed with nginx 1.22 and a server that responds with `$request_uri`. The exception is
    // `$uri`, which nginx sends decoded.
    for (location, target, request, expected) in [
        ("/", "http://k", "/a%20b/../c?x=%20", "/a%20b/../c?x=%20"),
        ("/a/", "http://k/b/", "/a/c%20d/../e%3f%7e?x=1", "/b/e%3F~?x=1"),
        ("/a/", "http://k/", "/a//b|c?", "/b|c"),
        ("/a/", "http://k/b/", "/a/c;jsessionid=1/d", "/b/c;jsessionid=1/d"),
        ("/a/", "http://k/b/", "/x/..;/a/c", "/b/c"),
        ("= /a", "http://k/b?y=1", "/a?x=1", "/b?y=1?x=1"),
        ("/a", "http://unix:/s:/b", "/ac", "/bc"),
        ("/a", "http://k/", "/a/c", "//c"),
        ("/a", "http://k/b/", "/a/c?d", "/b//c?d"),
        ("/a/", "http://k/b/", "/a/c%2Fd%5Ce", "/b/c/d%5Ce"),
        ("/", "http://k$request_uri", "/%61?b", "/%61?b"),
        ("/", "http://k$uri", "/%61%20?b", "/a%20"),
        ("/", "http://k$uri$is_args$args", "/%61%20?b", "/a%20?b"),
        ("~ ^/(.)", "http://k", "/%61", "/%61"),
    ] {
        let config = config(&format!("location {location} {{ proxy_pass {target}; }}"));
        let paths = RequestPaths::of(request, true).unwrap();
        let Some(LocationMatch::Location { location: Location { action: Action::Proxy(pass), .. }, .. }) =
            config.servers[0].locate_decoded(paths.path())
        else {
            panic!("{location} {request}");
        };
        assert_eq!(
            pass.upstream_uri(request, paths.decoded(), &paths).as_deref(),
            Some(expected),
            "{location} {target} {request}"
        );
    }
}

#[test]
fn a_location_is_for_the_path_that_the_node_reads() {
    let config = config("location /bi/ { proxy_pass http://k/kylin/; } location /kylin/ { return 200; }");
    for (path, expected) in [
        ("/bi/..;/x", "404"),
        ("/bi/..;/kylin/x", "/kylin/"),
        ("/x/..;/bi/x", "/bi/"),
        ("/bi;x/y", "/bi/"),
        ("/b%69/y", "/bi/"),
        ("/bi/%2e%2e/kylin/x", "/kylin/"),
    ] {
        assert_eq!(choice(&config, path), expected, "{path}");
    }
}

#[test]
fn a_new_path_that_leads_out_of_the_location_is_refused() {
    for (location, target, request) in
        [("/a", "http://k/b/", "/a../c"), ("/a", "http://k/b/", "/a..;x/c"), ("/a", "http://k/b/", "/a./c")]
    {
        let config = config(&format!("location {location} {{ proxy_pass {target}; }} location / {{ return 200; }}"));
        let paths = RequestPaths::of(request, true).unwrap();
        let path = NormalizedPath::parse(request).unwrap();
        let uri = match config.servers[0].locate(&path) {
            Some(LocationMatch::Location { location: Location { action: Action::Proxy(pass), .. }, .. }) => {
                pass.upstream_uri(request, paths.decoded(), &paths)
            }
            _ => None,
        };
        assert_eq!(uri, None, "{location} {target} {request}");
    }
}
