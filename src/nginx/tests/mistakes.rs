//! Golden error messages for the mistakes that people make.

use super::*;

#[test]
fn an_error_shows_the_line_and_what_would_be_accepted() {
    let text = "upstream kylin {\n  # nodes\n    server 1.1.1.1:7070 wieght=2;\n}\n";
    let error = Config::parse("kylin.conf", text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kylin.conf:3:25: unknown parameter \"wieght=2\" of server, did you mean \"weight\"?
    server 1.1.1.1:7070 wieght=2;
                        ^
expected one of: weight=N, max_conns=N, max_fails=N, fail_timeout=TIME, slow_start=TIME, route=NAME, backup, down, drain, resolve"
    );
}

#[test]
fn every_mistake_has_its_message() {
    let server = |inside: &str| format!("{MANUAL}server {{ listen 81; {inside} }}");
    let location = |inside: &str| server(&format!("location / {{ {inside} }}"));
    let upstream = |inside: &str| format!("upstream u {{ {inside} }} {MANUAL}");
    for (text, kind, column, message) in [
        (upstream("server 1.1.1.1 weight=0;"), ErrorKind::Value, 36, "invalid number \"0\""),
        (upstream("server 1.1.1.1 fail_timeout=5ms;"), ErrorKind::Value, 42, "invalid time \"5ms\""),
        (
            upstream("server 1.1.1.1 service=http;"),
            ErrorKind::Unsupported,
            29,
            "parameter \"service=http\" of server is not supported",
        ),
        (upstream("server 1.1.1.1:port;"), ErrorKind::Value, 21, "invalid server address \"1.1.1.1:port\""),
        (upstream(""), ErrorKind::Missing, 10, "no servers in upstream \"u\""),
        (upstream("server 1.1.1.1 backup;"), ErrorKind::Missing, 10, "no servers in upstream \"u\""),
        (
            upstream("server a; server b backup; ip_hash;"),
            ErrorKind::Value,
            33,
            "ip_hash, hash and random do not support parameter \"backup\"",
        ),
        (upstream("hash $nope; server a;"), ErrorKind::Unknown, 19, "unknown variable \"$nope\""),
        (
            upstream("hash $cookie_a consistant; server a;"),
            ErrorKind::Unknown,
            29,
            "unknown parameter \"consistant\" of hash",
        ),
        (upstream("least_time header; server a;"), ErrorKind::Unsupported, 14, "\"least_time\" is not supported"),
        (upstream("gzip on; server a;"), ErrorKind::Unknown, 14, "unknown directive \"gzip\" in \"upstream\""),
        (upstream("keepalive 0; server a;"), ErrorKind::Value, 24, "invalid number \"0\""),
        (format!("{MANUAL}upstream KYLIN {{ server a; }}"), ErrorKind::Duplicate, 1, "duplicate upstream \"KYLIN\""),
        (server("listen 81;"), ErrorKind::Duplicate, 21, "a duplicate listen 0.0.0.0:81"),
        (
            location("auth_request /auth; return 200;"),
            ErrorKind::Unsupported,
            34,
            "\"auth_request\" is supported as \"auth_request off\" only",
        ),
        (
            location("vhost_traffic_status_limit_traffic in:64G; return 200;"),
            ErrorKind::Unsupported,
            34,
            "\"vhost_traffic_status_limit_traffic\" is not supported",
        ),
        (server("charset_map a b { 80 E282AC; }"), ErrorKind::Unsupported, 21, "\"charset_map\" is not supported"),
        (server("charset $charset; return 200;"), ErrorKind::Value, 29, "invalid charset \"$charset\""),
        (server("charset_types json; return 200;"), ErrorKind::Value, 35, "invalid type \"json\""),
        (server("listen 443 setfib=1;"), ErrorKind::Unsupported, 32, "listen parameter \"setfib=1\" is not supported"),
        (
            server("listen 1 proxy_protocol; return 403;"),
            ErrorKind::Missing,
            1,
            "listen 0.0.0.0:1 proxy_protocol, without the peers that may name clients",
        ),
        (server("listen 0;"), ErrorKind::Value, 28, "invalid listen address \"0\""),
        (server(""), ErrorKind::Missing, 1, "server with neither a location nor return: static files are not served"),
        (server("proxy_pass http://kylin;"), ErrorKind::Misplaced, 21, "\"proxy_pass\" is not allowed in \"server\""),
        (
            server("location /a { return 200; } location /a { return 200; }"),
            ErrorKind::Duplicate,
            58,
            "duplicate location \"/a\"",
        ),
        (
            server("location ~ (?!a) { return 200; }"),
            ErrorKind::Unsupported,
            32,
            "regular expression not understood: look-around, including look-ahead and look-behind, is not supported",
        ),
        (
            server("location /a { return 200; location /b { return 200; } }"),
            ErrorKind::Misplaced,
            56,
            "location \"/b\" is outside location \"/a\"",
        ),
        (
            location("proxy_set_header Host $host;"),
            ErrorKind::Missing,
            21,
            "location with neither proxy_pass nor return: static files are not served",
        ),
        (
            location("proxy_pass http://$host/kylin;"),
            ErrorKind::Unsupported,
            45,
            "variables in proxy_pass are not supported",
        ),
        (location("proxy_pass http://kylin:80;"), ErrorKind::Value, 45, "upstream \"kylin\" may not have a port"),
        (
            server("location ~ a { proxy_pass http://kylin/x; }"),
            ErrorKind::Value,
            47,
            "proxy_pass cannot have a URI part in a location given by a regular expression",
        ),
        (
            location("proxy_pass http://kylin; proxy_read_timout 1s;"),
            ErrorKind::Unknown,
            59,
            "unknown directive \"proxy_read_timout\", did you mean \"proxy_read_timeout\"?",
        ),
        (location("return 200; proxy_read_timeout 1y;"), ErrorKind::Value, 65, "invalid time \"1y\""),
        (location("return 200; client_max_body_size 1x;"), ErrorKind::Value, 67, "invalid size \"1x\""),
        (location("return 200; proxy_buffering maybe;"), ErrorKind::Value, 62, "invalid value \"maybe\""),
        (
            location("return 200; proxy_next_upstream http_501;"),
            ErrorKind::Unknown,
            66,
            "unknown condition \"http_501\", did you mean \"http_500\"?",
        ),
        (
            location("return 200; proxy_set_header Host;"),
            ErrorKind::Value,
            46,
            "invalid number of arguments of \"proxy_set_header\"",
        ),
        (
            location("return 200; proxy_set_header Content-Length 1;"),
            ErrorKind::Unsupported,
            63,
            "header \"Content-Length\" cannot be set by hand",
        ),
        (
            location("return 200; set_real_ip_from 10.0.0.0/33;"),
            ErrorKind::Value,
            63,
            "invalid trusted address \"10.0.0.0/33\"",
        ),
        (
            location("return 200; send_timeout 1s; send_timeout 2s;"),
            ErrorKind::Duplicate,
            63,
            "\"send_timeout\" is duplicate",
        ),
        (
            location("return 200; proxy_store on;"),
            ErrorKind::Unsupported,
            46,
            "\"proxy_store\" is supported as \"proxy_store off\" only",
        ),
        (
            location("return 200 $1;"),
            ErrorKind::Value,
            45,
            "a capture, but neither the location nor the server's name is a regular expression",
        ),
        (
            location("return 200; add_header A \"b\\r\\nC: d\";"),
            ErrorKind::Value,
            60,
            "a line break or control character in a header",
        ),
        (location("if ($host == a) { return 200; }"), ErrorKind::Value, 44, "invalid operator \"==\""),
        (location("if (!-f $request_uri) { return 200; }"), ErrorKind::Value, 42, "invalid file \"$request_uri\""),
        (location("rewrite ^/a /b first; return 200;"), ErrorKind::Value, 49, "invalid flag \"first\""),
        (location("rewrite ^/a b; return 200;"), ErrorKind::Value, 46, "invalid replacement \"b\""),
        (location("return 200; deny 10.0.0.0/33;"), ErrorKind::Value, 51, "invalid address \"10.0.0.0/33\""),
        (format!("{MANUAL}server 1.1.1.1;"), ErrorKind::Syntax, 1, "\"server\" has no block"),
        (format!("{MANUAL}}}"), ErrorKind::Syntax, 1, "unexpected \"}\""),
        (format!("{MANUAL}server {{"), ErrorKind::Syntax, 1, "the block of \"server\" is never closed"),
        (format!("{MANUAL}gzip on"), ErrorKind::Syntax, 1, "the file ends inside a directive"),
        (format!("{MANUAL}gzip \"on"), ErrorKind::Syntax, 7, "the file ends inside a quoted word"),
        (format!("{MANUAL}stream {{ }}"), ErrorKind::Unsupported, 1, "\"stream\" is not supported"),
        (format!("{MANUAL}http {{ }}"), ErrorKind::Misplaced, 1, "\"upstream\" is not allowed outside \"http\""),
        (format!("{MANUAL}include x.conf;"), ErrorKind::Unsupported, 1, "include in a text that is not a file"),
        (String::new(), ErrorKind::Missing, 0, "no server { ... } in the configuration"),
    ] {
        let error = Config::parse("kylin.conf", &text).expect_err(&text);
        assert_eq!((error.kind(), error.column(), error.message()), (kind, column, message), "{error}");
        assert!(!error.expected().is_empty(), "{error}");
    }
}

