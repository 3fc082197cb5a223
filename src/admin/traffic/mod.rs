//! Rates and latencies, by observing requests.

mod recent;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use self::recent::{RecentCount, RecentDurations};
use crate::clock::{Clock, Epoch};
use crate::endpoint::EndpointId;
use crate::observe::{
    AttemptEnd, AttemptEnded, EndpointChange, EndpointChanged, Finished, Observer, Received, Termination,
};

/// Counts and latencies of the requests in the last minute. Requests update atomic counters; only a
/// failure takes a lock.
pub(super) struct Traffic {
    clock: Epoch,
    in_flight: AtomicI64,
    requests: Measured,
    endpoints: RwLock<AHashMap<EndpointId, Arc<EndpointTraffic>>>,
}

/// Durations, and the number of requests that failed.
struct Measured {
    requests: RecentCount,
    failures: RecentCount,
    durations: RecentDurations,
}

/// The attempts at one endpoint.
struct EndpointTraffic {
    attempts: Measured,
    last_failure: Mutex<Option<LastFailure>>,
}

/// The last attempt that failed, or the last time that the endpoint was taken out.
#[derive(Clone)]
pub(super) struct LastFailure {
    pub(super) at: Instant,
    /// `requests` or `probes`, like the names of [`FoundBy`](crate::observe::FoundBy).
    pub(super) found_by: &'static str,
    pub(super) reason: String,
}

/// Rates and latencies, for the status.
#[derive(Serialize)]
pub(super) struct Rates {
    requests_per_s: f64,
    failures_per_s: f64,
    /// In milliseconds, over the last minute.
    latency_ms: Option<Latency>,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
}

impl Traffic {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Traffic {
            clock: Epoch::new(clock),
            in_flight: AtomicI64::new(0),
            requests: Measured::new(),
            endpoints: RwLock::default(),
        }
    }

    /// Returns the number of requests that have arrived and not ended.
    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed).max(0)
    }

    /// Returns the rates of requests. A request counts as failed if it got no response of a node.
    pub(super) fn requests(&self) -> Rates {
        self.requests.rates(self.clock.millis())
    }

    /// Returns the rates of attempts at an endpoint, and its last failure.
    pub(super) fn endpoint(&self, id: &EndpointId) -> (Option<Rates>, Option<LastFailure>) {
        let Some(endpoint) = self.endpoints.read().get(id).cloned() else { return (None, None) };
        let last_failure = endpoint.last_failure.lock().clone();
        (Some(endpoint.attempts.rates(self.clock.millis())), last_failure)
    }

    /// Forgets endpoints that are no longer in any cluster.
    pub(super) fn retain(&self, is_known: impl Fn(&EndpointId) -> bool) {
        if !self.endpoints.read().keys().all(&is_known) {
            self.endpoints.write().retain(|id, _| is_known(id));
        }
    }

    /// Calls `count` with the traffic of an endpoint.
    fn with_endpoint(&self, id: &EndpointId, count: impl FnOnce(&EndpointTraffic)) {
        if let Some(endpoint) = self.endpoints.read().get(id) {
            return count(endpoint);
        }
        let endpoint = Arc::clone(self.endpoints.write().entry(id.clone()).or_default());
        count(&endpoint);
    }

    fn failed(&self, endpoint: &EndpointTraffic, found_by: &'static str, reason: String) {
        *endpoint.last_failure.lock() = Some(LastFailure { at: self.clock.clock().now(), found_by, reason });
    }
}

impl Observer for Traffic {
    fn received(&self, _: &Received<'_>) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        let (attempt, now) = (event.attempt, self.clock.millis_at(event.at));
        let failed = match attempt.end {
            Some(AttemptEnd::Responded(_)) => false,
            Some(AttemptEnd::Truncated) => true,
            Some(AttemptEnd::Failed(kind)) => kind.blames_node(),
            Some(AttemptEnd::NotPrepared(_) | AttemptEnd::Cancelled) | None => return,
        };
        self.with_endpoint(&attempt.endpoint, |endpoint| {
            endpoint.attempts.record(now, attempt.total, failed);
            if failed && let Some(end) = attempt.end {
                self.failed(endpoint, "requests", end.as_str().replace('_', " "));
            }
        });
    }

    fn finished(&self, event: &Finished<'_>) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let failed = match event.termination {
            Termination::Complete | Termination::ClientGone | Termination::RequestAborted | Termination::Stopped => {
                false
            }
            Termination::Refused
            | Termination::Denied
            | Termination::RequestTooLarge
            | Termination::RequestTimeout
            | Termination::NoEndpoint
            | Termination::Overflow
            | Termination::QueueFull
            | Termination::QueueTimeout
            | Termination::ConnectFailed
            | Termination::ConnectTimeout
            | Termination::ResponseTimeout
            | Termination::ConnectionBroken
            | Termination::InvalidResponse
            | Termination::ResponseTruncated
            | Termination::ResponseStalled
            | Termination::Unconfirmed
            | Termination::ServerStopped
            | Termination::Panicked => true,
        };
        self.requests.record(self.clock.millis_at(event.at), event.times.total, failed);
    }

    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        if event.change == EndpointChange::Removed {
            self.endpoints.write().remove(&event.endpoint.id);
        } else if let (EndpointChange::Ejected | EndpointChange::Unhealthy, Some(reason)) = (event.change, event.reason)
        {
            let failed =
                |endpoint: &EndpointTraffic| self.failed(endpoint, event.found_by.as_str(), reason.to_string());
            self.with_endpoint(&event.endpoint.id, failed);
        }
    }
}

impl Measured {
    fn new() -> Self {
        Measured { requests: RecentCount::new(), failures: RecentCount::new(), durations: RecentDurations::new() }
    }

    fn record(&self, now_ms: u64, duration: Duration, failed: bool) {
        self.requests.count(now_ms);
        self.durations.record(now_ms, duration);
        if failed {
            self.failures.count(now_ms);
        }
    }

    fn rates(&self, now_ms: u64) -> Rates {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        let quantiles = self.durations.quantiles(now_ms, [0.5, 0.9, 0.99]);
        let latency_ms = quantiles.map(|quantiles| {
            let [p50, p90, p99] = quantiles.map(|duration| rounded(duration.as_secs_f64() * 1000.0));
            Latency { p50, p90, p99 }
        });
        let (requests, failures) = (self.requests.per_second(now_ms), self.failures.per_second(now_ms));
        Rates { requests_per_s: rounded(requests), failures_per_s: rounded(failures), latency_ms }
    }
}

impl Default for EndpointTraffic {
    fn default() -> Self {
        EndpointTraffic { attempts: Measured::new(), last_failure: Mutex::default() }
    }
}
