//! Sessions through the example front end: one process, and two with a shared store.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use super::example_options::nodes;
use crate::support::browser::Browser;
use crate::support::example::{address, secret, spawn_with, start};
use crate::support::front::until;
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::process::Process;
use crate::support::redis::{Redis, redis_installed};

async fn logged_in(front: SocketAddr) -> Browser {
    let mut browser = Browser::new(front);
    let response = browser.log_in("ADMIN", "KYLIN").await;
    assert_eq!(response.status(), 200, "{}", response.text());
    browser
}

/// Clients log in at the first of these front ends and query at all of them in turn. Returns how
/// many responses were not 200.
async fn lost(fronts: &[SocketAddr], clients: usize) -> usize {
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let fronts = fronts.to_vec();
            tokio::spawn(async move {
                let mut browser = logged_in(fronts[0]).await;
                let mut lost = 0;
                for turn in 0..9 {
                    browser.front = fronts[turn % fronts.len()];
                    lost += usize::from(browser.query().await.status() != 200);
                }
                lost
            })
        })
        .collect();
    let mut lost = 0;
    for client in clients {
        lost += client.await.unwrap();
    }
    lost
}

#[tokio::test]
async fn logins_are_kept_under_round_robin_in_every_way_that_keeps_them() {
    for (sessions, dialect) in [
        ("memory", "v4"),
        ("memory", "v5"),
        ("cookie", "v4"),
        ("cookie", "v5"),
        ("route", "v4"),
        ("login-relay", "v4"),
        ("login-relay", "v5"),
    ] {
        let args =
            ["--demo=3", "--policy=round-robin", "--kylin=off", "--sessions", sessions, "--kylin-version", dialect];
        let (process, front) = start(&args).await;
        assert_eq!(lost(&[front], 12).await, 0, "{sessions} {dialect}");
        let warned = process.file("stderr").contains("without --secret-file");
        assert_eq!(warned, matches!(sessions, "cookie" | "login-relay"), "{sessions}: {}", process.file("stderr"));
    }
    // Shows that the test can fail: nothing else keeps the sessions.
    let (_process, front) = start(&["--demo=3", "--policy=round-robin", "--kylin=off", "--sessions=none"]).await;
    assert!(lost(&[front], 12).await > 0);
}

/// Two processes with the same nodes, store and secret.
async fn pair(nodes: &str, sessions: &str) -> ([Process; 2], [SocketAddr; 2]) {
    let folder = TempDir::new().unwrap();
    let secret = secret(&folder);
    let args = [
        "--nodes",
        nodes,
        "--policy=round-robin",
        "--kylin=off",
        "--sessions",
        sessions,
        "--secret-file",
        secret.to_str().unwrap(),
        // The load of the machine must not decide the outcome.
        "--store-deadline=20000",
    ];
    let (one, first) = start(&args).await;
    let (other, second) = start(&args).await;
    assert!(!one.file("stderr").contains("without --secret-file"));
    ([one, other], [first, second])
}

