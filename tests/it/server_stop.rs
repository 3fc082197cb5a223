//! A stopping server.

use std::collections::HashMap;
use std::num::NonZero;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::observe::{Finished, Observer, Termination};
use kylin_lb::server::{Handler, Server};
use kylin_lb::{Body, ClientAddr, Cluster, Proxy};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::front::{Front, demo, endpoint, endpoints, refusal};
use crate::support::http::Connection;
use crate::support::raw_node::{Act, RawNode, find, healthy, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";
const LONG: Duration = Duration::from_secs(60);

/// Returns the script of a node that responds when the test tells it to.
fn responds_on_go() -> Vec<Act> {
    let exchange = [Act::Read, Act::WaitForGo, Act::Write(ok("slow"))];
    [&exchange[..], &exchange].concat()
}

#[tokio::test]
async fn requests_in_flight_are_finished_and_idle_connections_are_closed_without_a_reset() {
    let slow = RawNode::start([responds_on_go()]).await;
    let front = Front::over(&[slow.address()]);
    let (mut idle, mut fresh, mut busy) = (front.connect().await, front.connect().await, front.connect().await);
    slow.go();
    idle.send(GET).await.unwrap();
    assert_eq!(idle.response().await.unwrap().text(), "slow");
    busy.send(GET).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 2).await;

    let address = front.address();
    let stop = tokio::spawn(front.server.stop(LONG));
    assert!(idle.rest().await.unwrap().is_empty(), "an idle connection ends with a FIN");
    assert!(fresh.rest().await.unwrap().is_empty(), "and so does one without a request");
    while Connection::open(address).await.is_ok() {}
    assert!(!stop.is_finished(), "one connection is still busy");
    slow.go();
    let response = busy.response().await.unwrap();
    assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
    assert!(busy.rest().await.unwrap().is_empty());
    assert_eq!(stop.await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_connection_that_waits_for_a_place_gets_a_response() {
    let node = RawNode::start([responds_on_go(), healthy("fast")]).await;
    let cluster = Cluster::builder().endpoints(endpoints(&[node.address()])).build().unwrap();
    let proxy = Proxy::plain(cluster).build().unwrap();
    let front = Front::serving(proxy, |server| server.max_connections(NonZero::new(1)).threads(NonZero::<usize>::MIN));
    let mut busy = front.connect().await;
    busy.send(GET).await.unwrap();
    node.wait_until(|seen| seen.requests.len() == 1).await;
    let mut waiting = [front.connect().await, front.connect().await];
    for client in &mut waiting {
        client.send(GET).await.unwrap();
    }
    let stop = tokio::spawn(front.server.stop(LONG));
    for client in &mut waiting {
        assert_eq!(client.response().await.unwrap().text(), "fast");
    }
    node.go();
    assert_eq!(busy.response().await.unwrap().text(), "slow");
    assert_eq!(stop.await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_long_response_in_flight_is_finished() {
    let (_node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = front.connect().await;
    client.send("GET /demo/bytes?n=50000000 HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    let head = client.final_head().await.unwrap();
    let stop = tokio::spawn(front.server.stop(LONG));
    let mut body = client.body(&head).unwrap();
    let mut length = 0;
    while let Some(part) = body.next().await.unwrap() {
        length += part.len();
    }
    assert_eq!(length, 50_000_000);
    assert_eq!(stop.await.unwrap().cut, 0);
}

#[tokio::test]
async fn requests_that_take_longer_than_the_grace_are_cut_and_counted() {
    let slow = RawNode::start([vec![Act::Read, Act::UntilClosed]]).await;
    let front = Front::over(&[slow.address()]);
    let mut clients = vec![front.connect().await, front.connect().await];
    for client in &mut clients {
        client.send(GET).await.unwrap();
    }
    slow.wait_until(|seen| seen.requests.len() == 2).await;
    assert_eq!(front.server.stop(Duration::from_millis(50)).await.cut, 2);
    for client in &mut clients {
        // A close without a byte would make the client repeat its request.
        assert!(refusal(&client.response().await.unwrap(), 502).contains("may have been executed"));
        assert!(client.rest().await.unwrap().is_empty());
    }
    slow.wait_until(|seen| seen.closed == 2).await;
}

#[tokio::test]
async fn a_server_that_is_dropped_responds_to_requests_in_flight() {
    let slow = RawNode::start([vec![Act::Read, Act::UntilClosed]]).await;
    let front = Front::over(&[slow.address()]);
    let mut client = front.connect().await;
    client.send(GET).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    drop(front);
    refusal(&client.response().await.unwrap(), 502);
    slow.wait_until(|seen| seen.closed == 1).await;
}

/// The connections are in the kernel's backlog and the requests in its buffers, while the server's
/// only thread is busy.
#[tokio::test]
async fn requests_that_the_server_had_not_read_before_the_stop_get_a_response() {
    let (busy, is_busy) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let handler = move |_: ClientAddr, request: Request<Body>| {
        if request.uri().path() == "/block" {
            busy.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
        async { Response::new(Body::from("hello")) }
    };
    let server = Server::builder()
        .listen("127.0.0.1:0".parse().unwrap(), handler)
        .threads(NonZero::new(1).unwrap())
        .start()
        .unwrap();
    let mut clients = Vec::new();
    for number in 0..9 {
        let mut client = Connection::open(server.addresses()[0]).await.unwrap();
        let path = if number == 0 { "/block" } else { "/" };
        client.send(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        if number == 0 {
            is_busy.recv().unwrap();
        }
        clients.push(client);
    }
    let mut stop = pin!(server.stop(LONG));
    // Sends the signal, which the busy thread does not see yet.
    assert!(timeout(Duration::ZERO, stop.as_mut()).await.is_err());
    release.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.response().await.unwrap().text(), "hello");
    }
    assert_eq!(stop.await.cut, 0);
}

#[tokio::test]
async fn all_requests_from_before_the_stop_get_a_response() {
    for round in 0..5 {
        let (_node, served) = demo("q1").await;
        let inner = Front::over(&[served.addr()]);
        let front = Front::serving(inner.proxy.clone(), |server| server.threads(NonZero::new(2).unwrap()));
        let address = front.address();
        let (stopping, responses) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..16 {
            let (stopping, responses) = (Arc::clone(&stopping), Arc::clone(&responses));
            clients.spawn(async move {
                loop {
                    let Ok(mut client) = Connection::open(address).await else { break };
                    let sent = client.send("GET /demo/bytes?n=5000 HTTP/1.1\r\nHost: kylin\r\n\r\n").await;
                    // The request was in flight before the stop.
                    let before = !stopping.load(Ordering::SeqCst);
                    match client.response().await {
                        Ok(response) => assert_eq!((response.status(), response.body.len()), (200, 5000)),
                        Err(error) => {
                            assert!(!before || sent.is_err(), "a request from before the stop failed: {error}");
                            break;
                        }
                    }
                    responses.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while responses.load(Ordering::SeqCst) < 200 {
            tokio::task::yield_now().await;
        }
        stopping.store(true, Ordering::SeqCst);
        let stopped = front.server.stop(LONG).await;
        assert_eq!(stopped.cut, 0, "round {round}");
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    }
}

/// Signals when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        _ = self.0.send(());
    }
}

/// With more threads than cores, two threads share idle connections. A connection works only as
/// long as the runtime of the thread that opened it.
#[tokio::test]
async fn a_response_on_a_connection_that_another_thread_has_opened_is_finished() {
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let first = [Act::Read, Act::Write(ok("first"))];
    let second = [Act::Read, Act::Write(response.to_vec()), Act::WaitForGo, Act::Write(b"0123456789".to_vec())];
    let node = RawNode::start([[&first[..], &second].concat()]).await;
    let (on_end, mut ended) = mpsc::unbounded_channel();
    let cluster = Cluster::builder().endpoints([endpoint(0, node.address(), |it| it.idle_timeout(LONG))]);
    let proxy = Proxy::plain(cluster.build().unwrap()).build().unwrap();
    let handler = move |peer: ClientAddr, request: Request<Body>| {
        let (proxy, on_end) = (proxy.clone(), on_end.clone());
        async move {
            if request.uri().path() != "/thread" {
                return proxy.handle(peer, request).await;
            }
            // A task ends with its runtime.
            let until_end = Dropped(on_end);
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(until_end);
            });
            Response::new(Body::from(thread::current().name().unwrap().to_owned()))
        }
    };
    let threads = available_parallelism().unwrap().get().next_power_of_two() + 1;
    let server = Server::builder().listen("127.0.0.1:0".parse().unwrap(), handler);
    let server = server.threads(NonZero::new(threads).unwrap()).start().unwrap();
    let address = server.addresses()[0];
    // The kernel chooses the thread of a connection.
    let mut clients = HashMap::new();
    while clients.len() < threads {
        let mut client = Connection::open(address).await.unwrap();
        client.send("GET /thread HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        let thread = client.response().await.unwrap().text().to_owned();
        clients.entry(thread).or_insert(client);
    }
    // Each thread opens a connection, until one gets a connection of another.
    let mut idle = Vec::new();
    let mut busy = None;
    for (number, mut client) in clients.into_values().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        let seen = node.wait_until(|seen| seen.requests.len() > number).await;
        let path = format!("GET /{number} ");
        let is_shared = |bytes: &Vec<u8>| find(bytes, path.as_bytes()).is_some_and(|place| place > 0);
        if seen.bytes.iter().any(is_shared) {
            busy = Some(client);
            break;
        }
        assert_eq!(client.response().await.unwrap().text(), "first");
        idle.push(client);
    }
    let mut busy = busy.expect("there are more threads than stacks of idle connections");
    let head = busy.final_head().await.unwrap();

    let stop = tokio::spawn(server.stop(LONG));
    for mut client in idle {
        assert!(client.rest().await.unwrap().is_empty());
    }
    while Connection::open(address).await.is_ok() {}
    assert!(ended.try_recv().is_err(), "a runtime has ended before the response");
    node.go();
    let (mut body, mut received) = (busy.body(&head).unwrap(), 0);
    while let Some(part) = body.next().await.unwrap() {
        received += part.len();
    }
    assert_eq!(received, 10);
    assert_eq!(stop.await.unwrap().cut, 0);
}

/// Reports how each request ended.
struct Ends(mpsc::UnboundedSender<(Option<StatusCode>, Termination)>);

impl Observer for Ends {
    fn finished(&self, event: &Finished<'_>) {
        _ = self.0.send((event.status, event.termination));
    }
}

#[tokio::test]
async fn a_request_that_the_stop_cuts_ends_by_the_server_and_not_by_its_client() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234".to_vec();
    for (begin, status) in [(None, 502), (Some(head), 200)] {
        let script = [vec![Act::Read], begin.clone().map(Act::Write).into_iter().collect(), vec![Act::UntilClosed]];
        let slow = RawNode::start([script.concat()]).await;
        let (ends, mut ended) = mpsc::unbounded_channel();
        let front = Front::with(&[slow.address()], |proxy| proxy.observer(Ends(ends)));
        let mut http1 = front.connect().await;
        http1.send(GET).await.unwrap();
        let mut http2 = crate::http2::connect(front.address()).await;
        let response = tokio::spawn(http2.send_request(crate::http2::request("GET", "/", "")));
        slow.wait_until(|seen| seen.requests.len() == 2).await;
        if begin.is_none() {
            assert_eq!(front.server.stop(Duration::ZERO).await.cut, 2);
            assert_eq!(http1.response().await.unwrap().status(), status);
            assert_eq!(response.await.unwrap().unwrap().status(), status);
        } else {
            http1.final_head().await.unwrap();
            let response = response.await.unwrap().unwrap();
            assert_eq!(front.server.stop(Duration::ZERO).await.cut, 2);
            assert!(http1.response().await.is_err());
            assert!(response.into_body().collect().await.is_err());
        }
        for _ in 0..2 {
            let expected = (StatusCode::from_u16(status).ok(), Termination::ServerStopped);
            assert_eq!(ended.recv().await, Some(expected));
        }
    }
}

#[tokio::test]
async fn the_grace_time_ends_early_when_the_application_says_so() {
    let slow = RawNode::start([vec![Act::Read, Act::UntilClosed]]).await;
    let front = Front::serving(Front::over(&[slow.address()]).proxy, |server| server.threads(NonZero::new(3).unwrap()));
    let (mut client, mut idle) = (front.connect().await, front.connect().await);
    client.send(GET).await.unwrap();
    slow.wait_until(|seen| seen.requests.len() == 1).await;
    let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
    let stop = tokio::spawn(front.server.stop_or_cut(LONG, async { _ = is_cut.await }));
    assert!(idle.rest().await.unwrap().is_empty());
    drop(cut);
    refusal(&client.response().await.unwrap(), 502);
    assert_eq!(stop.await.unwrap().cut, 1);
}
