//! Probes that a response asks for: a node that responds with 404 may be one whose applications have ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::EndpointHealth;
use crate::health::ProbePace;

/// The longest wait for the result of a probe. A node that responded a moment ago and does not respond to a probe within this time
/// serves no longer: a Tomcat that stops takes connections that it never serves.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// The time for which a failed probe counts for further responses, in milliseconds.
const REUSE_MS: u64 = 500;

/// The probes that began, and the result of the last one that ended.
#[derive(Debug)]
pub(super) struct ProbeCount {
    begun: AtomicU64,
    last: watch::Sender<LastProbe>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LastProbe {
    /// Counts from 1; 0 before the first.
    number: u64,
    /// None if the probe could not be made.
    is_healthy: Option<bool>,
    at: u64,
}

impl Default for ProbeCount {
    fn default() -> Self {
        ProbeCount { begun: AtomicU64::new(0), last: watch::Sender::new(LastProbe::default()) }
    }
}

impl ProbeCount {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}

impl EndpointHealth {
    /// Returns whether the endpoint has been probed.
    pub(crate) fn is_probed(&self) -> bool {
        self.probe_count.begun() > 0
    }

    /// Records that the last probe has ended, after its result was recorded; `None` if it could not be made.
    pub(crate) fn probe_ends(&self, is_healthy: Option<bool>, now: u64) {
        self.probe_count.last.send_replace(LastProbe { number: self.probe_count.begun(), is_healthy, at: now });
    }

    /// Has the endpoint probed soon, and returns whether a probe that begins from now on fails. False for an endpoint that is not
    /// probed, whose probes could not be made, or which is down already: then a probe shows nothing about the last response.
    pub(crate) async fn fails_probe(&self, now: u64) -> bool {
        let is_up = {
            let record = self.record.lock();
            record.checker.is_some() && record.probes.is_up() && record.good_probe > 0
        };
        let mut results = self.probe_count.last.subscribe();
        let last = *results.borrow_and_update();
        match last.is_healthy {
            Some(false) if is_up && now.saturating_sub(last.at) < REUSE_MS => return true,
            Some(_) if is_up => {}
            _ => return false,
        }
        let number = self.probe_count.begun() + 1;
        self.want_probe(ProbePace::Asked);
        match timeout(MAX_WAIT, results.wait_for(|last| last.number >= number)).await {
            Ok(Ok(last)) => last.is_healthy == Some(false),
            Ok(Err(_)) => false,
            Err(_) => self.probe_count.begun() >= number,
        }
    }
}
