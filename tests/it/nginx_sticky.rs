//! An nginx configuration with `sticky`, with nodes that do not know each other's sessions.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZero;

use kylin_lb::nginx::{Config, Site, SiteBuilder};
use kylin_lb::server::Server;
use kylin_lb::session::{MemoryStore, Secret, Sessions};
use kylin_lb::testing::kylin::{KylinNode, Served};

use crate::support::browser::Browser;
use crate::support::front::{closed_port, demo};

struct Nodes {
    nodes: Vec<KylinNode>,
    served: Vec<Served>,
}

impl Nodes {
    async fn start() -> Self {
        let (mut nodes, mut served) = (Vec::new(), Vec::new());
        for name in ["n1", "n2", "n3"] {
            let (node, listening) = demo(name).await;
            nodes.push(node);
            served.push(listening);
        }
        Nodes { nodes, served }
    }

    /// Starts a front end with `upstream` in its upstream. N1, N2 and N3 are replaced by the
    /// addresses of the nodes.
    fn front(&self, before: &str, upstream: &str, change: impl FnOnce(SiteBuilder) -> SiteBuilder) -> Front {
        let mut text = format!(
            "{before} upstream kylin {{ {upstream} }} server {{ listen 80; location / {{ proxy_pass http://kylin; }} }}"
        );
        for (number, served) in self.served.iter().enumerate() {
            text = text.replace(&format!("N{}", number + 1), &served.addr().to_string());
        }
        let config = Config::parse("kylin.conf", &text).unwrap_or_else(|error| panic!("{error}"));
        let site = change(Site::builder(config)).build().unwrap();
        let server = site.server_on("127.0.0.1:0".parse().unwrap()).threads(NonZero::new(2).unwrap()).start().unwrap();
        Front { address: server.addresses()[0], _server: server }
    }

    fn logins(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.stats().logins).collect()
    }
}

struct Front {
    address: SocketAddr,
    _server: Server,
}

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

async fn logged_in(front: &Front) -> Browser {
    let mut browser = Browser::new(front.address);
    assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
    browser
}

/// Returns the node that a query goes to.
async fn node(browser: &mut Browser) -> String {
    let response = browser.query().await;
    assert_eq!(response.status(), 200, "the login is lost: {}", response.text());
    let at = response.text().find("[[\"").expect("a result") + 3;
    response.text()[at..at + 2].to_owned()
}

/// Many clients log in and query at once; each must stay with the node of its login.
async fn keeps_every_login(front: &Front, nodes: &Nodes) {
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let browser = Browser::new(front.address);
            tokio::spawn(async move {
                let mut browser = browser;
                assert_eq!(browser.log_in("ADMIN", "KYLIN").await.status(), 200);
                let home = node(&mut browser).await;
                for _ in 0..10 {
                    assert_eq!(node(&mut browser).await, home);
                }
                home
            })
        })
        .collect();
    let mut homes = BTreeSet::new();
    for client in clients {
        homes.insert(client.await.unwrap());
    }
    assert_eq!(homes.len(), 3, "the policy still spreads the sessions");
    assert_eq!(nodes.logins().iter().sum::<u64>(), 24);
}

const SERVERS: &str = "server N1; server N2; server N3;";

#[tokio::test]
async fn the_sticky_cookie_keeps_every_login_and_no_node_sees_it() {
    let nodes = Nodes::start().await;
    let front =
        nodes.front("", &format!("sticky cookie lb httponly path=/kylin samesite=strict; {SERVERS}"), |site| site);
    keeps_every_login(&front, &nodes).await;

    let mut browser = Browser::new(front.address);
    let response = browser.get("/demo/head").await;
    let line = response.head.all("set-cookie").into_iter().find(|line| line.starts_with("lb=")).unwrap().to_owned();
    assert!(line.ends_with("; Path=/kylin; HttpOnly; SameSite=Strict"), "{line}");
    assert!(!response.text().contains("lb="), "{}", response.text());
    let response = browser.get("/demo/head").await;
    assert!(!response.text().contains("lb="), "{}", response.text());
    assert_eq!(response.head.all("set-cookie").len(), 0, "a valid cookie is not set again");
}