/// Redis comes back without its records. A login that one front end has ended stays ended, and no
/// other login is lost.
async fn restore(option: &[&str], fronts: usize) {
    let redis = Redis::start(&[]).await;
    let (_nodes, named) = nodes(3).await;
    let folder = TempDir::new().unwrap();
    let (secret, store) = (secret(&folder), format!("login-relay:redis://{}", redis.address()));
    let args = ["--nodes", &named, "--policy=round-robin", "--sessions", &store, "--store-deadline=20000"];
    let args = [&args[..], &["--secret-file", secret.to_str().unwrap()], option].concat();
    let (mut processes, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..fronts {
        let (process, front) = start(&args).await;
        processes.push(process);
        addresses.push(front);
    }
    let mut browsers = Vec::new();
    for _ in 0..6 {
        let mut browser = logged_in(addresses[0]).await;
        for front in &addresses {
            browser.front = *front;
            assert_eq!(browser.query().await.status(), 200);
        }
        browsers.push(browser);
    }
    let mut gone = browsers.pop().unwrap();
    let copy = gone.clone();
    gone.front = addresses[0];
    assert_eq!(gone.get("/kylin/j_spring_security_logout").await.status(), 302);
    assert_eq!(redis.cli(&["flushall"]), "OK");
    for front in &addresses {
        // The near cache of the other front end is used for 3 s.
        let has_ended = async || Browser { front: *front, ..copy.clone() }.query().await.status() == 401;
        until("the session ends", has_ended).await;
        for browser in &browsers {
            assert_eq!(Browser { front: *front, ..browser.clone() }.query().await.status(), 200);
        }
    }
    let is_restored = async || {
        for browser in &browsers {
            assert_eq!(Browser { front: addresses[0], ..browser.clone() }.query().await.status(), 200);
        }
        redis.cli(&["dbsize"]).parse::<usize>().unwrap() >= browsers.len()
    };
    until("the sessions are in the store again", is_restored).await;
    assert_eq!(Browser { front: addresses[0], ..copy }.query().await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_logins_survive_a_redis_that_comes_back_empty() {
    if redis_installed() {
        restore(&["--restore-sessions=alone"], 1).await;
        restore(&["--restore-sessions=shared"], 2).await;
    }
}

/// No login is lost that was made at one front end and is used at both.
async fn share(sessions: &str) {
    for sessions in [sessions.to_owned(), format!("login-relay:{sessions}")] {
        let (_nodes, named) = nodes(3).await;
        let (_processes, [one, other]) = pair(&named, &sessions).await;
        assert_eq!(lost(&[one, other], 12).await, 0);
        assert_eq!(lost(&[other, one], 12).await, 0);
    }
}

#[tokio::test]
async fn two_front_ends_share_logins_through_redis() {
    if redis_installed() {
        let redis = Redis::start(&["--requirepass", "hunter2"]).await;
        share(&format!("redis://:hunter2@{}", redis.address())).await;
    }
}

#[tokio::test]
async fn two_front_ends_share_logins_through_mysql() {
    if mariadb_installed() {
        let server = MariaDb::start(&[]).await;
        share(&server.url()).await;
    }
}

#[tokio::test]
async fn two_front_ends_share_logins_through_memcached() {
    if memcached_installed() {
        let server = Memcached::start(&[]).await;
        share(&format!("memcached://{}", server.address())).await;
    }
}

#[tokio::test]
async fn two_front_ends_with_one_secret_share_cookies_without_any_store() {
    let (_nodes, named) = nodes(3).await;
    let (_processes, fronts) = pair(&named, "cookie").await;
    assert_eq!(lost(&fronts, 12).await, 0);
}

#[tokio::test]
async fn two_front_ends_of_one_nginx_configuration_share_what_they_learn() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&[]).await;
    let (nodes, _) = nodes(3).await;
    let folder = TempDir::new().unwrap();
    let (secret, config) = (secret(&folder), folder.path().join("kylin.conf"));
    let servers: Vec<_> = nodes.iter().map(|(_, served)| format!("server {};", served.addr())).collect();
    let learn = "sticky learn create=$upstream_cookie_JSESSIONID lookup=$cookie_JSESSIONID zone=s:1m timeout=8h sync;";
    let text = format!(
        "upstream kylin {{ {learn} {} }} server {{ listen 80; location / {{ proxy_pass http://kylin; }} }}",
        servers.join(" ")
    );
    std::fs::write(&config, text).unwrap();
    let store = format!("redis://{}", redis.address());
    let args = ["--config", config.to_str().unwrap(), "--secret-file", secret.to_str().unwrap(), "--probe=version"];
    let args = [&args[..], &["--sessions", &store, "--store-deadline=20000"]].concat();
    let ((_one, first), (_other, second)) = (start(&args).await, start(&args).await);
    assert_eq!(lost(&[first, second], 12).await, 0);
}

#[tokio::test]
async fn nothing_that_is_secret_is_printed_at_any_level() {
    if !redis_installed() {
        return;
    }
    let redis = Redis::start(&["--requirepass", "hunter2"]).await;
    let (_nodes, named) = nodes(2).await;
    let folder = TempDir::new().unwrap();
    let file = secret(&folder);
    let store = format!("redis://:hunter2@{}", redis.address());
    let mut secrets = vec!["hunter2".to_owned(), "QURNSU46".to_owned(), "KYLIN\"".to_owned(), "5a5a5a5a".to_owned()];
    for sessions in [store.clone(), format!("login-relay:{store}"), "cookie".to_owned()] {
        let args = ["--nodes", &named, "--sessions", &sessions, "--secret-file", file.to_str().unwrap()];
        let mut process =
            spawn_with(&[&args[..], &["--listen=127.0.0.1:0"]].concat(), |command| command.env("RUST_LOG", "trace"))
                .await;
        let front = address(&process, "listening on http://");
        let mut browser = logged_in(front).await;
        browser.cookies.insert("TRACKER".into(), "s3cret-of-another".into());
        for _ in 0..3 {
            assert_eq!(browser.query().await.status(), 200);
        }
        assert_eq!(Browser::new(front).query().await.status(), 401);
        secrets.extend(browser.cookies.values().cloned());
        process.signal("TERM");
        process.ended(Duration::from_secs(30)).await.unwrap();
        let printed = process.file("stdout") + &process.file("stderr");
        assert!(printed.contains("TRACE") || printed.contains("DEBUG"), "the log is on: {printed}");
        for secret in &secrets {
            if let Some(at) = printed.find(secret.as_str()) {
                let line = printed[..at].rfind('\n').map_or(0, |line| line + 1);
                panic!("{sessions} prints {secret}: {}", &printed[line..].lines().next().unwrap_or_default());
            }
        }
    }
}
