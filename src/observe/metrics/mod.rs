mod family;
mod names;
mod record;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use ahash::AHashMap;
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::{Mutex, RwLock};

use self::family::Family;
use self::record::Recorded;
use super::{
    AttemptEnded, EndpointChange, EndpointChanged, EndpointPicked, EventKind, Finished, Observer, Received, Retried,
    SessionEvent, SessionOutcome, SharedResponse,
};
use crate::endpoint::EndpointId;

/// Counts requests, attempts and endpoints with the [`metrics`](::metrics) facade. The application
/// must install the recorder that exports them before it creates a `Metrics`. Clones share their
/// state.
///
/// As an [`Observer`] of a proxy it counts requests; as the observer of a [`Watch`](super::Watch)
/// it counts changes of endpoints. The gauges show the state at the last call of one of the
/// `record_*` methods, which an exporter calls before it reads. A gauge of a removed endpoint keeps
/// its value, so configure the exporter to drop gauges that are no longer set.
///
/// The guide has [the table of all names](crate::docs::operations#metrics). Labels are bounded: a
/// class, an outcome and a reason come from fixed sets, and an `endpoint` is the id of a member. No
/// label holds a path, a user or a client.
///
/// ```
/// use kylin_lb::observe::Metrics;
///
/// # fn build(cluster: kylin_lb::Cluster) -> Result<(), Box<dyn std::error::Error>> {
/// let metrics = Metrics::new();
/// let proxy = kylin_lb::Proxy::builder(cluster.clone()).observer(metrics.clone()).build()?;
/// // Before each export:
/// metrics.record_cluster("kylin", &cluster.status());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    in_flight: AtomicI64,
    classes: Family<ClassMetrics>,
    endpoints: RwLock<AHashMap<EndpointId, EndpointMetrics>>,
    retries: Family<Counter>,
    sessions: Family<Counter>,
    #[cfg(feature = "cache")]
    cache_lookups: Family<Counter>,
    shared_responses: OnceLock<Counter>,
    queued: OnceLock<Histogram>,
    /// The retries that the budget allowed after the last retry.
    retry_budget: Mutex<Option<u32>>,
    /// The last values of the gauges, so that gauges that no longer apply can be set to 0.
    recorded: Mutex<AHashMap<(String, String), Recorded>>,
}

/// The metrics of the requests of one class.
struct ClassMetrics {
    outcomes: Family<Counter>,
    statuses: Family<Counter>,
    bytes: Counter,
    total: Histogram,
    waiting: Histogram,
    first_byte: Histogram,
}

/// The metrics of the attempts at one endpoint.
struct EndpointMetrics {
    picks: Family<Counter>,
    outcomes: Family<Counter>,
    seconds: Histogram,
}

/// The class of a request that was not classified.
const NO_CLASS: &str = "none";

impl Metrics {
    /// Returns the observer, and describes the metrics to the recorder that is installed.
    pub fn new() -> Self {
        names::describe();
        Self::default()
    }
}

impl ClassMetrics {
    fn register(class: &'static str) -> Self {
        ClassMetrics {
            outcomes: Family::default(),
            statuses: Family::default(),
            bytes: counter!(names::RESPONSE_BYTES, "class" => class),
            total: histogram!(names::REQUEST_SECONDS, "class" => class),
            waiting: histogram!(names::WAITING_SECONDS, "class" => class),
            first_byte: histogram!(names::FIRST_BYTE_SECONDS, "class" => class),
        }
    }
}

impl EndpointMetrics {
    fn register(id: &EndpointId) -> Self {
        EndpointMetrics {
            picks: Family::default(),
            outcomes: Family::default(),
            seconds: histogram!(names::ATTEMPT_SECONDS, "endpoint" => id.to_string()),
        }
    }
}

impl Shared {
    fn shared_responses(&self) -> &Counter {
        self.shared_responses.get_or_init(|| counter!(names::FLIGHT_SHARED))
    }

    fn queued(&self) -> &Histogram {
        self.queued.get_or_init(|| histogram!(names::QUEUE_SECONDS))
    }

