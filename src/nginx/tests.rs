//! Whole configurations: what is understood, and what an error says.

use std::time::Duration;

use http::{HeaderMap, Method as HttpMethod};
use proptest::prelude::*;

use super::listen::ListenAddress;
use super::location::{Action, Found};
use super::pass::PassUri;
use super::upstream::Method;
use super::variables::{Scope, Template};
use super::*;
use crate::backend::http1::Address;

/// As the KAP manual has it.
const MANUAL: &str = "upstream kylin {
    server 1.1.1.1:7070; # Kylin Server 1
    server 1.1.1.2:7070; # Kylin Server 2
}
server {
    listen 8080;
    location / {
        proxy_pass http://kylin;
    }
}
";

const FULL: &str = r#"
user www-data; worker_processes auto; pid /run/nginx.pid; error_log /var/log/e.log warn;
events { worker_connections 768; multi_accept on; }
http {
    include mime.types;
    types { text/html html; }
    log_format main '$remote_addr - $upstream_addr [$time_local] "$request"';
    gzip on; gzip_types text/plain "application/json"; sendfile on;
    proxy_read_timeout 5m; client_max_body_size 64m; keepalive_timeout 65 60;
    proxy_set_header X-Level http;
    add_header X-Front a always;
    set_real_ip_from 10.0.0.0/8; set_real_ip_from unix:; real_ip_header X-Forwarded-For; real_ip_recursive on;
    server {
        listen 127.0.0.1:8080 default_server reuseport backlog=512; listen [::]:8080 ipv6only=on;
        server_name kylin.example.org *.kylin.example.org;
        location /kylin/ {
            proxy_pass http://Query/;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header Cookie "";
            proxy_next_upstream error timeout http_502 non_idempotent; proxy_next_upstream_tries 2;
            proxy_buffering off; proxy_hide_header X-Powered-By; proxy_pass_header Server;
        }
        location = /ping { return 200 "pong\n"; add_header X-Ping $remote_addr; }
        location /old { return 301 https://$host/kylin/; }
        location /direct { proxy_pass http://10.0.0.9:7070; proxy_read_timeout 1s; }
        location /again { proxy_pass http://10.0.0.9:7070/; proxy_connect_timeout 500ms; }
    }
    server { listen 127.0.0.1:8080; server_name other; return 403; }
    upstream query {
        least_conn;
        zone query 64k;
        server q1.example.org:7070 weight=5 max_conns=32 max_fails=3 fail_timeout=30s;
        server [::1]:7070 down;
        server unix:/run/kylin.sock backup;
        keepalive 16; keepalive_requests 100; keepalive_time 1h; keepalive_timeout 15s;
    }
}
"#;

fn parse(text: &str) -> Config {
    Config::parse("kylin.conf", text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_manuals_configuration_is_read_verbatim() {
    let config = parse(MANUAL);
    let [upstream] = &config.upstreams[..] else { panic!() };
    assert_eq!((upstream.name.as_str(), &upstream.method), ("kylin", &Method::RoundRobin));
    let servers: Vec<_> =
        upstream.servers.iter().map(|server| (server.written.as_str(), server.weight, server.max_fails)).collect();
    assert_eq!(servers, [("1.1.1.1:7070", 1, 1), ("1.1.1.2:7070", 1, 1)]);
    let [listener] = &config.listeners[..] else { panic!() };
    assert_eq!(listener.address, ListenAddress::Tcp("0.0.0.0:8080".parse().unwrap()));
    let Some(Found::Location { location, .. }) = config.servers[0].locate(b"/kylin/api/query") else { panic!() };
    let Action::Proxy(pass) = &location.action else { panic!() };
    assert_eq!((pass.upstream, pass.host.as_str(), &pass.uri), (0, "kylin", &PassUri::Unchanged));
    assert!(config.harmless.is_empty() && config.notes.is_empty());
    let report = config.report().to_string();
    let (understood, _always) = report.split_once("differs from nginx in every").unwrap();
    assert_eq!(
        understood,
        "upstream kylin: round robin
  1.1.1.1:7070  weight 1  max_fails 1 in 10s
  1.1.1.2:7070  weight 1  max_fails 1 in 10s
server 0.0.0.0:8080
  location / -> http://kylin
    next       error timeout
"
    );
}

#[test]
fn a_whole_nginx_conf_is_read() {
    let config = parse(FULL);
    let upstream = &config.upstreams[0];
    assert_eq!((upstream.keepalive, upstream.keepalive_timeout), (Some(16), Some(Duration::from_secs(15))));
    let [first, second, third] = &upstream.servers[..] else { panic!() };
    assert_eq!(
        (first.weight, first.max_conns, first.max_fails, first.fail_timeout),
        (5, 32, 3, Duration::from_secs(30))
    );
    assert!(second.down && third.backup && matches!(third.address, Address::Unix(_)));
    // Both locations that name a host share the group that is made for it.
    assert_eq!(
        config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>(),
        ["query", "10.0.0.9:7070"]
    );

    let server = &config.servers[0];
    let at = |path: &'static str| match server.locate(path.as_bytes()) {
        Some(Found::Location { location, .. }) => location,
        other => panic!("{other:?}"),
    };
    let kylin = &at("/kylin/x").settings;
    assert_eq!((kylin.read_timeout, kylin.max_body_size), (Some(Duration::from_secs(300)), Some(64 << 20)));
    let names: Vec<_> = kylin.set_headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["host", "x-forwarded-for", "cookie"], "a level with any line does not see the outer ones");
    assert!(kylin.next_upstream.on_status(502) && kylin.next_upstream.non_idempotent && kylin.next_upstream.tries == 2);
    assert!(!kylin.next_upstream.on_status(500));
    let hides = |name: &'static str| kylin.hides(&http::HeaderName::from_static(name));
    assert!(hides("x-powered-by") && hides("date") && !hides("server") && !hides("x-other"));
    assert!(kylin.real_ip.recursive && kylin.real_ip.trusted.len() == 2);
    let direct = &at("/direct").settings;
    assert_eq!((direct.set_headers.len(), direct.read_timeout), (1, Some(Duration::from_secs(1))));
    let ping = at("/ping");
    assert_eq!(ping.settings.add_headers.len(), 1);
    let Action::Return(reply) = &ping.action else { panic!() };
    assert_eq!((reply.status, reply.text.as_ref().and_then(Template::as_literal)), (200, Some("pong\n")));
    let Action::Proxy(pass) = &at("/kylin/x").action else { panic!() };
    let none = HeaderMap::new();
    let scope = Scope::new(&HttpMethod::GET, "/", b"/", &none);
    let redirects = pass.redirects(&scope);
    assert_eq!((&*redirects[0].0, &*redirects[0].1), (&b"http://Query/"[..], &b"/kylin/"[..]));

    let listener = &config.listeners[0];
    assert_eq!((config.listeners.len(), listener.default, listener.backlog), (2, 0, Some(512)));
    assert_eq!(listener.server_for(Some("other:8080")).0, 1);
    assert_eq!(listener.server_for(Some("a.kylin.example.org")).0, 0);
    assert_eq!(listener.server_for(None).0, 0);

    let report = config.report().to_string();
    for line in [
        "upstream query: least_conn, keepalive 16",
        "accepted, without effect here:",
        "  kylin.conf:3 events",
        "  location = /ping -> return 200 pong\\n",
        "    real ip    x-forwarded-for from 10.0.0.0/8 unix:, recursive",
    ] {
        assert!(report.lines().any(|shown| shown == line), "{line} in\n{report}");
    }
}

#[test]
fn an_error_shows_the_line_and_what_would_be_accepted() {
    let text = "upstream kylin {\n  # nodes\n    server 1.1.1.1:7070 wieght=2;\n}\n";
    let error = Config::parse("kylin.conf", text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kylin.conf:3:25: unknown parameter \"wieght=2\" of server, did you mean \"weight\"?
    server 1.1.1.1:7070 wieght=2;
                        ^
expected one of: weight=N, max_conns=N, max_fails=N, fail_timeout=TIME, backup, down"
    );
}

#[test]
fn every_mistake_has_its_message() {
    let server = |inside: &str| format!("{MANUAL}server {{ listen 81; {inside} }}");
    let location = |inside: &str| server(&format!("location / {{ {inside} }}"));
    let upstream = |inside: &str| format!("upstream u {{ {inside} }} {MANUAL}");
    for (text, kind, column, message) in [
        (upstream("server 1.1.1.1 weight=0;"), ErrorKind::Value, 29, "invalid number \"weight=0\""),
        (upstream("server 1.1.1.1 fail_timeout=5ms;"), ErrorKind::Value, 42, "invalid time \"5ms\""),
        (
            upstream("server 1.1.1.1 slow_start=5s;"),
            ErrorKind::Unsupported,
            29,
            "parameter \"slow_start=5s\" of server is not supported",
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
        (upstream("ip_hash; least_conn; server a;"), ErrorKind::Duplicate, 23, "load balancing method redefined"),
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
        (server("listen 443 ssl;"), ErrorKind::Unsupported, 32, "listen parameter \"ssl\" is not supported"),
        (server("listen 0;"), ErrorKind::Value, 28, "invalid listen address \"0\""),
        (server(""), ErrorKind::Missing, 1, "server with neither a location nor return: static files are not served"),
        (server("root /var/www;"), ErrorKind::Unsupported, 21, "\"root\" is not supported"),
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
            server("location @a { return 200; }"),
            ErrorKind::Unsupported,
            30,
            "named locations are not supported: nothing here jumps to one",
        ),
        (
            server("location /a { return 200; location /b { return 200; } }"),
            ErrorKind::Misplaced,
            56,
            "location \"/b\" is outside location \"/a\"",
        ),
        (
            location(""),
            ErrorKind::Missing,
            21,
            "location with neither proxy_pass nor return: static files are not served",
        ),
        (location("proxy_pass https://kylin;"), ErrorKind::Unsupported, 45, "https to a node is not supported"),
        (location("proxy_pass http://$host;"), ErrorKind::Unsupported, 45, "variables in proxy_pass are not supported"),
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
            "field \"Content-Length\" cannot be set by hand",
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
            location("return 200; proxy_cache zone;"),
            ErrorKind::Unsupported,
            46,
            "\"proxy_cache\" is supported as \"proxy_cache off\" only",
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
            "a line break or control character in a header field",
        ),
        (
            location("return 444;"),
            ErrorKind::Unsupported,
            41,
            "return 444 (closing without an answer) is not supported",
        ),
        (location("if ($host = a) { return 200; }"), ErrorKind::Unsupported, 34, "\"if\" is not supported"),
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

fn texts(notices: &[Notice]) -> Vec<&str> {
    notices.iter().map(|notice| notice.text.as_str()).collect()
}

/// A server that listens at port 81 with these parameters, and with these directives in it.
fn with(parameters: &str, directives: &str) -> Config {
    parse(&format!("server {{ listen 81 {parameters}; {directives} location / {{ return 200; }} }}"))
}

#[test]
fn what_listen_says_without_effect_is_listed() {
    let config = with(
        "default_server reuseport deferred bind so_keepalive=on fastopen=3 rcvbuf=8k sndbuf=8k http2 backlog=7",
        "",
    );
    let expected = ["reuseport", "deferred", "bind", "so_keepalive=on", "fastopen=3", "rcvbuf=8k", "sndbuf=8k"];
    assert_eq!(texts(&config.harmless), expected.map(|parameter| format!("listen ... {parameter}")));
    assert_eq!((config.listeners[0].backlog, texts(&config.notes)), (Some(7), vec![]));
}

#[test]
fn trailers_that_are_to_be_passed_are_noted() {
    let off = with("", "proxy_pass_trailers off;");
    assert_eq!((texts(&off.harmless), texts(&off.notes)), (vec!["proxy_pass_trailers"], vec![]));
    let on = with("", "proxy_pass_trailers on;");
    assert!(on.harmless.is_empty() && on.notes[0].text.starts_with("proxy_pass_trailers on: "), "{:?}", on.notes);
}

#[test]
fn keepalive_refused_at_some_addresses_only_is_noted() {
    let two = |first: &str, second: &str| {
        let server =
            |port, inside: &str| format!("server {{ listen {port}; {inside} location / {{ return 200; }} }}\n");
        parse(&(server(81, first) + &server(82, second)))
    };
    let none = "keepalive_timeout 0;";
    for (first, second, lines) in [(none, none, vec![]), ("", "", vec![]), (none, "", vec![1]), ("", none, vec![2])] {
        let config = two(first, second);
        assert_eq!(config.notes.iter().map(|note| note.line).collect::<Vec<_>>(), lines, "{:?}", config.notes);
    }
}

#[test]
fn limits_on_connections_in_a_location_are_noted() {
    let config = parse("server { listen 81; location / { send_timeout 1s; keepalive_timeout 0; return 200; } }");
    let notes = texts(&config.notes);
    assert!(notes.len() == 2 && notes[0].starts_with("send_timeout in a location"), "{notes:?}");
    assert!(notes[1].starts_with("keepalive_timeout in a location"), "{notes:?}");
}

#[test]
fn a_request_head_is_bounded_whatever_the_file_says() {
    for (value, bytes, notes) in [
        ("4 8k", 32 << 10, 0),
        ("1 1m", 1 << 20, 0),
        ("2 1m", 1 << 20, 1),
        ("4294967295 9223372036854775807", 1 << 20, 1),
    ] {
        let config = with("", &format!("large_client_header_buffers {value};"));
        assert_eq!(config.servers[0].settings.max_head_bytes, Some(bytes), "{value}");
        assert_eq!(config.notes.len(), notes, "{value}");
    }
}

#[test]
fn a_time_too_long_to_compute_with_is_an_error() {
    for time in ["9999999999999d", "36501d", "18446744073709551615"] {
        let text = format!("server {{ listen 81; client_header_timeout {time}; location / {{ return 200; }} }}");
        let error = Config::parse("x", &text).unwrap_err();
        assert_eq!(error.message(), format!("invalid time \"{time}\""));
    }
}

#[test]
fn a_prefix_stands_once() {
    let text = format!("upstream u {{ server 1.1.1.1 fail_timeout=fail_timeout=5s; }} {MANUAL}");
    assert_eq!(Config::parse("x", &text).unwrap_err().message(), "invalid time \"fail_timeout=5s\"");
}

#[cfg(feature = "server")]
#[test]
fn a_server_gets_the_limits_of_its_addresses() {
    let config = "server { listen 127.0.0.1:81 backlog=7; send_timeout 1s; location / { return 200; } }
        server { listen 127.0.0.1:82 backlog=70; send_timeout 2s; location / { return 200; } }";
    let site = Site::new(parse(config)).unwrap();
    let all = format!("{:?}", site.server());
    assert!(all.contains("backlog: 70,") && all.contains("send_timeout: 2s"), "{all}");
    let one = format!("{:?}", site.server_on("127.0.0.1:0".parse().unwrap()));
    assert!(one.contains("backlog: 7,") && one.contains("send_timeout: 1s"), "{one}");
    assert!(one.contains("127.0.0.1:0") && !one.contains(":81") && !one.contains(":82"), "{one}");
    // Where one address says nothing the default is the least.
    let site = Site::new(parse(&config.replace("backlog=70", ""))).unwrap();
    assert!(format!("{:?}", site.server()).contains("backlog: 1024,"));
}

#[test]
fn a_missing_file_is_an_error_with_its_cause() {
    let error = Config::read("/nonexistent/kylin.conf").unwrap_err();
    assert_eq!((error.kind(), error.line()), (ErrorKind::Io, 0));
    assert!(error.to_string().starts_with("/nonexistent/kylin.conf: cannot be read: "), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::parse("x", &String::from_utf8_lossy(&bytes)).map_err(|error| error.to_string());
    }

    #[test]
    fn any_words_are_read_or_refused(text in "(server|upstream|location|proxy_pass|listen|http|[ ;{}\"'$~=@/#\\\\\n]|80|\\$\\{|http://a){0,40}") {
        let _ = Config::parse("x", &text).map_err(|error| error.to_string());
    }

    #[test]
    fn a_mutated_configuration_is_read_or_refused(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..3, any::<char>()), 1..6),
        special in "[;{}\"'$\\\\ #~:/\\[\\]]",
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (index, edit, other) in edits {
            let at = index.index(text.len());
            match edit {
                0 => drop(text.remove(at)),
                1 => text[at] = special.chars().next().unwrap_or(other),
                _ => text.insert(at, other),
            }
        }
        let text: String = text.into_iter().collect();
        match Config::parse("x", &text) {
            Ok(config) => drop(config.report().to_string()),
            Err(error) => prop_assert!(error.to_string().starts_with("x:"), "{}", error),
        }
    }
}
