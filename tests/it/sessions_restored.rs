//! The store loses the sessions of the login relay. They are restored, but never after their
//! logout.

use std::time::Duration;

use kylin_lb::balance::RoundRobin;
use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{RestoreAfterLoss, Secret, SessionStore, Sessions};

use crate::support::browser::Browser;
use crate::support::front::{Front, until};
use crate::support::login_relay::{COOKIE, Nodes, logged_in, secret, storm};
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::recording::Recording;
use crate::support::redis::{Redis, SentinelGroup, redis_installed, sentinel_installed};
use crate::support::sessions::{front_end, key, recovers};

const LOGOUT: &str = "/kylin/j_spring_security_logout";

/// A front end that asks the store for each request.
fn front(nodes: &Nodes, store: impl SessionStore, secret: Secret, restore: Option<RestoreAfterLoss>) -> Front {
    let sessions = Sessions::builder(store, secret.clone()).staleness(Duration::ZERO).deadline(Duration::from_secs(5));
    let sessions = match restore {
        Some(restore) => sessions.restore_after_loss(restore),
        None => sessions,
    };
    nodes.front_over(sessions.build().unwrap(), secret, RoundRobin::new(), |relay| relay)
}

/// Two front ends that share a store, each with its own connection to it.
fn pair(nodes: &Nodes, restore: Option<RestoreAfterLoss>) -> [(Recording, Front); 2] {
    [(); 2].map(|()| {
        let store = Recording::over(nodes.store.clone());
        (store.clone(), front(nodes, store, secret(), restore))
    })
}

async fn lose_all(fronts: &[(Recording, Front)]) {
    for (store, _) in fronts {
        store.lose_all().await;
    }
}

