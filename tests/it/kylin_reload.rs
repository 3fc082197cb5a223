//! "Reload Metadata" and "Reload Config" of Kylin's web interface: for administrators only, though the nodes do not ask.

use kylin_lb::kylin::KylinVersion;
use kylin_lb::proxy::{KylinRules, ReloadAccess};
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
use kylin_lb::testing::kylin::Dialect;

use crate::support::browser::Browser;
use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, refusal};
use crate::support::kylin::Demo;

const METADATA: &str = "PUT /kylin/api/cache/announce/all/all/update";
const CONFIG: &str = "POST /kylin/api/cache/announce/config";

/// How often each node was told to reload.
fn reloads(demo: &Demo) -> Vec<u64> {
    demo.nodes.iter().map(|node| node.stats().cache_calls).collect()
}

/// Sends both calls as the web interface does, and returns their statuses.
async fn click(browser: &mut Browser, headers: &[(&str, &str)]) -> [u16; 2] {
    [browser.ask(METADATA, headers, "").await.status(), browser.ask(CONFIG, headers, "").await.status()]
}

async fn logged_in(front: &Front, user: &str, password: &str) -> Browser {
    let mut browser = Browser::new(front.address());
    assert_eq!(browser.log_in(user, password).await.status(), 200);
    browser
}

const OWN: &[(&str, &str)] = &[("Origin", "http://kylin")];

in_each_dialect!(the_reload_buttons_work_for_administrators_only, V4);

async fn the_reload_buttons_work_for_administrators_only(dialect: Dialect) {
    let demo = Demo::start(dialect, 3).await;
    let front = demo.front(|proxy| proxy);

    let mut admin = logged_in(&front, "ADMIN", "KYLIN").await;
    assert_eq!(click(&mut admin, OWN).await, [200, 200]);
    let told = reloads(&demo);
    assert_eq!(told.iter().sum::<u64>(), 4, "the metadata once, the configuration at each node: {told:?}");
    assert!(told.iter().all(|told| *told > 0), "{told:?}");
    assert_eq!(click(&mut admin, &[("Referer", "http://kylin/kylin/admin")]).await, [200, 200]);
    // A script.
    let mut script = Browser::insistent(front.address(), "ADMIN", "KYLIN");
    assert_eq!(click(&mut script, &[]).await, [200, 200]);

    let told = reloads(&demo);
    let mut analyst = logged_in(&front, "ANALYST", "ANALYST").await;
    assert_eq!(click(&mut analyst, OWN).await, [403, 403]);
    for mut client in [
        Browser::insistent(front.address(), "ANALYST", "ANALYST"),
        Browser::new(front.address()),
        Browser::insistent(front.address(), "ADMIN", "guessed"),
    ] {
        assert_eq!(click(&mut client, &[]).await, [403, 403]);
    }
    // Another site has the browser of an administrator send the call.
    for headers in [&[][..], &[("Origin", "http://evil")], &[("Origin", "null")], &[("Referer", "http://evil/kylin")]] {
        assert_eq!(click(&mut admin, headers).await, [403, 403], "{headers:?}");
    }
    // The calls between nodes stay closed, to administrators too.
    for line in [
        "PUT /kylin/api/cache/all/all/update",
        "PUT /kylin/api/cache/announce/all/all/update/",
        "PUT /kylin/api/cache/announce/config",
        "POST /kylin/api/cache/announce/migration",
        "POST /kylin/api/cache/announce/config;x=1",
        "POST /kylin//api/cache/announce/config",
    ] {
        refusal(&admin.ask(line, OWN, "").await, 403);
    }
    assert_eq!(reloads(&demo), told);
}

in_each_dialect!(the_reload_calls_can_be_closed_and_opened);

async fn the_reload_calls_can_be_closed_and_opened(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    for (access, status) in [(ReloadAccess::Closed, 403), (ReloadAccess::Everyone, 200)] {
        let front = demo.front(|proxy| proxy.rules(KylinRules::default().reload(access)));
        let mut admin = Browser::insistent(front.address(), "ADMIN", "KYLIN");
        assert_eq!(click(&mut admin, &[]).await, [status, status], "{access:?}");
        let mut stranger = Browser::new(front.address());
        assert_eq!(click(&mut stranger, &[]).await, [status, status], "{access:?}");
    }
}

in_each_dialect!(kylin_5_has_no_question_that_proves_an_administrator, V5);

async fn kylin_5_has_no_question_that_proves_an_administrator(dialect: Dialect) {
    let demo = Demo::start(dialect, 2).await;
    for version in [None, Some(KylinVersion::V5)] {
        let rules = KylinRules::default();
        let front = demo.front(|proxy| proxy.rules(version.into_iter().fold(rules, KylinRules::version)));
        let mut admin = Browser::insistent(front.address(), "ADMIN", "KYLIN");
        assert_eq!(click(&mut admin, &[]).await, [403, 403], "{version:?}");
    }
    assert_eq!(reloads(&demo), [0, 0]);
}

#[tokio::test]
async fn relayed_logins_reload_too() {
    let demo = Demo::start(Dialect::default(), 3).await;
    let secret = Secret::new([7; 32]);
    let relay = LoginRelay::new(Sessions::in_memory().unwrap(), secret);
    let front = demo.front(|proxy| proxy.affinity(Affinity::login_relay(relay)));
    let mut admin = logged_in(&front, "ADMIN", "KYLIN").await;
    assert_eq!(click(&mut admin, OWN).await, [200, 200]);
    let mut analyst = logged_in(&front, "ANALYST", "ANALYST").await;
    assert_eq!(click(&mut analyst, OWN).await, [403, 403]);
}
