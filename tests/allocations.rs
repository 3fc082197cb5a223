//! Counts allocations. It is a test binary of its own, because counting replaces the allocator of
//! the process.

#![allow(clippy::unwrap_used, reason = "a test, also in its helper functions")]

use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use allocation_counter::measure;
use http::{HeaderName, Request, Response};
use kylin_lb::balance::{
    Attempted, Balancer, BalancerExt, HashKeyed, IpHash, LeastConn, QueryAffinity, RandomTwo, RequestKey, RoundRobin,
};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Outcome, QueryKeys, RequestView, SendError};

struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        panic!("nothing is sent in this test")
    }
}

fn allocations_of_1000_picks(policy: impl Balancer) -> u64 {
    let endpoints =
        (0..16).map(|n| Endpoint::new(format!("n{n}"), Nowhere).unwrap().weight(NonZeroU32::MIN.saturating_add(n % 3)));
    let cluster = Cluster::builder().endpoints(endpoints).balancer(policy).build().unwrap();
    let request = Request::get("/kylin/api/query?x=1").header("x-key", "k").body(()).unwrap();
    let client: IpAddr = "2001:db8::7".parse().unwrap();
    let pick_1000 = || {
        for _ in 0..250 {
            // Three attempts of one request, then one that was already attempted on three
            // endpoints.
            let mut tried = Attempted::none();
            for _ in 0..4 {
                let view = RequestView::of(&request, client).with_query(QueryKeys::new(1, 2));
                let mut picked = cluster.pick(&view, &tried).unwrap();
                picked.lease.set_outcome(Outcome::Success);
                tried.add(&picked.lease);
                black_box(&picked);
            }
        }
    };
    // A thread's first read of a view registers the thread, once.
    pick_1000();
    measure(pick_1000).count_total
}

#[test]
fn a_pick_allocates_nothing_whatever_the_policy() {
    let by_key = || RequestKey::Header(HeaderName::from_static("x-key"));
    assert_eq!(allocations_of_1000_picks(RoundRobin::new()), 0);
    assert_eq!(allocations_of_1000_picks(IpHash::new()), 0);
    assert_eq!(allocations_of_1000_picks(IpHash::whole_address()), 0);
    assert_eq!(allocations_of_1000_picks(LeastConn::new()), 0);
    assert_eq!(allocations_of_1000_picks(RandomTwo::new()), 0);
    assert_eq!(allocations_of_1000_picks(HashKeyed::modulo(by_key())), 0);
    assert_eq!(allocations_of_1000_picks(QueryAffinity::new()), 0);
    assert_eq!(allocations_of_1000_picks(HashKeyed::modulo(RequestKey::ClientIp)), 0);
    assert_eq!(allocations_of_1000_picks(HashKeyed::consistent(by_key())), 0);
    assert_eq!(allocations_of_1000_picks(HashKeyed::consistent(by_key()).or(IpHash::new())), 0);
}

#[test]
fn a_pick_allocates_nothing_in_slow_start_or_panic_mode() {
    let minute = std::time::Duration::from_secs(60);
    for policy in
        [Arc::new(RoundRobin::new()) as Arc<dyn Balancer>, Arc::new(LeastConn::new()), Arc::new(RandomTwo::new())]
    {
        let failing_once = |n| Endpoint::new(format!("n{n}"), Nowhere).unwrap().max_fails(NonZeroU32::new(1));
        let cluster = Cluster::builder().balancer(policy).endpoints((0..3).map(failing_once)).build().unwrap();
        for n in 3..6 {
            cluster.add(failing_once(n).slow_start(minute)).unwrap();
        }
        let request = Request::get("/").body(()).unwrap();
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let pick = || cluster.pick(&RequestView::of(&request, client), &Attempted::none()).unwrap();
        let pick_1000 = || (0..1000).for_each(|_| drop(black_box(pick())));
        pick_1000();
        assert!(cluster.status().endpoints.iter().any(|endpoint| endpoint.ramp < 100));
        assert_eq!(measure(pick_1000).count_total, 0);
        while !cluster.status().panicking {
            pick().lease.set_outcome(Outcome::Failure);
        }
        assert_eq!(measure(pick_1000).count_total, 0);
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1);
}

