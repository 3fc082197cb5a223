//! The events of requests and endpoints that an observer gets.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::QueryAffinity;
use kylin_lb::cluster::PickReason;
use kylin_lb::endpoint::AdminState;
use kylin_lb::observe::{
    AttemptBegan, AttemptEnded, Classified, ClusterChanged, Detail, EndpointChanged, EndpointPicked, EventKind,
    Finished, Observer, Received, RequestObserver, ResponseHead, Retried, ServedBy, SessionEvent, Termination, Watch,
};
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::testing::{Scripted, Step};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Outcome, Proxy, SendError};

use crate::support::front::{closed_port, demo, eventually, until};

/// Records every event as one line. Clones share the record.
#[derive(Clone, Default)]
struct Notes {
    lines: Arc<Mutex<Vec<String>>>,
    debug: Arc<Mutex<String>>,
    detail: Detail,
    /// If `None`, it wants all events.
    wanted: Option<&'static [EventKind]>,
}

impl Notes {
    fn note(&self, line: String, event: impl std::fmt::Debug) {
        self.lines.lock().unwrap().push(line);
        self.debug.lock().unwrap().push_str(&format!("{event:?}\n"));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    fn count(&self, start: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.starts_with(start)).count()
    }

    async fn wait_for(&self, part: &str) {
        let has = |lines: &[String]| lines.iter().any(|line| line.contains(part));
        let shown = || format!("{part} in {:#?}", self.lines.lock().unwrap());
        eventually(|| has(&self.lines.lock().unwrap()), shown).await;
    }
}

impl Observer for Notes {
    fn detail(&self) -> Detail {
        self.detail
    }

    fn wants(&self, kind: EventKind) -> bool {
        self.wanted.is_none_or(|wanted| wanted.contains(&kind))
    }

    fn received(&self, event: &Received<'_>) {
        self.note(format!("received {} {}", event.request.method(), event.request.target()), event);
    }

    fn classified(&self, event: &Classified<'_>) {
        self.note(format!("classified {}", event.request.class().unwrap()), event);
    }

    fn session(&self, event: &SessionEvent<'_>) {
        let endpoint = event.endpoint.map_or("-", |id| id.as_str());
        self.note(format!("session {:?} {endpoint}", event.outcome), event);
    }

    fn picked(&self, event: &EndpointPicked<'_>) {
        self.note(format!("picked {} {}", event.endpoint, event.reason), event);
    }

    fn attempt_began(&self, event: &AttemptBegan<'_>) {
        self.note(format!("began {} {}", event.number, event.endpoint), event);
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        let attempt = event.attempt;
        let (end, phase) = (attempt.end.unwrap().as_str(), attempt.phase().as_str());
        self.note(format!("ended {} {} {end} in {phase}", event.number, attempt.endpoint), event);
    }

    fn retried(&self, event: &Retried<'_>) {
        let left = event.budget_left.map_or("-".into(), |left| left.to_string());
        self.note(format!("retried {}->{} {} {left}", event.from, event.to, event.reason.as_str()), event);
    }

    fn response_head(&self, event: &ResponseHead<'_>) {
        assert_eq!(event.header("set-cookie"), None);
        let endpoint = event.endpoint.map_or("-", |id| id.as_str());
        self.note(format!("head {} {endpoint}", event.status.as_u16()), event);
    }

    fn finished(&self, event: &Finished<'_>) {
        let status = event.status.map_or(0, |status| status.as_u16());
        assert!(event.times.total >= event.times.waiting);
        assert!(event.attempts.iter().all(|attempt| attempt.end.is_some()), "{event:?}");
        self.note(
            format!("finished {status} {} {} attempts={}", event.bytes, event.termination, event.attempts.len()),
            event,
        );
    }

    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        let reason = event.reason.map_or("-".into(), |reason| reason.to_string());
        let line = format!(
            "{} {} {} by {}: {reason}",
            event.cluster,
            event.endpoint.id,
            event.change,
            event.found_by.as_str()
        );
        self.note(line, event);
    }

    fn cluster_changed(&self, event: &ClusterChanged<'_>) {
        self.note(format!("{} {:?} of {}", event.cluster, event.change, event.status.endpoints.len()), event);
    }
}

const CLIENT: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 51000);

