//! Logins other than Basic: SAML sends the browser to its provider and back; Kerberos takes one or
//! two rounds of 401.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, header};
use kylin_lb::balance::RoundRobin;
use kylin_lb::session::{Affinity, MemoryStore, ReplicatedSessions, Secret, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

/// The sessions of a node by their id, and whether the login is complete.
#[derive(Clone, Default)]
struct NodeSessions(Arc<Mutex<BTreeMap<String, bool>>>);

impl NodeSessions {
    /// Begins a session in place of `old`, because Spring changes the id at a login. Returns its
    /// `Set-Cookie`.
    fn begin(&self, node: &str, old: &str, is_complete: bool) -> String {
        let mut sessions = self.0.lock().unwrap();
        sessions.remove(old);
        let id = format!("{:032X}.{node}", fastrand::u128(..));
        sessions.insert(id.clone(), is_complete);
        format!("JSESSIONID={id}; Path=/kylin; HttpOnly")
    }

    fn state(&self, id: &str) -> Option<bool> {
        self.0.lock().unwrap().get(id).copied()
    }
}

/// A node with both kinds of login. It knows no session that another node began, unless `sessions`
/// are shared.
fn node(name: &'static str, sessions: NodeSessions) -> Endpoint<Scripted> {
    let script = move |request: Request<Body>| {
        let response = respond(name, &sessions, &request);
        async move { Ok(response) }
    };
    Endpoint::new(name, Scripted::new(script)).unwrap().route(name)
}

fn respond(name: &str, sessions: &NodeSessions, request: &Request<Body>) -> Response<Body> {
    let header = |name| request.headers().get(name).map_or("", |value| value.to_str().unwrap());
    let id = header(header::COOKIE).split("; ").find_map(|pair| pair.strip_prefix("JSESSIONID=")).unwrap_or_default();
    let (is_begun, is_complete) = (sessions.state(id).is_some(), sessions.state(id) == Some(true));
    let response = Response::builder().header("x-node", name);
    let begin = |is_complete| sessions.begin(name, id, is_complete);
    match (request.method(), request.uri().path(), header(header::AUTHORIZATION)) {
        (&Method::GET, "/kylin/saml/login", _) => response
            .status(302)
            .header("location", "https://provider.example/sso?SAMLRequest=fZ&RelayState=x")
            .header("set-cookie", begin(false)),
        (&Method::POST, "/kylin/saml/SSO", _) if is_begun => {
            response.status(302).header("location", "/kylin/").header("set-cookie", begin(true))
        }
        (_, _, "Negotiate first") => {
            response.status(401).header("www-authenticate", "Negotiate challenge").header("set-cookie", begin(false))
        }
        (_, _, "Negotiate second") if is_begun => {
            response.header("www-authenticate", "Negotiate mutual").header("set-cookie", begin(true))
        }
        (_, _, "Negotiate single") => {
            response.header("www-authenticate", "Negotiate mutual").header("set-cookie", begin(true))
        }
        (&Method::POST, "/kylin/api/query", _) if is_complete => response.header("content-type", "application/json"),
        _ => response.status(401).header("www-authenticate", "Negotiate").header("www-authenticate", "NTLM"),
    }
    .body(Body::from("{}"))
    .unwrap()
}

/// A browser with its cookies.
struct Client<'p> {
    proxy: &'p Proxy<Scripted>,
    cookies: BTreeMap<String, String>,
}

