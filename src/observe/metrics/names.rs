//! The names and descriptions of all metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(super) const REQUESTS: &str = "kylin_lb_requests_total";
pub(super) const RESPONSES: &str = "kylin_lb_responses_total";
pub(super) const RESPONSE_BYTES: &str = "kylin_lb_response_bytes_total";
pub(super) const REQUEST_SECONDS: &str = "kylin_lb_request_duration_seconds";
pub(super) const WAITING_SECONDS: &str = "kylin_lb_request_waiting_seconds";
pub(super) const FIRST_BYTE_SECONDS: &str = "kylin_lb_request_first_byte_seconds";
pub(super) const REQUESTS_IN_FLIGHT: &str = "kylin_lb_requests_in_flight";
pub(super) const PICKS: &str = "kylin_lb_picks_total";
pub(super) const ATTEMPTS: &str = "kylin_lb_attempts_total";
pub(super) const ATTEMPT_SECONDS: &str = "kylin_lb_attempt_duration_seconds";
pub(super) const RETRIES: &str = "kylin_lb_retries_total";
pub(super) const RETRY_BUDGET: &str = "kylin_lb_retry_budget_left";
pub(super) const SESSIONS: &str = "kylin_lb_sessions_total";
pub(super) const ENDPOINT_CHANGES: &str = "kylin_lb_endpoint_changes_total";
pub(super) const ENDPOINT_UP: &str = "kylin_lb_endpoint_up";
pub(super) const ENDPOINT_STATE: &str = "kylin_lb_endpoint_state";
pub(super) const ENDPOINT_SINCE: &str = "kylin_lb_endpoint_health_changed_timestamp_seconds";
pub(super) const ENDPOINT_IN_FLIGHT: &str = "kylin_lb_endpoint_requests_in_flight";
pub(super) const ENDPOINT_WAITING: &str = "kylin_lb_endpoint_requests_waiting";
pub(super) const ENDPOINT_SHARE: &str = "kylin_lb_endpoint_weight_share";
pub(super) const CLUSTER_ENDPOINTS: &str = "kylin_lb_cluster_endpoints";
pub(super) const CLUSTER_ENDPOINTS_UP: &str = "kylin_lb_cluster_endpoints_up";
pub(super) const CLUSTER_PANICKING: &str = "kylin_lb_cluster_panicking";
pub(super) const SHORTAGES: &str = "kylin_lb_shortages_total";
pub(super) const STORE_UP: &str = "kylin_lb_session_store_up";
pub(super) const STORE_PENDING: &str = "kylin_lb_session_store_pending_writes";
pub(super) const SESSION_ENTRIES: &str = "kylin_lb_session_entries";
pub(super) const DISCOVERY_UP: &str = "kylin_lb_discovery_up";
pub(super) const DISCOVERY_STATE: &str = "kylin_lb_discovery_state";
pub(super) const DISCOVERY_ENDPOINTS: &str = "kylin_lb_discovery_endpoints";
pub(super) const DISCOVERY_REJECTED: &str = "kylin_lb_discovery_rejected_nodes";
pub(super) const BUFFER_BYTES: &str = "kylin_lb_buffer_bytes";
pub(super) const BUFFER_LIMIT: &str = "kylin_lb_buffer_limit_bytes";
pub(super) const BUFFER_WAITING: &str = "kylin_lb_buffer_waiting_bodies";
pub(super) const BUFFER_REFUSED: &str = "kylin_lb_buffer_refused_total";
pub(super) const LOG_LINES_LOST: &str = "kylin_lb_log_lines_lost_total";
pub(super) const CACHE_LOOKUPS: &str = "kylin_lb_cache_lookups_total";
pub(super) const CACHE_UP: &str = "kylin_lb_cache_up";
pub(super) const CACHE_ENTRIES: &str = "kylin_lb_cache_entries";
pub(super) const CACHE_BYTES: &str = "kylin_lb_cache_bytes";
pub(super) const FLIGHT_SHARED: &str = "kylin_lb_single_flight_shared_total";
pub(super) const FLIGHT_LEADERS: &str = "kylin_lb_single_flight_leaders";
pub(super) const FLIGHT_FOLLOWERS: &str = "kylin_lb_single_flight_followers";
pub(super) const QUEUE_SECONDS: &str = "kylin_lb_queue_duration_seconds";
pub(super) const REFUSED: &str = "kylin_lb_server_refused_total";
pub(super) const CONNECTIONS: &str = "kylin_lb_client_connections";

