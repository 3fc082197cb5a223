//! What a session costs in memory, how long it takes to find, and what affinity adds to a request: `cargo bench --bench sessions`.
//!
//! First bytes per session (as the allocator counts them) and nanoseconds per lookup, for 10 thousand to 10 million sessions in
//! the store in memory. Then nanoseconds per request through the proxy to a backend that answers in process, with each way of
//! keeping sessions: what it adds to the first row is what it costs.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program, not the library")]

use std::hint::black_box;
use std::time::Duration;

use allocation_counter::measure;
use http::{Request, Response};
use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::endpoint::EndpointId;
use kylin_lb::session::{Affinity, Expect, MemoryStore, Secret, SessionKey, SessionRecord, SessionStore, Sessions};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};

fn key(n: u64) -> SessionKey {
    let mut bits = [0; 16];
    for (half, seed) in bits.chunks_exact_mut(8).zip([n, n ^ u64::MAX]) {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
    }
    SessionKey::from_bytes(bits)
}

fn main() {
    memory();
    requests();
}

fn memory() {
    let ids = ["q1", "q2", "q3"].map(|id| EndpointId::new(id).unwrap());
    println!("{:>12} {:>18} {:>14}", "sessions", "bytes per session", "ns per lookup");
    for count in [10_000_u64, 100_000, 1_000_000, 10_000_000] {
        let store = MemoryStore::bounded(20_000_000, 4 << 30);
        let allocated = measure(|| {
            for n in 0..count {
                let record = SessionRecord::bound(ids[(n % 3) as usize].clone());
                let key = key(n);
                let saved = store.save(&key, &record, Expect::Absent, Duration::from_secs(28_800));
                black_box(saved.now().unwrap().unwrap());
            }
        });
        let bytes = allocated.bytes_current as f64 / count as f64;
        let mut best = f64::MAX;
        for round in 0..5_u64 {
            let begun = SystemClock.now();
            const LOOKUPS: u64 = 1_000_000;
            let mut n = round;
            for _ in 0..LOOKUPS {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = key((n >> 20) % count);
                let found = store.load(&key).now().unwrap().unwrap();
                assert!(black_box(found).is_some());
            }
            best = best.min((SystemClock.now() - begun).as_nanos() as f64 / LOOKUPS as f64);
        }
        println!("{count:>12} {bytes:>18.1} {best:>14.1}");
    }
}

/// Answers at once, and hands out a session at `/login`.
struct Answers;

impl Backend for Answers {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let mut answer = Response::new(Body::from("{}"));
        if request.uri().path() == "/login" {
            let line = "JSESSIONID=0123456789ABCDEF0123456789ABCDEF; Path=/kylin; HttpOnly";
            answer.headers_mut().insert("set-cookie", line.parse().unwrap());
        }
        Ok(answer)
    }
}

fn requests() {
    let secret = || Secret::new([7; 32]);
    let ways = [
        ("none", None),
        ("learned, store in memory", Some(Affinity::learn(Sessions::local(MemoryStore::new(), secret())))),
        ("learned, near cache", Some(Affinity::learn(Sessions::shared(MemoryStore::new(), secret())))),
        ("cookie", Some(Affinity::cookie(secret()))),
        ("route", Some(Affinity::route())),
        ("user", Some(Affinity::user(secret()))),
    ];
    println!("\n{:<28} {:>14}", "affinity", "ns per request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (name, affinity) in ways {
        let endpoints = (0..3).map(|n| Endpoint::new(format!("q{n}"), Answers).unwrap().route(format!("r{n}")));
        let mut proxy = Proxy::builder(Cluster::builder().endpoints(endpoints).build().unwrap());
        if let Some(affinity) = affinity {
            proxy = proxy.affinity(affinity);
        }
        let proxy = proxy.build();
        let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
        let mut cookie = String::from("theme=dark; JSESSIONID=0123456789ABCDEF0123456789ABCDEF");
        let request = |path: &str, cookie: &str| {
            Request::post(path)
                .header("host", "kylin.example")
                .header("authorization", "Basic QURNSU46S1lMSU4=")
                .header("cookie", cookie)
                .body(Body::from("{\"sql\":\"select 1\"}"))
                .unwrap()
        };
        let login = runtime.block_on(proxy.forward(client, request("/login", &cookie)));
        for line in login.headers().get_all("set-cookie") {
            cookie = format!("{cookie}; {}", line.to_str().unwrap().split(';').next().unwrap());
        }
        // Of its own cookie and the node's, the session's stays the first.
        let mut best = f64::MAX;
        for _ in 0..10 {
            const REQUESTS: usize = 20_000;
            let requests: Vec<_> = (0..REQUESTS).map(|_| request("/kylin/api/query", &cookie)).collect();
            let begun = SystemClock.now();
            runtime.block_on(async {
                for request in requests {
                    black_box(proxy.forward(client, request).await);
                }
            });
            best = best.min((SystemClock.now() - begun).as_nanos() as f64 / REQUESTS as f64);
        }
        println!("{name:<28} {best:>14.0}");
    }
}
