//! The state of nodes under random sequences of events: requests, probes, changes of membership,
//! the operator, and time. The proxy, the cluster and the health check are real; time is tokio's
//! paused clock.

use std::collections::BTreeMap;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::backend::SendErrorKind;
use kylin_lb::balance::{Attempted, IpHash, LeastConn, RoundRobin};
use kylin_lb::cluster::{EndpointStatus, Picked};
use kylin_lb::endpoint::{AdminState, TrafficKind};
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::probe::{HealthCheck, HealthChecker, Probe};
use kylin_lb::proxy::RetryPolicy;
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint, Outcome, Proxy, RequestView, SendError};
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::sleep;

use crate::support::clock::PausedClock;

/// The behaviour of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Responds,
    /// Accepts no connection.
    Refuses,
    /// Accepts only the connections of probes.
    RefusesRequests,
    Breaks,
    TimesOut,
    RetryAfter,
    /// Responds, and then closes the connection.
    Closes,
}

use Behaviour::{Breaks, Closes, Refuses, RefusesRequests, Responds, RetryAfter, TimesOut};

const ALL: [Behaviour; 7] = [Responds, Refuses, RefusesRequests, Breaks, TimesOut, RetryAfter, Closes];

fn respond(behaviour: Behaviour, request: Request<Body>) -> Result<Response<Body>, SendError> {
    let is_probe = request.uri().path() == "/probe";
    let response = Response::builder();
    let response = match behaviour {
        RefusesRequests if is_probe => response,
        Responds => response,
        Closes => response.header("connection", "close"),
        RetryAfter => response.status(503).header("retry-after", "5"),
        Refuses | RefusesRequests => {
            return Err(SendError::new(SendErrorKind::Connect, "scripted").with_request(request));
        }
        Breaks => return Err(SendError::new(SendErrorKind::Invalid, "scripted")),
        TimesOut => return Err(SendError::new(SendErrorKind::HeadTimeout, "scripted")),
    };
    Ok(response.body(Body::empty()).unwrap())
}

#[derive(Debug, Clone)]
enum Event {
    /// A request of a client.
    Ask(u8),
    /// A request of a session that is bound to a node.
    AskBound(usize),
    /// A request of a session that is bound to a node begins, and stays in flight.
    Hold(usize),
    /// The last of these requests ends.
    Release,
    Turn(usize, Behaviour),
    Wait(u64),
    Operator(usize, AdminState),
    /// The membership becomes these nodes, in this order.
    Discover(Vec<usize>),
}

const NODES: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..NODES;
    let state =
        prop_oneof![4 => Just(AdminState::Ready), 1 => Just(AdminState::Drain), 1 => Just(AdminState::Maintenance)];
    prop_oneof![
        12 => (0..6_u8).prop_map(Event::Ask),
        4 => node().prop_map(Event::AskBound),
        1 => node().prop_map(Event::Hold),
        1 => Just(Event::Release),
        5 => (node(), prop::sample::select(&ALL[..])).prop_map(|(node, behaviour)| Event::Turn(node, behaviour)),
        4 => (1..1_500_u64).prop_map(Event::Wait),
        1 => (1_500..40_000_u64).prop_map(Event::Wait),
        1 => (node(), state).prop_map(|(node, state)| Event::Operator(node, state)),
        1 => prop::sample::subsequence(vec![0, 1, 2], 1..=NODES).prop_shuffle().prop_map(Event::Discover),
    ]
}

/// The cluster, and its invariants.
struct World {
    behaviours: [Arc<Mutex<Behaviour>>; NODES],
    cluster: Cluster<Scripted>,
    proxy: Proxy<Scripted>,
    _checker: HealthChecker,
    held: Vec<Picked<Scripted>>,
    members: Vec<usize>,
    operator: [AdminState; NODES],
    /// The nodes that have behaved badly.
    spoiled: [bool; NODES],
}

const INTERVAL: Duration = Duration::from_secs(5);
/// The jitter of the probes is turned off.
const SOON: Duration = Duration::from_millis(5_010);

impl World {
    fn new(policy: usize) -> Self {
        let behaviours: [_; NODES] = std::array::from_fn(|_| Arc::new(Mutex::new(Responds)));
        let members: Vec<_> = (0..NODES).collect();
        let builder = Cluster::builder().endpoints(endpoints(&behaviours, &members)).clock(PausedClock);
        let builder = match policy {
            0 => builder.balancer(RoundRobin::new()),
            1 => builder.balancer(LeastConn::new()),
            _ => builder.balancer(IpHash::whole_address()),
        };
        let cluster = builder.build().unwrap();
        let check = HealthCheck::new(Probe::get("/probe").unwrap()).interval(INTERVAL).jitter(0.0);
        let retry = RetryPolicy::default().on_status(StatusCode::SERVICE_UNAVAILABLE).budget(None);
        World {
            _checker: check.start(&cluster).unwrap(),
            proxy: Proxy::plain(cluster.clone()).retry(retry).clock(PausedClock).build().unwrap(),
            cluster,
            behaviours,
            held: Vec::new(),
            members,
            operator: [AdminState::Ready; NODES],
            spoiled: [false; NODES],
        }
    }