const COUNTERS: [(&str, &str); 14] = [
    (REQUESTS, "Requests that have ended, by their outcome."),
    (RESPONSES, "Responses to clients, by the class of their status."),
    (RESPONSE_BYTES, "Bytes of response bodies that clients took."),
    (PICKS, "Picks of an endpoint, by the reason."),
    (ATTEMPTS, "Attempts at an endpoint, by their outcome."),
    (RETRIES, "Requests that were sent again, by the reason."),
    (SESSIONS, "Sessions of requests, by the outcome of the lookup."),
    (ENDPOINT_CHANGES, "Changes of the state of an endpoint, by the source of the change."),
    (SHORTAGES, "How often this process was short of descriptors, ports or memory for a connection."),
    (BUFFER_REFUSED, "How often the memory budget had no bytes for a head, a body or a cached result."),
    (CACHE_LOOKUPS, "Queries that were looked up in a result cache, by the result."),
    (FLIGHT_SHARED, "Queries that got a copy of the response to an identical one."),
    (REFUSED, "Requests and connections that the server refused before a handler got them, by the reason."),
    (LOG_LINES_LOST, "Lines that a log of requests could not take."),
];

const HISTOGRAMS: [(&str, &str); 5] = [
    (REQUEST_SECONDS, "Time from the head of a request to the end of its response."),
    (WAITING_SECONDS, "Time from the head of a request to its first attempt."),
    (QUEUE_SECONDS, "Time that a query waited for slots of endpoints; only of queries that waited."),
    (FIRST_BYTE_SECONDS, "Time from the head of a request to the head of its response."),
    (ATTEMPT_SECONDS, "Time of an attempt at an endpoint, from its begin to its end."),
];

const GAUGES: [(&str, &str); 27] = [
    (REQUESTS_IN_FLIGHT, "Requests that have arrived and not ended."),
    (RETRY_BUDGET, "Retries that the budget still allowed after the last retry; missing before the first."),
    (ENDPOINT_UP, "Whether an endpoint is ready, and healthy or suspect."),
    (ENDPOINT_STATE, "1 for the administrative state and the health that an endpoint has, and for the reason."),
    (ENDPOINT_SINCE, "Unix time at which an endpoint entered its state of health."),
    (ENDPOINT_IN_FLIGHT, "Requests in flight on an endpoint."),
    (ENDPOINT_WAITING, "Queries that wait for a slot of an endpoint."),
    (
        ENDPOINT_SHARE,
        "What an endpoint has of its weight, from 0 to 1: less during a slow start, and while its node refuses connections or is slow.",
    ),
    (CLUSTER_ENDPOINTS, "Endpoints of a cluster."),
    (
        CLUSTER_ENDPOINTS_UP,
        "Endpoints of a cluster that are ready, and healthy or suspect. At 0, panic mode tries those that failed, or clients are refused.",
    ),
    (CLUSTER_PANICKING, "Whether endpoints serve although health keeps requests from all of them."),
    (STORE_UP, "Whether a session store is available."),
    (STORE_PENDING, "Writes that wait until a session store is available again."),
    (SESSION_ENTRIES, "Sessions in the memory of this process."),
    (DISCOVERY_UP, "Whether a source of nodes works."),
    (DISCOVERY_STATE, "1 for the state that a source of nodes has."),
    (DISCOVERY_ENDPOINTS, "Endpoints that come from a source of nodes."),
    (DISCOVERY_REJECTED, "Nodes of a source that became no endpoint."),
    (BUFFER_BYTES, "Bytes of heads, bodies and cached results that the memory budget has reserved."),
    (BUFFER_LIMIT, "Maximum of these bytes."),
    (BUFFER_WAITING, "Request bodies that wait for bytes of the memory budget."),
    (CACHE_UP, "Whether a result cache can follow builds, without which it stores nothing."),
    (CACHE_ENTRIES, "Results in a result cache."),
    (CACHE_BYTES, "Bytes of the results in a result cache."),
    (FLIGHT_LEADERS, "Queries in flight whose response identical queries would get too."),
    (FLIGHT_FOLLOWERS, "Queries that wait for the response to an identical one."),
    (CONNECTIONS, "Open connections of clients."),
];

/// Describes all metrics to the recorder that is installed.
pub(super) fn describe() {
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(name, Unit::Seconds, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_in_the_table_of_the_guide() {
        let guide = include_str!("../../docs/operations.md");
        for (names, kind) in [(&COUNTERS[..], "counter"), (&HISTOGRAMS[..], "histogram"), (&GAUGES[..], "gauge")] {
            for (name, _) in names {
                assert!(guide.contains(&format!("| `{name}` | {kind} |")), "{name} as a {kind}");
            }
        }
        let rows = guide.lines().filter(|line| line.starts_with("| `kylin_lb_")).count();
        assert_eq!(rows, COUNTERS.len() + HISTOGRAMS.len() + GAUGES.len());
    }
}
