//! The running health check. A task follows the membership and keeps one task per endpoint, which
//! probes the endpoint at an interval.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout, timeout_at};

use super::HealthCheck;
use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::background::AbortOnDrop;
use crate::clock::timer_in;
use crate::cluster::{Cluster, ClusterStatus, MembersWatch, skew};
use crate::endpoint::{AdminState, EndpointId, Live, Member};
use crate::health::{CheckerId, ProbeFailure, ProbeLevel, ProbePace, Transition};
use crate::probe::jittered;
use crate::probe::levels::{NodeLevel, NodeMemory};
use crate::probe::request::{MAX_BODY, ProbeResult, SkipReason};

/// The time until credentials that a node rejected are sent to it again.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);
/// The time between two probes that responses trigger.
const ASKED_INTERVAL: Duration = Duration::from_millis(100);

/// A running [`HealthCheck`]. Dropping it ends the probing and forgets its results, which would
/// otherwise become outdated.
#[derive(Debug)]
#[must_use = "dropping the checker ends the probing"]
pub struct HealthChecker {
    _task: AbortOnDrop,
}

pub(super) fn start<B: Backend>(check: HealthCheck, cluster: &Cluster<B>) -> HealthChecker {
    let permits = Semaphore::new(check.concurrency.min(Semaphore::MAX_PERMITS));
    let shared = Arc::new(Shared { id: CheckerId::next(), check, permits });
    let mut supervisor =
        Supervisor { shared, members: cluster.watch_members(), probed: HashMap::new(), clocks_differ: false };
    supervisor.follow_members(true);
    HealthChecker { _task: AbortOnDrop::spawn(supervisor.run()) }
}

struct Shared {
    id: CheckerId,
    check: HealthCheck,
    permits: Semaphore,
}

/// Keeps a task for each endpoint that is probed.
struct Supervisor<B> {
    shared: Arc<Shared>,
    members: MembersWatch<B>,
    /// The probed endpoints, by uid.
    probed: HashMap<u64, Probed<B>>,
    /// Whether it was logged that the clocks of the nodes differ.
    clocks_differ: bool,
}

struct Probed<B> {
    live: Arc<Live>,
    backend: Arc<B>,
    /// The address of the node.
    placement: Arc<str>,
    task: AbortOnDrop,
}

impl<B: Backend> Supervisor<B> {
    async fn run(mut self) {
        loop {
            self.follow_members(false);
            self.compare_clocks();
            // The interval restarts tasks that a panic in the application's backend has ended.
            let _ = timeout(self.shared.check.interval, self.members.changed()).await;
        }
    }

    /// Warns when the clocks of the nodes begin to differ.
    fn compare_clocks(&mut self) {
        let ahead = || self.probed.values().filter_map(|probed| probed.live.clock.ahead());
        let Some(seconds) = skew(ahead()) else { return };
        // A skew in whole seconds may vary by one.
        let least = ClusterStatus::MAX_CLOCK_SKEW - u64::from(self.clocks_differ);
        let differ = seconds > least;
        if differ != std::mem::replace(&mut self.clocks_differ, differ) {
            match differ {
                true => tracing::warn!(
                    seconds,
                    "the clocks of the nodes differ, which Kylin 5 does not allow: synchronise them (NTP)"
                ),
                false => tracing::info!("the clocks of the nodes agree"),
            }
        }
    }

    /// Starts the tasks that are missing and ends those that are no longer needed.
    fn follow_members(&mut self, at_start: bool) {
        let Shared { id, check, .. } = &*self.shared;
        let members = self.members.members();
        let is_wanted = |member: &Member| member.settings.admin_state != AdminState::Maintenance;
        self.probed.retain(|uid, Probed { live, .. }| {
            let member = members.iter().find(|(member, _)| member.live.uid == *uid);
            if member.is_none() {
                live.health.detach_checker(*id, live.now_ms());
                live.probe_level.detach(*id);
            }
            member.is_some_and(|(member, _)| is_wanted(member))
        });
        let count = members.len() as f64;
        for (index, (member, backend)) in members.into_iter().enumerate() {
            let Member { settings, live, .. } = &*member;
            let present = self.probed.get(&live.uid);
            let is_running =
                present.is_some_and(|probed| Arc::ptr_eq(&probed.backend, &backend) && !probed.task.is_finished());
            if is_running || !is_wanted(&member) {
                continue;
            }
            if present.is_none() {
                live.health.attach_checker(*id, check.wait, live.now_ms());
                live.probe_level.attach(*id);
            }
            if present.is_some_and(|probed| probed.placement != settings.placement) {
                live.probe_level.set(*id, None);
            }
            let time_limit = check.probe.own_timeout().unwrap_or(check.timeout);
            let task = ProbeTask {
                shared: Arc::clone(&self.shared),
                id: settings.id.clone(),
                client: NodeClient::new(Arc::clone(&backend), &settings.placement, time_limit).max_body(MAX_BODY),
                live: Arc::clone(live),
            };
            let spread = if at_start { index as f64 / count } else { 0.0 };
            let placement = Arc::clone(&settings.placement);
            let task = AbortOnDrop::spawn(task.run(check.fast().mul_f64(spread)));
            self.probed.insert(live.uid, Probed { live: Arc::clone(live), backend, placement, task });
        }
    }
}

impl<B> Drop for Supervisor<B> {
    fn drop(&mut self) {
        // Endpoints in maintenance have results too.
        let members = self.members.members();
        let members = members.iter().map(|(member, _)| &member.live);
        for live in members.chain(self.probed.values().map(|probed| &probed.live)) {
            live.health.detach_checker(self.shared.id, live.now_ms());
            live.probe_level.detach(self.shared.id);
        }
    }
}