    fn behaviour(&self, node: usize) -> Behaviour {
        *self.behaviours[node].lock()
    }

    fn status(&self) -> BTreeMap<usize, EndpointStatus> {
        let endpoints = self.cluster.status().endpoints;
        endpoints.into_iter().map(|status| (status.id.as_str().parse().unwrap(), status)).collect()
    }

    fn shown(&self) -> String {
        let behaviours: Vec<_> = (0..NODES).map(|node| self.behaviour(node)).collect();
        format!("{behaviours:?} {:#?}", self.cluster.status())
    }

    async fn ask(&self, client: u8) -> StatusCode {
        let request = Request::get("/x").header("host", "kylin").body(Body::empty()).unwrap();
        self.proxy.forward(IpAddr::V4(Ipv4Addr::new(192, 0, 2, client)), request).await.status()
    }

    fn pick_bound(&self, node: usize) -> Option<Picked<Scripted>> {
        let request = Request::get("/x").body(()).unwrap();
        let view = RequestView::of(&request, IpAddr::V4(Ipv4Addr::LOCALHOST));
        self.cluster.pick_bound(&view, &Attempted::none(), &node.to_string()).ok()
    }

    async fn apply(&mut self, event: &Event) {
        match event {
            Event::Ask(client) => self.ask_and_check(*client).await,
            Event::AskBound(node) => {
                if let Some(mut picked) = self.pick_bound(*node) {
                    let at = picked.lease.endpoint().as_str().parse().unwrap();
                    picked.lease.set_outcome(match self.behaviour(at) {
                        Responds | Closes => Outcome::Success,
                        Refuses | RefusesRequests => Outcome::Unreachable,
                        Breaks | RetryAfter => Outcome::Failure,
                        TimesOut => Outcome::Slow,
                    });
                    self.end(picked);
                }
            }
            Event::Hold(node) => self.held.extend(self.pick_bound(*node)),
            Event::Release => drop(self.held.pop()),
            Event::Turn(node, behaviour) => {
                self.spoiled[*node] |= self.behaviour(*node) != Responds;
                *self.behaviours[*node].lock() = *behaviour;
            }
            Event::Wait(millis) => sleep(Duration::from_millis(*millis)).await,
            Event::Operator(node, state) => {
                if self.cluster.set_admin_state(&node.to_string().parse().unwrap(), *state).is_ok() {
                    self.operator[*node] = *state;
                }
            }
            Event::Discover(members) => {
                self.cluster.replace(endpoints(&self.behaviours, members)).unwrap();
                // An endpoint that leaves loses the operator's settings.
                (0..NODES)
                    .filter(|node| !members.contains(node))
                    .for_each(|node| self.operator[node] = AdminState::Ready);
                self.members.clone_from(members);
            }
        }
    }

    /// A request succeeds while a node serves and the others neither time out nor respond with 503.
    /// No request takes out the last endpoint.
    async fn ask_and_check(&self, client: u8) {
        let before = self.status();
        let status = self.ask(client).await;
        let ready = || self.members.iter().copied().filter(|node| self.operator[*node] == AdminState::Ready);
        let is_served = ready().any(|node| matches!(self.behaviour(node), Responds | Closes));
        let respond = ready().any(|node| matches!(self.behaviour(node), TimesOut | RetryAfter));
        assert!(!is_served || respond || status == StatusCode::OK, "{status}: {}", self.shown());
        self.check_last(&before);
    }

    /// Ends a request as the proxy does.
    fn end(&self, picked: Picked<Scripted>) {
        let before = self.status();
        drop(picked);
        self.check_last(&before);
    }

    /// Checks that another endpoint serves if a request took one out.
    fn check_last(&self, before: &BTreeMap<usize, EndpointStatus>) {
        let after = self.status();
        let is_out = |of: &EndpointStatus| matches!(of.health, HealthState::Ejected | HealthState::Draining);
        let taken_out = after.iter().any(|(node, status)| is_out(status) && serves(&before[node]));
        assert!(!taken_out || after.values().any(serves), "{before:#?} {}", self.shown());
    }

    /// Checks the invariants after every event.
    fn check(&self) {
        let status = self.status();
        for (node, status) in &status {
            let held = self.held.iter().filter(|picked| picked.lease.endpoint() == &status.id).count();
            assert_eq!(status.in_flight as usize, held, "{}", self.shown());
            assert_eq!(status.admin_state, self.operator[*node], "{}", self.shown());
        }
        let mut ids: Vec<_> = status.into_keys().collect();
        let mut members = self.members.clone();
        ids.sort_unstable();
        members.sort_unstable();
        assert_eq!(ids, members);
    }

