//! The status as JSON.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::Shared;
use super::monitored::{BoundSessions, CacheReport, FlightReport};
use super::traffic::{LastFailure, Rates, Traffic};
use crate::clock::{Clock, SystemClock};
use crate::cluster::{ClusterStatus, EndpointStatus};
use crate::discovery::DiscoveryStatus;
use crate::endpoint::{AdminState, EndpointId};
use crate::observe::Timestamp;
use crate::session::Sessions;

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    now: String,
    uptime_s: u64,
    verbs: Verbs,
    log_level: Option<String>,
    denied: u64,
    connections: Option<usize>,
    requests: Requests,
    clusters: BTreeMap<&'a str, ClusterReport>,
    session_stores: BTreeMap<&'a str, StoreReport>,
    discovery: BTreeMap<&'a str, DiscoveryReport>,
    logs: BTreeMap<&'a str, LogReport>,
    caches: BTreeMap<&'a str, CacheReport>,
    single_flight: BTreeMap<&'a str, FlightReport>,
    buffers: BuffersReport,
}

#[derive(Serialize)]
struct LogReport {
    lost_lines: u64,
}

/// The actions that the operator can use.
#[derive(Serialize)]
struct Verbs {
    token: bool,
    reload: bool,
    log_level: bool,
}

#[derive(Serialize)]
struct Requests {
    in_flight: i64,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Serialize)]
struct ClusterReport {
    policy: String,
    /// Whether any endpoint is up. If none is, panic mode tries endpoints that failed, draining
    /// ones serve their sessions, or clients are refused.
    serving: bool,
    /// Unknown if the operator has taken an endpoint out.
    not_serving_since: Option<String>,
    panicking: bool,
    in_flight: u64,
    waiting: u64,
    shortages: u64,
    user_source_unreachable_for_s: Option<u64>,
    clock_skew_s: Option<u64>,
    clocks_agree: bool,
    endpoints: Vec<EndpointReport>,
}

#[derive(Serialize)]
struct EndpointReport {
    id: String,
    weight: u32,
    backup: bool,
    roles: String,
    admin_state: &'static str,
    health: &'static str,
    up: bool,
    reason: Option<String>,
    error: Option<String>,
    since: String,
    for_s: u64,
    probe_level: Option<String>,
    ramp_percent: u32,
    slow: bool,
    fails: u32,
    in_flight: u32,
    waiting: u32,
    max_in_flight: Option<NonZeroU32>,
    served: u64,
    failed: u64,
    timed_out: u64,
    clock_ahead_s: Option<i64>,
    rates: Option<Rates>,
    last_failure: Option<FailureReport>,
    bound_sessions: Option<usize>,
    waits_for: Option<WaitsFor>,
}

#[derive(Serialize)]
struct FailureReport {
    at: String,
    found_by: &'static str,
    reason: String,
}

/// The work that remains at an endpoint that is drained or in maintenance.
#[derive(Serialize)]
struct WaitsFor {
    in_flight: u32,
    waiting: u32,
    /// These sessions end when their users log out, when they expire, or when the node restarts.
    bound_sessions: Option<usize>,
    /// Whether no request is in flight or waits, so that the node can be stopped without a failed
    /// request.
    drained: bool,
}

#[derive(Serialize)]
struct StoreReport {
    available: bool,
    in_memory: usize,
    pending_writes: usize,
    dropped_writes: u64,
}

#[derive(Serialize)]
struct DiscoveryReport {
    source: &'static str,
    endpoints: usize,
    rejected: usize,
    updates: u64,
    failures: u32,
    error: Option<String>,
    last_update: Option<String>,
}

#[derive(Serialize)]
struct BuffersReport {
    limit: Option<usize>,
    client_share: Option<usize>,
    used: usize,
    clients: usize,
    waiting: usize,
    refused: u64,
}

pub(super) fn json(shared: &Shared) -> String {
    let moment = Moment::now();
    let mut monitored = shared.monitored.lock();
    let bound = Bound(monitored.bound_sessions());
    let clusters: Vec<_> = monitored.clusters.iter().map(|(name, cluster)| (&**name, cluster.status())).collect();
    let ids = || clusters.iter().flat_map(|(_, status)| &status.endpoints).map(|endpoint| &endpoint.id);
    shared.traffic.retain(|id| ids().any(|known| known == id));
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        now: moment.at(moment.now),
        uptime_s: moment.since(shared.started).as_secs(),
        verbs: Verbs {
            token: shared.token.read().is_some(),
            reload: shared.hooks.reload.is_some(),
            log_level: shared.hooks.log_level.is_some(),
        },
        log_level: shared.log_level.lock().clone(),
        denied: shared.denied.load(Ordering::Relaxed),
        connections: monitored.connections.as_ref().map(|count| count()),
        requests: Requests { in_flight: shared.traffic.in_flight(), rates: shared.traffic.requests() },
        clusters: clusters
            .iter()
            .map(|(name, status)| (*name, ClusterReport::of(status, &moment, &shared.traffic, &bound)))
            .collect(),
        session_stores: monitored
            .sessions
            .iter()
            .map(|(name, sessions)| (&**name, StoreReport::of(sessions)))
            .collect(),
        discovery: monitored
            .discovery
            .iter()
            .map(|(name, status)| (&**name, DiscoveryReport::of(&status.borrow(), &moment)))
            .collect(),
        logs: monitored.logs.iter().map(|(name, lost)| (&**name, LogReport { lost_lines: lost() })).collect(),
        caches: monitored.caches.iter().filter_map(|(name, report)| Some((&**name, report()?))).collect(),
        single_flight: monitored.flights.iter().filter_map(|(name, report)| Some((&**name, report()?))).collect(),
        buffers: BuffersReport::of(shared),
    };
    serde_json::to_string(&report).unwrap_or_default()
}

