//! Black-box tests of the node, one module per topic; this file contains their common parts.

mod calls;
mod demo;
mod dialects;
mod faults;
mod login;
mod queries;
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::request::Builder;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::KylinNode;
use crate::backend::Backend;
use crate::body::Body;
use crate::kylin::KylinVersion;

/// A response, read to its end.
struct Read {
    head: http::response::Parts,
    body: Bytes,
}

impl Read {
    async fn of(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        Read { head, body: body.collect().await.unwrap().to_bytes() }
    }

    fn status(&self) -> StatusCode {
        self.head.status
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    fn is_html(&self) -> bool {
        self.body.starts_with(b"<")
    }

    /// The session cookie that was set, as `name=value`.
    fn cookie(&self) -> Option<String> {
        let line = self.head.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(line.split(';').next().unwrap().to_owned())
    }
}

async fn send(node: &KylinNode, request: Builder, body: impl Into<Body>) -> Read {
    Read::of(node.send(request.body(body.into()).unwrap()).await.unwrap()).await
}

fn at(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "kylin.example").header(header::USER_AGENT, "test")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// A request by the administrator, with the password.
fn admin(method: &str, path: &str) -> Builder {
    at(method, path).header(header::AUTHORIZATION, basic("ADMIN", "KYLIN"))
}

fn sql(text: &str) -> String {
    json!({"sql": text, "project": "learn_kylin"}).to_string()
}

/// Runs `text` as the administrator.
async fn query(node: &KylinNode, text: &str) -> Read {
    send(node, admin("POST", "/kylin/api/query"), sql(text)).await
}

fn v5(name: &str) -> KylinNode {
    KylinNode::new(name).kylin_version(KylinVersion::V5)
}
