//! Sets the gauges, and the counters that other parts of the crate keep.

use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ahash::AHashSet;
use metrics::{counter, gauge};

use super::{Metrics, names};
use crate::buffer::BufferStatus;
use crate::cluster::{ClusterStatus, EndpointStatus};
use crate::discovery::{DiscoveryStatus, SourceState};
use crate::observe::SingleFlightStatus;
#[cfg(feature = "server")]
use crate::refusals;
use crate::session::Sessions;

/// The labels that the gauge of a state last set to 1, after the name of the cluster and the id of
/// the endpoint.
pub(super) type Recorded = [String; 3];

impl Metrics {
    /// Sets the gauges of a cluster and its endpoints, and those of this process.
    pub fn record_cluster(&self, cluster: &str, status: &ClusterStatus) {
        // Exported before the first query waits or gets a copy.
        _ = (self.shared.shared_responses(), self.shared.queued());
        let up = status.endpoints.iter().filter(|endpoint| endpoint.is_up()).count();
        for endpoint in &status.endpoints {
            self.record_endpoint(cluster, endpoint);
        }
        self.forget_removed(cluster, status);
        if let Some(left) = *self.shared.retry_budget.lock() {
            gauge!(names::RETRY_BUDGET).set(left);
        }
        let labels = [("cluster", cluster.to_owned())];
        gauge!(names::CLUSTER_ENDPOINTS, &labels).set(count(status.endpoints.len()));
        gauge!(names::CLUSTER_ENDPOINTS_UP, &labels).set(count(up));
        gauge!(names::CLUSTER_PANICKING, &labels).set(flag(status.panicking));
        counter!(names::SHORTAGES).absolute(status.shortages);
        gauge!(names::REQUESTS_IN_FLIGHT).set(self.shared.in_flight.load(Ordering::Relaxed) as f64);
    }

    /// Forgets the values of the gauges of removed endpoints. The exporter drops the gauges itself.
    fn forget_removed(&self, cluster: &str, status: &ClusterStatus) {
        let ids: AHashSet<&str> = status.endpoints.iter().map(|endpoint| endpoint.id.as_str()).collect();
        self.shared.recorded.lock().retain(|(name, place), _| {
            name != names::ENDPOINT_STATE
                || place.split_once('\n').is_none_or(|(of, id)| of != cluster || ids.contains(id))
        });
    }

    fn record_endpoint(&self, cluster: &str, endpoint: &EndpointStatus) {
        let place = [("cluster", cluster.to_owned()), ("endpoint", endpoint.id.to_string())];
        gauge!(names::ENDPOINT_UP, &place).set(flag(endpoint.is_up()));
        gauge!(names::ENDPOINT_IN_FLIGHT, &place).set(endpoint.in_flight);
        gauge!(names::ENDPOINT_WAITING, &place).set(endpoint.waiting);
        gauge!(names::ENDPOINT_SHARE, &place).set(f64::from(endpoint.ramp) / 100.0);
        gauge!(names::ENDPOINT_SINCE, &place).set(unix_seconds(endpoint.since));
        let now = [
            endpoint.admin_state.as_str().to_owned(),
            endpoint.health.as_str().to_owned(),
            endpoint.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        ];
        self.set_state(names::ENDPOINT_STATE, &place, ["admin_state", "health", "reason"], now);
    }

