//! Compares the choices of the crate's policies with those of a real nginx.

use std::net::{IpAddr, SocketAddr};

use kylin_lb::Cluster;
use kylin_lb::balance::{Balancer, HashKeyed, IpHash, RoundRobin};
use kylin_lb::nginx::{Config, Site};

use crate::policies::by_key;
use crate::support::cluster::{Nowhere, choose, endpoints};
use crate::support::front::eventually;
use crate::support::raw_node::{Act, RawNode, healthy, ok};
use crate::support::{Nginx, http::Connection, require_nginx};

/// A real nginx in front of servers that respond with their own index.
#[derive(Debug)]
pub(crate) struct Chooser {
    servers: Vec<SocketAddr>,
    connection: Connection,
    _nginx: Nginx,
}

impl Chooser {
    /// Starts nginx with one server for each item of `servers`, which holds its parameters
    /// (`"weight=3"`, `"down"`, `""`).
    ///
    /// `method` is the first line of the `upstream` block: `""` is round robin, `"ip_hash;"`,
    /// `"hash $http_x_key;"`, `"hash $http_x_key consistent;"`. All servers listen, including those
    /// that are `down`.
    pub(crate) async fn start(method: &str, servers: &[&str]) -> Self {
        let mut upstream = String::new();
        let mut listeners = String::new();
        for (index, parameters) in servers.iter().enumerate() {
            upstream += &format!("server 127.0.0.1:@server{index}@ {parameters};\n");
            listeners += &format!("server {{ listen 127.0.0.1:@server{index}@; return 200 {index}; }}\n");
        }
        let nginx = Nginx::start(&format!(
            "upstream chosen {{ {method}\n{upstream} }}
            {listeners}
            server {{
                listen 127.0.0.1:@front@;
                keepalive_requests 1000000;
                set_real_ip_from 127.0.0.1;
                real_ip_header X-Real-IP;
                location / {{ proxy_pass http://chosen; }}
            }}"
        ))
        .await;
        let servers = (0..servers.len()).map(|index| nginx.address(&format!("server{index}"))).collect();
        let connection = Connection::open(nginx.address("front")).await.expect("nginx accepts");
        Self { servers, connection, _nginx: nginx }
    }

    /// Returns the addresses of the servers as written in the configuration, on which a consistent
    /// hash depends.
    pub(crate) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Returns the index of the server that nginx chooses for a client with this address and this
    /// key (`$http_x_key`).
    ///
    /// # Panics
    /// If the key cannot be the value of a header, because it has control characters, or space at
    /// either end.
    pub(crate) async fn choose(&mut self, client: IpAddr, key: &str) -> usize {
        assert!(!key.contains(char::is_control) && key.trim() == key, "a header cannot carry the key {key:?}");
        let request = format!("GET / HTTP/1.1\r\nHost: chosen\r\nX-Real-IP: {client}\r\nX-Key: {key}\r\n\r\n");
        self.connection.send(request).await.expect("nginx keeps the connection");
        let response = self.connection.response().await.expect("nginx responds");
        response.text().parse().unwrap_or_else(|_| panic!("not the index of a server: {response:?}"))
    }
}

const CLIENT: &str = "192.0.2.1";

#[tokio::test]
async fn nginx_spreads_by_smooth_weighted_round_robin() {
    require_nginx!();
    let mut chooser = Chooser::start("", &["weight=5", "", ""]).await;
    let mut chosen = Vec::new();
    for _ in 0..14 {
        chosen.push(chooser.choose(CLIENT.parse().unwrap(), "").await);
    }
    assert_eq!(chosen, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[tokio::test]
async fn nginx_ip_hash_chooses_by_the_address_in_the_header() {
    require_nginx!();
    // From `ngx_http_upstream_ip_hash_module.c`: `hash = (hash * 113 + byte) % 6271` over the first
    // three bytes (IPv4) or all sixteen (IPv6), starting at 89. The server is `hash % 3`.
    let golden = [
        ("10.0.0.1", 0),
        ("10.0.1.7", 1),
        ("172.16.5.4", 1),
        ("8.8.8.8", 2),
        ("::1", 2),
        ("fe80::1", 0),
        ("::ffff:192.168.1.10", 1),
    ];
    let mut chooser = Chooser::start("ip_hash;", &["", "", ""]).await;
    for (client, server) in golden {
        assert_eq!(chooser.choose(client.parse().unwrap(), "").await, server, "{client}");
    }
    // The second draw of a client whose server is down.
    let mut chooser = Chooser::start("ip_hash;", &["", "down", ""]).await;
    assert_eq!(chooser.choose("192.168.1.10".parse().unwrap(), "").await, 2);
}

#[tokio::test]
async fn nginx_hash_chooses_by_the_key_in_the_header() {
    require_nginx!();
    let mut chooser = Chooser::start("hash $http_x_key;", &["", "", ""]).await;
    for (key, server) in [("a", 2), ("ADMIN", 1), ("/kylin/api/query", 0)] {
        assert_eq!(chooser.choose(CLIENT.parse().unwrap(), key).await, server, "{key}");
    }
}

#[tokio::test]
async fn nginx_consistent_hash_keeps_a_key_of_any_text_on_its_server() {
    require_nginx!();
    let mut chooser = Chooser::start("hash $http_x_key consistent;", &["weight=2", "", "down", ""]).await;
    assert_eq!(chooser.servers().len(), 4);
    let mut seen = [0; 4];
    for number in 0..500 {
        let key = format!("{number} Füße; \"q\" \\ $remote_addr #{{}}");
        let server = chooser.choose(CLIENT.parse().unwrap(), &key).await;
        assert_eq!(chooser.choose("2001:db8::7".parse().unwrap(), &key).await, server);
        seen[server] += 1;
    }
    assert_eq!(seen[2], 0, "the server that is down");
    assert!(seen[0] > 0 && seen[1] > 0 && seen[3] > 0, "{seen:?}");
}

/// Builds a cluster with nginx's servers, parameters and order.
fn twin(chooser: &Chooser, policy: impl Balancer, parameters: &[&str]) -> Cluster<Nowhere> {
    let endpoints = endpoints(parameters).into_iter().zip(chooser.servers());
    let endpoints = endpoints.map(|(endpoint, server)| endpoint.placement(server.to_string()));
    Cluster::builder().endpoints(endpoints).balancer(policy).build().unwrap()
}

/// Returns IPv4 and IPv6 clients, which are the same in every run.
fn clients(count: usize) -> impl Iterator<Item = IpAddr> {
    let mut random = fastrand::Rng::with_seed(42);
    (0..count).map(move |index| match index % 3 {
        0 => IpAddr::from(random.u128(..).to_be_bytes()),
        1 => IpAddr::from((0x0a00_0000 | random.u32(..1 << 24)).to_be_bytes()),
        _ => IpAddr::from(random.u32(..).to_be_bytes()),
    })
}

#[tokio::test]
async fn ip_hash_chooses_the_same_server_as_nginx_for_every_client() {
    require_nginx!();
    for parameters in [&["weight=3", "", "down", "weight=2", ""][..], &["", "", ""], &["down", "weight=7"]] {
        let mut nginx = Chooser::start("ip_hash;", parameters).await;
        let ours = twin(&nginx, IpHash::new(), parameters);
        for client in clients(2_000) {
            assert_eq!(choose(&ours, client, ""), nginx.choose(client, "").await, "{client} of {parameters:?}");
        }
    }
}

#[tokio::test]
async fn hash_chooses_the_same_server_as_nginx_for_every_key() {
    require_nginx!();
    let parameters = ["weight=3", "", "down", "weight=2"];
    let mut plain = Chooser::start("hash $http_x_key;", &parameters).await;
    let mut ring = Chooser::start("hash $http_x_key consistent;", &parameters).await;
    let our_plain = twin(&plain, HashKeyed::modulo(by_key()), &parameters);
    let our_ring = twin(&ring, HashKeyed::consistent(by_key()), &parameters);
    let client = CLIENT.parse().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..1_500 {
        let key: String = match number % 2 {
            0 => format!("/kylin/api/query?user={number}&x={}", random.u64(..)),
            _ => (0..1 + random.usize(..40)).map(|_| random.char('!'..='~')).collect(),
        };
        assert_eq!(choose(&our_plain, client, &key), plain.choose(client, &key).await, "hash of {key:?}");
        assert_eq!(choose(&our_ring, client, &key), ring.choose(client, &key).await, "consistent hash of {key:?}");
    }
}

#[tokio::test]
async fn round_robin_has_the_order_of_nginx() {
    require_nginx!();
    let parameters = ["weight=7", "weight=2", "down", "weight=4", ""];
    let mut nginx = Chooser::start("", &parameters).await;
    let ours = twin(&nginx, RoundRobin::new(), &parameters);
    let client = CLIENT.parse().unwrap();
    for pick in 0..100 {
        assert_eq!(choose(&ours, client, ""), nginx.choose(client, "").await, "pick {pick}");
    }
}

/// Sends a hundred requests, one after another, while the first of three nodes is busy. Sends three
/// more once it is idle. Returns the nodes that got them.
async fn while_one_is_busy(nodes: &[RawNode; 3], front: SocketAddr, settled: impl AsyncFn(u64)) -> (String, String) {
    let request = "GET / HTTP/1.1\r\nHost: chosen\r\n\r\n";
    let (mut held, mut others) = (Connection::open(front).await.unwrap(), Connection::open(front).await.unwrap());
    held.send(request).await.unwrap();
    nodes[0].wait_until(|seen| seen.requests.len() == 1).await;
    let mut send = async |busy| {
        others.send(request).await.unwrap();
        let node = others.response().await.unwrap().text().to_owned();
        settled(busy).await;
        node
    };
    let (mut during, mut after) = (String::new(), Vec::new());
    for _ in 0..100 {
        during += &send(1).await;
    }
    nodes[0].go();
    assert_eq!(held.response().await.unwrap().text(), "a");
    settled(0).await;
    for _ in 0..3 {
        after.push(send(0).await);
    }
    after.sort();
    (during, after.concat())
}

#[tokio::test]
async fn least_conn_avoids_a_busy_server_as_nginx_does() {
    require_nginx!();
    let nodes = async || {
        let busy = vec![Act::Read, Act::WaitForGo, Act::Write(ok("a"))];
        [
            RawNode::start([busy, healthy("a")]).await,
            RawNode::start([healthy("b")]).await,
            RawNode::start([healthy("c")]).await,
        ]
    };
    let text = |nodes: &[RawNode; 3]| {
        let servers = nodes.each_ref().map(|node| format!("server {};", node.address())).concat();
        format!(
            "upstream chosen {{ least_conn; {servers} }}
            server {{ listen 127.0.0.1:@front@; location / {{ proxy_pass http://chosen; }} }}"
        )
    };
    let theirs = nodes().await;
    let nginx = Nginx::start(&text(&theirs)).await;
    let theirs = while_one_is_busy(&theirs, nginx.address("front"), async |_| {}).await;
    assert_eq!(theirs, ("bc".repeat(50), "abc".to_owned()));

    let ours = nodes().await;
    let site = Site::new(Config::parse("front.conf", &text(&ours).replace("@front@", "1")).unwrap()).unwrap();
    let server = site.server_on("127.0.0.1:0".parse().unwrap()).start().unwrap();
    // A response may be read before it is counted as ended.
    let settled = async |busy| {
        let (_, cluster) = site.clusters().next().unwrap();
        eventually(|| cluster.status().in_flight() == busy, || format!("{:?}", cluster.status())).await;
    };
    assert_eq!(while_one_is_busy(&ours, server.addresses()[0], settled).await, theirs);
}
