//! A front end on a free port: the crate's server and proxy for nodes at given addresses.

use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

use kylin_lb::backend::http1::HttpBackendBuilder;
use kylin_lb::clock::{Clock, ManualClock};
use kylin_lb::proxy::{Plain, ProxyBuilder};
use kylin_lb::server::{Listen, Server, ServerBuilder};
use kylin_lb::testing::kylin::{KylinNode, Served};
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};
use serde_json::Value;

use super::http::{Connection, RawResponse};

/// How long the tests wait for a state.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Front {
    pub(crate) proxy: Proxy,
    pub(crate) server: Server,
}

impl Front {
    /// With nodes at these addresses, called `0`, `1`, ..., and the crate's defaults.
    pub(crate) fn over(nodes: &[SocketAddr]) -> Self {
        Front::with(nodes, |proxy| proxy)
    }

    /// A plain proxy for nodes at these addresses, with changes.
    pub(crate) fn with(
        nodes: &[SocketAddr],
        change: impl FnOnce(ProxyBuilder<HttpBackend, Plain>) -> ProxyBuilder<HttpBackend, Plain>,
    ) -> Self {
        Front::of(endpoints(nodes), change)
    }

    /// A plain proxy for these endpoints, with changes.
    pub(crate) fn of(
        endpoints: impl IntoIterator<Item = Endpoint<HttpBackend>>,
        change: impl FnOnce(ProxyBuilder<HttpBackend, Plain>) -> ProxyBuilder<HttpBackend, Plain>,
    ) -> Self {
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        Front::serving(change(Proxy::plain(cluster)).build().unwrap(), |server| {
            server.threads(NonZero::new(1).unwrap())
        })
    }

    /// A Kylin-aware proxy for these endpoints, with changes.
    pub(crate) fn kylin(
        endpoints: impl IntoIterator<Item = Endpoint<HttpBackend>>,
        change: impl FnOnce(ProxyBuilder<HttpBackend>) -> ProxyBuilder<HttpBackend>,
    ) -> Self {
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        Front::serving(change(Proxy::builder(cluster)).build().unwrap(), |server| {
            server.threads(NonZero::new(1).unwrap())
        })
    }

    /// With endpoints whose ejections follow `clock`.
    pub(crate) fn by_clock(clock: &ManualClock, endpoints: impl IntoIterator<Item = Endpoint<HttpBackend>>) -> Self {
        let cluster = Cluster::builder().endpoints(endpoints).clock(clock.clone()).build().unwrap();
        Front::serving(Proxy::plain(cluster).clock(clock.clone()).build().unwrap(), |server| {
            server.threads(NonZero::new(1).unwrap())
        })
    }

    /// A server for `proxy`, with changes.
    pub(crate) fn serving(proxy: Proxy, change: impl FnOnce(ServerBuilder<Proxy>) -> ServerBuilder<Proxy>) -> Self {
        let listen: Listen = "127.0.0.1:0".parse().unwrap();
        let server = change(Server::builder().listen(listen, proxy.clone())).start().unwrap();
        Front { proxy, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    /// A new connection of a client.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await.unwrap()
    }

    /// The response to these bytes on their own connection.
    pub(crate) async fn ask(&self, bytes: impl AsRef<[u8]>) -> std::io::Result<RawResponse> {
        let mut connection = self.connect().await;
        connection.send(bytes).await?;
        connection.response().await
    }

    /// The response to a GET of `path`.
    pub(crate) async fn get(&self, path: &str) -> std::io::Result<RawResponse> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await
    }

    /// The response to a POST.
    pub(crate) async fn post(&self, path: &str, body: &str) -> std::io::Result<RawResponse> {
        self.ask(format!("POST {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Requests in flight on all nodes.
    pub(crate) fn in_flight(&self) -> u64 {
        self.proxy.cluster().status().in_flight()
    }

    /// Waits until no request is in flight.
    pub(crate) async fn idle(&self) {
        eventually(|| self.in_flight() == 0, || format!("{:?}", self.proxy.cluster().status())).await;
    }
}

/// Endpoints `0`, `1`, ... at these addresses.
pub(crate) fn endpoints(nodes: &[SocketAddr]) -> Vec<Endpoint<HttpBackend>> {
    nodes.iter().enumerate().map(|(id, address)| endpoint(id, *address, |backend| backend)).collect()
}

/// An endpoint at `address`, with changes to its backend. It is never ejected, so that tests of
/// other behaviour see each attempt.
pub(crate) fn endpoint(
    id: usize,
    address: SocketAddr,
    change: impl FnOnce(HttpBackendBuilder) -> HttpBackendBuilder,
) -> Endpoint<HttpBackend> {
    let backend = change(HttpBackend::builder(&address.to_string()).unwrap()).build().unwrap();
    Endpoint::new(id.to_string(), backend).unwrap().outlier(false)
}

/// A demo node that listens on a free port.
pub(crate) async fn demo(name: &str) -> (KylinNode, Served) {
    let node = KylinNode::new(name);
    let served = node.serve(closed_port()).await.unwrap();
    (node, served)
}

/// An address that refuses connections, because no server listens there, and outgoing connections
/// do not use that range.
pub(crate) fn closed_port() -> SocketAddr {
    ([127, 0, 0, 1], super::port::free_port()).into()
}

/// Waits for a state that must occur and that no event announces.
pub(crate) async fn eventually(mut test: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begun = kylin_lb::clock::SystemClock.now();
    while !test() {
        assert!(kylin_lb::clock::SystemClock.now() - begun < TIMEOUT, "did not come: {}", what());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for a state that must occur and that only a request shows.
pub(crate) async fn until(what: &str, mut test: impl AsyncFnMut() -> bool) {
    let begun = kylin_lb::clock::SystemClock.now();
    while !test().await {
        assert!(kylin_lb::clock::SystemClock.now() - begun < TIMEOUT, "did not come: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asserts that `response` is an error of this status in the form that Kylin's clients know, and
/// returns its message.
pub(crate) fn refusal(response: &RawResponse, status: u16) -> String {
    assert_eq!(response.status(), status, "{}", response.text());
    let json: Value = serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("no JSON: {}", response.text()));
    let fields: std::collections::BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["code", "data", "exception", "msg", "stacktrace", "url"];
    assert_eq!(fields, expected.into(), "{}", response.text());
    assert!(json["code"] == "999" && json["data"].is_null() && json["stacktrace"] == "", "{json}");
    assert_eq!(response.header("content-type"), Some("application/json;charset=UTF-8"));
    assert!(!response.text().contains("127.0.0.1"), "an address of a node: {}", response.text());
    json["msg"].as_str().unwrap().to_owned()
}
