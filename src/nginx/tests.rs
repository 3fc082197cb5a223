//! Whole configurations: how they are understood, and their error messages.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::{HeaderMap, Method as HttpMethod};
use proptest::prelude::*;

use super::directives::location::{Action, LocationMatch, PassUri};
use super::directives::remarks::Notice;
use super::directives::server::ListenAddress;
use super::directives::upstream::{EjectionRule, Method, UpstreamServer};
use super::variables::{Scope, Template};
use super::*;
use crate::admission::QueueRules;
use crate::backend::http1::Address;
use crate::kylin::NormalizedPath;

mod comments;
mod left_out;
mod mistakes;
mod pages;
mod sticky;
mod unservable;

/// The configuration of the KAP manual.
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
    assert_eq!(upstream.name, "kylin");
    assert!(matches!(upstream.method, Method::RoundRobin));
    let servers: Vec<_> =
        upstream.servers.iter().map(|server| (server.written.as_str(), server.weight, server.ejection())).collect();
    let rule = EjectionRule::Outlier;
    assert_eq!(servers, [("1.1.1.1:7070", 1, rule), ("1.1.1.2:7070", 1, rule)]);
    let [listener] = &config.listeners[..] else { panic!() };
    assert_eq!(listener.address, ListenAddress::Tcp("0.0.0.0:8080".parse().unwrap()));
    let Some(LocationMatch::Location { location, .. }) =
        config.servers[0].locate(&NormalizedPath::parse("/kylin/api/query").unwrap())
    else {
        panic!()
    };
    let Action::Proxy(pass) = &location.action else { panic!() };
    assert_eq!((pass.upstream, pass.host.as_str(), &pass.uri), (0, "kylin", &PassUri::Unchanged));
    assert!(config.ignored.is_empty() && config.notes.is_empty());
    let report = config.report().to_string();
    let (understood, _always) = report.split_once("differs from nginx in every").unwrap();
    assert_eq!(
        understood,
        "upstream kylin: round robin
  kylin      on (location / of server 0.0.0.0:8080 passes /kylin/api/query)
  sessions   learned from the nodes' cookies, in memory (default)
  policy     default
  probe      auto (default)
  outlier    on (default)
  drain      on (default)
  single_flight on (default)
  panic      on (default)
  1.1.1.1:7070  weight 1  outlier rule (neither max_fails nor fail_timeout is written)
  1.1.1.2:7070  weight 1  outlier rule (neither max_fails nor fail_timeout is written)
server 0.0.0.0:8080
  location / -> http://kylin
    next       error timeout
    kylin      below /kylin the kind of request decides: no write is sent twice
    time-out   slow, not a failure: max_fails and timeout of proxy_next_upstream are not both written
"
    );
}

