//! Sessions in one or several Memcached servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kylin_lb::session::{Precondition, SaveOutcome, StoreError};
use kylin_lb::testing::store::{Pair, conformance};

use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::sessions::{
    TTL, bind, bound, fails_as_unavailable, front_end, full_text, keeps_responses_apart, key, recovers,
    settle_concurrent_bindings,
};

#[tokio::test(flavor = "multi_thread")]
async fn conforms_to_the_contract() {
    if !memcached_installed() {
        return;
    }
    let (one, other) = (Memcached::start(&[]).await, Memcached::start(&[]).await);
    // Each front end lists the servers in another order.
    let urls = [(&one, &other), (&other, &one)].map(|(a, b)| format!("memcached://{},{}", a.address(), b.address()));
    conformance(|| async { Pair { one: front_end(&urls[0]), other: front_end(&urls[1]) } }).await;
    settle_concurrent_bindings(front_end(&urls[0]), front_end(&urls[1]), 10_000).await;
    keeps_responses_apart(front_end(&urls[0])).await;
    for server in [&one, &other] {
        let stored: u64 = server.stat("total_items").parse().unwrap();
        assert!(stored > 3000, "sessions are spread over the servers: {stored} here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_loses_only_its_own_sessions() {
    if !memcached_installed() {
        return;
    }
    let (mut one, other) = (Memcached::start(&[]).await, Memcached::start(&[]).await);
    let store = front_end(&format!("memcached://{},{}", one.address(), other.address()));
    let keys: Vec<_> = (0..200).map(key).collect();
    for key in &keys {
        bind(&store, key, "q1").await.unwrap();
    }
    let here: u64 = one.stat("curr_items").parse().unwrap();
    one.kill();
    let (mut served, mut down) = (0, Vec::new());
    for key in &keys {
        match store.load(key).await {
            Ok(there) => served += u32::from(there.is_some()),
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                down.push(key);
            }
        }
    }
    assert_eq!((served, down.len() as u64), (200 - here as u32, here));
    one.restart().await;
    recovers(&store, down[0]).await;
    assert_eq!(store.load(down[0]).await.unwrap(), None, "a cache restarts empty");
}

#[tokio::test]
async fn building_a_store_needs_no_server() {
    // No server listens on port 1.
    fails_as_unavailable(&front_end("memcached://127.0.0.1:1")).await;
}

#[tokio::test]
async fn a_long_time_to_live_is_not_taken_for_a_date() {
    if !memcached_installed() {
        return;
    }
    let server = Memcached::start(&[]).await;
    let store = front_end(&format!("memcached://{}", server.address()));
    for days in [29, 31, 365, 40_000] {
        let ttl = Duration::from_secs(days * 86_400);
        let key = key(u128::from(days));
        store.save(&key, &bound("q1"), Precondition::Absent, ttl).await.unwrap();
        assert!(store.load(&key).await.unwrap().is_some(), "{days} days");
        store.touch(&key, ttl).await.unwrap();
        assert!(store.load(&key).await.unwrap().is_some(), "{days} days more");
    }
}

#[tokio::test]
async fn a_value_that_is_no_record_counts_as_absent_and_is_replaced() {
    if !memcached_installed() {
        return;
    }
    let server = Memcached::start(&[]).await;
    let store = front_end(&format!("memcached://{}", server.address()));
    for (number, length) in (0..).zip([0, 1, 8, 100, 17_000, 900_000]) {
        let key = key(number);
        let value = "x".repeat(length);
        assert_eq!(send(&server, &format!("set kylin-lb:{} 0 0 {length}\r\n{value}\r\n", key.to_hex())), "STORED");
        assert_eq!(store.load(&key).await.unwrap(), None, "{length} bytes");
        let conflict = store.save(&key, &bound("q1"), Precondition::Version(7), TTL).await.unwrap();
        assert_eq!(conflict, SaveOutcome::Conflict(None), "{length} bytes");
        assert!(matches!(bind(&store, &key, "q1").await, Ok(SaveOutcome::Stored(_))), "{length} bytes");
        assert_eq!(store.load(&key).await.unwrap().map(|there| there.record), Some(bound("q1")), "{length} bytes");
    }
}

#[tokio::test]
async fn logs_in_at_a_server_with_an_authentication_file() {
    if !memcached_installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    std::fs::write(&file, "front:hunter2\n").unwrap();
    let server = Memcached::start(&["-Y", file.to_str().unwrap()]).await;
    let store = front_end(&format!("memcached://front:hunter2@{}", server.address()));
    assert!(matches!(bind(&store, &key(1), "q1").await, Ok(SaveOutcome::Stored(_))));
    for login in ["front:wrong-word@", ""] {
        let store = front_end(&format!("memcached://{login}{}", server.address()));
        let error = bind(&store, &key(2), "endpoint-9").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        let text = full_text(&error);
        for secret in ["front", "wrong-word", "endpoint-9", "kylin-lb:"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

/// Sends a command, and returns the first line of the response.
fn send(server: &Memcached, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(command.as_bytes()).unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}
