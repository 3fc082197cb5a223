//! Sessions in a table of MariaDB.

use std::time::Duration;

use kylin_lb::session::{MysqlStore, Precondition, SaveOutcome, SessionStore as _, StoreError};
use kylin_lb::testing::store::{Pair, conformance};

use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::redis::{eventually, text};
use crate::support::sessions::{
    TTL, bind, bound, fails_as_unavailable, front_end, full_text, keeps_responses_apart, key, recovers,
    settle_concurrent_bindings,
};
use crate::support::tls::{Certificate, openssl_installed};

#[tokio::test(flavor = "multi_thread")]
async fn conforms_to_the_contract() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let url = server.url();
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
    keeps_responses_apart(front_end(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_front_ends_settle_10_000_concurrent_bindings() {
    if !mariadb_installed() {
        return;
    }
    // Commits need not wait for the disk in this test.
    let server = MariaDb::start(&["--innodb-flush-log-at-trx-commit=0"]).await;
    settle_concurrent_bindings(front_end(&server.url()), front_end(&server.url()), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_recovers_after_a_crash_of_the_server() {
    if !mariadb_installed() {
        return;
    }
    let mut server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    bind(&store, &key(1), "q1").await.unwrap();
    server.kill();
    fails_as_unavailable(&store).await;
    server.restart().await;
    recovers(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")), "on disk");
}

#[tokio::test]
async fn building_a_store_needs_no_server() {
    // No server listens on port 1.
    fails_as_unavailable(&front_end("mysql://u:p@127.0.0.1:1/kylin")).await;
}

#[tokio::test]
async fn a_value_that_is_no_record_counts_as_absent_and_is_replaced() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    store.load(&key(0)).await.unwrap();
    for (number, foreign) in (0..).zip(["''", "'x'", "'a value of another program'", "REPEAT('x', 16384)"]) {
        let key = key(number);
        let id = key.to_hex();
        server.sql(&format!(
            "INSERT INTO kylin_lb_sessions VALUES (X'{id}', 7, {foreign}, (UNIX_TIMESTAMP() + 1000) * 1000)"
        ));
        assert_eq!(store.load(&key).await.unwrap(), None, "{foreign}");
        let conflict = store.save(&key, &bound("q1"), Precondition::Version(8), TTL).await.unwrap();
        assert_eq!(conflict, SaveOutcome::Conflict(None), "{foreign}");
        assert!(matches!(bind(&store, &key, "q1").await, Ok(SaveOutcome::Stored(_))), "{foreign}");
        assert_eq!(store.load(&key).await.unwrap().map(|there| there.record), Some(bound("q1")), "{foreign}");
    }
}

#[tokio::test]
async fn an_unsuitable_table_is_refused_with_its_name() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    server.sql("CREATE TABLE orders (id INT PRIMARY KEY, price INT)");
    server.sql("CREATE TABLE short (id BINARY(16) PRIMARY KEY, version BIGINT UNSIGNED, record VARBINARY(255), expires BIGINT)");
    for (table, reason) in [
        ("orders", "table orders: column id has another type or key, expected BINARY(16) as the primary key"),
        ("short", "table short: column record has another type or key, expected VARBINARY(16384) or a BLOB"),
    ] {
        let store = front_end(&format!("{}?table={table}", server.url()));
        let error = bind(&store, &key(1), "q1").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        let text = full_text(&error);
        assert!(text.contains(reason), "{text}");
    }
    // After an alteration, the same handle accepts the table.
    let store = front_end(&format!("{}?table=short", server.url()));
    bind(&store, &key(1), "q1").await.unwrap_err();
    server.sql("ALTER TABLE short MODIFY record BLOB NOT NULL");
    recovers(&store, &key(1)).await;
}

#[tokio::test]
async fn a_dropped_table_is_created_again() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    bind(&store, &key(1), "q1").await.unwrap();
    server.sql("DROP TABLE kylin_lb_sessions");
    recovers(&store, &key(1)).await;
}

#[tokio::test]
async fn expired_records_are_removed_in_the_background() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = MysqlStore::builder(&server.url()).unwrap().sweep_interval(Duration::from_millis(100)).build().unwrap();
    store.save(&key(0), &bound("q1"), Precondition::Absent, TTL).await.unwrap();
    // More rows than one statement removes.
    server.sql("INSERT INTO kylin_lb_sessions SELECT UNHEX(MD5(seq)), seq, 'x', 1000 FROM seq_1_to_1700");
    let rows = || server.sql("SELECT COUNT(*) FROM kylin_lb_sessions");
    eventually("only the unexpired record is left", || rows() == "1").await;

    // The task ends with the store, so records that expire afterwards stay.
    drop(store);
    let idle = MysqlStore::builder(&server.url()).unwrap().build().unwrap();
    server.sql("INSERT INTO kylin_lb_sessions SELECT UNHEX(MD5(seq)), seq, 'x', 1000 FROM seq_1_to_1700");
    assert_eq!(idle.sweep().await.unwrap(), 1700);
    assert_eq!(rows(), "1");
}

#[tokio::test]
async fn errors_give_the_reason_and_nothing_secret() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let port = server.port();
    let key = key(0x5eed_5eed_5eed_5eed_5eed_5eed_5eed_5eed);
    let cases = [
        (format!("mysql://front:wrong-word@127.0.0.1:{port}/kylin"), "error 1045: the login was not accepted"),
        (format!("mysql://stranger:wrong-word@127.0.0.1:{port}/kylin"), "error 1045: the login was not accepted"),
        (format!("mysql://front:hunter2@127.0.0.1:{port}/elsewhere"), "error 1044: the login was not accepted"),
        (format!("mysqls://front:hunter2@127.0.0.1:{port}/kylin"), "the server has no TLS"),
    ];
    for (url, reason) in cases {
        let error = bind(&front_end(&url), &key, "endpoint-9").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
        let text = full_text(&error);
        assert!(text.contains(reason), "{url}: {text}");
        for secret in ["hunter2", "wrong-word", "front", "stranger", "elsewhere", "5eed5eed", "endpoint-9"] {
            assert!(!text.contains(secret), "{url}: {text}");
        }
    }
}

#[tokio::test]
async fn connects_over_tls_and_trusts_only_the_given_certificates() {
    if !mariadb_installed() || !openssl_installed() {
        return;
    }
    let certificate = Certificate::make();
    let (file, key_file) = (certificate.file(), certificate.key());
    let tls = [format!("--ssl-cert={}", text(&file)), format!("--ssl-key={}", text(&key_file))];
    let server = MariaDb::start(&[&tls[0], &tls[1], "--require-secure-transport=ON"]).await;
    let url = server.url().replace("mysql://", "mysqls://");
    let saved = bind(&front_end(&format!("{url}?ca={}", text(&file))), &key(1), "q1").await;
    assert!(matches!(saved, Ok(SaveOutcome::Stored(_))), "{saved:?}");
    let other = Certificate::make();
    let distrustful = front_end(&format!("{url}?ca={}", text(&other.file())));
    let text = full_text(&bind(&distrustful, &key(2), "q1").await.unwrap_err());
    assert!(text.contains("TLS: invalid peer certificate"), "{text}");
}
