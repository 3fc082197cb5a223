//! nginx's rule ejects nodes that fail, for a time, through the whole front end.

use std::num::{NonZero, NonZeroU32};
use std::time::Duration;

use http::StatusCode;
use kylin_lb::clock::ManualClock;
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::{Cluster, Endpoint, HttpBackend, Proxy};

use crate::support::front::{Front, closed_port, endpoint};
use crate::support::raw_node::{Act, RawNode, healthy, ok, respond};

const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad";

/// One connection per request, so that a node's scripts apply to requests.
fn once_each(id: usize, node: &RawNode) -> Endpoint<HttpBackend> {
    endpoint(id, node.address(), |backend| backend.max_idle(0))
}

#[tokio::test]
async fn the_third_failure_ejects_and_one_success_readmits() {
    let clock = ManualClock::new();
    // Fails the third, sixth and ninth request that it gets, and then works.
    let fine = respond(ok("0"));
    let bad = respond(BAD);
    let scripts = (1..=9).map(|request| if request % 3 == 0 { bad.clone() } else { fine.clone() });
    let flaky = RawNode::start(scripts.chain([fine.clone()])).await;
    let steady = RawNode::start([respond(ok("1"))]).await;
    let rule =
        |endpoint: Endpoint<HttpBackend>| endpoint.max_fails(NonZeroU32::new(3)).fail_timeout(Duration::from_secs(10));
    let cluster = Cluster::builder()
        .endpoints([rule(once_each(0, &flaky)), rule(once_each(1, &steady))])
        .clock(clock.clone())
        .build()
        .unwrap();
    let retry = RetryPolicy::default().on_status(StatusCode::INTERNAL_SERVER_ERROR);
    let front = Front::serving(Proxy::plain(cluster).retry(retry).build().unwrap(), |server| {
        server.threads(NonZero::new(1).unwrap())
    });

    for _ in 0..30 {
        assert_eq!(front.get("/").await.unwrap().status(), 200, "the steady node serves the retry");
    }
    front.idle().await;
    let status = front.proxy.cluster().status();
    assert!(status.endpoints[0].ejected && !status.endpoints[1].ejected);
    assert_eq!(flaky.seen().requests.len(), 9, "none after its third failure");
    assert_eq!(steady.seen().requests.len(), 24, "all that the other did not serve");

    clock.advance(Duration::from_secs(10));
    front.get("/").await.unwrap();
    assert_eq!(flaky.seen().requests.len(), 9, "ejected until the time is over");
    clock.advance(Duration::from_millis(1));
    for _ in 0..4 {
        front.get("/").await.unwrap();
    }
    assert!(flaky.seen().requests.len() > 9, "back after one success");
    assert!(!front.proxy.cluster().status().endpoints[0].ejected);
}

#[tokio::test]
async fn an_ejected_node_gets_one_request_at_a_time() {
    let clock = ManualClock::new();
    let bad =
        RawNode::start([vec![Act::Read], vec![Act::Read, Act::WaitForGo, Act::Write(ok("bad"))], healthy("bad")]).await;
    let good = RawNode::start([healthy("good")]).await;
    let rule =
        |endpoint: Endpoint<HttpBackend>| endpoint.max_fails(NonZeroU32::new(1)).fail_timeout(Duration::from_secs(10));
    let front = Front::by_clock(&clock, [rule(once_each(0, &bad)), rule(once_each(1, &good))]);
    for _ in 0..6 {
        assert_eq!(front.get("/").await.unwrap().text(), "good");
    }
    assert_eq!(bad.seen().requests.len(), 1);
    clock.advance(Duration::from_secs(11));
    let meanwhile = async {
        bad.wait_until(|seen| seen.requests.len() == 2).await;
        for _ in 0..6 {
            assert_eq!(front.get("/").await.unwrap().text(), "good", "the request to the other is still in flight");
        }
        assert_eq!(bad.seen().requests.len(), 2);
        bad.go();
    };
    let first_two = async { [front.get("/").await.unwrap(), front.get("/").await.unwrap()] };
    let (responses, ()) = tokio::join!(first_two, meanwhile);
    assert!(responses.iter().any(|response| response.text() == "bad"), "its response reaches the client");
}

#[tokio::test]
async fn a_node_that_is_alone_is_never_ejected() {
    let node = RawNode::start([vec![Act::Read], vec![Act::Read], healthy("back")]).await;
    // Panic mode would try it anyway.
    let cluster = Cluster::builder().endpoint(once_each(0, &node).max_fails(NonZeroU32::new(1))).panic_mode(false);
    let front = Front::serving(Proxy::plain(cluster.build().unwrap()).build().unwrap(), |server| server);
    for _ in 0..2 {
        assert_eq!(front.get("/").await.unwrap().status(), 502);
        assert!(!front.proxy.cluster().status().endpoints[0].ejected);
    }
    assert_eq!(front.get("/").await.unwrap().text(), "back");
}

#[tokio::test]
async fn when_all_are_ejected_the_response_is_503_with_retry_after() {
    let clock = ManualClock::new();
    let dead = |id| endpoint(id, closed_port(), |backend| backend).max_fails(NonZeroU32::new(1));
    let cluster = Cluster::builder().endpoints([dead(0), dead(1)]).clock(clock.clone()).panic_mode(false);
    let front = Front::serving(Proxy::plain(cluster.build().unwrap()).clock(clock).build().unwrap(), |server| {
        server.threads(NonZero::new(1).unwrap())
    });
    assert_eq!(front.get("/").await.unwrap().status(), 502);
    let response = front.post("/", "x").await.unwrap();
    crate::support::front::refusal(&response, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_response_that_breaks_off_counts_against_its_node() {
    let cut = respond("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut");
    let (cutter, good) = (RawNode::start([cut]).await, RawNode::start([healthy("good")]).await);
    let front = Front::of([once_each(0, &cutter).max_fails(NonZeroU32::new(1)), once_each(1, &good)], |proxy| proxy);
    // An error response, if the front end noticed the failure before it wrote the head.
    assert!(front.get("/").await.map_or(true, |response| response.status() == 502), "cut short");
    front.idle().await;
    assert!(front.proxy.cluster().status().endpoints[0].ejected);
    assert_eq!(front.get("/").await.unwrap().text(), "good");
}