/// The allocations of a proxied request, apart from HTTP parsing and the response, which belong to
/// the application and the backend.
#[test]
fn a_forwarded_request_allocates_within_bounds() {
    struct Responds;

    impl Backend for Responds {
        async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
            Ok(Response::new(Body::from("{}")))
        }
    }

    let endpoints = (0..3).map(|n| Endpoint::new(format!("n{n}"), Responds).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints).balancer(LeastConn::new()).build().unwrap();
    let plain = kylin_lb::Proxy::plain(cluster.clone()).build().unwrap();
    let kylin = kylin_lb::Proxy::builder(cluster.clone()).affinity(None).build().unwrap();
    let learning = kylin_lb::Proxy::builder(cluster).build().unwrap();
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let request = |method: &str, sql: &'static str| {
        Request::builder()
            .method(method)
            .uri("/kylin/api/query")
            .header("host", "kylin.example")
            .header("authorization", "Basic QURNSU46S1lMSU4=")
            .header("cookie", "JSESSIONID=0123456789ABCDEF")
            .body(Body::from(sql))
            .unwrap()
    };
    const SELECT: &str = "{\"sql\":\"select 1\",\"project\":\"p\"}";
    const INSERT: &str = "{\"sql\":\"insert into t values (1)\",\"project\":\"p\"}";
    // In each case: the address for X-Forwarded-For, and the shares of Host and path that `http`
    // makes of a builder's values. With a copy for another attempt: the map of headers (2), a share
    // of each value, and the copy itself. With Kylin: the user, and what a write changes.
    for (what, proxy, method, sql, most) in [
        ("plain, not repeated", &plain, "POST", SELECT, 3),
        ("plain, repeatable", &plain, "PUT", SELECT, 9),
        ("Kylin, a query", &kylin, "POST", SELECT, 10),
        ("Kylin, a write, which may be refused", &kylin, "POST", INSERT, 11),
        ("a session that is learned", &learning, "POST", SELECT, 10),
    ] {
        // Not by a runtime: tokio boxes large futures when it is built for debugging.
        let forward = |request| {
            let mut response = pin!(proxy.forward(client, request));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(response.as_mut().poll(&mut cx).is_ready(), "nothing has to be waited for");
        };
        // When a query arrives for the second time, its body is kept, which allocates once.
        forward(request(method, sql));
        forward(request(method, sql));
        let request = request(method, sql);
        let count = measure(|| forward(request)).count_total;
        assert!(count <= most, "{what}: {count}");
    }
}

/// A session lookup allocates nothing for an ordinary request, whether the store is in this process
/// or the lookup ends in the near cache.
#[test]
fn a_request_of_a_known_session_allocates_no_more_than_one_without() {
    use kylin_lb::session::{Affinity, MemoryStore, Secret, Sessions};

    struct Responds;

    impl Backend for Responds {
        async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
            let mut response = Response::new(Body::from("{}"));
            if request.uri().path() == "/login" {
                response
                    .headers_mut()
                    .insert("set-cookie", "JSESSIONID=0123456789ABCDEF; Path=/kylin".parse().unwrap());
            }
            Ok(response)
        }
    }

    let secret = || Secret::new([7; 32]);
    let ways = [
        Affinity::learn(Sessions::local(MemoryStore::new(), secret())),
        Affinity::learn(Sessions::remote(MemoryStore::new(), secret())).or_user(secret()),
        Affinity::route(),
        Affinity::user(secret()),
    ];
    for affinity in ways {
        let endpoints = (0..3).map(|n| Endpoint::new(format!("n{n}"), Responds).unwrap());
        let cluster = Cluster::builder().endpoints(endpoints).balancer(LeastConn::new()).build().unwrap();
        let proxy = kylin_lb::Proxy::plain(cluster).affinity(affinity.clone()).build().unwrap();
        let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
        let request = |path: &str| {
            Request::post(path)
                .header("host", "kylin.example")
                .header("authorization", "Basic QURNSU46S1lMSU4=")
                .header("cookie", "theme=dark; JSESSIONID=0123456789ABCDEF")
                .body(Body::from("{\"sql\":\"select 1\"}"))
                .unwrap()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // Pinned, because tokio boxes a large future in debug builds.
        let forward = |request| drop(runtime.block_on(pin!(proxy.forward(client, request))));
        forward(request("/login"));
        forward(request("/kylin/api/query"));
        let request = request("/kylin/api/query");
        let count = measure(|| forward(request)).count_total;
        assert!(count <= 4, "{affinity:?}: {count}");
    }
}

