//! The front ends in this program: kylin-lb in several configurations, and the TCP relay.

use std::net::SocketAddr;
use std::num::NonZero;

use kylin_lb::balance::{HashKeyed, LeastConn, QueryAffinity, RequestKey, RoundRobin};
use kylin_lb::nginx::{Config, Site};
use kylin_lb::proxy::{Plain, ProxyBuilder, RetryPolicy};
use kylin_lb::server::{ListenOptions, Server};
use kylin_lb::session::{Affinity, Sessions};
#[cfg(feature = "login-relay")]
use kylin_lb::session::{LoginRelay, Secret};
use kylin_lb::{Backend, Cluster, Endpoint, Proxy};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Runs the front end of `KIND LISTEN THREADS NODE NODE` until it is killed.
pub fn serve(words: &[String]) {
    let [kind, listen, threads, nodes @ ..] = words else { panic!("--serve KIND LISTEN THREADS NODE...") };
    let threads: NonZero<usize> = threads.parse().unwrap();
    let listen: SocketAddr = listen.parse().unwrap();
    let start = |proxy: Proxy| {
        Server::builder()
            .listen_with(listen.into(), listen_options(), proxy)
            .threads(threads)
            .max_connections(NonZero::new(18_000))
            .max_connections_per_client(None)
            .start()
            .unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _server = match kind.as_str() {
        "relay" => return runtime.block_on(relay(listen, nodes[0].parse().unwrap())),
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
        kind => {
            let endpoint = |(number, node): (usize, &String)| Endpoint::http(format!("n{number}"), node).unwrap();
            start(proxy(kind, nodes.iter().enumerate().map(endpoint).collect()))
        }
    };
    runtime.block_on(std::future::pending())
}

/// With TLS if [`TLS_FOLDER`] is set.
fn listen_options() -> ListenOptions {
    let options = ListenOptions::new();
    #[cfg(feature = "tls")]
    if let Some(folder) = std::env::var_os(super::peers::TLS_FOLDER) {
        let file = |name| std::path::Path::new(&folder).join(name);
        let identity = kylin_lb::tls::Identity::from_files(file("certificate.pem"), file("key.pem")).unwrap();
        return options.tls(&kylin_lb::tls::ServerTls::builder(identity).http2(false).build().unwrap());
    }
    options
}

/// All requests come from one address, which must not reach its limit.
fn kylin_aware<B: Backend>(cluster: Cluster<B>) -> ProxyBuilder<B> {
    Proxy::builder(cluster).max_requests_per_client(NonZero::new(18_000))
}

fn plain<B: Backend>(cluster: Cluster<B>) -> ProxyBuilder<B, Plain> {
    Proxy::plain(cluster).max_requests_per_client(NonZero::new(18_000))
}

/// Returns the proxy of a row.
pub fn proxy<B: Backend>(kind: &str, endpoints: Vec<Endpoint<B>>) -> Proxy<B> {
    let builder = Cluster::builder().endpoints(endpoints);
    let cluster = match kind {
        "query-affinity" => builder.balancer(QueryAffinity::new()),
        "bare" => builder.balancer(RoundRobin::new()),
        "sticky" => builder.balancer(HashKeyed::consistent(RequestKey::Cookie("JSESSIONID".into()))),
        _ => builder.balancer(LeastConn::new()),
    };
    let cluster = cluster.build().unwrap();
    match kind {
        // The plain proxy: passive health, forwarding headers.
        "kylin-lb" | "sticky" => plain(cluster).build(),
        // The default mode: Kylin-aware, with learned sessions in memory. With query affinity, a
        // repeated query goes to the node that has its result.
        "default" | "query-affinity" => kylin_aware(cluster).build(),
        // The front end logs in at each node.
        #[cfg(feature = "login-relay")]
        "login-relay" => {
            let relay = LoginRelay::new(Sessions::in_memory().unwrap(), Secret::random().unwrap()).secure(false);
            kylin_aware(cluster).affinity(Affinity::login_relay(relay)).build()
        }
        "bare" => plain(cluster).forwarded_headers(false).retry(RetryPolicy::none()).build(),
        "learned" => plain(cluster).affinity(Affinity::learn(Sessions::in_memory().unwrap())).build(),
        other => panic!("no such front end: {other}"),
    }
    .unwrap()
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