/// The time of the next probe.
enum Next {
    AfterInterval,
    AfterLoginPause,
}

/// Probes one endpoint at intervals.
struct ProbeTask {
    shared: Arc<Shared>,
    id: EndpointId,
    client: NodeClient,
    live: Arc<Live>,
}

impl ProbeTask {
    async fn run(self, delay: Duration) {
        let Shared { check, permits, .. } = &*self.shared;
        let wake = &self.live.health.wake;
        let mut memory = NodeMemory { level: NodeLevel::earlier(self.live.probe_level.get()), ..NodeMemory::default() };
        sleep_until(timer_in(delay)).await;
        loop {
            let (result, took) = {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                // This probe satisfies all earlier wake-ups.
                self.live.health.probe_begins();
                let _ = pin!(wake.notified()).enable();
                let began = timer_in(Duration::ZERO);
                (check.probe.send(&self.client, &mut memory).await, began.elapsed())
            };
            self.record_level(memory.level.settled());
            // The date of a slow response is older than the time of its arrival.
            if let Some(date) = memory.last.date.take().filter(|_| took < Duration::from_secs(1)) {
                self.live.clock.set(date, self.live.unix());
            }
            let error = memory.last.error.take();
            if matches!(result, ProbeResult::Unhealthy(_)) {
                self.live.clock.clear();
                self.live.health.set_error(error.map(Arc::from), self.live.now_ms());
            }
            let next = self.record(result);
            let result = match result {
                ProbeResult::Healthy => Some(Ok(())),
                ProbeResult::Unhealthy(failure) => Some(Err(failure)),
                ProbeResult::Inconclusive(_) => None,
            };
            self.live.health.probe_ends(result, self.live.now_ms());
            match next {
                Next::AfterInterval => self.wait(took).await,
                Next::AfterLoginPause => {
                    sleep_until(timer_in(jittered(check.interval.max(LOGIN_PAUSE), check.jitter))).await;
                }
            }
        }
    }

    /// Waits until the next probe is due. A request that fails meanwhile makes it due earlier.
    /// `took` is the duration of the last probe.
    async fn wait(&self, took: Duration) {
        let check = &self.shared.check;
        let Live { health, passive, .. } = &*self.live;
        let due_after = |interval| timer_in(jittered(interval, check.jitter));
        let [normal, fast, reconnect] = [check.interval, check.fast(), check.reconnect()].map(due_after);
        let asked = timer_in(ASKED_INTERVAL);
        loop {
            let due = match health.probe_pace(passive, self.live.now_ms()) {
                ProbePace::Normal => normal,
                ProbePace::Asked => asked.min(normal),
                // If a node does not respond to connection attempts, its probes would hold the
                // permits of the others.
                ProbePace::Reconnect if took <= check.fast() => reconnect.min(normal),
                ProbePace::Fast | ProbePace::Reconnect => fast.min(normal),
            };
            if timeout_at(due, health.wake.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Records a result.
    fn record(&self, result: ProbeResult) -> Next {
        match result {
            ProbeResult::Healthy => self.observe(Ok(())),
            ProbeResult::Unhealthy(failure) => self.observe(Err(failure)),
            ProbeResult::Inconclusive(
                SkipReason::ConnectionLimit | SkipReason::Shortage | SkipReason::HeadTooLarge,
            ) => {}
            ProbeResult::Inconclusive(SkipReason::LoginUnchecked) => {
                tracing::warn!(endpoint = %self.id, "node cannot check the credentials of the probe; its health is unchanged");
                return Next::AfterLoginPause;
            }
            ProbeResult::Inconclusive(SkipReason::LoginRejected) => {
                tracing::warn!(endpoint = %self.id, "node rejected the credentials of the probe; its health is unchanged");
                return Next::AfterLoginPause;
            }
        }
        Next::AfterInterval
    }

    fn record_level(&self, level: Option<ProbeLevel>) {
        if self.live.probe_level.set(self.shared.id, level)
            && let Some(level) = level
        {
            tracing::info!(endpoint = %self.id, probe_level = %level, "probe level changed");
        }
    }

    fn observe(&self, result: Result<(), ProbeFailure>) {
        let ProbeTask { shared, id, live, .. } = self;
        let (thresholds, now) = (shared.check.thresholds, live.now_ms());
        let transition = live.health.record_probe(shared.id, thresholds, result, &live.passive, live.succeeded(), now);
        if result == Err(ProbeFailure::Unreachable) {
            live.health.drain_if_refusing(live.uid);
        }
        match (transition, result) {
            (Transition::Fell, Err(reason)) => {
                let error = live.health.last_error();
                tracing::warn!(target: "kylin_lb::state", endpoint = %id, %reason, error = error.as_deref(), "endpoint is unhealthy")
            }
            (Transition::Suspected, Err(reason)) => {
                let error = live.health.last_error();
                tracing::info!(target: "kylin_lb::state", endpoint = %id, %reason, error = error.as_deref(), "endpoint is suspect")
            }
            (Transition::Rose, _) => tracing::info!(target: "kylin_lb::state", endpoint = %id, "endpoint is healthy"),
            (Transition::Readmitted, _) => {
                tracing::info!(target: "kylin_lb::state", endpoint = %id, cause = "its probe succeeded", "endpoint readmitted")
            }
            (Transition::None | Transition::Cleared | Transition::Suspected | Transition::Fell, _) => {}
        }
    }
}
