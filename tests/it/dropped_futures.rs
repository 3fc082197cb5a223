//! A request that is dropped at any poll, before its head or within its body, leaves nothing
//! behind.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::endpoint::AdminState;
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
use kylin_lb::testing::kylin::{Fault, FaultScope, KylinNode, Metastore};
use kylin_lb::testing::{FailingStore, StoreFault};
use kylin_lb::{Backend, Body, ClientAddr, Cluster, Endpoint, HttpBackend, Proxy, SendError};
use tokio::time::{sleep, timeout};

use crate::simulation::faulty::FaultyNode;
use crate::support::browser::basic;
use crate::support::clock::PausedClock;
use crate::support::front::{demo, eventually};

const ONE: std::num::NonZeroU32 = std::num::NonZeroU32::MIN;

fn client() -> ClientAddr {
    std::net::IpAddr::from([192, 0, 2, 7]).into()
}

/// Polls `future` until it has been pending `pending` times, and then returns `None`. With
/// `when_woken`, it is dropped only when it has been woken.
async fn poll_times<F: Future>(future: F, mut pending: usize, when_woken: bool) -> Option<F::Output> {
    let mut future = Box::pin(future);
    poll_fn(move |cx| {
        if pending == 0 {
            return Poll::Ready(None);
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => {
                pending -= 1;
                if pending == 0 && !when_woken {
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
        }
    })
    .await
}

/// A node whose bodies come in pieces, with pauses.
#[derive(Clone, Debug)]
struct InPieces(FaultyNode);

impl Backend for InPieces {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        Ok(self.0.send(request).await?.map(|body| Body::new(Pieces { body, pause: None, next: None })))
    }

    async fn check_connect(&self) -> Result<(), SendError> {
        self.0.check_connect().await
    }
}

/// Each half of each frame of `body` comes after a pause.
struct Pieces {
    body: Body,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    next: Option<Bytes>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = kylin_lb::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(1))));
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        if let Some(rest) = self.next.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(Ok(mut data))) = frame.map(|frame| frame.map(Frame::into_data)) else { return Poll::Ready(None) };
        self.next = Some(data.split_off(data.len() / 2)).filter(|rest| !rest.is_empty());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

/// The scenarios: how a request goes through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Plain,
    Default,
    LoginRelay,
    FanOut,
    Retried,
    /// A 404 of a node without Kylin, which is asked whether Kylin runs there.
    Asked,
    /// While probes run.
    Probed,
    Upload,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario::Plain,
    Scenario::Default,
    Scenario::LoginRelay,
    Scenario::FanOut,
    Scenario::Retried,
    Scenario::Asked,
    Scenario::Probed,
    Scenario::Upload,
];

struct Stage {
    nodes: [FaultyNode; 2],
    sessions: Sessions,
    proxy: Proxy<InPieces>,
}

impl Stage {
    fn new(scenario: Scenario) -> Self {
        let metastore = Metastore::new();
        let nodes = ["n1", "n2"].map(|name| FaultyNode::new(KylinNode::new(name).metastore(&metastore)));
        // One request at a time, so that a leaked slot blocks the node.
        let endpoints = nodes
            .iter()
            .map(|node| Endpoint::new(node.node.name(), InPieces(node.clone())).unwrap().max_in_flight(Some(ONE)));
        let cluster = Cluster::builder().clock(PausedClock).endpoints(endpoints).build().unwrap();
        let store = FailingStore::new();
        store.set_fault(Some(StoreFault::Slow(Duration::from_millis(30))));
        let secret = || Secret::new([7; 32]);
        let sessions = Sessions::builder(store, secret()).clock(PausedClock).build().unwrap();
        let proxy = match scenario {
            Scenario::Plain => Proxy::plain(cluster).clock(PausedClock).build(),
            Scenario::LoginRelay => {
                let relay = LoginRelay::new(sessions.clone(), secret()).clock(PausedClock);
                Proxy::builder(cluster).clock(PausedClock).affinity(Affinity::login_relay(relay)).build()
            }
            _ => Proxy::builder(cluster).clock(PausedClock).affinity(Affinity::learn(sessions.clone())).build(),
        };
        let first = nodes[0].node.faults();
        match scenario {
            Scenario::Retried => first.inject_times(1, FaultScope::Queries, Fault::Close),
            Scenario::Asked => first.inject_times(2, FaultScope::Everything, Fault::Html(StatusCode::NOT_FOUND)),
            _ => {}
        }
        Stage { nodes, sessions, proxy: proxy.unwrap() }
    }

