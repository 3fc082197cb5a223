//! Reloads: a site of an nginx configuration replaces a running one.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::nginx::{Config, Site, SiteBuilder};
use kylin_lb::server::Server;
use kylin_lb::session::Secret;
use kylin_lb::testing::kylin::Dialect;

use crate::support::browser::Browser;
use crate::support::front::{closed_port, eventually, until};
use crate::support::http::{Connection, get};
use crate::support::kylin::Demo;
use crate::support::raw_node::{Act, RawNode, healthy, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";

/// Returns the builder of a configuration with these lines in the upstream `kylin`, and these
/// locations in the server.
fn builder(upstream: &str, locations: &str) -> SiteBuilder {
    let text = format!("upstream kylin {{ {upstream} }}\nserver {{ listen 127.0.0.1:1;\n{locations} }}");
    Site::builder(Config::parse("kylin.conf", &text).unwrap_or_else(|error| panic!("{error}")))
}

const PASS: &str = "location / { proxy_pass http://kylin; }";

fn server_lines(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| format!("server {address};")).collect()
}

fn start(site: &Site) -> Server {
    site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(1).unwrap()).start().unwrap()
}

/// Reloads as an application does. Returns the changes in one line.
fn reload(site: &mut Site, server: &mut Server, builder: SiteBuilder) -> String {
    let successor = builder.build_successor(site).unwrap_or_else(|error| panic!("{error}"));
    let threads = NonZero::new(1).unwrap();
    server.replace(successor.site().server_on("127.0.0.1:0".parse().unwrap()).threads(threads)).unwrap();
    let (new, changes) = successor.activate();
    *site = new;
    changes.to_string()
}

fn cluster(site: &Site) -> &Cluster {
    site.clusters().next().unwrap().1
}

fn ids(cluster: &Cluster) -> Vec<String> {
    cluster.status().endpoints.iter().map(|endpoint| endpoint.id.as_str().to_owned()).collect()
}

#[tokio::test]
async fn endpoints_keep_their_live_state_and_requests_in_flight_finish() {
    let exchange = [Act::Read, Act::WaitForGo, Act::Write(ok("slow"))];
    let slow = RawNode::start([exchange.to_vec()]).await;
    let other = RawNode::start([[Act::Read, Act::Write(ok("other"))].to_vec()]).await;
    let mut site = builder(&server_lines(&[slow.address()]), PASS).kylin(false).build().unwrap();
    let mut server = start(&site);
    let address = server.addresses()[0];
    let mut busy = Connection::open(address).await.unwrap();
    busy.send(GET).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;

    // A request to the slow node would wait, because the node already has its one connection.
    let lines = format!("server {} max_conns=1; server {};", slow.address(), other.address());
    let changes = reload(&mut site, &mut server, builder(&lines, PASS).kylin(false));
    let (kept, added) = (slow.address(), other.address());
    assert_eq!(changes, format!("endpoints added: kylin/{added}; endpoints changed: kylin/{kept}"));
    assert_eq!(cluster(&site).status().endpoints[0].in_flight, 1, "it is still counted");
    assert_eq!(get(address, "/", &[]).await.unwrap().text(), "other", "so max_conns=1 is reached");

    let changes = reload(&mut site, &mut server, builder(&server_lines(&[other.address()]), PASS).kylin(false));
    assert_eq!(changes, format!("endpoints removed: kylin/{kept}"));
    slow.go();
    assert_eq!(busy.response().await.unwrap().text(), "slow");
}