    /// Sets the gauge with the values `now` to 1, and the previous one to 0.
    fn set_state(
        &self,
        name: &'static str,
        place: &[(&'static str, String)],
        labels: [&'static str; 3],
        now: Recorded,
    ) {
        let set = |values: &Recorded, on: bool| {
            let values = labels.into_iter().zip(values.iter().cloned()).filter(|(label, _)| !label.is_empty());
            let labels: Vec<_> = place.iter().cloned().chain(values).collect();
            gauge!(name, &labels).set(flag(on));
        };
        let values: Vec<_> = place.iter().map(|(_, value)| value.as_str()).collect();
        let mut recorded = self.shared.recorded.lock();
        let before = recorded.insert((name.to_owned(), values.join("\n")), now.clone());
        if let Some(before) = before.filter(|before| *before != now) {
            set(&before, false);
        }
        set(&now, true);
    }

    /// Sets the gauges of a session store, named `store`.
    pub fn record_sessions(&self, store: &str, sessions: &Sessions) {
        let labels = [("store", store.to_owned())];
        gauge!(names::STORE_UP, &labels).set(flag(sessions.is_store_available()));
        gauge!(names::STORE_PENDING, &labels).set(count(sessions.pending_writes()));
        gauge!(names::SESSION_ENTRIES, &labels).set(count(sessions.entries_in_memory()));
    }

    /// Sets the gauges of a source of nodes, named `source`.
    pub fn record_discovery(&self, source: &str, status: &DiscoveryStatus) {
        let labels = [("source", source.to_owned())];
        gauge!(names::DISCOVERY_UP, &labels).set(flag(status.source == SourceState::Current));
        gauge!(names::DISCOVERY_ENDPOINTS, &labels).set(count(status.endpoints));
        gauge!(names::DISCOVERY_REJECTED, &labels).set(count(status.rejected));
        let now = [status.source.as_str().to_owned(), String::new(), String::new()];
        self.set_state(names::DISCOVERY_STATE, &labels, ["state", "", ""], now);
    }

    /// Sets the gauges of the bytes that are buffered in memory.
    pub fn record_buffers(&self, status: &BufferStatus) {
        gauge!(names::BUFFER_BYTES).set(count(status.used));
        if let Some(limit) = status.limit {
            gauge!(names::BUFFER_LIMIT).set(count(limit));
        }
        gauge!(names::BUFFER_WAITING).set(count(status.waiting));
        counter!(names::BUFFER_REFUSED).absolute(status.refused);
    }

    /// Sets the gauges of a result cache, named `cache`.
    #[cfg(feature = "cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
    pub fn record_cache(&self, cache: &str, status: &crate::observe::CacheStatus) {
        let labels = [("cache", cache.to_owned())];
        gauge!(names::CACHE_UP, &labels).set(flag(status.error.is_none()));
        gauge!(names::CACHE_ENTRIES, &labels).set(count(status.entries));
        gauge!(names::CACHE_BYTES, &labels).set(count(status.bytes));
    }

    /// Sets the gauges of the single flight of a proxy, named `proxy`.
    pub fn record_single_flight(&self, proxy: &str, status: &SingleFlightStatus) {
        let labels = [("proxy", proxy.to_owned())];
        gauge!(names::FLIGHT_LEADERS, &labels).set(count(status.leaders));
        gauge!(names::FLIGHT_FOLLOWERS, &labels).set(count(status.followers));
    }

    /// Sets the gauge of the open connections of clients, as `Server::connection_count` counts
    /// them.
    pub fn record_connections(&self, connections: usize) {
        gauge!(names::CONNECTIONS).set(count(connections));
    }

    /// Sets the counters of the requests and connections that the servers of this process refused
    /// before they reached a handler.
    #[cfg(feature = "server")]
    pub fn record_refused(&self) {
        for (reason, count) in refusals::counts() {
            counter!(names::REFUSED, "reason" => reason).absolute(count);
        }
    }

    /// Sets the counter of lines that a request log has lost since it was opened. The label `log`
    /// names the log.
    pub fn record_lost_log_lines(&self, log: &str, lines: u64) {
        counter!(names::LOG_LINES_LOST, "log" => log.to_owned()).absolute(lines);
    }
}

/// Returns the time of day of a moment in the past.
fn unix_seconds(moment: Instant) -> f64 {
    let at = SystemTime::now().checked_sub(moment.elapsed()).unwrap_or(UNIX_EPOCH);
    // Whole seconds, so that the value does not move with the clocks.
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().round()
}

fn count(count: usize) -> f64 {
    count as f64
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}
