//! `sticky`, the parameters of servers that belong to it, and `map`.

use super::*;
use crate::nginx::directives::upstream::Sticky;

const SERVER: &str = "server { listen 8080; location / { proxy_pass http://u; } }";

fn upstream(inside: &str) -> Config {
    parse(&format!("upstream u {{ {inside} server 1.1.1.1 route=n1; server 1.1.1.2 route=n2; }} {SERVER}"))
}

fn mistake(text: &str) -> ConfigError {
    Config::parse("kylin.conf", text).expect_err(text)
}

/// The value of a map's variable for a request with these cookies and this target.
fn mapped(map: &str, cookies: &str, target: &str) -> String {
    let config = parse(&format!("{map} upstream u {{ sticky route $v; server a route=n1; }} {SERVER}"));
    let Some(Sticky::Route(variables)) = &config.upstreams[0].sticky else { panic!() };
    let mut headers = HeaderMap::new();
    headers.insert("cookie", cookies.parse().unwrap());
    let scope = Scope::new(&HttpMethod::GET, target, b"/", &headers);
    String::from_utf8(variables[0].to_bytes(&scope)).unwrap()
}

#[test]
fn the_documented_recipe_for_routes_is_read() {
    let config = parse(&format!(
        r"map $cookie_jsessionid $route_cookie {{ ~.+\.(?P<route>\w+)$ $route; }}
          map $request_uri $route_uri {{ ~jsessionid=.+\.(?P<route>\w+)$ $route; }}
          upstream u {{ server a route=n1; server b route=n2 drain; server c slow_start=30s; sticky route $route_cookie $route_uri; }}
          {SERVER}"
    ));
    let upstream = &config.upstreams[0];
    let servers: Vec<_> = upstream
        .servers
        .iter()
        .map(|server| (server.route.as_deref(), server.drain, server.slow_start.as_secs()))
        .collect();
    assert_eq!(servers, [(Some("n1"), false, 0), (Some("n2"), true, 0), (None, false, 30)]);
    let Some(Sticky::Route(variables)) = &upstream.sticky else { panic!() };
    let route = |cookie: &str, target: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", cookie.parse().unwrap());
        let scope = Scope::new(&HttpMethod::GET, target, b"/", &headers);
        let values = variables.iter().map(|variable| String::from_utf8(variable.to_bytes(&scope)).unwrap());
        values.collect::<Vec<_>>()
    };
    assert_eq!(route("JSESSIONID=A1.n2", "/kylin"), ["n2", ""]);
    assert_eq!(route("a=b", "/kylin;jsessionid=A1.x.n1"), ["", "n1"]);
    assert_eq!(route("jsessionid=A1", "/"), ["", ""]);
    let report = config.report().to_string();
    for part in ["sticky route $route_cookie $route_uri", "route n2  drain", "slow_start 30s", "server c has no route="]
    {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[test]
fn maps_compare_as_nginxs_do() {
    let map =
        r"map $cookie_a $v { default d$v2; one 1; \~two 2; ~^t(hr|ou) 3$1; ~*^FOUR 4; } map $is_args $v2 { '?' q; }";
    for (cookie, target, value) in [
        ("a=ONE", "/", "1"),
        ("a=~Two", "/", "2"),
        ("a=three", "/", "3hr"),
        ("a=Three", "/", "d"),
        ("a=four", "/", "4"),
        ("a=x", "/?b", "dq"),
        ("b=x", "/", "d"),
    ] {
        assert_eq!(mapped(map, cookie, target), value, "{cookie} {target}");
    }
    assert_eq!(mapped("map $cookie_a $v { one 1; }", "a=two", "/"), "");
}

#[test]
fn the_cookie_has_the_attributes_of_the_line() {
    let config = upstream("sticky cookie lb expires=1h domain=.example.org path=/kylin httponly secure samesite=none;");
    let Some(Sticky::Cookie(line)) = &config.upstreams[0].sticky else { panic!() };
    let cookie = format!("{line:?}");
    for part in ["\"lb\"", "3600s", ".example.org", "\"/kylin\"", "http_only: true", "secure: true", "None"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    let report = config.report().to_string();
    assert!(report.contains("sticky cookie lb, kept for 3600 s"), "{report}");
    assert!(report.contains("several front ends need the same secret"), "{report}");
}

#[test]
fn learned_sessions_have_nginxs_names_and_times() {
    let zone = "zone=s:1m";
    let config =
        upstream(&format!("sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_jsessionid {zone};"));
    let Some(Sticky::Learn(line)) = &config.upstreams[0].sticky else { panic!() };
    assert_eq!(line.names, ["jsessionid"]);
    assert_eq!((line.timeout, line.zone, line.sync), (Duration::from_secs(600), 1 << 20, false));
    assert!(config.report().to_string().contains("timeout=8h"));
    let config = upstream(&format!(
        "sticky learn create=$upstream_cookie_a create=$upstream_cookie_b lookup=$cookie_b lookup=$cookie_a {zone} timeout=8h header sync;"
    ));
    let Some(Sticky::Learn(line)) = &config.upstreams[0].sticky else { panic!() };
    assert_eq!(
        (&line.names[..], line.timeout, line.sync),
        (&["a".to_owned(), "b".to_owned()][..], Duration::from_secs(28_800), true)
    );
    assert!(!config.report().to_string().contains("timeout=8h"));
    // The site has no store that front ends could share.
    let error = Site::new(config).unwrap_err();
    assert!(error.to_string().contains("upstream u: sync"), "{error}");
}

#[test]
fn draining_without_sticky_is_noted() {
    let report = parse(&format!("upstream u {{ server a; server b drain; }} {SERVER}")).report().to_string();
    assert!(report.contains("drain without sticky: server b"), "{report}");
}

#[test]
fn every_mistake_has_its_message() {
    let sticky = |line: &str| format!("upstream u {{ sticky {line}; server a; }} {SERVER}");
    let map = |block: &str| format!("{block} upstream u {{ server a; }} {SERVER}");
    for (text, kind, column, message) in [
        (sticky("cooky lb"), ErrorKind::Unknown, 21, "unknown kind \"cooky\" of sticky"),
        (sticky("cookie"), ErrorKind::Missing, 14, "sticky cookie without a name"),
        (sticky("cookie a@b"), ErrorKind::Value, 28, "\"a@b\" cannot be the name of a cookie"),
        (sticky("cookie lb path=kylin"), ErrorKind::Value, 31, "\"kylin\" cannot be the path of a cookie"),
        (sticky("cookie lb samesite=some"), ErrorKind::Value, 31, "invalid attribute \"samesite=some\""),
        (sticky("cookie lb expires=1"), ErrorKind::Value, 39, "invalid time \"1\""),
        (
            sticky("learn create=$upstream_cookie_A lookup=$cookie_A zone=s:1m timeout=0"),
            ErrorKind::Value,
            88,
            "invalid time \"0\"",
        ),
        (sticky("cookie lb domain=$host"), ErrorKind::Unsupported, 31, "a variable in the attribute of a cookie"),
        (sticky("cookie lb httpOnly"), ErrorKind::Unknown, 31, "unknown parameter \"httpOnly\" of sticky"),
        (sticky("route"), ErrorKind::Missing, 14, "sticky route without a variable"),
        (sticky("route n1"), ErrorKind::Value, 27, "invalid route \"n1\""),
        (sticky("route $nope"), ErrorKind::Unknown, 27, "unknown variable \"$nope\""),
        (sticky("route $1"), ErrorKind::Unsupported, 27, "a capture in the route of an upstream"),
        (sticky("learn lookup=$cookie_a zone=s:1m"), ErrorKind::Missing, 14, "sticky learn without create="),
        (
            sticky("learn create=$cookie_a lookup=$cookie_a zone=s:1m"),
            ErrorKind::Unsupported,
            27,
            "\"create=$cookie_a\" of sticky learn is not supported",
        ),
        (
            sticky("learn create=$upstream_cookie_a lookup=$arg_a zone=s:1m"),
            ErrorKind::Unsupported,
            60,
            "\"lookup=$arg_a\" of sticky learn is not supported",
        ),
        (
            sticky("learn create=$upstream_cookie_a lookup=$cookie_b zone=s:1m"),
            ErrorKind::Unsupported,
            14,
            "sticky learn: the cookie \"a\" is not in both create= and lookup=",
        ),
        (
            sticky("learn create=$upstream_cookie_a lookup=$cookie_a zone=s"),
            ErrorKind::Value,
            70,
            "invalid zone \"zone=s\"",
        ),
        (sticky("cookie a; sticky cookie b"), ErrorKind::Duplicate, 31, "\"sticky\" is duplicate"),
        (format!("upstream u {{ server a route=; }} {SERVER}"), ErrorKind::Value, 23, "invalid route \"route=\""),
        (
            format!("upstream u {{ server a slow_start=5s; hash $uri; }} {SERVER}"),
            ErrorKind::Value,
            23,
            "ip_hash, hash and random do not support parameter \"slow_start\"",
        ),
        (map("map $uri v { }"), ErrorKind::Value, 10, "invalid variable \"v\""),
        (map("map $uri $host { }"), ErrorKind::Duplicate, 10, "map: the variable \"$host\" has a meaning already"),
        (
            map("map $uri $v { } map $uri $V { }"),
            ErrorKind::Duplicate,
            17,
            "map: the variable \"$v\" has a map already",
        ),
        (map("map $b $a { } map $a $b { }"), ErrorKind::Unknown, 19, "unknown variable \"$a\""),
        (map("map $uri $v { a 1; A 2; }"), ErrorKind::Duplicate, 20, "\"A\" is duplicate"),
        (map("map $uri $v { default 1; default 2; }"), ErrorKind::Duplicate, 26, "\"default\" is duplicate"),
        (map("map $uri $v { hostnames; *.a 1; *.A 2; }"), ErrorKind::Duplicate, 33, "\"*.A\" is duplicate"),
        (map("map $uri $v { a 1 2; }"), ErrorKind::Value, 15, "a line of map is a value and a result"),
        (map("map $uri $v { ~a $nope; }"), ErrorKind::Unknown, 18, "unknown variable \"$nope\""),
        (
            map("map $b $a { } map $uri $b { ~(?=x) 1; }"),
            ErrorKind::Unsupported,
            30,
            "regular expression not understood: look-around, including look-ahead and look-behind, is not supported",
        ),
        (map("map $uri $v;"), ErrorKind::Syntax, 1, "\"map\" has no block"),
    ] {
        let error = mistake(&text);
        assert_eq!((error.kind(), error.column(), error.message()), (kind, column, message), "{error}");
        assert!(!error.expected().is_empty(), "{error}");
    }
}
