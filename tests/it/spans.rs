//! Spans of requests and attempts, and the ids that are passed on with requests.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kylin_lb::observe::{Observer, RequestId};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};
use serde_json::Value;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::front::{closed_port, endpoints};
use crate::support::raw_node::{RawNode, healthy};
use crate::support::subscriber::ask_every_subscriber;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn request() -> Request<Body> {
    Request::post("/kylin/api/query?token=hidden")
        .header("Host", "kylin")
        .header("Authorization", "Basic QURNSU46S1lMSU4=")
        .header("Cookie", "JSESSIONID=hidden")
        .header("Content-Type", "application/json")
        .header("traceparent", TRACEPARENT)
        .header("x-request-id", "of-the-client")
        .body(Body::from(r#"{"sql":"select hidden","project":"p"}"#))
        .unwrap()
}

#[tokio::test]
async fn a_request_and_each_attempt_have_a_span_without_secrets() {
    let node = RawNode::start([healthy("one")]).await;
    let nodes = endpoints(&[closed_port(), node.address()]);
    let cluster = Cluster::builder().endpoints(nodes).balancer(kylin_lb::balance::RoundRobin::new()).build().unwrap();
    let proxy = Proxy::builder(cluster).build().unwrap();
    let output = Output::default();
    let writer = output.clone();
    let layer =
        tracing_subscriber::fmt::layer().json().with_span_events(FmtSpan::CLOSE).with_writer(move || writer.clone());
    let targets = Targets::new().with_target("kylin_lb::request", tracing::Level::DEBUG);
    ask_every_subscriber();
    let subscriber = tracing_subscriber::registry().with(targets).with(layer);
    let guard = tracing::subscriber::set_default(subscriber);
    let response = proxy.forward(CLIENT, request()).await;
    assert_eq!(output.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1, "the body has not ended");
    response.into_body().collect().await.unwrap();
    drop(guard);

    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = lines.iter().position(|line| line["fields"]["message"] == "request ended").unwrap();
    let ended = lines.remove(ended);
    assert_eq!((&ended["fields"]["endpoint"], &ended["span"]["end"]), (&"1".into(), &"complete".into()));
    let spans: Vec<Value> = lines.iter().map(|line| line["span"].clone()).collect();
    assert_eq!(spans.len(), 3, "{text}");
    let attempt = |number: u64| spans.iter().find(|span| span["number"] == number).unwrap();
    assert_eq!((&attempt(1)["endpoint"], &attempt(1)["end"]), (&"0".into(), &"connect".into()));
    assert_eq!((&attempt(1)["phase"], &attempt(1)["name"]), (&"connect".into(), &"attempt".into()));
    assert_eq!((&attempt(2)["endpoint"], &attempt(2)["status"]), (&"1".into(), &200.into()));
    let request = spans.iter().find(|span| span["name"] == "request").unwrap();
    for (field, value) in [
        ("request_id", Value::from("of-the-client")),
        ("traceparent", TRACEPARENT.into()),
        ("method", "POST".into()),
        ("path", "/kylin/api/query".into()),
        ("user", "ADMIN".into()),
        ("class", "query".into()),
        ("status", 200.into()),
        ("attempts", 2.into()),
        ("end", "complete".into()),
    ] {
        assert_eq!(request[field], value, "{field} in {request}");
    }
    for secret in ["hidden", "QURNSU46", "KYLIN", "select"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let sent = node.seen().texts().concat();
    assert!(
        sent.contains(&format!("traceparent: {TRACEPARENT}")) && sent.contains("x-request-id: of-the-client"),
        "{sent}"
    );
}

/// Responds with the id that it got.
struct Echo;

impl Backend for Echo {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let ids =
            request.headers().get_all("x-request-id").iter().map(|id| id.to_str().unwrap_or("?")).collect::<Vec<_>>();
        Ok(Response::new(Body::from(ids.join("|"))))
    }
}

struct Nothing;

impl Observer for Nothing {}

#[tokio::test]
async fn an_id_is_passed_on_if_it_is_safe_and_made_where_there_is_none() {
    let cluster = |name| Cluster::builder().endpoint(Endpoint::new(name, Echo).unwrap()).build().unwrap();
    let observed = Proxy::builder(cluster("a")).observer(Nothing).build().unwrap();
    let unobserved = Proxy::builder(cluster("b")).build().unwrap();
    let send = async |proxy: &Proxy<Echo>, change: &dyn Fn(&mut Request<Body>)| {
        let mut request = Request::get("/kylin/api/projects").header("Host", "kylin").body(Body::empty()).unwrap();
        change(&mut request);
        let body = proxy.forward(CLIENT, request).await.into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    };
    let id = |ids: &'static [&'static str]| {
        move |request: &mut Request<Body>| {
            for id in ids {
                request.headers_mut().append("x-request-id", id.parse().unwrap());
            }
        }
    };
    let is_new = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert_eq!(send(&observed, &id(&["client-1"])).await, "client-1");
    let first = send(&observed, &id(&[])).await;
    assert!(is_new(&first) && first != send(&observed, &id(&[])).await, "{first}");
    for ids in [&["two words"][..], &["a\"b"], &["one", "two"]] {
        let ids: &'static [&'static str] = ids.to_vec().leak();
        let made = send(&observed, &id(ids)).await;
        assert!(is_new(&made), "{ids:?} became {made}");
    }
    let chosen = send(&observed, &|request| {
        request.extensions_mut().insert(RequestId::new("of-the-application").unwrap());
    });
    assert_eq!(chosen.await, "of-the-application");
    assert_eq!(RequestId::new("not one"), None);
    assert_eq!(send(&unobserved, &id(&[])).await, "", "nothing observes it");
}
