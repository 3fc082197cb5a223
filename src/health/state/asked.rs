//! Probes that a response asks for: a node that responds with 404 may be one whose applications have ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::timeout;

use super::EndpointHealth;
use crate::health::{ProbeFailure, ProbePace};

/// The longest wait for the result of a probe, and so the longest time for which a client waits longer for a 404. A node that
/// responded a moment ago and does not respond to a probe within this time hangs, or stops: a Tomcat that stops takes connections that
/// it never serves.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// The time for which a failed probe counts for further responses, and for which the responses of an endpoint that is down are those of
/// a node that has just stopped, in milliseconds.
const REUSE_MS: u64 = 500;

/// What the probe of a node shows after its endpoint was healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedProbe {
    /// The node's applications have ended: it responds to the probe with 404 or 503, or accepts no connection any more. A node that
    /// stops closes its port soon after it has ended its applications.
    Failed,
    /// The probe fails otherwise, or has no result in time. An application may still run.
    Unclear,
    /// The probe succeeds, or there is none whose failure would show anything: the endpoint is not probed, its probes cannot be made,
    /// or it was not healthy before.
    ShowsNothing,
}

impl AskedProbe {
    fn of(result: ProbeEnd) -> Self {
        match result {
            Some(Err(
                ProbeFailure::Status(StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE)
                | ProbeFailure::Unreachable,
            )) => AskedProbe::Failed,
            Some(Err(ProbeFailure::Status(_) | ProbeFailure::Body | ProbeFailure::Broken | ProbeFailure::Timeout)) => {
                AskedProbe::Unclear
            }
            Some(Ok(())) | None => AskedProbe::ShowsNothing,
        }
    }
}

/// The result of a probe; `None` if it could not be made.
type ProbeEnd = Option<Result<(), ProbeFailure>>;

/// The probes that began, and the result of the last one that ended.
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

    /// Records that the last probe has ended, after its result was recorded; `None` if it could not be made.
    pub(crate) fn probe_ends(&self, result: ProbeEnd, now: u64) {
        self.probe_count.last.send_replace(LastProbe { number: self.probe_count.begun(), result, at: now });
    }

    /// Has the endpoint probed soon, and returns what a probe shows that begins from now on, or that fails from now on. Waits for
    /// [`MAX_WAIT`] at most, and not at all while a probe hangs.
    pub(crate) async fn ask_probe(&self, now: u64) -> AskedProbe {
        let count = &self.probe_count;
        let mut results = count.last.subscribe();
        let last = *results.borrow_and_update();
        if last.result.is_none() || !self.was_healthy(now) {
            return AskedProbe::ShowsNothing;
        }
        if last.result.is_some_and(|result| result.is_err()) && now.saturating_sub(last.at) < REUSE_MS {
            return AskedProbe::of(last.result);
        }
        let begun = count.begun();
        if begun > last.number && count.hanging.load(Ordering::Relaxed) == begun {
            return AskedProbe::Unclear;
        }
        self.want_probe(ProbePace::Asked);
        let counts = |probe: &LastProbe| {
            let is_failure = probe.number > last.number && probe.result.is_some_and(|result| result.is_err());
            probe.number > begun || is_failure
        };
        match timeout(MAX_WAIT, results.wait_for(counts)).await {
            Ok(Ok(probe)) => AskedProbe::of(probe.result),
            Ok(Err(_)) => AskedProbe::ShowsNothing,
            Err(_) => {
                let begun = count.begun();
                // A node that has responded to another probe meanwhile is slow only.
                if count.last.borrow().number > last.number || begun == last.number {
                    return AskedProbe::ShowsNothing;
                }
                count.hanging.store(begun, Ordering::Relaxed);
                AskedProbe::Unclear
            }
        }
    }

    /// Returns whether probes have found the endpoint healthy until a moment ago. Otherwise a failed one shows nothing about a response.
    fn was_healthy(&self, now: u64) -> bool {
        let record = self.record.lock();
        let is_up = record.probes.is_up();
        let is_just_down = !record.probes.is_unproven() && now.saturating_sub(record.probes.since()) < REUSE_MS;
        record.checker.is_some() && record.good_probe > 0 && (is_up || is_just_down)
    }
}
