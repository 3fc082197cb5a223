//! Clients that disconnect, and how long a request counts as in flight.

use crate::support::front::{Front, demo, eventually};
use crate::support::raw_node::{Act, RawNode};

const LOTS: &str = "GET /demo/bytes?n=1000000000 HTTP/1.1\r\nHost: kylin\r\n\r\n";

#[tokio::test]
async fn a_client_that_disconnects_within_a_response_cancels_it_at_the_node() {
    let (node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = front.connect().await;
    client.send(LOTS).await.unwrap();
    let head = client.final_head().await.unwrap();
    assert_eq!(head.status, 200);
    assert!(client.body(&head).unwrap().next().await.unwrap().is_some());
    assert_eq!((front.in_flight(), node.stats().in_flight), (1, 1));
    drop(client);
    node.wait_until(|stats| stats.cancelled == 1 && stats.in_flight == 0).await.unwrap();
    front.idle().await;
    node.wait_until(|stats| stats.open_connections == 0).await.unwrap();
    let status = front.proxy.cluster().status();
    assert_eq!((status.endpoints[0].served, status.endpoints[0].failed), (1, 0), "the node is not to blame");
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_head_cancels_the_request_at_the_node() {
    let node = RawNode::start([vec![Act::Read, Act::UntilClosed]]).await;
    let front = Front::over(&[node.address()]);
    for request in
        ["GET / HTTP/1.1\r\nHost: kylin\r\n\r\n", "POST / HTTP/1.1\r\nHost: kylin\r\nContent-Length: 2\r\n\r\nhi"]
    {
        let before = node.seen();
        let mut client = front.connect().await;
        client.send(request).await.unwrap();
        node.wait_until(|seen| seen.requests.len() == before.requests.len() + 1).await;
        assert_eq!(front.in_flight(), 1);
        drop(client);
        node.wait_until(|seen| seen.closed == before.closed + 1).await;
        front.idle().await;
    }
    assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 0, "the node is not to blame");
}

#[tokio::test]
async fn a_client_that_disconnects_within_an_upload_cancels_it_at_the_node() {
    let (node, served) = demo("q1").await;
    let front = Front::over(&[served.addr()]);
    let mut client = front.connect().await;
    client.send("POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: 50000000\r\n\r\n").await.unwrap();
    client.send(vec![b'x'; 3_000_000]).await.unwrap();
    node.wait_until(|stats| stats.in_flight == 1).await.unwrap();
    drop(client);
    node.wait_until(|stats| stats.in_flight == 0 && stats.open_connections == 0).await.unwrap();
    front.idle().await;
    assert_eq!(front.proxy.cluster().status().endpoints[0].failed, 0, "the node is not to blame");
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_ends_not_its_head() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab".to_vec();
    let script = vec![Act::Read, Act::Write(head), Act::WaitForGo, Act::Write(b"cd".to_vec()), Act::UntilClosed];
    let node = RawNode::start([script]).await;
    let front = Front::over(&[node.address()]);
    let mut client = front.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    let head = client.final_head().await.unwrap();
    let mut body = client.body(&head).unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "ab");
    assert_eq!(front.in_flight(), 1, "the head and a part of the body are here");
    node.go();
    assert_eq!(body.next().await.unwrap().unwrap(), "cd");
    assert!(body.next().await.unwrap().is_none());
    front.idle().await;
    assert_eq!(front.proxy.cluster().status().endpoints[0].served, 1);
}

#[tokio::test]
async fn a_thousand_aborted_requests_leave_nothing_behind() {
    let (node, served) = demo("q1").await;
    let backend = kylin_lb::HttpBackend::new(&served.addr().to_string()).unwrap();
    let endpoint = kylin_lb::Endpoint::new("q1", backend.clone()).unwrap();
    let front = Front::of([endpoint], |proxy| proxy);
    let mut aborts = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let address = front.address();
        while aborts.len() >= 50 {
            aborts.join_next().await.unwrap().unwrap();
        }
        aborts.spawn(async move {
            let mut client = crate::support::http::Connection::open(address).await.unwrap();
            match number % 4 {
                0 => client.send(LOTS).await.unwrap(),
                1 => client
                    .send("POST /demo/digest HTTP/1.1\r\nHost: kylin\r\nContent-Length: 9\r\n\r\nhalf")
                    .await
                    .unwrap(),
                2 => client.send("GET /demo/bytes?n=10 HTTP/1.1\r\nHo").await.unwrap(),
                _ => {
                    client.send(LOTS).await.unwrap();
                    let head = client.final_head().await.unwrap();
                    client.body(&head).unwrap().next().await.unwrap();
                }
            }
        });
    }
    while let Some(aborted) = aborts.join_next().await {
        aborted.unwrap();
    }
    front.idle().await;
    node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
    eventually(|| backend.connections() <= 2, || format!("{} connections", backend.connections())).await;
    assert_eq!(front.get("/demo/bytes?n=10").await.unwrap().status(), 200);
}
