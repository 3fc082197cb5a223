//! A node in its own thread, which can stop, die, pause and restart like a process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use http::StatusCode;
use kylin_lb::testing::kylin::{Fault, FaultScope, KylinNode, Metastore};
use tokio::sync::{mpsc as commands, oneshot};

use super::client::Restarts;
use crate::support::port::free_port;

/// How long a stopping Tomcat responds with 404 to everything: from the end of its applications to
/// the closing of its port.
const WITHOUT_APPLICATIONS: Duration = Duration::from_millis(100);

/// A node at an address that stays the same over restarts.
pub(crate) struct DrillNode {
    pub(crate) node: KylinNode,
    address: SocketAddr,
    restarts: Restarts,
    process: Option<NodeThread>,
}

/// The sockets of a running node, and the thread that serves them.
struct NodeThread {
    /// Each receiver holds the thread until its sender is dropped. Dropping this sender ends the
    /// thread.
    pauses: commands::UnboundedSender<mpsc::Receiver<()>>,
    thread: JoinHandle<()>,
}

/// Keeps a node paused for as long as this lives.
pub(crate) struct Paused(#[expect(dead_code, reason = "its drop resumes the node")] mpsc::Sender<()>);

impl DrillNode {
    /// Starts a node of Kylin 2.x-4.x, whose name is its `jvmRoute` too.
    pub(crate) async fn start(name: &str, metastore: &Metastore) -> Self {
        let node = KylinNode::new(name).metastore(metastore).jvm_route(name);
        // Fixed, so that the node comes back at the same address; outside the range of outgoing
        // connections.
        let address = (Ipv4Addr::LOCALHOST, free_port()).into();
        let mut node = DrillNode { node, address, restarts: Restarts::default(), process: None };
        node.boot().await;
        node
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts the stops and deaths. Each ends the sessions in the node's memory.
    pub(crate) fn restarts(&self) -> Restarts {
        self.restarts.clone()
    }

    /// Stops the node like `shutdown.sh`: first the applications, so that every path is a 404, then
    /// the port.
    pub(crate) async fn stop(&mut self) {
        self.restarts.begin();
        self.node.faults().inject(FaultScope::Everything, Fault::Html(StatusCode::NOT_FOUND));
        tokio::time::sleep(WITHOUT_APPLICATIONS).await;
        self.end();
    }

    /// Kills the node like `kill -9`: the kernel closes its sockets, with a reset if bytes were not
    /// read.
    pub(crate) fn kill(&mut self) {
        self.restarts.begin();
        self.end();
    }

    /// Starts a stopped node, and returns when it accepts connections.
    pub(crate) async fn boot(&mut self) {
        assert!(self.process.is_none(), "the node is stopped");
        self.process = Some(NodeThread::start(self.node.clone(), self.address).await);
    }

    /// Pauses the node like SIGSTOP: the kernel accepts connections and bytes for it. Dropping the
    /// result resumes it.
    pub(crate) fn pause(&self) -> Paused {
        let (resume, paused) = mpsc::channel();
        let running = self.process.as_ref().expect("the node runs");
        running.pauses.send(paused).expect("the thread of a running node receives");
        Paused(resume)
    }

    fn end(&mut self) {
        drop(self.process.take());
        self.node.forget_sessions();
        self.node.faults().clear();
        self.restarts.end();
    }
}

impl NodeThread {
    async fn start(node: KylinNode, address: SocketAddr) -> Self {
        let (pauses, mut receiver) = commands::unbounded_channel::<mpsc::Receiver<()>>();
        let (listens, ready) = oneshot::channel();
        let serve = async move {
            let _served = node.serve(address).await.expect("the port was free");
            _ = listens.send(());
            while let Some(pause) = receiver.recv().await {
                // Blocks all tasks of this runtime, which is the pause.
                _ = pause.recv();
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        ready.await.expect("the node listens");
        NodeThread { pauses, thread }
    }
}

impl Drop for NodeThread {
    fn drop(&mut self) {
        let (closed, _) = commands::unbounded_channel();
        self.pauses = closed;
        // The end of the runtime closes all sockets of the node.
        while !self.thread.is_finished() {
            std::thread::yield_now();
        }
    }
}
