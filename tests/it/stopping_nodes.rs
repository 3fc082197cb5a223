//! A stopping Tomcat ends Kylin before it closes its port, and responds with 404 to everything
//! meanwhile.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::{OwnRequest, SendErrorKind};
use kylin_lb::clock::ManualClock;
use kylin_lb::proxy::{KylinRules, RetryBudget, RetryPolicy};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, Outcome, Proxy, SendError};

use crate::support::front::Front;
use crate::support::health::report;
use crate::support::kylin::{Says, ask, proxy, request, saying, sql, well};
use crate::support::raw_node::{Act, RawNode, healthy};

const PAGE: &str = "<html>HTTP Status 404 - Not Found</html>";

/// A node that responds to its clients with a page of status 404, and differently to the front
/// end's own requests.
struct Stopping {
    node: Scripted,
    /// The front end's own requests.
    asked: Arc<AtomicUsize>,
}

impl Stopping {
    fn new(when_asked: Says) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let node = Scripted::new(move |request: Request<Body>| {
            let says = match request.extensions().get::<OwnRequest>() {
                Some(_) => {
                    assert_eq!(
                        (request.method().as_str(), request.uri().path()),
                        ("GET", "/kylin/api/user/authentication")
                    );
                    assert!(
                        !request.headers().contains_key("authorization") && !request.headers().contains_key("cookie")
                    );
                    count.fetch_add(1, Ordering::SeqCst);
                    when_asked.clone()
                }
                None => page(404),
            };
            async move {
                // Other requests run meanwhile.
                tokio::task::yield_now().await;
                respond(&says)
            }
        });
        Stopping { node, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn page(status: u16) -> Says {
    Says::Html(status, PAGE.to_owned())
}

fn respond(says: &Says) -> Result<Response<Body>, SendError> {
    let (status, media, text) = match says {
        Says::Nothing(kind) => return Err(SendError::new(*kind, "scripted")),
        Says::Json(status, text) => (status, "application/json;charset=UTF-8", text),
        Says::Html(status, text) => (status, "text/html;charset=utf-8", text),
    };
    let response = Response::builder().status(*status).header("content-type", media);
    Ok(response.body(Body::from(text.clone())).unwrap())
}

#[tokio::test]
async fn a_404_for_a_path_of_every_kylin_is_a_refusal_if_the_node_has_no_kylin() {
    let insert = sql("insert into t values (1)");
    let calls = [
        ("POST /kylin/api/query", insert.as_str()),
        ("POST /kylin/api/query/", &insert),
        ("POST /kylin/api/query/prestate", &insert),
        ("POST /kylin/api/user/authentication", ""),
        ("GET /kylin/api/projects", ""),
        ("POST /kylin/api/projects", "{}"),
        ("GET /kylin/api/jobs?limit=1", ""),
        ("GET /kylin/", ""),
        ("GET /kylin/api/cubes/c", ""),
        ("PUT /kylin/api/cubes/c/build", "{}"),
        ("POST /kylin/api/models/m/segments", "{}"),
    ];
    for (when_asked, is_running) in [
        (page(404), false),
        (page(200), false),
        (page(503), false),
        (Says::Json(404, "{}".to_owned()), false),
        (Says::Nothing(SendErrorKind::Connect), false),
        (Says::Nothing(SendErrorKind::Broken), false),
        (Says::Json(200, "{}".to_owned()), true),
        (page(401), true),
        (Says::error(401, "who are you"), true),
        (Says::code("KE-010021006"), true),
    ] {
        for (line, body) in calls {
            let (first, second) = (Stopping::new(when_asked.clone()), well("second"));
            let proxy = proxy(&[&first.node, &second], |proxy| proxy);
            let (status, text) = ask(&proxy, request(line, &[], body)).await;
            let case = format!("{line}, when asked {when_asked:?}: {status} {text}");
            let expected = if is_running { (404, 0, 0) } else { (200, 1, 1) };
            let failed = proxy.cluster().status().endpoints[0].failed;
            assert_eq!((status.as_u16(), second.calls(), failed), expected, "{case}");
            assert_eq!((first.asked(), first.node.calls()), (1, 2), "{case}");
            assert!(!is_running || text == PAGE, "{case}");
        }
    }
}

#[tokio::test]
async fn a_404_of_kylin_or_after_which_something_may_have_changed_is_returned_without_a_question() {
    for line in
        ["DELETE /kylin/api/projects/p", "PUT /kylin/api/cubes/c/enable", "GET /kylin/js/app.js", "POST /elsewhere"]
    {
        let (first, second) = (Stopping::new(page(404)), well("second"));
        let proxy = proxy(&[&first.node, &second], |proxy| proxy);
        let (status, text) = ask(&proxy, request(line, &[], "")).await;
        assert_eq!((status.as_u16(), text.as_str(), first.asked(), second.calls()), (404, PAGE, 0, 0), "{line}");
    }
    let (first, second) = (saying(Says::error(404, "no such project")), well("second"));
    let proxy = proxy(&[&first, &second], |proxy| proxy);
    let (status, _) = ask(&proxy, request("GET /kylin/api/projects", &[], "")).await;
    assert_eq!((status.as_u16(), first.calls(), second.calls()), (404, 1, 0));
}

#[tokio::test]
async fn a_request_goes_on_until_a_node_has_kylin_whatever_the_limits_of_retries() {
    let tries = |max| RetryPolicy::default().max_attempts(NonZeroU32::new(max)).budget(None);
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    for policy in [RetryPolicy::default(), tries(1), RetryPolicy::default().budget(Some(none))] {
        for insert in ["insert into t values (1)", "select 1"] {
            let stopping = [(); 3].map(|()| Stopping::new(page(404)));
            let last = well("last");
            let nodes = [&stopping[0].node, &stopping[1].node, &stopping[2].node, &last];
            let query = request("POST /kylin/api/query", &[], &sql(insert));
            let (status, _) = ask(&proxy(&nodes, |proxy| proxy.retry(policy.clone())), query).await;
            assert_eq!((status.as_u16(), last.calls()), (200, 1), "{policy:?}");
            assert!(stopping.iter().all(|node| (node.asked(), node.node.calls()) == (1, 2)));
        }
    }
    // An application can choose the behaviour of nginx.
    let (first, second, third) = (Stopping::new(page(404)), Stopping::new(page(404)), well("third"));
    let proxy = proxy(&[&first.node, &second.node, &third], |proxy| proxy.retry(tries(2).count_unsent(true)));
    let (status, _) = ask(&proxy, request("GET /kylin/api/projects", &[], "")).await;
    assert_eq!((status.as_u16(), third.calls()), (503, 0));
}

#[tokio::test]
async fn if_no_node_has_kylin_the_client_learns_that_and_the_rule_can_be_switched_off() {
    let (first, second) = (Stopping::new(page(404)), Stopping::new(page(404)));
    let nodes = [&first.node, &second.node];
    for line in ["POST /kylin/api/query", "PUT /kylin/api/cubes/c/build", "GET /kylin/"] {
        let query = || request(line, &[], &sql("insert into t values (1)"));
        let (status, text) = ask(&proxy(&nodes, |proxy| proxy), query()).await;
        assert_eq!(status.as_u16(), 503, "{line}");
        assert!(
            text.contains("Kylin does not run at the nodes that responded; the request was not executed"),
            "{text}"
        );
        let (status, _) = ask(&proxy(&nodes, |proxy| proxy.unavailable_status(StatusCode::BAD_GATEWAY)), query()).await;
        assert_eq!(status.as_u16(), 502);
        let off = proxy(&nodes, |proxy| proxy.rules(KylinRules::default().retry_rejected(false)));
        let (status, text) = ask(&off, query()).await;
        assert_eq!((status.as_u16(), text.as_str()), (404, PAGE));
    }
    // A node that refuses the request says more than a node without Kylin.
    let busy = saying(Says::error(400, "Too many concurrent query requests."));
    for nodes in [[&first.node, &busy], [&busy, &first.node]] {
        let query = request("POST /kylin/api/query", &[], &sql("select 1"));
        let (status, text) = ask(&proxy(&nodes, |proxy| proxy), query).await;
        assert!(status.as_u16() == 400 && text.contains("Too many"), "{status} {text}");
    }
}

/// In a rolling restart without a pause, restarted nodes wait for a probe while the last one stops.
#[tokio::test]
async fn an_endpoint_that_health_bars_is_better_than_the_404_of_a_node_that_stops() {
    let (first, second) = (Stopping::new(page(404)), well("second"));
    let endpoint = |id: &str, node: &Scripted| Endpoint::new(id, node.clone()).unwrap();
    let ejected = endpoint("1", &second).max_fails(Some(NonZeroU32::MIN));
    let cluster = Cluster::builder().endpoints([endpoint("0", &first.node), ejected]).build().unwrap();
    report(&cluster, "1", Outcome::Unreachable);
    assert!(cluster.status().endpoints[1].ejected);
    let proxy = Proxy::builder(cluster).build().unwrap();
    let (status, _) = ask(&proxy, request("POST /kylin/api/query", &[], &sql("select 1"))).await;
    assert_eq!((status.as_u16(), first.asked(), second.calls()), (200, 1, 1));
}

#[tokio::test]
async fn many_404s_ask_a_node_once_in_half_a_second() {
    for (when_asked, expected) in [(Says::Json(200, "{}".to_owned()), 404), (page(404), 503)] {
        let clock = ManualClock::new();
        let node = Stopping::new(when_asked);
        let proxy = proxy(&[&node.node], |proxy| proxy.clock(clock.clone()));
        for round in 1..=3 {
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let proxy = proxy.clone();
                clients.spawn(async move { ask(&proxy, request("GET /kylin/api/projects", &[], "")).await.0 });
            }
            assert!(clients.join_all().await.iter().all(|status| status.as_u16() == expected));
            assert_eq!(node.asked(), round);
            clock.advance(Duration::from_millis(500));
        }
    }
}

#[tokio::test]
async fn no_client_sees_the_404s_of_a_node_that_stops() {
    let not_found = format!("HTTP/1.1 404 \r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
    let stopping = RawNode::start([vec![Act::Serve(not_found.into_bytes())]]).await;
    let good = RawNode::start([healthy("good")]).await;
    let front = Front::kylin(crate::support::front::endpoints(&[stopping.address(), good.address()]), |proxy| proxy);
    for _ in 0..10 {
        let response = front.post("/kylin/api/query", &sql("insert into t values (1)")).await.unwrap();
        assert_eq!((response.status(), response.text()), (200, "good"));
    }
    assert_eq!(good.seen().requests.len(), 10, "each is executed once");
}

/// A client that requests something that its Kylin does not have causes checks of the node.
#[tokio::test]
async fn a_kylin_that_ran_a_moment_ago_is_asked_again_for_a_path_that_it_always_serves() {
    let (clock, stopped) = (ManualClock::new(), Arc::new(AtomicBool::new(false)));
    let is_stopped = Arc::clone(&stopped);
    let node = Scripted::new(move |request: Request<Body>| {
        let runs = request.extensions().get::<OwnRequest>().is_some() && !is_stopped.load(Ordering::SeqCst);
        let says = if runs { Says::Json(200, "{}".to_owned()) } else { page(404) };
        async move { respond(&says) }
    });
    let second = well("second");
    let proxy = proxy(&[&node, &second], |proxy| proxy.clock(clock.clone()));
    let (status, _) = ask(&proxy, request("GET /kylin/api/missing", &[], "")).await;
    assert_eq!(status.as_u16(), 404);
    clock.advance(Duration::from_millis(100));
    stopped.store(true, Ordering::SeqCst);
    // With round robin, the second request goes to this node.
    for statement in ["select 1", "select 2"] {
        let (status, _) = ask(&proxy, request("POST /kylin/api/query", &[], &sql(statement))).await;
        assert_eq!(status.as_u16(), 200, "{statement}");
    }
    assert_eq!((node.calls(), second.calls()), (4, 2), "with two questions of the front end");
}
