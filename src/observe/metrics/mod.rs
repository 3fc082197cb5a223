mod family;
mod names;
mod record;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ahash::AHashMap;
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::Mutex;

use self::family::Family;
use self::record::Recorded;
use super::{
    AttemptEnded, EndpointChange, EndpointChanged, EndpointPicked, Finished, Observer, Received, Retried, SessionEvent,
    SessionOutcome,
};
use crate::endpoint::EndpointId;

/// Counts requests, attempts and endpoints with the [`metrics`](::metrics) facade. The application installs the recorder that
/// exports them before it creates a `Metrics`. Clones share their state.
///
/// As an [`Observer`] of a proxy it counts requests; as the observer of a [`Watch`](super::Watch) it counts changes of endpoints.
/// The gauges show the state when one of the `record_*` methods was last called: an exporter calls them before it reads. A gauge
/// of a removed endpoint keeps its value, so configure the exporter to drop gauges that are no longer set.
///
/// The guide has [the table of all names](crate::docs::operations#metrics). Labels are bounded: a class, an outcome and a reason come
/// from fixed sets, and an `endpoint` is the id of a member. No label holds a path, a user or a client.
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
    classes: Family<&'static str, ClassMetrics>,
    endpoints: Family<EndpointId, EndpointMetrics>,
    retries: Family<&'static str, Counter>,
    sessions: Family<&'static str, Counter>,
    #[cfg(feature = "cache")]
    cache_lookups: Family<&'static str, Counter>,
    /// The retries that the budget allowed after the last retry.
    retry_budget: Mutex<Option<u32>>,
    /// The last values of the gauges, so that those that no longer apply can be set to 0.
    recorded: Mutex<AHashMap<(String, String), Recorded>>,
}

/// The metrics of the requests of one class.
struct ClassMetrics {
    outcomes: Family<&'static str, Counter>,
    statuses: Family<&'static str, Counter>,
    bytes: Counter,
    total: Histogram,
    waiting: Histogram,
    first_byte: Histogram,
}

/// The metrics of the attempts at one endpoint.
#[derive(Default)]
struct EndpointMetrics {
    picks: Family<&'static str, Counter>,
    outcomes: Family<&'static str, (Counter, Histogram)>,
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

impl Observer for Metrics {
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
        let register = || counter!(names::SESSIONS, "outcome" => outcome);
        self.shared.sessions.with(&outcome, register, |counter| counter.increment(1));
    }

    #[cfg(feature = "cache")]
    fn cache(&self, event: &super::CacheLookup<'_>) {
        let outcome = event.outcome.as_str();
        let register = || counter!(names::CACHE_LOOKUPS, "outcome" => outcome);
        self.shared.cache_lookups.with(&outcome, register, |counter| counter.increment(1));
    }

    fn picked(&self, event: &EndpointPicked<'_>) {
        let (id, reason) = (event.endpoint, event.reason.as_str());
        self.shared.endpoints.with(id, EndpointMetrics::default, |endpoint| {
            let register = || counter!(names::PICKS, "endpoint" => id.to_string(), "reason" => reason);
            endpoint.picks.with(&reason, register, |counter| counter.increment(1));
        });
    }

    fn attempt_ended(&self, event: &AttemptEnded<'_>) {
        let attempt = event.attempt;
        let outcome = attempt.end.map_or("none", |end| end.as_str());
        self.shared.endpoints.with(&attempt.endpoint, EndpointMetrics::default, |endpoint| {
            let register = || {
                let id = attempt.endpoint.to_string();
                let counter = counter!(names::ATTEMPTS, "endpoint" => id.clone(), "outcome" => outcome);
                (counter, histogram!(names::ATTEMPT_SECONDS, "endpoint" => id))
            };
            endpoint.outcomes.with(&outcome, register, |(counter, seconds)| {
                counter.increment(1);
                seconds.record(attempt.total);
            });
        });
    }

    fn retried(&self, event: &Retried<'_>) {
        let reason = event.reason.as_str();
        let register = || counter!(names::RETRIES, "reason" => reason);
        self.shared.retries.with(&reason, register, |counter| counter.increment(1));
        if let Some(left) = event.budget_left {
            *self.shared.retry_budget.lock() = Some(left);
        }
    }

    fn finished(&self, event: &Finished<'_>) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        let class = event.request.class().unwrap_or(NO_CLASS);
        let outcome = event.termination.as_str();
        self.shared.classes.with(
            &class,
            || ClassMetrics::register(class),
            |metrics| {
                let register = || counter!(names::REQUESTS, "class" => class, "outcome" => outcome);
                metrics.outcomes.with(&outcome, register, |counter| counter.increment(1));
                if let Some(status) = event.status {
                    let status = super::event::status_class(status);
                    let register = || counter!(names::RESPONSES, "class" => class, "status" => status);
                    metrics.statuses.with(&status, register, |counter| counter.increment(1));
                }
                metrics.bytes.increment(event.bytes);
                metrics.total.record(event.times.total);
                metrics.waiting.record(event.times.waiting);
                if let Some(first_byte) = event.times.first_byte {
                    metrics.first_byte.record(first_byte);
                }
            },
        );
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
            self.shared.endpoints.remove(id);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
