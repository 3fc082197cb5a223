//! `# kylin_lb:` comments, and which upstreams consist of Kylin nodes.

use super::super::applied::{Applied, applied};
use super::super::options::KylinOptions;
use super::*;

fn refused(text: &str) -> (ErrorKind, u32, u32, String) {
    let error = Config::parse("x", text).unwrap_err();
    (error.kind(), error.line(), error.column(), error.message().to_owned())
}

fn of(text: &str) -> Vec<Applied> {
    applied(&parse(text), &KylinOptions::default())
}

#[test]
fn a_comment_sets_what_nginx_has_no_directive_for() {
    let config = parse(
        "upstream kylin { # kylin_lb: sessions cookie; policy least-conn; # the rest is a comment
            server a; # Kylin Server 1
            # kylin_lb: probe tcp;
        }
        upstream other { server b; }
        server {
            # kylin_lb: panic off; sessions user;
            location / { proxy_pass http://kylin; }
            location /kylin/api/ { proxy_pass http://other; }
        }",
    );
    let [kylin, other] = &applied(&config, &KylinOptions::default())[..] else { panic!() };
    let text = |applied: &Applied| {
        let Applied { kylin, sessions, policy, probe, panic, .. } = applied;
        let policy = policy.value.map(|policy| policy.to_string()).unwrap_or_default();
        format!("{} {} {} {} {}", kylin.value, sessions.value, policy, probe.value, panic.value)
    };
    assert_eq!(text(kylin), "true a signed cookie of the front end least-conn tcp false", "the upstream is closer");
    assert_eq!(text(other), "true by user  auto false");
    assert_eq!(kylin.sessions.why, "comment at kylin.conf:1");
    assert_eq!(other.sessions.why, "comment at kylin.conf:7");
    let report = config.report().to_string();
    assert!(report.contains("  sessions   a signed cookie of the front end (comment at kylin.conf:1)\n"), "{report}");
}

#[test]
fn a_comment_that_is_unknown_misplaced_or_contradicted_is_an_error() {
    let site = "server { listen 81; location / { proxy_pass http://u; } }";
    let upstream = |inside: &str| format!("upstream u {{ server a; {inside} }} {site}");
    for (text, kind, line, column, message) in [
        ("# kylin_lb: sessions memory;\n".to_owned() + site, ErrorKind::Misplaced, 1, 1, "outside an upstream"),
        (
            format!("events {{\n # kylin_lb: kylin on;\n}} http {{ {site} }}"),
            ErrorKind::Misplaced,
            2,
            2,
            "outside an upstream",
        ),
        (
            "server { location / {\n # kylin_lb: kylin on;\n return 200; } }".into(),
            ErrorKind::Misplaced,
            2,
            2,
            "outside an upstream",
        ),
        (upstream("server b # kylin_lb: kylin on;\n;"), ErrorKind::Misplaced, 1, 33, "inside a directive"),
        (upstream("# kylin-lb: kylin on;\n"), ErrorKind::Syntax, 1, 24, "looks like"),
        (upstream("# kylin_lb kylin on;\n"), ErrorKind::Syntax, 1, 24, "looks like"),
        (
            format!("stream {{ upstream s {{ server a:1;\n# kylin_lb: kylin on;\n}} }} http {{ {} }}", upstream("")),
            ErrorKind::Misplaced,
            2,
            1,
            "outside an upstream",
        ),
        (
            upstream("") + "server { listen 82;\n# kylin_lb: sessions none;\nreturn 301 http://x; }",
            ErrorKind::Misplaced,
            2,
            13,
            "in a server that passes requests to no upstream",
        ),
        (
            upstream("") + "server { listen 82;\n# kylin_lb: sesions none;\nlocation / { fastcgi_pass a:9000; } }",
            ErrorKind::Misplaced,
            2,
            13,
            "in a server that passes requests to no upstream",
        ),
        (
            upstream("least_conn;").replace("listen 81;", "listen 81;\n# kylin_lb: policy ip-hash;\n"),
            ErrorKind::Duplicate,
            2,
            13,
            "policy of kylin_lb, which a directive in each upstream",
        ),
        (
            upstream("sticky cookie c;").replace("listen 81;", "listen 81;\n# kylin_lb: sessions none;\n"),
            ErrorKind::Duplicate,
            2,
            13,
            "sessions of kylin_lb, which a directive in each upstream",
        ),
        (
            upstream("ip_hash;").replace("listen 81;", "listen 81;\n# kylin_lb: sessions memory;\n"),
            ErrorKind::Duplicate,
            2,
            13,
            "sessions of kylin_lb, which a directive in each upstream",
        ),
        (upstream("# kylin_lb: sesions memory;\n"), ErrorKind::Unknown, 1, 36, "did you mean \"sessions\"?"),
        (upstream("# kylin_lb: server b;\n"), ErrorKind::Unknown, 1, 36, "unknown setting \"server\""),
        (upstream("# kylin_lb: sessions memory\n"), ErrorKind::Syntax, 1, 36, "the comment ends inside a directive"),
        (upstream("# kylin_lb:\n"), ErrorKind::Syntax, 1, 24, "says nothing"),
        (upstream("# kylin_lb: kylin { }\n"), ErrorKind::Syntax, 1, 42, "a brace"),
        (upstream("# kylin_lb: kylin;\n"), ErrorKind::Value, 1, 36, "takes one value"),
        (upstream("# kylin_lb: kylin maybe;\n"), ErrorKind::Value, 1, 42, "invalid value of \"kylin\""),
        (upstream("# kylin_lb: policy best;\n"), ErrorKind::Value, 1, 43, "invalid value of \"policy\""),
        (upstream("# kylin_lb: kylin on; kylin on;\n"), ErrorKind::Duplicate, 1, 46, "is duplicate"),
        (upstream("# kylin_lb: policy ip-hash;\n least_conn;"), ErrorKind::Duplicate, 1, 36, "beside a balancing"),
        (upstream("# kylin_lb: sessions user;\n sticky cookie c;"), ErrorKind::Duplicate, 1, 36, "beside sticky"),
        (upstream("sessions memory;"), ErrorKind::Unknown, 1, 24, "unknown directive \"sessions\""),
        (
            format!(
                "upstream u {{ server a; }} {}\n{}",
                site.replace("location", "# kylin_lb: sessions user;\nlocation"),
                site.replace("location", "# kylin_lb: sessions none;\nlocation").replace("81", "82")
            ),
            ErrorKind::Duplicate,
            3,
            1,
            "two servers set \"sessions\"",
        ),
    ] {
        let found = refused(&text);
        assert!(found.3.contains(message), "{text}: {found:?}");
        assert_eq!((found.0, found.1, found.2), (kind, line, column), "{text}: {found:?}");
    }
}

#[test]
fn an_error_hides_the_password_of_an_address() {
    let text = "upstream u { server a; # kylin_lb: sessions gopher://me:hunter2@h/1;\n }";
    let error = Config::parse("x", text).unwrap_err().to_string();
    assert!(!error.contains("hunter2") && error.contains("gopher://**********@h/1;"), "{error}");
}

#[test]
fn an_upstream_is_of_kylin_if_it_gets_paths_below_kylin() {
    let site = |locations: &str| {
        format!("upstream k {{ server k:7070; }} upstream o {{ server o:3000; }} server {{ listen 81; {locations} }}")
    };
    for (locations, expected) in [
        ("location / { proxy_pass http://k; }", [true, false]),
        ("location / { proxy_pass http://o; } location /kylin/ { proxy_pass http://k; }", [true, false]),
        ("location / { proxy_pass http://o; } location /kylin { proxy_pass http://k; }", [true, false]),
        ("location / { proxy_pass http://o; } location ~ ^/kylin/ { proxy_pass http://k; }", [true, false]),
        ("location / { proxy_pass http://k; } location /grafana/ { proxy_pass http://o/; }", [true, false]),
        ("location /bi/ { proxy_pass http://k/kylin/; } location / { proxy_pass http://o; }", [true, false]),
        (
            "location /kylin/ { proxy_pass http://k; } location = /kylin/api/query { proxy_pass http://o; }",
            [true, true],
        ),
        ("location ~ ^/kylin/api/cubes/.*/build { proxy_pass http://k; } location / { return 404; }", [true, false]),
        ("location /kylin/ { proxy_pass http://k/base/; }", [false, false]),
        ("return 200; location / { proxy_pass http://k; }", [false, false]),
        ("set $base /kylin; location /x/ { proxy_pass http://o$base/api/; }", [false, true]),
        ("location /x/ { proxy_pass http://o//k%79lin/$arg_x; }", [false, true]),
        ("location /x/ { set $a /ky; rewrite ^/x/(.*)$ ${a}lin/$1 break; proxy_pass http://o; }", [false, true]),
        ("location /x/ { proxy_pass http://k/$arg_path; } location / { return 404; }", [true, false]),
        ("location /x/ { rewrite ^/x(/.*)$ $1 break; proxy_pass http://o; }", [false, true]),
        (
            "location / { proxy_pass http://o; } location /x/ { proxy_pass http://k/kylin/; }
             location /y/ { rewrite ^/y/(.*)$ /kylin/$1 last; }",
            [true, true],
        ),
        (
            "rewrite ^/start$ /kylin/ last; location / { proxy_pass http://k; } location /o/ { proxy_pass http://o; }",
            [true, false],
        ),
        (
            "rewrite ^/start$ /kylin/start.do last; location / { proxy_pass http://k; } location ~ do$ { proxy_pass http://o; }",
            [true, true],
        ),
        ("location / { error_page 502 = @o; proxy_pass http://k; } location @o { proxy_pass http://o; }", [true, true]),
        ("location / { return 404; } location @o { proxy_pass http://o; }", [false, false]),
        (
            "location /o/ { rewrite ^/o/(.*)$ /o/api/$1 break; proxy_pass http://o; } location / { return 404; }",
            [false, false],
        ),
        ("# kylin_lb: kylin on;\n location /x/ { proxy_pass http://o; }", [false, true]),
        ("# kylin_lb: kylin off;\n location / { proxy_pass http://k; }", [false, false]),
    ] {
        let found: Vec<_> = of(&site(locations)).iter().map(|applied| applied.kylin.value).collect();
        assert_eq!(found, expected, "{locations}");
    }
    // Tomcat reads `/x/..;/kylin` as `/kylin`, but nginx does not.
    let same = "upstream k { server a:7070; } upstream o { server b; server a:7070; }
        server { listen 81; location /kylin/ { proxy_pass http://k; } location / { proxy_pass http://o; } }";
    assert_eq!(of(same)[1].kylin.why, "it has a server of upstream k");
}

/// A location for all paths is not a sign of Kylin if the file names Kylin elsewhere.
#[test]
fn sites_of_others_have_no_kylin_in_them() {
    const KYLIN: &str = "upstream nodes_of_kylin { server 10.9.9.9:80; } server { listen 99; location / { proxy_pass http://nodes_of_kylin; } }";
    for (site, expected) in [
        ("upstream grafana { server 10.0.0.1:3000; } server { listen 81; location / { proxy_pass http://grafana; } }", None),
        ("upstream app { ip_hash; server app1:8080; server app2:8080; } server { listen 81; server_name shop.example;
            location / { proxy_pass http://app; } location /static/ { proxy_pass http://app/assets/; } }", None),
        ("server { listen 81; server_name jenkins.example; location / { proxy_pass http://127.0.0.1:8080; } }", None),
        ("upstream php { server unix:/run/php.sock; } server { listen 81; location ~ \\.php$ { proxy_pass http://php; }
            location / { proxy_pass http://php; } }", None),
        ("upstream kapok { server kapok-1:80; } server { listen 81; location / { proxy_pass http://kapok; } }", None),
        ("upstream u { server a:8080; } server { listen 81; location / { proxy_pass http://u; } }", None),
        ("upstream kylin { server 1.1.1.1:80; } server { listen 81; location / { proxy_pass http://kylin; } }", Some("passes /kylin/api/query")),
        ("upstream u { server 1.1.1.1:7070; } server { listen 81; location / { proxy_pass http://u; } }", Some("1.1.1.1:7070 has a port of Kylin")),
        ("upstream u { server a:17070; } server { listen 81; location / { proxy_pass http://u; } }", Some("a:17070 has a port")),
        ("upstream u { server kap-1:80; } server { listen 81; location / { proxy_pass http://u; } }", Some("kap-1:80 has that name")),
        ("upstream u { server a:80; } server { listen 81; server_name Kylin.example; location / { proxy_pass http://u; } }", Some("server_name is")),
        ("upstream u { server a:80; } server { listen 81; location / { proxy_pass http://u/kylin/; } }", Some("passes /kylin/")),
        ("upstream u { server a:80; } server { listen 81; location ^~ /kylin { proxy_pass http://u; } }", Some("passes /kylin")),
    ] {
        let beside = format!("{site} {KYLIN}");
        let applied = of(&beside);
        // An address in `proxy_pass` becomes a group after the named ones.
        let kylin = &applied[usize::from(!site.starts_with("upstream"))].kylin;
        assert_eq!(kylin.value, expected.is_some(), "{site}: {}", kylin.why);
        // Alone it counts as Kylin's, because Kylin without the guard would be open.
        let alone = of(site);
        assert!(alone[0].kylin.value, "{site}: {}", alone[0].kylin.why);
        let why = expected.unwrap_or("passes all paths, but no path, name or port says Kylin: # kylin_lb: kylin on;");
        assert!(kylin.why.contains(why), "{site}: {}", kylin.why);
        let report = parse(&beside).report().to_string();
        assert!(report.contains(&kylin.why), "{report}");
    }
}

#[test]
fn a_directive_of_the_upstream_is_closer_than_an_option() {
    let options = KylinOptions {
        kylin: Some(false),
        sessions: Some(SessionMode::NONE),
        policy: Some(PolicyName::LeastConn),
        probe: Some(ProbeMode::Version),
        outlier: Some(false),
        drain: Some(false),
        single_flight: Some(false),
        panic: Some(false),
        queue: Some(false),
        resource_groups: None,
    };
    let upstreams = "upstream a { server a; } upstream b { ip_hash; server b; }
        upstream c { sticky cookie x; server c; } upstream d { # kylin_lb: kylin on; sessions route;
        random; server d; } upstream e { server e max_fails=3; }";
    let locations = ["a", "b", "c", "d"].map(|name| format!("location /kylin/{name}/ {{ proxy_pass http://{name}; }}"));
    let other = "location /e/ { proxy_pass http://e; }";
    let config = parse(&format!("{upstreams} server {{ {} {other} }}", locations.concat()));
    let text = |applied: &Applied| {
        let Applied { kylin, sessions, policy, probe, outlier, .. } = applied;
        format!("{} | {} | {:?} | {} | {}", kylin.value, sessions.value, policy.value, probe.value, outlier.value)
    };
    let found: Vec<_> = applied(&config, &options).iter().map(text).collect();
    assert_eq!(
        found,
        [
            "false | not kept | Some(LeastConn) | version | false",
            "false | not kept | None | version | false",
            "false | sticky | Some(LeastConn) | version | false",
            "true | the jvmRoute in session ids | None | version | false",
            "false | not kept | Some(LeastConn) | none | false",
        ]
    );
    let rule = |index: usize, applied: &Applied| applied.ejection(&config.upstreams[index].servers[0]);
    let applied = applied(&config, &options);
    let max_fails = |max_fails| EjectionRule::MaxFails { max_fails, fail_timeout: Duration::from_secs(10) };
    assert_eq!((rule(0, &applied[0]), rule(4, &applied[4])), (max_fails(1), max_fails(3)));
}
