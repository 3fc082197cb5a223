use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use serde::Serialize;
use tokio::sync::watch::Receiver;

use super::traffic::Traffic;
use crate::clock::{Clock as _, SystemClock};
use crate::cluster::{Cluster, ClusterError, ClusterStatus};
use crate::discovery::{DiscoveryHandle, DiscoveryStatus};
use crate::endpoint::{AdminState, EndpointId};
use crate::observe::{SingleFlightStatus, Watch};
use crate::session::Sessions;

/// A count of sessions is reused for this many times as long as it took. So requests for the status
/// cost at most a twentieth of a core.
const COUNT_REUSE: u32 = 20;

pub(super) type BoundSessions = AHashMap<EndpointId, usize>;

/// Reports on the result cache of a proxy; returns `None` if the proxy has none.
type ReportCache = Box<dyn Fn() -> Option<CacheReport> + Send + Sync>;

/// A result cache.
#[derive(Serialize)]
#[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "there are none"))]
pub(super) struct CacheReport {
    entries: usize,
    bytes: usize,
    projects: usize,
    hits: u64,
    misses: u64,
    stale: u64,
    evicted: u64,
    error: Option<String>,
}

#[cfg(feature = "cache")]
impl From<crate::observe::CacheStatus> for CacheReport {
    fn from(status: crate::observe::CacheStatus) -> Self {
        let crate::observe::CacheStatus { entries, bytes, projects, hits, misses, stale, evicted, error } = status;
        CacheReport { entries, bytes, projects, hits, misses, stale, evicted, error }
    }
}

/// Reports on the single flight of a proxy; returns `None` if it is off.
type ReportFlight = Box<dyn Fn() -> Option<FlightReport> + Send + Sync>;

/// The single flight of a proxy.
#[derive(Serialize)]
pub(super) struct FlightReport {
    leaders: usize,
    followers: usize,
    shared: u64,
}

impl From<SingleFlightStatus> for FlightReport {
    fn from(SingleFlightStatus { leaders, followers, shared }: SingleFlightStatus) -> Self {
        FlightReport { leaders, followers, shared }
    }
}

/// The parts that the status covers and the actions apply to: see
/// [`Admin::monitor`](super::Admin::monitor).
#[derive(Default)]
#[must_use]
pub struct Monitored {
    pub(super) clusters: Vec<(Arc<str>, Arc<dyn AnyCluster>)>,
    pub(super) sessions: Vec<(String, Sessions)>,
    pub(super) discovery: Vec<(String, Receiver<DiscoveryStatus>)>,
    /// Logs, each with a function that counts its lost lines.
    pub(super) logs: Vec<(String, Box<dyn Fn() -> u64 + Send + Sync>)>,
    /// Result caches, each with a function that reports on it; none without the feature `cache`.
    pub(super) caches: Vec<(String, ReportCache)>,
    /// Proxies, each with a function that reports on its single flight.
    pub(super) flights: Vec<(String, ReportFlight)>,
    pub(super) connections: Option<Box<dyn Fn() -> usize + Send + Sync>>,
    /// The time until which the last count of sessions is reused, and the counts by endpoint.
    bound: Option<(Instant, Arc<BoundSessions>)>,
    /// The watches that report failures of endpoints.
    watches: Vec<Watch>,
}

