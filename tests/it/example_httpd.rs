//! The example with `--httpd`, beside a real Apache httpd with the same configuration.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

use http::{HeaderValue, Request, Response, StatusCode, header};
use kylin_lb::server::Server;
use kylin_lb::{Body, ClientAddr};
use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::example::{check, run, start};
use crate::support::front::{closed_port, demo, eventually};
use crate::support::http::{Connection, RawResponse};
use crate::support::httpd::{Httpd, require_httpd};
use crate::support::process::Process;
use crate::support::raw_node::{RawNode, healthy};

/// Starts a node that responds with its name and the request. The query tells it to redirect
/// (`to=URL`) or to set cookies.
fn node(name: &'static str) -> Server {
    let respond = move |_peer: ClientAddr, request: Request<Body>| async move {
        let header =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let body = format!("{name} {} {} {}", request.uri(), header("x-one"), header("x-two"));
        let mut response = Response::new(Body::from(body));
        let query = request.uri().query().unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
        headers.insert("x-inner", HeaderValue::from_static("secret"));
        if let Some((_, to)) = query.split_once("to=") {
            headers.insert(header::LOCATION, HeaderValue::try_from(to).unwrap());
            *response.status_mut() = StatusCode::FOUND;
        }
        if let Some((_, path)) = query.split_once("cookie=") {
            for domain in ["", "; Domain=inner.example"] {
                let cookie = format!("JSESSIONID=0123.{name}; Path={path}{domain}; HttpOnly");
                response.headers_mut().append(header::SET_COOKIE, HeaderValue::try_from(cookie).unwrap());
            }
        }
        response
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    Server::builder().listen(listen, respond).threads(NonZero::new(1).unwrap()).start().unwrap()
}

/// httpd and the front end with the same configuration.
struct Pair {
    httpd: Httpd,
    front: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Pair {
    /// Starts both. N1, N2 and so on stand for the addresses of nodes, and DEAD for an address
    /// without a node.
    async fn start(configuration: &str, nodes: &[SocketAddr]) -> Self {
        let mut text = configuration.replace("DEAD", &closed_port().port().to_string());
        for (number, node) in (1..).zip(nodes) {
            text = text.replace(&format!("N{number}"), &node.to_string());
        }
        let text = format!("Listen 127.0.0.1:@port@\n{text}");
        let httpd = Httpd::start(&text).await;
        let folder = TempDir::new().unwrap();
        let file = write(&folder, &text.replace("@port@", "1"));
        let (process, front) = start(&["--httpd", file.to_str().unwrap(), "--probe", "none"]).await;
        Pair { httpd, front, _process: process, _folder: folder }
    }
}

/// A [`Pair`] in front of the same nodes, with a connection to each.
struct Twins {
    httpd: Connection,
    front: Connection,
    pair: Pair,
    _nodes: Vec<Server>,
}

impl Twins {
    async fn start(configuration: &str) -> Self {
        let nodes: Vec<Server> = ["n1", "n2", "n3", "n4"].map(node).into();
        let addresses: Vec<_> = nodes.iter().map(|node| node.addresses()[0]).collect();
        let pair = Pair::start(configuration, &addresses).await;
        Twins {
            httpd: Connection::open(pair.httpd.address()).await.unwrap(),
            front: Connection::open(pair.front).await.unwrap(),
            pair,
            _nodes: nodes,
        }
    }

    /// Returns the responses of both.
    async fn both(&mut self, target: &str, headers: &str) -> (RawResponse, RawResponse) {
        let host = if headers.contains("Host:") { "" } else { "Host: kylin.example\r\n" };
        let request = format!("GET {target} HTTP/1.1\r\n{host}{headers}\r\n");
        let mut responses = Vec::new();
        for connection in [&mut self.httpd, &mut self.front] {
            connection.send(&request).await.unwrap();
            responses.push(connection.response().await.unwrap_or_else(|error| panic!("{target}: {error}")));
        }
        let addresses = [self.pair.httpd.address(), self.pair.front];
        for ((connection, response), address) in
            [&mut self.httpd, &mut self.front].into_iter().zip(&responses).zip(addresses)
        {
            if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                *connection = Connection::open(address).await.unwrap();
            }
        }
        let front = responses.pop().unwrap();
        (responses.pop().unwrap(), front)
    }

    /// Sends the request to both, and requires that they respond alike: status, body of a node,
    /// redirect and cookies. Returns the node.
    async fn same(&mut self, target: &str, headers: &str) -> String {
        let (httpd, front) = self.both(target, headers).await;
        let (httpd, front) = (seen(&httpd), seen(&front));
        assert_eq!(front, httpd, "{target} {headers}");
        httpd.1.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// The parts of a response that are compared. A redirect of httpd is absolute, one of the front end
/// relative.
fn seen(response: &RawResponse) -> (u16, String, Option<String>, Vec<String>) {
    let status = response.status();
    let is_of_node = ["n1 ", "n2 ", "n3 ", "n4 "].iter().any(|name| response.text().starts_with(name));
    let body = if is_of_node { response.text().to_owned() } else { String::new() };
    let location = response.header("location").map(|to| to.trim_start_matches("http://kylin.example").to_owned());
    let cookies = response.head.all("set-cookie").into_iter().map(str::to_owned).collect();
    (status, body, location, cookies)
}

fn write(folder: &TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("httpd.conf");
    std::fs::write(&file, text).unwrap();
    file
}

/// A mix of requests: without a session, with one of each route, and with ids and routes that no
/// member has.
fn sessions(count: usize) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(move |_| match random.u32(..10) {
        0..4 => String::new(),
        4 => "Cookie: a=b; JSESSIONID=0123\r\n".into(),
        5 => "Cookie: JSESSIONID=0123.r9\r\n".into(),
        _ => format!("Cookie: x=.r9; JSESSIONID=0123.r{}; y=z\r\n", random.u32(1..=4)),
    })
}

const STICKY: &str = "ProxySet stickysession=JSESSIONID|jsessionid";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_of_each_balancer_go_to_the_nodes_that_httpd_chooses() {
    require_httpd!();
    let routes = ["route=r1", "route=r2", "route=r3", "route=r4"];
    let balancers = [
        ("", ["loadfactor=5", "", "", "status=+D"]),
        ("", ["loadfactor=1.5", "loadfactor=2.25", "", ""]),
        ("ProxySet lbmethod=bybusyness", ["loadfactor=3", "loadfactor=2", "", ""]),
        ("", ["", "lbset=1", "lbset=2", "lbset=1 loadfactor=3"]),
        ("", ["status=+D", "status=+R", "status=+H", "loadfactor=2"]),
        ("", ["status=+D", "status=+D", "status=+H", "status=+H loadfactor=2"]),
        ("", ["status=+N", "", "loadfactor=2", "status=+H"]),
        (STICKY, ["", "loadfactor=3", "", ""]),
        (STICKY, ["status=+N", "loadfactor=2", "", "status=+H"]),
        (STICKY, ["status=+D redirect=r3", "", "status=+H", "lbset=1"]),
        ("ProxySet stickysession=JSESSIONID|jsessionid nofailover=On", ["status=+D", "loadfactor=2", "", "status=+H"]),
        (
            "ProxySet stickysession=JSESSIONID|jsessionid lbmethod=bybusyness",
            ["", "loadfactor=3", "status=+R", "status=+D"],
        ),
    ];
    let mut text = String::new();
    for (number, (set, parameters)) in balancers.into_iter().enumerate() {
        let members: String = (1..)
            .zip(parameters)
            .zip(routes)
            .map(|((n, parameters), route)| format!("BalancerMember http://N{n} {route} {parameters}\n"))
            .collect();
        text += &format!(
            "<Proxy balancer://k{number}>\n{members}{set}\n</Proxy>\nProxyPass /{number}/ balancer://k{number}/\n"
        );
    }
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        nodes.push(RawNode::start([healthy(&format!("{name} "))]).await);
    }
    let twins = Pair::start(&text, &nodes.iter().map(RawNode::address).collect::<Vec<_>>()).await;
    let all = (0..).zip(balancers).map(|(number, (set, parameters))| {
        let (httpd, front) = (twins.httpd.address(), twins.front);
        tokio::spawn(async move {
            let (httpd, front) = tokio::join!(thousand(httpd, number), thousand(front, number));
            let at = httpd.iter().zip(&front).position(|(httpd, front)| httpd != front);
            let around = |all: &[String]| at.map(|at| all[at.saturating_sub(9)..=at].to_vec());
            assert_eq!(at, None, "{set} {parameters:?}: httpd {:?}, front {:?}", around(&httpd), around(&front));
            assert!(parameters[0].is_empty() || httpd.iter().any(|node| *node != httpd[0]), "{set} {parameters:?}");
        })
    });
    for balancer in all.collect::<Vec<_>>() {
        balancer.await.unwrap();
    }
}

/// Sends a thousand requests in order, many at a time on one connection. Returns status and node of
/// each.
async fn thousand(front: SocketAddr, balancer: usize) -> Vec<String> {
    let mut connection = Connection::open(front).await.unwrap();
    let requests: Vec<_> =
        sessions(1000).map(|session| format!("GET /{balancer}/ HTTP/1.1\r\nHost: kylin\r\n{session}\r\n")).collect();
    let mut served = Vec::new();
    while let Some(rest) = requests.get(served.len()..).filter(|rest| !rest.is_empty()) {
        let some = &rest[..rest.len().min(50)];
        connection.send(some.concat()).await.unwrap();
        for _ in some {
            let response = connection.response().await.unwrap();
            let (status, node, ..) = seen(&response);
            served.push(format!("{status} {node}"));
            // httpd closes after a 503, and reads no further requests.
            if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                connection = Connection::open(front).await.unwrap();
                break;
            }
        }
    }
    served
}

