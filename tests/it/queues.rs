//! Queries wait for a slot of their node. Time is that of tokio's paused timers, so each run has
//! the same course.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::admission::QueueRules;
use kylin_lb::backend::{SendErrorKind, Timeouts};
use kylin_lb::balance::{Balancer, Candidate, Candidates, IpHash, LeastConn, QueryAffinity, RoundRobin};
use kylin_lb::endpoint::AdminState;
use kylin_lb::observe::{Dispatched, EndpointChanged, Finished, Observer, Queued, Termination, Watch};
use kylin_lb::proxy::{Plain, ProxyBuilder};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, RequestView, SendError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::browser::basic;
use crate::support::clock::PausedClock;

/// A node whose queries take the number of milliseconds that their SQL names:
/// `select x from took_250 where n = 1`.
#[derive(Debug, Clone, Default)]
struct Node {
    running: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    /// The users of the queries, in order.
    served: Arc<Mutex<Vec<String>>>,
    refuses: Arc<AtomicU32>,
    /// The factor by which queries take longer than their SQL says, minus one.
    slowness: Arc<AtomicU32>,
}

impl Backend for Node {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        if self.refuses.load(Ordering::Relaxed) > 0 {
            self.refuses.fetch_sub(1, Ordering::Relaxed);
            return Err(SendError::new(SendErrorKind::Connect, "scripted").with_request(request));
        }
        let (head, body) = request.into_parts();
        let sql = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let Some(millis) = sql.split("took_").nth(1) else { return Ok(Response::new("{}".into())) };
        let millis = millis.split(' ').next().unwrap().parse().unwrap();
        struct Running<'n>(&'n AtomicU32);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.most.fetch_max(self.running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let running = Running(&self.running);
        self.served.lock().unwrap().push(head.headers["x-name"].to_str().unwrap().to_owned());
        sleep(Duration::from_millis(millis) * (self.slowness.load(Ordering::Relaxed) + 1)).await;
        drop(running);
        let mut response = Response::new(r#"{"results":[]}"#.into());
        if sql.contains("own_cookie") {
            response.headers_mut().insert("set-cookie", "a=b".parse().unwrap());
        }
        Ok(response)
    }
}

/// Picks the first eligible endpoint, unless the header `x-node` names one.
#[derive(Debug)]
struct Named;

impl Balancer for Named {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        let name = request.headers().get("x-node").and_then(|name| name.to_str().ok());
        from.iter().find(|candidate| name.is_none_or(|name| candidate.id().as_str() == name))
    }

    fn reads_query(&self) -> bool {
        false
    }
}

struct Stage {
    nodes: Vec<Node>,
    proxy: Proxy<Node>,
}

impl Stage {
    /// Nodes `0`, `1`, ... with this many slots each.
    fn new(nodes: usize, slots: u32, balancer: impl Balancer) -> Self {
        Self::with(nodes, slots, balancer, |builder| builder)
    }

    fn with(
        count: usize,
        slots: u32,
        balancer: impl Balancer,
        build: impl FnOnce(ProxyBuilder<Node>) -> ProxyBuilder<Node>,
    ) -> Self {
        let (nodes, cluster) = cluster(count, slots, balancer);
        let builder = Proxy::builder(cluster).clock(PausedClock).max_requests_per_client(None);
        Stage { nodes, proxy: build(builder).build().unwrap() }
    }

    /// Sends a query of `user` that takes this many milliseconds.
    fn query(&self, user: &str, millis: u64) -> JoinHandle<Response<Body>> {
        self.send(query(user, millis))
    }

    fn send(&self, request: Request<Body>) -> JoinHandle<Response<Body>> {
        let proxy = self.proxy.clone();
        tokio::spawn(async move {
            let (head, body) = proxy.forward(client_of(&request), request).await.into_parts();
            Response::from_parts(head, Body::from(body.collect().await.unwrap().to_bytes()))
        })
    }

    /// Returns how many queries wait for each node.
    fn waiting(&self) -> Vec<u32> {
        self.proxy.cluster().status().endpoints.iter().map(|endpoint| endpoint.waiting).collect()
    }

    fn served(&self, node: usize) -> Vec<String> {
        self.nodes[node].served.lock().unwrap().clone()
    }

    /// Checks that nothing remains, and that every slot is free again.
    async fn check_at_rest(&self) {
        let status = self.proxy.cluster().status();
        assert_eq!((status.in_flight(), status.waiting()), (0, 0));
        for endpoint in status.endpoints.iter().filter(|endpoint| endpoint.admin_state == AdminState::Ready) {
            let slots = endpoint.max_in_flight.unwrap().get();
            let to = |_| self.send(with_header(query("last", 10), "x-node", endpoint.id.as_str()));
            let all: Vec<_> = (0..slots).map(to).collect();
            tick().await;
            assert_eq!(self.proxy.cluster().status().waiting(), 0, "{}: a slot is not free", endpoint.id);
            for query in all {
                assert_eq!(query.await.unwrap().status(), 200);
            }
        }
    }
}

fn cluster(count: usize, slots: u32, balancer: impl Balancer) -> (Vec<Node>, Cluster<Node>) {
    let nodes = vec![(); count].into_iter().map(|()| Node::default()).collect::<Vec<_>>();
    let endpoint = |(index, node): (usize, &Node)| {
        Endpoint::new(index.to_string(), node.clone()).unwrap().max_in_flight(NonZeroU32::new(slots))
    };
    let endpoints = nodes.iter().enumerate().map(endpoint);
    let cluster = Cluster::builder().endpoints(endpoints).balancer(balancer).clock(PausedClock).build().unwrap();
    (nodes, cluster)
}

