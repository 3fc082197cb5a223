//! A fixed amount of work, to count its instructions. The difference between two runs under
//! callgrind with different `--rounds` contains nothing of the start-up.

use std::hint::black_box;
use std::time::Duration;

use http::Request;
use kylin_lb::endpoint::EndpointId;
use kylin_lb::session::{Affinity, MemoryStore, Precondition, Secret, SessionRecord, SessionStore, Sessions};
use kylin_lb::{Body, Cluster, Endpoint, Proxy};

use crate::memory::key;
use crate::requests::Node;

pub(crate) fn run(name: &str, rounds: u64) {
    let secret = Secret::new([7; 32]);
    match name {
        "store" => look_up_and_touch(rounds),
        "proxy" => forward(Sessions::local(MemoryStore::new(), secret), rounds),
        "near" => forward(Sessions::remote(MemoryStore::new(), secret), rounds),
        other => panic!("--loop is store, proxy or near, not {other}"),
    }
}

/// Loads and touches one of 10,000 sessions in a memory store.
fn look_up_and_touch(rounds: u64) {
    const TTL: Duration = Duration::from_secs(28_800);
    let (store, id) = (MemoryStore::new(), EndpointId::new("q1").unwrap());
    for n in 0..10_000 {
        let (key, record) = (key(n), SessionRecord::bound(id.clone()));
        black_box(store.save(&key, &record, Precondition::Absent, TTL).into_ready().unwrap().unwrap());
    }
    for n in 0..rounds {
        let key = key(n * 7919 % 10_000);
        assert!(black_box(store.load(&key).into_ready().unwrap().unwrap()).is_some());
        store.touch(&key, TTL).into_ready().unwrap().unwrap();
    }
}

/// Forwards queries of one learned session.
fn forward(sessions: Sessions, rounds: u64) {
    let endpoints = (0..3).map(|n| Endpoint::new(format!("q{n}"), Node).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    let proxy = Proxy::builder(cluster).affinity(Affinity::learn(sessions)).build().unwrap();
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let request = |path: &str| {
        Request::post(path)
            .header("host", "kylin.example")
            .header("cookie", "theme=dark; JSESSIONID=0123456789ABCDEF0123456789ABCDEF")
            .body(Body::from("{\"sql\":\"select 1\"}"))
            .unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        proxy.forward(client, request("/login")).await;
        for _ in 0..rounds {
            black_box(proxy.forward(client, request("/kylin/api/query")).await);
        }
    });
}
