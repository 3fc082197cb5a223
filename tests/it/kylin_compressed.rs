//! The proxy reads compressed errors, and the client gets them unchanged.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use kylin_lb::proxy::KylinRules;

use crate::support::front::{self, Front};
use crate::support::http::RawResponse;
use crate::support::kylin::{Says, bytes, sql};
use crate::support::raw_node::{Act, RawNode, ok};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A response as Tomcat compresses it: in chunks, without a length.
fn response(status: u16, media: &str, coding: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Encoding: {coding}\r\nVary: Accept-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut whole = head.into_bytes();
    for chunk in body.chunks(700) {
        whole.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        whole.extend_from_slice(chunk);
        whole.extend_from_slice(b"\r\n");
    }
    whole.extend_from_slice(b"0\r\n\r\n");
    whole
}

fn text(says: Says) -> String {
    match says {
        Says::Json(_, text) | Says::Html(_, text) => text,
        Says::Nothing(phase) => panic!("{phase:?} has no text"),
    }
}

/// Lets the first node send this response to a client that accepts gzip. Returns the client's
/// response, whether another node got the request, and how many failures were counted.
async fn after(first: Vec<u8>) -> (RawResponse, bool, u64) {
    let first = RawNode::start([vec![Act::Serve(first)]]).await;
    let second = RawNode::start([vec![Act::Serve(ok("second"))]]).await;
    let endpoints =
        [(0, &first), (1, &second)].map(|(id, node)| front::endpoint(id, node.address(), |backend| backend));
    let front = Front::kylin(endpoints, |proxy| proxy.rules(KylinRules::default()));
    let query = bytes("POST /kylin/api/query", &[("Accept-Encoding", "gzip, deflate")], &sql("select 1"));
    let response = front.ask(query).await.unwrap();
    assert!(first.seen().texts().concat().to_ascii_lowercase().contains("accept-encoding: gzip, deflate"));
    front.idle().await;
    let failed = front.proxy.cluster().status().endpoints[0].failed;
    (response, second.seen().connections > 0, failed)
}

const JSON: &str = "application/json;charset=UTF-8";

#[tokio::test]
async fn a_compressed_rejection_is_retried() {
    for refused in [
        Says::error(400, "Too many concurrent query requests."),
        Says::error(400, "Query is not allowed in 'job' mode."),
        Says::code("KE-040023202"),
    ] {
        for coding in ["gzip", "x-gzip", "GZip"] {
            let status = refused.status().unwrap();
            let (response, went_on, failed) =
                after(response(status, JSON, coding, &gzip(&text(refused.clone())))).await;
            assert_eq!((response.status(), response.text(), went_on, failed), (200, "second", true, 0), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn an_error_for_the_client_stays_compressed() {
    let long = "x".repeat(100_000);
    for error in [
        Says::error(500, "Column 'Too many concurrent query requests.' not found"),
        Says::error(500, &long),
        Says::code("KE-040024201"),
    ] {
        let body = gzip(&text(error.clone()));
        let (response, went_on, failed) = after(response(500, JSON, "gzip", &body)).await;
        assert_eq!((response.status(), went_on, failed), (500, false, 0));
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        assert_eq!(response.body, body, "to the byte");
    }
}

#[tokio::test]
async fn an_invalid_compressed_body_is_not_a_rejection() {
    let refusal = text(Says::error(400, "Too many concurrent query requests."));
    let page = gzip("<html>Apache Tomcat</html>");
    // A body that decompresses to far more than the proxy reads.
    let bomb = gzip(&format!(r#"{{"code":"999","stacktrace":"{}","msg":"x"}}"#, " ".repeat(30_000_000)));
    let cut = &gzip(&refusal)[..40];
    for (what, status, media, coding, body, failed) in [
        ("plain text", 400, JSON, "gzip", refusal.as_bytes(), 0),
        ("cut", 400, JSON, "gzip", cut, 0),
        ("nothing", 400, JSON, "gzip", b"", 0),
        ("in a way that is not ours to read", 400, JSON, "br", refusal.as_bytes(), 0),
        ("twice", 400, JSON, "gzip, gzip", refusal.as_bytes(), 0),
        ("a bomb", 500, JSON, "gzip", &bomb, 0),
    ] {
        let (response, went_on, counted) = after(response(status, media, coding, body)).await;
        assert_eq!((response.status(), went_on, counted), (status, false, failed), "{what}");
        assert_eq!(response.body, body, "{what}");
    }
    // A page is a failure of the node, whether or not it is compressed.
    for status in [500, 502, 503] {
        let (response, went_on, counted) = after(response(status, "text/html", "gzip", &page)).await;
        assert_eq!((response.text(), went_on, counted), ("second", true, 1), "{status}");
    }
}