#[test]
fn what_to_write_instead_fits_the_mistake() {
    let server = |inside: &str| format!("{MANUAL}server {{ listen 81; {inside} }}");
    let location = |inside: &str| server(&format!("location / {{ {inside} proxy_pass http://kylin; }}"));
    for (text, instead) in [
        (
            server(r"location ~ (^|/)\.(?!well-known).* { deny all; }"),
            "two locations: location ^~ /.well-known/ { ... }",
        ),
        (server("location ~ x+(?!y) { return 200; }"), "a location of its own: location ^~ /PATH { ... }"),
        (location("set $args a=b;"), "rewrite ^(.*)$ $1?a=b? break;"),
        (location("set $proxy_host x;"), "proxy_set_header Host VALUE; in place of $proxy_host"),
        (location("add_header Proxy-Connection close;"), "no such line: the header is about one connection"),
        (
            server("location ~ ^(?<p>/.*)$ { proxy_pass http://kylin$p$is_args$args; }"),
            "http://kylin/$p$is_args$args, if",
        ),
        (location("dav_methods PUT;"), "nodes get requests of every method"),
        (location("charset utf-8,gbk;"), "one name like utf-8"),
        (location("add_header X-A a allways;"), "always; or the value in quotes: add_header X-A \"a allways\";"),
        (server("listen 82\n location /x { return 200; }"), "\";\" at the end of \"listen\""),
        (location("proxy_read_timeout 5s\n proxy_set_header Host a;"), "\";\" at the end of \"proxy_read_timeout\""),
        (location("add_header X-A a\n add_header X-B b;"), "\";\" at the end of \"add_header\""),
        (server("location /x { return 200 }"), "\";\" after \"200\""),
        (location("add_header X-A a b c always;"), "the value in quotes: add_header X-A \"a b c\" always;"),
    ] {
        let error = Config::parse("kylin.conf", &text).expect_err(&text);
        assert!(error.expected().contains(instead), "{error}");
    }
}

#[test]
fn what_differs_silently_is_noted() {
    let server =
        |inside: &str| format!("{MANUAL}server {{ listen 81; {inside} location / {{ proxy_pass http://kylin; }} }}");
    for (text, note) in [
        (server("merge_slashes off;"), "merge_slashes off: locations, conditions and $uri see one slash for several"),
        (server("proxy_set_header X-A $status;"), "proxy_set_header X-A: variables of the response are empty"),
    ] {
        let config = parse(&text);
        assert!(config.notes.iter().any(|notice| notice.text.starts_with(note)), "{:?}", config.notes);
    }
    assert!(parse(&server("merge_slashes on; proxy_set_header X-A $host;")).notes.is_empty());
}