/// Returns the statuses of a query of the same client at each front end.
async fn statuses(browser: &Browser, fronts: &[(Recording, Front)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (_, front) in fronts {
        statuses.push(Browser { front: front.address(), ..browser.clone() }.query().await.status());
    }
    statuses
}

/// Waits until the session has ended at all of the front ends.
async fn ends_everywhere(browser: &Browser, fronts: &[(Recording, Front)]) {
    let has_ended = async || statuses(browser, fronts).await.iter().all(|status| *status == 401);
    until("the session ends", has_ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_front_end_restores_all_sessions_but_those_that_were_logged_out() {
    for restore in [None, Some(RestoreAfterLoss::Alone)] {
        let nodes = Nodes::start(3, KylinVersion::V4).await;
        let store = Recording::over(nodes.store.clone());
        // The setting is not needed with a random secret.
        let secret = if restore.is_none() { Secret::random().unwrap() } else { secret() };
        let front = front(&nodes, store.clone(), secret, restore);
        let mut browsers = Vec::new();
        for _ in 0..60 {
            browsers.push(logged_in(&front).await);
        }
        let mut ended = browsers.pop().unwrap();
        let gone = ended.clone();
        assert_eq!(ended.get(LOGOUT).await.status(), 302);
        for _ in 0..2 {
            store.lose_all().await;
            for browser in &browsers {
                assert_eq!(storm(browser, 2, 2).await, 0);
            }
            assert_eq!((nodes.store.len(), gone.clone().query().await.status()), (59, 401));
        }
        // A cache that evicts single records.
        for key in store.keys().iter().step_by(3) {
            nodes.store.remove(key).await.unwrap();
        }
        for browser in &browsers {
            assert_eq!(storm(browser, 1, 2).await, 0);
        }
        assert_eq!((nodes.store.len(), gone.clone().query().await.status()), (59, 401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logouts_while_sessions_are_restored_stay() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let store = Recording::over(nodes.store.clone());
    let front = front(&nodes, store.clone(), Secret::random().unwrap(), None);
    for _ in 0..20 {
        let browser = logged_in(&front).await;
        let mut leaving = browser.clone();
        store.lose_all().await;
        let (_, _, response) = tokio::join!(storm(&browser, 4, 4), store.lose_all(), leaving.get(LOGOUT));
        assert_eq!(response.status(), 302);
        assert_eq!((browser.clone().query().await.status(), nodes.store.len()), (401, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_several_front_ends_restore_nothing() {
    let nodes = Nodes::start(2, KylinVersion::V4).await;
    let fronts = pair(&nodes, None);
    let browser = logged_in(&fronts[0].1).await;
    let gone = logged_in(&fronts[0].1).await;
    assert_eq!(statuses(&browser, &fronts).await, [200, 200]);
    assert_eq!(statuses(&gone, &fronts).await, [200, 200]);
    gone.clone().get(LOGOUT).await;
    lose_all(&fronts).await;
    assert_eq!(statuses(&gone, &fronts).await, [401, 401]);
    assert_eq!(statuses(&browser, &fronts).await, [401, 401], "the user logs in again");
    assert!(nodes.store.is_empty());

    // Not even with a random secret that two relays use.
    let secret = Secret::random().unwrap();
    let fronts = [(); 2].map(|()| {
        let store = Recording::over(nodes.store.clone());
        (store.clone(), front(&nodes, store, secret.clone(), None))
    });
    let gone = logged_in(&fronts[0].1).await;
    assert_eq!(statuses(&gone, &fronts).await, [200, 200]);
    gone.clone().get(LOGOUT).await;
    lose_all(&fronts).await;
    assert_eq!(statuses(&gone, &fronts).await, [401, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_front_ends_restore_sessions_after_they_have_written_their_logouts() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let fronts = pair(&nodes, Some(RestoreAfterLoss::Shared));
    let mut kept = Vec::new();
    for n in 0..20 {
        let browser = logged_in(&fronts[n % 2].1).await;
        assert_eq!(statuses(&browser, &fronts).await, [200, 200]);
        kept.push(browser);
    }
    for _ in 0..2 {
        // Each front end has the session in its near cache, and one of them ends it.
        let mut gone = Vec::new();
        for (_, front) in &fronts {
            let browser = logged_in(front).await;
            assert_eq!(statuses(&browser, &fronts).await, [200, 200]);
            assert_eq!(browser.clone().get(LOGOUT).await.status(), 302);
            gone.push(browser);
        }
        lose_all(&fronts).await;
        for gone in &gone {
            assert_eq!(statuses(gone, &fronts).await, [401, 401]);
        }
        for browser in &kept {
            assert_eq!(statuses(browser, &fronts).await, [200, 200]);
        }
        for gone in &gone {
            assert_eq!(statuses(gone, &fronts).await, [401, 401]);
        }
    }
    // If a single record is evicted, the cause may also be a logout.
    let browser = logged_in(&fronts[0].1).await;
    let key = fronts[0].0.keys().pop().unwrap();
    nodes.store.remove(&key).await.unwrap();
    assert_eq!(statuses(&browser, &fronts).await, [401, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_logout_ends_a_session_that_another_front_end_has_restored() {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let fronts = pair(&nodes, Some(RestoreAfterLoss::Shared));
    let gone = logged_in(&fronts[0].1).await;
    assert_eq!(statuses(&gone, &fronts).await, [200, 200]);
    assert_eq!(gone.clone().get(LOGOUT).await.status(), 302);
    // The first front end cannot reach the store when it comes back empty.
    fronts[0].0.set_unavailable(true);
    lose_all(&fronts).await;
    let mut at_second = Browser { front: fronts[1].1.address(), ..gone.clone() };
    assert_eq!(at_second.query().await.status(), 200, "the second front end cannot know of the logout");
    fronts[0].0.set_unavailable(false);
    ends_everywhere(&gone, &fronts).await;
    for _ in 0..2 {
        lose_all(&fronts).await;
        assert_eq!(statuses(&gone, &fronts).await, [401, 401], "and stays so");
    }
}

/// A replica that takes over may lack the latest logouts.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_the_store_has_lost_stays() {
    let nodes = Nodes::start(2, KylinVersion::V4).await;
    let store = Recording::over(nodes.store.clone());
    let front = front(&nodes, store.clone(), Secret::random().unwrap(), None);
    let browser = logged_in(&front).await;
    let key = store.keys().pop().unwrap();
    let before = nodes.store.load(&key).await.unwrap().unwrap().record;
    assert_eq!(browser.clone().get(LOGOUT).await.status(), 302);
    nodes.store.save(&key, &before, kylin_lb::session::Precondition::Absent, Duration::from_secs(600)).await.unwrap();
    let mut gone = browser.clone();
    assert_eq!(gone.query().await.status(), 401);
    assert!(!gone.cookies.contains_key(COOKIE));
}

/// Sixty sessions at one front end, with a real server that loses them.
async fn survives(url: &str, lose: impl AsyncFnOnce()) {
    survives_over(front_end(url), lose).await;
}

async fn survives_over(store: impl SessionStore, lose: impl AsyncFnOnce()) {
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let front = front(&nodes, store, Secret::random().unwrap(), None);
    let mut browsers = Vec::new();
    for _ in 0..60 {
        browsers.push(logged_in(&front).await);
    }
    let gone = browsers.pop().unwrap();
    assert_eq!(gone.clone().get(LOGOUT).await.status(), 302);
    lose().await;
    let mut lost = 0;
    for browser in &browsers {
        lost += storm(browser, 1, 3).await;
    }
    assert_eq!((lost, gone.clone().query().await.status()), (0, 401));
    // The store has them again.
    let (logins, mut lost) = (nodes.logins(), 0);
    for browser in &browsers {
        lost += storm(browser, 1, 3).await;
    }
    assert_eq!((lost, nodes.logins()), (0, logins));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_that_redis_is_emptied() {
    if redis_installed() {
        let server = Redis::start(&[]).await;
        let url = format!("redis://{}", server.address());
        survives(&url, async || assert_eq!(server.cli(&["flushall"]), "OK")).await;
        assert_eq!(server.cli(&["dbsize"]), "59");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_that_redis_restarts_empty() {
    if redis_installed() {
        let mut server = Redis::start(&[]).await;
        let url = format!("redis://{}", server.address());
        survives(&url, async || {
            server.kill();
            server.restart().await;
        })
        .await;
        assert_eq!(server.cli(&["dbsize"]), "59");
    }
}

/// The replica has lost its records when it becomes the master.
#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_failover_to_an_empty_replica() {
    if sentinel_installed() {
        let mut group = SentinelGroup::start().await;
        let store = front_end(&group.url());
        survives_over(store.clone(), async || {
            group.replica.cli(&["config", "set", "replica-read-only", "no"]);
            assert_eq!(group.replica.cli(&["flushall"]), "OK");
            group.master.kill();
            recovers(&store, &key(1)).await;
        })
        .await;
        // One record belongs to the wait.
        assert_eq!(group.replica.cli(&["-n", "3", "dbsize"]), "60");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_that_memcached_restarts() {
    if memcached_installed() {
        let mut server = Memcached::start(&[]).await;
        let url = format!("memcached://{}", server.address());
        survives(&url, async || {
            server.kill();
            server.restart().await;
        })
        .await;
        assert_eq!(server.stat("curr_items"), "59");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_that_the_table_is_emptied() {
    if mariadb_installed() {
        let server = MariaDb::start(&[]).await;
        survives(&server.url(), async || _ = server.sql("TRUNCATE TABLE kylin_lb_sessions")).await;
        assert_eq!(server.sql("SELECT COUNT(*) FROM kylin_lb_sessions"), "59");
    }
}

/// Two front ends with a real Redis that restarts empty, one of which has served a logout.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_undoes_no_logout_of_several_front_ends() {
    if !redis_installed() {
        return;
    }
    let mut server = Redis::start(&[]).await;
    let nodes = Nodes::start(3, KylinVersion::V4).await;
    let url = format!("redis://{}", server.address());
    let fronts = [(); 2].map(|()| front(&nodes, front_end(&url), secret(), Some(RestoreAfterLoss::Shared)));
    let (kept, gone) = (logged_in(&fronts[0]).await, logged_in(&fronts[0]).await);
    let at = |browser: &Browser, front: &Front| Browser { front: front.address(), ..browser.clone() };
    for browser in [&kept, &gone] {
        assert_eq!(at(browser, &fronts[1]).query().await.status(), 200);
    }
    gone.clone().get(LOGOUT).await;
    server.kill();
    server.restart().await;
    for front in fronts.iter().rev() {
        assert_eq!(at(&gone, front).query().await.status(), 401);
        assert_eq!(storm(&at(&kept, front), 3, 3).await, 0);
    }
    assert_eq!(at(&gone, &fronts[1]).query().await.status(), 401);
}
