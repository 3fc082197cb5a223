use std::io;

use super::super::{Fault, FaultScope, Metastore};
use super::*;
use crate::backend::SendErrorKind;

#[tokio::test]
async fn a_stuck_node_sends_nothing_until_its_client_cancels() {
    for (fault, executed) in [(Fault::Stall, 0), (Fault::Hang, 1)] {
        let node = KylinNode::new("q1");
        node.faults().inject(FaultScope::Queries, fault);
        let asking = tokio::spawn({
            let node = node.clone();
            async move { query(&node, "select 1").await }
        });
        node.wait_until(|stats| stats.in_flight == 1 && stats.queries == executed).await.unwrap();
        asking.abort();
        let stats = node.wait_until(|stats| stats.in_flight == 0).await.unwrap();
        assert_eq!((stats.cancelled, stats.queries), (1, executed));
        let version = send(&node, at("GET", "/kylin/api/admin/version"), "").await;
        assert_eq!(version.status(), StatusCode::OK, "the fault reaches queries only");
    }
}

#[tokio::test]
async fn gateway_pages_are_html_and_nothing_is_executed() {
    for status in [500, 502, 503, 504] {
        let node = KylinNode::new("q1");
        node.faults().inject(FaultScope::Everything, Fault::Html(StatusCode::from_u16(status).unwrap()));
        let response = query(&node, "select 1").await;
        assert_eq!((response.status().as_u16(), response.is_html()), (status, true));
        assert_eq!(node.stats().queries, 0);
        node.faults().clear();
        assert_eq!(query(&node, "select 1").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_response_is_lost_after_the_work_was_done() {
    let node = KylinNode::new("q1");
    node.faults().inject_times(1, FaultScope::Everything, Fault::Close);
    let request = || admin("PUT", "/kylin/api/cubes/c/build").body(Body::from("{}")).unwrap();
    let error = node.send(request()).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Broken);
    assert_eq!(node.cluster().builds_of("c"), 1);
    assert_eq!(node.stats().cancelled, 0, "it was not the client who gave up");
    assert_eq!(node.send(request()).await.unwrap().status(), StatusCode::OK, "it struck once");
}

#[tokio::test]
async fn a_response_breaks_off_in_the_middle() {
    for (fault, kind) in [
        (Fault::ResetAfter(1024), io::ErrorKind::ConnectionReset),
        (Fault::TruncateAfter(1024), io::ErrorKind::UnexpectedEof),
    ] {
        let node = KylinNode::new("q1");
        node.faults().inject(FaultScope::Queries, fault);
        let request = admin("POST", "/kylin/api/query").body(sql("select repeat_bytes(100000)").into()).unwrap();
        let mut body = node.send(request).await.unwrap().into_body();
        let mut length = 0;
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => length += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert_eq!(length, 1024);
        assert_eq!(std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap().kind(), kind);
        drop(body);
        assert_eq!((node.stats().in_flight, node.stats().cancelled), (0, 0));
    }
}

#[tokio::test]
async fn an_unreachable_node_gives_the_request_back_unseen() {
    let node = KylinNode::new("q1");
    node.faults().inject(FaultScope::Everything, Fault::Unreachable);
    let request = admin("POST", "/kylin/api/query").body(sql("select 1").into()).unwrap();
    let mut error = node.send(request).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Connect);
    assert!(error.take_request().is_some());
    assert_eq!(node.stats().requests, 0);
}

#[tokio::test]
async fn without_its_metastore_a_cluster_checks_no_password_and_lists_nothing() {
    let metastore = Metastore::new();
    let node = KylinNode::new("q1").metastore(&metastore);
    let cookie = query(&node, "select 1").await.cookie().unwrap();
    metastore.set_down(true);
    for request in [
        admin("POST", "/kylin/api/user/authentication"),
        at("GET", "/kylin/api/projects").header(header::COOKIE, &cookie),
        at("PUT", "/kylin/api/cubes/c/build").header(header::COOKIE, &cookie),
    ] {
        let response = send(&node, request, "{}").await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.json()["code"], "999");
    }
    assert_eq!(metastore.builds_of("c"), 0);
    let request = at("POST", "/kylin/api/query").header(header::COOKIE, &cookie);
    assert_eq!(send(&node, request, sql("select 1")).await.status(), StatusCode::OK, "sessions and caches live on");

    metastore.set_down(false);
    node.faults().set_metastore_down(true);
    assert_eq!(query(&node, "select 1").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let other = KylinNode::new("q2").metastore(&metastore);
    assert_eq!(query(&other, "select 1").await.status(), StatusCode::OK, "one node's fault is not the other's");
}
