//! Clients without cookies are placed by their user.

use std::collections::{BTreeMap, BTreeSet};

use kylin_lb::endpoint::EndpointId;
use kylin_lb::session::{Affinity, Secret, Sessions};
use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore};

use crate::support::dialects::in_each_dialect;
use crate::support::front::{Front, closed_port};
use crate::support::login::{Browser, Nodes, node_of};

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn basic(user: &str) -> String {
    use std::fmt::Write as _;
    // A few lines instead of a dependency of the tests: RFC 4648, 4.
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Authorization: Basic ");
    for chunk in format!("{user}:pw").as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]);
            let _ = write!(text, "{}", if n <= chunk.len() { digit } else { '=' });
        }
    }
    text + "\r\n"
}

async fn nodes_with_users(users: usize, dialect: Dialect) -> Nodes {
    let metastore = (0..users).fold(Metastore::new(), |store, n| store.user(&format!("user{n}"), "pw", false));
    let mut all = Nodes { nodes: Vec::new(), served: Vec::new() };
    for n in 0..3 {
        let node = KylinNode::new(n.to_string()).kylin_version(dialect).metastore(&metastore);
        all.served.push(node.serve(closed_port()).await.unwrap());
        all.nodes.push(node);
    }
    all
}

/// The node that serves a client without cookies.
async fn query(front: &Front, user: &str) -> usize {
    let fields = basic(user) + "Content-Type: application/json\r\nUser-Agent: test\r\n";
    let body = r#"{"sql":"select 1","project":"learn_kylin"}"#;
    let response = Browser::default().send(front, "POST", "/kylin/api/query", &fields, body).await;
    assert_eq!(response.status(), 200, "{}", response.text());
    node_of(&response)
}

in_each_dialect!(each_user_goes_to_one_node_at_every_front_end_and_moves_only_if_it_is_removed);
async fn each_user_goes_to_one_node_at_every_front_end_and_moves_only_if_it_is_removed(dialect: Dialect) {
    let nodes = nodes_with_users(30, dialect).await;
    let front = |affinity: Affinity| Front::with(&nodes.addresses(), |proxy| proxy.affinity(affinity));
    let one = front(Affinity::user(secret()));
    let other = front(Affinity::learn(Sessions::in_memory().unwrap()).or_user(secret()));
    let mut homes = BTreeMap::new();
    for user in (0..30).map(|n| format!("user{n}")) {
        let home = query(&one, &user).await;
        assert_eq!(query(&one, &user).await, home);
        assert_eq!(query(&other, &user.to_uppercase()).await, home, "another front end, another way besides");
        homes.insert(user, home);
    }
    assert_eq!(homes.values().collect::<BTreeSet<_>>().len(), 3);

    one.proxy
        .cluster()
        .set_admin_state(&EndpointId::new("1").unwrap(), kylin_lb::endpoint::AdminState::Maintenance)
        .unwrap();
    for (user, home) in &homes {
        let now = query(&one, user).await;
        match *home {
            1 => assert_ne!(now, 1, "{user}"),
            home => assert_eq!(now, home, "{user} has no reason to move"),
        }
    }
}

in_each_dialect!(a_session_precedes_the_user);
async fn a_session_precedes_the_user(dialect: Dialect) {
    let nodes = nodes_with_users(1, dialect).await;
    let affinity = Affinity::learn(Sessions::in_memory().unwrap()).or_user(secret());
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(affinity));
    let home = query(&front, "user0").await;
    let away = EndpointId::new(&home.to_string()).unwrap();
    front.proxy.cluster().set_admin_state(&away, kylin_lb::endpoint::AdminState::Drain).unwrap();
    let mut browser = Browser::default();
    let login = browser.send(&front, "POST", "/kylin/api/user/authentication", &basic("user0"), "").await;
    assert_eq!(login.status(), 200);
    front.proxy.cluster().set_admin_state(&away, kylin_lb::endpoint::AdminState::Ready).unwrap();
    assert_eq!(query(&front, "user0").await, home);
    let body = r#"{"sql":"select 1","project":"learn_kylin"}"#;
    let fields = basic("user0") + "Content-Type: application/json\r\nUser-Agent: test\r\n";
    let response = browser.send(&front, "POST", "/kylin/api/query", &fields, body).await;
    assert_ne!(node_of(&response), home, "where the session is");
}
