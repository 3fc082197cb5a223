//! A logout ends the session on its node, or the client learns that the session may live on.

use std::future::{pending, ready};
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::Attempted;
use kylin_lb::clock::ManualClock;
use kylin_lb::endpoint::AdminState;
use kylin_lb::proxy::{RetryBudget, RetryPolicy};
use kylin_lb::session::{Affinity, ReplicatedSessions, SessionCookie, Sessions};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Outcome, Proxy, RequestView, SendError};
use tokio::time::{Instant, timeout};

use crate::support::cluster::InOrder;
use crate::support::kylin::{Says, ask, proxy, request, saying, scripted};

const LOGOUT: &str = "GET /kylin/j_spring_security_logout";
const COOKIE: &[(&str, &str)] = &[("cookie", "JSESSIONID=0123456789ABCDEF")];
const LIVES_ON: &str = "1 of 3 nodes did not confirm the logout; the session may live on there";

/// A node that responds to a logout like Kylin, whether or not it knows the session.
fn node() -> Scripted {
    saying(Says::Html(302, String::new()))
}

fn failing(error: fn() -> SendError) -> Scripted {
    Scripted::new(move |_| ready(Err(error())))
}

fn connect_error(kind: io::ErrorKind) -> SendError {
    SendError::new(SendErrorKind::Connect, io::Error::from(kind))
}

fn calls(nodes: &[&Scripted]) -> Vec<usize> {
    nodes.iter().map(|node| node.calls()).collect()
}

/// The front end does not know the node of the session.
#[tokio::test]
async fn a_logout_reaches_every_node_but_one_in_maintenance() {
    for (line, headers) in [
        (LOGOUT, COOKIE),
        ("POST /kylin/api/j_spring_security_logout", COOKIE),
        ("DELETE /kylin/api/user/authentication", COOKIE),
        ("GET /kylin/j_spring_security_logout;jsessionid=0123456789ABCDEF", &[]),
    ] {
        let nodes: Vec<Scripted> = (0..5).map(|_| node()).collect();
        let one = NonZeroU32::new(1);
        let endpoint = |n: usize| Endpoint::new(n.to_string(), nodes[n].clone()).unwrap();
        let endpoints = [
            endpoint(0),
            endpoint(1).max_fails(one),
            endpoint(2).admin_state(AdminState::Drain),
            endpoint(3).max_in_flight(one),
            endpoint(4).admin_state(AdminState::Maintenance),
        ];
        let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
        let proxy = Proxy::builder(cluster.clone()).queue(None).build().unwrap();
        let head = Request::new(());
        let bound = |id| cluster.pick_bound(&RequestView::of(&head, ClientAddr::Unix), &Attempted::none(), id).unwrap();
        bound("1").lease.set_outcome(Outcome::Failure);
        let held = bound("3");
        assert!(cluster.status().endpoints[1].ejected);
        let (status, text) = ask(&proxy, request(line, headers, "")).await;
        assert_eq!(calls(&nodes.iter().collect::<Vec<_>>()), [1, 1, 1, 1, 0], "{line}");
        assert_eq!(status, 302, "{text}");
        drop(held);
        assert_eq!(cluster.status().in_flight(), 0);
    }
}

#[tokio::test]
async fn a_logout_that_names_no_session_or_sends_a_password_goes_to_one_node() {
    let both = [COOKIE[0], ("authorization", "Basic QURNSU46S1lMSU4=")];
    for headers in [&[][..], &[("cookie", "theme=dark")], &both[1..], &both] {
        let nodes = [node(), node(), node()];
        let proxy = proxy(&nodes.each_ref(), |proxy| proxy);
        assert_eq!(ask(&proxy, request(LOGOUT, headers, "")).await.0, 302);
        assert_eq!(calls(&nodes.each_ref()).iter().sum::<usize>(), 1, "{headers:?}");
    }
}