fn query() -> Request<Body> {
    let request = Request::post("/kylin/api/query").header("host", "kylin.example");
    request.body(Body::from(r#"{"sql":"select 1 from t where a = 'hunter2'","project":"learn"}"#)).unwrap()
}

fn endpoint<B: Backend>(id: &str, backend: B) -> Endpoint<B> {
    Endpoint::new(id, backend).unwrap()
}

fn cluster(backends: impl IntoIterator<Item = Scripted>) -> Cluster<Scripted> {
    let endpoints = (1..).zip(backends).map(|(number, backend)| endpoint(&format!("q{number}"), backend));
    Cluster::builder().endpoints(endpoints).build().unwrap()
}

#[tokio::test]
async fn a_retried_query_is_told_from_its_head_to_the_end_of_its_body() {
    let notes = Notes::default();
    let refusing = Scripted::failing(SendErrorKind::Connect);
    let breaking = Scripted::failing(SendErrorKind::Broken);
    let cluster = cluster([refusing, breaking, Scripted::responding(StatusCode::OK, "{}")]);
    let proxy = Proxy::builder(cluster).observer(notes.clone()).build().unwrap();
    let response = proxy.forward(CLIENT, query()).await;
    let served = response.extensions().get::<ServedBy>().unwrap().clone();
    assert_eq!((served.endpoint.as_str(), served.attempts, served.reason), ("q3", 3, PickReason::Policy));
    assert_eq!(notes.count("finished"), 0, "the body has not been read");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    assert_eq!(
        notes.take(),
        [
            "received POST /kylin/api/query",
            "classified query",
            "session NotFound -",
            "picked q1 policy",
            "began 1 q1",
            "ended 1 q1 connect in connect",
            "retried q1->q2 connect 100",
            "picked q2 policy",
            "began 2 q2",
            "ended 2 q2 broken in response",
            "retried q2->q3 broken 99",
            "picked q3 policy",
            "began 3 q3",
            "head 200 q3",
            "ended 3 q3 2xx in body",
            "finished 200 2 complete attempts=3",
        ]
    );
}

#[tokio::test]
async fn an_observer_gets_the_events_that_it_wants() {
    let wanting = |wanted| Notes { wanted: Some(wanted), ..Notes::default() };
    let (few, ends) = (wanting(&[EventKind::Classified, EventKind::Picked]), wanting(&[EventKind::Finished]));
    let shared: Arc<dyn Observer> = Arc::new(few.clone());
    let one = cluster([Scripted::responding(StatusCode::OK, "{}")]);
    let proxy = Proxy::builder(one).observer(shared).observer(ends.clone()).build().unwrap();
    proxy.forward(CLIENT, query()).await.into_body().collect().await.unwrap();
    assert_eq!(few.take(), ["classified query", "picked q1 policy"]);
    assert_eq!(ends.take(), ["finished 200 2 complete attempts=1"]);
}

#[tokio::test]
async fn each_way_to_end_has_its_name() {
    let fails = |kind| Scripted::failing(kind);
    for (backend, request, end) in [
        (fails(SendErrorKind::Connect), query(), "finished 502 N connect_failed attempts=1"),
        (fails(SendErrorKind::ConnectTimeout), query(), "finished 504 N connect_timeout attempts=1"),
        (fails(SendErrorKind::HeadTimeout), query(), "finished 504 N response_timeout attempts=1"),
        (fails(SendErrorKind::Broken), query(), "finished 502 N connection_broken attempts=1"),
        (fails(SendErrorKind::Invalid), query(), "finished 502 N invalid_response attempts=1"),
        (fails(SendErrorKind::Limit), query(), "finished 503 N overflow attempts=1"),
        (fails(SendErrorKind::RequestBody), query(), "finished 400 N request_aborted attempts=1"),
        (fails(SendErrorKind::Connect), internal(), "finished 403 N denied attempts=0"),
        (fails(SendErrorKind::Connect), Request::new(Body::empty()), "finished 400 N refused attempts=0"),
    ] {
        let notes = Notes::default();
        let proxy = Proxy::builder(cluster([backend])).observer(notes.clone()).build().unwrap();
        let response = proxy.forward(CLIENT, request).await;
        assert!(response.extensions().get::<ServedBy>().is_none(), "{end}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes().len();
        let end = end.replace('N', &bytes.to_string());
        assert_eq!(notes.take().last(), Some(&end));
    }
    let notes = Notes::default();
    let empty = Proxy::builder(cluster([])).observer(notes.clone()).build().unwrap();
    drop(empty.forward(CLIENT, query()).await.into_body().collect().await.unwrap());
    assert!(notes.take().last().unwrap().contains("no_endpoint"));
}

fn internal() -> Request<Body> {
    Request::put("/kylin/api/cache/announce/all/all/update").header("host", "kylin").body(Body::empty()).unwrap()
}

#[tokio::test]
async fn why_an_endpoint_was_picked_is_told() {
    let learning = Scripted::new(|_| async {
        let login = Response::builder().header("set-cookie", "JSESSIONID=0123456789ABCDEF; Path=/kylin");
        Ok(login.body(Body::from("{}")).unwrap())
    });
    let notes = Notes::default();
    let two = cluster([learning.clone(), learning]);
    let proxy = Proxy::builder(two.clone()).observer(notes.clone()).build().unwrap();
    drop(proxy.forward(CLIENT, query()).await.into_body().collect().await);
    assert!(notes.take().contains(&"session Bound q1".to_owned()));
    let with_cookie = || {
        let mut request = query();
        request.headers_mut().insert("cookie", "JSESSIONID=0123456789ABCDEF".parse().unwrap());
        request
    };
    drop(proxy.forward(CLIENT, with_cookie()).await.into_body().collect().await);
    let told = notes.take();
    assert!(told.contains(&"session Found -".into()) && told.contains(&"picked q1 bound".into()), "{told:?}");

    two.set_admin_state(&"q1".parse().unwrap(), AdminState::Maintenance).unwrap();
    drop(proxy.forward(CLIENT, with_cookie()).await.into_body().collect().await);
    let told = notes.take();
    assert!(told.contains(&"session Moved q2".into()) && told.contains(&"picked q2 policy".into()), "{told:?}");

    let by_query = Cluster::builder().balancer(QueryAffinity::new());
    let by_query = by_query.endpoint(endpoint("q1", Scripted::responding(StatusCode::OK, "{}"))).build().unwrap();
    let proxy = Proxy::builder(by_query).observer(notes.clone()).build().unwrap();
    drop(proxy.forward(CLIENT, query()).await.into_body().collect().await);
    assert!(notes.take().contains(&"picked q1 fingerprint".into()));

    let failing = Scripted::responding(StatusCode::OK, "{}");
    let one_failure = |id, backend| endpoint(id, backend).max_fails(NonZeroU32::new(1));
    let all_ejected = [one_failure("q1", failing.clone()), one_failure("q2", failing)];
    let all_ejected = Cluster::builder().endpoints(all_ejected).build().unwrap();
    while !all_ejected.status().panicking {
        let view = Request::new(Body::empty());
        let view = kylin_lb::RequestView::of(&view, CLIENT);
        let mut picked = all_ejected.pick(&view, &kylin_lb::balance::Attempted::none()).unwrap();
        picked.lease.set_outcome(Outcome::Failure);
    }
    let proxy = Proxy::builder(all_ejected).affinity(None).observer(notes.clone()).build().unwrap();
    drop(proxy.forward(CLIENT, query()).await.into_body().collect().await);
    assert!(notes.take().iter().any(|line| line.starts_with("picked q") && line.ends_with("panic")));
}

/// A backend that waits, and responds with a body of three pieces with a pause before each.
fn waiting(pauses: usize, fails_at: Option<usize>) -> Scripted {
    Scripted::new(move |_| async move {
        pause(pauses).await;
        Ok(Response::new(Body::new(Pieces { sent: 0, paused: false, fails_at })))
    })
}

async fn pause(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

struct Pieces {
    sent: usize,
    paused: bool,
    fails_at: Option<usize>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.fails_at == Some(self.sent) {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        self.sent += 1;
        Poll::Ready((self.sent <= 3).then(|| Ok(Frame::data(Bytes::from_static(b"piece")))))
    }
}

#[tokio::test]
async fn a_request_that_is_dropped_at_any_time_is_finished_once() {
    let (mut client_gone, mut complete) = (0, 0);
    for polls in 0..16 {
        let notes = Notes::default();
        let proxy = Proxy::builder(cluster([waiting(3, None)])).observer(notes.clone()).build().unwrap();
        let in_flight = || proxy.cluster().status().in_flight();
        {
            let mut exchange = pin!(async {
                let response = proxy.forward(CLIENT, query()).await;
                response.into_body().collect().await.unwrap()
            });
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if exchange.as_mut().poll(&mut cx).is_ready() {
                    break;
                }
            }
        }
        let told = notes.take();
        let finished: Vec<_> = told.iter().filter(|line| line.starts_with("finished")).collect();
        let received = told.iter().filter(|line| line.starts_with("received")).count();
        assert_eq!(finished.len(), received, "{polls}: {told:?}");
        assert!(told.last().is_none_or(|line| line.starts_with("finished")), "{polls}: {told:?}");
        assert_eq!(
            told.iter().filter(|line| line.starts_with("began")).count(),
            told.iter().filter(|line| line.starts_with("ended")).count()
        );
        client_gone += finished.iter().filter(|line| line.contains("client_gone")).count();
        complete += finished.iter().filter(|line| line.contains("finished 200 15 complete")).count();
        assert_eq!(in_flight(), 0);
    }
    assert!(client_gone >= 5 && complete >= 2, "{client_gone} {complete}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_as_truncated_once() {
    for fails_at in 0..3 {
        let notes = Notes::default();
        let proxy = Proxy::plain(cluster([waiting(0, Some(fails_at))])).observer(notes.clone()).build().unwrap();
        let response = proxy.forward(CLIENT, query()).await;
        assert!(response.into_body().collect().await.is_err());
        let told = notes.take();
        let bytes = 5 * fails_at;
        assert_eq!(told.last().unwrap(), &format!("finished 200 {bytes} response_truncated attempts=1"));
        assert_eq!(told.iter().filter(|line| line.starts_with("finished")).count(), 1, "{told:?}");
        assert!(told.contains(&"ended 1 q1 truncated in body".into()), "{told:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_backend_or_of_an_observer_leaves_one_end_for_each_request() {
    struct Panicking;

    impl Backend for Panicking {
        async fn send(&self, _: Request<Body>) -> Result<Response<Body>, SendError> {
            panic!("a bug of the backend, which this test causes")
        }
    }

    struct Rude;

    impl Observer for Rude {
        fn received(&self, _: &Received<'_>) {
            panic!("a bug of the observer, which this test causes")
        }

        fn finished(&self, _: &Finished<'_>) {
            panic!("a bug of the observer, which this test causes")
        }
    }

    let notes = Notes::default();
    let one = Cluster::builder().endpoint(endpoint("q1", Panicking)).build().unwrap();
    let proxy = Proxy::builder(one).observer(Rude).observer(notes.clone()).build().unwrap();
    let response = proxy.forward(CLIENT, query()).await;
    assert_eq!(response.status(), 500);
    response.into_body().collect().await.unwrap();
    let told = notes.take();
    assert!(told.last().unwrap().starts_with("finished 500 "), "{told:?}");
    assert!(told.last().unwrap().ends_with(" panicked attempts=1"), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.starts_with("finished")).count(), 1, "{told:?}");

    let proxy = Proxy::builder(cluster([Scripted::steps([])])).observer(Rude).observer(notes.clone()).build().unwrap();
    assert_eq!(proxy.forward(CLIENT, query()).await.status(), 200);
    assert_eq!(notes.count("finished 200"), 1);
}

#[tokio::test]
async fn no_event_holds_a_secret() {
    let secrets = ["hunter2", "0123456789ABCDEF", "tok-secret", "select", "S0VZ", "FEDCBA9876543210"];
    let login = Scripted::new(|_| async {
        let login = Response::builder().header("set-cookie", "JSESSIONID=FEDCBA9876543210; Path=/kylin");
        Ok(login.body(Body::from("{}")).unwrap())
    });
    for detail in [Detail::Request, Detail::Query] {
        let notes = Notes { detail, ..Notes::default() };
        let proxy = Proxy::builder(cluster([login.clone()])).observer(notes.clone()).build().unwrap();
        let target =
            "/kylin/api/query/format/csv;jsessionid=0123456789ABCDEF?sql=select%20'hunter2'&project=p&token=tok-secret";
        for mut request in [query(), Request::get(target).header("host", "kylin").body(Body::empty()).unwrap()] {
            let headers = request.headers_mut();
            headers.insert("authorization", "Basic QURNSU46aHVudGVyMg==".parse().unwrap());
            headers.insert("cookie", "JSESSIONID=0123456789ABCDEF; KEY=S0VZ".parse().unwrap());
            drop(proxy.forward(CLIENT, request).await.into_body().collect().await);
        }
        let told = format!("{:?}{}", notes.take(), notes.debug.lock().unwrap());
        for secret in secrets {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
        assert!(told.contains("project=p&token=***"), "{told}");
    }
}

#[tokio::test]
async fn a_fingerprint_is_there_only_where_it_is_wanted_and_ignores_literals() {
    #[derive(Default, Clone)]
    struct Queries(Detail, Arc<Mutex<Vec<QueryFacts>>>);

    /// Fingerprint, project and SQL.
    type QueryFacts = (Option<u64>, Option<String>, Option<String>);

    impl Observer for Queries {
        fn detail(&self) -> Detail {
            self.0
        }

        fn finished(&self, event: &Finished<'_>) {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let request = event.request;
            self.1.lock().unwrap().push((request.fingerprint(), text(request.project()), text(request.sql())));
        }
    }

    let other = || {
        let body = r#"{"sql":"select 2 from t where a = 'x'","project":"learn"}"#;
        Request::post("/kylin/api/query").header("host", "kylin").body(Body::from(body)).unwrap()
    };
    for detail in [Detail::Request, Detail::Query, Detail::Sql] {
        let queries = Queries(detail, Arc::default());
        let proxy = Proxy::builder(cluster([Scripted::steps([])])).observer(queries.clone()).build().unwrap();
        for request in [query(), other()] {
            drop(proxy.forward(CLIENT, request).await);
        }
        let told = queries.1.lock().unwrap().clone();
        assert_eq!(told[0].0, told[1].0, "literals do not matter");
        assert_eq!(told[0].0.is_some(), detail >= Detail::Query);
        assert_eq!(told[0].1.as_deref(), Some("learn").filter(|_| detail >= Detail::Query));
        assert_eq!(told[1].2.as_deref(), Some("select 2 from t where a = 'x'").filter(|_| detail == Detail::Sql));
    }
}

#[tokio::test]
async fn a_request_may_bring_an_observer_of_its_own() {
    let (all, own) = (Notes::default(), Notes::default());
    let proxy = Proxy::plain(cluster([Scripted::steps([])])).observer(all.clone()).build().unwrap();
    let unobserved = Proxy::plain(cluster([Scripted::steps([])])).build().unwrap();
    for (proxy, told) in [(&proxy, 2), (&unobserved, 1)] {
        let mut request = query();
        request.extensions_mut().insert(RequestObserver::new(own.clone()));
        drop(proxy.forward(CLIENT, request).await);
        drop(proxy.forward(CLIENT, query()).await);
        assert_eq!((own.count("finished"), all.count("finished")), (1, 2), "{told}");
        own.take();
    }
}

#[tokio::test]
async fn the_response_names_its_endpoint_where_the_application_asks_for_it() {
    let proxy = |on| Proxy::plain(cluster([Scripted::steps([])])).served_by(on).build().unwrap();
    assert_eq!(proxy(false).forward(CLIENT, query()).await.extensions().get::<ServedBy>(), None);
    let response = proxy(true).forward(CLIENT, query()).await;
    assert_eq!(response.extensions().get::<ServedBy>().unwrap().endpoint.as_str(), "q1");
}

#[tokio::test]
async fn a_call_for_all_nodes_has_an_attempt_at_each() {
    let notes = Notes::default();
    let list = || Scripted::responding(StatusCode::OK, "[]");
    let proxy = Proxy::builder(cluster([list(), Scripted::failing(SendErrorKind::Connect), list()]));
    let proxy = proxy.observer(notes.clone()).build().unwrap();
    let request = Request::get("/kylin/api/query/runningQueries").header("host", "kylin").body(Body::empty()).unwrap();
    drop(proxy.forward(CLIENT, request).await.into_body().collect().await);
    let told = notes.take();
    for line in ["began 1 q1", "began 3 q3", "ended 2 q2 connect in connect", "ended 3 q3 2xx in body"] {
        assert!(told.contains(&line.to_owned()), "{line} in {told:#?}");
    }
    assert_eq!(told.last().unwrap(), "finished 200 2 complete attempts=3");
}

/// Records how long clusters had no endpoint.
#[derive(Clone, Default)]
struct Outages(Arc<Mutex<Vec<Option<Duration>>>>);

impl Observer for Outages {
    fn cluster_changed(&self, event: &ClusterChanged<'_>) {
        self.0.lock().unwrap().push(event.lasted);
    }
}

#[tokio::test]
async fn a_cluster_whose_endpoints_an_operator_took_out_is_lost_since_then() {
    let cluster =
        Cluster::builder().endpoint(Endpoint::http("q1", &closed_port().to_string()).unwrap()).build().unwrap();
    let outages = Outages::default();
    let _watch = Watch::new(outages.clone()).cluster("kylin", &cluster);
    let count = || outages.0.lock().unwrap().len();
    let id = "q1".parse().unwrap();
    cluster.set_admin_state(&id, AdminState::Maintenance).unwrap();
    until("the loss", async || count() == 1).await;
    cluster.set_admin_state(&id, AdminState::Ready).unwrap();
    until("the return", async || count() == 2).await;
    // Its health state has not changed meanwhile.
    assert!(outages.0.lock().unwrap()[1] > Some(Duration::ZERO));
}

#[tokio::test]
async fn a_watch_tells_which_endpoint_fell_why_and_that_the_last_one_is_lost() {
    let notes = Notes::default();
    let (_node, served) = demo("q1").await;
    let address = served.addr().to_string();
    let cluster = Cluster::builder().endpoint(Endpoint::http("q1", &address).unwrap()).build().unwrap();
    let watch = Watch::new(notes.clone()).cluster("kylin", &cluster);
    let requests = Notes::default();
    let proxy = Proxy::builder(cluster.clone()).observer(requests.clone()).build().unwrap();
    let interval = Duration::from_millis(20);
    let check = HealthCheck::new(Probe::tcp()).interval(interval).timeout(Duration::from_secs(30));
    let _checker = check.start(&cluster).unwrap();

    cluster.add(Endpoint::http("q2", &closed_port().to_string()).unwrap()).unwrap();
    notes.wait_for("kylin q2 added by configuration").await;
    notes.wait_for("kylin q2 unhealthy by probes: probe failed: no connection").await;
    let id = "q1".parse().unwrap();
    cluster.set_admin_state(&id, AdminState::Drain).unwrap();
    notes.wait_for("kylin q1 draining by operator").await;
    notes.wait_for("kylin q1 drained by operator").await;
    notes.wait_for("kylin Unavailable of 2").await;
    cluster.set_admin_state(&id, AdminState::Ready).unwrap();
    notes.wait_for("kylin Available of 2").await;
    notes.take();
    drop(served);
    notes.wait_for("kylin q1 unhealthy by probes").await;
    notes.wait_for("kylin Unavailable of 2").await;
    cluster.remove(&"q2".parse().unwrap()).unwrap();
    notes.wait_for("kylin q2 removed by configuration").await;
    let told = notes.take();
    assert_eq!(told.iter().filter(|line| line.contains("Unavailable")).count(), 1, "{told:?}");
    assert!(requests.take().is_empty(), "probes are no requests");
    drop((watch, proxy));
}

#[tokio::test]
async fn a_watch_tells_of_ejections_by_requests_and_their_end() {
    let notes = Notes::default();
    let steps = [Step::Fail(SendErrorKind::Broken), Step::Respond(StatusCode::OK, "")];
    let cluster = cluster([Scripted::steps(steps), Scripted::steps([])]);
    let watch = Watch::new(notes.clone()).cluster("kylin", &cluster);
    tokio::task::yield_now().await;
    let view = Request::new(Body::empty());
    let view = kylin_lb::RequestView::of(&view, CLIENT);
    for _ in 0..8 {
        let picked = cluster.pick_bound(&view, &kylin_lb::balance::Attempted::none(), "q1");
        if let Some(mut picked) = picked.ok().filter(|picked| picked.lease.endpoint().as_str() == "q1") {
            picked.lease.set_outcome(Outcome::Unreachable);
        }
        tokio::task::yield_now().await;
    }
    notes.wait_for("kylin q1 ejected by requests: too many failed connections in a row").await;
    let proxy = Proxy::plain(cluster.clone()).build().unwrap();
    until("q1 readmitted", async || {
        drop(proxy.forward(CLIENT, query()).await);
        notes.count("kylin q1 readmitted by requests") > 0
    })
    .await;
    assert_eq!(notes.count("kylin Unavailable"), 0, "q2 serves");
    drop(watch);
}

#[test]
fn each_termination_has_a_name() {
    assert_eq!(Termination::ALL.map(Termination::as_str)[0], "complete");
}