    /// Calls `count` with the metrics of an endpoint.
    fn with_endpoint(&self, id: &EndpointId, count: impl FnOnce(&EndpointMetrics)) {
        if let Some(endpoint) = self.endpoints.read().get(id) {
            return count(endpoint);
        }
        count(self.endpoints.write().entry(id.clone()).or_insert_with(|| EndpointMetrics::register(id)));
    }
}

impl Observer for Metrics {
    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Received
            | EventKind::Session
            | EventKind::Cache
            | EventKind::Shared
            | EventKind::Picked
            | EventKind::AttemptEnded
            | EventKind::Retried
            | EventKind::Finished => true,
            EventKind::Classified
            | EventKind::Queued
            | EventKind::Dispatched
            | EventKind::AttemptBegan
            | EventKind::ResponseHead => false,
        }
    }

    fn received(&self, _: &Received<'_>) {
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn session(&self, event: &SessionEvent<'_>) {
        let outcome = match event.outcome {
            SessionOutcome::Found => "found",
            SessionOutcome::NotFound => "not_found",
            SessionOutcome::Bound => "bound",
            SessionOutcome::Moved => "moved",
        };
        self.shared.sessions.get(outcome, || counter!(names::SESSIONS, "outcome" => outcome)).increment(1);
    }

    #[cfg(feature = "cache")]
    fn cache(&self, event: &super::CacheLookup<'_>) {
        let outcome = event.outcome.as_str();
        self.shared.cache_lookups.get(outcome, || counter!(names::CACHE_LOOKUPS, "outcome" => outcome)).increment(1);
    }

    fn shared(&self, _: &SharedResponse<'_>) {
        self.shared.shared_responses().increment(1);
    }

    fn picked(&self, event: &EndpointPicked<'_>) {
        let (id, reason) = (event.endpoint, event.reason.as_str());
        self.shared.with_endpoint(id, |endpoint| {
            let register = || counter!(names::PICKS, "endpoint" => id.to_string(), "reason" => reason);
            endpoint.picks.get(reason, register).increment(1);
        });
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        let id = &event.attempt.endpoint;
        let outcome = event.attempt.end.map_or("none", |end| end.as_str());
        self.shared.with_endpoint(id, |endpoint| {
            let register = || counter!(names::ATTEMPTS, "endpoint" => id.to_string(), "outcome" => outcome);
            endpoint.outcomes.get(outcome, register).increment(1);
            endpoint.seconds.record(event.attempt.total);
        });
    }

    fn retried(&self, event: &Retried<'_>) {
        let reason = event.reason.as_str();
        self.shared.retries.get(reason, || counter!(names::RETRIES, "reason" => reason)).increment(1);
        if let Some(left) = event.budget_left {
            *self.shared.retry_budget.lock() = Some(left);
        }
    }

    fn finished(&self, event: &Finished<'_>) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        let class = event.request.class().unwrap_or(NO_CLASS);
        let outcome = event.termination.as_str();
        let metrics = self.shared.classes.get(class, || ClassMetrics::register(class));
        let register = || counter!(names::REQUESTS, "class" => class, "outcome" => outcome);
        metrics.outcomes.get(outcome, register).increment(1);
        if let Some(status) = event.status {
            let status = super::event::status_class(status);
            let register = || counter!(names::RESPONSES, "class" => class, "status" => status);
            metrics.statuses.get(status, register).increment(1);
        }
        metrics.bytes.increment(event.bytes);
        metrics.total.record(event.times.total);
        metrics.waiting.record(event.times.waiting);
        if !event.times.queued.is_zero() {
            self.shared.queued().record(event.times.queued);
        }
        if let Some(first_byte) = event.times.first_byte {
            metrics.first_byte.record(first_byte);
        }
    }

    fn endpoint_changed(&self, event: &EndpointChanged<'_>) {
        let id = &event.endpoint.id;
        let (cluster, endpoint) = (event.cluster.to_owned(), id.to_string());
        let (change, found_by) = (event.change.as_str(), event.found_by.as_str());
        counter!(
            names::ENDPOINT_CHANGES,
            "cluster" => cluster, "endpoint" => endpoint, "change" => change, "found_by" => found_by
        )
        .increment(1);
        if event.change == EndpointChange::Removed {
            self.shared.endpoints.write().remove(id);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