    /// Checks that bound sessions are served if [`AdminState::admits`] allows it.
    fn check_bound(&self) {
        for (node, status) in self.status() {
            let admits = status.admin_state.admits(TrafficKind::Bound, status.health);
            // Another request may be the one on trial.
            if admits && status.health != HealthState::Suspect {
                let picked = self.pick_bound(node).unwrap_or_else(|| panic!("{node}: {}", self.shown()));
                assert_eq!(picked.lease.endpoint(), &status.id, "{}", self.shown());
            }
        }
    }
}

/// Returns whether new requests go to the endpoint, and not only one on trial.
fn serves(status: &EndpointStatus) -> bool {
    status.admin_state == AdminState::Ready
        && match status.health {
            HealthState::Healthy => true,
            HealthState::Suspect => matches!(status.reason, Some(Reason::Probe(_) | Reason::Slow | Reason::Failing)),
            _ => false,
        }
}

fn endpoints(behaviours: &[Arc<Mutex<Behaviour>>; NODES], members: &[usize]) -> Vec<Endpoint<Scripted>> {
    let endpoint = |node: &usize| {
        let behaviour = Arc::clone(&behaviours[*node]);
        let backend = Scripted::new(move |request| ready(respond(*behaviour.lock(), request)));
        Endpoint::new(node.to_string(), backend).unwrap()
    };
    members.iter().map(endpoint).collect()
}

/// Runs `test` with paused time.
fn in_paused_time<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

/// A sequence that the property test below has found.
#[test]
fn an_endpoint_on_trial_is_shown_as_such_though_a_probe_has_failed_since() {
    use Event::{Ask, Operator, Turn, Wait};
    let ask = |times| std::iter::repeat_n(Ask(0), times);
    let mut events: Vec<_> = ask(2).chain([Turn(0, Breaks), Turn(2, Refuses)]).chain(ask(1)).collect();
    events.extend([Turn(1, Breaks)].into_iter().chain(ask(4)));
    events.extend([Operator(1, AdminState::Drain), Operator(0, AdminState::Drain), Wait(668)]);
    in_paused_time(async move {
        let mut world = World::new(0);
        for event in &events {
            world.apply(event).await;
        }
        let shown = |world: &World| (world.status()[&2].health, world.status()[&2].reason);
        assert_eq!(shown(&world), (HealthState::Suspect, Some(Reason::Unreachable)), "{}", world.shown());
        world.apply(&Ask(0)).await;
        assert_eq!(shown(&world), (HealthState::Ejected, Some(Reason::Unreachable)), "{}", world.shown());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nodes_that_answer_serve_whatever_has_happened(policy in 0..3_usize, events in vec(event(), 0..80)) {
        in_paused_time(async move {
            let mut world = World::new(policy);
            for event in &events {
                world.apply(event).await;
                world.check();
                world.check_bound();
            }
            // Everything ends.
            world.held.clear();
            world.apply(&Event::Discover((0..NODES).collect())).await;
            let spoiled = world.spoiled;
            for node in 0..NODES {
                world.apply(&Event::Turn(node, Responds)).await;
                world.apply(&Event::Operator(node, AdminState::Ready)).await;
            }
            sleep(SOON).await;
            for (node, status) in world.status() {
                // A node that came and went earlier waits for up to half a minute. A node that was
                // ejected for its responses waits longer.
                let is_exempt = spoiled[node] || matches!(status.reason, Some(Reason::Consecutive | Reason::SuccessRate));
                assert!(is_exempt || serves(&status), "{node}: {}", world.shown());
            }
            sleep(Duration::from_secs(30)).await;
            for (node, status) in world.status() {
                let is_exempt = matches!(status.reason, Some(Reason::Consecutive | Reason::SuccessRate));
                assert!(is_exempt || serves(&status), "{node}: {}", world.shown());
            }
            sleep(Duration::from_secs(300)).await;
            for client in 0..60 {
                assert_eq!(world.ask(client).await, StatusCode::OK);
            }
            for (node, status) in world.status() {
                assert_eq!((status.health, status.reason, status.ramp), (HealthState::Healthy, None, 100), "{node}: {}", world.shown());
            }
            world.check();
        });
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// While the behaviour of nodes does not change, their state changes a few times and then
    /// rarely.
    #[test]
    fn no_node_goes_back_and_forth(policy in 0..3_usize, behaviours in prop::array::uniform3(prop::sample::select(&ALL[..]))) {
        in_paused_time(async move {
            let mut world = World::new(policy);
            for (node, behaviour) in behaviours.into_iter().enumerate() {
                world.apply(&Event::Turn(node, behaviour)).await;
            }
            let (mut before, mut changes) = (world.status(), [0; NODES]);
            for step in 0..1_200_u32 {
                world.ask_and_check((step % 250) as u8).await;
                sleep(Duration::from_millis(100)).await;
                let after = world.status();
                for (node, status) in &after {
                    changes[*node] += u32::from(serves(status) && !serves(&before[node]));
                }
                before = after;
            }
            assert!(changes.iter().all(|times| *times <= 15), "{changes:?} {}", world.shown());
        });
    }
}
