//! A panic in the application's code ends only the request that ran it, with a 500.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::balance::{Balancer, Candidate, Candidates, RoundRobin};
use kylin_lb::discovery::{DiscoveredNode, Discovery, DiscoveryError, watch};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::session::{
    Affinity, MemoryStore, Precondition, SaveOutcome, Secret, SessionKey, SessionRecord, SessionStore, Sessions,
    StoreFuture, Stored,
};
use kylin_lb::testing::Scripted;
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, RequestView, SendError};

use crate::support::front::eventually;

fn client() -> std::net::IpAddr {
    [192, 0, 2, 7].into()
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).header("host", "kylin").body(Body::empty()).unwrap()
}

fn well(id: &str) -> Endpoint<Scripted> {
    Endpoint::new(id, Scripted::responding(StatusCode::OK, "well")).unwrap()
}

/// Sends requests that panic between others, and checks both.
async fn check<B: Backend>(proxy: &Proxy<B>) {
    for _ in 0..5 {
        let response = proxy.forward(client(), request("/kylin/api/panic")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["url"], "http://kylin/kylin/api/panic");
        assert_eq!(proxy.forward(client(), request("/kylin/api/projects")).await.status(), StatusCode::OK);
    }
    let status = proxy.cluster().status();
    assert_eq!(status.in_flight(), 0);
    assert!(
        status.endpoints.iter().all(|endpoint| endpoint.failed == 0),
        "a panic is not the node's failure: {status:?}"
    );
}

#[derive(Debug)]
struct PanickingPolicy(RoundRobin);

impl Balancer for PanickingPolicy {
    fn pick<'c>(&self, request: &RequestView<'_>, candidates: &Candidates<'c>) -> Option<Candidate<'c>> {
        assert!(!request.uri().path().contains("panic"), "the policy panics");
        self.0.pick(request, candidates)
    }
}

#[tokio::test]
async fn a_panic_of_a_policy_fails_its_request_only() {
    let cluster = Cluster::builder().endpoints([well("a"), well("b")]).balancer(PanickingPolicy(RoundRobin::new()));
    let cluster = cluster.build().unwrap();
    check(&Proxy::builder(cluster.clone()).build().unwrap()).await;
    check(&Proxy::plain(cluster).build().unwrap()).await;
}

/// Panics at once for some paths, and in its future for others.
struct PanickingNode;

impl Backend for PanickingNode {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        tokio::task::yield_now().await;
        assert!(!request.uri().path().contains("panic"), "the backend panics");
        Ok(Response::new("well".into()))
    }
}

#[tokio::test]
async fn a_panic_of_a_backend_fails_its_request_only() {
    let endpoints = ["a", "b"].map(|id| Endpoint::new(id, PanickingNode).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    check(&Proxy::builder(cluster.clone()).build().unwrap()).await;
    check(&Proxy::plain(cluster).build().unwrap()).await;
}

/// Panics in each operation, or in its future.
#[derive(Debug)]
struct PanickingStore {
    store: MemoryStore,
    calls: AtomicUsize,
}

impl PanickingStore {
    fn panics<T>(&self) -> StoreFuture<'_, T> {
        assert!(self.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2), "the store panics at once");
        StoreFuture::boxed(async { panic!("the store panics in its future") })
    }
}

impl SessionStore for PanickingStore {
    fn load<'a>(&'a self, _: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.panics()
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionKey,
        _: &'a SessionRecord,
        _: Precondition,
        _: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.panics()
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.store.touch(key, ttl)
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.store.remove(key)
    }
}

/// A session needs the store; a request without a session does not.
#[tokio::test]
async fn a_panic_of_a_store_fails_requests_that_need_it_only() {
    let cluster = Cluster::builder().endpoints([well("a"), well("b")]).build().unwrap();
    let store = PanickingStore { store: MemoryStore::new(), calls: AtomicUsize::new(0) };
    let sessions = Sessions::remote(store, Secret::new([7; 32]));
    let proxy = Proxy::builder(cluster).affinity(Affinity::learn(sessions)).build().unwrap();
    for number in 0..6 {
        let mut with_session = request("/kylin/api/projects");
        let cookie = format!("JSESSIONID=00000000000000000000000000000{number:03}");
        with_session.headers_mut().insert("cookie", cookie.parse().unwrap());
        assert_eq!(proxy.forward(client(), with_session).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(proxy.forward(client(), request("/kylin/api/projects")).await.status(), StatusCode::OK);
    }
    assert_eq!(proxy.cluster().status().in_flight(), 0);
}

/// Probes call the backend of the application too.
#[tokio::test(start_paused = true)]
async fn probes_go_on_after_a_panic_of_a_backend() {
    let probes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&probes);
    let node = Scripted::new(move |_| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(number >= 3, "the backend panics");
            Ok(Response::new(r#"{"code":"000"}"#.into()))
        }
    });
    let cluster = Cluster::builder().endpoint(Endpoint::new("a", node).unwrap()).build().unwrap();
    let _checker = HealthCheck::new(Probe::get("/health").unwrap()).start(&cluster).unwrap();
    eventually(|| probes.load(Ordering::SeqCst) > 5, || format!("{probes:?} probes")).await;
}

/// A source that panics at every second call.
#[derive(Debug)]
struct PanickingSource(usize);

impl Discovery for PanickingSource {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        self.0 += 1;
        assert!(self.0.is_multiple_of(2), "the source panics");
        Ok((0..self.0 / 2).map(|number| DiscoveredNode::new(&format!("10.0.0.{number}:7070")).unwrap()).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn discovery_goes_on_after_a_panic_of_its_source() {
    let cluster = Cluster::builder().build().unwrap();
    let mut made = 0;
    let handle = watch(&cluster, PanickingSource(0), move |node| {
        made += 1;
        assert!(made != 2, "the function that makes endpoints panics");
        Ok::<_, SendError>(node.endpoint(Scripted::steps([])).unwrap())
    });
    let endpoints = || cluster.status().endpoints.len();
    eventually(|| endpoints() >= 3, || format!("{} endpoints, {:?}", endpoints(), handle.status())).await;
}
