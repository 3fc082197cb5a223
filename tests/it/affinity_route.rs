//! The route in a session id binds the session to an endpoint.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use http::{Request, Response};
use kylin_lb::balance::Attempted;
use kylin_lb::endpoint::{AdminState, EndpointId};
use kylin_lb::session::{Affinity, SessionRoute};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy, RequestView};

fn node(name: &'static str, route: &str) -> Endpoint<Scripted> {
    let node = Scripted::new(move |_: Request<Body>| async move { Ok(Response::new(Body::from(name))) });
    Endpoint::new(name, node).unwrap().route(route)
}

async fn ask(proxy: &Proxy<Scripted>, path: &str, cookie: &str) -> String {
    let mut request = Request::get(path).header("host", "kylin").header("cookie", cookie).body(Body::empty()).unwrap();
    if let Some((_, route)) = cookie.rsplit_once('.') {
        request.extensions_mut().insert(SessionRoute::new(route));
    }
    let response = proxy.forward(ClientAddr::Unix, request).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
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
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(ask(&proxy, "/kylin/", cookie).await);
        }
        assert_eq!(seen.len(), 4, "{cookie}: {seen:?}");
    }
    cluster.set_admin_state(&EndpointId::new("a").unwrap(), AdminState::Drain).unwrap();
    assert_eq!(ask(&proxy, "/kylin/", "JSESSIONID=0123.r1").await, "a", "draining keeps sessions");
}

/// The rule is nginx's (ngx_http_upstream_get_rr_peer_by_sid): the first endpoint of a group with
/// the route serves, else any endpoint of the group. The backups follow if no primary endpoint is
/// eligible.
#[tokio::test]
async fn a_route_is_looked_up_among_primaries_and_among_backups_only_if_no_primary_is_eligible() {
    for (endpoints, route, expected) in [
        ("a:r1 b:r2 c:r3:backup", "r1", "a"),
        ("a:r1 b:r2 c:r3:backup", "r3", "ab"),
        ("a:r1 b:r2:backup", "r2", "a"),
        ("a:r1:down b:r2:down c:r1:backup d:r2:backup", "r1", "c"),
        ("a:r1:down b:r2:down c:r1:backup d:r2:backup", "r2", "d"),
        ("a:r1:down b:r2:down c:r1:backup d:r2:backup", "r3", "cd"),
        ("a:r1:down b:r2 c:r1:backup", "r1", "b"),
        ("c:r1:backup a:r1 b:r2", "r1", "a"),
        ("a:r1 b:r1 c:r2", "r1", "a"),
        ("a:r1:down b:r1 c:r2", "r1", "bc"),
        ("a:r1:full b:r1 c:r2 d:r1:backup", "r1", "bc"),
        ("a:r1:full b:r1:backup c:r2:backup", "r1", "b"),
        ("a:r1:full b:r2:down c:r2:backup", "r1", "c"),
        ("a:r1:drain b:r2 c:r1:backup", "r1", "a"),
        ("a:r1:drain b:r2:backup", "r1", "a"),
        ("a:r1:drain b:r2:backup", "r2", "b"),
        ("a:r1:down b:r2:backup:drain c:r3:backup", "r2", "b"),
        ("a:r1:down b:r2:backup:drain c:r3:backup", "r1", "c"),
        ("a:r1 b:r2:backup:drain", "r2", "a"),
        ("a:r1:down b:r2:backup:down c:r3:backup", "r2", "c"),
    ] {
        let (mut cluster, mut full) = (Cluster::builder(), Vec::new());
        for text in endpoints.split(' ') {
            let mut words = text.split(':');
            let (name, route) = (words.next().unwrap(), words.next().unwrap());
            let name: &'static str = ["a", "b", "c", "d"].into_iter().find(|known| *known == name).unwrap();
            let mut endpoint = node(name, route);
            for word in words {
                endpoint = match word {
                    "backup" => endpoint.backup(true),
                    "down" => endpoint.admin_state(AdminState::Maintenance),
                    "drain" => endpoint.admin_state(AdminState::Drain),
                    "full" => {
                        full.push(name);
                        endpoint.max_in_flight(NonZeroU32::new(1))
                    }
                    other => panic!("{other}"),
                };
            }
            cluster = cluster.endpoint(endpoint);
        }
        let cluster = cluster.build().unwrap();
        let in_flight = Request::new(());
        let in_flight = RequestView::of(&in_flight, ClientAddr::Unix);
        let held = full.iter().map(|id| cluster.pick_bound(&in_flight, &Attempted::none(), id).unwrap());
        let _held: Vec<_> = held.collect();

        let in_id = Proxy::plain(cluster.clone()).affinity(Affinity::route()).build().unwrap();
        let given = Proxy::plain(cluster).affinity(Affinity::given_route()).build().unwrap();
        for proxy in [in_id, given] {
            let mut seen = BTreeSet::new();
            for _ in 0..6 {
                seen.insert(ask(&proxy, "/kylin/", &format!("JSESSIONID=0123.{route}")).await);
            }
            assert_eq!(seen.into_iter().collect::<String>(), expected, "route {route} of {endpoints}");
        }
    }
}