/// Any client can invent cookies.
#[tokio::test]
async fn a_logout_beyond_the_budget_of_searches_goes_to_one_node() {
    let none = RetryBudget::default().ratio(0.0).unwrap().min_per_second(0);
    for (budget, more) in [(none, 0..=0), (RetryBudget::default(), 2900..=3150)] {
        let (node, clock) = (node(), ManualClock::new());
        let retry = RetryPolicy::default().budget(Some(budget));
        let proxy = proxy(&[&node, &node, &node], |proxy| proxy.clock(clock.clone()).retry(retry));
        for n in 0..2000 {
            let cookie = format!("JSESSIONID={n:032X}");
            assert_eq!(ask(&proxy, request(LOGOUT, &[("cookie", &cookie)], "")).await.0, 302);
        }
        assert!(more.contains(&(node.calls() - 2000)), "{}", node.calls());
    }
}

#[tokio::test]
async fn a_logout_on_a_closed_connection_is_sent_once_more_to_the_same_node() {
    let closed_times = |times: usize| {
        let left = AtomicUsize::new(times);
        Scripted::new(move |request| {
            let is_closed = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let says = if is_closed { Says::Nothing(SendErrorKind::Stale) } else { Says::Html(302, String::new()) };
            ready(says.say(request))
        })
    };
    for (times, retry, expected, status) in [
        (1, RetryPolicy::default(), [2, 2, 2], 302),
        (2, RetryPolicy::default(), [2, 2, 2], 502),
        (1, RetryPolicy::none(), [1, 1, 1], 502),
    ] {
        let nodes = [closed_times(times), closed_times(times), closed_times(times)];
        let proxy = proxy(&nodes.each_ref(), |proxy| proxy.retry(retry));
        let (got, text) = ask(&proxy, request(LOGOUT, COOKIE, "")).await;
        assert_eq!((calls(&nodes.each_ref()), got.as_u16()), (expected.to_vec(), status), "{text}");
        assert!(proxy.cluster().status().endpoints.iter().all(|endpoint| endpoint.failed == 0), "no node failed");
    }
}

