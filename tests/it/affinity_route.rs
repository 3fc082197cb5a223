//! The route in a session id binds the session to an endpoint.

use http::{Request, Response};
use kylin_lb::session::Affinity;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

fn node(name: &'static str, route: &str) -> Endpoint<Scripted> {
    let node = Scripted::new(move |_: Request<Body>| async move { Ok(Response::new(Body::from(name))) });
    Endpoint::new(name, node).unwrap().route(route)
}

async fn ask(proxy: &Proxy<Scripted>, path: &str, cookie: &str) -> String {
    let request = Request::get(path).header("host", "kylin").header("cookie", cookie).body(Body::empty()).unwrap();
    let answer = proxy.forward(ClientAddr::Unix, request).await;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_follow_the_route_and_the_policy_places_those_without() {
    let cluster = Cluster::builder()
        .endpoints([node("a", "r1"), node("b", "r2"), node("c", "r2"), node("d", "")])
        .build()
        .unwrap();
    let proxy = Proxy::plain(cluster.clone()).affinity(Affinity::route()).build().unwrap();
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "/kylin/", "JSESSIONID=0123.r1").await, "a");
        assert_eq!(ask(&proxy, "/kylin/", "JSESSIONID=0123-n7.r2").await, "b", "of two with one route the first");
        assert_eq!(ask(&proxy, "/kylin/;jsessionid=0123.r1", "x=y").await, "a");
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(ask(&proxy, "/kylin/", &format!("{digest}=MDEyMw.r1")).await, "a");
    }
    for cookie in ["JSESSIONID=0123", "JSESSIONID=0123.", "JSESSIONID=0123.r3", "JSESSIONID=0123.a"] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            seen.insert(ask(&proxy, "/kylin/", cookie).await);
        }
        assert_eq!(seen.len(), 4, "{cookie}: {seen:?}");
    }
    cluster.set_admin_state(&kylin_lb::EndpointId::new("a").unwrap(), kylin_lb::endpoint::AdminState::Drain).unwrap();
    assert_eq!(ask(&proxy, "/kylin/", "JSESSIONID=0123.r1").await, "a", "draining keeps sessions");
}
