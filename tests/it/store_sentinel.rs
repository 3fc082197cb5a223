//! Sessions in a Redis whose master Sentinels watch.

use kylin_lb::testing::store::{Pair, conformance};

use crate::support::redis::{Watched, sentinel_installed};
use crate::support::sessions::{bind, bound, comes_back, front_end, hex, key, whole_text};

#[tokio::test(flavor = "multi_thread")]
async fn follows_the_master_through_a_failover() {
    if !sentinel_installed() {
        return;
    }
    let mut watched = Watched::start().await;
    let url = watched.url();
    conformance(|| async { Pair { one: front_end(&url), other: front_end(&url) } }).await;
    let store = front_end(&url);
    bind(&store, &key(1), "q1").await.unwrap();
    assert_eq!(watched.master.cli(&["-n", "3", "exists", &format!("kylin-lb:{}", hex(&key(1)))]), "1");
    assert_eq!(watched.master.cli(&["wait", "1", "5000"]), "1");

    watched.master.kill();
    comes_back(&store, &key(1)).await;
    assert_eq!(store.load(&key(1)).await.unwrap().map(|there| there.record), Some(bound("q1")));
    assert!(watched.replica.cli(&["role"]).starts_with("master"));
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_refused() {
    if !sentinel_installed() {
        return;
    }
    let watched = Watched::start().await;
    let store = front_end(&watched.url().replace("/kylin/", "/kyoto/"));
    let text = whole_text(&bind(&store, &key(1), "q1").await.unwrap_err());
    assert!(text.contains("the Sentinels know no master of this name"), "{text}");
}