#[tokio::test]
async fn a_client_learns_that_its_session_may_live_on_at_a_node_that_did_not_confirm_the_logout() {
    let kinds = [
        SendErrorKind::HeadTimeout,
        SendErrorKind::ConnectTimeout,
        SendErrorKind::Broken,
        SendErrorKind::Invalid,
        SendErrorKind::Limit,
        SendErrorKind::Shortage,
        // It is unknown whether a process listens there.
        SendErrorKind::Connect,
    ];
    let page = |status| saying(Says::Html(status, "<html>".to_owned()));
    let unsure = [page(500), page(503), failing(|| connect_error(io::ErrorKind::HostUnreachable))];
    for unsure in kinds.map(Scripted::failing).into_iter().chain(unsure) {
        let nodes = [node(), unsure, node()];
        let proxy = proxy(&nodes.each_ref(), |proxy| proxy);
        let response = proxy.forward(ClientAddr::Unix, request(LOGOUT, COOKIE, "")).await;
        assert_eq!((response.status().as_u16(), response.headers().get("set-cookie")), (502, None));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(LIVES_ON), "{body:?}");
        assert_eq!(calls(&nodes.each_ref()), [1, 1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_does_not_wait_for_a_node_that_hangs() {
    let nodes = [node(), Scripted::new(|_| pending()), node()];
    let proxy = proxy(&nodes.each_ref(), |proxy| proxy);
    let (status, text) = ask(&proxy, request(LOGOUT, COOKIE, "")).await;
    assert!(status == StatusCode::BAD_GATEWAY && text.contains(LIVES_ON), "{status} {text}");
    assert_eq!(proxy.cluster().status().endpoints.iter().map(|endpoint| endpoint.failed).sum::<u64>(), 0);
}

/// Its sessions have ended with its process.
#[tokio::test]
async fn a_node_that_refuses_connections_has_no_session() {
    let refused = || failing(|| connect_error(io::ErrorKind::ConnectionRefused));
    let nodes = [refused(), node(), refused()];
    let proxy_over = |nodes: &[&Scripted]| proxy(nodes, |proxy| proxy);
    let (status, text) = ask(&proxy_over(&nodes.each_ref()), request(LOGOUT, COOKIE, "")).await;
    assert_eq!(status, 302, "{text}");
    let (status, text) = ask(&proxy_over(&[&nodes[0], &nodes[2]]), request(LOGOUT, COOKIE, "")).await;
    assert!(status == StatusCode::BAD_GATEWAY && text.contains("could be reached"), "{status} {text}");
}

/// How a node handles a logout; `None` if it does not respond.
type Then = fn() -> Option<Result<Response<Body>, SendError>>;

/// Two nodes, the second of which has the session. Its handling of a logout can be changed.
struct BoundStage {
    proxy: Proxy<Scripted>,
    other: Scripted,
    owner: Scripted,
    after_logout: Arc<Mutex<Then>>,
}

impl BoundStage {
    async fn start() -> Self {
        let other = node();
        let after_logout = Arc::new(Mutex::new((|| Some(Ok(page(302)))) as Then));
        let inside = Arc::clone(&after_logout);
        let owner = Scripted::new(move |request: Request<Body>| {
            let mut response = page(200);
            let cookie = "JSESSIONID=0123456789ABCDEF".parse().unwrap();
            response.headers_mut().insert("set-cookie", cookie);
            let is_logout = request.uri().path().ends_with("logout");
            let result = if is_logout { inside.lock().unwrap()() } else { Some(Ok(response)) };
            async {
                match result {
                    Some(result) => result,
                    None => pending().await,
                }
            }
        });
        let one = NonZeroU32::new(1);
        let endpoints = [("other", &other), ("owner", &owner)].map(|(id, node)| {
            let endpoint = Endpoint::new(id, node.clone()).unwrap();
            endpoint.max_fails(one).max_in_flight(one)
        });
        let cluster = Cluster::builder().endpoints(endpoints).balancer(InOrder).build().unwrap();
        let affinity = Affinity::learn(Sessions::in_memory().unwrap());
        let proxy = Proxy::builder(cluster).affinity(affinity).queue(None).build().unwrap();
        let stage = BoundStage { proxy, other, owner, after_logout };
        stage.set("other", AdminState::Maintenance);
        let login = request("GET /kylin/api/projects", &[], "");
        assert_eq!(ask(&stage.proxy, login).await.0, 200);
        stage.set("other", AdminState::Ready);
        stage
    }

    fn set(&self, id: &str, state: AdminState) {
        self.proxy.cluster().set_admin_state(&id.parse().unwrap(), state).unwrap();
    }

    /// Returns the status of a logout, and how many requests reached the other node and the one
    /// with the session.
    async fn log_out(&self) -> (u16, usize, usize) {
        let before = self.owner.calls();
        let status = ask(&self.proxy, request(LOGOUT, COOKIE, "")).await.0.as_u16();
        (status, self.other.calls(), self.owner.calls() - before)
    }
}

fn page(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_logout_of_a_bound_session_reaches_its_node_also_if_that_is_ejected_drained_or_full() {
    for what in ["ready", "ejected", "drained", "full"] {
        let stage = BoundStage::start().await;
        let head = Request::new(());
        let bound = || {
            let view = RequestView::of(&head, ClientAddr::Unix);
            stage.proxy.cluster().pick_bound(&view, &Attempted::none(), "owner").unwrap()
        };
        let mut held = None;
        match what {
            "ejected" => bound().lease.set_outcome(Outcome::Failure),
            "drained" => stage.set("owner", AdminState::Drain),
            "full" => held = Some(bound()),
            _ => {}
        }
        assert_eq!(stage.log_out().await, (302, 0, 1), "{what}");
        drop(held);
    }
    let stage = BoundStage::start().await;
    stage.set("owner", AdminState::Maintenance);
    assert_eq!(stage.log_out().await, (302, 1, 0));
}

/// The response of another node would say that the session has ended.
#[tokio::test]
async fn a_logout_of_a_bound_session_goes_to_another_node_only_if_its_own_is_gone() {
    fn failed(kind: SendErrorKind) -> Option<Result<Response<Body>, SendError>> {
        unsent(SendError::new(kind, "x"))
    }
    fn unsent(error: SendError) -> Option<Result<Response<Body>, SendError>> {
        let is_unsent = error.kind().is_unsent();
        Some(Err(if is_unsent { error.with_request(request(LOGOUT, COOKIE, "")) } else { error }))
    }
    let cases: [(Then, (u16, usize, usize)); 9] = [
        (|| failed(SendErrorKind::HeadTimeout), (504, 0, 1)),
        (|| failed(SendErrorKind::ConnectTimeout), (504, 0, 1)),
        (|| failed(SendErrorKind::Broken), (502, 0, 1)),
        (|| failed(SendErrorKind::Limit), (503, 0, 1)),
        (|| failed(SendErrorKind::Stale), (502, 0, 2)),
        (|| failed(SendErrorKind::Refused), (502, 0, 2)),
        (|| unsent(connect_error(io::ErrorKind::HostUnreachable)), (502, 0, 1)),
        (|| Some(Ok(page(503))), (503, 0, 1)),
        (|| unsent(connect_error(io::ErrorKind::ConnectionRefused)), (302, 1, 1)),
    ];
    for (n, (then, expected)) in cases.into_iter().enumerate() {
        let stage = BoundStage::start().await;
        *stage.after_logout.lock().unwrap() = then;
        assert_eq!(stage.log_out().await, expected, "case {n}");
    }
}

/// Queries may take minutes, but a logout is also sent to a node that is known to be down.
#[tokio::test(start_paused = true)]
async fn a_logout_of_a_bound_session_does_not_wait_for_as_long_as_a_query() {
    let stage = BoundStage::start().await;
    *stage.after_logout.lock().unwrap() = || None;
    let began = Instant::now();
    let logged_out = timeout(Duration::from_secs(300), stage.log_out()).await.expect("the wait is short");
    assert_eq!((logged_out, began.elapsed().as_secs()), ((504, 0, 1), 10));
    assert_eq!(stage.proxy.cluster().status().endpoints.iter().map(|endpoint| endpoint.failed).sum::<u64>(), 0);
    assert_eq!(stage.proxy.cluster().status().in_flight(), 0);
}

/// The operator knows the name under which the nodes keep their sessions.
#[tokio::test]
async fn a_logout_of_a_session_with_a_configured_cookie_reaches_every_node() {
    let names = || [SessionCookie::named("KYLINID").unwrap()];
    let learn = || Affinity::learn_from(Sessions::in_memory().unwrap(), names());
    let calls_of = async |affinity: Affinity, line: &str, headers: &[(&str, &str)]| {
        let nodes = [node(), node(), node()];
        let proxy = proxy(&nodes.each_ref(), |proxy| proxy.affinity(affinity));
        assert_eq!(ask(&proxy, request(line, headers, "")).await.0, 302);
        calls(&nodes.each_ref()).iter().sum::<usize>()
    };
    for affinity in [learn(), Affinity::route_of(names())] {
        let own = ("cookie", "a=b; KYLINID=0123456789ABCDEF");
        assert_eq!(calls_of(affinity.clone(), LOGOUT, &[own]).await, 3);
        let password = ("authorization", "Basic QURNSU46S1lMSU4=");
        assert_eq!(calls_of(affinity.clone(), LOGOUT, &[own, password]).await, 1);
        assert_eq!(calls_of(affinity.clone(), LOGOUT, COOKIE).await, 1, "the nodes do not read this cookie");
        let in_path = format!("{LOGOUT};jsessionid=0123456789ABCDEF");
        assert_eq!(calls_of(affinity, &in_path, &[]).await, 3);
    }
}

#[tokio::test]
async fn a_session_with_a_configured_cookie_is_searched_for() {
    let names = || [SessionCookie::named("KYLINID").unwrap()];
    for affinity in [
        Affinity::learn_from(Sessions::in_memory().unwrap(), names()),
        Affinity::route_of(names()),
        Affinity::replicated(ReplicatedSessions::new().node_cookie("KYLINID").unwrap()),
    ] {
        let unknown = || saying(Says::Html(401, String::new()));
        let nodes = [unknown(), unknown(), saying(Says::Json(200, "[]".to_owned()))];
        let endpoints = nodes.iter().enumerate().map(|(id, node)| scripted(&id.to_string(), node));
        let cluster = Cluster::builder().endpoints(endpoints).balancer(InOrder).build().unwrap();
        let proxy = Proxy::builder(cluster).affinity(affinity).build().unwrap();
        let headers = [("cookie", "KYLINID=0123456789ABCDEF")];
        assert_eq!(ask(&proxy, request("GET /kylin/api/projects", &headers, "")).await.0, 200);
        assert_eq!(ask(&proxy, request("GET /kylin/api/projects", &[], "")).await.0, 401);
    }
}
