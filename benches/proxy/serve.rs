//! The front ends in this program: kylin-lb in several configurations, and the TCP relay.

use std::net::SocketAddr;
use std::num::NonZero;

use kylin_lb::balance::{HashKeyed, LeastConn, QueryAffinity, RequestKey, RoundRobin};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::server::Server;
use kylin_lb::session::{Affinity, Sessions};
#[cfg(feature = "login-relay")]
use kylin_lb::session::{LoginRelay, Secret};
use kylin_lb::{Cluster, Endpoint, Proxy};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Runs the front end of `KIND LISTEN THREADS NODE NODE` until it is killed.
pub fn serve(words: &[String]) {
    let [kind, listen, threads, nodes @ ..] = words else { panic!("--serve KIND LISTEN THREADS NODE...") };
    let threads: NonZero<usize> = threads.parse().unwrap();
    let listen: SocketAddr = listen.parse().unwrap();
    let cluster = || {
        let endpoint = |(number, node): (usize, &String)| Endpoint::http(format!("n{number}"), node).unwrap();
        Cluster::builder().endpoints(nodes.iter().enumerate().map(endpoint))
    };
    let start = |proxy: Proxy| {
        Server::builder()
            .listen(listen.into(), proxy)
            .threads(threads)
            .max_connections(NonZero::new(18_000))
            .max_connections_per_client(None)
            .start()
            .unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _server = match kind.as_str() {
        "relay" => return runtime.block_on(relay(listen, nodes[0].parse().unwrap())),
        // The plain proxy: least-conn, passive health, forwarding headers, a replay copy.
        "kylin-lb" => start(Proxy::plain(cluster().balancer(LeastConn::new()).build().unwrap()).build().unwrap()),
        // The default mode: Kylin-aware, with learned sessions in memory.
        "default" => start(Proxy::builder(cluster().balancer(LeastConn::new()).build().unwrap()).build().unwrap()),
        // A repeated query goes to the node that has its result.
        "query-affinity" => {
            start(Proxy::builder(cluster().balancer(QueryAffinity::new()).build().unwrap()).build().unwrap())
        }
        // The front end logs in at each node.
        #[cfg(feature = "login-relay")]
        "login-relay" => {
            let sessions = Sessions::in_memory().unwrap();
            let relay = LoginRelay::new(sessions, Secret::random().unwrap()).secure(false);
            let cluster = cluster().balancer(LeastConn::new()).build().unwrap();
            start(Proxy::builder(cluster).affinity(Affinity::login_relay(relay)).build().unwrap())
        }
        "bare" => {
            let cluster = cluster().balancer(RoundRobin::new()).build().unwrap();
            start(Proxy::plain(cluster).forwarded_headers(false).retry(RetryPolicy::none()).build().unwrap())
        }
        "sticky" => {
            let by_session = HashKeyed::consistent(RequestKey::Cookie("JSESSIONID".into()));
            start(Proxy::plain(cluster().balancer(by_session).build().unwrap()).build().unwrap())
        }
        "learned" => {
            let learned = Affinity::learn(Sessions::in_memory().unwrap());
            let cluster = cluster().balancer(LeastConn::new()).build().unwrap();
            start(Proxy::plain(cluster).affinity(learned).build().unwrap())
        }
        "nginx" => {
            let servers: String = nodes.iter().map(|node| format!("server {node};")).collect();
            let text = format!(
                "upstream kylin {{ least_conn; {servers} }} server {{ listen {listen}; location / {{ proxy_pass http://kylin; }} }}"
            );
            let site = Site::new(Config::parse("bench", &text).unwrap()).unwrap();
            site.server()
                .threads(threads)
                .max_connections(NonZero::new(18_000))
                .max_connections_per_client(None)
                .start()
                .unwrap()
        }
        other => panic!("no such front end: {other}"),
    };
    runtime.block_on(std::future::pending())
}

/// Copies bytes from one socket to another and back without HTTP: the practical limit.
async fn relay(listen: SocketAddr, node: SocketAddr) {
    let listener = TcpListener::bind(listen).await.unwrap();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            let mut server = TcpStream::connect(node).await?;
            server.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await
        });
    }
}
