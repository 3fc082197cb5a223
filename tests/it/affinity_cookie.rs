//! A signed cookie keeps a login on one node, and the front end remembers nothing.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kylin_lb::endpoint::EndpointId;
use kylin_lb::session::{Affinity, Secret, StickyCookie};
use kylin_lb::testing::kylin::Dialect;

use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, endpoint};
use crate::support::login::{Browser, Nodes};

fn affinity() -> Affinity {
    Affinity::cookie(Secret::new([7; 32]))
}

fn front(nodes: &Nodes) -> Front {
    Front::with(&nodes.addresses(), |proxy| proxy.affinity(affinity()))
}

in_each_dialect!(no_login_is_lost_and_the_policy_places_new_clients);
async fn no_login_is_lost_and_the_policy_places_new_clients(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let front = front(&nodes);
    let mut homes = BTreeSet::new();
    for _ in 0..6 {
        let mut user = Browser::default();
        user.log_in(&front).await;
        let set = user.cookies["kylin_lb"].clone();
        let home = user.query(&front).await.expect("logged in");
        for _ in 0..8 {
            assert_eq!(user.query(&front).await, Some(home));
        }
        assert_eq!(user.cookies["kylin_lb"], set, "set once");
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
}

in_each_dialect!(the_cookie_is_only_set_when_it_changes_and_no_node_sees_it);
async fn the_cookie_is_only_set_when_it_changes_and_no_node_sees_it(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 2).await;
    let front = front(&nodes);
    let mut user = Browser::default();
    user.cookies.insert("other".into(), "kept".into());
    let first = user.get(&front, "/demo/head").await;
    let line = first.header("set-cookie").unwrap();
    assert!(line.starts_with("kylin_lb=") && line.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{line}");
    assert!(!line.contains("127.0.0.1"));
    let second = user.get(&front, "/demo/head").await;
    assert_eq!(second.header("set-cookie"), None);
    assert!(second.text().contains("other=kept") && !second.text().contains("kylin_lb"), "{}", second.text());
}

in_each_dialect!(the_cookie_is_valid_after_a_change_of_order_front_end_or_address);
async fn the_cookie_is_valid_after_a_change_of_order_front_end_or_address(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let mut user = Browser::default();
    user.log_in(&front(&nodes)).await;
    let home = user.query(&front(&nodes)).await.expect("another front end with the same secret");

    let reversed = nodes.addresses().into_iter().enumerate().rev().map(|(n, address)| endpoint(n, address, |b| b));
    let reversed = Front::of(reversed, |proxy| proxy.affinity(affinity()));
    let moved = nodes.nodes[home].serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut addresses = nodes.addresses();
    addresses[home] = moved.addr();
    let moved = Front::with(&addresses, |proxy| proxy.affinity(affinity()));
    for _ in 0..4 {
        assert_eq!(user.query(&reversed).await, Some(home));
        assert_eq!(user.query(&moved).await, Some(home));
    }
}

in_each_dialect!(forged_cookies_are_ignored);
async fn forged_cookies_are_ignored(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 3).await;
    let front = front(&nodes);
    let mut user = Browser::default();
    user.log_in(&front).await;
    let home = user.query(&front).await.unwrap();
    let real = user.cookies["kylin_lb"].clone();
    let foreign = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::cookie(Secret::new([8; 32]))));
    let mut stranger = Browser::default();
    stranger.get(&foreign, "/kylin/").await;

    let mut flipped = real.clone().into_bytes();
    flipped[5] ^= 1;
    // The time of expiry is changed by a second, so everything but the tag still matches.
    let mut later = URL_SAFE_NO_PAD.decode(&real).unwrap();
    later[12] ^= 1;
    let forged = [
        URL_SAFE_NO_PAD.encode(later),
        String::new(),
        real[..real.len() - 1].to_owned(),
        format!("{real}A"),
        String::from_utf8(flipped).unwrap(),
        "127.0.0.1:22".into(),
        "0".into(),
        "A".repeat(7000),
        stranger.cookies["kylin_lb"].clone(),
        format!("{real}; kylin_lb={real}"),
    ];
    for value in forged {
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut thief = Browser::default();
            thief.cookies.insert("kylin_lb".into(), value.clone());
            let response = thief.get(&front, "/demo/head").await;
            assert!(response.header("set-cookie").is_some(), "a good one instead of {value:?}");
            assert!(!response.text().contains("kylin_lb"), "no node sees it");
            let mut user = user.clone();
            user.cookies.insert("kylin_lb".into(), value.clone());
            seen.insert(user.query(&front).await);
        }
        assert_eq!(seen, [None, Some(home)].into(), "each of three nodes had its turn with {value:?}");
    }
}

in_each_dialect!(a_draining_node_keeps_its_clients_and_one_in_maintenance_loses_them);
async fn a_draining_node_keeps_its_clients_and_one_in_maintenance_loses_them(dialect: Dialect) {
    let nodes = Nodes::of(dialect, 2).await;
    let cookie = StickyCookie::new(Secret::new([7; 32])).name("node").unwrap().secure(true);
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::cookie(cookie)));
    let mut user = Browser::default();
    user.log_in(&front).await;
    let home = user.query(&front).await.unwrap();
    let id = EndpointId::new(&home.to_string()).unwrap();
    front.proxy.cluster().set_admin_state(&id, kylin_lb::endpoint::AdminState::Drain).unwrap();
    assert_eq!(user.query(&front).await, Some(home));
    front.proxy.cluster().set_admin_state(&id, kylin_lb::endpoint::AdminState::Maintenance).unwrap();
    user.log_in(&front).await;
    front.proxy.cluster().set_admin_state(&id, kylin_lb::endpoint::AdminState::Ready).unwrap();
    for _ in 0..4 {
        assert_eq!(user.query(&front).await, Some(1 - home));
    }
}