    fn request(&self, scenario: Scenario, cookie: Option<&str>) -> Request<Body> {
        let (method, path, body) = match scenario {
            Scenario::Plain => ("GET", "/kylin/api/projects", Body::empty()),
            Scenario::FanOut => ("PUT", "/kylin/api/query/some-id/stop", Body::empty()),
            Scenario::Upload => {
                let body: Body =
                    format!(r#"{{"sql":"select 1","project":"learn_kylin","x":"{}"}}"#, "x".repeat(2 << 20)).into();
                ("POST", "/kylin/api/query", Body::new(Pieces { body, pause: None, next: None }))
            }
            _ => ("POST", "/kylin/api/query", r#"{"sql":"select 1","project":"learn_kylin"}"#.into()),
        };
        let request = Request::builder().method(method).uri(path).header("host", "kylin");
        let request = match cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request.header("authorization", basic("ADMIN", "KYLIN")),
        };
        request.body(body).unwrap()
    }

    /// Returns the cookies of a session of the relay, whose next request needs a login at a node.
    async fn log_in(&self) -> String {
        let login = Request::post("/kylin/api/user/authentication").header("host", "kylin");
        let login = login.header("authorization", basic("ADMIN", "KYLIN")).body(Body::empty()).unwrap();
        let response = self.proxy.forward(client(), login).await;
        assert_eq!(response.status(), 200);
        let lines = response.headers().get_all("set-cookie").into_iter();
        let pairs: Vec<String> =
            lines.map(|line| line.to_str().unwrap().split(';').next().unwrap().to_owned()).collect();
        drop(response);
        let home = self.nodes.iter().find(|node| node.node.stats().logins > 0).unwrap().node.name().parse().unwrap();
        self.proxy.cluster().set_admin_state(&home, AdminState::Maintenance).unwrap();
        assert!(!pairs.is_empty(), "no session");
        pairs.join("; ")
    }

    /// Checks that nothing remains of the requests so far, and that the proxy serves as before.
    async fn check(&self, what: &str) {
        sleep(Duration::from_secs(30)).await;
        assert_eq!(self.proxy.cluster().status().in_flight(), 0, "{what}: slots");
        for node in &self.nodes {
            let id = node.node.name().parse().unwrap();
            self.proxy.cluster().set_admin_state(&id, AdminState::Ready).unwrap();
            assert_eq!(node.node.stats().in_flight, 0, "{what}: requests at {}", node.node.name());
            node.node.faults().clear();
        }
        assert_eq!(self.sessions.pending_writes(), 0, "{what}: writes that wait");
        // Both nodes at once; each has one slot. A request that waits for a lock or a login of a
        // dropped one would time out.
        let both = [(); 2].map(|()| self.proxy.forward(client(), self.request(Scenario::Default, None)));
        let [one, other] = both.map(|forwarded| timeout(Duration::from_secs(30), forwarded));
        let (one, other) = tokio::join!(one, other);
        let statuses = [one.unwrap().status(), other.unwrap().status()];
        assert_eq!(statuses, [StatusCode::OK; 2], "{what}: requests afterwards");
    }
}

/// Runs one request of this scenario and drops it after `pending` polls. Returns whether it had
/// already ended.
async fn drop_after(scenario: Scenario, pending: usize, when_woken: bool) -> bool {
    let stage = Stage::new(scenario);
    let checker =
        (scenario == Scenario::Probed).then(|| HealthCheck::new(Probe::kylin()).start(stage.proxy.cluster()).unwrap());
    let cookie = if scenario == Scenario::LoginRelay { Some(stage.log_in().await) } else { None };
    let request = stage.request(scenario, cookie.as_deref());
    let exchange = async {
        let response = stage.proxy.forward(client(), request).await;
        // Not the end of the body, because the response holds its slot until it is dropped.
        response.into_body().collect().await.map(|body| body.to_bytes().len())
    };
    let ended = poll_times(exchange, pending, when_woken).await;
    if let Some(length) = &ended {
        assert!(length.is_ok() || scenario == Scenario::Plain, "{scenario:?}: {length:?}");
    }
    let what = format!("{scenario:?} dropped after {pending} polls");
    stage.check(&what).await;
    drop((checker, stage));
    sleep(Duration::from_secs(120)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 0, "{what}: tasks");
    ended.is_some()
}

#[test]
fn a_request_that_is_dropped_at_any_poll_leaves_nothing_behind() {
    for scenario in SCENARIOS {
        for when_woken in [false, true] {
            let mut polls = 0;
            loop {
                // A separate runtime, so that its tasks can be counted.
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
                if runtime.block_on(drop_after(scenario, polls, when_woken)) {
                    break;
                }
                polls += 1;
            }
            let least = if matches!(scenario, Scenario::Plain | Scenario::FanOut) { 3 } else { 6 };

            assert!(polls >= least, "{scenario:?}: only {polls} polls, so nothing was tried");
        }
    }
}

/// Over TCP the connection of a dropped request closes, and the node sees it.
#[tokio::test]
async fn a_request_over_tcp_that_is_dropped_at_any_poll_leaves_no_connection() {
    let (node, served) = demo("q1").await;
    let backend = HttpBackend::new(&served.addr().to_string()).unwrap();
    let endpoint = Endpoint::new("q1", Arc::new(backend.clone())).unwrap().max_in_flight(Some(ONE));
    let proxy = Proxy::builder(Cluster::builder().endpoint(endpoint).build().unwrap()).build().unwrap();
    let mut polls = 0;
    loop {
        let request = Request::get("/demo/bytes?n=300000").header("host", "kylin").body(Body::empty()).unwrap();
        let exchange = async { proxy.forward(client(), request).await.into_body().collect().await.map(drop) };
        let ended = poll_times(exchange, polls, false).await;
        let at_rest = || proxy.cluster().status().in_flight() == 0 && backend.connections() <= 1;
        eventually(at_rest, || format!("after {polls} polls: {} connections", backend.connections())).await;
        node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
        if ended.is_some() {
            break;
        }
        polls += 1;
    }
    assert!(polls >= 2, "only {polls} polls");
}
