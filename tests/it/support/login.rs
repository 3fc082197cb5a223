//! Users who log in at Kylin nodes, each of which keeps its own sessions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Served};
use serde_json::Value;

use super::front::{Front, closed_port};
use super::http::RawResponse;

/// ADMIN:KYLIN
pub(crate) const ADMIN: &str = "Basic QURNSU46S1lMSU4=";

/// Nodes of one cluster that share no sessions. Dropping them kills them.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<KylinNode>,
    pub(crate) served: Vec<Served>,
}

impl Nodes {
    pub(crate) async fn of(dialect: impl Into<Dialect>, count: usize) -> Self {
        let dialect = dialect.into();
        let metastore = Metastore::new();
        let mut all = Nodes { nodes: Vec::new(), served: Vec::new() };
        for n in 0..count {
            let node = KylinNode::new(n.to_string()).kylin_version(dialect).metastore(&metastore);
            all.served.push(node.serve(closed_port()).await.unwrap());
            all.nodes.push(node);
        }
        all
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.served.iter().map(Served::addr).collect()
    }

    /// The number of sessions on all nodes.
    pub(crate) fn sessions(&self) -> usize {
        self.nodes.iter().map(KylinNode::sessions).sum()
    }
}

/// A browser, which keeps cookies, and sends credentials only to log in.
#[derive(Default, Clone)]
pub(crate) struct Browser {
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) async fn send(
        &mut self,
        front: &Front,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> RawResponse {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n{cookies}{fields}\r\n");
        let response = front.ask(head + body).await.unwrap();
        for line in response.head.all("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => _ = self.cookies.remove(name),
                value => _ = self.cookies.insert(name.to_owned(), value.to_owned()),
            }
        }
        response
    }

    pub(crate) async fn get(&mut self, front: &Front, path: &str) -> RawResponse {
        self.send(front, "GET", path, "", "").await
    }

    /// Logs in, and asserts that it worked.
    pub(crate) async fn log_in(&mut self, front: &Front) {
        let fields = format!("Authorization: {ADMIN}\r\n");
        let response = self.send(front, "POST", "/kylin/api/user/authentication", &fields, "").await;
        assert_eq!(response.status(), 200, "{}", response.text());
    }

    /// The node that responds to a query, unless the login is lost.
    pub(crate) async fn query(&mut self, front: &Front) -> Option<usize> {
        let fields = "Content-Type: application/json\r\nUser-Agent: test\r\n";
        let body = r#"{"sql":"select 1","project":"learn_kylin"}"#;
        let response = self.send(front, "POST", "/kylin/api/query", fields, body).await;
        match response.status() {
            200 => Some(node_of(&response)),
            401 => None,
            other => panic!("{other}: {}", response.text()),
        }
    }
}

/// The node that responded to a query.
pub(crate) fn node_of(response: &RawResponse) -> usize {
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    let results = json.get("results").unwrap_or_else(|| &json["data"]["results"]);
    results[0][0].as_str().unwrap().parse().unwrap()
}