/// Returns the report of one endpoint.
pub(super) fn endpoint(shared: &Shared, cluster: &str, id: &EndpointId) -> Option<Value> {
    let moment = Moment::now();
    let mut monitored = shared.monitored.lock();
    let bound = Bound(monitored.bound_sessions());
    let (_, cluster) = monitored.clusters.iter().find(|(name, _)| **name == *cluster)?;
    let status = cluster.status();
    let endpoint = status.endpoints.iter().find(|endpoint| endpoint.id == *id)?;
    let report = EndpointReport::of(endpoint, &moment, &shared.traffic, &bound);
    serde_json::to_value(report).ok()
}

/// The sessions in memory by the endpoint that they are bound to; `None` if none are monitored.
struct Bound(Option<Arc<BoundSessions>>);

impl Bound {
    fn to(&self, id: &EndpointId) -> Option<usize> {
        self.0.as_ref().map(|counts| counts.get(id).copied().unwrap_or_default())
    }
}

/// The time of a report, on both clocks.
struct Moment {
    now: Instant,
    time: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Moment { now: SystemClock.now(), time: SystemTime::now() }
    }

    fn since(&self, earlier: Instant) -> Duration {
        self.now.saturating_duration_since(earlier)
    }

    /// Returns the time of day of an earlier moment.
    fn at(&self, earlier: Instant) -> String {
        let time = self.time.checked_sub(self.since(earlier)).unwrap_or(SystemTime::UNIX_EPOCH);
        Timestamp::from(time).to_string()
    }
}

impl ClusterReport {
    fn of(status: &ClusterStatus, moment: &Moment, traffic: &Traffic, bound: &Bound) -> Self {
        let serving = status.endpoints.iter().any(EndpointStatus::is_up);
        // The time at which the operator took an endpoint out is not known.
        let are_ready = status.endpoints.iter().all(|endpoint| endpoint.admin_state == AdminState::Ready);
        let last = status.endpoints.iter().map(|endpoint| endpoint.since).max().filter(|_| are_ready);
        let endpoints = status.endpoints.iter().map(|endpoint| EndpointReport::of(endpoint, moment, traffic, bound));
        ClusterReport {
            policy: status.balancer.clone(),
            serving,
            not_serving_since: last.filter(|_| !serving).map(|since| moment.at(since)),
            panicking: status.panicking,
            in_flight: status.in_flight(),
            waiting: status.waiting(),
            shortages: status.shortages,
            user_source_unreachable_for_s: status.user_source_down_since.map(|since| moment.since(since).as_secs()),
            clock_skew_s: status.clock_skew,
            clocks_agree: status.clock_skew.is_none_or(|skew| skew <= ClusterStatus::MAX_CLOCK_SKEW),
            endpoints: endpoints.collect(),
        }
    }
}

impl EndpointReport {
    fn of(endpoint: &EndpointStatus, moment: &Moment, traffic: &Traffic, bound: &Bound) -> Self {
        let (rates, last_failure) = traffic.endpoint(&endpoint.id);
        let (in_flight, waiting, bound_sessions) = (endpoint.in_flight, endpoint.waiting, bound.to(&endpoint.id));
        let is_leaving = endpoint.admin_state != AdminState::Ready;
        let drained = in_flight == 0 && waiting == 0;
        EndpointReport {
            id: endpoint.id.to_string(),
            weight: endpoint.weight,
            backup: endpoint.backup,
            roles: endpoint.roles.to_string(),
            admin_state: endpoint.admin_state.as_str(),
            health: endpoint.health.as_str(),
            up: endpoint.is_up(),
            reason: endpoint.reason.map(|reason| reason.to_string()),
            error: endpoint.error.as_deref().map(str::to_owned),
            since: moment.at(endpoint.since),
            for_s: moment.since(endpoint.since).as_secs(),
            probe_level: endpoint.probe_level.map(|level| level.to_string()),
            ramp_percent: endpoint.ramp,
            slow: endpoint.slow,
            fails: endpoint.fails,
            in_flight,
            waiting,
            max_in_flight: endpoint.max_in_flight,
            served: endpoint.served,
            failed: endpoint.failed,
            timed_out: endpoint.timed_out,
            clock_ahead_s: endpoint.clock_ahead,
            rates,
            last_failure: last_failure.map(|failure| FailureReport::of(failure, moment)),
            bound_sessions,
            waits_for: is_leaving.then_some(WaitsFor { in_flight, waiting, bound_sessions, drained }),
        }
    }
}

impl FailureReport {
    fn of(failure: LastFailure, moment: &Moment) -> Self {
        let LastFailure { at, found_by, reason } = failure;
        FailureReport { at: moment.at(at), found_by, reason }
    }
}

impl StoreReport {
    fn of(sessions: &Sessions) -> Self {
        StoreReport {
            available: sessions.is_store_available(),
            in_memory: sessions.entries_in_memory(),
            pending_writes: sessions.pending_writes(),
            dropped_writes: sessions.dropped_writes(),
        }
    }
}

impl DiscoveryReport {
    fn of(status: &DiscoveryStatus, moment: &Moment) -> Self {
        DiscoveryReport {
            source: status.source.as_str(),
            endpoints: status.endpoints,
            rejected: status.rejected,
            updates: status.updates,
            failures: status.failures,
            error: status.error.clone(),
            last_update: status.last_update.map(|at| moment.at(at)),
        }
    }
}

impl BuffersReport {
    fn of(shared: &Shared) -> Self {
        let status = shared.buffers.status();
        BuffersReport {
            limit: status.limit,
            client_share: status.client_share,
            used: status.used,
            clients: status.clients,
            waiting: status.waiting,
            refused: status.refused,
        }
    }
}
