//! `Proxy::forward` alone, with a backend that responds at once. This is the cost of this crate for
//! an application with its own server.

use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use kylin_lb::{Backend, Body, Endpoint, Proxy, SendError};

use super::serve::proxy;

const BODY: &str = r#"{"sql":"select part_dt, sum(price) as total from kylin_sales where part_dt > 1 group by part_dt order by part_dt limit 100","project":"learn_kylin","offset":0}"#;
const RESPONSE: &str = r#"{"columnMetas":[],"results":[["2012-01-01","1234.5678"]],"exceptionMessage":null}"#;

struct Null;

impl Backend for Null {
    async fn send(&self, _: Request<Body>) -> Result<Response<Body>, SendError> {
        let mut response = Response::new(Body::from(RESPONSE));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
        Ok(response)
    }
}

/// Forwards `KIND COUNT` queries and prints the nanoseconds per query.
/// `benches/instructions forward:KIND` counts its instructions.
pub fn run(words: &[String]) {
    let [kind, count] = words else { panic!("--forward KIND COUNT") };
    let endpoints = (0..2).map(|number| Endpoint::new(format!("n{number}"), Null).unwrap()).collect();
    let proxy = proxy(kind, endpoints);
    let request = || {
        Request::post("/kylin/api/query")
            .header("host", "front")
            .header("content-type", "application/json")
            .header("authorization", "Basic QURNSU46S1lMSU4=")
            .header("user-agent", "KylinJDBCDriver")
            .header("cookie", "JSESSIONID=0123456789ABCDEF0123456789ABCDEF")
            .body(Body::from(BODY))
            .unwrap()
    };
    let requests: Vec<_> = (0..count.parse().unwrap()).map(|_| request()).collect();
    let count = requests.len();
    // For timers; nothing waits here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let began = Instant::now();
    forward_all(&proxy, requests);
    println!("{kind}: {} ns", began.elapsed().as_nanos() / count as u128);
}

/// Not inlined, because callgrind counts its callees.
#[inline(never)]
fn forward_all(proxy: &Proxy<Null>, requests: Vec<Request<Body>>) {
    let client: SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    for request in requests {
        let Poll::Ready(response) = pin!(proxy.forward(client, request)).poll(&mut cx) else { panic!("it waits") };
        assert!(black_box(response).status().is_success());
    }
}
