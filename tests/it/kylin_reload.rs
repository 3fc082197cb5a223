//! "Reload Metadata" and "Reload Config" of Kylin's web interface: only for administrators,
//! although the nodes do not check.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use kylin_lb::kylin::{Guard, KylinVersion};
use kylin_lb::observe::{Finished, Observer, Received};
use kylin_lb::proxy::{KylinRules, ReloadAccess};
use kylin_lb::session::{Affinity, LoginRelay, Secret, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::{Body, Cluster, Proxy};

use crate::support::browser::{Browser, basic};
use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, refusal};
use crate::support::kylin::{Demo, ask, request, scripted};

const METADATA: &str = "PUT /kylin/api/cache/announce/all/all/update";
const CONFIG: &str = "POST /kylin/api/cache/announce/config";

/// Returns how often each node was told to reload.
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
    // Another site makes the browser of an administrator send the call.
    for headers in [&[][..], &[("Origin", "http://evil")], &[("Origin", "null")], &[("Referer", "http://evil/kylin")]] {
        assert_eq!(click(&mut admin, headers).await, [403, 403], "{headers:?}");
    }
    // The calls between nodes stay closed, even to administrators.
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

in_each_dialect!(administrators_of_kylin_5_are_refused, V5);

async fn administrators_of_kylin_5_are_refused(dialect: Dialect) {
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

in_each_dialect!(a_configuration_that_a_node_did_not_reload_is_no_success, V4);

async fn a_configuration_that_a_node_did_not_reload_is_no_success(dialect: Dialect) {
    let mut demo = Demo::start(dialect, 3).await;
    let front = demo.front(|proxy| proxy);
    demo.served[1].take().unwrap().kill().await;
    let mut admin = Browser::insistent(front.address(), "ADMIN", "KYLIN");
    let response = admin.ask(CONFIG, &[], "").await;
    assert_eq!(refusal(&response, 502), "1 of 3 nodes did not respond");
    assert_eq!(reloads(&demo), [1, 0, 1]);
}

in_each_dialect!(a_client_that_the_guard_trusts_reloads_all_nodes, V4);

async fn a_client_that_the_guard_trusts_reloads_all_nodes(dialect: Dialect) {
    let trusting = Guard::new().trust("127.0.0.0/8".parse().unwrap());
    for guard in [Some(trusting), None] {
        for access in [ReloadAccess::Administrators, ReloadAccess::Closed] {
            let demo = Demo::start(dialect, 3).await;
            let rules = KylinRules::default().guard(guard.clone()).reload(access);
            let front = demo.front(|proxy| proxy.rules(rules));
            assert_eq!(Browser::new(front.address()).ask(CONFIG, &[], "").await.status(), 200);
            assert_eq!(reloads(&demo), [1, 1, 1]);
        }
    }
}

/// A node of 2.6, which gives its configuration to everyone (CVE-2020-13937). It reports that every
/// client is an analyst, or an administrator. It refuses requests without the extension
/// `OwnExtension`.
fn node_of_2_6(authority: &'static str) -> Scripted {
    Scripted::new(move |request: http::Request<Body>| {
        let user = format!(r#"{{"userDetails":{{"username":"X","authorities":[{{"authority":"{authority}"}}]}}}}"#);
        let (status, body) = match (request.uri().path(), request.extensions().get::<OwnExtension>()) {
            (_, None) => (500, String::new()),
            ("/kylin/api/user/authentication", _) => (200, user),
            ("/kylin/api/admin/config", _) => (200, r#"{"config":"kylin.env=DEV"}"#.to_owned()),
            _ => (200, String::new()),
        };
        std::future::ready(Ok(http::Response::builder().status(status).body(Body::from(body)).unwrap()))
    })
}

/// Represents data that an application passes to its backend and its policy.
#[derive(Clone)]
struct OwnExtension;

#[derive(Default)]
struct Seen {
    received: AtomicUsize,
    finished: AtomicUsize,
}

impl Observer for Seen {
    fn received(&self, event: &Received<'_>) {
        assert!(event.request.target().contains("/cache/announce/"), "{}", event.request.target());
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, _: &Finished<'_>) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn the_proxy_asks_for_authorities_and_its_question_is_no_request_of_the_client() {
    for (authority, status) in [("ROLE_ADMIN", StatusCode::OK), ("ROLE_ANALYST", StatusCode::FORBIDDEN)] {
        let cluster = Cluster::builder().endpoint(scripted("0", &node_of_2_6(authority))).build().unwrap();
        let seen = Arc::new(Seen::default());
        let one = NonZero::new(1);
        let proxy = Proxy::builder(cluster).observer(Arc::clone(&seen)).max_requests_per_client(one).build().unwrap();
        for line in [METADATA, CONFIG] {
            let mut call = request(line, &[("authorization", &basic("X", "Y"))], "");
            call.extensions_mut().insert(OwnExtension);
            assert_eq!(ask(&proxy, call).await.0, status, "{authority} {line}");
        }
        assert_eq!(seen.received.load(Ordering::Relaxed), 2);
        assert_eq!(seen.finished.load(Ordering::Relaxed), 2);
    }
}
