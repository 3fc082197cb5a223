//! The time that each affinity adds to a request, in process.

use std::hint::black_box;

use http::{Request, Response};
use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::session::{Affinity, MemoryStore, Secret, Sessions};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};

/// Responds at once, and starts a session at `/login`.
pub(crate) struct Node;

impl Backend for Node {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let mut response = Response::new(Body::from("{}"));
        if request.uri().path() == "/login" {
            let line = "JSESSIONID=0123456789ABCDEF0123456789ABCDEF; Path=/kylin; HttpOnly";
            response.headers_mut().insert("set-cookie", line.parse().unwrap());
        }
        Ok(response)
    }
}

pub fn run() {
    let secret = || Secret::new([7; 32]);
    let affinities = [
        ("none", None),
        ("learned, store in memory", Some(Affinity::learn(Sessions::local(MemoryStore::new(), secret())))),
        ("learned, near cache", Some(Affinity::learn(Sessions::remote(MemoryStore::new(), secret())))),
        ("cookie", Some(Affinity::cookie(secret()))),
        ("route", Some(Affinity::route())),
        ("user", Some(Affinity::user(secret()))),
    ];
    println!("\n{:<28} {:>14}", "affinity", "ns per request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (name, affinity) in affinities {
        let endpoints = (0..3).map(|n| Endpoint::new(format!("q{n}"), Node).unwrap().route(format!("r{n}")));
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let proxy = Proxy::plain(cluster).affinity(affinity).build().unwrap();
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
        // The session cookie stays the first with its name.
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