impl Monitored {
    /// Returns nothing to monitor yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a cluster, named `name` in the status. Names must differ.
    pub fn cluster<B: Send + Sync + 'static>(mut self, name: impl Into<String>, cluster: &Cluster<B>) -> Self {
        self.clusters.push((name.into().into(), Arc::new(cluster.clone())));
        self
    }

    /// Adds sessions, named `name` in the status. The status shows their store, and counts the
    /// sessions in memory by the endpoint that they are bound to.
    pub fn sessions(mut self, name: impl Into<String>, sessions: &Sessions) -> Self {
        self.sessions.push((name.into(), sessions.clone()));
        self
    }

    /// Adds a source of nodes, named `name` in the status.
    pub fn discovery(mut self, name: impl Into<String>, discovery: &DiscoveryHandle) -> Self {
        self.discovery.push((name.into(), discovery.subscribe()));
        self
    }

    /// Adds a log of requests, named `name` in the status, with a function that counts its lost
    /// lines.
    pub fn log(mut self, name: impl Into<String>, lost_lines: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.logs.push((name.into(), Box::new(lost_lines)));
        self
    }

    /// Adds the result cache of a proxy, if it has one, named `name` in the status.
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    pub fn cache<B: crate::Backend>(mut self, name: impl Into<String>, proxy: &crate::Proxy<B>) -> Self {
        let proxy = proxy.clone();
        self.caches.push((name.into(), Box::new(move || proxy.cache().map(CacheReport::from))));
        self
    }

    /// Adds the single flight of a proxy, if it is on, named `name` in the status.
    pub fn single_flight<B: crate::Backend>(mut self, name: impl Into<String>, proxy: &crate::Proxy<B>) -> Self {
        let proxy = proxy.clone();
        self.flights.push((name.into(), Box::new(move || proxy.single_flight().map(FlightReport::from))));
        self
    }

    /// Sets a function that counts the open connections of clients, such as that of
    /// `Server::connection_count`.
    pub fn connections(mut self, count: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        self.connections = Some(Box::new(count));
        self
    }

    /// Reports failures of endpoints to `traffic`, if there is a tokio runtime.
    pub(super) fn started(mut self, traffic: &Arc<Traffic>) -> Self {
        if tokio::runtime::Handle::try_current().is_ok() {
            let watch = |(name, cluster): &(Arc<str>, Arc<dyn AnyCluster>)| cluster.watch(name, Arc::clone(traffic));
            self.watches = self.clusters.iter().map(watch).collect();
        }
        self
    }

    /// Returns the sessions in memory by the endpoint that they are bound to; `None` if none are
    /// monitored. A count visits each session, so its result is reused: [`COUNT_REUSE`].
    pub(super) fn bound_sessions(&mut self) -> Option<Arc<BoundSessions>> {
        if self.sessions.is_empty() {
            return None;
        }
        let began = SystemClock.now();
        if let Some((until, counts)) = &self.bound
            && began < *until
        {
            return Some(Arc::clone(counts));
        }
        let mut counts = AHashMap::new();
        self.sessions.iter().for_each(|(_, sessions)| sessions.count_bindings(&mut counts));
        let counts = Arc::new(counts);
        let now = SystemClock.now();
        self.bound = Some((now + (now - began) * COUNT_REUSE, Arc::clone(&counts)));
        Some(counts)
    }

    pub(super) fn clusters(&self) -> Vec<(Arc<str>, Arc<dyn AnyCluster>)> {
        self.clusters.clone()
    }
}

impl fmt::Debug for Monitored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.clusters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Monitored").field("clusters", &names).finish_non_exhaustive()
    }
}

/// A cluster with any backend.
pub(super) trait AnyCluster: Send + Sync {
    fn status(&self) -> ClusterStatus;
    fn set_admin_state(&self, id: &EndpointId, state: AdminState) -> Result<(), ClusterError>;
    fn set_weight(&self, id: &EndpointId, weight: NonZeroU32) -> Result<(), ClusterError>;
    fn watch(&self, name: &str, traffic: Arc<Traffic>) -> Watch;
}

impl<B: Send + Sync + 'static> AnyCluster for Cluster<B> {
    fn status(&self) -> ClusterStatus {
        Cluster::status(self)
    }

    fn set_admin_state(&self, id: &EndpointId, state: AdminState) -> Result<(), ClusterError> {
        Cluster::set_admin_state(self, id, state)
    }

    fn set_weight(&self, id: &EndpointId, weight: NonZeroU32) -> Result<(), ClusterError> {
        Cluster::set_weight(self, id, weight)
    }

    fn watch(&self, name: &str, traffic: Arc<Traffic>) -> Watch {
        Watch::new(traffic).cluster(name, self)
    }
}
