//! A client that keeps cookies, like browsers and Kylin's JDBC driver.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::http::{Connection, RawResponse};

#[derive(Debug, Clone)]
pub(crate) struct Browser {
    pub(crate) front: SocketAddr,
    pub(crate) cookies: BTreeMap<String, String>,
    /// `Authorization` of every request.
    pub(crate) authorization: Option<String>,
}

/// `Authorization` of a user.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

impl Browser {
    pub(crate) fn new(front: SocketAddr) -> Self {
        Browser { front, cookies: BTreeMap::new(), authorization: None }
    }

    /// A client that sends its credentials with every request.
    pub(crate) fn insistent(front: SocketAddr, user: &str, password: &str) -> Self {
        Browser { authorization: Some(basic(user, password)), ..Browser::new(front) }
    }

    /// The response to a request on its own connection. Cookies that it sets are kept.
    pub(crate) async fn ask(&mut self, line: &str, headers: &[(&str, &str)], body: &str) -> RawResponse {
        let mut request =
            format!("{line} HTTP/1.1\r\nHost: kylin\r\nUser-Agent: test\r\nContent-Length: {}\r\n", body.len());
        if let Some(authorization) = &self.authorization {
            request += &format!("Authorization: {authorization}\r\n");
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        let mut connection = Connection::open(self.front).await.unwrap();
        connection.send(format!("{request}\r\n{body}")).await.unwrap();
        let response = connection.response().await.unwrap();
        for field in response.head.all("set-cookie") {
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() || field.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    pub(crate) async fn get(&mut self, path: &str) -> RawResponse {
        self.ask(&format!("GET {path}"), &[], "").await
    }

    /// Logs in like Kylin's web interface.
    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> RawResponse {
        let authorization = basic(user, password);
        let headers = [("Authorization", &*authorization), ("Content-Type", "application/json")];
        let sent = self.authorization.take();
        let response = self.ask("POST /kylin/api/user/authentication", &headers, "{}").await;
        self.authorization = sent;
        response
    }

    /// A query; the response names the node.
    pub(crate) async fn query(&mut self) -> RawResponse {
        let body = r#"{"sql":"select 1","project":"learn_kylin"}"#;
        self.ask("POST /kylin/api/query", &[("Content-Type", "application/json")], body).await
    }
}
