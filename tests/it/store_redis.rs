//! Sessions in a Redis of one server.

use std::time::Duration;

use kylin_lb::session::{Precondition, SaveOutcome, StoreError};
use kylin_lb::testing::store::{Pair, conformance};

use crate::support::redis::{Redis, redis_installed, text};
use crate::support::sessions::{
    TTL, bind, bound, fails_as_unavailable, front_end, full_text, keeps_responses_apart, key, recovers,
    settle_concurrent_bindings,
};
use crate::support::tls::{Certificate, openssl_installed};

#[tokio::test(flavor = "multi_thread")]
async fn conforms_to_the_contract() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let url = format!("redis://{}/5?prefix=other:", redis.address());
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_front_ends_settle_10_000_concurrent_bindings() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let url = format!("redis://{}", redis.address());
    settle_concurrent_bindings(front_end(&url), front_end(&url), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_recovers_after_a_crash_of_the_server() {
    if !redis_installed() {
        return;
    }
    let mut redis = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", redis.address()));
    let key = key(1);
    bind(&store, &key, "q1").await.unwrap();
    for _ in 0..2 {
        redis.kill();
        fails_as_unavailable(&store).await;
        redis.restart().await;
        recovers(&store, &key).await;
    }
}

#[tokio::test]
async fn building_a_store_needs_no_server() {
    // No server listens on port 1.
    fails_as_unavailable(&front_end("redis://127.0.0.1:1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_callers_leave_no_response_to_others() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    keeps_responses_apart(front_end(&format!("redis://{}", redis.address()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_responding_is_abandoned() {
    if !redis_installed() {
        return;
    }
    let mut stopped = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", stopped.address()));
    bind(&store, &key(1), "q1").await.unwrap();
    stopped.process().signal("STOP");
    // The caller is dropped and no other request follows. The health check still detects the dead
    // connection.
    let gone = tokio::time::timeout(Duration::from_millis(50), store.load(&key(1))).await;
    assert!(gone.is_err(), "{gone:?}");
    let unavailable = tokio::time::timeout(Duration::from_secs(30), async {
        while !matches!(store.load(&key(1)).await, Err(StoreError::Unavailable(_))) {}
    });
    unavailable.await.expect("operations fail as unavailable");
    stopped.process().signal("CONT");
    recovers(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")));
}

#[tokio::test]
async fn a_value_that_is_no_record_counts_as_absent_and_is_replaced() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", redis.address()));
    let long = "x".repeat(100_000);
    let foreign: [&[&str]; 7] = [
        &["set", "", ""],
        &["set", "", "x"],
        &["set", "", "a value of another program"],
        &["set", "", &long],
        &["lpush", "", "a", "list"],
        &["hset", "", "a", "hash"],
        &["incr", ""],
    ];
    for (number, command) in (0..).zip(foreign) {
        let key = key(number);
        let name = format!("kylin-lb:{}", key.to_hex());
        let command: Vec<&str> =
            command.iter().enumerate().map(|(n, &word)| if n == 1 { &*name } else { word }).collect();
        redis.cli(&command);
        assert_eq!(store.load(&key).await.unwrap(), None, "{command:.40?}");
        let conflict = store.save(&key, &bound("q1"), Precondition::Version(7), TTL).await.unwrap();
        assert_eq!(conflict, SaveOutcome::Conflict(None), "{command:.40?}");
        store.touch(&key, TTL).await.unwrap();
        let saved = bind(&store, &key, "q1").await.unwrap();
        assert!(matches!(saved, SaveOutcome::Stored(_)), "{saved:?} over {command:.40?}");
        assert_eq!(store.load(&key).await.unwrap().map(|there| there.record), Some(bound("q1")), "{command:.40?}");
        assert_ne!(redis.cli(&["pttl", &name]), "-1", "the record expires, unlike the value before it");
    }
}

#[tokio::test]
async fn a_server_that_lost_the_script_receives_it_again() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", redis.address()));
    for number in 0..5 {
        redis.cli(&["script", "flush"]);
        assert!(matches!(bind(&store, &key(number), "q1").await, Ok(SaveOutcome::Stored(_))));
    }
}

#[tokio::test]
async fn logs_in_with_few_rights_to_another_database() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let rights = ["~kylin-lb:*", "+getrange", "+evalsha", "+eval", "+set", "+pexpire", "+unlink", "+select"];
    let user = [&["acl", "setuser", "front", "on", ">p@ss/word"], &rights[..]].concat();
    assert_eq!(redis.cli(&user), "OK");
    let store = front_end(&format!("redis://front:p%40ss%2Fword@{}/4", redis.address()));
    let key = key(1);
    bind(&store, &key, "q1").await.unwrap();
    store.touch(&key, TTL).await.unwrap();
    assert_eq!(redis.cli(&["-n", "4", "exists", &format!("kylin-lb:{}", key.to_hex())]), "1");
    store.remove(&key).await.unwrap();
    assert_eq!(redis.cli(&["-n", "4", "dbsize"]), "0");
}

#[tokio::test]
async fn errors_give_the_reason_and_nothing_secret() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&["--requirepass", "right"]).await;
    let address = redis.address();
    let key = key(0x5eed_5eed_5eed_5eed_5eed_5eed_5eed_5eed);
    let cases = [
        (format!("redis://:hunter2@{address}"), "user and password were not accepted"),
        (format!("redis://me:hunter2@{address}"), "user and password were not accepted"),
        (format!("redis://{address}"), "NOAUTH"),
        (format!("redis://:right@{address}/99"), "ERR"),
    ];
    for (url, reason) in cases {
        let store = front_end(&url);
        let error = bind(&store, &key, "endpoint-9").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
        let text = full_text(&error);
        assert!(text.contains(reason), "{url}: {text}");
        for secret in ["hunter2", "right", "5eed5eed", "endpoint-9"] {
            assert!(!text.contains(secret), "{url}: {text}");
        }
    }
    // A user without rights.
    redis.cli(&["-a", "right", "acl", "setuser", "guest", "on", ">hunter2"]);
    let store = front_end(&format!("redis://guest:hunter2@{address}"));
    let error = bind(&store, &key, "endpoint-9").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = full_text(&error);
    assert!(text.contains("NOPERM") && !text.contains("guest") && !text.contains("5eed5eed"), "{text}");
}

#[tokio::test]
async fn connects_over_tls_and_trusts_only_the_given_certificates() {
    if !redis_installed() || !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let (file, key_file) = (certificate.file(), certificate.key());
    let tls = ["--tls-cert-file", text(&file), "--tls-key-file", text(&key_file), "--tls-ca-cert-file", text(&file)];
    let redis = Redis::start(&[&tls[..], &["--tls-auth-clients", "no"]].concat()).await;
    let store = front_end(&format!("rediss://{}?ca={}", redis.address(), text(&file)));
    let saved = bind(&store, &key(1), "q1").await;
    assert!(matches!(saved, Ok(SaveOutcome::Stored(_))), "{saved:?}");
    let other = Certificate::make();
    let distrustful = front_end(&format!("rediss://{}?ca={}", redis.address(), text(&other.file())));
    let error = bind(&distrustful, &key(2), "q1").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = full_text(&error);
    assert!(text.contains("TLS: invalid peer certificate"), "{text}");
}
