use std::net::SocketAddr;

use http::{HeaderMap, Method, Version};
use proptest::prelude::*;

use super::*;
use crate::nginx::syntax::Span;

fn template(text: &str) -> Template {
    Template::new(&Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } }, &Maps::default()).unwrap()
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn with_scope<R>(headers: &HeaderMap, run: impl FnOnce(Scope<'_>) -> R) -> R {
    let remote = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
    let mut scope = Scope::new(&Method::GET, "/a%20b?x=1&y=2", b"/a b", headers);
    scope.remote = remote("192.0.2.7:4711");
    scope.peer = remote("[2001:db8::1]:80");
    scope.local = remote("10.0.0.1:8080");
    scope.server_name = "front.example.org";
    scope.proxy_host = "kylin";
    scope.captures.0[1] = Some(b"one");
    run(scope)
}

fn value(text: &str, lines: &[(&'static str, &str)]) -> String {
    let headers = headers(lines);
    with_scope(&headers, |scope| String::from_utf8_lossy(&template(text).to_bytes(&scope)).into_owned())
}

#[test]
fn every_variable_has_nginxs_value() {
    let fields = [
        ("host", "Kylin.Example.ORG:8080"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("cookie", "a=1; JSESSIONID=AB"),
        ("cookie", "b=2"),
        ("content-type", "text/plain"),
    ];
    for (text, expected) in [
        ("plain", "plain"),
        ("$remote_addr:$remote_port", "192.0.2.7:4711"),
        ("$proxy_add_x_forwarded_for", "1.1.1.1, 2.2.2.2, 192.0.2.7"),
        ("$http_x_forwarded_for", "1.1.1.1, 2.2.2.2"),
        ("$http_cookie", "a=1; JSESSIONID=AB; b=2"),
        ("$cookie_jsessionid/$cookie_b/$cookie_c", "AB/2/"),
        ("$host|$http_host", "kylin.example.org|Kylin.Example.ORG:8080"),
        ("$request_uri|$uri|$document_uri", "/a%20b?x=1&y=2|/a b|/a b"),
        ("$uri$is_args$args|$query_string", "/a b?x=1&y=2|x=1&y=2"),
        ("$arg_y$arg_X$arg_z", "21"),
        ("${scheme}s://$proxy_host", "https://kylin"),
        ("$request", "GET /a%20b?x=1&y=2 HTTP/1.1"),
        ("$request_method $server_protocol", "GET HTTP/1.1"),
        ("$server_name:$server_port@$server_addr", "front.example.org:8080@10.0.0.1"),
        ("$realip_remote_addr", "2001:db8::1"),
        ("$content_type$content_length", "text/plain"),
        ("$1$12$2", "oneone2"),
        ("$HOST", "kylin.example.org"),
    ] {
        assert_eq!(value(text, &fields), expected, "{text}");
    }
    assert_eq!(value("$host", &[]), "front.example.org");
    assert_eq!(value("$proxy_add_x_forwarded_for", &[]), "192.0.2.7");
    assert!(!value("$hostname", &[]).is_empty());
}

#[test]
fn pieces_are_fed_in_order_and_literals_known() {
    let none = HeaderMap::new();
    let mut bytes = Vec::new();
    with_scope(&none, |scope| {
        template("$binary_remote_addr").write(&scope, &mut |piece| bytes.extend_from_slice(piece))
    });
    assert_eq!(bytes, [192, 0, 2, 7]);
    assert_eq!(
        (template("a").as_literal(), template("").as_literal(), template("$uri").as_literal()),
        (Some("a"), Some(""), None)
    );
    let scope = |version| Scope { version, ..Scope::new(&Method::GET, "/", b"/", &none) };
    assert_eq!(template("$server_protocol$remote_addr").to_bytes(&scope(Version::HTTP_2)), b"HTTP/2.0unix:");
}

#[test]
fn a_value_never_brings_a_line_of_its_own() {
    let none = HeaderMap::new();
    let scope = Scope::new(&Method::GET, "/a%0d%0aX:%20y", b"/a\r\nX: y", &none);
    assert_eq!(template("http://h$uri").to_header(&scope), Err(Unsendable));
    assert_eq!(template("$args").to_header(&scope), Ok(None));
    assert_eq!(template("$request_uri").to_header(&scope), Ok(Some(HeaderValue::from_static("/a%0d%0aX:%20y"))));
}

#[test]
fn malformed_and_unknown_variables_are_refused() {
    for text in ["$", "a$", "${host", "${}", "$nope", "$http_", "$0", "$-", "${http_\u{e9}}"] {
        assert!(
            Template::new(&Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } }, &Maps::default())
                .is_err(),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn evaluation_never_panics(
        text in "(\\$\\{(host|uri|args|arg_a|cookie_a|request|proxy_add_x_forwarded_for|1|is_args)\\}|[ -~&&[^$]]|é){0,8}",
        uri in ".{0,20}", path in proptest::collection::vec(any::<u8>(), 0..20), cookie in "[ -~]{0,30}", host in "[ -~]{0,80}",
    ) {
        let fields = headers(&[("cookie", &cookie), ("host", &host), ("x-forwarded-for", &cookie)]);
        let scope = Scope::new(&Method::GET, &uri, &path, &fields);
        let template = template(&text);
        let mut pieces = Vec::new();
        template.write(&scope, &mut |piece| pieces.extend_from_slice(piece));
        prop_assert_eq!(pieces, template.to_bytes(&scope));
        if let Ok(Some(value)) = template.to_header(&scope) {
            prop_assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        }
    }
}

#[test]
fn maps_inside_each_other_are_bounded() {
    let read = |count: usize, lines: &str| {
        let map = |number: usize| {
            format!("map $arg_a $v{} {{ {} }}\n", number + 1, lines.replace("PREV", &format!("$v{number}")))
        };
        let text = "map $arg_a $v0 { default 1; }\n".to_owned() + &(0..count).map(map).collect::<String>();
        crate::nginx::Config::parse("front.conf", &format!("{text} server {{ listen 81; return 200 $v{count}; }}"))
    };
    assert!(read(31, "default PREV;").is_ok() && read(15, "default PREV; 1 PREV;").is_ok());
    for (count, lines) in
        [(32, "default PREV;"), (5000, "default PREV;"), (31, "default PREV; 1 PREV;"), (31, "1 PREVPREVPREV;")]
    {
        let error = read(count, lines).unwrap_err();
        assert_eq!(error.kind(), crate::nginx::ErrorKind::Limit, "{count} {lines}: {error}");
    }
}