#[test]
fn one_parameter_of_nginxs_rule_is_enough_for_it_and_the_other_has_nginxs_default() {
    let servers = "server a; server b max_fails=3; server c fail_timeout=30s; server d max_fails=0;";
    let site = |next: &str| {
        parse(&format!("upstream u {{ {servers} }} server {{ location / {{ proxy_pass http://u; }} {next} }}"))
    };
    let config = site("");
    let rules: Vec<_> = config.upstreams[0].servers.iter().map(UpstreamServer::ejection).collect();
    let rule = |max_fails, seconds| EjectionRule::MaxFails { max_fails, fail_timeout: Duration::from_secs(seconds) };
    assert_eq!(rules, [EjectionRule::Outlier, rule(3, 10), rule(1, 30), rule(0, 10)]);
    for (next, counts) in [
        ("", false),
        ("proxy_next_upstream error;", false),
        ("proxy_next_upstream off;", false),
        ("proxy_next_upstream timeout;", true),
        ("proxy_next_upstream http_503 timeout error;", true),
    ] {
        let report = site(next).report().to_string();
        assert_eq!(report.contains("time-out   a failure of servers with max_fails"), counts, "{next}: {report}");
    }
    let report = config.report().to_string();
    for part in
        ["a  weight 1  outlier rule", "b  weight 1  max_fails 3 in 10s", "d  weight 1  max_fails 0 (never ejected)"]
    {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[test]
fn a_whole_nginx_conf_is_read() {
    let config = parse(FULL);
    let upstream = &config.upstreams[0];
    assert_eq!((upstream.keepalive, upstream.keepalive_timeout), (Some(16), Some(Duration::from_secs(15))));
    let [first, second, third] = &upstream.servers[..] else { panic!() };
    assert_eq!(
        (first.weight, first.max_conns, first.ejection()),
        (5, 32, EjectionRule::MaxFails { max_fails: 3, fail_timeout: Duration::from_secs(30) })
    );
    assert!(second.down && third.backup && matches!(third.address, Address::Unix(_)));
    // Both locations that name the host share the group that is made for it.
    assert_eq!(
        config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect::<Vec<_>>(),
        ["query", "10.0.0.9:7070"]
    );

    let server = &config.servers[0];
    let at = |path: &'static str| match server.locate(&NormalizedPath::parse(path).unwrap()) {
        Some(LocationMatch::Location { location, .. }) => location,
        other => panic!("{other:?}"),
    };
    let kylin = &at("/kylin/x").settings;
    assert_eq!((kylin.read_timeout, kylin.max_body_size), (Some(Duration::from_secs(300)), Some(64 << 20)));
    let names: Vec<_> = kylin.set_headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["host", "x-forwarded-for", "cookie"], "a level with any line does not see the outer ones");
    assert!(
        kylin.next_upstream.on_status(502)
            && kylin.next_upstream.has("non_idempotent")
            && kylin.next_upstream.tries == 2
    );
    assert!(!kylin.next_upstream.on_status(500));
    let hides = |name: &'static str| kylin.hides(&http::HeaderName::from_static(name));
    assert!(hides("x-powered-by") && hides("date") && !hides("server") && !hides("x-other"));
    assert!(kylin.real_ip.recursive && kylin.real_ip.trusted() == ["10.0.0.0/8", "unix:"]);
    let direct = &at("/direct").settings;
    assert_eq!((direct.set_headers.len(), direct.read_timeout), (1, Some(Duration::from_secs(1))));
    let ping = at("/ping");
    assert_eq!(ping.settings.add_headers.len(), 1);
    let Action::Return(reply) = &ping.action else { panic!() };
    assert_eq!((reply.status, reply.text.as_ref().and_then(Template::as_literal)), (200, Some("pong\n")));
    let Action::Proxy(pass) = &at("/kylin/x").action else { panic!() };
    let none = HeaderMap::new();
    let scope = Scope::new(&HttpMethod::GET, "/", b"/", &none);
    let redirects = pass.redirects(kylin, &scope);
    assert_eq!(redirects[0].apply(b"http://Query/x").as_deref(), Some(&b"/kylin/x"[..]));

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
    assert!(report.contains("user: this process does not change its user"), "{report}");
}

fn texts(notices: &[Notice]) -> Vec<&str> {
    notices.iter().map(|notice| notice.text.as_str()).collect()
}

/// A server that listens at port 81 with these parameters, and with these directives in it.
fn with(parameters: &str, directives: &str) -> Config {
    parse(&format!("server {{ listen 81 {parameters}; {directives} location / {{ return 200; }} }}"))
}

#[test]
fn parameters_of_listen_without_effect_are_listed() {
    let config = with(
        "default_server reuseport deferred bind so_keepalive=on fastopen=3 rcvbuf=8k sndbuf=8k http2 backlog=7",
        "",
    );
    let expected = ["reuseport", "deferred", "bind", "so_keepalive=on", "fastopen=3", "rcvbuf=8k", "sndbuf=8k"];
    assert_eq!(texts(&config.ignored), expected.map(|parameter| format!("listen ... {parameter}")));
    assert_eq!((config.listeners[0].backlog, texts(&config.notes)), (Some(7), vec![]));
}

