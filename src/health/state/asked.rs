//! Probes that a response triggers: if a node responds with 404, its applications may have ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::timeout;

use super::EndpointHealth;
use crate::health::{ProbeFailure, ProbePace};

/// The maximum wait for the result of a probe, and so the maximum delay of a 404 to a client.
///
/// A node that responded a moment ago and does not respond to a probe within this time hangs or is
/// stopping. A stopping Tomcat accepts connections that it never serves.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// The time after a failed probe, in milliseconds, during which its result is reused instead of a
/// new probe. For this time, an endpoint that is down also counts as one whose node has just
/// stopped.
const REUSE_MS: u64 = 500;

/// What a probe of a node shows after its endpoint was healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeEvidence {
    /// The node's applications have ended: it responds to the probe with 404 or 503, or accepts no
    /// connection. A stopping node closes its port soon after it has ended its applications.
    Failed,
    /// The probe fails for another reason, or has no result in time. An application may still be
    /// running.
    Unclear,
    /// The probe succeeds, or its failure would show nothing: the endpoint is not probed, its
    /// probes cannot be sent, or it was not healthy before.
    ShowsNothing,
}

impl ProbeEvidence {
    fn of(result: ProbeEnd) -> Self {
        match result {
            Some(Err(
                ProbeFailure::Status(StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE)
                | ProbeFailure::Unreachable,
            )) => ProbeEvidence::Failed,
            Some(Err(ProbeFailure::Status(_) | ProbeFailure::Body | ProbeFailure::Broken | ProbeFailure::Timeout)) => {
                ProbeEvidence::Unclear
            }
            Some(Ok(())) | None => ProbeEvidence::ShowsNothing,
        }
    }
}

/// The result of a probe; `None` if it could not be sent.
type ProbeEnd = Option<Result<(), ProbeFailure>>;

/// The probes that were started, and the result of the last one that ended.
#[derive(Debug)]
pub(super) struct ProbeCount {
    begun: AtomicU64,
    /// The number of the last probe that had no result within [`MAX_WAIT`].
    hanging: AtomicU64,
    last: watch::Sender<LastProbe>,
}

#[derive(Debug, Clone, Copy, Default)]
struct LastProbe {
    /// Counts from 1; 0 before the first.
    number: u64,
    result: ProbeEnd,
    at: u64,
}

impl Default for ProbeCount {
    fn default() -> Self {
        let last = watch::Sender::new(LastProbe::default());
        ProbeCount { begun: AtomicU64::new(0), hanging: AtomicU64::new(0), last }
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

    /// Records that the last probe has ended, after its result was recorded; `None` if it could not
    /// be sent.
    pub(crate) fn probe_ends(&self, result: ProbeEnd, now: u64) {
        self.probe_count.last.send_replace(LastProbe { number: self.probe_count.begun(), result, at: now });
    }

    /// Requests a probe of the endpoint, and returns what it shows. A probe that has already begun
    /// counts if it fails. Waits for [`MAX_WAIT`] at most, and not at all while a probe hangs.
    pub(crate) async fn ask_probe(&self, now: u64) -> ProbeEvidence {
        let count = &self.probe_count;
        let mut results = count.last.subscribe();
        let last = *results.borrow_and_update();
        if last.result.is_none() || !self.was_healthy(now) {
            return ProbeEvidence::ShowsNothing;
        }
        if last.result.is_some_and(|result| result.is_err()) && now.saturating_sub(last.at) < REUSE_MS {
            return ProbeEvidence::of(last.result);
        }
        let begun = count.begun();
        if begun > last.number && count.hanging.load(Ordering::Relaxed) == begun {
            return ProbeEvidence::Unclear;
        }
        self.want_probe(ProbePace::Asked);
        let counts = |probe: &LastProbe| {
            let is_failure = probe.number > last.number && probe.result.is_some_and(|result| result.is_err());
            probe.number > begun || is_failure
        };
        match timeout(MAX_WAIT, results.wait_for(counts)).await {
            Ok(Ok(probe)) => ProbeEvidence::of(probe.result),
            Ok(Err(_)) => ProbeEvidence::ShowsNothing,
            Err(_) => {
                let begun = count.begun();
                // A node that has responded to another probe meanwhile is merely slow.
                if count.last.borrow().number > last.number || begun == last.number {
                    return ProbeEvidence::ShowsNothing;
                }
                count.hanging.store(begun, Ordering::Relaxed);
                ProbeEvidence::Unclear
            }
        }
    }

    /// Returns whether probes found the endpoint healthy until a moment ago. Otherwise a failed
    /// probe shows nothing about a response.
    fn was_healthy(&self, now: u64) -> bool {
        let record = self.record.lock();
        let is_up = record.probes.is_up();
        let is_just_down = !record.probes.is_unproven() && now.saturating_sub(record.probes.since()) < REUSE_MS;
        record.checker.is_some() && record.good_probe > 0 && (is_up || is_just_down)
    }
}