#[tokio::test]
async fn sessions_of_urls_and_cookies_go_where_httpd_sends_them() {
    require_httpd!();
    let mut targets = Vec::new();
    for url in [
        "/",
        "/;jsessionid=0123.r1",
        "/;jsessionid=0123.r2;a=b",
        "/x?jsessionid=0123.r3&y",
        "/;JSESSIONID=0123.r1",
        "/;jsessionid=0123",
        "/;jsessionid=0123.r9",
        "/;jsessionid=0.r1.r2",
    ] {
        for cookie in [
            "",
            "JSESSIONID=9.r2",
            "a=JSESSIONID; JSESSIONID=9.r3",
            "jsessionid=9.r3",
            "XJSESSIONID=9.r3",
            "JSESSIONID=9",
            "JSESSIONID=9-r3",
        ] {
            targets.push((url, if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") }));
        }
    }
    for set in [
        "ProxySet stickysession=JSESSIONID|jsessionid",
        "ProxySet stickysession=JSESSIONID|jsessionid scolonpathdelim=On",
        "ProxySet stickysession=JSESSIONID",
        "ProxySet stickysession=JSESSIONID|jsessionid stickysessionsep=-",
        "ProxySet stickysession=JSESSIONID|jsessionid\nProxySet nofailover=On",
    ] {
        let text = format!(
            "<Proxy balancer://kylin>\nBalancerMember http://N1 route=r1\nBalancerMember http://N2 route=r2 status=+D redirect=r3\n\
             BalancerMember http://N3 route=r3\nBalancerMember http://N4 route=r2.x status=+H\n{set}\n</Proxy>\nProxyPass / balancer://kylin/\n"
        );
        // Both at once are an error here, and each is tried alone.
        let text = if set.contains("nofailover") { text.replace(" redirect=r3", "") } else { text };
        let mut twins = Twins::start(&text).await;
        for (url, cookie) in &targets {
            twins.same(url, cookie).await;
        }
    }
}

#[tokio::test]
async fn the_route_cookie_is_set_when_and_as_httpd_sets_it() {
    require_httpd!();
    let mut twins = Twins::start(
        r#"Header add Set-Cookie "ROUTEID=.%{BALANCER_WORKER_ROUTE}e; path=/" env=BALANCER_ROUTE_CHANGED
        <Proxy "balancer://kylin">
            BalancerMember "http://N1" route=1
            BalancerMember "http://N2" route=2
            ProxySet stickysession=ROUTEID
        </Proxy>
        ProxyPass "/" "balancer://kylin/"
        ProxyPassReverse "/" "balancer://kylin/""#,
    )
    .await;
    for _ in 0..3 {
        twins.same("/", "").await;
    }
    let (_, front) = twins.both("/", "").await;
    let cookie = front.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let home = front.text().split(' ').next().unwrap().to_owned();
    assert!(["ROUTEID=.1", "ROUTEID=.2"].contains(&&*cookie), "{cookie}");
    for _ in 0..4 {
        assert_eq!(twins.same("/", &format!("Cookie: {cookie}\r\n")).await, home);
    }
    twins.same("/", "Cookie: ROUTEID=.9\r\n").await;
}

#[tokio::test]
async fn a_member_that_does_not_respond_is_replaced_as_in_httpd() {
    require_httpd!();
    for (parameters, set) in [
        (["retry=600", "retry=600 status=+H", "retry=600 lbset=1"], ""),
        (["retry=600", "retry=600", "retry=600 status=+H"], STICKY),
        (["retry=600", "retry=600 status=+R", "retry=600 loadfactor=2"], STICKY),
    ] {
        let [dead, second, third] = parameters;
        let mut twins = Twins::start(&format!(
            "<Proxy balancer://kylin>\nBalancerMember http://127.0.0.1:DEAD route=r1 {dead}\nBalancerMember http://N2 route=r2 {second}\n\
             BalancerMember http://N3 route=r3 {third}\n{set}\n</Proxy>\nProxyPass / balancer://kylin/\n"
        ))
        .await;
        for session in sessions(200) {
            twins.same("/", &session).await;
        }
    }
}

/// Lines of it are compared with httpd one request each.
const PATHS: &str = r#"
Define INNER /kylin
<IfModule mod_proxy.c>
<Proxy balancer://kylin>
    BalancerMember http://N1
</Proxy>
</IfModule>
<IfModule !mod_proxy.c>
    Nonsense here
</IfModule>
<IfVersion >= 2.4>
ProxyPass /olap/private !
</IfVersion>
<IfVersion < 2.4>
ProxyPass / http://N4/
</IfVersion>
ProxyPass /olap/ \
    balancer://kylin${INNER}/
ProxyPassReverse /olap/ balancer://kylin/kylin/
ProxyPassReverseCookiePath /kylin/ /olap/
ProxyPassReverseCookieDomain inner.example outer.example
ProxyPassMatch ^/old/(.*)\.do$ balancer://kylin/kylin/$1
ProxyPassMatch ^/as-is/ balancer://kylin
ProxyPass /one http://N2/two retry=0
ProxyPassReverse /one http://N2/two
ProxyPass /moved !
Redirect /moved/a /kylin/b
Redirect permanent /moved/c https://other.example/
RedirectMatch seeother ^/moved/d(.*)$ /kylin$1
Redirect gone /moved/e
<Location /inside>
    ProxyPass balancer://kylin/inner
    Header set X-Where inside
</Location>
<Location /closed>
    Require all denied
</Location>
<LocationMatch "^/(local|else)">
    <RequireAll>
        Require local
        Require not ip 10.0.0.0/8
    </RequireAll>
</LocationMatch>
<Location /far>
    Require ip 10.1 192.168.0.0/255.255.0.0
</Location>
<Location /old-style>
    Order deny,allow
    Deny from all
    Allow from 10.0.0.0/8
</Location>
<Location /old-open>
    Order allow,deny
    Allow from 127.0.0.1
</Location>
Header set X-Set "%%{x}"
Header append X-Frame-Options SAMEORIGIN
Header unset X-Inner
Header edit Set-Cookie "^(.*); HttpOnly$" "$1; HttpOnly; Secure"
Header always set X-Always yes
Header always set X-Frame-Options ALWAYS
Header merge Vary Cookie
Header setifempty X-Set other
RequestHeader set X-One "one two"
RequestHeader append X-One three
RequestHeader edit X-Two "^a(.)" "[$1]"
ProxyPass /kylin balancer://kylin/kylin
ProxyPassReverse /kylin balancer://kylin/kylin
ProxyPass / balancer://kylin/
"#;

#[tokio::test]
async fn paths_redirects_cookies_headers_and_access_are_httpds() {
    require_httpd!();
    let mut twins = Twins::start(PATHS).await;
    for target in [
        "/",
        "/?",
        "/x?a=b",
        "/kylin",
        "/kylin/",
        "/kylinx",
        "/olap",
        "/olap/",
        "/olap/api/x?y=z",
        "/olap/a%20b",
        "/olap/./x//y",
        "/%6flap/x",
        "/olap/private",
        "/olap/private/x",
        "/olap/privates",
        "/old/a/b.do?c=d",
        "/old/a/b.doc",
        "/as-is/x%20y?z",
        "/one",
        "/one/x",
        "/onex",
        "/one/x?to=http://N2/two/y",
        "/moved/a",
        "/moved/a/x?y",
        "/moved/ab",
        "/moved/c/x",
        "/moved/d/1?x",
        "/moved/e",
        "/moved/f",
        "/inside",
        "/inside/x",
        "/insidex",
        "/closed",
        "/closed/x",
        "/closedx",
        "/local",
        "/elsewhere",
        "/far/x",
        "/old-style/x",
        "/old-open/x",
        "/olap/x?to=/other",
        "/olap/x?to=http://N1/kylin/login?a=b",
        "/olap/x?to=http://N1/kylin",
        "/olap/x?to=http://N1/other",
        "/olap/x?to=https://elsewhere.example/kylin/",
        "/kylin/x?to=http://N1/kylin/login",
        "/kylin/x?to=/kylin/login",
        "/olap/x?cookie=/kylin/",
        "/olap/x?cookie=/kylin/api",
        "/olap/x?cookie=/other",
    ] {
        let nodes: Vec<String> = twins._nodes.iter().map(|node| node.addresses()[0].to_string()).collect();
        let target = target.replace("N1", &nodes[0]).replace("N2", &nodes[1]);
        twins.same(&target, "X-Two: abc\r\n").await;
        let (httpd, front) = twins.both(&target, "X-Two: abc\r\n").await;
        for name in ["x-set", "x-frame-options", "x-inner", "x-always", "x-where", "vary"] {
            let values =
                |response: &RawResponse| response.head.all(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(values(&front), values(&httpd), "{name} of {target}");
        }
    }
    // A redirect of Kylin to its own path is changed to the client's path. httpd leaves it
    // unchanged.
    for (target, to) in [
        ("/olap/x?to=/kylin/login", "/olap/login"),
        ("/olap/x?to=/kylin", "/olap/"),
        ("/olap/x?to=http://kylin.example/kylin/login", "/olap/login"),
    ] {
        let (_, front) = twins.both(target, "").await;
        assert_eq!(front.header("location"), Some(to), "{target}");
    }
    let (_, front) = twins.both("/olap/x?cookie=/kylin", "").await;
    assert!(front.header("set-cookie").unwrap().contains("Path=/olap;"), "{:?}", front.head);
}

#[tokio::test]
async fn a_redirect_of_a_rule_leads_to_no_host_of_the_client() {
    require_httpd!();
    let text = "RewriteEngine On\nRewriteRule ^/old(.*)$ /$1 [R=301,L]\n\
                RewriteRule ^/raw(.*)$ /$1 [R=301,L,NE]\n\
                ProxyPass /match !\nRedirectMatch ^/match(.*)$ /$1\nProxyPass /moved !\nRedirect /moved /\nProxyPass / http://N1/\n";
    let mut twins = Twins::start(text).await;
    for (target, expected) in [
        ("/old/evil.example", "http://kylin.example//evil.example"),
        ("/raw/evil.example", "http://kylin.example//evil.example"),
        ("/match/evil.example", "http://kylin.example//evil.example"),
        ("/moved/evil.example", "http://kylin.example//evil.example"),
        ("/oldx", "/x"),
    ] {
        let (httpd, front) = twins.both(target, "").await;
        let locations = [&httpd, &front].map(|response| response.header("location").map(str::to_owned));
        assert_eq!(locations[1].as_deref(), Some(expected), "{target}");
        let httpd = locations[0].as_deref().unwrap_or_default();
        assert!(httpd.starts_with("http://kylin.example/") && httpd.ends_with(expected), "{target}: {httpd}");
    }
}

#[tokio::test]
async fn virtual_hosts_are_chosen_as_httpd_chooses_them() {
    require_httpd!();
    let mut twins = Twins::start(
        "<Proxy balancer://kylin>\nBalancerMember http://N1\n</Proxy>
        ProxyPass /shared balancer://kylin/main
        <VirtualHost *:@port@>
            ServerName first.example
            ServerAlias *.first.example first?.example
            ProxyPass / http://N2/
        </VirtualHost>
        <virtualhost *:@port@>
            servername http://Second.Example:80
            <Proxy balancer://kylin>\nBalancerMember http://N3\n</Proxy>
            proxypass /shared/own balancer://kylin/own
            ProxyPass /only balancer://kylin/only
            RequestHeader set X-One second
        </virtualhost>",
    )
    .await;
    for host in [
        "first.example",
        "a.first.example",
        "FIRST1.example:8080",
        "second.example",
        "second.example:1",
        "second.example.",
        "Second.Example.:1",
        "other.example",
    ] {
        for path in ["/", "/shared/x", "/shared/own/x", "/only/x"] {
            twins.same(path, &format!("Host: {host}\r\n")).await;
        }
    }
}

#[tokio::test]
async fn the_client_is_the_one_that_trusted_proxies_name() {
    require_httpd!();
    let mut twins = Twins::start(
        "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.0/8\nProxyPass / http://N1/
        <Location /office>\nRequire ip 10.1.0.0/16\n</Location>",
    )
    .await;
    for (client, status) in [
        ("10.1.2.3", 200),
        ("10.2.0.1", 403),
        ("10.1.2.3, 10.2.0.1", 403),
        ("10.2.0.1, 10.1.2.3", 200),
        ("10.1.2.3, 127.0.0.9", 200),
    ] {
        let headers = format!("X-Forwarded-For: {client}\r\n");
        let (httpd, front) = twins.both("/office", &headers).await;
        assert_eq!((front.status(), httpd.status()), (status, status), "{client}");
    }
}

/// Writes a file and returns the error with which it is refused, without the name of the folder.
fn error(text: &str) -> String {
    let folder = TempDir::new().unwrap();
    let file = write(&folder, text);
    let output = run(&["--httpd", file.to_str().unwrap(), "--check"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "accepted: {text}");
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn errors_name_the_place_and_what_to_write_instead() {
    refused("", "", &[("upstream kylin {\n server a:7070;\n}", "1:1", "for one of nginx: --config FILE")]);
    refused(
        "Listen 8080\n",
        "",
        &[
            ("ProxyPas / http://a/", "2:1", "did you mean \"ProxyPass\""),
            ("ProxyPass / balancer://kylin/", "2:13", "<Proxy balancer://kylin> with BalancerMember lines"),
            ("ProxyPass /a/ http://a", "2:15", "expected http://a/"),
            ("ProxyPass / http://a/ # all", "2:23", "a line of its own"),
            ("ProxyPass / http://a/ \\\n   retri=5", "3:4", "did you mean \"retry\""),
            ("ProxyPass / \"http://a/", "2:13", "a quote that does not end"),
            ("<Location /x>\nRequire all denied", "2:1", "</Location>"),
            ("</Location>", "2:1", "no <Location> is open"),
            ("<Limit POST>\nRequire all denied\n</Limit>", "2:1", "<Limit> in <Location> or <Proxy>"),
            ("<Location />\n<Limit post>\nDeny from all\n</Limit>\n</Location>", "3:8", "in capitals"),
            ("<Location />\n<Limit TRACE>\nDeny from all\n</Limit>\n</Location>", "3:8", "TraceEnable Off"),
            ("<Location />\n<Limit GET>\nRequire valid-user\n</Limit>\n</Location>", "4:9", "Require ip"),
            ("<Location />\n<Limit GET>\nHeader set A b\n</Limit>\n</Location>", "4:1", "other lines behind it"),
            (
                "<Location />\n<RequireAny>\n<Limit GET>\nRequire all denied\n</Limit>\n</RequireAny>\n</Location>",
                "4:1",
                "<Limit> around the group",
            ),
            ("RewriteEngine On\nRewriteRule ^/(.*) /$1 [CO=a:b]", "3:24", "the flag \"CO\""),
            ("RewriteEngine On\nRewriteCond %{TIME_HOUR} 12", "3:13", "%{TIME_HOUR} has no value here"),
            ("Use Site a", "2:5", "no macro is called \"Site\""),
            ("ProxyPassMatch ^/(?=x) http://a/", "2:16", "look-around"),
            ("ProxyPassMatch ^/x++ http://a/", "2:16", "gives back"),
            ("<LocationMatch ^/[a&&b]>\nRequire all denied\n</LocationMatch>", "2:16", "a backslash before it"),
            ("ProxyPass / http://${NODE_OF_NOWHERE}/", "2:13", "Define NODE_OF_NOWHERE VALUE"),
            ("Include conf.d/*.conf", "2:9", "IncludeOptional"),
            ("ProxyRequests On", "2:15", "ProxyRequests Off"),
            (
                "<VirtualHost kylin.example:8080>\nProxyPass / http://a/\n</VirtualHost>",
                "2:14",
                "*:PORT or ADDRESS:PORT",
            ),
            ("<VirtualHost 10.0.0.1:8080>\nProxyPass / http://a/\n</VirtualHost>", "2:1", "Listen 10.0.0.1:"),
            ("ProxyPass / \u{201c}http://a/\u{201d}", "2:13", "full-width"),
            ("ProxyPass / ftp://a/", "2:13", "http://HOST:PORT"),
            ("ProxyPass / http://user:hunter2@a:99999/", "2:13", "not the address of a node"),
        ],
    );
    refused(
        "Listen 8080\nProxyPass / http://a/\n",
        "",
        &[
            ("<Location /x>\nAuthType Basic\n</Location>", "4:1", "Require ip"),
            ("<Location /x>\nRequire valid-user\n</Location>", "4:9", "Require ip"),
            ("<Location /x>\nDeny from evil.example\n</Location>", "4:11", "10.0.0.0/8"),
            ("ProxyErrorOverride On", "3:1", "ProxyErrorOverride Off"),
            ("SSLVerifyClient require", "3:1", "asks clients for certificates"),
            ("CacheEnable disk /", "3:1", "result cache of Kylin"),
            ("FilterProvider A SUBSTITUTE true", "3:1", "without filters"),
            ("JkMount /* kylin", "3:1", "BalancerMember http://HOST:7070"),
            ("SetOutputFilter SUBSTITUTE", "3:1", "without filters"),
            ("ExpiresActive On", "3:1", "Header set Cache-Control"),
            ("Header set X %{UNIQUE_ID}e", "3:14", "UNIQUE_ID is not set here"),
            ("Header set X y env=HTTPS", "3:16", "env=BALANCER_ROUTE_CHANGED"),
            ("Header set Connection x", "3:12", "belongs to the connection"),
            (
                "<If \"%{HTTPS} == 'off'\">\nRedirect / /x\n</If>",
                "3:1",
                "RewriteCond %{HTTPS} =off, RewriteRule ^/(.*)$ /x$1 [R=302,L]",
            ),
            ("<If \"-R '10.0.0.0/8'\">\nRequire all denied\n</If>", "3:1", "<Location> and <VirtualHost>"),
            ("StrictHostCheck On", "3:1", "a first <VirtualHost>"),
            ("SSLStrictSNIVHostCheck On", "3:1", "SSLStrictSNIVHostCheck Off"),
            ("RegexDefaultOptions +ICASE", "3:1", "(?i)"),
            ("UseCanonicalName On", "3:1", "UseCanonicalName Off"),
            ("BalancerInherit Off", "3:1", "different names"),
            ("ServerPath /x", "3:1", "ServerAlias"),
            ("SetEnvIf Request_URI ^/x no-proxy", "3:26", "ProxyPass PATH !"),
            ("BrowserMatch Robot a=b No-Proxy=1", "3:24", "ProxyPass PATH !"),
            ("RewriteEngine On\nRewriteRule ^/x - [E=no-proxy:1]", "4:19", "ProxyPass PATH !"),
            ("<Location /x>\nAuthMerging And\n</Location>", "4:13", "in <RequireAll>"),
            ("<Location /x>\n<RequireAll>\n</RequireAll>\n</Location>", "4:1", "expected Require"),
            ("<Location /x>\nSetHandler cgi-script\n</Location>", "4:12", "ProxyPass for what goes to the nodes"),
            (
                "<Location /x>\n<RequireAny>\nRequire valid-user\n</RequireAny>\nSetHandler server-status\n</Location>",
                "5:9",
                "Require ip",
            ),
            ("<Proxy http://a:7070/kylin/secret>\nRequire all denied\n</Proxy>", "3:8", "<Location PATH> instead"),
            ("<Proxy http://a:7070/*/secret>\nRequire all denied\n</Proxy>", "3:8", "<Location PATH> instead"),
            ("<Proxy http://a?/>\nRequire all denied\n</Proxy>", "3:8", "<Location PATH> instead"),
            ("<Proxy /kylin>\nRequire all denied\n</Proxy>", "3:8", "<Location PATH> instead"),
            ("<Proxy HTTP://a/*>\nRequire all denied\n</Proxy>", "3:8", "expected <Proxy http://a>"),
            ("<Proxy *>\nRedirect /x /y\n</Proxy>", "4:1", "<Location PATH>"),
            ("<Location /a;b>\nRequire all denied\n</Location>", "3:11", "without ;"),
            ("<LocationMatch ;x>\nRequire all denied\n</LocationMatch>", "3:16", "as Tomcat reads them"),
            ("<Location ~ ^/a;>\nRequire all denied\n</Location>", "3:13", "without ;"),
            ("ProxyPass /a;b !", "3:11", "without ;"),
            ("ProxyPassMatch ^/a; !", "3:16", "without ;"),
            ("RedirectMatch 403 ^/a;", "3:19", "without ;"),
            ("RewriteEngine On\nRewriteRule ;x - [F]", "4:13", "without ;"),
            ("RewriteEngine On\nRewriteRule !^/[^;]*$ - [G]", "4:13", "without ;"),
            ("RewriteEngine On\nRewriteCond %{REQUEST_URI} ;x\nRewriteRule ^ - [F]", "4:28", "without ;"),
        ],
    );
    refused(
        "Listen 8080\n<Proxy balancer://k>\n",
        "</Proxy>\nProxyPass / balancer://k/\n",
        &[
            ("BalancerMember http://a:1 route=x lodfactor=2", "3:35", "did you mean \"loadfactor\""),
            ("BalancerMember http://a:1 loadfactor=0", "3:38", "1 to 100"),
            ("BalancerMember http://a:1 status=+Z", "3:35", "D, S, N, H, R or I"),
            ("BalancerMember http://a:1\nBalancerMember http://a:1", "4:16", "twice, first in httpd.conf:3"),
            ("BalancerMember ajp://a:8009", "3:16", "http://a:7070"),
            ("BalancerMember http://a:1 redirect=r2", "3:16", "no member has as its route"),
            ("BalancerMember http://a:1\nProxySet lbmethod=bytraffic", "4:19", "lbmethod=bybusyness"),
            ("BalancerMember http://a:1\nProxySet lbmethod=heartbeat", "4:19", "Kylin nodes send none"),
            ("BalancerMember http://a:1\nProxySet stickysesion=A", "4:10", "did you mean \"stickysession\""),
            (
                "BalancerMember http://a:1 route=a redirect=a\nProxySet nofailover=On stickysession=A",
                "2:8",
                "exclude each other",
            ),
            ("", "5:1", "has no members"),
        ],
    );
    refused(
        "Listen 8080\n<Proxy balancer://Kylin>\n",
        "</Proxy>\nProxyPass / balancer://kylin/\n",
        &[("BalancerMember http://a:1\nRequire all denied", "2:8", "expected <Proxy balancer://kylin>")],
    );
    assert!(error("Listen 8080\nDocumentRoot /var/www\n").contains("httpd.conf: no ProxyPass leads to a node"));
    assert!(error("ProxyPass / http://a/\n").contains("no Listen"));
}

/// Checks that each of some lines between others is refused, at which line and column, and with
/// which message.
fn refused(before: &str, behind: &str, rows: &[(&str, &str, &str)]) {
    for (lines, place, said) in rows {
        let text = format!("{before}{lines}\n{behind}");
        let error = error(&text);
        assert!(error.starts_with(&format!("kylin_front: httpd.conf:{place}: ")), "{text}\n{error}");
        assert!(error.contains(said), "{text}\n{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let column: usize = place.split_once(':').unwrap().1.parse().unwrap();
        let caret = error.lines().find(|line| line.trim() == "^").unwrap_or_else(|| panic!("{error}"));
        assert_eq!(caret.chars().count(), column, "{error}");
    }
}

#[test]
fn lines_that_differ_or_have_no_effect_are_noted() {
    let folder = TempDir::new().unwrap();
    for (lines, note) in [
        ("RewriteEngine On\nRewriteRule ^/a;(.*)$ /b [R]", "RewriteRule ^/a;(.*)$ /b [R]: paths are compared without"),
        ("ProxyPassMatch ^/a;(.*)$ http://b/$1", "ProxyPassMatch ^/a;(.*)$ http://b/$1: paths are compared without"),
        ("RedirectMatch ^/a; /b", "RedirectMatch ^/a; /b: paths are compared without"),
        (
            "RemoteIPHeader X-Forwarded-For\nRemoteIPTrustedProxy 1.2.3.4",
            "in httpd only those of RemoteIPInternalProxy",
        ),
        (
            "<Location /s>\nSetHandler server-status\nAuthType Basic\n</Location>",
            "AuthType Basic: the pages of httpd that it protects are not",
        ),
        (
            "<Location /s>\nSetHandler server-status\nRequire valid-user\n</Location>",
            "Require valid-user: 403, because no client can log in",
        ),
        ("StrictHostCheck Off", "StrictHostCheck Off: turned off here too"),
        (
            "RewriteEngine On\nRewriteCond %{HTTP_COOKIE} a=([^;]+)\nRewriteRule ^/x - [F]",
            "differs from httpd in every",
        ),
    ] {
        let file = write(&folder, &format!("Listen 8080\n{lines}\nProxyPass / http://a/\n"));
        let report = check(&["--httpd", file.to_str().unwrap()]);
        assert!(report.contains(note), "{lines}\n{report}");
    }
}

#[test]
fn nodes_of_kylin_are_known_where_a_path_of_something_else_leads_to_them() {
    let folder = TempDir::new().unwrap();
    for (lines, is_of_kylin) in [
        ("RewriteEngine On\nRewriteRule ^/bi/(.*)$ http://10.0.0.1:7070/$1 [P]", true),
        ("RewriteEngine On\nRewriteRule ^/bi(/.*)$ http://10.0.0.1:7070$1 [P]", true),
        ("RewriteEngine On\nRewriteRule ^/bi/ http://10.0.0.1:7070%{REQUEST_URI} [P]", true),
        ("RewriteEngine On\nRewriteRule ^/bi/(.*)$ http://10.0.0.1:7070/ky$1 [P]", true),
        ("RewriteEngine On\nRewriteRule ^/bi/(.*)$ http://10.0.0.1:7070/grafana/$1 [P]", false),
        ("RewriteEngine On\nRewriteRule ^/bi/(.*)$ http://10.0.0.1:3000/$1 [P]", false),
        ("ProxyPassMatch ^/bi/(.*)$ http://10.0.0.1:7070/$1", true),
        ("ProxyPass /bi/ http://10.0.0.1:7070/", true),
        ("ProxyPass /bi http://10.0.0.1:7070", true),
        ("ProxyPass /bi/ http://kylin1:8080/", true),
        ("ProxyPass /bi/ http://10.0.0.1:3000/", false),
        ("ProxyPass /bi/ http://10.0.0.1:7070/bi/", false),
        // Hidden by another line.
        ("ProxyPass /bi/kylin http://10.0.0.2:3000/x\nProxyPass /bi/ http://10.0.0.1:7070/", false),
    ] {
        let file = write(&folder, &format!("Listen 8080\nServerName kylin.example\n{lines}\n"));
        let report = check(&["--httpd", file.to_str().unwrap()]);
        assert_eq!(report.contains("kylin      on"), is_of_kylin, "{lines}\n{report}");
    }
}

#[test]
fn what_macros_and_variables_add_is_bounded() {
    let long = "x".repeat(60 << 10);
    let comments = "# $a\n".repeat(400);
    for (text, said) in [
        (
            format!("<Macro M $a>\nHeader set X $a$a\n</Macro>\nUse M {long}\n"),
            "httpd.conf:2:16: the line has more than 64 KiB",
        ),
        (
            format!("Define A {}\nHeader set X ${{A}}{long}\n", &long[..8 << 10]),
            "httpd.conf:2:18: the line has more than 64 KiB",
        ),
        (
            format!("<Macro M $a>\n{comments}</Macro>\nUse M {long}\n"),
            "httpd.conf:403:5: macros and variables add more",
        ),
        (
            format!("Define A {long}\n{}", "Header set X ${A}\n".repeat(300)),
            "macros and variables add more than 16 MiB to the files",
        ),
        (
            format!("<Macro M>\n{}</Macro>\n{}", "<IfDefine A>\n</IfDefine>\n".repeat(400), "Use M\n".repeat(300)),
            "more than 100000 directives",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(said), "{said}\n{}", &error[..error.len().min(300)]);
    }
}

#[test]
fn a_missing_file_is_reported_once() {
    for option in ["--httpd", "--config"] {
        for more in [&[][..], &["--check"]] {
            let output = run(&[&[option, "/nowhere/kylin.conf"], more].concat());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(error.matches("No such file").count(), 1, "{error}");
        }
    }
}

#[test]
fn a_file_of_httpd_is_not_one_of_nginx() {
    let folder = TempDir::new().unwrap();
    let file = write(&folder, "<Proxy balancer://kylin>\n  BalancerMember http://a\n</Proxy>\n");
    let output = run(&["--config", file.to_str().unwrap(), "--check"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("a file of Apache httpd") && error.contains("--httpd"), "{error}");
    assert!(!output.status.success());
}

#[test]
fn a_whole_configuration_as_distributions_have_it_is_read_and_says_what_has_no_effect() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["mods-enabled", "sites-enabled", "empty"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let put = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    put(
        "mods-enabled/proxy.load",
        "LoadModule proxy_module /m/mod_proxy.so\r\nLoadModule headers_module /m/mod_headers.so\r\n",
    );
    put("mods-enabled/proxy_balancer.load", "LoadModule proxy_balancer_module /m/mod_proxy_balancer.so\n");
    put(
        "mods-enabled/deflate.conf",
        "<IfModule mod_filter.c>\n<IfModule mod_deflate.c>\nAddOutputFilterByType DEFLATE text/html\n</IfModule>\n</IfModule>\n",
    );
    put("mods-enabled/status.conf", "<IfModule mod_status.c>\nNonsense\n</IfModule>\n");
    put(
        "mods-enabled/proxy.conf",
        "<IfModule mod_proxy.c>\n#ProxyRequests On\nProxyRequests Off\n<Proxy *>\n  Require all granted\n</Proxy>\nProxyVia Off\n</IfModule>\n",
    );
    put("sites-enabled/.hidden.conf", "Nonsense\n");
    put(
        "sites-enabled/kylin.conf",
        "<VirtualHost *:8080>\n  ServerName kylin.example\n  DocumentRoot /var/www/html\n  ErrorLog ${APACHE_LOG_DIR_OF_NOWHERE}/error.log\n\
           <Proxy \"balancer://kylin\">\n    BalancerMember \"http://10.0.0.1:7070\" route=q1 loadfactor=3 retry=30 ping=5 max=20\n\
           BalancerMember http://10.0.0.2:7070 route=q2 status=+H timeout=600\n    ProxySet stickysession=JSESSIONID|jsessionid\n\
           </Proxy>\n  ProxyPreserveHost Off\n  ProxyPass /balancer-manager !\n  ProxyPass / balancer://kylin/\n  ProxyPassReverse / balancer://kylin/\n\
           <Location /balancer-manager>\n    SetHandler balancer-manager\n    Require local\n  </Location>\n  ErrorDocument 503 /sorry.html\n</VirtualHost>\n",
    );
    let main = format!(
        "\u{feff}ServerRoot \"{}\"\n# \u{540d}\u{524d} \\\nwith a line of its own\nTimeout 300\nKeepAlive On\nUser ${{APACHE_RUN_USER}}\nHostnameLookups Off\n\
         IncludeOptional mods-enabled/*.load\nIncludeOptional mods-enabled/*.conf\nInclude empty\nListen 8080\n\
         <Directory />\n  Require all denied\n</Directory>\n<FilesMatch \"^\\.ht\">\n  Require all denied\n</FilesMatch>\n\
         LogFormat \"%h %l \\\"%r\\\"\" common\nIncludeOptional sites-enabled/*.conf\nIncludeOptional nowhere/*.conf\n",
        folder.path().display()
    );
    let file = write(&folder, &main);
    let shown = check(&["--httpd", file.to_str().unwrap()]);
    for line in [
        "balancer://kylin: byrequests",
        "kylin      on (ProxyPass / balancer://kylin/, and the balancer has that name)",
        "sessions   stickysession JSESSIONID|jsessionid",
        "http://10.0.0.1:7070  loadfactor 3  retry 30s  route q1  max 20",
        "http://10.0.0.2:7070  loadfactor 1  outlier rule (no retry is written)  route q2  timeout 600s  hot standby",
        "server [::]:8080 (default)",
        "names      kylin.example",
        "ProxyPass /balancer-manager ! -> 404",
        "access     /balancer-manager: Require local",
        "httpd.conf:5 KeepAlive On",
        "proxy.load:1 LoadModule proxy_module /m/mod_proxy.so",
        "deflate.conf:1 <IfModule mod_filter.c>: the condition does not hold",
        "kylin.conf:6 ping=5: the front end probes nodes itself: --probe",
        "kylin.conf:4 ErrorLog ${APACHE_LOG_DIR_OF_NOWHERE}/error.log",
        "httpd.conf:12 <Directory />: files are not served",
        "kylin.conf:10 ProxyPreserveHost Off: nodes get the client's Host",
        "kylin.conf:6 max=20: counted over all threads",
        "SetHandler balancer-manager: the nodes get what a ProxyPass matches, as in httpd, else 404; the state is at --admin",
        "ErrorDocument 503 /sorry.html: errors of the front end are in Kylin's form",
        "httpd.conf: the configuration is valid",
    ] {
        let line =
            if std::net::UdpSocket::bind("[::]:0").is_ok() { line.to_owned() } else { line.replace("[::]", "0.0.0.0") };
        assert!(shown.contains(&line), "{line}\n{shown}");
    }
    assert!(!shown.contains("Nonsense"), "{shown}");
}

#[tokio::test]
async fn kylin_nodes_behind_a_file_of_httpd_keep_their_logins_and_are_guarded() {
    let (mut nodes, mut members) = (Vec::new(), String::new());
    for name in ["n1", "n2", "n3"] {
        let (node, served) = demo(name).await;
        members += &format!("BalancerMember http://{}\n", served.addr());
        nodes.push((node, served));
    }
    let folder = TempDir::new().unwrap();
    let text =
        format!("Listen 127.0.0.1:1\n<Proxy balancer://kylin>\n{members}</Proxy>\nProxyPass / balancer://kylin/\n");
    let file = write(&folder, &text);
    let (process, front) = start(&["--httpd", file.to_str().unwrap(), "--probe", "none"]).await;
    let mut browsers = Vec::new();
    for _ in 0..6 {
        let mut browser = Browser::new(front);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        browsers.push(browser);
    }
    for browser in &mut browsers {
        for _ in 0..4 {
            assert_eq!(browser.query().await.status(), 200);
        }
    }
    let logins: Vec<u64> = nodes.iter().map(|(node, _)| node.stats().logins).collect();
    assert_eq!(logins, [2, 2, 2], "byrequests spreads the logins");
    let closed = browsers[0].get("/kylin/api/cache/announce/all/all/update").await;
    assert!([403, 405].contains(&closed.status()), "{closed:?}");

    // A reload keeps the logins; a reload with a mistake changes nothing.
    std::fs::write(&file, text.replace("ProxyPass /", "Redirect /front /kylin/login\nProxyPass /front !\nProxyPass /"))
        .unwrap();
    process.signal("HUP");
    eventually(|| process.log().contains("reloaded"), || process.log()).await;
    std::fs::write(&file, "Listen 1\nProxyPas\n").unwrap();
    process.signal("HUP");
    eventually(|| process.log().contains("not reloaded"), || process.log()).await;
    for browser in &mut browsers {
        assert_eq!(browser.query().await.status(), 200, "the login is lost");
    }
    let moved = browsers[0].get("/front").await;
    assert_eq!((moved.status(), moved.header("location")), (302, Some("/kylin/login")));
    assert_eq!(nodes.iter().map(|(node, _)| node.stats().logins).sum::<u64>(), 6);
}