fn client() -> IpAddr {
    IpAddr::from([192, 0, 2, 7])
}

/// Returns the address of the user whom the header `x-name` names.
fn client_of(request: &Request<Body>) -> IpAddr {
    let name = request.headers().get("x-name").map_or(&b""[..], |name| name.as_bytes());
    let number = name.iter().fold(0_u32, |number, byte| number.wrapping_mul(251).wrapping_add(u32::from(*byte)));
    IpAddr::from((10 << 24 | (number & 0xff_ffff)).to_be_bytes())
}

fn query(user: &str, millis: u64) -> Request<Body> {
    let request = Request::post("/kylin/api/query").header("host", "kylin").header("x-name", user);
    let request = request.header("authorization", basic(user, "secret"));
    // Different literals, so that no two queries are identical.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    request.body(format!(r#"{{"sql":"select x from took_{millis} where n = {number}","project":"p"}}"#).into()).unwrap()
}

fn with_header(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// Lets every task run that can.
async fn tick() {
    sleep(Duration::from_micros(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_node_gets_its_queries_one_after_the_other() {
    let stage = Stage::new(2, 2, LeastConn::new());
    let began = Instant::now();
    let queries: Vec<_> = (0..12).map(|user| stage.query(&user.to_string(), 100)).collect();
    tick().await;
    assert_eq!((stage.proxy.cluster().status().in_flight(), stage.waiting()), (4, vec![4, 4]));
    for query in queries {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    assert_eq!(began.elapsed().as_millis(), 300, "three rounds of 4");
    assert!(stage.nodes.iter().all(|node| node.most.load(Ordering::Relaxed) == 2));
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_waits_for_the_node_that_was_chosen_though_another_is_idle() {
    let stage = Stage::new(2, 1, Named);
    let first = stage.send(with_header(query("a", 100), "x-node", "0"));
    tick().await;
    let second = stage.send(with_header(query("b", 100), "x-node", "0"));
    tick().await;
    assert_eq!(stage.waiting(), [1, 0]);
    for query in [first, second] {
        query.await.unwrap();
    }
    assert_eq!((stage.served(0), stage.served(1).len()), (vec!["a".to_owned(), "b".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_query_waits_for_the_node_that_has_its_result() {
    let stage = Stage::new(4, 2, QueryAffinity::new());
    let ask = |query: usize| {
        let text = format!(r#"{{"sql":"select x from took_1 where day = {query}","project":"p"}}"#);
        let user = format!("user {query}");
        let request = Request::post("/kylin/api/query").header("host", "kylin").header("x-name", &user);
        stage.send(request.header("authorization", basic(&user, "secret")).body(text.into()).unwrap())
    };
    let nodes_of = |query: usize| -> Vec<usize> {
        let user = format!("user {query}");
        (0..4).flat_map(|node| vec![node; stage.served(node).iter().filter(|name| **name == user).count()]).collect()
    };
    for query in 0..6 {
        ask(query).await.unwrap();
    }
    let running: Vec<_> = (0..8).map(|user| stage.query(&format!("other {user}"), 1_000)).collect();
    tick().await;
    assert_eq!((stage.proxy.cluster().status().in_flight(), stage.waiting()), (8, vec![0; 4]));
    for query in (0..6).map(ask).collect::<Vec<_>>().into_iter().chain(running) {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    for query in 0..6 {
        let nodes = nodes_of(query);
        assert!(nodes.len() == 2 && nodes[0] == nodes[1], "{query}: {nodes:?}");
    }
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_quick_query_passes_those_that_take_long() {
    let stage = Stage::new(1, 1, LeastConn::new());
    for millis in [1_000, 10] {
        stage.query("learn", millis).await.unwrap();
    }
    let running = stage.query("running", 1_000);
    tick().await;
    let waiting: Vec<_> = [("long", 1_000), ("quick", 10)].map(|(user, millis)| stage.query(user, millis)).into();
    for query in waiting.into_iter().chain([running]) {
        query.await.unwrap();
    }
    assert_eq!(stage.served(0)[2..], ["running", "quick", "long"]);
}

#[tokio::test(start_paused = true)]
async fn the_pages_of_kylin_and_stops_do_not_wait() {
    let stage = Stage::new(1, 1, LeastConn::new());
    let queries = [stage.query("a", 5_000), stage.query("a", 5_000)];
    tick().await;
    let began = Instant::now();
    for (method, path) in [
        ("GET", "/kylin/api/projects"),
        ("GET", "/kylin/"),
        ("PUT", "/kylin/api/query/some-id/stop"),
        ("GET", "/kylin/api/query/runningQueries"),
        ("GET", "/kylin/api/user/authentication"),
    ] {
        let request = Request::builder().method(method).uri(path).header("host", "kylin").body(Body::empty()).unwrap();
        assert_eq!(stage.send(request).await.unwrap().status(), 200, "{path}");
    }
    assert_eq!((began.elapsed(), stage.waiting()), (Duration::ZERO, vec![1]));
    for query in queries {
        query.await.unwrap();
    }
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn without_queues_a_full_node_is_not_eligible() {
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(None));
    let (nodes, cluster) = cluster(1, 1, LeastConn::new());
    let plain: ProxyBuilder<Node, Plain> = Proxy::plain(cluster);
    for stage in [stage, Stage { nodes, proxy: plain.clock(PausedClock).build().unwrap() }] {
        let first = stage.query("a", 100);
        tick().await;
        assert_eq!(stage.query("b", 100).await.unwrap().status(), 503);
        assert_eq!(first.await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn queries_that_wait_for_a_node_which_no_longer_serves_go_to_another_with_their_keys() {
    type Change = fn(&Stage);
    let changes: [(&str, Change); 4] = [
        ("removed", |stage| stage.proxy.cluster().remove(&"0".parse().unwrap()).unwrap()),
        ("drained", |stage| stage.proxy.cluster().set_admin_state(&"0".parse().unwrap(), AdminState::Drain).unwrap()),
        ("in maintenance", |stage| {
            stage.proxy.cluster().set_admin_state(&"0".parse().unwrap(), AdminState::Maintenance).unwrap();
        }),
        ("replaced", |stage| {
            let endpoints = [Endpoint::new("1", stage.nodes[1].clone()).unwrap().max_in_flight(NonZeroU32::new(1))];
            stage.proxy.cluster().replace(endpoints.into()).unwrap();
        }),
    ];
    for (what, change) in changes {
        let stage = Stage::new(2, 1, Named);
        let running = ["0", "1"].map(|node| stage.send(with_header(query("running", 1_000), "x-node", node)));
        tick().await;
        // The query waits for the first node, because that is picked first.
        let early = stage.query("early", 100);
        sleep(Duration::from_millis(10)).await;
        let late = stage.send(with_header(query("late", 100), "x-node", "1"));
        tick().await;
        assert_eq!(stage.waiting(), [1, 1]);
        change(&stage);
        tick().await;
        assert_eq!(*stage.waiting().last().unwrap(), 2, "{what}");
        for query in running.into_iter().chain([early, late]) {
            assert_eq!(query.await.unwrap().status(), 200, "{what}");
        }
        assert_eq!(stage.served(1), ["running", "early", "late"], "{what}: the earlier key goes first");
        stage.check_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn queries_that_wait_for_a_node_that_is_ejected_go_to_another() {
    let (nodes, _) = cluster(2, 1, Named);
    let endpoint = |(index, node): (usize, &Node)| {
        let one = NonZeroU32::new(1);
        Endpoint::new(index.to_string(), node.clone()).unwrap().max_in_flight(one).max_fails(one)
    };
    let endpoints = nodes.iter().enumerate().map(endpoint);
    let cluster = Cluster::builder().endpoints(endpoints).balancer(Named).clock(PausedClock).build().unwrap();
    let proxy = Proxy::builder(cluster).clock(PausedClock).build().unwrap();
    let stage = Stage { nodes, proxy };
    let running = stage.query("running", 1_000);
    tick().await;
    let waiting = stage.query("waiting", 100);
    tick().await;
    assert_eq!(stage.waiting(), [1, 0]);
    // A page, which does not wait, finds that the node refuses connections.
    stage.nodes[0].refuses.store(1, Ordering::Relaxed);
    let page = Request::get("/kylin/api/projects").header("host", "kylin").body(Body::empty()).unwrap();
    assert_eq!(stage.send(page).await.unwrap().status(), 200);
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!((stage.served(1), running.is_finished()), (vec!["waiting".to_owned()], false));
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_query_that_fails_before_it_was_sent_waits_for_another_node() {
    let stage = Stage::new(2, 1, Named);
    let running = stage.send(with_header(query("running", 1_000), "x-node", "1"));
    tick().await;
    stage.nodes[0].refuses.store(1, Ordering::Relaxed);
    let retried = stage.query("retried", 100);
    tick().await;
    assert_eq!(stage.waiting(), [0, 1]);
    assert_eq!(retried.await.unwrap().status(), 200);
    running.await.unwrap();
    assert_eq!(stage.served(1), ["running", "retried"]);
    stage.check_at_rest().await;
}

/// Returns how long a query of `user` waits until it is refused.
async fn refused_after(stage: &Stage, request: Request<Body>) -> Duration {
    let began = Instant::now();
    let response = stage.send(request).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_longer_than_its_bound() {
    const HEAD: Duration = Duration::from_secs(310);
    let near = |took: Duration, seconds: u64| took.as_secs_f64() - seconds as f64 <= 0.002 && took.as_secs() >= seconds;
    let stage = Stage::new(1, 1, LeastConn::new());
    for (millis, times) in [(100, 4), (3_000, 1), (20_000, 1)] {
        for _ in 0..times {
            stage.query("learn", millis).await.unwrap();
        }
    }
    let running = stage.query("running", 1_000_000);
    tick().await;
    assert!(near(refused_after(&stage, query("quick", 100)).await, 60));
    assert!(near(refused_after(&stage, query("slower", 3_000)).await, 90), "30 x 3 s");
    assert!(
        near(refused_after(&stage, query("slow", 20_000)).await, HEAD.as_secs()),
        "not longer than a response may take"
    );
    let mut request = query("slow", 20_000);
    let mut timeouts = Timeouts::default();
    timeouts.head = Duration::from_secs(100);
    request.extensions_mut().insert(timeouts);
    assert!(near(refused_after(&stage, request).await, 100));
    assert_eq!((stage.waiting(), running.is_finished()), (vec![0], false));
    running.await.unwrap();
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_maximum_wait_that_is_set_holds_for_slow_queries_too() {
    let rules = QueueRules::new().max_wait(Duration::from_secs(5)).unwrap();
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(rules));
    stage.query("learn", 20_000).await.unwrap();
    let running = stage.query("running", 1_000_000);
    tick().await;
    let waited = refused_after(&stage, query("slow", 20_000)).await.as_secs_f64();
    assert!((5.0..5.01).contains(&waited), "{waited}");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_places_the_costliest_is_refused() {
    let rules = QueueRules::new().max_waiting(NonZeroUsize::new(2)).max_wait(Duration::from_secs(5)).unwrap();
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(rules));
    for millis in [2_000, 10] {
        stage.query("learn", millis).await.unwrap();
    }
    let running = stage.query("running", 2_000);
    tick().await;
    let [costly, quick] = [("costly", 2_000), ("quick", 10)].map(|(user, millis)| stage.query(user, millis));
    tick().await;
    let last = stage.query("last", 10);
    assert_eq!(costly.await.unwrap().status(), 503);
    assert_eq!(stage.waiting(), [2]);
    for query in [running, quick, last] {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    assert_eq!(stage.served(0).len(), 5);
}

/// Queries of other users, as quick as those of the flood, arrive every 60 ms.
#[tokio::test(start_paused = true)]
async fn others_wait_for_one_query_of_a_flood_and_not_for_those_that_wait() {
    let stage = Stage::new(1, 8, LeastConn::new());
    // One after another they would take 750 ms: 60 queries in 8 slots.
    let flood: Vec<_> = (0..60).map(|_| stage.query("flood", 100)).collect();
    tick().await;
    let mut others = Vec::new();
    for number in 0..8 {
        sleep(Duration::from_millis(60)).await;
        let (began, query) = (Instant::now(), stage.query(&format!("other {number}"), 100));
        others.push(tokio::spawn(async move { (query.await.unwrap().status(), began.elapsed()) }));
    }
    for other in others {
        let (status, took) = other.await.unwrap();
        assert_eq!(status, 200);
        assert!(took < Duration::from_millis(250), "{took:?}");
    }
    assert!(flood.iter().any(|query| !query.is_finished()), "the flood has ended before the others");
    for query in flood {
        assert_eq!(query.await.unwrap().status(), 200, "the flood is served too");
    }
    // While another user counts as active, a user leaves a slot free for others.
    sleep(Duration::from_secs(11)).await;
    stage.check_at_rest().await;
}

/// Eight other users send a query at once ten times a second, while one user has queries of 2 s
/// waiting for all nodes.
#[tokio::test(start_paused = true)]
async fn a_flood_leaves_others_as_many_slots_as_they_need() {
    // Some of its queries end at the very moment when others arrive.
    const FLOOD: u64 = 2_000;
    let stage = Stage::new(4, 4, LeastConn::new());
    stage.query("flood", FLOOD).await.unwrap();
    let mut flood: Vec<_> = (0..300).map(|_| stage.query("flood", FLOOD)).collect();
    let of_flood =
        || (0..4).map(|node| stage.served(node).iter().filter(|user| *user == "flood").count()).sum::<usize>();
    let (mut last, mut before) = (Vec::new(), 0);
    for round in 0..126 {
        sleep(Duration::from_millis(100)).await;
        // New queries replace those that were served or refused, so the user still floods.
        flood.extend((0..10).map(|_| stage.query("flood", FLOOD)));
        let began = Instant::now();
        for user in 0..8 {
            let query = stage.query(&format!("other {user}"), 50);
            let others = tokio::spawn(async move { (query.await.unwrap().status(), began.elapsed().as_millis()) });
            // At first none of the others was there, and the flood had all slots. It gets slots
            // again after 15 s, which is not a round number from here on.
            if round >= 90 {
                last.push(others);
            }
        }
        if round == 90 {
            before = of_flood();
            let left = flood.iter().filter(|query| !query.is_finished()).count();
            assert!(left > 96, "{left} queries: more than three eighths of the places");
        }
    }
    // In 3.5 s, a slot of each node serves at least one query of 2 s.
    let served = of_flood() - before;
    assert!(served >= 4, "the flood is served too: {served}");
    for other in last {
        let (status, took) = other.await.unwrap();
        assert!(status == 200 && took <= 51, "{status} after {took} ms");
    }
    // Without other users it gets all slots again.
    let flood: Vec<_> = flood.into_iter().chain((0..200).map(|_| stage.query("flood", FLOOD))).collect();
    sleep(Duration::from_secs(13)).await;
    assert_eq!(stage.nodes.iter().map(|node| node.running.load(Ordering::Relaxed)).sum::<u32>(), 16);
    flood.iter().for_each(JoinHandle::abort);
}

/// Queries of one client, each with credentials that no node has accepted, do not take the place of
/// a user's query.
#[tokio::test(start_paused = true)]
async fn credentials_that_a_client_makes_up_make_no_users() {
    let digest = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";
    type Change<'c> = &'c dyn Fn(&mut Request<Body>, u64);
    let passwords: Change<'_> = &|request, number| {
        request.headers_mut().insert("authorization", basic(&format!("user {number}"), "x").parse().unwrap());
    };
    let tokens: Change<'_> = &|request, number| {
        request.headers_mut().insert("authorization", format!("Bearer {number}").parse().unwrap());
    };
    let cookies = |line: &dyn Fn(u64) -> String, request: &mut Request<Body>, number| {
        request.headers_mut().remove("authorization");
        request.headers_mut().insert("cookie", line(number).parse().unwrap());
    };
    let sessions: Change<'_> = &|request, number| cookies(&|number| format!("JSESSIONID={number}"), request, number);
    // Kylin 5 reads one of these, Kylin 2 to 4 the other, and the client has logged in with that
    // one.
    let of_5: Change<'_> =
        &|request, number| cookies(&|number| format!("JSESSIONID={number}; {digest}=known"), request, number);
    let of_4: Change<'_> =
        &|request, number| cookies(&|number| format!("{digest}={number}; JSESSIONID=known"), request, number);
    for (what, change) in
        [("passwords", passwords), ("tokens", tokens), ("sessions", sessions), ("Kylin 5", of_5), ("Kylin 4", of_4)]
    {
        let stage = Stage::new(1, 4, LeastConn::new());
        stage.query("honest", 2_000).await.unwrap();
        for _ in 0..20 {
            stage.query("learn", 10).await.unwrap();
        }
        for number in 0..8 {
            // Credentials that were accepted once do not count for other credentials that come with
            // them.
            let mut request = query("attacker", 10);
            change(&mut request, number);
            stage.send(request).await.unwrap();
        }
        let flood: Vec<_> = (100..200)
            .map(|number| {
                let mut request = query("attacker", 1_000 + number);
                change(&mut request, number);
                stage.send(request)
            })
            .collect();
        tick().await;
        assert_eq!(stage.waiting(), [64], "{what}: all places are taken");
        let began = Instant::now();
        assert_eq!(stage.query("honest", 2_000).await.unwrap().status(), 200, "{what}");
        // The query runs when the first query of the flood ends.
        assert!(began.elapsed() < Duration::from_millis(3_300), "{what}: {:?}", began.elapsed());
        flood.iter().for_each(JoinHandle::abort);
    }
}

/// Users behind one address are told apart once a node has accepted them.
#[tokio::test(start_paused = true)]
async fn users_at_one_address_have_shares_of_their_own_once_they_are_known() {
    let stage = Stage::new(1, 4, LeastConn::new());
    let of = |user: &str, millis| with_header(query(user, millis), "x-name", "one address");
    for user in ["flood", "other"] {
        stage.send(of(user, 10)).await.unwrap();
    }
    let flood: Vec<_> = (0..60).map(|_| stage.send(of("flood", 1_000))).collect();
    tick().await;
    let began = Instant::now();
    assert_eq!(stage.send(of("other", 10)).await.unwrap().status(), 200);
    assert!(began.elapsed() <= Duration::from_millis(1_011), "{:?}", began.elapsed());
    flood.iter().for_each(JoinHandle::abort);
}

/// Until a node has accepted the credentials of an account, each address that uses the account is a
/// user. The account leaves no slots free for itself.
#[tokio::test(start_paused = true)]
async fn an_account_that_has_just_become_known_gets_all_slots() {
    let stage = Stage::new(1, 8, LeastConn::new());
    let of = |address: &str, millis| with_header(query("account", millis), "x-name", address);
    let first = ["one address", "another"].map(|address| stage.send(of(address, 10)));
    for query in first {
        query.await.unwrap();
    }
    let flood: Vec<_> = (0..60).map(|_| stage.send(of("one address", 100))).collect();
    // The first eight get slots at once. Each later one gets the slot of one that has ended.
    sleep(Duration::from_millis(250)).await;
    assert_eq!(stage.nodes[0].running.load(Ordering::Relaxed), 8);
    for query in flood {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_queries_of_a_flood_are_no_load_for_others() {
    let stage = Stage::new(2, 4, LeastConn::new());
    let set = |state| stage.proxy.cluster().set_admin_state(&"1".parse().unwrap(), state).unwrap();
    set(AdminState::Maintenance);
    let flood: Vec<_> = (0..46).map(|_| stage.query("flood", 1_000)).collect();
    tick().await;
    set(AdminState::Ready);
    assert_eq!(stage.waiting(), [42, 0]);
    // The user floods from the 34th query on, with more than eight shares of four before it.
    let others: Vec<_> = (0..37).map(|user| stage.query(&user.to_string(), 1_000)).collect();
    tick().await;
    assert_eq!(stage.waiting(), [44, 31], "as if the first node had 33");
    let more = stage.query("flood", 1_000);
    tick().await;
    assert_eq!(stage.waiting(), [44, 32], "for the flood itself they count");
    for query in flood.into_iter().chain(others).chain([more]) {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_dropped_at_any_poll_leaves_no_slot_and_no_place() {
    let stage = Stage::new(2, 1, Named);
    for pending in 0.. {
        let running = stage.query("running", 100);
        tick().await;
        let waiting = stage.query("before", 10);
        tick().await;
        let proxy = stage.proxy.clone();
        let mut dropped = Box::pin(async move { proxy.forward(client(), query("dropped", 10)).await });
        let ended = std::future::poll_fn(|cx| {
            let mut polls = 0;
            std::task::Poll::Ready(loop {
                if dropped.as_mut().poll(cx).is_ready() {
                    break true;
                }
                polls += 1;
                if polls > pending {
                    break false;
                }
            })
        });
        assert!(!ended.await);
        // The client leaves in three situations: while the query waits, when it has a slot but was
        // not polled, and while it runs.
        sleep(Duration::from_millis([0, 109, 110, 112, 115][pending % 5])).await;
        if pending % 2 == 1 {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(dropped.as_mut().poll(cx).is_ready()));
            polled.await;
        }
        drop(dropped);
        for query in [running, waiting] {
            assert_eq!(query.await.unwrap().status(), 200);
        }
        stage.check_at_rest().await;
        if pending == 20 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_slot_is_handed_over_once() {
    let stage = Stage::new(2, 1, LeastConn::new());
    let queries: Vec<_> = (0..100).map(|user| stage.query(&user.to_string(), 2)).collect();
    for (index, query) in queries.into_iter().enumerate() {
        // Some leave at any moment.
        if index % 7 == 0 {
            query.abort();
            continue;
        }
        assert_eq!(query.await.unwrap().status(), 200);
    }
    crate::support::front::eventually(|| stage.proxy.cluster().status().in_flight() == 0, || "in flight".into()).await;
    let most = [0, 1].map(|node| stage.nodes[node].most.load(Ordering::Relaxed));
    assert_eq!(most, [1, 1], "queries at a time");
}

#[tokio::test(start_paused = true)]
async fn observers_learn_how_long_a_query_has_waited() {
    #[derive(Default)]
    struct Events(Mutex<Vec<String>>);
    impl Observer for Events {
        fn queued(&self, event: &Queued<'_>) {
            self.0.lock().unwrap().push(format!("queued at {}", event.endpoint));
        }

        fn dispatched(&self, event: &Dispatched<'_>) {
            self.0.lock().unwrap().push(format!("dispatched to {} after {}", event.endpoint, event.waited.as_millis()));
        }

        fn finished(&self, event: &Finished<'_>) {
            let (queued, termination) = (event.times.queued.as_millis(), event.termination);
            self.0.lock().unwrap().push(format!("{termination} after {queued}"));
        }
    }
    let events = Arc::new(Events::default());
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.observer(Arc::clone(&events)));
    let running = stage.query("running", 250);
    tick().await;
    stage.query("waiting", 10).await.unwrap();
    running.await.unwrap();
    let complete = |queued| format!("{} after {queued}", Termination::Complete);
    let expected = ["queued at 0".into(), complete(0), "dispatched to 0 after 249".into(), complete(249)];
    assert_eq!(*events.0.lock().unwrap(), expected);
    events.0.lock().unwrap().clear();
    let running = stage.query("running", 100_000);
    tick().await;
    refused_after(&stage, query("waiting", 10)).await;
    assert_eq!(
        *events.0.lock().unwrap(),
        ["queued at 0".to_owned(), format!("{} after 60000", Termination::QueueTimeout)]
    );
    running.abort();
}

/// Counts how often queries begin to wait. Fails a request that does so repeatedly.
#[derive(Debug, Default)]
struct Waits(AtomicU32);

impl Observer for Waits {
    fn queued(&self, _: &Queued<'_>) {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) < 100, "a query is picked again and again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_written_to_a_node_waits_for_it_while_it_drains() {
    let waits = Arc::new(Waits::default());
    let stage = Stage::with(2, 1, Named, |builder| builder.observer(Arc::clone(&waits)));
    let write = Request::put("/kylin/api/cubes/c/build").header("host", "kylin").header("x-node", "1");
    let write = write.header("authorization", basic("writer", "secret")).body("{}".into()).unwrap();
    assert_eq!(stage.send(write).await.unwrap().status(), 200);
    let running = stage.query("writer", 100);
    tick().await;
    stage.proxy.cluster().set_admin_state(&"1".parse().unwrap(), AdminState::Drain).unwrap();
    let waiting = stage.query("writer", 100);
    tick().await;
    assert_eq!((stage.waiting(), waits.0.load(Ordering::Relaxed)), (vec![0, 1], 1));
    for query in [running, waiting] {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    assert_eq!(stage.served(1), ["writer", "writer"]);
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_query_gets_503_whatever_the_status_is_without_an_endpoint() {
    let rules = QueueRules::new().max_waiting(NonZeroUsize::new(1));
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(rules).unavailable_status(status));
    let running = stage.query("running", 100_000);
    tick().await;
    let waiting = stage.query("waiting", 10);
    tick().await;
    assert_eq!(refused_after(&stage, query("beyond the places", 10)).await, Duration::ZERO);
    let refused = waiting.await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    running.abort();
    stage.proxy.cluster().set_admin_state(&"0".parse().unwrap(), AdminState::Maintenance).unwrap();
    assert_eq!(stage.query("none", 10).await.unwrap().status(), status);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_set_or_removed_at_run_time_counts_for_queries_that_wait() {
    let stage = Stage::new(1, 0, LeastConn::new());
    let set = |limit| {
        let endpoint = Endpoint::new("0", stage.nodes[0].clone()).unwrap().max_in_flight(NonZeroU32::new(limit));
        stage.proxy.cluster().replace(vec![endpoint]).unwrap();
    };
    let mut queries = vec![stage.query("before", 1_000), stage.query("before", 1_000)];
    for (limit, sent, running, waiting) in [(0, 0, 2, 0), (1, 3, 3, 2), (2, 0, 4, 1), (1, 1, 4, 2), (0, 0, 6, 0)] {
        set(limit);
        queries.extend((0..sent).map(|user| stage.query(&user.to_string(), 1_000)));
        tick().await;
        let now = (stage.nodes[0].running.load(Ordering::Relaxed), stage.waiting());
        assert_eq!(now, (running, vec![waiting]), "limit {limit}");
    }
    for query in queries {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    set(1);
    stage.check_at_rest().await;
}

/// A query with an id. All of them are identical, and take 10 ms.
fn equal_query(id: &str) -> Request<Body> {
    let request = Request::post("/kylin/api/query").header("host", "kylin").header("x-name", "equal");
    let body = format!(r#"{{"sql":"select x from took_10 where n = 0","project":"p","queryId":"{id}"}}"#);
    request.header("authorization", basic("equal", "secret")).body(body.into()).unwrap()
}

fn stop(user: &str, id: &str) -> Request<Body> {
    let request = Request::put(format!("/kylin/api/query/{id}/stop")).header("host", "kylin");
    request.header("authorization", basic(user, "secret")).body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_stops_its_query_while_that_waits() {
    for (single_flight, directive) in [(true, "max-age=0"), (true, "no-cache"), (false, "max-age=0")] {
        let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.single_flight(single_flight));
        let running = stage.query("running", 100);
        tick().await;
        let waiting = stage.send(with_header(equal_query("id"), "cache-control", directive));
        tick().await;
        for other in [stop("another", "id"), stop("equal", "other")] {
            assert_eq!(stage.send(other).await.unwrap().status(), 200);
        }
        assert_eq!(stage.waiting(), [1]);
        assert_eq!(stage.send(stop("equal", "id")).await.unwrap().status(), 200);
        let stopped = waiting.await.unwrap();
        assert_eq!((stopped.status().as_u16(), stage.waiting()), (500, vec![0]));
        let body = stopped.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("the query was stopped"), "{body:?}");
        assert_eq!(running.await.unwrap().status(), 200);
        assert_eq!(stage.served(0), ["running"]);
        stage.check_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_the_place_of_a_leader_that_leaves_its_queue() {
    for is_stopped in [false, true] {
        let stage = Stage::new(1, 1, LeastConn::new());
        let running = stage.query("running", 100);
        tick().await;
        let leader = stage.send(equal_query("leader"));
        tick().await;
        let other = stage.query("other", 10);
        sleep(Duration::from_millis(1)).await;
        let follower = stage.send(equal_query("follower"));
        tick().await;
        let followers = || stage.proxy.single_flight().unwrap().followers;
        assert_eq!((stage.waiting(), followers()), (vec![2], 1));
        if is_stopped {
            assert_eq!(stage.send(stop("equal", "leader")).await.unwrap().status(), 200);
            assert_eq!(leader.await.unwrap().status(), 500);
        } else {
            leader.abort();
        }
        tick().await;
        assert_eq!((stage.waiting(), followers()), (vec![2], 0));
        for query in [running, other, follower] {
            assert_eq!(query.await.unwrap().status(), 200);
        }
        assert_eq!(stage.served(0), ["running", "equal", "other"]);
        stage.check_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn followers_wait_for_a_slot_no_longer_than_other_queries() {
    let stage = Stage::new(1, 1, LeastConn::new());
    let running = stage.query("running", 1_000_000);
    tick().await;
    let began = Instant::now();
    for query in ["leader", "1", "2"].map(|id| stage.send(equal_query(id))) {
        assert_eq!(query.await.unwrap().status(), 503);
    }
    assert_eq!(began.elapsed().as_secs(), 60, "the time of the others is over too");
    let began = Instant::now();
    let leader = stage.send(equal_query("leader"));
    sleep(Duration::from_secs(10)).await;
    let follower = stage.send(equal_query("follower"));
    sleep(Duration::from_secs(40)).await;
    leader.abort();
    assert_eq!(follower.await.unwrap().status(), 503);
    assert_eq!(began.elapsed().as_secs(), 70, "the time counts from the arrival of the follower");
    running.abort();
}

/// The leader has waited too long before its followers have.
#[tokio::test(start_paused = true)]
async fn a_follower_waits_for_a_slot_as_long_as_it_may_itself() {
    let rules = QueueRules::new().max_wait(Duration::from_secs(2)).unwrap();
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(rules));
    let running = stage.query("running", 2_900);
    tick().await;
    let began = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for (id, at) in [("0", 0), ("1", 500), ("2", 500), ("3", 1_000), ("4", 1_700)] {
        tokio::time::sleep_until(began + Duration::from_millis(at)).await;
        let response = stage.send(equal_query(id));
        all.spawn(async move {
            let status = response.await.unwrap().status().as_u16();
            ((began.elapsed().as_millis() + 5) / 10 * 10, status)
        });
        tick().await;
    }
    let mut ends = all.join_all().await;
    ends.sort_unstable();
    // The fourth leads from 2.5 s on, and has the slot after 2.9 s.
    assert_eq!(ends, [(2_000, 503), (2_500, 503), (2_500, 503), (2_910, 200), (2_910, 200)]);
    assert_eq!(running.await.unwrap().status(), 200);
    assert_eq!(stage.served(0), ["running", "equal"]);
    assert_eq!(stage.proxy.single_flight().unwrap().shared, 1);
    stage.check_at_rest().await;
}

/// Many followers whose time is over with that of the leader.
#[tokio::test(start_paused = true)]
async fn followers_whose_time_is_over_are_refused_at_once() {
    let rules = QueueRules::new().max_wait(Duration::from_secs(2)).unwrap();
    let stage = Stage::with(1, 1, LeastConn::new(), |builder| builder.queue(rules));
    let running = stage.query("running", 60_000);
    tick().await;
    let began = Instant::now();
    let all: Vec<_> = (0..1_000).map(|n| stage.send(equal_query(&n.to_string()))).collect();
    for query in all {
        assert_eq!(query.await.unwrap().status(), 503);
    }
    assert!(began.elapsed().as_millis() < 2_010, "{:?}", began.elapsed());
    assert_eq!(stage.served(0), ["running"]);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn followers_that_get_no_copy_wait_for_a_slot_as_long_as_others() {
    let stage = Stage::new(1, 1, LeastConn::new());
    let query = || {
        let mut request = equal_query("one");
        *request.body_mut() = r#"{"sql":"select own_cookie from took_70000 where n = 0","project":"p"}"#.into();
        stage.send(request)
    };
    let began = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for query in [query(), query(), query()] {
        all.spawn(async move {
            let status = query.await.unwrap().status().as_u16();
            (began.elapsed().as_secs(), status)
        });
    }
    let mut ends = all.join_all().await;
    ends.sort_unstable();
    assert_eq!(ends, [(70, 200), (130, 503), (140, 200)], "the first took 70 s, another has the slot after it");
    stage.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_on_trial_waits_for_the_endpoint_that_it_tries() {
    let (nodes, one) = ([Node::default(), Node::default()], NonZeroU32::new(1));
    let endpoint = |(index, node): (usize, &Node)| {
        Endpoint::new(index.to_string(), node.clone()).unwrap().max_in_flight(one).max_fails(one)
    };
    let endpoints = nodes.iter().enumerate().map(endpoint);
    let cluster = Cluster::builder().endpoints(endpoints).balancer(Named).clock(PausedClock).build().unwrap();
    let proxy = Proxy::builder(cluster).clock(PausedClock).build().unwrap();
    let stage = Stage { nodes: nodes.into(), proxy };
    let running = stage.query("running", 20_000);
    tick().await;
    stage.nodes[0].refuses.store(1, Ordering::Relaxed);
    let page = Request::get("/kylin/api/projects").header("host", "kylin").body(Body::empty()).unwrap();
    assert_eq!(stage.send(page).await.unwrap().status(), 200);
    // The ejection is over.
    sleep(Duration::from_secs(11)).await;
    let trial = stage.query("trial", 10);
    tick().await;
    assert_eq!(stage.waiting(), [1, 0]);
    for query in [running, trial] {
        assert_eq!(query.await.unwrap().status(), 200);
    }
    assert_eq!(stage.served(0), ["running", "trial"]);
    stage.check_at_rest().await;
}

/// Sends queries one after another, and returns how many each node has got.
async fn share_of_each(stage: &Stage, queries: usize) -> [usize; 3] {
    let before = [0, 1, 2].map(|node| stage.served(node).len());
    for number in 0..queries {
        // Some take ten times as long as others, which makes no node slow.
        let millis = if number % 7 == 0 { 100 } else { 10 };
        assert_eq!(stage.query(&format!("{} user", number % 29), millis).await.unwrap().status(), 200);
    }
    [0, 1, 2].map(|node| stage.served(node).len() - before[node])
}

/// Returns whether each node is slow, and the remaining part of its weight.
fn weights(stage: &Stage) -> [(bool, u32); 3] {
    let endpoints = stage.proxy.cluster().status().endpoints;
    [0, 1, 2].map(|node| (endpoints[node].slow, endpoints[node].ramp))
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_slower_than_the_others_has_less_weight_where_the_rules_say_so() {
    for on in [true, false] {
        let rules = QueueRules::new().slow_weights(on);
        let stage = Stage::with(3, 8, RoundRobin::new(), |proxy| proxy.queue(rules).affinity(None));
        let changes = Arc::new(Changes::default());
        let _watch = Watch::new(Arc::clone(&changes)).cluster("kylin", stage.proxy.cluster());
        assert_eq!((share_of_each(&stage, 300).await, weights(&stage)), ([100; 3], [(false, 100); 3]));
        stage.nodes[1].slowness.store(3, Ordering::Relaxed);
        share_of_each(&stage, 435).await;
        let served = share_of_each(&stage, 300).await;
        if on {
            let [first, slow, last] = weights(&stage);
            assert!([first, last] == [(false, 100); 2] && slow.0 && (10..50).contains(&slow.1), "{slow:?}");
            assert!(served[1] >= 10 && served[1] < served[0] / 2, "{served:?}");
        } else {
            assert_eq!((weights(&stage), served), ([(false, 100); 3], [100; 3]));
        }
        stage.nodes[1].slowness.store(0, Ordering::Relaxed);
        share_of_each(&stage, 1_500).await;
        assert_eq!(weights(&stage), [(false, 100); 3]);
        sleep(Duration::from_secs(2)).await;
        let expected: &[&str] = if on { &["slowed", "restored"] } else { &[] };
        assert_eq!(*changes.0.lock().unwrap(), expected);
        // The rules of the proxy that was built last apply.
        stage.nodes[1].slowness.store(3, Ordering::Relaxed);
        share_of_each(&stage, 435).await;
        assert_eq!(weights(&stage)[1].0, on);
        let off = Proxy::builder(stage.proxy.cluster().clone()).clock(PausedClock).queue(QueueRules::new());
        _ = off.build().unwrap();
        assert_eq!(weights(&stage), [(false, 100); 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_weight_of_a_slow_node_is_part_of_what_the_operator_set_and_moves_no_keys() {
    let rules = QueueRules::new().slow_weights(true);
    let stage = Stage::with(3, 8, RoundRobin::new(), |proxy| proxy.queue(rules).affinity(None));
    stage.proxy.cluster().set_weight(&"1".parse().unwrap(), NonZeroU32::new(4).unwrap()).unwrap();
    assert_eq!(share_of_each(&stage, 300).await, [50, 200, 50]);
    stage.nodes[1].slowness.store(3, Ordering::Relaxed);
    share_of_each(&stage, 435).await;
    let served = share_of_each(&stage, 600).await;
    // A quarter of a weight of four is about one.
    assert!(weights(&stage)[1].0 && served.iter().all(|served| (120..280).contains(served)), "{served:?}");

    let stage = Stage::with(3, 8, IpHash::new(), |proxy| proxy.queue(rules).affinity(None));
    let before = share_of_each(&stage, 435).await;
    stage.nodes[1].slowness.store(3, Ordering::Relaxed);
    share_of_each(&stage, 435).await;
    assert!(weights(&stage)[1].0 && before.iter().all(|served| *served > 30), "{before:?}");
    assert_eq!(share_of_each(&stage, 435).await, before);
}

/// The names of the changes of endpoints.
#[derive(Default)]
struct Changes(Mutex<Vec<&'static str>>);

impl Observer for Changes {
    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        self.0.lock().unwrap().push(event.change.as_str());
    }
}