#[tokio::test]
async fn front_ends_with_one_secret_accept_each_others_cookies() {
    let nodes = Nodes::start().await;
    let upstream = format!("least_conn; sticky cookie lb; {SERVERS}");
    let [one, other, stranger] = [1, 1, 2].map(|byte| nodes.front("", &upstream, |site| site.secret(secret(byte))));
    for _ in 0..6 {
        let mut browser = logged_in(&one).await;
        let home = node(&mut browser).await;
        browser.front = other.address;
        assert_eq!(node(&mut browser).await, home);
        browser.front = stranger.address;
        browser.get("/demo/head").await;
        assert_ne!(browser.cookies["lb"], "", "the front end with another secret sets its own");
    }
}

#[tokio::test]
async fn sessions_are_learned_from_the_nodes_cookie_in_any_case_of_its_name() {
    let nodes = Nodes::start().await;
    let learn = "sticky learn create=$upstream_cookie_jsessionid lookup=$cookie_jsessionid zone=s:1m timeout=8h;";
    let front = nodes.front("", &format!("{learn} {SERVERS}"), |site| site);
    keeps_every_login(&front, &nodes).await;
}

#[tokio::test]
async fn sync_shares_learned_sessions_among_front_ends() {
    let nodes = Nodes::start().await;
    let store = MemoryStore::new();
    let learn = "sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_JSESSIONID zone=s:1m sync;";
    let [one, other] = [1, 2].map(|_| {
        nodes.front("", &format!("{learn} {SERVERS}"), |site| site.sessions(Sessions::local(store.clone(), secret(1))))
    });
    for _ in 0..6 {
        let mut browser = logged_in(&one).await;
        let home = node(&mut browser).await;
        browser.front = other.address;
        for _ in 0..4 {
            assert_eq!(node(&mut browser).await, home);
        }
    }
}

#[tokio::test]
async fn a_draining_server_keeps_its_sessions_and_gets_no_new_ones() {
    let nodes = Nodes::start().await;
    for (sticky, lines) in [
        ("sticky cookie lb;", "server N1; server N2; server N3;"),
        ("sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_JSESSIONID zone=s:1m;", SERVERS),
    ] {
        let sessions = Sessions::local(MemoryStore::new(), secret(1));
        let before =
            nodes.front("", &format!("{sticky} {lines}"), |site| site.secret(secret(1)).sessions(sessions.clone()));
        let mut browsers = Vec::new();
        for _ in 0..9 {
            let mut browser = logged_in(&before).await;
            let home = node(&mut browser).await;
            browsers.push((browser, home));
        }
        assert!(browsers.iter().any(|(_, home)| home == "n2"));
        // The configuration changes, and the front end restarts.
        let drained = lines.replace("N2;", "N2 drain;");
        let after = nodes.front("", &format!("{sticky} {drained}"), |site| site.secret(secret(1)).sessions(sessions));
        for (browser, home) in &mut browsers {
            browser.front = after.address;
            for _ in 0..3 {
                assert_eq!(&node(browser).await, home);
            }
        }
        for _ in 0..9 {
            let mut browser = logged_in(&after).await;
            assert_ne!(node(&mut browser).await, "n2", "{sticky}");
        }
    }
}