impl Client<'_> {
    async fn ask(&mut self, method: &str, path: &str, authorization: Option<&str>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "kylin");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        let body = if method == "POST" { Body::from(r#"{"sql":"select 1","project":"p"}"#) } else { Body::empty() };
        let response = self.proxy.forward(ClientAddr::Unix, request.body(body).unwrap()).await;
        for line in response.headers().get_all("set-cookie") {
            let (name, value) = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        response
    }

    /// Returns the nodes that serve eight queries of the session.
    async fn queries(&mut self) -> BTreeSet<String> {
        let mut nodes = BTreeSet::new();
        for _ in 0..8 {
            let response = self.ask("POST", "/kylin/api/query", None).await;
            assert_eq!(response.status(), 200, "{:?}", self.proxy);
            nodes.insert(response.headers()["x-node"].to_str().unwrap().to_owned());
        }
        nodes
    }
}

/// Proxies in front of three nodes, in each mode that keeps a session with its node, and one in
/// front of nodes that share their sessions.
fn proxies() -> Vec<Proxy<Scripted>> {
    let secret = || Secret::new([7; 32]);
    let stored = Sessions::remote(MemoryStore::new(), secret());
    [
        (Affinity::learn(Sessions::in_memory().unwrap()), false),
        (Affinity::learn(stored), false),
        (Affinity::cookie(secret()), false),
        (Affinity::route(), false),
        (Affinity::replicated(ReplicatedSessions::new()), false),
        (Affinity::replicated(ReplicatedSessions::new().grace(std::time::Duration::ZERO)), true),
    ]
    .into_iter()
    .map(|(affinity, is_shared)| {
        let shared = NodeSessions::default();
        let sessions = || if is_shared { shared.clone() } else { NodeSessions::default() };
        let nodes = ["a", "b", "c"].map(|name| node(name, sessions()));
        let cluster = Cluster::builder().endpoints(nodes).balancer(RoundRobin::new()).build().unwrap();
        Proxy::builder(cluster).affinity(affinity).build().unwrap()
    })
    .collect()
}

#[tokio::test]
async fn a_login_by_saml_returns_to_the_node_that_began_it_and_its_session_is_kept() {
    for proxy in proxies() {
        for _ in 0..5 {
            let mut client = Client { proxy: &proxy, cookies: BTreeMap::new() };
            let response = client.ask("GET", "/kylin/saml/login", None).await;
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()["location"], "https://provider.example/sso?SAMLRequest=fZ&RelayState=x");
            let begun = client.cookies["JSESSIONID"].clone();
            let response = client.ask("POST", "/kylin/saml/SSO", None).await;
            assert_eq!(
                (response.status(), response.headers()["location"].as_bytes()),
                (302.try_into().unwrap(), &b"/kylin/"[..]),
                "{proxy:?}"
            );
            assert_ne!(client.cookies["JSESSIONID"], begun, "the id changes at the login");
            client.queries().await;
        }
    }
}

#[tokio::test]
async fn a_login_by_kerberos_in_one_or_two_rounds_is_kept() {
    for proxy in proxies() {
        for rounds in [&["single"][..], &["first", "second"]] {
            for _ in 0..5 {
                let mut client = Client { proxy: &proxy, cookies: BTreeMap::new() };
                let response = client.ask("POST", "/kylin/api/query", None).await;
                let offers: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
                assert_eq!(response.status(), 401);
                assert_eq!(offers, ["Negotiate", "NTLM"]);
                for (round, token) in rounds.iter().enumerate() {
                    let authorization = format!("Negotiate {token}");
                    let response = client.ask("POST", "/kylin/api/query", Some(&authorization)).await;
                    let is_last = round + 1 == rounds.len();
                    let expected = if is_last { (200, "Negotiate mutual") } else { (401, "Negotiate challenge") };
                    let offer = response.headers()["www-authenticate"].to_str().unwrap();
                    assert_eq!((response.status().as_u16(), offer), expected, "{proxy:?}");
                }
                client.queries().await;
            }
        }
    }
}

/// The modes in which no node needs to know the session.
#[tokio::test]
async fn sessions_that_nodes_share_are_spread_after_a_login_by_saml() {
    let proxies = proxies();
    let mut client = Client { proxy: proxies.last().unwrap(), cookies: BTreeMap::new() };
    client.ask("GET", "/kylin/saml/login", None).await;
    client.ask("POST", "/kylin/saml/SSO", None).await;
    assert_eq!(client.queries().await.len(), 3);
}
