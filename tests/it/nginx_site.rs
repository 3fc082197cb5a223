//! Serves one configuration with a real nginx and with this crate, and compares the responses and
//! the node's requests.

use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};

use crate::support::front::closed_port;
use crate::support::http::{Connection, RawResponse};
use crate::support::{Nginx, require_nginx};

/// Starts a node that responds with the request that it got. Paths with `/moved` redirect.
fn node() -> Server {
    let echo = |_peer: ClientAddr, request: Request<Body>| async move {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        for (name, value) in request.headers() {
            lines.push(format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        lines[1..].sort();
        let mut response = Response::new(Body::from(lines.join("\n")));
        let headers = response.headers_mut();
        headers.insert("x-secret", HeaderValue::from_static("hidden"));
        headers.insert("x-kept", HeaderValue::from_static("kept"));
        headers.insert(header::SERVER, HeaderValue::from_static("Tomcat"));
        if request.uri().path().contains("/moved") {
            *response.status_mut() = StatusCode::FOUND;
            let host = if request.uri().path().contains("/nodes") { "nodes" } else { "other.example" };
            response.headers_mut().insert(header::LOCATION, format!("http://{host}/base/login?x=1").parse().unwrap());
        }
        response
    };
    Server::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), echo)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap()
}

/// The configuration. Each of its directives is compared with nginx.
const CONFIGURATION: &str = r#"
upstream nodes { server NODE; }
# Both name the node the same way; see the list of differences.
proxy_set_header Host $http_host;
proxy_http_version 1.1;
proxy_set_header Connection "";

