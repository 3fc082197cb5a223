use super::super::demo_bytes_at;
use super::*;

#[tokio::test]
async fn bytes_are_those_of_the_function() {
    let node = KylinNode::new("q1");
    let response = send(&node, at("GET", "/demo/bytes?n=3000000"), "").await;
    assert_eq!(response.body.len(), 3_000_000);
    let mut at = 0;
    while at < response.body.len() {
        let expected = demo_bytes_at(at as u64);
        let length = expected.len().min(response.body.len() - at);
        assert_eq!(response.body[at..at + length], expected[..length]);
        at += length;
    }
}

#[tokio::test]
async fn the_bytes_never_change() {
    // Computed independently of this crate, with the same finalizer of splitmix64.
    assert_eq!(demo_bytes_at(0)[..8], [0xaa, 0x42, 0x50, 0xae, 0x03, 0x99, 0xa8, 0x5b]);
}

#[tokio::test]
async fn a_body_is_digested_and_echoed() {
    let node = KylinNode::new("q1");
    let digest = send(&node, at("POST", "/demo/digest"), "123456789").await.json();
    assert_eq!(digest, json!({"bytes": 9, "crc32": "cbf43926"})); // the check value of CRC-32/ISO-HDLC
    assert_eq!(send(&node, at("POST", "/demo/digest"), "").await.json()["bytes"], 0);
    assert_eq!(send(&node, at("POST", "/demo/echo"), "abc").await.body, "abc");
}

#[tokio::test]
async fn the_head_of_a_request_is_told_back() {
    let node = KylinNode::new("q1");
    let told = send(&node, at("PATCH", "/demo/head?a=b").header("x-a", "1").header("x-a", "2"), "").await.json();
    assert_eq!((&told["method"], &told["target"]), (&json!("PATCH"), &json!("/demo/head?a=b")));
    let headers = told["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-a", "1"])) && headers.contains(&json!(["x-a", "2"])));
}