/// Removing the sticky cookie from a request costs the new `Cookie` header, and nothing if there is
/// no cookie.
#[test]
fn the_removal_of_a_cookie_allocates_within_bounds() {
    use kylin_lb::session::{Affinity, Secret};

    struct Responds;

    impl Backend for Responds {
        async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
            Ok(Response::new(Body::from("{}")))
        }
    }

    let cluster = Cluster::builder().endpoint(Endpoint::new("n0", Responds).unwrap()).build().unwrap();
    let proxy = kylin_lb::Proxy::plain(cluster).affinity(Affinity::cookie(Secret::new([7; 32]))).build().unwrap();
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let request = |cookies: &str| {
        let request = Request::get("/kylin/api/projects").header("host", "kylin.example");
        request.header("cookie", cookies).body(Body::empty()).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Pinned, because tokio boxes a large future in debug builds.
    let forward = |request| runtime.block_on(pin!(proxy.forward(client, request)));
    let count = |cookies: &str| {
        let request = request(cookies);
        measure(|| drop(forward(request))).count_total
    };
    let others = "theme=dark; JSESSIONID=0123456789ABCDEF; language=en";
    let first = forward(request(others));
    let sticky = first.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (without, with) = (count(others), count(&format!("{others}; {sticky}")));
    assert!(without <= 16 && with <= 10, "{without} {with}");
}

/// A request of an nginx configuration pays for a log only if one is written.
#[cfg(feature = "nginx")]
#[test]
fn a_log_that_is_off_or_that_nothing_writes_allocates_nothing() {
    use kylin_lb::nginx::{Config, Site, SiteBuilder};

    let count = |log: &str, build: fn(SiteBuilder) -> SiteBuilder| {
        let text = format!(
            "{log} upstream kylin {{ server 127.0.0.1:1; }}\n\
             server {{ listen 80; location / {{ return 204; }} location /kylin {{ proxy_pass http://kylin; }} }}"
        );
        let site = build(Site::builder(Config::parse("kylin.conf", &text).unwrap())).build().unwrap();
        let listener = site.listeners().next().unwrap();
        let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
        let forward = |request| {
            let mut response = pin!(listener.forward(client, request));
            assert!(
                response.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready(),
                "nothing is waited for"
            );
        };
        let request = || Request::get("/?a=1").header("host", "kylin.example").body(Body::empty()).unwrap();
        forward(request());
        let request = request();
        measure(|| forward(request)).count_total
    };
    let without = count("", |site| site);
    assert_eq!(count("access_log off;", |site| site), without);
    assert_eq!(count("access_log a.log;", |site| site), without, "nothing writes it");
    assert!(count("access_log a.log;", |site| site.access_log("a.log", |line| drop(black_box(line)))) > without);
    // The host in lower case, and the parts of the response.
    assert!(without <= 6, "{without}");
}

/// The allocations for the record of a request, its metrics and a log of it.
#[cfg(feature = "metrics")]
#[test]
fn an_observed_request_allocates_within_bounds() {
    use kylin_lb::observe::{Finished, Metrics, Observer};

    struct Responds;

    impl Backend for Responds {
        async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
            Ok(Response::new(Body::from("{}")))
        }
    }

    /// Reads the values that a log line shows.
    struct Log;

    impl Observer for Log {
        fn finished(&self, event: &Finished<'_>) {
            let request = event.request;
            black_box((request.user(), request.path(), request.query(), request.id(), request.referer()));
            black_box((request.user_agent(), event.attempts.last().map(|attempt| &*attempt.address)));
        }
    }

    let endpoints = (0..3).map(|n| Endpoint::new(format!("n{n}"), Responds).unwrap());
    let cluster = Cluster::builder().endpoints(endpoints).balancer(LeastConn::new()).build().unwrap();
    let plain = || kylin_lb::Proxy::builder(cluster.clone());
    let observed = || plain().observer(Metrics::new()).observer(Log);
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let request = || {
        let mut request = Request::post("/kylin/api/query?limit=10")
            .header("host", "kylin.example")
            .header("authorization", "Basic QURNSU46S1lMSU4=")
            .header("user-agent", "KylinJDBCDriver")
            .body(Body::from("{\"sql\":\"select 1\",\"project\":\"p\"}"))
            .unwrap();
        // The id of the request is one header more.
        request.headers_mut().reserve(8);
        request
    };
    let allocations = |proxy: kylin_lb::Proxy<Responds>| {
        let forward = |request| {
            let mut response = pin!(proxy.forward(client, request));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(response.as_mut().poll(&mut cx).is_ready(), "nothing has to be waited for");
        };
        // The first requests at each endpoint make its metrics.
        (0..30).for_each(|_| forward(request()));
        let requests: Vec<_> = (0..100).map(|_| request()).collect();
        measure(|| requests.into_iter().for_each(forward)).count_total
    };
    let plain = allocations(plain().build().unwrap());
    let (least, most) =
        (allocations(observed().served_by(false).build().unwrap()), allocations(observed().build().unwrap()));
    // The record, its list of attempts, the user, the timer of connections, and a sixteenth of an
    // id.
    assert!(least - plain <= 420, "{plain} and {least} in 100 requests");
    // In addition, the endpoint in the extensions of the response.
    assert!(most - least <= 300, "{least} and {most} in 100 requests");
}