#[test]
fn passing_trailers_is_noted() {
    let off = with("", "proxy_pass_trailers off;");
    assert_eq!((texts(&off.ignored), texts(&off.notes)), (vec!["proxy_pass_trailers"], vec![]));
    let on = with("", "proxy_pass_trailers on;");
    assert!(on.ignored.is_empty() && on.notes[0].text.starts_with("proxy_pass_trailers on: "), "{:?}", on.notes);
}

#[test]
fn keepalive_off_at_some_addresses_only_is_noted() {
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
fn a_request_head_is_bounded_with_any_configuration() {
    for (value, buffers, notes) in [
        ("4 8k", (4, 8 << 10), 0),
        ("1 1m", (1, 1 << 20), 0),
        ("2 1m", (2, 1 << 20), 1),
        ("4294967295 9223372036854775807", (u32::MAX, i64::MAX as u64), 1),
    ] {
        let config = with("", &format!("large_client_header_buffers {value};"));
        assert_eq!(config.servers[0].settings.head_buffers, Some(buffers), "{value}");
        assert_eq!(config.notes.len(), notes, "{value}");
    }
}

#[test]
fn a_time_over_100_years_is_an_error() {
    for time in ["9999999999999d", "36501d", "18446744073709551615"] {
        let text = format!("server {{ listen 81; client_header_timeout {time}; location / {{ return 200; }} }}");
        let error = Config::parse("x", &text).unwrap_err();
        assert_eq!(error.message(), format!("invalid time \"{time}\""));
    }
}

#[test]
fn the_value_of_a_parameter_begins_at_its_first_equals_sign() {
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
    // An address without `backlog=` counts with the default.
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

#[test]
fn queries_wait_for_full_servers_as_queue_says_and_by_default() {
    let text = |inside: &str| {
        format!(
            "events {{}} http {{ upstream kylin {{ server 1.1.1.1:7070 max_conns=8; {inside}\n }} server {{ listen 80; location / {{ proxy_pass http://kylin; }} }} }}"
        )
    };
    let rules = |inside: &str| {
        let config = parse(&text(inside));
        let applied = super::applied::applied(&config, &super::options::KylinOptions::default());
        let report = config.report().to_string();
        (applied[0].queue.value, report.lines().find(|line| line.starts_with("  queue")).map(str::to_owned))
    };
    let line = |line: &str| Some(format!("  queue      {line}"));
    let default = QueueRules::new();
    assert_eq!(rules(""), (Some(default), line("on (default)")));
    let of_file = default.max_waiting(NonZeroUsize::new(100)).max_wait(Duration::from_secs(70)).unwrap();
    assert_eq!(rules("queue 100 timeout=70s;"), (Some(of_file), line("on (queue in the file)")));
    let (off, said) = rules("queue 100; # kylin_lb: queue off;");
    assert!(off.is_none() && said.unwrap().contains("off (comment at kylin.conf:"));
    assert_eq!(rules("# kylin_lb: kylin off;"), (None, line("off (no Kylin)")));
    for wrong in
        ["queue 0;", "queue 5 timeout=0;", "queue 5 time=1s;", "queue;", "queue 5; queue 6;", "queue 5 timeout=1s x;"]
    {
        assert!(Config::parse("kylin.conf", &text(wrong)).is_err(), "{wrong}");
    }
}

#[cfg(feature = "htpasswd")]
#[test]
fn a_password_reaches_the_nodes_unless_its_header_is_taken_out() {
    for (lines, is_noted) in [("", true), ("proxy_set_header Authorization \"\";", false), ("auth_basic off;", false)] {
        let text = format!(
            "auth_basic k; auth_basic_user_file /nowhere/users;
             server {{ location / {{ {lines} proxy_pass http://k:7070; }} }}"
        );
        let report = parse(&text).report().to_string();
        assert_eq!(report.contains("Kylin reads it as a login"), is_noted, "{report}");
        assert!(report.contains("auth_basic_user_file /nowhere/users: No such file"), "{report}");
    }
}