/// Zones with the previous name and key continue to count, as in nginx. A zone with another key
/// starts over.
#[tokio::test]
async fn limits_of_clients_go_on_counting() {
    let exchange = [Act::Read, Act::WaitForGo, Act::Write(ok("slow"))];
    let slow = RawNode::start([exchange.to_vec()]).await;
    let node = RawNode::start([healthy("node")]).await;
    let with = |req: &str, conn: &str, note: &str| {
        let text = format!(
            "limit_req_zone {req} zone=requests:1m rate=1r/m; limit_conn_zone {conn} zone=flight:1m;
            server {{ listen 127.0.0.1:1;
            location /req {{ limit_req zone=requests burst=20 nodelay; add_header x-note {note}; proxy_pass http://{node}; }}
            location /conn {{ limit_conn flight 1; proxy_pass http://{slow}; }}
            location /conn/quick {{ limit_conn flight 1; proxy_pass http://{node}; }} }}",
            node = node.address(),
            slow = slow.address(),
        );
        Site::builder(Config::parse("kylin.conf", &text).unwrap_or_else(|error| panic!("{error}")))
    };
    let (address, user) = ("$binary_remote_addr", "$remote_user");
    let mut site = with(address, address, "first").build().unwrap();
    let mut server = start(&site);
    let front = server.addresses()[0];
    let status = async |path| get(front, path, &[]).await.unwrap().status();
    // If the count starts over, all of them are served. Otherwise one is served per minute.
    let served = async || {
        let mut served = 0;
        for _ in 0..21 {
            served += usize::from(status("/req").await == 200);
        }
        served
    };
    let mut busy = Connection::open(front).await.unwrap();
    busy.send("GET /conn HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    assert_eq!((served().await, status("/conn/quick").await), (21, 503));
    for note in ["second", "third"] {
        reload(&mut site, &mut server, with(address, address, note));
        let (served, in_flight) = (served().await, status("/conn/quick").await);
        assert!(served <= 10 && in_flight == 503, "{served} served after the {note} reading");
    }
    slow.go();
    assert_eq!(busy.response().await.unwrap().status(), 200);
    // The request that an earlier site counted must also end for this site.
    until("the limit is free", async || status("/conn/quick").await == 200).await;
    reload(&mut site, &mut server, with(user, user, "fourth"));
    assert_eq!(served().await, 21, "a request without a user has no limit");
}

#[tokio::test]
async fn locations_are_those_of_the_new_file_at_once_and_upstreams_come_and_go() {
    let mut site = builder("server 127.0.0.1:1;", "location / { return 200 one; }").build().unwrap();
    let mut server = start(&site);
    let address = server.addresses()[0];
    let mut client = Connection::open(address).await.unwrap();
    let mut ask = async || {
        client.send(GET).await.unwrap();
        client.response().await.unwrap().text().to_owned()
    };
    assert_eq!(ask().await, "one");
    let changes = reload(&mut site, &mut server, builder("server 127.0.0.1:1;", "location / { return 200 two; }"));
    assert_eq!((ask().await.as_str(), changes.as_str()), ("two", "servers or locations changed"));
    let unchanged = reload(&mut site, &mut server, builder("server 127.0.0.1:1;", "location / { return 200 two; }"));
    assert_eq!(unchanged, "no change of servers, upstreams or endpoints");
    let least_conn = "least_conn; server 127.0.0.1:1;";
    let changes = reload(&mut site, &mut server, builder(least_conn, "location / { return 200 two; }"));
    assert_eq!(changes, "policies changed: kylin");
    let status = cluster(&site).status();
    assert!(status.balancer.contains("LeastConn"), "{}", status.balancer);
    let other = "upstream other { server 127.0.0.1:2; } server { listen 127.0.0.1:1; location / { return 200 two; } }";
    let changes = reload(&mut site, &mut server, Site::builder(Config::parse("kylin.conf", other).unwrap()));
    assert_eq!(changes, "upstreams added: other; upstreams removed: kylin");
}

#[tokio::test]
async fn the_longest_head_of_a_response_is_that_of_the_new_file() {
    let node = crate::support::files::node();
    let upstream = format!("server {} max_fails=0;", node.addresses()[0]);
    let limit = |size: &str| builder(&upstream, &format!("proxy_buffer_size {size}; {PASS}"));
    let mut site = limit("1k").build().unwrap();
    let mut server = start(&site);
    let address = server.addresses()[0];
    let status = async || get(address, "/x?head=3000", &[]).await.unwrap().status();
    for (size, expected) in [("1k", 502), ("16k", 200), ("1k", 502)] {
        reload(&mut site, &mut server, limit(size));
        assert_eq!(status().await, expected, "{size}");
    }
}

#[tokio::test]
async fn a_file_that_has_not_changed_changes_nothing_after_requests_either() {
    let node = RawNode::start([healthy("node")]).await;
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "KYLIN:{PLAIN}secret\n").unwrap();
    let text = |realm: &str, upstream: &str| {
        format!(
            "limit_req_zone $arg_key zone=requests:1m rate=1000r/s;
            limit_conn_zone $arg_key zone=connections:1m;
            map $arg_key $mapped {{ a 1; b 2; c 3; d 4; e 5; f 6; }}
            upstream kylin {{ server {}; {upstream} }}
            server {{
                listen 127.0.0.1:1;
                limit_req zone=requests burst=1000;
                limit_conn connections 100;
                error_page 418 = @none;
                location / {{ add_header X-Mapped $mapped; proxy_pass http://kylin; }}
                location /password {{ auth_basic {realm}; auth_basic_user_file {}; proxy_pass http://kylin; }}
                location = /a {{ return 204; }} location = /b {{ return 204; }} location = /c {{ return 204; }}
                location = /d {{ return 204; }} location = /e {{ return 204; }} location = /f {{ return 204; }}
                location @none {{ return 204; }}
            }}",
            node.address(),
            users.display(),
        )
    };
    let builder =
        |text: &str| Site::builder(Config::parse("kylin.conf", text).unwrap_or_else(|error| panic!("{error}")));
    let original = text("one", "");
    let mut site = builder(&original).build().unwrap();
    let mut server = start(&site);
    let front = server.addresses()[0];
    let login = [("Authorization", "Basic S1lMSU46c2VjcmV0")];
    for (path, headers) in [("/?key=b", &[][..]), ("/?key=c", &[]), ("/password?key=a", &login)] {
        assert_eq!(get(front, path, headers).await.unwrap().status(), 200, "{path}");
    }
    let unchanged = "no change of servers, upstreams or endpoints";
    for _ in 0..3 {
        assert_eq!(reload(&mut site, &mut server, builder(&original)), unchanged);
    }
    let moved = format!("# A remark.\n\n{}", original.replace("; ", ";\n    "));
    assert_eq!(reload(&mut site, &mut server, builder(&moved)), unchanged);
    let added = "server 127.0.0.9:1 backup;";
    let changes = reload(&mut site, &mut server, builder(&text("one", added)));
    assert_eq!(changes, "endpoints added: kylin/127.0.0.9:1");
    assert_eq!(reload(&mut site, &mut server, builder(&text("two", added))), "servers or locations changed");
}

#[tokio::test]
async fn panic_mode_is_that_of_the_new_configuration() {
    let gone = format!("server {} max_fails=1 fail_timeout=1h;", closed_port());
    let lines = format!("{gone} server {} max_fails=1 fail_timeout=1h;", closed_port());
    let mut site = builder(&lines, PASS).build().unwrap();
    let mut server = start(&site);
    let address = server.addresses()[0];
    let status = async || get(address, "/", &[]).await.unwrap().status();
    assert_eq!(status().await, 502);
    assert_eq!(status().await, 502, "all are ejected, and panic mode picks one of them");
    for (is_on, expected) in [(false, 503), (true, 502)] {
        reload(&mut site, &mut server, builder(&lines, PASS).panic_mode(is_on));
        assert_eq!(status().await, expected);
    }
}

/// Logs in, reloads, and expects that the login is still known, with one session at the nodes.
async fn keeps_logins(upstream: &str, dialect: Dialect, secrets: [Option<Secret>; 2]) {
    let demo = Demo::start(dialect, 3).await;
    let lines = format!("{upstream} {}", server_lines(&[demo.address(0), demo.address(1), demo.address(2)]));
    let [first, second] = secrets.map(|secret| {
        let builder = builder(&lines, PASS);
        match secret {
            Some(secret) => builder.secret(secret),
            None => builder,
        }
    });
    let mut site = first.build().unwrap();
    let mut server = start(&site);
    let mut browsers = Vec::new();
    for _ in 0..6 {
        let mut browser = Browser::new(server.addresses()[0]);
        assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
        browsers.push(browser);
    }
    reload(&mut site, &mut server, second);
    for browser in &mut browsers {
        for _ in 0..3 {
            assert_eq!(browser.query().await.status(), 200, "{upstream}");
        }
    }
}

#[tokio::test]
async fn sessions_stay_with_and_without_a_new_secret() {
    let old = Secret::new([1; 32]);
    let new = Secret::new([2; 32]).with_previous(old.clone());
    let ways = [
        "",
        "sticky cookie lb;",
        "sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_JSESSIONID zone=a:1m;",
    ];
    for way in ways {
        keeps_logins(way, Dialect::default(), [None, None]).await;
        keeps_logins(way, Dialect::default(), [Some(old.clone()), Some(new.clone())]).await;
    }
    keeps_logins("# kylin_lb: sessions login-relay;\n", Dialect::default(), [Some(old.clone()), Some(new)]).await;
}

#[tokio::test]
async fn a_configuration_that_cannot_be_served_changes_nothing() {
    let site = builder("server 127.0.0.1:1;", PASS).build().unwrap();
    let error = builder("server name.invalid:1; server 127.0.0.1:1;", PASS).build_successor(&site).unwrap_err();
    assert_eq!(error.to_string(), "upstream kylin: host not found in server name.invalid:1");
    drop(builder("least_conn; server 127.0.0.1:2;", PASS).build_successor(&site).unwrap());
    assert_eq!(ids(cluster(&site)), ["127.0.0.1:1"], "a successor that is not activated");
    assert!(cluster(&site).status().balancer.contains("RoundRobin"));
}

type Lookup = io::Result<Vec<SocketAddr>>;

/// The current addresses of a name. `None` is an error.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<(Option<Vec<SocketAddr>>, usize)>>);

impl Names {
    fn set(&self, addresses: Option<&[&str]>) {
        self.0.lock().unwrap().0 = addresses.map(|all| all.iter().map(|one| one.parse().unwrap()).collect());
    }

    fn lookup(&self) -> Lookup {
        let mut names = self.0.lock().unwrap();
        names.1 += 1;
        names.0.clone().ok_or_else(|| io::Error::other("no server responds"))
    }

    /// Waits until a lookup that began after the call has ended.
    async fn wait_for_lookups(&self) {
        let seen = self.0.lock().unwrap().1;
        eventually(|| self.0.lock().unwrap().1 >= seen + 3, || "lookups".into()).await;
    }
}

#[tokio::test]
async fn names_are_looked_up_again_and_addresses_that_stay_keep_their_endpoints() {
    let port = closed_port().port();
    let written = format!("localhost:{port}");
    let mut site = builder(&format!("server {written} resolve; server 127.0.0.9:1;"), PASS).build().unwrap();
    let first = ids(cluster(&site));
    assert!(first.iter().all(|id| id.starts_with("localhost:") || id == "127.0.0.9:1"), "{first:?}");
    let names = Names::default();
    let lookup = {
        let names = names.clone();
        move |host: String, _| {
            assert_eq!(host, "localhost");
            std::future::ready(names.lookup())
        }
    };
    names.set(None);
    let running = site.start_name_lookups_with(Duration::from_millis(10), lookup.clone());
    names.wait_for_lookups().await;
    assert_eq!(ids(cluster(&site)), first, "the last addresses stay");

    let of = |host: &str| format!("{host}:{port}");
    let (a, b, c) = (of("127.0.0.1"), of("127.0.0.2"), of("127.0.0.3"));
    names.set(Some(&[&a, &b]));
    eventually(|| cluster(&site).status().endpoints.len() == 3, || format!("{:?}", cluster(&site).status())).await;
    let had_a = first.contains(&written);
    let id_of_a = if had_a { written.clone() } else { format!("{written}/{a}") };
    assert_eq!(ids(cluster(&site)), [id_of_a.clone(), format!("{written}/{b}"), "127.0.0.9:1".into()]);
    cluster(&site).set_weight(&id_of_a.parse().unwrap(), NonZero::new(7).unwrap()).unwrap();

    // The order of addresses changes with each lookup, and an address may occur twice.
    names.set(Some(&[&b, &a, &b]));
    names.wait_for_lookups().await;
    assert_eq!(cluster(&site).status().endpoints[0].weight, 7, "nothing has changed");

    names.set(Some(&[&c, &a]));
    eventually(|| ids(cluster(&site))[1] == format!("{written}/{c}"), || format!("{:?}", ids(cluster(&site)))).await;
    assert_eq!(ids(cluster(&site)).len(), 3);
    names.set(Some(&[]));
    names.wait_for_lookups().await;
    assert_eq!(ids(cluster(&site)).len(), 3, "an empty lookup empties nothing");

    // A reload keeps the ids of addresses.
    drop(running);
    let before = ids(cluster(&site));
    let successor = builder(&format!("server {written} resolve; server 127.0.0.9:1;"), PASS).build_successor(&site);
    let (new, _) = successor.unwrap().activate();
    site = new;
    let after = ids(cluster(&site));
    assert!(after.contains(&id_of_a) && after.len() <= before.len(), "{after:?}");
}

#[test]
fn resolver_says_how_often_names_are_looked_up_and_that_the_system_does_it() {
    let interval = |http: &str, upstream: &str| {
        let text = format!(
            "{http} upstream kylin {{ zone a 64k; {upstream} server 127.0.0.1:1; }}\n\
             server {{ listen 80; set $node kylin; location / {{ proxy_pass http://$node; }} }}"
        );
        let config = Config::parse("kylin.conf", &text).map_err(|error| error.to_string())?;
        let report = config.report().to_string();
        Ok::<_, String>((Site::builder(config).build().unwrap().name_lookup_interval().as_secs(), report))
    };
    assert_eq!(interval("", "").unwrap().0, 30);
    let (seconds, report) =
        interval("resolver 10.0.0.2 10.0.0.3 valid=10s ipv6=off; resolver_timeout 2s;", "").unwrap();
    assert!(
        seconds == 10 && report.contains("resolver: its servers are asked for the names of servers with resolve"),
        "{report}"
    );
    assert_eq!(interval("resolver 10.0.0.2;", "resolver kube-dns valid=5s; resolver_timeout 1s;").unwrap().0, 5);
    let error = interval("resolver 10.0.0.2 valid=soon;", "").unwrap_err();
    assert!(error.contains("invalid time \"soon\""), "{error}");
    let error = interval("resolver 10.0.0.2 valid=0;", "").unwrap_err();
    assert!(error.contains("1s or more"), "{error}");
}
