//! Nodes at their limit of connections refuse some requests. No endpoint is ejected for this, and
//! other nodes take the load.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, Proxy, SendError};
use tokio::task::JoinSet;

use crate::support::kylin::{request, sql};

const REQUESTS: usize = 5_000;
const CLIENTS: usize = 100;

/// A node that works on `limit` requests at once, and fails others with `kind`.
fn limited(limit: usize, kind: SendErrorKind, refused: &Arc<AtomicUsize>) -> Scripted {
    let (working, refused) = (Arc::new(AtomicUsize::new(0)), Arc::clone(refused));
    Scripted::new(move |request: Request<Body>| {
        let (working, refused) = (Arc::clone(&working), Arc::clone(&refused));
        async move {
            if working.fetch_add(1, Ordering::SeqCst) >= limit {
                working.fetch_sub(1, Ordering::SeqCst);
                refused.fetch_add(1, Ordering::SeqCst);
                let error = SendError::new(kind, "scripted");
                return Err(if kind.is_unsent() { error.with_request(request) } else { error });
            }
            // Others run meanwhile.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            working.fetch_sub(1, Ordering::SeqCst);
            let response = Response::builder().header("content-type", "application/json");
            Ok(response.body(Body::from("{}")).unwrap())
        }
    })
}

#[tokio::test]
async fn a_burst_of_refusals_fails_no_request_while_the_nodes_together_have_room() {
    for kind in [SendErrorKind::Connect, SendErrorKind::Refused, SendErrorKind::Broken] {
        let refused = Arc::new(AtomicUsize::new(0));
        // The first node has less capacity than its share of the load.
        let nodes = [20, 60, 60].map(|limit| limited(limit, kind, &refused));
        let endpoints = (0..).zip(nodes).map(|(id, node)| Endpoint::new(format!("n{id}"), node).unwrap());
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let proxy = Proxy::builder(cluster.clone()).build().unwrap();
        let (sent, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (proxy, sent, failed) = (proxy.clone(), Arc::clone(&sent), Arc::clone(&failed));
            clients.spawn(async move {
                let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, client as u8));
                while sent.fetch_add(1, Ordering::SeqCst) < REQUESTS {
                    let query =
                        request("POST /kylin/api/query", &[("content-type", "application/json")], &sql("select 1"));
                    let status = proxy.forward(client, query).await.status();
                    failed.fetch_add(usize::from(status != 200), Ordering::SeqCst);
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
            let endpoints = cluster.status().endpoints;
            assert!(endpoints.iter().any(|endpoint| !endpoint.ejected), "{kind:?}: {endpoints:?}");
        }
        let (refused, failed) = (refused.load(Ordering::SeqCst), failed.load(Ordering::SeqCst));
        println!("{kind:?}: {refused} refused, {failed} failed");
        assert!(refused > 0, "{kind:?}");
        assert_eq!(failed, 0, "{kind:?}: {refused} refused");
        assert!(refused < REQUESTS / 5, "{kind:?}: the share was not lowered: {refused} refused");
        assert_eq!(cluster.status().in_flight(), 0);
    }
}
