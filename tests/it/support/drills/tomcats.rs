//! A drill with real Tomcats, which their own `shutdown.sh` stops.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::client::{BuildCall, PASSWORD, Restarts};
use super::crew::{Clients, NAMES, Scale};
use super::mode::{FrontEnd, Mode};
use super::tally::Tally;
use crate::support::browser::basic;
use crate::support::front::eventually;
use crate::support::http::{Connection, RawResponse};
use crate::support::tomcat::Tomcat;

/// The path of a build, below `/kylin`.
fn build_path(token: &str) -> String {
    format!("/api/models/{token}/segments")
}

/// Three Tomcats, a front end and clients.
pub(crate) struct Tomcats {
    pub(crate) nodes: Vec<Tomcat>,
    restarts: Vec<Restarts>,
    pub(crate) front: FrontEnd,
    pub(crate) clients: Clients,
    scale: Scale,
}

impl Tomcats {
    /// Starts everything, and waits until the clients have worked for a while.
    pub(crate) async fn start(mode: &Mode, scale: Scale) -> Self {
        let nodes = Tomcat::start(&NAMES).await;
        let named: Vec<_> =
            NAMES.iter().zip(&nodes).map(|(name, node)| (String::from(*name), node.address())).collect();
        let front = mode.start(&named).await;
        let restarts: Vec<Restarts> = nodes.iter().map(|_| Restarts::default()).collect();
        let counted = NAMES.iter().map(|name| String::from(*name)).zip(restarts.iter().cloned());
        let clients = Clients::start(front.address, mode, BuildCall::Segments, counted, scale);
        clients.work(scale.requests).await;
        Tomcats { nodes, restarts, front, clients, scale }
    }

    /// Stops a node, restarts it, and waits until the clients have worked for a while in between
    /// and afterwards.
    pub(crate) async fn restart(&mut self, number: usize) {
        self.restarts[number].begin();
        self.nodes[number].shut_down().await;
        self.restarts[number].end();
        self.clients.work(self.scale.requests).await;
        self.nodes[number].restart().await;
        self.clients.work(self.scale.requests).await;
    }

    /// Sends this many queries and builds that each take this long, and waits until all have begun.
    /// Returns the SQL of each query or the path of each build, with the pending response.
    pub(crate) async fn send_long(
        &self,
        count: usize,
        time: Duration,
    ) -> Vec<(String, JoinHandle<io::Result<RawResponse>>)> {
        let mut sent = Vec::new();
        for number in 0..count {
            for is_build in [true, false] {
                let token = format!("long{number}-sleep_ms{}", time.as_millis());
                let (path, executed, body) = match is_build {
                    true => (build_path(&token), build_path(&token), "{}".to_owned()),
                    false => {
                        let sql = format!("select '{token}'");
                        let body = serde_json::json!({"sql": sql, "project": "learn_kylin"}).to_string();
                        ("/api/query".to_owned(), sql, body)
                    }
                };
                let request = format!(
                    "POST /kylin{path} HTTP/1.1\r\nHost: kylin\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{body}",
                    basic("LONG", PASSWORD),
                    body.len()
                );
                let front = self.front.address;
                let response = tokio::spawn(async move {
                    let mut connection = Connection::open(front).await?.read_timeout(3 * time);
                    connection.send(request).await?;
                    connection.response().await
                });
                sent.push((executed, response));
            }
        }
        let begun = || sent.iter().all(|(what, _)| self.executions(what) > 0);
        eventually(begun, || format!("{:?}", self.nodes)).await;
        sent
    }

    /// Returns how often this SQL, or the build with this path, was executed.
    pub(crate) fn executions(&self, what: &str) -> usize {
        self.nodes.iter().map(|node| node.executed().lines().filter(|line| *line == what).count()).sum()
    }

    /// Stops the clients, and returns their observations and the nodes' executions.
    pub(crate) async fn end(self) -> Tally {
        let mut tally = self.clients.end().await;
        let mut executed = BTreeMap::<String, u64>::new();
        for line in self.nodes.iter().flat_map(|node| node.executed().lines().map(str::to_owned).collect::<Vec<_>>()) {
            *executed.entry(line).or_default() += 1;
        }
        let times = |line: String| executed.get(&line).copied().unwrap_or(0);
        tally.count_executions(|token| times(super::client::sql(token)), |token| times(build_path(token)));
        tally
    }
}
