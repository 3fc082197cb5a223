//! Sessions in a Redis whose master Sentinels watch.

use kylin_lb::testing::store::{Pair, conformance};

use crate::support::redis::{SentinelGroup, sentinel_installed};
use crate::support::sessions::{bind, bound, front_end, full_text, key, recovers};

#[tokio::test(flavor = "multi_thread")]
async fn follows_the_master_through_a_failover() {
    if !sentinel_installed() {
        return;
    }
    let mut group = SentinelGroup::start().await;
    let url = group.url();
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
    let store = front_end(&url);
    bind(&store, &key(1), "q1").await.unwrap();
    assert_eq!(group.master.cli(&["-n", "3", "exists", &format!("kylin-lb:{}", key(1).to_hex())]), "1");
    assert_eq!(group.master.cli(&["wait", "1", "5000"]), "1");

    group.master.kill();
    recovers(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")));
    assert!(group.replica.cli(&["role"]).starts_with("master"));
}

#[tokio::test]
async fn an_unknown_master_name_is_refused() {
    if !sentinel_installed() {
        return;
    }
    let group = SentinelGroup::start().await;
    let store = front_end(&group.url().replace("/kylin/", "/kyoto/"));
    let text = full_text(&bind(&store, &key(1), "q1").await.unwrap_err());
    assert!(text.contains("the Sentinels know no master of this name"), "{text}");
}
