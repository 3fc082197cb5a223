//! Bodies in very small chunks, from a client and from a node, do not delay other requests.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::server::Server;
use kylin_lb::{Backend, Body, ClientAddr, HttpBackend};

use crate::support::http::Connection;
use crate::support::raw_node::{RawNode, respond};

const CHUNKS: usize = 100_000;

fn in_chunks_of_a_byte() -> String {
    format!("{}0\r\n\r\n", "1\r\na\r\n".repeat(CHUNKS))
}

/// Counts the frames of a body and its bytes.
async fn frames(mut body: Body) -> (usize, usize) {
    let (mut frames, mut bytes) = (0, 0);
    while let Some(frame) = body.frame().await {
        frames += 1;
        bytes += frame.unwrap().data_ref().map_or(0, |data| data.len());
    }
    (frames, bytes)
}

/// Counts how often another task of the runtime runs.
struct Turns {
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Turns {
    fn begin() -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        Turns { count, task }
    }

    fn end(self) -> usize {
        self.task.abort();
        self.count.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_response_is_passed_on_by_reads_and_other_tasks_run_between() {
    let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", in_chunks_of_a_byte());
    let node = RawNode::start([respond(response)]).await;
    let backend = HttpBackend::new(&node.address().to_string()).unwrap();
    let request = Request::get("/").header("host", "kylin").body(Body::empty()).unwrap();
    let response = backend.send(request).await.unwrap();
    let turns = Turns::begin();
    let (frames, bytes) = frames(response.into_body()).await;
    let turns = turns.end();
    assert_eq!(bytes, CHUNKS);
    assert!(frames < CHUNKS / 100, "{frames} pieces");
    assert!(turns * 2 >= frames, "{turns} turns of another task, {frames} pieces");
}

#[tokio::test]
async fn a_request_is_passed_on_by_reads_and_other_tasks_run_between() {
    let handler = |_peer: ClientAddr, request: Request<Body>| async move {
        let turns = Turns::begin();
        let (frames, bytes) = frames(request.into_body()).await;
        Response::new(Body::from(format!("{bytes} {frames} {}", turns.end())))
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let server = Server::builder().listen(listen, handler).threads(NonZero::new(1).unwrap()).start().unwrap();
    let mut connection = Connection::open(server.addresses()[0]).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(format!("{head}{}", in_chunks_of_a_byte())).await.unwrap();
    let response = connection.response().await.unwrap();
    let counts: Vec<usize> = response.text().split(' ').map(|count| count.parse().unwrap()).collect();
    let [bytes, frames, turns] = counts[..] else { panic!("{counts:?}") };
    assert_eq!(bytes, CHUNKS);
    assert!(frames < CHUNKS / 100, "{frames} pieces");
    assert!(turns * 2 >= frames, "{turns} turns of another task, {frames} pieces");
    server.stop(Duration::from_secs(5)).await;
}
