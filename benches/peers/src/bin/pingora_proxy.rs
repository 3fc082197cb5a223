//! The smallest proxy on Pingora: one worker thread, one node, kept-alive connections, no log.
//!
//! Usage: `pingora_proxy LISTEN NODE`, two addresses. Ends at once on SIGTERM; Pingora alone would
//! wait for minutes.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use tokio::signal::unix::{SignalKind, signal};

struct OneNode(SocketAddr);

#[async_trait]
impl ProxyHttp for OneNode {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

struct FastShutdown;

#[async_trait]
impl ShutdownSignalWatch for FastShutdown {
    async fn recv(&self) -> ShutdownSignal {
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be watched");
        terminate.recv().await;
        ShutdownSignal::FastShutdown
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, node] = &arguments[..] else { return Err("usage: pingora_proxy LISTEN NODE".into()) };
    let settings = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, OneNode(node.parse()?));
    service.add_tcp(listen);
    server.add_service(service);
    server.run(RunArgs { shutdown_signal: Box::new(FastShutdown) });
    Ok(())
}