server {
    listen 127.0.0.1:@front@ default_server;
    server_name kylin.example *.lb.example;
    set_real_ip_from 127.0.0.1;
    set_real_ip_from 10.0.0.0/8;
    real_ip_header X-Forwarded-For;
    real_ip_recursive on;
    client_max_body_size 64;

    location / { proxy_pass http://nodes; proxy_hide_header X-Secret; add_header X-Added yes; }
    location /kylin/ { proxy_pass http://nodes/base/; add_header X-Where "$uri from $remote_addr" always; }
    location /nodes/moved { proxy_pass http://nodes/base/moved/nodes; }
    location = /exact { return 200 "exact $request_method $arg_a\n"; }
    location ^~ /static/ { return 404; }
    location ~ ^/user/(\w+)/(.*)$ {
        proxy_pass http://nodes;
        proxy_set_header Host $http_host;
        proxy_set_header X-User $1;
        proxy_set_header X-Rest $2;
    }
    location ~* \.(gif|jpg)$ { default_type image/gif; return 403 "no pictures of $host"; }
    location /headers {
        proxy_pass http://nodes;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-All "$scheme $server_name $server_port $request_uri [$args] $is_args $http_user_agent $cookie_jsessionid";
        proxy_set_header X-Gone "";
    }
    location /login { return 302 http://$host/kylin/login?from=$request_uri; }
    location /big { client_max_body_size 0; proxy_pass http://nodes; }
}
server {
    listen 127.0.0.1:@front@;
    server_name other.example ~^q(\d+)\.example$;
    add_header X-Server second;
    location / { return 200 "second $server_name $1"; }
}
"#;

/// Returns the requests, without their final empty line.
fn requests() -> Vec<String> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: kylin.example");
    let mut requests: Vec<String> = [
        "/",
        "/?",
        "/?a=b",
        "/x/../y",
        "/%6bylin/x",
        "/kylin/a%20b",
        "/kylin/a%26b?q=%20",
        "/kylin//x/./y?z",
        "/kylin/",
        "/kylin",
        "/kylin/../kylin/q",
        "/exact?a=1",
        "/exact/",
        "/static/x.gif",
        "/user/ann/a/b?c=d",
        "/user/",
        "/a.GIF?type",
        "/a.png",
        "/headers?one=1&two=2",
        "/login?next",
        "/a/moved",
        "/nodes/moved",
        "/kylin/moved",
        "/../etc",
        "/%",
        "/a%00b",
        "/%zz",
        "/static/../x",
        "//double//slash",
        "/kylin/%c3%a9t%C3%A9",
    ]
    .map(get)
    .into();
    requests.extend(
        [
            "Host: KYLIN.example:8080",
            "Host: a.lb.example",
            "Host: other.example",
            "Host: q17.example",
            "Host: unknown.example",
            "Host: kylin.example.",
        ]
        .map(|host| format!("GET /headers HTTP/1.1\r\n{host}")),
    );
    requests.extend(
        [
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1",
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 10.2.2.2",
            "X-Forwarded-For: unknown",
            "X-Forwarded-For: 2001:db8::1",
            "User-Agent: test/1\r\nCookie: a=b; JSESSIONID=42.node; c=d",
            "Cookie: jsessionid=lower",
            "X-Gone: still here\r\nX-Other: stays",
            "X_Underscored: dropped",
            "X.Dotted: dropped\r\nX!: dropped\r\nX-Other: stays\r\nx1: stays",
        ]
        .map(|headers| format!("{}\r\n{headers}", get("/headers"))),
    );
    requests.push(format!("{}\r\nContent-Length: 3\r\n\r\nabc", get("/headers").replacen("GET", "POST", 1)));
    requests.push(format!("{}\r\nContent-Length: 65\r\n\r\n{}", get("/x").replacen("GET", "PUT", 1), "x".repeat(65)));
    requests.push(format!("{}\r\nContent-Length: 65\r\n\r\n{}", get("/big").replacen("GET", "PUT", 1), "x".repeat(65)));
    requests.push("GET http://other.example/headers HTTP/1.1\r\nHost: kylin.example".into());
    requests.push("OPTIONS /x HTTP/1.1\r\nHost: kylin.example".into());
    requests
}

async fn send(front: SocketAddr, request: &str) -> RawResponse {
    let mut connection = Connection::open(front).await.unwrap();
    let end = if request.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
    connection.send(format!("{request}{end}")).await.unwrap();
    connection.response().await.unwrap_or_else(|error| panic!("{request}: {error}"))
}

/// Returns the parts of a response that must be the same: the status, the headers that the
/// configuration names, and the body. The body counts only if the configuration or the node made
/// it.
fn comparable(response: &RawResponse) -> String {
    let names = ["location", "x-added", "x-where", "x-server", "x-secret", "x-kept", "content-type"];
    let from_node = response.header("x-kept").is_some();
    let mut lines = vec![response.status().to_string()];
    // Errors have Kylin's form here, and are HTML in nginx.
    if (300..400).contains(&response.status()) && !from_node {
        // In a redirect of the front end, nginx names its host and adds a page. This crate does
        // neither.
        let location = response.header("location").unwrap_or_default();
        let own = location.strip_prefix("http://").filter(|url| url.starts_with("kylin.example:"));
        lines.push(own.and_then(|url| url.split_once('/')).map_or(location.into(), |(_, path)| format!("/{path}")));
        lines.extend(names[1..5].iter().map(|name| format!("{name}: {:?}", response.head.all(name))));
    } else if from_node || response.status() < 400 || response.text().starts_with("no pictures") {
        lines.extend(names.iter().map(|name| format!("{name}: {:?}", response.head.all(name))));
        // The headers that the crate or nginx adds by default are in the list of differences.
        let other = ["x-forwarded-host: ", "x-forwarded-proto: ", "connection: "];
        let body = response.text().lines().filter(|line| !other.iter().any(|name| line.starts_with(name)));
        let sets_it = response.text().contains("/headers");
        lines.extend(body.filter(|line| sets_it || !line.starts_with("x-forwarded-for: ")).map(str::to_owned));
    }
    lines.join("\n")
}

#[tokio::test]
async fn a_configuration_means_the_same_as_in_nginx() {
    require_nginx!();
    let node = node();
    let text = CONFIGURATION.replace("NODE", &node.addresses()[0].to_string());
    let nginx = Nginx::start(&text).await;
    let front = nginx.address("front");
    let ours = Config::parse("front.conf", &text.replace("@front@", &front.port().to_string()));
    let site = Site::new(ours.unwrap_or_else(|error| panic!("{error}"))).unwrap();
    let listener = site.listeners().next().unwrap();
    let ours = Server::builder().listen(SocketAddr::from(([127, 0, 0, 1], 0)).into(), listener).start().unwrap();
    let mut differences = Vec::new();
    for request in requests() {
        let (theirs, ours) = (send(front, &request).await, send(ours.addresses()[0], &request).await);
        let (theirs, ours) = (comparable(&theirs), comparable(&ours));
        if theirs != ours {
            differences.push(format!("{request}\n--- nginx\n{theirs}\n--- kylin-lb\n{ours}\n"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n=====\n"));
    ours.stop(Duration::from_secs(5)).await;
    node.stop(Duration::from_secs(5)).await;
}

#[test]
fn an_address_beside_one_for_all_interfaces_is_no_listener_of_its_own() {
    for (listens, expected) in [
        ("listen 82; listen 127.0.0.1:82;", &["0.0.0.0:82"][..]),
        ("listen 127.0.0.1:82; listen *:82;", &["0.0.0.0:82"]),
        ("listen [::]:82 ipv6only=on; listen [::1]:82; listen 82;", &["[::]:82", "0.0.0.0:82"]),
        ("listen 127.0.0.1:82; listen 127.0.0.2:82; listen 83;", &["127.0.0.1:82", "127.0.0.2:82", "0.0.0.0:83"]),
    ] {
        let text = format!("server {{ {listens} location / {{ proxy_pass http://127.0.0.1:1; }} }}");
        let config = Config::parse("front.conf", &text).unwrap_or_else(|error| panic!("{error}"));
        let site = Site::new(config).unwrap();
        let found: Vec<_> = site.listeners().map(|listener| listener.listen().to_string()).collect();
        assert_eq!(found, expected, "{listens}");
    }
}

#[tokio::test]
async fn a_path_is_served_by_the_location_of_the_path_that_the_node_reads() {
    let node = node();
    let text = format!(
        "upstream nodes {{ server {}; }}
        server {{
            listen 127.0.0.1:1;
            location /bi/ {{ proxy_pass http://nodes/kylin/; }}
            location /slash {{ proxy_pass http://nodes/kylin/; }}
            location /kylin/api/cache {{ return 403; }}
            location /kylin/ {{ proxy_pass http://nodes; }}
        }}",
        node.addresses()[0]
    );
    let site = Site::new(Config::parse("front.conf", &text).unwrap()).unwrap();
    let ours = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    for (target, expected) in [
        ("/bi/a", Ok("/kylin/a")),
        ("/bi/a;jsessionid=1/b?c=d", Ok("/kylin/a;jsessionid=1/b?c=d")),
        ("/bi;jsessionid=1/b", Ok("/kylin/b")),
        ("/x/..;/bi/a", Ok("/kylin/a")),
        ("/kylin/..;/bi/a", Ok("/kylin/a")),
        // The node reads the path as `/x`, for which there is no location.
        ("/bi/..;/x", Err(404)),
        ("/bi/%2e%2e;a=b/x", Err(404)),
        ("/kylin/..;/x", Err(404)),
        ("/bi/..;/kylin/x", Ok("/bi/..;/kylin/x")),
        // The internal call is closed in every spelling.
        ("/kylin/;x/api/cache/a", Err(403)),
        ("/kylin/api;x/cache/a", Err(403)),
        ("/bi/..;/kylin/api/cach%65", Err(403)),
        // The guard sees the path that the node gets.
        ("/bi/api/cache/a", Err(403)),
        ("/bi/api;x/%63ache/a", Err(403)),
        ("/bi/x/..;/api/cache/a", Err(403)),
        // Another parser may interpret these differently.
        ("/bi/..%2fx", Err(400)),
        ("/bi/..%5cx", Err(400)),
        ("/bi/..\\x", Err(400)),
        ("/bi/%252e%252e/x", Err(400)),
        ("/bi/..%3b/x", Err(400)),
        // The new path would lead outside of /kylin/.
        ("/slash../x", Err(400)),
        ("/slash..;a/x", Err(400)),
        ("/slash%2e%2e/x", Err(400)),
    ] {
        let response = send(ours.addresses()[0], &format!("GET {target} HTTP/1.1\r\nHost: kylin.example")).await;
        let at_node = response.text().lines().next().and_then(|line| line.strip_prefix("GET ")).map(str::to_owned);
        let found = if response.status() == 200 { Ok(at_node.unwrap_or_default()) } else { Err(response.status()) };
        assert_eq!(found, expected.map(str::to_owned), "{target}");
    }
    ours.stop(Duration::from_secs(5)).await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn headers_with_odd_names_pass_where_the_file_wants_them() {
    let node = node();
    for (lines, passed) in [
        ("", vec!["x-plain"]),
        ("underscores_in_headers on;", vec!["x-plain", "x_under"]),
        ("ignore_invalid_headers off;", vec!["x-plain", "x.dotted", "x_under"]),
    ] {
        let text = format!(
            "upstream nodes {{ server {}; }} server {{ listen 127.0.0.1:1; {lines} location / {{ proxy_pass http://nodes; }} }}",
            node.addresses()[0]
        );
        let site = Site::new(Config::parse("front.conf", &text).unwrap()).unwrap();
        let ours = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
        let request = "GET / HTTP/1.1\r\nHost: kylin\r\nX-Plain: 1\r\nX.Dotted: 1\r\nX_Under: 1";
        let response = send(ours.addresses()[0], request).await;
        let names = ["x-plain", "x.dotted", "x_under"].into_iter();
        let found: Vec<_> = names.filter(|name| response.text().contains(&format!("\n{name}: 1"))).collect();
        assert_eq!(found, passed, "{lines}");
        ours.stop(Duration::from_secs(5)).await;
    }
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_longest_times_of_a_file_work() {
    let node = node();
    let text = format!(
        "client_header_timeout 36500d; client_body_timeout 36500d; send_timeout 36500d; keepalive_timeout 36500d;
        proxy_connect_timeout 36500d; proxy_read_timeout 36500d; proxy_next_upstream_timeout 36500d;
        upstream nodes {{
            server {} fail_timeout=36500d;
            server {} fail_timeout=36500d;
            keepalive 4; keepalive_timeout 36500d; keepalive_time 36500d;
        }}
        server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://nodes; }} }}",
        closed_port(),
        node.addresses()[0]
    );
    let site = Site::new(Config::parse("front.conf", &text).unwrap()).unwrap();
    let ours = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap();
    let mut connection = Connection::open(ours.addresses()[0]).await.unwrap();
    for _ in 0..3 {
        connection.send("POST /x HTTP/1.1\r\nHost: kylin\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        let response = connection.response().await.unwrap();
        assert!(response.text().starts_with("POST /x\n"), "{}", response.text());
    }
    ours.stop(Duration::from_secs(5)).await;
    node.stop(Duration::from_secs(5)).await;
}