#[tokio::test]
async fn a_session_that_began_at_a_backup_moves_to_a_primary_server_as_in_nginx() {
    let nodes = Nodes::start().await;
    for sticky in [
        "sticky cookie lb;",
        "sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_JSESSIONID zone=s:1m;",
        "sticky cookie lb; least_conn;",
    ] {
        let sessions = Sessions::local(MemoryStore::new(), secret(1));
        let front = |servers: &str| {
            let change = |site: SiteBuilder| site.secret(secret(1)).sessions(sessions.clone());
            nodes.front("", &format!("{sticky} {servers}"), change)
        };
        let outage = front("server N1 down; server N2 down; server N3 backup;");
        let mut browser = Browser::insistent(outage.address, "ADMIN", "KYLIN");
        for _ in 0..3 {
            assert_eq!(node(&mut browser).await, "n3");
        }
        let before = browser.cookies.clone();
        let after = front("server N1; server N2 down; server N3 backup;");
        browser.front = after.address;
        assert_eq!(node(&mut browser).await, "n1", "{sticky}");
        assert_ne!(browser.cookies, before, "the session is bound to the primary server now");
        // Another primary server does not take the session away again.
        let more = front("server N1; server N2; server N3 backup;");
        browser.front = more.address;
        for _ in 0..4 {
            assert_eq!(node(&mut browser).await, "n1", "{sticky}");
        }
    }
}

/// Requests that reach dead servers eject them, according to `max_fails`.
#[tokio::test]
async fn a_route_that_a_dead_server_shares_with_a_backup_goes_to_the_backup_if_no_primary_server_lives() {
    let nodes = Nodes::start().await;
    let dead = [closed_port(), closed_port()];
    let live = "N3 route=a backup; server N2 route=b backup; server N1 route=c backup";
    for (servers, route, expected) in [
        (format!("server {} route=a; server {} route=b; server {live};", dead[0], dead[1]), "a", "n3"),
        (format!("server {} route=a; server {} route=b; server {live};", dead[0], dead[1]), "c", "n1"),
        (format!("server {} route=a; server N2 route=b; server N3 route=a backup;", dead[0]), "a", "n2"),
        ("server N1 route=a; server N2 route=b down; server N3 route=c backup;".to_owned(), "c", "n1"),
    ] {
        let front = nodes.front(RECIPE, &format!("sticky route $route_cookie $route_uri; {servers}"), |site| site);
        let mut browser = Browser::insistent(front.address, "ADMIN", "KYLIN");
        for _ in 0..4 {
            browser.cookies = [("JSESSIONID".to_owned(), format!("0123.{route}"))].into();
            assert_eq!(node(&mut browser).await, expected, "route {route} of {servers}");
        }
    }
}

/// The example of nginx's documentation.
const RECIPE: &str = r"map $cookie_jsessionid $route_cookie { ~.+\.(?P<route>\w+)$ $route; }
    map $request_uri $route_uri { ~jsessionid=.+\.(?P<route>\w+)$ $route; }";

#[tokio::test]
async fn a_route_goes_to_the_server_of_the_session_id_and_others_by_the_policy() {
    let nodes = Nodes::start().await;
    let upstream =
        "sticky route $route_cookie $route_uri; server N1 route=a; server N2 route=b; server N3 route=c drain;";
    let front = nodes.front(RECIPE, upstream, |site| site);
    let mut browser = Browser::insistent(front.address, "ADMIN", "KYLIN");
    let query = r#"{"sql":"select 1","project":"learn_kylin"}"#;
    for (cookie, suffix, expected) in [
        ("0123.b", "", &["n2"][..]),
        ("0123.x.a", "", &["n1"]),
        ("0123.c", "", &["n3"]),
        ("0123", ";jsessionid=4567.b", &["n2"]),
        ("0123.b", ";jsessionid=4567.a", &["n2"]),
        ("0123.unknown", "", &["n1", "n2"]),
        ("0123", "", &["n1", "n2"]),
    ] {
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            browser.cookies = [("JSESSIONID".to_owned(), cookie.to_owned())].into();
            let line = format!("POST /kylin/api/query{suffix}");
            let response = browser.ask(&line, &[("Content-Type", "application/json")], query).await;
            assert_eq!(response.status(), 200, "{}", response.text());
            let at = response.text().find("[[\"").expect("a result") + 3;
            seen.insert(response.text()[at..at + 2].to_owned());
        }
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{cookie} {suffix}");
    }
}
