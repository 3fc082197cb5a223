//! Sessions in a Redis of one server.

use std::time::Duration;

use kylin_lb::session::{Precondition, SaveOutcome, StoreError};
use kylin_lb::testing::store::{Pair, conformance};

use crate::support::redis::{Certificate, Redis, openssl_installed, redis_installed, text};
use crate::support::sessions::{
    TTL, bind, bound, comes_back, front_end, hex, keeps_answers_apart, key, says_that_it_is_down, settle_first_sights,
    whole_text,
};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_promise_of_a_store() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let url = format!("redis://{}/5?prefix=other:", redis.address());
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_front_ends_settle_10_000_first_sights() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let url = format!("redis://{}", redis.address());
    settle_first_sights(front_end(&url), front_end(&url), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashed_is_found_again_by_the_same_handle() {
    if !redis_installed() {
        return;
    }
    let mut redis = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", redis.address()));
    let key = key(1);
    bind(&store, &key, "q1").await.unwrap();
    for _ in 0..2 {
        redis.kill();
        says_that_it_is_down(&store).await;
        redis.restart().await;
        comes_back(&store, &key).await;
    }
}

#[tokio::test]
async fn is_made_without_a_server() {
    // Port 1 has none.
    says_that_it_is_down(&front_end("redis://127.0.0.1:1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_leave_no_answer_behind() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    keeps_answers_apart(front_end(&format!("redis://{}", redis.address()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_given_up() {
    if !redis_installed() {
        return;
    }
    let mut silent = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", silent.address()));
    bind(&store, &key(1), "q1").await.unwrap();
    silent.process().signal("STOP");
    // The caller goes; nobody else asks. Still the connection is found to be dead, and a new one waits for the server.
    let gone = tokio::time::timeout(Duration::from_millis(50), store.load(&key(1))).await;
    assert!(gone.is_err(), "{gone:?}");
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        while !matches!(store.load(&key(1)).await, Err(StoreError::Unavailable(_))) {}
    });
    told.await.expect("callers are told that the store is unavailable");
    silent.process().signal("CONT");
    comes_back(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")));
}

#[tokio::test]
async fn what_is_no_record_counts_as_absent_and_is_replaced() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let store = front_end(&format!("redis://{}", redis.address()));
    let long = "x".repeat(100_000);
    let foreign: [&[&str]; 7] = [
        &["set", "", ""],
        &["set", "", "x"],
        &["set", "", "a value of somebody else's"],
        &["set", "", &long],
        &["lpush", "", "a", "list"],
        &["hset", "", "a", "hash"],
        &["incr", ""],
    ];
    for (number, command) in (0..).zip(foreign) {
        let key = key(number);
        let name = format!("kylin-lb:{}", hex(&key));
        let command: Vec<&str> =
            command.iter().enumerate().map(|(n, &word)| if n == 1 { &*name } else { word }).collect();
        redis.cli(&command);
        assert_eq!(store.load(&key).await.unwrap(), None, "{command:.40?}");
        let lost = store.save(&key, &bound("q1"), Precondition::Version(7), TTL).await.unwrap();
        assert_eq!(lost, SaveOutcome::Conflict(None), "{command:.40?}");
        store.touch(&key, TTL).await.unwrap();
        let saved = bind(&store, &key, "q1").await.unwrap();
        assert!(matches!(saved, SaveOutcome::Stored(_)), "{saved:?} over {command:.40?}");
        assert_eq!(store.load(&key).await.unwrap().map(|there| there.record), Some(bound("q1")), "{command:.40?}");
        assert_ne!(redis.cli(&["pttl", &name]), "-1", "the record expires, whatever was there before");
    }
}

#[tokio::test]
async fn a_server_that_forgets_the_script_is_given_it_again() {
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
async fn logs_in_with_few_rights_into_a_database_of_its_own() {
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
    assert_eq!(redis.cli(&["-n", "4", "exists", &format!("kylin-lb:{}", hex(&key))]), "1");
    store.remove(&key).await.unwrap();
    assert_eq!(redis.cli(&["-n", "4", "dbsize"]), "0");
}

#[tokio::test]
async fn refusals_say_why_and_nothing_secret() {
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
    for (url, why) in cases {
        let store = front_end(&url);
        let error = bind(&store, &key, "endpoint-9").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
        let text = whole_text(&error);
        assert!(text.contains(why), "{url}: {text}");
        for secret in ["hunter2", "right", "5eed5eed", "endpoint-9"] {
            assert!(!text.contains(secret), "{url}: {text}");
        }
    }
    // A user who may connect but do nothing.
    redis.cli(&["-a", "right", "acl", "setuser", "guest", "on", ">hunter2"]);
    let store = front_end(&format!("redis://guest:hunter2@{address}"));
    let error = bind(&store, &key, "endpoint-9").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = whole_text(&error);
    assert!(text.contains("NOPERM") && !text.contains("guest") && !text.contains("5eed5eed"), "{text}");
}

#[tokio::test]
async fn speaks_tls_and_believes_only_who_it_is_told_to() {
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
    let strange = front_end(&format!("rediss://{}?ca={}", redis.address(), text(&other.file())));
    let error = bind(&strange, &key(2), "q1").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = whole_text(&error);
    assert!(text.contains("TLS: invalid peer certificate"), "{text}");
}
