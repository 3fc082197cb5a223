//! Sessions in a table of MariaDB.

use std::time::Duration;

use kylin_lb::session::{MysqlStore, Precondition, SaveOutcome, SessionStore as _, StoreError};
use kylin_lb::testing::store::{Pair, conformance};

use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::redis::{Certificate, eventually, openssl_installed, text};
use crate::support::sessions::{
    TTL, bind, bound, comes_back, front_end, hex, keeps_answers_apart, key, says_that_it_is_down, settle_first_sights,
    whole_text,
};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_every_promise_of_a_store() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let url = server.url();
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
    keeps_answers_apart(front_end(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_front_ends_settle_10_000_first_sights() {
    if !mariadb_installed() {
        return;
    }
    // Without waiting for the disk at each commit; what is asked here does not depend on it.
    let server = MariaDb::start(&["--innodb-flush-log-at-trx-commit=0"]).await;
    settle_first_sights(front_end(&server.url()), front_end(&server.url()), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashed_is_found_again_by_the_same_handle() {
    if !mariadb_installed() {
        return;
    }
    let mut server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    bind(&store, &key(1), "q1").await.unwrap();
    server.kill();
    says_that_it_is_down(&store).await;
    server.restart().await;
    comes_back(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")), "on disk");
}

#[tokio::test]
async fn is_made_without_a_server() {
    // Port 1 has none.
    says_that_it_is_down(&front_end("mysql://u:p@127.0.0.1:1/kylin")).await;
}

#[tokio::test]
async fn what_is_no_record_counts_as_absent_and_is_replaced() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    store.load(&key(0)).await.unwrap();
    for (number, foreign) in (0..).zip(["''", "'x'", "'a value of somebody else''s'", "REPEAT('x', 16384)"]) {
        let key = key(number);
        let id = hex(&key);
        server.sql(&format!(
            "INSERT INTO kylin_lb_sessions VALUES (X'{id}', 7, {foreign}, (UNIX_TIMESTAMP() + 1000) * 1000)"
        ));
        assert_eq!(store.load(&key).await.unwrap(), None, "{foreign}");
        let lost = store.save(&key, &bound("q1"), Precondition::Version(8), TTL).await.unwrap();
        assert_eq!(lost, SaveOutcome::Conflict(None), "{foreign}");
        assert!(matches!(bind(&store, &key, "q1").await, Ok(SaveOutcome::Stored(_))), "{foreign}");
        assert_eq!(store.load(&key).await.unwrap().map(|there| there.record), Some(bound("q1")), "{foreign}");
    }
}

#[tokio::test]
async fn a_table_that_cannot_hold_sessions_is_refused_by_name() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    server.sql("CREATE TABLE orders (id INT PRIMARY KEY, price INT)");
    server.sql("CREATE TABLE short (id BINARY(16) PRIMARY KEY, version BIGINT UNSIGNED, record VARBINARY(255), expires BIGINT)");
    for (table, why) in [
        ("orders", "table orders: column id has another type or key, expected BINARY(16) as the primary key"),
        ("short", "table short: column record has another type or key, expected VARBINARY(16384) or a BLOB"),
    ] {
        let store = front_end(&format!("{}?table={table}", server.url()));
        let error = bind(&store, &key(1), "q1").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        let text = whole_text(&error);
        assert!(text.contains(why), "{text}");
    }
    // Mended, it is taken by the same handle.
    let store = front_end(&format!("{}?table=short", server.url()));
    bind(&store, &key(1), "q1").await.unwrap_err();
    server.sql("ALTER TABLE short MODIFY record BLOB NOT NULL");
    comes_back(&store, &key(1)).await;
}

#[tokio::test]
async fn a_table_that_is_dropped_is_made_again() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = front_end(&server.url());
    bind(&store, &key(1), "q1").await.unwrap();
    server.sql("DROP TABLE kylin_lb_sessions");
    comes_back(&store, &key(1)).await;
}

#[tokio::test]
async fn what_has_expired_is_swept_away_by_itself() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let store = MysqlStore::builder(&server.url()).unwrap().sweep_every(Duration::from_millis(100)).build().unwrap();
    store.save(&key(0), &bound("q1"), Precondition::Absent, TTL).await.unwrap();
    // More than one statement removes.
    server.sql("INSERT INTO kylin_lb_sessions SELECT UNHEX(MD5(seq)), seq, 'x', 1000 FROM seq_1_to_1700");
    let rows = || server.sql("SELECT COUNT(*) FROM kylin_lb_sessions");
    eventually("only what lives is left", || rows() == "1").await;

    // The task ends with the store: what expires afterwards stays.
    drop(store);
    let by_hand = MysqlStore::builder(&server.url()).unwrap().build().unwrap();
    server.sql("INSERT INTO kylin_lb_sessions SELECT UNHEX(MD5(seq)), seq, 'x', 1000 FROM seq_1_to_1700");
    assert_eq!(by_hand.sweep().await.unwrap(), 1700);
    assert_eq!(rows(), "1");
}

#[tokio::test]
async fn refusals_say_why_and_nothing_secret() {
    if !mariadb_installed() {
        return;
    }
    let server = MariaDb::start(&[]).await;
    let port = server.port();
    let key = key(0x5eed_5eed_5eed_5eed_5eed_5eed_5eed_5eed);
    let cases = [
        (format!("mysql://front:wrong-word@127.0.0.1:{port}/kylin"), "error 1045: the login was not accepted"),
        (format!("mysql://nobody:wrong-word@127.0.0.1:{port}/kylin"), "error 1045: the login was not accepted"),
        (format!("mysql://front:hunter2@127.0.0.1:{port}/elsewhere"), "error 1044: the login was not accepted"),
        (format!("mysqls://front:hunter2@127.0.0.1:{port}/kylin"), "the server has no TLS"),
    ];
    for (url, why) in cases {
        let error = bind(&front_end(&url), &key, "endpoint-9").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{url}: {error:?}");
        let text = whole_text(&error);
        assert!(text.contains(why), "{url}: {text}");
        for secret in ["hunter2", "wrong-word", "front", "nobody", "elsewhere", "5eed5eed", "endpoint-9"] {
            assert!(!text.contains(secret), "{url}: {text}");
        }
    }
}

#[tokio::test]
async fn speaks_tls_and_believes_only_who_it_is_told_to() {
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
    let strange = front_end(&format!("{url}?ca={}", text(&other.file())));
    let text = whole_text(&bind(&strange, &key(2), "q1").await.unwrap_err());
    assert!(text.contains("TLS: invalid peer certificate"), "{text}");
}
