//! Helpers for tests of health.

use std::time::Duration;

use kylin_lb::balance::Attempted;
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::{EndpointStatus, Picked};
use kylin_lb::health::{HealthState, Reason};
use kylin_lb::{Cluster, Outcome, RequestView};

/// Picks any endpoint.
pub(crate) fn pick<B>(cluster: &Cluster<B>) -> Option<Picked<B>> {
    let request = http::Request::get("/kylin/api/projects").body(()).unwrap();
    cluster.pick(&RequestView::of(&request, std::net::IpAddr::from([192, 0, 2, 7])), &Attempted::none()).ok()
}

/// Returns the status of the endpoint called `id`.
pub(crate) fn status<B>(cluster: &Cluster<B>, id: &str) -> EndpointStatus {
    let endpoints = cluster.status().endpoints;
    endpoints.into_iter().find(|endpoint| endpoint.id.as_str() == id).expect("it is in the cluster")
}

/// Returns the health of the endpoint called `id`, and its reason.
pub(crate) fn state<B>(cluster: &Cluster<B>, id: &str) -> (HealthState, Option<Reason>) {
    let status = status(cluster, id);
    (status.health, status.reason)
}

/// Picks until the endpoint called `id` is picked, and ends that request with `outcome`. The other
/// requests have no outcome.
pub(crate) fn report<B>(cluster: &Cluster<B>, id: &str, outcome: Outcome) {
    for _ in 0..1_000 {
        let mut picked = pick(cluster).expect("an endpoint can serve");
        if picked.lease.endpoint().as_str() == id {
            picked.lease.set_outcome(outcome);
            return;
        }
    }
    panic!("{id} is not picked: {:?}", cluster.status());
}

/// Returns how many of `picks` picks fall on each endpoint, in configuration order. Each request
/// ends at once.
pub(crate) fn shares<B>(cluster: &Cluster<B>, picks: usize) -> Vec<usize> {
    let ids: Vec<_> = cluster.status().endpoints.into_iter().map(|endpoint| endpoint.id).collect();
    let mut counts = vec![0; ids.len()];
    for _ in 0..picks {
        let picked = pick(cluster).expect("an endpoint can serve");
        counts[ids.iter().position(|id| id == picked.lease.endpoint()).unwrap()] += 1;
    }
    counts
}

pub(crate) fn advance(clock: &ManualClock, seconds: f64) {
    clock.advance(Duration::from_secs_f64(seconds));
}
