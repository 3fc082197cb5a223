//! Requests of Kylin's clients, scripted nodes that respond to them, and clusters of demo nodes
//! behind a front end.

use std::net::{IpAddr, SocketAddr};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::proxy::ProxyBuilder;
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore, Served};
use kylin_lb::{Body, Cluster, Endpoint, HttpBackend, Proxy, SendError};
use tokio::net::TcpSocket;

use super::browser::basic;
use super::front::{Front, closed_port, endpoint};
use super::http::{Connection, RawResponse};

pub(crate) const ADMIN: (&str, &str) = ("ADMIN", "KYLIN");

/// The behaviour of a node for a request.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Nothing(SendErrorKind),
    Json(u16, String),
    Html(u16, String),
}

impl Says {
    /// An error as Kylin 2.x-4.x writes it.
    pub(crate) fn error(status: u16, message: &str) -> Self {
        let trace = "org.apache.kylin.rest.exception.InternalErrorException\\n\\tat x\\n".repeat(20);
        Says::Json(
            status,
            format!(r#"{{"url":"/","code":"999","data":null,"stacktrace":"{trace}","msg":"{message}"}}"#),
        )
    }

    /// An error with a code of Kylin 5.
    pub(crate) fn code(code: &str) -> Self {
        Says::Json(500, format!(r#"{{"code":"999","data":null,"msg":"{code}: no","error_code":"{code}"}}"#))
    }

    /// A failed query of Kylin 5.
    pub(crate) fn exception(message: &str) -> Self {
        let data = format!(r#"{{"columnMetas":[],"results":[],"isException":true,"exceptionMessage":"{message}"}}"#);
        Says::Json(200, format!(r#"{{"code":"000","data":{data},"msg":""}}"#))
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Says::Nothing(_) => None,
            Says::Json(status, _) | Says::Html(status, _) => Some(*status),
        }
    }

    pub(crate) fn say(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let (status, media, text) = match self {
            Says::Nothing(kind) if kind.is_unsent() => {
                return Err(SendError::new(*kind, "scripted").with_request(request));
            }
            Says::Nothing(kind) => return Err(SendError::new(*kind, "scripted")),
            Says::Json(status, text) => (status, "application/json;charset=UTF-8", text),
            Says::Html(status, text) => (status, "text/html;charset=utf-8", text),
        };
        let response = Response::builder().status(*status).header("content-type", media);
        Ok(response.body(Body::from(text.clone())).unwrap())
    }
}

/// A node that responds in this way to every request.
pub(crate) fn saying(says: Says) -> Scripted {
    Scripted::new(move |request| std::future::ready(says.say(request)))
}

/// A node that responds to every request with its name.
pub(crate) fn well(name: &str) -> Scripted {
    saying(Says::Json(200, format!(r#"{{"node":"{name}"}}"#)))
}

/// An endpoint called `id` that is never ejected.
pub(crate) fn scripted(id: &str, node: &Scripted) -> Endpoint<Scripted> {
    Endpoint::new(id, node.clone()).unwrap().outlier(false)
}

/// Returns a proxy for Kylin whose endpoints `0`, `1`, ... are `nodes`, after `change`.
pub(crate) fn proxy(
    nodes: &[&Scripted],
    change: impl FnOnce(ProxyBuilder<Scripted>) -> ProxyBuilder<Scripted>,
) -> Proxy<Scripted> {
    let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
    change(Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap())).build().unwrap()
}

/// Returns the request of a line such as `GET /kylin/`.
pub(crate) fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let (method, path) = line.split_once(' ').unwrap();
    let builder = Request::builder().method(method).uri(path).header("host", "kylin");
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(if body.is_empty() { Body::empty() } else { Body::from(body.to_owned()) }).unwrap()
}

/// The body of a query.
pub(crate) fn sql(sql: &str) -> String {
    serde_json::json!({"sql": sql, "project": "learn_kylin", "offset": 0, "limit": 50000}).to_string()
}

/// Sends a request of an outside client and returns the status and the body of the response.
pub(crate) async fn ask<B: kylin_lb::Backend>(proxy: &Proxy<B>, request: Request<Body>) -> (StatusCode, String) {
    let response = proxy.forward(IpAddr::from([192, 0, 2, 7]), request).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Demo nodes of one cluster, `q0`, `q1`, ..., behind a Kylin-aware front end.
pub(crate) struct Demo {
    pub(crate) metastore: Metastore,
    pub(crate) nodes: Vec<KylinNode>,
    pub(crate) served: Vec<Option<Served>>,
    /// Bound to the addresses of the nodes. They keep the port of a killed node from other servers
    /// until it is served again.
    pub(crate) _held: Vec<TcpSocket>,
}

impl Demo {
    pub(crate) async fn start(version: impl Into<Dialect>, count: usize) -> Self {
        let version = version.into();
        let metastore = Metastore::new();
        let nodes = (0..count).map(|n| KylinNode::new(format!("q{n}")).kylin_version(version).metastore(&metastore));
        let nodes: Vec<KylinNode> = nodes.collect();
        let (mut served, mut held) = (Vec::new(), Vec::new());
        for node in &nodes {
            // Another process may have taken the port meanwhile.
            let socket = loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                if socket.bind(closed_port()).is_ok() {
                    break socket;
                }
            };
            served.push(Some(node.serve(socket.local_addr().unwrap()).await.unwrap()));
            held.push(socket);
        }
        Demo { metastore, nodes, served, _held: held }
    }

    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.served[node].as_ref().unwrap().addr()
    }

    /// Endpoints `0`, `1`, ..., never ejected.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint<HttpBackend>> {
        (0..self.nodes.len()).map(|n| endpoint(n, self.address(n), |backend| backend)).collect()
    }

    /// Starts a front end for all nodes, after `change`.
    pub(crate) fn front(&self, change: impl FnOnce(ProxyBuilder<HttpBackend>) -> ProxyBuilder<HttpBackend>) -> Front {
        Front::kylin(self.endpoints(), change)
    }

    /// The sum over the nodes.
    pub(crate) fn sum(&self, of: impl Fn(&kylin_lb::testing::kylin::Stats) -> u64) -> u64 {
        self.nodes.iter().map(|node| of(&node.stats())).sum()
    }
}

/// The bytes of a request with Basic credentials of ADMIN.
pub(crate) fn bytes(line: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (user, password) = ADMIN;
    format!(
        "{line} HTTP/1.1\r\nHost: kylin\r\nUser-Agent: test\r\nAuthorization: {}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        basic(user, password),
        body.len()
    )
}

/// Sends a request of ADMIN on a new connection.
pub(crate) async fn admin(front: &Front, line: &str, body: &str) -> RawResponse {
    front.ask(bytes(line, &[], body)).await.unwrap()
}

/// Sends a request of ADMIN on an existing connection.
pub(crate) async fn admin_on(connection: &mut Connection, line: &str, body: &str) -> std::io::Result<RawResponse> {
    connection.send(bytes(line, &[], body)).await?;
    connection.response().await
}

/// Returns the node that ran a query.
pub(crate) fn answered_by(response: &RawResponse) -> String {
    assert_eq!(response.status(), 200, "{}", response.text());
    let json: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let results = if json["data"].is_object() { &json["data"]["results"] } else { &json["results"] };
    results[0][0].as_str().unwrap_or_else(|| panic!("no result: {}", response.text())).to_owned()
}
